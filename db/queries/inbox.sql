-- inbox.sql: the conversations with contacts, as the staff sees and works them, and what gateways hand in.
-- Writes conversations (else: messages.sql, contacts.sql) with their changes and heads, and inbound_ids. A conversation is
-- a contact thread in which something has been said; last_at is null for the others, and they are in no list.
-- Which conversations a filtered page has, is asked in server/inbox.py, for its caller chooses the filters.

-- name: latest :one
-- A page of all conversations, latest first, as one of the staff sees it: conversations (JSON, as bytes), and how many there are in
-- all (total); role is that of who asks. No row when that is nobody; neither page nor total for a member.
-- A page further back passes over whole days, whose numbers are kept.
-- params: user_id, skip (conversations before the page), size (1 to 100)
-- route:  GET /api/conversations (hot: each look at the inbox)
-- plan:   users_pkey, conversations_latest, memberships_open/memberships_mine; size rows of each, of conversations_latest those of a day more
WITH reader AS MATERIALIZED (
    SELECT u.role, coalesce(u.staff_since, u.created_at) AS since
    FROM users u
    WHERE u.id = :user_id AND u.deactivated_at IS NULL
), passed AS MATERIALIZED (
    SELECT timestamptz 'infinity' AS before, :skip::bigint AS rest WHERE :skip::bigint < 1000
    UNION ALL
    (SELECT timezone('UTC', (d.day + 1)::timestamp), :skip::bigint - d.up_to + d.count
     FROM (SELECT day, sum(count)::bigint AS count, sum(sum(count)) OVER (ORDER BY day DESC)::bigint AS up_to
           FROM conversation_days GROUP BY day) d
     WHERE :skip::bigint >= 1000 AND d.up_to > :skip::bigint
     ORDER BY d.up_to
     LIMIT 1)
), start AS MATERIALIZED (
    SELECT n.last_at, n.thread_id
    FROM conversations n
    WHERE n.last_at < (SELECT before FROM passed) AND (SELECT role FROM reader) <> 'member'
    ORDER BY n.last_at DESC, n.thread_id DESC
    LIMIT 1 OFFSET (SELECT rest FROM passed)
), page AS MATERIALIZED (
    -- Twice, so that the planner does not take it for a tenth of all, and plans anew each time for fear of that.
    SELECT * FROM (
        SELECT n.*
        FROM conversations n
        WHERE (n.last_at, n.thread_id) <= ((SELECT last_at FROM start), (SELECT thread_id FROM start)) AND n.last_at IS NOT NULL
        ORDER BY n.last_at DESC, n.thread_id DESC
        LIMIT 100) n
    LIMIT :size
)
SELECT reader.role,
    convert_to((
        SELECT string_agg(row.conversation, ',' ORDER BY n.last_at DESC, n.thread_id DESC)
        FROM page n CROSS JOIN LATERAL conversation_row(n, :user_id, reader.since) row), 'UTF8') AS conversations,
    (SELECT coalesce(sum(t.count), 0)::bigint FROM tallies t WHERE t.name = 'conversations' AND reader.role <> 'member') AS total
FROM reader;

-- name: latest_of :one
-- The same of the conversations of one status.
-- params: user_id, status, skip (such conversations before the page), size (1 to 100)
-- route:  GET /api/conversations (hot: each look at the open ones)
-- plan:   users_pkey, conversations_by_status, memberships_open/memberships_mine; size rows of each, of conversations_by_status those of a day more
WITH reader AS MATERIALIZED (
    SELECT u.role, coalesce(u.staff_since, u.created_at) AS since
    FROM users u
    WHERE u.id = :user_id AND u.deactivated_at IS NULL
), passed AS MATERIALIZED (
    SELECT timestamptz 'infinity' AS before, :skip::bigint AS rest WHERE :skip::bigint < 1000
    UNION ALL
    (SELECT timezone('UTC', (d.day + 1)::timestamp), :skip::bigint - d.up_to + d.count
     FROM (SELECT day, sum(count)::bigint AS count, sum(sum(count)) OVER (ORDER BY day DESC)::bigint AS up_to
           FROM conversation_days WHERE status = :status GROUP BY day) d
     WHERE :skip::bigint >= 1000 AND d.up_to > :skip::bigint
     ORDER BY d.up_to
     LIMIT 1)
), start AS MATERIALIZED (
    SELECT n.last_at, n.thread_id
    FROM conversations n
    WHERE n.status = :status AND n.last_at < (SELECT before FROM passed) AND (SELECT role FROM reader) <> 'member'
    ORDER BY n.last_at DESC, n.thread_id DESC
    LIMIT 1 OFFSET (SELECT rest FROM passed)
), page AS MATERIALIZED (
    SELECT * FROM (
        SELECT n.*
        FROM conversations n
        WHERE n.status = :status AND n.last_at IS NOT NULL
            AND (n.last_at, n.thread_id) <= ((SELECT last_at FROM start), (SELECT thread_id FROM start))
        ORDER BY n.last_at DESC, n.thread_id DESC
        LIMIT 100) n
    LIMIT :size
)
SELECT reader.role,
    convert_to((
        SELECT string_agg(row.conversation, ',' ORDER BY n.last_at DESC, n.thread_id DESC)
        FROM page n CROSS JOIN LATERAL conversation_row(n, :user_id, reader.since) row), 'UTF8') AS conversations,
    (SELECT coalesce(sum(t.count), 0)::bigint FROM tallies t WHERE t.name = :status AND reader.role <> 'member') AS total
FROM reader;

-- name: reader :one
-- What the list must know of who asks: their role, and since when they are of the staff. No row for nobody.
-- params: user_id
-- route:  GET /api/conversations
-- plan:   users_pkey; one row
SELECT u.role, coalesce(u.staff_since, u.created_at) AS since FROM users u WHERE u.id = :user_id AND u.deactivated_at IS NULL;

-- name: told :json
-- These conversations, in this order, as one of the staff sees them, with commas between. One that is gone is left out;
-- null when there is none, or the reader is none of the staff.
-- params: user_id, thread_ids (at most 100)
-- route:  GET /api/conversations
-- route:  GET /api/conversations/<conversation_id:id>
-- route:  PATCH /api/conversations/<conversation_id:id>
-- plan:   users_pkey, conversations_pkey, memberships_open/memberships_mine; one row of each for each
SELECT string_agg(row.conversation, ',' ORDER BY asked.place)
FROM users u
CROSS JOIN unnest(:thread_ids::bigint[]) WITH ORDINALITY AS asked (thread_id, place)
CROSS JOIN LATERAL (
    SELECT * FROM conversations WHERE thread_id = asked.thread_id AND last_at IS NOT NULL OFFSET 0) n
CROSS JOIN LATERAL conversation_row(n, u.id, coalesce(u.staff_since, u.created_at)) row
WHERE u.id = :user_id AND u.role <> 'member' AND u.deactivated_at IS NULL;

-- name: named :many
-- The threads of contacts that have a needle in their name or phone number, 1,001 at most: that many tell nothing of which.
-- params: search (2 characters and more), digits (how it would stand in a phone number, or null)
-- route:  GET /api/conversations
-- plan:   contacts_by_part; at most 1,001 that match
SELECT c.thread_id
FROM contacts c
WHERE c.deleted_at IS NULL
    AND contact_grams(c.name, c.phone_number, c.email)
        @@ (SELECT coalesce(contact_needle(:search) || contact_needle(:digits), contact_needle(:search)))
    AND (strpos(contact_text(c.name, c.phone_number, NULL), contact_fold(:search)) > 0 OR strpos(c.phone_number, :digits) > 0)
LIMIT 1001;

-- name: threads :one
-- Contact threads of one of the staff, latest first, as threads.mine tells of the others: their JSON and, when there may
-- be more, the key to go on from. Empty for others. It looks at so many conversations, so a page may hold fewer than
-- size, and still have a key.
-- params: user_id, search (part of the title, or null), unread (true: only those with unread), archived (true: only those
--         that they have archived, false: only the others), before_at (timestamptz), before_id (where the last page ended,
--         exclusive), looks (more than size), size (1 to 100)
-- route:  GET /api/threads
-- plan:   users_pkey, conversations_latest, memberships_open/memberships_mine; at most looks rows of each
WITH reader AS MATERIALIZED (
    SELECT coalesce(u.staff_since, u.created_at) AS since
    FROM users u
    WHERE u.id = :user_id AND u.role <> 'member' AND u.deactivated_at IS NULL
), looked AS MATERIALIZED (
    SELECT n.*
    FROM conversations n
    WHERE (n.last_at, n.thread_id) < (:before_at::timestamptz, :before_id::bigint) AND n.last_at IS NOT NULL
        AND EXISTS (SELECT FROM reader)
    ORDER BY n.last_at DESC, n.thread_id DESC
    LIMIT :looks
), page AS MATERIALIZED (
    SELECT n.thread_id, n.last_at
    FROM reader, looked n
    WHERE :archived = coalesce((
            SELECT m.archived FROM memberships m
            WHERE m.thread_id = n.thread_id AND m.user_id = :user_id AND m.left_rev IS NULL), false)
        AND (:search::text IS NULL OR strpos(lower(n.name), lower(:search)) > 0)
        AND (NOT :unread::boolean OR (SELECT r.unread FROM conversation_unread(n, :user_id, reader.since) r) > 0)
    ORDER BY n.last_at DESC, n.thread_id DESC
    LIMIT :size::int + 1  -- one more tells whether there is a next page
), kept AS (
    SELECT thread_id, last_at FROM page ORDER BY last_at DESC, thread_id DESC LIMIT :size
), place AS (
    (SELECT thread_id, last_at FROM kept WHERE (SELECT count(*) FROM page) > :size ORDER BY last_at, thread_id LIMIT 1)
    UNION ALL
    (SELECT thread_id, last_at FROM looked
     WHERE CASE WHEN (SELECT count(*) FROM page) > :size THEN false ELSE (SELECT count(*) FROM looked) = :looks END
     ORDER BY last_at, thread_id LIMIT 1)
)
SELECT coalesce('[' || string_agg(v.thread, ',' ORDER BY k.last_at DESC, k.thread_id DESC) || ']', '[]') AS threads,
    EXISTS (SELECT FROM place) AS more,
    log_place() AS place,
    (SELECT last_at FROM place) AS active_at,
    (SELECT thread_id FROM place) AS thread_id
FROM kept k
CROSS JOIN LATERAL (
    SELECT v.thread FROM my_threads v WHERE v.thread_id = k.thread_id AND v.user_id = :user_id OFFSET 0) v;

-- name: change :one
-- What is given of a conversation: the rev of the change, null when nothing has changed. assignable is false, and nothing
-- changes, when the assignee is none of the staff. No row when there is no such conversation.
-- params: thread_id, given (text[]: the fields that are, as the API calls them), status, snoozed_until (timestamptz),
--         assignee_id, labels (text[], distinct, sorted)
-- route:  PATCH /api/conversations/<conversation_id:id>
-- plan:   users_pkey, thread_heads_pkey, conversations_pkey; one row each
-- locks:  the assignee's account (shared), the head, the conversation
WITH assignee AS MATERIALIZED (
    -- Held, so that a role taken away meanwhile is either seen or waits.
    SELECT u.id FROM users u
    WHERE u.id = :assignee_id::bigint AND u.role <> 'member' AND u.deactivated_at IS NULL
    FOR SHARE
), head AS MATERIALIZED (
    -- Before the conversation, as a send does.
    SELECT h.thread_id FROM thread_heads h
    WHERE h.thread_id = :thread_id AND h.deleted_at IS NULL
        AND EXISTS (SELECT FROM conversations n WHERE n.thread_id = h.thread_id AND n.last_at IS NOT NULL)
        AND (:assignee_id::bigint IS NULL OR (SELECT count(*) FROM assignee) >= 0)  -- that first: the order of locks
    FOR NO KEY UPDATE
), held AS MATERIALIZED (
    -- As it is once the head is ours: whoever has left the staff since may stay who it is assigned to.
    SELECT n.thread_id, :assignee_id::bigint IS NULL OR EXISTS (SELECT FROM assignee)
        OR n.assignee_id IS NOT DISTINCT FROM :assignee_id AS assignable
    FROM head
    JOIN conversations n ON n.thread_id = head.thread_id
    FOR NO KEY UPDATE OF n
), changed AS (
    UPDATE conversations n
    SET status = CASE WHEN 'status' = ANY(:given::text[]) THEN :status ELSE n.status END,
        snoozed_until = CASE WHEN 'status' = ANY(:given) THEN :snoozed_until::timestamptz ELSE n.snoozed_until END,
        assignee_id = CASE WHEN 'assigneeId' = ANY(:given) THEN :assignee_id ELSE n.assignee_id END,
        labels = CASE WHEN 'labels' = ANY(:given) THEN :labels::text[] ELSE n.labels END
    FROM held
    WHERE n.thread_id = held.thread_id AND n.last_at IS NOT NULL AND held.assignable
        AND ('status' = ANY(:given) AND (n.status, n.snoozed_until) IS DISTINCT FROM (:status, :snoozed_until)
            OR 'assigneeId' = ANY(:given) AND n.assignee_id IS DISTINCT FROM :assignee_id
            OR 'labels' = ANY(:given) AND n.labels <> :labels)
    RETURNING n.thread_id
), risen AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM changed
    WHERE h.thread_id = changed.thread_id
    RETURNING h.thread_id, h.last_rev
), told AS (
    INSERT INTO changes (thread_id, rev, kind) SELECT thread_id, last_rev, 'thread_updated' FROM risen
)
SELECT assignable, (SELECT last_rev FROM risen) AS rev FROM held;

-- name: wake :many
-- Opens conversations whose time has come, some at a time: the revs of their changes. Those in which somebody writes just
-- now wait for the next time.
-- params:
-- job:    each second, in each worker
-- plan:   conversations_snoozed, thread_heads_pkey, conversations_pkey; at most 100 rows
-- locks:  the heads, of those that nobody holds; the conversations
WITH due AS MATERIALIZED (
    SELECT n.thread_id FROM conversations n
    WHERE n.status = 'snoozed' AND n.snoozed_until <= now()
    ORDER BY n.snoozed_until
    LIMIT 100
), head AS MATERIALIZED (
    -- Before the conversation, as a send does.
    SELECT h.thread_id FROM due
    CROSS JOIN LATERAL (
        SELECT o.thread_id FROM thread_heads o WHERE o.thread_id = due.thread_id AND o.deleted_at IS NULL
        FOR NO KEY UPDATE SKIP LOCKED) h
), woken AS (
    UPDATE conversations n SET status = 'open', snoozed_until = NULL
    WHERE n.thread_id = ANY(ARRAY(SELECT thread_id FROM head))
        AND coalesce(n.snoozed_until <= now(), false)  -- so written, it leads to no index: there are more than these
    RETURNING n.thread_id
), risen AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM woken
    WHERE h.thread_id = woken.thread_id
    RETURNING h.thread_id, h.last_rev
)
INSERT INTO changes (thread_id, rev, kind) SELECT thread_id, last_rev, 'thread_updated' FROM risen
RETURNING thread_id, rev;

-- name: thread_of :one
-- The thread of a contact, and which messages there are: after archived_seq, up to last_seq. No row when there is no such
-- contact (any more).
-- params: contact_id
-- route:  GET /api/contacts/<contact_id:id>/messages
-- route:  POST /api/contacts/<contact_id:id>/messages
-- plan:   contacts_pkey, thread_heads_pkey; one row
SELECT c.thread_id, h.last_seq, h.archived_seq
FROM contacts c
JOIN thread_heads h ON h.thread_id = c.thread_id
WHERE c.id = :contact_id AND c.deleted_at IS NULL;

-- name: by_phone :one
-- The contact with a phone number. No row when there is none.
-- params: phone_number (E.164)
-- route:  POST /api/inbound (hot: each message that comes in)
-- plan:   contacts_phone_number_key; one row
SELECT c.id, c.thread_id, c.name
FROM contacts c
WHERE c.phone_number = :phone_number AND c.deleted_at IS NULL;

-- name: handed_in :one
-- What this account has handed in under this id: whether it was this body (same), the message as it now is, in its shared
-- form (null: it is archived), and of its contact what a gateway is told (gone: there is none any more). No row when
-- nothing was.
-- params: user_id, external_id, body_hash (bytea)
-- route:  POST /api/inbound (hot)
-- plan:   inbound_ids_pkey, contacts_thread_id_key, messages_pkey; one row each
SELECT i.body_hash = :body_hash AS same, i.seq, c.id, c.thread_id, c.name, c.phone_number, c.deleted_at IS NOT NULL AS gone, (
    SELECT message_json(m, a, NULL, NULL, m.reactions::text, '')
    FROM messages m
    JOIN users a ON a.id = m.author_id
    WHERE m.thread_id = i.thread_id AND m.seq = i.seq) AS message
FROM inbound_ids i
JOIN contacts c ON c.thread_id = i.thread_id
WHERE i.bot_id = :user_id AND i.external_id = :external_id;

-- name: hand_in :exec
-- That a message was handed in, in the transaction that sends it. Raises inbound_ids_pkey: it was already.
-- params: user_id, external_id, thread_id, seq, body_hash (bytea)
-- route:  POST /api/inbound
-- plan:   none
-- locks:  the new row
INSERT INTO inbound_ids (bot_id, external_id, thread_id, seq, body_hash)
VALUES (:user_id, :external_id, :thread_id, :seq, :body_hash);
