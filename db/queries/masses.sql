-- masses.sql: a hundred thousand contacts and what they have written, for `bobbin seed --contacts`.
-- Writes users; by COPY users, threads, thread_heads, contacts, conversations, memberships, messages, changes, whose
-- triggers count and label, and search_blocks, search_grams; search_place. All of it in one transaction: broken off, nothing is there.

-- name: there :one
-- What there is of contacts: masses (of an earlier run), strangers (contacts of others than the demo town), and whether
-- nobody has ever said anything (empty).
-- params:
-- cli:    bobbin seed --contacts
-- plan:   any: once per command; the contacts, which are few where it goes on
SELECT count(*) FILTER (WHERE external_id LIKE 'seed-%') AS masses,
    count(*) FILTER (WHERE external_id IS NULL OR external_id NOT LIKE ALL ('{seed-%,demo-%}')) AS strangers,
    NOT EXISTS (SELECT FROM messages) AND NOT EXISTS (SELECT FROM changes) AS empty
FROM contacts
WHERE deleted_at IS NULL;

-- name: staff :many
-- Who may answer contacts, of those who were here before.
-- params:
-- cli:    bobbin seed --contacts
-- plan:   users_staff; at most 20 rows
SELECT id
FROM users
WHERE role <> 'member' AND deactivated_at IS NULL AND kind = 'user' AND coalesce(external_id, '') NOT LIKE 'seed:%'
ORDER BY id
LIMIT 20;

-- name: make_agents :many
-- More agents, who do not sign in.
-- params: external_ids, names, created_at
-- cli:    bobbin seed --contacts
-- plan:   users_external_id_key
-- locks:  their rows
INSERT INTO users (external_id, name, role, created_at)
SELECT external_id, name, 'agent', :created_at
FROM unnest(:external_ids::text[], :names::text[]) AS new (external_id, name)
ON CONFLICT (external_id) DO UPDATE SET name = excluded.name
RETURNING id, external_id;

-- name: reserve :one
-- So many ids of users and of threads, one after the other if nobody else took one meanwhile: the first of each (low),
-- and the last.
-- params: size
-- cli:    bobbin seed --contacts
-- plan:   none
SELECT min(user_id) AS low_user, max(user_id) AS high_user, min(thread_id) AS low_thread, max(thread_id) AS high_thread
FROM (
    SELECT nextval(pg_get_serial_sequence('users', 'id')) AS user_id,
        nextval(pg_get_serial_sequence('threads', 'id')) AS thread_id
    FROM generate_series(1, :size::int)) taken;

-- name: indexes :many
-- The indexes of some tables, and others by name: how each is taken away and made again. Not those that a foreign key
-- stands on.
-- params: names (of tables), others (of indexes)
-- cli:    bobbin seed --contacts
-- plan:   none
SELECT x.indrelid::regclass::text AS of, x.indexrelid::regclass::text AS index,
    CASE WHEN c.oid IS NULL THEN format('DROP INDEX %s', x.indexrelid::regclass)
        ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', x.indrelid::regclass, c.conname) END AS take,
    CASE WHEN c.oid IS NULL THEN pg_get_indexdef(x.indexrelid) || coalesce((
            SELECT string_agg(format('; ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', a.attrelid::regclass, attnum, attstattarget), '')
            FROM pg_attribute a WHERE a.attrelid = x.indexrelid AND a.attstattarget >= 0), '')
        ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', x.indrelid::regclass, c.conname, pg_get_constraintdef(c.oid)) END AS make
FROM pg_index x
LEFT JOIN pg_constraint c ON c.conindid = x.indexrelid AND c.contype IN ('p', 'u')
WHERE (x.indrelid = ANY(:names::text[]::regclass[]) OR x.indexrelid = ANY(:others::text[]::regclass[]))
    AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.conindid = x.indexrelid AND f.contype = 'f')
ORDER BY x.indexrelid;

-- name: hold_search :exec
-- The indexer waits until we are done (see indexer.hold).
-- params:
-- cli:    bobbin seed --contacts
-- plan:   any: its one row
-- locks:  search_place, as long as the transaction
SELECT FROM search_place WHERE one FOR UPDATE;

-- name: said :many
-- What was said before, in order, as grams.blocks_of takes it.
-- params: size (at most so many)
-- cli:    bobbin seed --contacts
-- plan:   any: once per command; all messages, or so many of them
SELECT (extract(epoch FROM m.created_at) * 1000000)::bigint AS at, m.thread_id, m.seq, m.author_id, m.text,
    t.kind = 'contact' AS inbox
FROM (SELECT * FROM messages WHERE deleted_at IS NULL LIMIT :size) m
JOIN threads t ON t.id = m.thread_id
ORDER BY 1, 2, 3;

-- name: seen :one
-- The place of an indexer that has seen whatever is committed now, and what this transaction does (see indexer.sql): of the
-- others what was under way then, and all that came later, is still to be seen.
-- params:
-- cli:    bobbin seed --contacts
-- plan:   none
WITH now AS (
    SELECT pg_snapshot_xmax(s)::text::bigint AS after, pg_current_xact_id()::text::bigint AS own, s
    FROM pg_current_snapshot() s
), open AS (
    SELECT x::text::bigint AS xid FROM now, pg_snapshot_xip(now.s) x
    UNION
    SELECT generate_series(now.after, now.own - 1) FROM now
    EXCEPT
    SELECT own FROM now
)
SELECT coalesce((SELECT min(xid) FROM open), greatest(after, own + 1)) || ':' || greatest(after, own + 1) || ':'
    || coalesce((SELECT string_agg(xid::text, ',' ORDER BY xid) FROM open), '') AS place
FROM now;

-- name: show :exec
-- Into the inbox, once the messages are there: these conversations (as JSON, by the columns of the table) with what is shown
-- of their latest messages. Once, for each of these rows is made as JSON for the list, and has its place in four indexes.
-- params: lines (texts, each an object)
-- cli:    bobbin seed
-- plan:   messages_pkey; a message for each row
-- locks:  the new rows
INSERT INTO conversations (thread_id, contact_id, name, phone_number, created_at, last_at, last_seq, status, snoozed_until,
    assignee_id, labels, last_author_id, content)
SELECT n.thread_id, n.contact_id, n.name, n.phone_number, n.created_at, n.last_at, n.last_seq, n.status, n.snoozed_until,
    n.assignee_id, n.labels, m.author_id, coalesce(left(m.text, 200), '')
FROM unnest(:lines::text[]) AS line
CROSS JOIN LATERAL json_populate_record(NULL::conversations, line::json) n
LEFT JOIN LATERAL (
    SELECT author_id, text FROM messages WHERE thread_id = n.thread_id AND seq = n.last_seq OFFSET 0) m ON true;

-- name: move_search :exec
-- All of it is in search_blocks. Their ids go on after the last.
-- params: place (pg_snapshot, as text)
-- cli:    bobbin seed --contacts
-- plan:   any: its one row
-- locks:  search_place, already held
UPDATE search_place
SET place = :place::text, moved_at = clock_timestamp(),
    one = setval(pg_get_serial_sequence('search_blocks', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM search_blocks)) > 0
WHERE one;

-- name: sizes :many
-- How large tables have become, with their indexes and long values, the largest first.
-- params: names (of tables)
-- cli:    bobbin seed --contacts
-- plan:   none
SELECT name, pg_total_relation_size(name::regclass) AS bytes, pg_indexes_size(name::regclass) AS of_indexes
FROM unnest(:names::text[]) name
ORDER BY bytes DESC;
