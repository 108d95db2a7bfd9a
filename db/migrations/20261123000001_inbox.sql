-- migrate:up

-- The inbox: contacts, each with a thread that needs no membership, and the list of conversations.
-- Stop all servers of the older version first: they would give contact threads to nobody, and lists that miss them.
-- Locks: users, threads and thread_heads for as long as it takes to rewrite threads (it is short: a row for each thread),
-- to read each of them once and to build an index of users.

DROP VIEW my_threads, sights, doors, open_channels;

-- A contact is an account that nobody can use: it writes messages, and whatever asks for active people passes it by.
-- Its id is that of its row in contacts. staff_since: when somebody became agent or admin; null: with the account.
-- staff_xid: the transaction in which they last became one, or ceased to be: before it they saw other threads.
ALTER TABLE users
    DROP CONSTRAINT users_kind,
    ADD CONSTRAINT users_kind CHECK (kind IN ('user', 'bot', 'contact')),
    ADD CONSTRAINT users_contact CHECK (kind <> 'contact' OR (deactivated_at IS NOT NULL AND role = 'member'
        AND num_nonnulls(email, username, password_hash, external_id) = 0)),
    ADD staff_since timestamptz,
    ADD staff_xid xid8 NOT NULL DEFAULT '0';
DROP INDEX users_deactivated;
CREATE INDEX users_deactivated ON users (id) WHERE deactivated_at IS NOT NULL AND kind <> 'contact';  -- admin.places
CREATE INDEX users_people ON users (id) WHERE kind <> 'contact';  -- the list of accounts (server/admin.py)

ALTER TABLE threads
    DROP CONSTRAINT threads_kind,
    DROP COLUMN history,
    ADD CONSTRAINT threads_kind CHECK (kind IN ('direct', 'group', 'channel', 'contact')),
    ADD COLUMN history text NOT NULL GENERATED ALWAYS AS (
        CASE WHEN kind IN ('channel', 'contact') THEN 'all' ELSE 'joined' END) STORED;

-- Messages up to archived_seq are no longer in the table of messages (bobbin archive).
ALTER TABLE thread_heads
    ADD archived_seq bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT thread_heads_archived CHECK (archived_seq BETWEEN 0 AND last_seq);

-- name is also that of the account, and the title of the thread; contacts.sql writes all three. Gone: deleted_at is set.
CREATE TABLE contacts (
    id           bigint NOT NULL CONSTRAINT contacts_pkey PRIMARY KEY CONSTRAINT contacts_id_fkey REFERENCES users (id),
    thread_id    bigint NOT NULL CONSTRAINT contacts_thread_id_key UNIQUE
                 CONSTRAINT contacts_thread_id_fkey REFERENCES threads (id),
    name         text NOT NULL,
    phone_number text CONSTRAINT contacts_phone_number CHECK (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
    email        text,
    external_id  text,
    notes        text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at   timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02);  -- see contacts_by_name
CREATE UNIQUE INDEX contacts_phone_number_key ON contacts (phone_number) WHERE deleted_at IS NULL;  -- inbox.by_phone
CREATE UNIQUE INDEX contacts_external_id_key ON contacts (external_id) WHERE deleted_at IS NULL;  -- contacts.create
-- With the name itself: only so can pages be counted off without a look at the rows, of which vacuum says that all see them.
CREATE INDEX contacts_by_name ON contacts (lower(name), id) INCLUDE (name) WHERE deleted_at IS NULL;  -- contacts.page
CREATE INDEX contacts_unnumbered ON contacts (lower(name), lower(coalesce(email, '')), id)
    WHERE phone_number IS NULL AND external_id IS NULL AND deleted_at IS NULL;  -- contacts.matches

-- What a contact can be found by, in small letters, with one sigma for both; and all runs of three characters of it, each
-- character followed by an end, so that one or two of them begin a run, too. That one is indexed, and uses nothing of ours.
CREATE FUNCTION contact_fold(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT translate(lower(said), 'ς', 'σ') $$;
CREATE FUNCTION contact_text(name text, phone_number text, email text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT contact_fold(name || E'\n' || coalesce(phone_number, '') || E'\n' || coalesce(email, '')) $$;
CREATE FUNCTION contact_grams(name text, phone_number text, email text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT array_to_tsvector(ARRAY(
       SELECT DISTINCT substr(said.text, n, 3) FROM generate_series(1, length(said.text) - 1) n))
   FROM (SELECT translate(lower(name || E'\n' || coalesce(phone_number, '') || E'\n' || coalesce(email, '') || E'\n\n'),
             'ς', 'σ') AS text) said $$;
-- The runs that are in whatever has the needle in it.
CREATE FUNCTION contact_needle(needle text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT string_agg(DISTINCT '''' || replace(replace(substr(folded.needle, n, 3), '\', '\\'), '''', '''''') || ''''
           || CASE WHEN length(folded.needle) < 3 THEN ':*' ELSE '' END, ' & ')::tsquery
   FROM (SELECT contact_fold(needle) AS needle) folded, generate_series(1, greatest(1, length(folded.needle) - 2)) n $$;
-- Without a list of pending entries, which every search would read, and one writer in many would have to clear.
CREATE INDEX contacts_by_part ON contacts USING gin (contact_grams(name, phone_number, email)) WITH (fastupdate = off)
    WHERE deleted_at IS NULL;

CREATE FUNCTION contact_json(c contacts) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || c.id || ',"threadId":' || c.thread_id || ',"name":' || to_json(c.name)::text
    || ',"phoneNumber":' || coalesce(to_json(c.phone_number)::text, 'null')
    || ',"email":' || coalesce(to_json(c.email)::text, 'null')
    || ',"externalId":' || coalesce(to_json(c.external_id)::text, 'null') || ',"notes":' || to_json(c.notes)::text
    || ',"createdAt":' || time_json(c.created_at) || ',"updatedAt":' || time_json(c.updated_at) || '}' $$;

-- The narrow part of a contact thread that each message changes, so that what is in order of it needs no index on
-- thread_heads. last_at: of the latest message; null while there is none (or the contact is gone), and then it is in no list.
CREATE TABLE conversations (
    thread_id     bigint NOT NULL CONSTRAINT conversations_pkey PRIMARY KEY
                  CONSTRAINT conversations_thread_id_fkey REFERENCES threads (id),
    contact_id    bigint NOT NULL CONSTRAINT conversations_contact_id_fkey REFERENCES contacts (id),
    last_at       timestamptz,
    status        text NOT NULL DEFAULT 'open' CONSTRAINT conversations_status CHECK (status IN ('open', 'snoozed', 'closed')),
    snoozed_until timestamptz,
    assignee_id   bigint CONSTRAINT conversations_assignee_id_fkey REFERENCES users (id),
    CONSTRAINT conversations_snoozed_until CHECK ((status = 'snoozed') = (snoozed_until IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX conversations_latest ON conversations (last_at, thread_id) WHERE last_at IS NOT NULL;  -- inbox.page
CREATE INDEX conversations_by_status ON conversations (status, last_at, thread_id) WHERE last_at IS NOT NULL;  -- inbox filters
CREATE INDEX conversations_by_assignee ON conversations (assignee_id, last_at, thread_id)
    WHERE assignee_id IS NOT NULL AND last_at IS NOT NULL;  -- inbox filters
CREATE INDEX conversations_snoozed ON conversations (snoozed_until) WHERE status = 'snoozed';  -- inbox.wake

CREATE TABLE conversation_labels (
    thread_id bigint NOT NULL CONSTRAINT conversation_labels_thread_id_fkey REFERENCES conversations (thread_id),
    label     text NOT NULL,
    CONSTRAINT conversation_labels_pkey PRIMARY KEY (thread_id, label)
);
CREATE INDEX conversation_labels_by_label ON conversation_labels (label, thread_id);  -- inbox filters

-- What a gateway has handed in, by its own id: once, whoever the contact is by now.
CREATE TABLE inbound_ids (
    bot_id      bigint NOT NULL,
    external_id text NOT NULL,
    thread_id   bigint NOT NULL,
    seq         bigint NOT NULL,
    body_hash   bytea NOT NULL CONSTRAINT inbound_ids_hash CHECK (octet_length(body_hash) = 32),
    CONSTRAINT inbound_ids_pkey PRIMARY KEY (bot_id, external_id)
);

-- How many there are, kept by triggers in the transactions that change it: 'contacts'; 'conversations' (with a message),
-- and of these by status. The sum over the shards counts; a backend has one, so that few wait for each other.
CREATE TABLE tallies (
    name  text NOT NULL,
    shard smallint NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT tallies_pkey PRIMARY KEY (name, shard)
-- Few rows, changed all the time: vacuumed whenever there is something to gain.
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

CREATE FUNCTION tally(what text, more bigint) RETURNS void LANGUAGE sql AS
$$ INSERT INTO tallies AS t (name, shard, count) VALUES (what, pg_backend_pid() % 16, more)
   ON CONFLICT (name, shard) DO UPDATE SET count = t.count + excluded.count $$;

CREATE FUNCTION contacts_tally() RETURNS trigger LANGUAGE plpgsql AS
$$ DECLARE more bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT count(*) INTO more FROM new_rows WHERE deleted_at IS NULL;
    ELSE
        SELECT (SELECT count(*) FROM new_rows WHERE deleted_at IS NULL) - (SELECT count(*) FROM old_rows WHERE deleted_at IS NULL)
        INTO more;
    END IF;
    IF more <> 0 THEN
        PERFORM tally('contacts', more);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER contacts_added AFTER INSERT ON contacts REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION contacts_tally();
CREATE TRIGGER contacts_changed AFTER UPDATE ON contacts REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION contacts_tally();

-- Row by row, with a condition: most messages change neither.
CREATE FUNCTION conversations_tally() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF TG_OP <> 'INSERT' AND OLD.last_at IS NOT NULL THEN
        PERFORM tally('conversations', -1), tally(OLD.status, -1);
    END IF;
    IF NEW.last_at IS NOT NULL THEN
        PERFORM tally('conversations', 1), tally(NEW.status, 1);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER conversations_added AFTER INSERT ON conversations FOR EACH ROW
    WHEN (NEW.last_at IS NOT NULL) EXECUTE FUNCTION conversations_tally();
CREATE TRIGGER conversations_changed AFTER UPDATE ON conversations FOR EACH ROW
    WHEN (OLD.status <> NEW.status OR (OLD.last_at IS NULL) <> (NEW.last_at IS NULL)) EXECUTE FUNCTION conversations_tally();

-- What is particular to a contact thread, as part of a thread.
CREATE FUNCTION conversation_json(n conversations) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || n.contact_id || ',"phoneNumber":' || coalesce(to_json(c.phone_number)::text, 'null')
    || ',"status":"' || n.status || '","snoozedUntil":' || coalesce(time_json(n.snoozed_until), 'null')
    || ',"assigneeId":' || coalesce(n.assignee_id::text, 'null')
    || ',"labels":' || coalesce((
        SELECT json_agg(l.label ORDER BY l.label)::text FROM conversation_labels l WHERE l.thread_id = n.thread_id), '[]') || '}'
   FROM contacts c WHERE c.id = n.contact_id $$;

-- The last seq before a moment, by halving: createdAt never decreases with seq.
CREATE FUNCTION seq_before(thread bigint, moment timestamptz, first_seq bigint, last_seq bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ WITH RECURSIVE halves AS (
       SELECT first_seq AS low, last_seq + 1 AS high
       UNION ALL
       SELECT CASE WHEN m.created_at < moment THEN m.seq + 1 ELSE h.low END,
           CASE WHEN m.created_at < moment THEN h.high ELSE m.seq END
       FROM halves h
       CROSS JOIN LATERAL (
           SELECT seq, created_at FROM messages WHERE thread_id = thread AND seq = (h.low + h.high) / 2 OFFSET 0) m
       WHERE h.low < h.high
   )
   SELECT h.low - 1 FROM halves h WHERE h.low = h.high $$;

-- Up to where one of the staff who has not been in a contact thread has read it: a thread that is not older than their time
-- on the staff (since) not at all, of another one what was said before that.
CREATE FUNCTION read_before(
    thread bigint, since timestamptz, created_at timestamptz, last_at timestamptz, archived_seq bigint, last_seq bigint
) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN since <= created_at THEN 0
       WHEN last_seq = 0 OR since > last_at THEN last_seq
       ELSE seq_before(thread, since, archived_seq + 1, last_seq) END $$;

-- The threads of which somebody is a member, and with them the contact threads in which a person of the staff has read,
-- written or set something: a membership in a contact thread exists only while its person is of the staff (or is the
-- contact), see members.sql.
CREATE VIEW own_doors WITH (security_invoker) AS
SELECT m.user_id, m.thread_id, m.role, m.joined_rev, m.joined_seq, greatest(m.read_seq, h.archived_seq) AS read_seq,
       t.kind, t.history, t.title, t.created_at,
       h.last_seq, h.last_rev, h.log_floor, h.message_count, h.last_deleted_seq, h.last_message_at,
       m.muted, m.archived, m.notify, m.seen_seq, m.delivered_seq, m.changed_xid, h.last_xid, h.member_count, h.archived_seq
FROM memberships m
JOIN threads t ON t.id = m.thread_id
JOIN thread_heads h ON h.thread_id = m.thread_id
WHERE m.left_rev IS NULL AND h.deleted_at IS NULL;

-- The threads that somebody may enter: these, and for the staff all other contact threads. There everything is read that
-- was said before somebody came to the staff.
CREATE VIEW doors WITH (security_invoker) AS
SELECT * FROM own_doors
UNION ALL
SELECT u.id, t.id, 'moderator', 0, 0, greatest(h.archived_seq, read_before(
           t.id, coalesce(u.staff_since, u.created_at), t.created_at, h.last_message_at, h.archived_seq, h.last_seq)),
       t.kind, t.history, t.title, t.created_at,
       h.last_seq, h.last_rev, h.log_floor, h.message_count, h.last_deleted_seq, h.last_message_at,
       false, false, 'all', 0, 0, '0'::xid8, h.last_xid, h.member_count, h.archived_seq
FROM users u
JOIN threads t ON t.kind = 'contact'
JOIN thread_heads h ON h.thread_id = t.id
WHERE u.role <> 'member' AND u.deactivated_at IS NULL AND h.deleted_at IS NULL
    AND NOT EXISTS (
        SELECT FROM memberships m WHERE m.thread_id = t.id AND m.user_id = u.id AND m.left_rev IS NULL);

CREATE VIEW sights WITH (security_invoker) AS
SELECT d.user_id, d.thread_id, greatest(stretch.low, d.archived_seq) AS low, stretch.high
FROM doors d
CROSS JOIN LATERAL (
    SELECT 0::bigint AS low, d.last_seq AS high
    WHERE d.history = 'all'
    UNION ALL
    SELECT s.joined_seq, coalesce(s.left_seq, d.last_seq)
    FROM memberships s
    WHERE d.history = 'joined' AND s.thread_id = d.thread_id AND s.user_id = d.user_id) stretch
WHERE greatest(stretch.low, d.archived_seq) < stretch.high;

CREATE VIEW my_threads WITH (security_invoker) AS
SELECT user_id, thread_id, head || CASE WHEN sees_last THEN last ELSE 'null' END || rest || mine AS thread,
    head, last, sees_last, rest, mine, floor
FROM (
    SELECT d.user_id, d.thread_id,
        CASE d.history WHEN 'joined' THEN d.joined_seq ELSE 0 END AS floor,  -- all after it is in sight
        '{"id":' || d.thread_id || ',"kind":"' || d.kind || '","history":"' || d.history || '"'
        || ',"title":' || coalesce(to_json(d.title)::text, 'null')
        || ',"createdAt":' || time_json(d.created_at)
        || CASE WHEN d.archived_seq = 0 THEN '' ELSE ',"archivedBefore":' || d.archived_seq + 1 END
        || ',"lastSeq":' || d.last_seq || ',"lastRev":' || d.last_rev
        || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || d.thread_id || '.' || d.last_rev || '"'
        || ',"lastMessageAt":' || coalesce(time_json(d.last_message_at), 'null')
        || ',"lastMessage":' AS head,
        coalesce((
            SELECT '{"seq":' || m.seq || ',"author":' || author_json(a)
                || ',"text":' || to_json(left(m.text, 200))::text
                || CASE WHEN m.deleted_at IS NULL THEN '' ELSE ',"deletedAt":' || time_json(m.deleted_at) END || '}'
            FROM messages m
            JOIN users a ON a.id = m.author_id
            WHERE m.thread_id = d.thread_id AND m.seq = d.last_seq), 'null') AS last,
        -- Not when the latest message lies outside the reader's stretches.
        d.history = 'all' OR d.last_seq > d.joined_seq OR EXISTS (
            SELECT FROM memberships s
            WHERE s.thread_id = d.thread_id AND s.user_id = d.user_id
                AND s.joined_seq < d.last_seq AND s.left_seq >= d.last_seq) AS sees_last,
        ',"messageCount":' || d.message_count || ',"memberCount":' || d.member_count
        || CASE d.kind WHEN 'channel' THEN '' WHEN 'contact' THEN (
            SELECT ',"contact":' || conversation_json(n)
            FROM conversations n WHERE n.thread_id = d.thread_id) ELSE ',"members":' || (
            SELECT '[' || string_agg('{"userId":' || u.id || ',"name":' || to_json(u.name)::text
                || ',"username":' || coalesce(to_json(u.username)::text, 'null')
                || ',"role":"' || first.role || '"}', ',' ORDER BY first.user_id) || ']'
            FROM (SELECT o.user_id, o.role FROM memberships o
                  WHERE o.thread_id = d.thread_id AND o.left_rev IS NULL
                  ORDER BY o.user_id LIMIT 10) first
            JOIN users u ON u.id = first.user_id) END AS rest,
        ',' || unread.counts
        || ',"role":"' || d.role || '"'
        || ',"muted":' || d.muted || ',"archived":' || d.archived || ',"notify":"' || d.notify || '"}' AS mine
    FROM doors d
    CROSS JOIN LATERAL unread_json(d.user_id, d.thread_id, d.history, d.joined_seq, d.last_seq, d.last_deleted_seq,
        d.read_seq) unread (counts)) parts;

CREATE VIEW open_channels WITH (security_invoker) AS
SELECT t.id AS thread_id,
    '{"id":' || t.id || ',"kind":"channel","history":"all","title":' || to_json(t.title)::text
    || ',"createdAt":' || time_json(t.created_at)
    || CASE WHEN h.archived_seq = 0 THEN '' ELSE ',"archivedBefore":' || h.archived_seq + 1 END || ',"lastSeq":' || h.last_seq || ',"lastRev":' || h.last_rev
    || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || t.id || '.' || h.last_rev
    || '","lastMessageAt":' || coalesce(time_json(h.last_message_at), 'null')
    || ',"lastMessage":null,"messageCount":' || h.message_count || ',"memberCount":' || h.member_count
    || ',"unreadCount":0,"mentionCount":0,"firstUnreadSeq":null,"lastReadSeq":' || h.last_seq || ',"role":null}' AS thread
FROM threads t
JOIN thread_heads h ON h.thread_id = t.id
WHERE t.kind = 'channel' AND h.deleted_at IS NULL;

CREATE OR REPLACE FUNCTION reach_of_others(thread bigint, author bigint)
RETURNS TABLE (low bigint, high bigint, delivered bigint, seen bigint) LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 10 AS
$$ WITH other AS (
       SELECT o.joined_seq, coalesce(o.left_seq, 9223372036854775807) AS left_seq,
           max(o.delivered_seq) OVER person AS delivered,
           CASE WHEN u.read_receipts THEN max(o.seen_seq) OVER person ELSE 0 END AS seen
       FROM (SELECT o.* FROM memberships o
             WHERE o.thread_id = thread AND o.user_id <> author
                 AND (SELECT is_small(h.member_count) FROM thread_heads h WHERE h.thread_id = thread)
             ORDER BY o.user_id, o.joined_rev
             LIMIT 301) o
       JOIN users u ON u.id = o.user_id
       -- In a contact thread the contact alone: a message to them has not come when the team has seen it.
       WHERE u.kind = 'contact' OR (SELECT t.kind <> 'contact' FROM threads t WHERE t.id = thread)
       WINDOW person AS (PARTITION BY o.user_id)
   )
   SELECT joined_seq, left_seq, min(o.delivered), min(o.seen)
   FROM other o
   WHERE (SELECT count(*) FROM other) <= 300
   GROUP BY joined_seq, left_seq $$;

-- In a contact thread all of the staff may be named.
CREATE OR REPLACE FUNCTION members_named(thread bigint, author bigint, handles text[]) RETURNS bigint[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
$$ SELECT array_agg(u.id ORDER BY u.id)
   FROM users u
   CROSS JOIN LATERAL (
       SELECT FROM memberships o
       WHERE o.thread_id = thread AND o.user_id = u.id AND o.left_rev IS NULL
       UNION
       SELECT FROM threads t WHERE t.id = thread AND t.kind = 'contact' AND u.role <> 'member' OFFSET 0) o
   WHERE lower(u.username) = ANY(ARRAY(SELECT lower(said) FROM unnest(handles) said))
       AND u.id <> author AND u.deactivated_at IS NULL
       AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = u.id AND b.blocked_id = author) $$;

-- migrate:down

DROP VIEW open_channels, my_threads, sights, doors, own_doors;
DROP FUNCTION read_before, seq_before, conversation_json, contact_json;
DROP TABLE tallies, inbound_ids, conversation_labels, conversations, contacts;
DROP FUNCTION conversations_tally, contacts_tally, tally, contact_needle, contact_grams, contact_text,
    contact_fold;
-- What cannot be said in the older schema goes: contacts, their threads and what was said in them.
DELETE FROM messages WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM changes WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM client_ids WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM marks WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM mentions WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM reactions WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM pins WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM message_edits WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM deletions WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM personal_changes WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM memberships WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM thread_heads WHERE thread_id IN (SELECT id FROM threads WHERE kind = 'contact');
DELETE FROM threads WHERE kind = 'contact';
DELETE FROM users WHERE kind = 'contact';
ALTER TABLE thread_heads DROP archived_seq;
ALTER TABLE threads
    DROP CONSTRAINT threads_kind,
    DROP COLUMN history,
    ADD CONSTRAINT threads_kind CHECK (kind IN ('direct', 'group', 'channel')),
    ADD COLUMN history text NOT NULL GENERATED ALWAYS AS (CASE kind WHEN 'channel' THEN 'all' ELSE 'joined' END) STORED;
DROP INDEX users_deactivated, users_people;
ALTER TABLE users
    DROP CONSTRAINT users_kind,
    DROP CONSTRAINT users_contact,
    DROP staff_since,
    DROP staff_xid,
    ADD CONSTRAINT users_kind CHECK (kind IN ('user', 'bot'));
CREATE INDEX users_deactivated ON users (id) WHERE deactivated_at IS NOT NULL;

CREATE OR REPLACE FUNCTION reach_of_others(thread bigint, author bigint)
RETURNS TABLE (low bigint, high bigint, delivered bigint, seen bigint) LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 10 AS
$$ WITH other AS (
       SELECT o.joined_seq, coalesce(o.left_seq, 9223372036854775807) AS left_seq,
           max(o.delivered_seq) OVER person AS delivered,
           CASE WHEN u.read_receipts THEN max(o.seen_seq) OVER person ELSE 0 END AS seen
       FROM (SELECT o.* FROM memberships o
             WHERE o.thread_id = thread AND o.user_id <> author
                 AND (SELECT is_small(h.member_count) FROM thread_heads h WHERE h.thread_id = thread)
             ORDER BY o.user_id, o.joined_rev
             LIMIT 301) o
       JOIN users u ON u.id = o.user_id
       WINDOW person AS (PARTITION BY o.user_id)
   )
   SELECT joined_seq, left_seq, min(o.delivered), min(o.seen)
   FROM other o
   WHERE (SELECT count(*) FROM other) <= 300
   GROUP BY joined_seq, left_seq $$;

CREATE OR REPLACE FUNCTION members_named(thread bigint, author bigint, handles text[]) RETURNS bigint[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
$$ SELECT array_agg(u.id ORDER BY u.id)
   FROM users u
   CROSS JOIN LATERAL (
       SELECT FROM memberships o
       WHERE o.thread_id = thread AND o.user_id = u.id AND o.left_rev IS NULL OFFSET 0) o
   WHERE lower(u.username) = ANY(ARRAY(SELECT lower(said) FROM unnest(handles) said))
       AND u.id <> author AND u.deactivated_at IS NULL
       AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = u.id AND b.blocked_id = author) $$;

CREATE VIEW doors WITH (security_invoker) AS
SELECT m.user_id, m.thread_id, m.role, m.joined_rev, m.joined_seq, m.read_seq,
       t.kind, t.history, t.title, t.created_at,
       h.last_seq, h.last_rev, h.log_floor, h.message_count, h.last_deleted_seq, h.last_message_at,
       m.muted, m.archived, m.notify, m.seen_seq, m.delivered_seq, m.changed_xid, h.last_xid, h.member_count
FROM memberships m
JOIN threads t ON t.id = m.thread_id
JOIN thread_heads h ON h.thread_id = m.thread_id
WHERE m.left_rev IS NULL AND h.deleted_at IS NULL;

CREATE VIEW sights WITH (security_invoker) AS
SELECT d.user_id, d.thread_id, stretch.low, stretch.high
FROM doors d
CROSS JOIN LATERAL (
    SELECT 0::bigint AS low, d.last_seq AS high
    WHERE d.history = 'all'
    UNION ALL
    SELECT s.joined_seq, coalesce(s.left_seq, d.last_seq)
    FROM memberships s
    WHERE d.history = 'joined' AND s.thread_id = d.thread_id AND s.user_id = d.user_id) stretch
WHERE stretch.low < stretch.high;

CREATE VIEW my_threads WITH (security_invoker) AS
SELECT user_id, thread_id, head || CASE WHEN sees_last THEN last ELSE 'null' END || rest || mine AS thread,
    head, last, sees_last, rest, mine, floor
FROM (
    SELECT d.user_id, d.thread_id,
        CASE d.history WHEN 'joined' THEN d.joined_seq ELSE 0 END AS floor,  -- all after it is in sight
        '{"id":' || d.thread_id || ',"kind":"' || d.kind || '","history":"' || d.history || '"'
        || ',"title":' || coalesce(to_json(d.title)::text, 'null')
        || ',"createdAt":' || time_json(d.created_at)
        || ',"lastSeq":' || d.last_seq || ',"lastRev":' || d.last_rev
        || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || d.thread_id || '.' || d.last_rev || '"'
        || ',"lastMessageAt":' || coalesce(time_json(d.last_message_at), 'null')
        || ',"lastMessage":' AS head,
        coalesce((
            SELECT '{"seq":' || m.seq || ',"author":' || author_json(a)
                || ',"text":' || to_json(left(m.text, 200))::text
                || CASE WHEN m.deleted_at IS NULL THEN '' ELSE ',"deletedAt":' || time_json(m.deleted_at) END || '}'
            FROM messages m
            JOIN users a ON a.id = m.author_id
            WHERE m.thread_id = d.thread_id AND m.seq = d.last_seq), 'null') AS last,
        -- Not when the latest message lies outside the reader's stretches.
        d.history = 'all' OR d.last_seq > d.joined_seq OR EXISTS (
            SELECT FROM memberships s
            WHERE s.thread_id = d.thread_id AND s.user_id = d.user_id
                AND s.joined_seq < d.last_seq AND s.left_seq >= d.last_seq) AS sees_last,
        ',"messageCount":' || d.message_count || ',"memberCount":' || d.member_count
        || CASE WHEN d.kind = 'channel' THEN '' ELSE ',"members":' || (
            SELECT '[' || string_agg('{"userId":' || u.id || ',"name":' || to_json(u.name)::text
                || ',"username":' || coalesce(to_json(u.username)::text, 'null')
                || ',"role":"' || first.role || '"}', ',' ORDER BY first.user_id) || ']'
            FROM (SELECT o.user_id, o.role FROM memberships o
                  WHERE o.thread_id = d.thread_id AND o.left_rev IS NULL
                  ORDER BY o.user_id LIMIT 10) first
            JOIN users u ON u.id = first.user_id) END AS rest,
        ',' || unread.counts
        || ',"role":"' || d.role || '"'
        || ',"muted":' || d.muted || ',"archived":' || d.archived || ',"notify":"' || d.notify || '"}' AS mine
    FROM doors d
    CROSS JOIN LATERAL unread_json(d.user_id, d.thread_id, d.history, d.joined_seq, d.last_seq, d.last_deleted_seq,
        d.read_seq) unread (counts)) parts;

CREATE VIEW open_channels WITH (security_invoker) AS
SELECT t.id AS thread_id,
    '{"id":' || t.id || ',"kind":"channel","history":"all","title":' || to_json(t.title)::text
    || ',"createdAt":' || time_json(t.created_at) || ',"lastSeq":' || h.last_seq || ',"lastRev":' || h.last_rev
    || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || t.id || '.' || h.last_rev
    || '","lastMessageAt":' || coalesce(time_json(h.last_message_at), 'null')
    || ',"lastMessage":null,"messageCount":' || h.message_count || ',"memberCount":' || h.member_count
    || ',"unreadCount":0,"mentionCount":0,"firstUnreadSeq":null,"lastReadSeq":' || h.last_seq || ',"role":null}' AS thread
FROM threads t
JOIN thread_heads h ON h.thread_id = t.id
WHERE t.kind = 'channel' AND h.deleted_at IS NULL;
