-- changes.sql: the durable changes of a thread, as live readers follow them.
-- Writes nothing. `since` and `heads` answer the hub and not a person: what each stream may be told
-- of it is decided by its sight (server/live/sight.py), made from `door`.

-- name: epoch :value
-- Which life of the log this is (db/README.md, restoring).
-- params:
-- live:   once at the start of a worker
-- plan:   log_epoch; one row
SELECT epoch FROM log_epoch;

-- name: door :one
-- Where a member stands who begins to follow a thread: its head, and their spans as parallel arrays
-- (until_ is null for the open span). guarded: what ends their membership is no change of the thread. No row when not a
-- member.
-- params: user_id, thread_id
-- route:  GET /api/threads/<thread_id:id>/stream
-- plan:   memberships_open/memberships_mine, memberships_pkey; one row for each span
SELECT d.history, d.last_seq, d.last_rev, d.log_floor, d.kind = 'contact' AS guarded,
    array_agg(s.joined_seq ORDER BY s.joined_rev) AS from_seq, array_agg(s.left_seq ORDER BY s.joined_rev) AS until_seq,
    array_agg(s.joined_rev ORDER BY s.joined_rev) AS from_rev, array_agg(s.left_rev ORDER BY s.joined_rev) AS until_rev
FROM doors d
JOIN memberships s ON s.thread_id = d.thread_id AND s.user_id = d.user_id
WHERE d.user_id = :user_id AND d.thread_id = :thread_id
    AND (d.history = 'joined' OR s.left_rev IS NULL)  -- with history all, the open one is all one needs
GROUP BY d.history, d.last_seq, d.last_rev, d.log_floor, d.kind;

-- name: since :many
-- The changes after a rev, in order, each with its content as it now is in its shared form. bare is
-- that of a reply whose quote is a seq alone; from_rev and until_rev the spans of the person a member
-- change is about, where history is joined (an admin lets them in each time, so they are few); as_of
-- the rev that the content may be as new as. A thread that is deleted can be read up to the deletion. Nothing up to
-- log_floor, where messages may be archived.
-- params: thread_id, after_rev (exclusive), size
-- live:   hub: a resume, a lost doorbell, a slow reader (hot after a restart)
-- plan:   changes_pkey, thread_heads_pkey, messages_pkey, users_pkey, conversations_pkey; at most size changes, no Seq Scan on
--         changes or messages
SELECT c.rev, c.kind, c.seq, c.user_id, c.act, m.reply_to,
    CASE WHEN c.seq IS NOT NULL THEN greatest(m.rev, q.rev)
        WHEN c.act IN ('left', 'removed') THEN c.rev
        ELSE h.last_rev END AS as_of,
    CASE
        WHEN c.seq IS NOT NULL THEN message_json(m, a, q, qa, m.reactions::text, '')
        WHEN c.kind = 'member' THEN
            '{"threadId":' || c.thread_id || ',"rev":' || c.rev || ',"act":"' || c.act
            || '","userId":' || a.id || ',"name":' || to_json(a.name)::text
            || ',"username":' || coalesce(to_json(a.username)::text, 'null')
            || ',"role":' || coalesce((
                SELECT '"' || o.role || '"' FROM memberships o
                WHERE o.thread_id = c.thread_id AND o.user_id = c.user_id AND o.left_rev IS NULL), 'null') || '}'
        ELSE '{"id":' || t.id || ',"rev":' || c.rev || ',"kind":"' || t.kind
            || '","title":' || coalesce(to_json(t.title)::text, 'null')
            || CASE WHEN t.kind = 'contact' AND c.kind = 'thread_updated' THEN (
                SELECT ',"contact":' || conversation_json(n) FROM conversations n WHERE n.thread_id = c.thread_id)
                ELSE '' END || '}'
    END AS data,
    CASE WHEN m.reply_to IS NOT NULL THEN message_json(m, a, NULL, NULL, m.reactions::text, '') END AS bare,
    CASE WHEN c.kind = 'member' AND t.history = 'joined' THEN (
        SELECT array_agg(s.joined_rev ORDER BY s.joined_rev) FROM memberships s
        WHERE s.thread_id = c.thread_id AND s.user_id = c.user_id) END AS from_rev,
    CASE WHEN c.kind = 'member' AND t.history = 'joined' THEN (
        SELECT array_agg(s.left_rev ORDER BY s.joined_rev) FROM memberships s
        WHERE s.thread_id = c.thread_id AND s.user_id = c.user_id) END AS until_rev
FROM (
    SELECT * FROM changes
    WHERE thread_id = :thread_id
        AND rev > greatest(:after_rev, (SELECT o.log_floor FROM thread_heads o WHERE o.thread_id = :thread_id))
    ORDER BY rev LIMIT :size
) c
JOIN threads t ON t.id = :thread_id
JOIN thread_heads h ON h.thread_id = :thread_id
-- Each a lookup (OFFSET 0): a plan that was made while the thread was thought short would read all of it for each change.
LEFT JOIN LATERAL (SELECT * FROM messages WHERE thread_id = :thread_id AND seq = c.seq OFFSET 0) m ON true
LEFT JOIN LATERAL (SELECT * FROM users WHERE id = coalesce(m.author_id, c.user_id) OFFSET 0) a ON true
LEFT JOIN LATERAL (SELECT * FROM messages WHERE thread_id = :thread_id AND seq = m.reply_to OFFSET 0) q ON true
LEFT JOIN LATERAL (SELECT * FROM users WHERE id = q.author_id OFFSET 0) qa ON true
ORDER BY c.rev;

-- name: inside :many
-- Those of these pairs of a thread and a person who is a member of it.
-- params: thread_ids (bigint[]), user_ids (bigint[])
-- live:   hub: of contact threads, before their readers are told anything, and once a second for all of them here
-- plan:   memberships_open/memberships_mine; one row for each pair
SELECT w.thread_id, w.user_id
FROM unnest(:thread_ids::bigint[], :user_ids::bigint[]) AS w (thread_id, user_id)
CROSS JOIN LATERAL (
    SELECT FROM memberships m
    WHERE m.thread_id = w.thread_id AND m.user_id = w.user_id AND m.left_rev IS NULL OFFSET 0) m;

-- name: heads :many
-- How far the followed threads have come: the poll that finds what no doorbell told, and who is no longer told what is
-- so at the moment.
-- params: thread_ids (bigint[])
-- live:   hub: once a second for the threads that this worker's readers follow, and before each round of presence,
--         typing and receipts (at most 20 a second for a thread)
-- plan:   thread_heads_pkey; one row for each thread
SELECT thread_id, last_rev FROM thread_heads WHERE thread_id = ANY(:thread_ids::bigint[]);
