-- reactions.sql: what people answer a message with, in a sign.
-- Writes reactions, and of the message the counts by emoji, with its rev and change. Locks as messages.sql does: the
-- caller's membership, the message, the head of the thread. (A message that is deleted loses them: messages.forget.)

-- name: add :one
-- One reaction more; again changes nothing (rev null). blocked (by the other one of a direct thread), deleted, full (it
-- has reactions of most_kinds other kinds) and gone (the thread was deleted while this waited) tell why else
-- nothing has changed. No row when there is no message that the caller may see.
-- params: user_id, thread_id, seq, emoji, most_kinds
-- route:  PUT /api/threads/<thread_id:id>/messages/<seq:id>/reactions/<emoji:str>
-- plan:   memberships_open/memberships_mine, messages_pkey, reactions_pkey, thread_heads_pkey; one row each
-- locks:  the caller's membership, the message, the head of the thread
WITH door AS (
    SELECT m.thread_id, m.blocked FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
    FOR NO KEY UPDATE
), target AS (
    SELECT m.thread_id, m.seq, m.deleted_at, m.reactions,
        m.reactions @> jsonb_build_array(jsonb_build_object('emoji', :emoji::text)) AS known
    FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = :seq AND EXISTS (SELECT FROM door)
        AND EXISTS (
            SELECT FROM sights s
            WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
    FOR NO KEY UPDATE OF m
), allowed AS (
    SELECT t.*, door.blocked, NOT coalesce(t.known, false) AND jsonb_array_length(t.reactions) >= :most_kinds::int AS full
    FROM target t, door
), own AS (
    -- The key decides, for what another device of theirs has just committed is not in the statement's snapshot.
    INSERT INTO reactions (thread_id, seq, user_id, emoji)
    SELECT a.thread_id, a.seq, :user_id, :emoji::text FROM allowed a
    WHERE NOT a.blocked AND a.deleted_at IS NULL AND a.full IS NOT TRUE
    ON CONFLICT ON CONSTRAINT reactions_pkey DO NOTHING
    RETURNING thread_id
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM own
    WHERE h.thread_id = own.thread_id AND h.deleted_at IS NULL
    RETURNING h.last_rev
), message AS (
    UPDATE messages m
    SET rev = head.last_rev, reactions = CASE
        WHEN t.known THEN (
            SELECT jsonb_agg(CASE r.value ->> 'emoji' WHEN :emoji::text
                THEN jsonb_set(r.value, '{count}', to_jsonb((r.value -> 'count')::bigint + 1)) ELSE r.value END
                ORDER BY r.ordinality)
            FROM jsonb_array_elements(t.reactions) WITH ORDINALITY r)
        ELSE coalesce(t.reactions, '[]') || jsonb_build_array(jsonb_build_object('emoji', :emoji::text, 'count', 1)) END
    FROM head, target t
    WHERE m.thread_id = :thread_id AND m.seq = :seq
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message_updated', :seq FROM head
)
SELECT head.last_rev AS rev, a.blocked, a.deleted_at IS NOT NULL AS deleted, a.full IS TRUE AS full,
    head.last_rev IS NULL AND EXISTS (SELECT FROM own) AS gone
FROM allowed a
LEFT JOIN head ON true;

-- name: take :one
-- One reaction less; when there is none of the caller's, nothing changes (rev null), and so in a thread that was deleted
-- while this waited. No row when there is no message that the caller may see.
-- params: user_id, thread_id, seq, emoji
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>/reactions/<emoji:str>
-- plan:   memberships_open/memberships_mine, messages_pkey, reactions_pkey, thread_heads_pkey; one row each
-- locks:  the caller's membership, the message, the head of the thread
WITH door AS (
    SELECT m.thread_id FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
    FOR NO KEY UPDATE
), target AS (
    SELECT m.thread_id, m.seq, m.deleted_at, m.reactions
    FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = :seq AND EXISTS (SELECT FROM door)
        AND EXISTS (
            SELECT FROM sights s
            WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
    FOR NO KEY UPDATE OF m
), own AS (
    DELETE FROM reactions r USING target t
    WHERE r.thread_id = t.thread_id AND r.seq = t.seq AND r.user_id = :user_id AND r.emoji = :emoji
        AND t.deleted_at IS NULL
    RETURNING r.thread_id
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM own
    WHERE h.thread_id = own.thread_id AND h.deleted_at IS NULL
    RETURNING h.last_rev
), message AS (
    UPDATE messages m
    SET rev = head.last_rev, reactions = (
        SELECT jsonb_agg(CASE r.value ->> 'emoji' WHEN :emoji::text
            THEN jsonb_set(r.value, '{count}', to_jsonb((r.value -> 'count')::bigint - 1)) ELSE r.value END
            ORDER BY r.ordinality)
        FROM jsonb_array_elements(t.reactions) WITH ORDINALITY r
        WHERE r.value ->> 'emoji' <> :emoji::text OR (r.value -> 'count')::bigint > 1)
    FROM head, target t
    WHERE m.thread_id = :thread_id AND m.seq = :seq
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message_updated', :seq FROM head
)
SELECT head.last_rev AS rev
FROM target t
LEFT JOIN head ON true;
