-- bulk.sql: many rows at once, for imports and the demo town.
-- Writes users, threads, thread_heads, direct_pairs, memberships, messages (by COPY), changes, imports.
-- One transaction per batch; it locks as a send does: memberships in the order of user_id, then the head.

-- name: lock_head :one
-- Where the thread's log ends. No row when it is deleted or was never there.
-- params: thread_id
-- cli:    bobbin import, bobbin seed
-- plan:   thread_heads_pkey, messages_pkey; one row each
-- locks:  FOR UPDATE of the head: no send, join or other change of this thread until the batch commits
SELECT h.last_seq, h.last_rev,
       greatest(h.last_message_at,
                (SELECT m.created_at FROM messages m
                 WHERE m.thread_id = h.thread_id AND m.seq = h.last_seq)) AS last_at
FROM thread_heads h
WHERE h.thread_id = :thread_id AND h.deleted_at IS NULL
FOR UPDATE OF h;

-- name: known_people :many
-- Accounts made by earlier imports.
-- params: external_ids
-- cli:    bobbin import, bobbin seed
-- plan:   users_external_id_key; at most the people of one batch
SELECT id, external_id
FROM users
WHERE external_id = ANY(:external_ids::text[]);

-- name: make_people :many
-- Accounts that cannot sign in, and have no handle: those are for people who are here. Whoever another
-- import has made meanwhile is answered as well.
-- params: external_ids (in order), names
-- cli:    bobbin import
-- plan:   users_external_id_key
-- locks:  the new rows of users, in the order of external_id
INSERT INTO users (external_id, name)
SELECT external_id, name
FROM unnest(:external_ids::text[], :names::text[]) AS new (external_id, name)
ON CONFLICT (external_id) DO UPDATE SET name = users.name
RETURNING id, external_id;

-- name: hold_open_members :many
-- Which of these people are in the thread now; they stay until the batch has committed.
-- params: thread_id, user_ids
-- cli:    bobbin import
-- plan:   memberships_open/memberships_mine; at most the people of one batch
-- locks:  their membership rows, in the order of user_id, before the head
SELECT user_id
FROM memberships
WHERE thread_id = :thread_id AND user_id = ANY(:user_ids::bigint[]) AND left_rev IS NULL
ORDER BY user_id
FOR NO KEY UPDATE;

-- name: log_messages :exec
-- The changes of the messages that were just copied in.
-- params: thread_id, after (seq, exclusive)
-- cli:    bobbin import, bobbin seed
-- plan:   messages_pkey; only the rows of this batch
-- locks:  the new rows of changes, under the head's lock
INSERT INTO changes (thread_id, rev, kind, seq)
SELECT thread_id, rev, 'message', seq
FROM messages
WHERE thread_id = :thread_id AND seq > :after;

-- name: log_joins :exec
-- The changes of the memberships that were just copied in.
-- params: thread_id, user_ids, revs
-- cli:    bobbin import, bobbin seed
-- plan:   thread_heads_pkey
-- locks:  the new rows of changes, under the head's lock
WITH head AS (
    UPDATE thread_heads SET member_count = member_count + cardinality(:user_ids::bigint[]) WHERE thread_id = :thread_id
)
INSERT INTO changes (thread_id, rev, kind, user_id, act)
SELECT :thread_id, rev, 'member', user_id, 'joined'
FROM unnest(:user_ids::bigint[], :revs::bigint[]) AS joined (user_id, rev);

-- name: move_read :exec
-- Who writes has read: the read cursors of members who were there before the batch.
-- params: thread_id, user_ids, seqs
-- cli:    bobbin import
-- plan:   memberships_open/memberships_mine; at most the people of one batch
-- locks:  their membership rows (already held)
UPDATE memberships m
SET read_seq = own.seq
FROM unnest(:user_ids::bigint[], :seqs::bigint[]) AS own (user_id, seq)
WHERE m.thread_id = :thread_id AND m.user_id = own.user_id AND m.user_id = ANY(:user_ids::bigint[])
    AND m.left_rev IS NULL AND m.read_seq < own.seq;

-- name: advance_head :exec
-- params: thread_id, last_seq, last_rev, added, last_at
-- cli:    bobbin import, bobbin seed
-- plan:   thread_heads_pkey
-- locks:  the head, held since lock_head
UPDATE thread_heads
SET last_seq = :last_seq, last_rev = :last_rev, message_count = message_count + :added,
    last_xid = pg_current_xact_id(), last_message_at = coalesce(:last_at, last_message_at)
WHERE thread_id = :thread_id;

-- name: progress :many
-- How far each source of a thread has been read.
-- params: thread_id
-- cli:    bobbin import
-- plan:   imports_pkey; one row per file ever imported into the thread
SELECT source, records, digest
FROM imports
WHERE thread_id = :thread_id;

-- name: advance_source :value
-- The progress of a source, true when it was where the caller believes. Null when another import has
-- moved it since, also one that was killed while its last batch was under way.
-- params: thread_id, source, before, records, digest
-- cli:    bobbin import
-- plan:   imports_pkey
-- locks:  the source's row, under the head's lock
INSERT INTO imports AS i (thread_id, source, records, digest)
VALUES (:thread_id, :source, :records, :digest)
ON CONFLICT (thread_id, source) DO UPDATE SET records = excluded.records, digest = excluded.digest
WHERE i.records = :before
RETURNING true;

-- name: try_import :value
-- One import per thread: true when it is ours, false when another is at work.
-- params: thread_id
-- cli:    bobbin import
-- plan:   none
-- locks:  an advisory lock until the connection ends
SELECT pg_try_advisory_lock(hashtextextended('bobbin import', :thread_id));

-- name: lock_title :exec
-- Two imports that start at once make one channel, not two of the same title.
-- params: title
-- cli:    bobbin import
-- plan:   none
-- locks:  an advisory lock until the end of the transaction
SELECT pg_advisory_xact_lock(hashtextextended('bobbin channel ' || :title, 0));

-- name: channels_titled :many
-- Living channels of exactly this title.
-- params: title
-- cli:    bobbin import
-- plan:   any: once per import; reads the threads, which are few beside their messages
SELECT t.id
FROM threads t
JOIN thread_heads h ON h.thread_id = t.id
WHERE t.kind = 'channel' AND t.title = :title AND h.deleted_at IS NULL
ORDER BY t.id;

-- name: living_channel :value
-- The title of a channel, null when the id is none's.
-- params: thread_id
-- cli:    bobbin import
-- plan:   threads_pkey, thread_heads_pkey
SELECT t.title
FROM threads t
JOIN thread_heads h ON h.thread_id = t.id
WHERE t.id = :thread_id AND t.kind = 'channel' AND h.deleted_at IS NULL;

-- name: make_thread :value
-- A thread and its head, both empty; its id.
-- params: kind, title, created_by, created_at
-- cli:    bobbin import, bobbin seed
-- plan:   none
-- locks:  the new rows
WITH made AS (
    INSERT INTO threads (kind, title, created_by, created_at)
    VALUES (:kind, :title, :created_by, :created_at)
    RETURNING id
)
INSERT INTO thread_heads (thread_id)
SELECT id FROM made
RETURNING thread_id;

-- name: lock_town :exec
-- Two seeds that start at once plant one town.
-- params:
-- cli:    bobbin seed
-- plan:   none
-- locks:  an advisory lock until the end of the transaction
SELECT pg_advisory_xact_lock(hashtextextended('bobbin town', 0));

-- name: taken_names :many
-- Accounts that have one of these handles or addresses, in lower case.
-- params: handles, emails
-- cli:    bobbin seed
-- plan:   users_username_key, users_email_key
SELECT username, email
FROM users
WHERE lower(username) = ANY(:handles::text[]) OR lower(email) = ANY(:emails::text[])
ORDER BY id;

-- name: town :one
-- What these people have begun: for the sentence that it is there already.
-- params: user_ids
-- cli:    bobbin seed
-- plan:   any: once per seed; reads the threads, which are few beside their messages
SELECT count(*) AS threads, coalesce(sum(h.message_count), 0)::bigint AS messages
FROM threads t
JOIN thread_heads h ON h.thread_id = t.id
WHERE t.created_by = ANY(:user_ids::bigint[]) AND h.deleted_at IS NULL;

-- name: make_townspeople :many
-- params: external_ids, usernames, names, emails, roles, password_hashes, created_at
-- cli:    bobbin seed
-- plan:   none
-- locks:  the new rows of users
INSERT INTO users (external_id, username, name, email, role, password_hash, created_at)
SELECT external_id, username, name, email, role, password_hash, :created_at
FROM unnest(:external_ids::text[], :usernames::text[], :names::text[], :emails::text[], :roles::text[],
            :password_hashes::text[]) AS new (external_id, username, name, email, role, password_hash)
RETURNING id, external_id;

-- name: pair :exec
-- The direct thread of two people.
-- params: low_user_id, high_user_id, thread_id
-- cli:    bobbin seed
-- plan:   none
-- locks:  the new row of direct_pairs
INSERT INTO direct_pairs (low_user_id, high_user_id, leads_to)
VALUES (:low_user_id, :high_user_id, :thread_id);
