-- receipts.sql: how far each person has come in a thread: delivered, read; and what others may know of it.
-- Writes the cursors of memberships (a send moves those of its author too), marks and personal_changes.
-- A move locks one's own membership alone: the head it sees may be older than that, but never than what was told before.

-- name: reach :one
-- Moves one's delivered cursor forward up to seq, and with read the read cursor, and what others may know of it unless
-- one hides that. What is there already stays. beyond: seq is after the last message, and nothing has moved.
-- read_moved: one's other devices want to know. receipt: what the thread is to be told, null: nothing.
-- No row when not a member.
-- params: user_id, thread_id, seq, read (boolean)
-- route:  POST /api/threads/<thread_id:id>/read (hot: each thread opened, each message that comes while it is)
-- route:  POST /api/threads/<thread_id:id>/delivered (hot: each message that comes)
-- plan:   memberships_open/memberships_mine, thread_heads_pkey, threads_pkey, users_pkey, memberships_pkey; one row each
-- locks:  the caller's membership
WITH place AS (
    SELECT m.*, t.history, h.archived_seq, h.last_deleted_seq, h.member_count, mark_lasts(h.member_count) AS lasts,
        u.read_receipts,
        clock_timestamp() AS now,
        greatest(h.last_seq, m.read_seq) AS last_seq  -- what one has sent while this waited for the lock
    FROM memberships m
    JOIN users u ON u.id = m.user_id
    JOIN threads t ON t.id = m.thread_id
    JOIN thread_heads h ON h.thread_id = m.thread_id
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL AND h.deleted_at IS NULL
    FOR NO KEY UPDATE OF m
), move AS (
    -- What was before the open span is left to the others: so marks rise with time from one span to the next.
    SELECT p.*, :seq::bigint > p.last_seq AS beyond,
        :read::boolean AND :seq::bigint > p.read_seq AS reads,
        :read::boolean AND p.read_receipts AND :seq::bigint > p.seen_seq AND :seq::bigint >= p.joined_seq AS shows,
        :seq::bigint > p.delivered_seq AND :seq::bigint >= p.joined_seq AS delivers
    FROM place p
), moved AS (
    -- From the locked row alone: constraints are checked on what this makes of the row as it was before the lock, too.
    UPDATE memberships m
    SET read_seq = CASE WHEN v.reads THEN :seq ELSE v.read_seq END,
        changed_xid = CASE WHEN v.reads THEN pg_current_xact_id() ELSE v.changed_xid END,
        seen_seq = CASE WHEN v.shows THEN :seq ELSE v.seen_seq END,
        seen_at = CASE WHEN NOT v.shows OR v.now < v.seen_at + v.lasts THEN v.seen_at ELSE v.now END,
        delivered_seq = CASE WHEN v.delivers THEN :seq ELSE v.delivered_seq END,
        delivered_at = CASE WHEN NOT v.delivers OR v.now < v.delivered_at + v.lasts THEN v.delivered_at
            ELSE v.now END
    FROM move v
    WHERE m.thread_id = v.thread_id AND m.user_id = v.user_id AND m.joined_rev = v.joined_rev
        AND NOT v.beyond AND (v.reads OR v.shows OR v.delivers)
    RETURNING m.read_seq, m.seen_seq, m.seen_at, m.delivered_seq, m.delivered_at
), marked AS (
    INSERT INTO marks (thread_id, user_id, kind, seq, at)
    SELECT v.thread_id, v.user_id, old.kind, old.seq, old.at
    FROM move v, moved
    CROSS JOIN LATERAL (VALUES ('read', v.seen_seq, v.seen_at, v.shows),
        ('delivered', v.delivered_seq, v.delivered_at, v.delivers AND NOT (v.shows
            AND (v.seen_seq, v.seen_at) = (v.delivered_seq, v.delivered_at)))) old (kind, seq, at, kept)
    WHERE old.kept AND v.now >= old.at + v.lasts
), told AS (
    INSERT INTO personal_changes (user_id, thread_id) SELECT v.user_id, v.thread_id FROM move v, moved WHERE v.reads
)
SELECT v.beyond, v.reads AND NOT v.beyond AS read_moved,
    CASE WHEN (v.shows OR v.delivers) AND is_small(v.member_count) THEN receipt_json(v.thread_id, v.user_id,
        moved.delivered_seq, CASE WHEN v.read_receipts THEN moved.seen_seq END,
        greatest(moved.delivered_at, CASE WHEN v.read_receipts THEN moved.seen_at END)) END AS receipt,
    '{"threadId":' || v.thread_id || ',"deliveredSeq":' || coalesce(moved.delivered_seq, v.delivered_seq) || ','
    || unread.counts || '}' AS state
FROM move v
LEFT JOIN moved ON true
CROSS JOIN LATERAL unread_json(v.user_id, v.thread_id, v.history, v.joined_seq, v.last_seq, v.last_deleted_seq,
    greatest(coalesce(moved.read_seq, v.read_seq), v.archived_seq)) unread (counts);

-- name: unread :one
-- Moves one's read cursor back to before a message, or the first after it that one may see; it never moves forward.
-- What others know of one's reading stays. Columns as for reach.
-- params: user_id, thread_id, seq
-- route:  POST /api/threads/<thread_id:id>/unread
-- plan:   memberships_open/memberships_mine, memberships_pkey, thread_heads_pkey, threads_pkey; one row for each span
-- locks:  the caller's membership
WITH place AS (
    SELECT m.*, t.history, h.archived_seq, h.last_deleted_seq, greatest(h.last_seq, m.read_seq) AS last_seq
    FROM memberships m
    JOIN threads t ON t.id = m.thread_id
    JOIN thread_heads h ON h.thread_id = m.thread_id
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL AND h.deleted_at IS NULL
    FOR NO KEY UPDATE OF m
), move AS (
    SELECT p.*, :seq::bigint > p.last_seq AS beyond, (
            SELECT min(greatest(:seq::bigint, s.low + 1)) - 1 FROM sights s
            WHERE s.user_id = p.user_id AND s.thread_id = p.thread_id AND s.high >= :seq::bigint) AS back_to
    FROM place p
), moved AS (
    UPDATE memberships m SET read_seq = v.back_to, changed_xid = pg_current_xact_id()
    FROM move v
    WHERE m.thread_id = v.thread_id AND m.user_id = v.user_id AND m.joined_rev = v.joined_rev
        AND NOT v.beyond AND v.back_to < v.read_seq
    RETURNING m.read_seq
), told AS (
    INSERT INTO personal_changes (user_id, thread_id) SELECT v.user_id, v.thread_id FROM move v, moved
)
SELECT v.beyond, moved.read_seq IS NOT NULL AS read_moved, NULL AS receipt,
    '{"threadId":' || v.thread_id || ',"deliveredSeq":' || v.delivered_seq || ',' || unread.counts || '}' AS state
FROM move v
LEFT JOIN moved ON true
CROSS JOIN LATERAL unread_json(v.user_id, v.thread_id, v.history, v.joined_seq, v.last_seq, v.last_deleted_seq,
    greatest(coalesce(moved.read_seq, v.read_seq), v.archived_seq)) unread (counts);

-- name: standing :many
-- How far the other members of a small thread have come: what whoever joins its stream is told.
-- params: user_id, thread_id
-- live:   each time somebody begins to follow a thread
-- plan:   memberships_open/memberships_mine, users_pkey; at most a hundred rows
SELECT receipt_json(o.thread_id, o.user_id, o.delivered_seq, CASE WHEN u.read_receipts THEN o.seen_seq END,
    greatest(o.delivered_at, CASE WHEN u.read_receipts THEN o.seen_at END)) AS receipt
FROM doors d
JOIN memberships o ON o.thread_id = d.thread_id AND o.user_id <> d.user_id AND o.left_rev IS NULL
JOIN users u ON u.id = o.user_id
WHERE d.user_id = :user_id AND d.thread_id = :thread_id AND is_small(d.member_count) AND o.delivered_seq > 0
ORDER BY o.user_id;

-- name: of_message :one
-- Whom a message has reached and who has read it, of those who were members then, without its author, by user id; when
-- there may be more, the place to go on from. At most looks spans are looked at, so there may be fewer than size, and a
-- place. A time is that of the first mark at or after the message (whoever has read it, it has reached): up to a second early,
-- in large threads a minute, but never before the message.
-- No row when there is no such message that the caller may see.
-- params: user_id, thread_id, seq, after_id, after_rev (the span where the last page ended, exclusive), looks (more than
--         size), size (1 to 100)
-- route:  GET /api/threads/<thread_id:id>/messages/<seq:id>/receipts
-- plan:   memberships_open/memberships_mine, messages_pkey, memberships_pkey, users_pkey, marks_pkey; at most looks spans
--         and three marks for each
WITH message AS (
    SELECT m.author_id, m.created_at
    FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = :seq AND EXISTS (
        SELECT FROM sights s
        WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
), looked AS MATERIALIZED (
    SELECT o.user_id, o.joined_rev, o.joined_seq < :seq AND coalesce(o.left_seq >= :seq, true) AS present
    FROM memberships o
    WHERE o.thread_id = :thread_id AND (o.user_id, o.joined_rev) > (:after_id, :after_rev::bigint)
        AND EXISTS (SELECT FROM message)
    ORDER BY o.user_id, o.joined_rev
    LIMIT :looks
), reached AS (
    -- A person has come as far as in the best of their spans. The open mark of each is in the span.
    SELECT k.user_id, k.joined_rev,
        least((
            SELECT o.at FROM marks o
            WHERE o.thread_id = :thread_id AND o.user_id = k.user_id AND o.kind = 'delivered' AND o.seq >= :seq
            ORDER BY o.seq LIMIT 1), (
            SELECT o.at FROM marks o
            WHERE o.thread_id = :thread_id AND o.user_id = k.user_id AND o.kind = 'read' AND o.seq >= :seq
            ORDER BY o.seq LIMIT 1), (
            SELECT min(o.delivered_at) FROM memberships o
            WHERE o.thread_id = :thread_id AND o.user_id = k.user_id AND o.delivered_seq >= :seq)) AS delivered_at,
        CASE WHEN u.read_receipts THEN least((
            SELECT o.at FROM marks o
            WHERE o.thread_id = :thread_id AND o.user_id = k.user_id AND o.kind = 'read' AND o.seq >= :seq
            ORDER BY o.seq LIMIT 1), (
            SELECT min(o.seen_at) FROM memberships o
            WHERE o.thread_id = :thread_id AND o.user_id = k.user_id AND o.seen_seq >= :seq)) END AS read_at
    FROM looked k
    JOIN users u ON u.id = k.user_id
    JOIN message m ON m.author_id <> k.user_id
    WHERE k.present
), page AS (
    SELECT * FROM reached WHERE delivered_at IS NOT NULL
    ORDER BY user_id
    LIMIT :size::int + 1  -- one more tells whether there is a next page
), kept AS (
    SELECT * FROM page ORDER BY user_id LIMIT :size
), place AS (
    (SELECT user_id, joined_rev FROM kept WHERE (SELECT count(*) FROM page) > :size ORDER BY user_id DESC LIMIT 1)
    UNION ALL
    (SELECT user_id, joined_rev FROM looked
     WHERE (SELECT count(*) FROM page) <= :size AND (SELECT count(*) FROM looked) = :looks
     ORDER BY user_id DESC, joined_rev DESC LIMIT 1)
)
SELECT coalesce(string_agg('{"userId":' || k.user_id || ',"at":'
        || time_json(greatest(m.created_at, least(k.delivered_at, k.read_at))) || '}', ',' ORDER BY k.user_id), '') AS delivered,
    coalesce(string_agg('{"userId":' || k.user_id || ',"at":' || time_json(greatest(m.created_at, k.read_at)) || '}', ','
        ORDER BY k.user_id) FILTER (WHERE k.read_at IS NOT NULL), '') AS read,
    (SELECT user_id FROM place) AS last_id, (SELECT joined_rev FROM place) AS last_rev
FROM message m
LEFT JOIN kept k ON true
GROUP BY m.created_at;
