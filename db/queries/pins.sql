-- pins.sql: what is pinned to the wall of a thread.
-- Writes pins, and of the message when it was pinned, with its rev and change. Locks as messages.sql does: the caller's
-- membership, the message, the head of the thread. Whether a message is pinned, pinned_at alone says: that is read under
-- its lock. A row of pins may be left over from a pinning that was undone while it committed; it is found by nobody.

-- name: add :one
-- Pins a message; again changes nothing (rev null). blocked (by the other one of a direct thread), deleted and gone (the
-- thread was deleted while this waited) tell why else nothing has changed. No row when there is no message that the
-- caller may see.
-- params: user_id, thread_id, seq
-- route:  PUT /api/threads/<thread_id:id>/messages/<seq:id>/pin
-- plan:   memberships_open/memberships_mine, messages_pkey, pins_pkey, thread_heads_pkey; one row each
-- locks:  the caller's membership, the message, the head of the thread
WITH door AS (
    SELECT m.thread_id, m.blocked FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
    FOR NO KEY UPDATE
), target AS (
    SELECT m.thread_id, m.deleted_at, m.pinned_at
    FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = :seq AND EXISTS (SELECT FROM door)
        AND EXISTS (
            SELECT FROM sights s
            WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
    FOR NO KEY UPDATE OF m
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM target t, door
    WHERE h.thread_id = t.thread_id AND h.deleted_at IS NULL AND NOT door.blocked
        AND t.deleted_at IS NULL AND t.pinned_at IS NULL
    RETURNING h.last_rev
), message AS (
    UPDATE messages m SET rev = head.last_rev, pinned_at = clock_timestamp()
    FROM head
    WHERE m.thread_id = :thread_id AND m.seq = :seq
), pin AS (
    INSERT INTO pins (thread_id, seq, rev, user_id) SELECT :thread_id, :seq, last_rev, :user_id FROM head
    ON CONFLICT ON CONSTRAINT pins_pkey DO UPDATE SET rev = excluded.rev, user_id = excluded.user_id
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message_updated', :seq FROM head
)
SELECT head.last_rev AS rev, door.blocked, t.deleted_at IS NOT NULL AS deleted,
    head.last_rev IS NULL AND NOT door.blocked AND t.deleted_at IS NULL AND t.pinned_at IS NULL AS gone
FROM target t
CROSS JOIN door
LEFT JOIN head ON true;

-- name: take :one
-- Takes a pin off; when there is none, nothing changes (rev null), and so in a thread that was deleted while this waited.
-- blocked: by the other one of a direct thread. No row when there is no message that the caller may see.
-- params: user_id, thread_id, seq
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>/pin
-- plan:   memberships_open/memberships_mine, messages_pkey, pins_pkey, thread_heads_pkey; one row each
-- locks:  the caller's membership, the message, the head of the thread
WITH door AS (
    SELECT m.thread_id, m.blocked FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
    FOR NO KEY UPDATE
), target AS (
    SELECT m.thread_id, m.pinned_at
    FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = :seq AND EXISTS (SELECT FROM door)
        AND EXISTS (
            SELECT FROM sights s
            WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
    FOR NO KEY UPDATE OF m
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM target t, door
    WHERE h.thread_id = t.thread_id AND h.deleted_at IS NULL AND NOT door.blocked AND t.pinned_at IS NOT NULL
    RETURNING h.last_rev
), message AS (
    UPDATE messages m SET rev = head.last_rev, pinned_at = NULL
    FROM head
    WHERE m.thread_id = :thread_id AND m.seq = :seq
), pin AS (
    DELETE FROM pins p USING head WHERE p.thread_id = :thread_id AND p.seq = :seq
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message_updated', :seq FROM head
)
SELECT head.last_rev AS rev, door.blocked
FROM target t
CROSS JOIN door
LEFT JOIN head ON true;

-- name: list :one
-- What is pinned and may be seen, the newest pin first: the JSON of the messages, comma-separated, and the rev to go on
-- from (null at the end). At most looks pins are looked at, so that a page may hold fewer than size, and a place to go on
-- from. No row when not a member.
-- params: user_id, thread_id, before (rev of a pinning, exclusive), looks (more than size), size (1 to 100)
-- route:  GET /api/threads/<thread_id:id>/pins
-- plan:   memberships_open/memberships_mine, pins_rev_key, messages_pkey, users_pkey; at most looks rows of pins, size of messages
WITH door AS (
    SELECT d.thread_id FROM doors d WHERE d.user_id = :user_id AND d.thread_id = :thread_id
), sight AS (
    SELECT low, high FROM sights WHERE user_id = :user_id AND thread_id = :thread_id
), looked AS (
    SELECT p.seq, p.rev FROM pins p
    WHERE p.thread_id = :thread_id AND p.rev < :before
    ORDER BY p.rev DESC
    LIMIT :looks
), page AS (
    SELECT l.seq, l.rev
    FROM looked l
    WHERE EXISTS (SELECT FROM sight s WHERE l.seq > s.low AND l.seq <= s.high)
    ORDER BY l.rev DESC
    LIMIT :size::int + 1
), kept AS (
    SELECT p.* FROM page p ORDER BY p.rev DESC LIMIT :size
), reach AS MATERIALIZED (
    -- Asked once, for the status of the reader's own messages; not at all when there are none.
    SELECT * FROM reach_of_others(:thread_id, :user_id)
), items AS (
    -- A quote outside the reader's stretches stays a bare seq: its lookup finds nothing.
    SELECT string_agg(message_json(p, a, q, qa, CASE WHEN p.reactions IS NOT NULL THEN reactions_for(p, :user_id) END,
            CASE WHEN p.author_id = :user_id THEN (
                SELECT status_of(p.seq, min(r.delivered), min(r.seen)) FROM reach r WHERE p.seq > r.low AND p.seq <= r.high)
                ELSE '' END),
            ',' ORDER BY k.rev DESC) AS items
    FROM kept k
    CROSS JOIN LATERAL (
        SELECT * FROM messages WHERE thread_id = :thread_id AND seq = k.seq AND pinned_at IS NOT NULL OFFSET 0) p
    JOIN users a ON a.id = p.author_id
    LEFT JOIN LATERAL (
        SELECT m.* FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
            AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high) OFFSET 0) q ON true
    LEFT JOIN users qa ON qa.id = q.author_id
)
SELECT coalesce(items.items, '') AS items, CASE
    WHEN (SELECT count(*) FROM page) > :size THEN (SELECT min(rev) FROM kept)
    WHEN (SELECT count(*) FROM looked) = :looks THEN (SELECT min(rev) FROM looked) END AS next_rev
FROM door, items;
