-- messages.sql: the log of a thread.
-- Writes messages, client_ids, the message changes, and thread_heads with them.
-- Every write locks in one order: the caller's membership, the message, the head of the thread. A
-- removal or deletion that commits while a statement waits for a lock is seen by it.

-- name: page_after :one
-- The page after a position.
-- items is the JSON of the messages, comma-separated; low and high their first and last seq (null when
-- there are none); first_seq and final_seq what the reader may see in all. No row when not a member.
-- params: user_id, thread_id, after (seq, exclusive), size (1 to 100), direction (1: items ascend, -1: they descend)
-- route:  GET /api/threads/<thread_id:id>/messages (hot: each thread opened, each scroll)
-- plan:   memberships_open/memberships_mine, messages_pkey, users_pkey; at most size messages of each stretch, no Seq Scan on messages
WITH door AS (
    SELECT d.thread_id, d.last_seq, d.last_rev FROM doors d WHERE d.user_id = :user_id AND d.thread_id = :thread_id
), sight AS (
    SELECT low, high FROM sights WHERE user_id = :user_id AND thread_id = :thread_id
), page AS (
    SELECT m.*
    FROM sight s
    CROSS JOIN LATERAL (
        SELECT m.* FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high AND m.seq > :after
        ORDER BY m.seq
        LIMIT :size) m
    ORDER BY m.seq
    LIMIT :size
), items AS (
    -- A quote outside the reader's stretches stays a bare seq: its lookup finds nothing.
    SELECT string_agg(message_json(p, a, q, qa, CASE WHEN p.author_id = :user_id THEN ',"status":"sent"' ELSE '' END),
            ',' ORDER BY p.seq * :direction::int) AS items,
        min(p.seq) AS low, max(p.seq) AS high
    FROM page p
    JOIN users a ON a.id = p.author_id
    LEFT JOIN LATERAL (
        SELECT m.* FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
            AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)) q ON true
    LEFT JOIN users qa ON qa.id = q.author_id
)
-- seqs are dense, so what lies before and after the page is told by the stretches alone.
SELECT coalesce(items.items, '') AS items, items.low, items.high, door.last_rev,
    (SELECT min(low) + 1 FROM sight) AS first_seq, (SELECT max(high) FROM sight) AS final_seq
FROM door, items;

-- name: page_before :one
-- The page before a position.
-- items is the JSON of the messages, comma-separated; low and high their first and last seq (null when
-- there are none); first_seq and final_seq what the reader may see in all. No row when not a member.
-- params: user_id, thread_id, before (seq, exclusive), size (1 to 100), direction (1: items ascend, -1: they descend)
-- route:  GET /api/threads/<thread_id:id>/messages (hot: each thread opened, each scroll)
-- plan:   memberships_open/memberships_mine, messages_pkey, users_pkey; at most size messages of each stretch, no Seq Scan on messages
WITH door AS (
    SELECT d.thread_id, d.last_seq, d.last_rev FROM doors d WHERE d.user_id = :user_id AND d.thread_id = :thread_id
), sight AS (
    SELECT low, high FROM sights WHERE user_id = :user_id AND thread_id = :thread_id
), page AS (
    SELECT m.*
    FROM sight s
    CROSS JOIN LATERAL (
        SELECT m.* FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high AND m.seq < :before
        ORDER BY m.seq DESC
        LIMIT :size) m
    ORDER BY m.seq DESC
    LIMIT :size
), items AS (
    -- A quote outside the reader's stretches stays a bare seq: its lookup finds nothing.
    SELECT string_agg(message_json(p, a, q, qa, CASE WHEN p.author_id = :user_id THEN ',"status":"sent"' ELSE '' END),
            ',' ORDER BY p.seq * :direction::int) AS items,
        min(p.seq) AS low, max(p.seq) AS high
    FROM page p
    JOIN users a ON a.id = p.author_id
    LEFT JOIN LATERAL (
        SELECT m.* FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
            AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)) q ON true
    LEFT JOIN users qa ON qa.id = q.author_id
)
-- seqs are dense, so what lies before and after the page is told by the stretches alone.
SELECT coalesce(items.items, '') AS items, items.low, items.high, door.last_rev,
    (SELECT min(low) + 1 FROM sight) AS first_seq, (SELECT max(high) FROM sight) AS final_seq
FROM door, items;

-- name: window :one
-- The window around a position (or the nearest one that may be seen), ascending: about half of it up to
-- there, half after it, and more of the one side where the other is short. Columns as for page_after.
-- params: user_id, thread_id, middle (seq), size (1 to 100)
-- route:  GET /api/threads/<thread_id:id>/messages
-- plan:   memberships_open/memberships_mine, messages_pkey, users_pkey; at most 2 x size messages of each stretch, no Seq Scan on messages
WITH door AS (
    SELECT d.thread_id, d.last_seq, d.last_rev FROM doors d WHERE d.user_id = :user_id AND d.thread_id = :thread_id
), sight AS (
    SELECT low, high FROM sights WHERE user_id = :user_id AND thread_id = :thread_id
), near AS (
    -- Up to a full window on either side.
    (SELECT m.seq
     FROM sight s
     CROSS JOIN LATERAL (
        SELECT m.seq FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high AND m.seq <= :middle
        ORDER BY m.seq DESC
        LIMIT :size) m
     ORDER BY m.seq DESC LIMIT :size)
    UNION ALL
    (SELECT m.seq
     FROM sight s
     CROSS JOIN LATERAL (
        SELECT m.seq FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high AND m.seq > :middle
        ORDER BY m.seq
        LIMIT :size) m
     ORDER BY m.seq LIMIT :size)
), nearest AS (
    -- The middle itself, unless it lies outside the reader's stretches.
    SELECT seq FROM near ORDER BY abs(seq - :middle), seq LIMIT 1
), side AS (
    -- Numbered outwards from the nearest, which counts as older.
    SELECT n.seq, n.seq <= c.seq AS older,
        row_number() OVER (PARTITION BY n.seq <= c.seq ORDER BY abs(n.seq - c.seq)) AS step
    FROM near n, nearest c
), share AS (
    SELECT :size::int - least(count(*) FILTER (WHERE NOT older), :size::int / 2) AS older,
        :size::int - least(count(*) FILTER (WHERE older), :size::int - :size::int / 2) AS newer
    FROM side
), page AS (
    SELECT m.*
    FROM share, side n
    JOIN messages m ON m.thread_id = :thread_id AND m.seq = n.seq
    WHERE n.step <= CASE WHEN n.older THEN share.older ELSE share.newer END
), items AS (
    -- A quote outside the reader's stretches stays a bare seq: its lookup finds nothing.
    SELECT string_agg(message_json(p, a, q, qa, CASE WHEN p.author_id = :user_id THEN ',"status":"sent"' ELSE '' END),
            ',' ORDER BY p.seq) AS items,
        min(p.seq) AS low, max(p.seq) AS high
    FROM page p
    JOIN users a ON a.id = p.author_id
    LEFT JOIN LATERAL (
        SELECT m.* FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
            AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)) q ON true
    LEFT JOIN users qa ON qa.id = q.author_id
)
-- seqs are dense, so what lies before and after the page is told by the stretches alone.
SELECT coalesce(items.items, '') AS items, items.low, items.high, door.last_rev,
    (SELECT min(low) + 1 FROM sight) AS first_seq, (SELECT max(high) FROM sight) AS final_seq
FROM door, items;

-- name: seq_at :value
-- The first message at or after a moment that the reader may see, by halving: createdAt never decreases
-- with seq, so no index on it is needed. A seq beyond what they may see when all of that is earlier: when
-- the messages in between were written is not told. No row when not a member.
-- params: user_id, thread_id, moment (timestamptz)
-- route:  GET /api/threads/<thread_id:id>/messages
-- plan:   memberships_open/memberships_mine, messages_pkey; as many single rows as the length has binary digits
WITH RECURSIVE halves AS (
    SELECT 1::bigint AS low, d.last_seq + 1 AS high
    FROM doors d
    WHERE d.user_id = :user_id AND d.thread_id = :thread_id
    UNION ALL
    SELECT CASE WHEN m.created_at < :moment THEN m.seq + 1 ELSE h.low END,
        CASE WHEN m.created_at < :moment THEN h.high ELSE m.seq END
    FROM halves h
    JOIN messages m ON m.thread_id = :thread_id AND m.seq = (h.low + h.high) / 2
    WHERE h.low < h.high
)
SELECT coalesce(
    (SELECT min(greatest(h.low, s.low + 1))
     FROM sights s
     WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND s.high >= h.low), h.low)
FROM halves h
WHERE h.low = h.high;

-- name: get :json
-- One message. No row when there is none that the reader may see.
-- params: user_id, thread_id, seq
-- route:  GET /api/threads/<thread_id:id>/messages/<seq:id>
-- plan:   memberships_open/memberships_mine, messages_pkey; one row
WITH sight AS (
    SELECT low, high FROM sights WHERE user_id = :user_id AND thread_id = :thread_id
)
SELECT message_json(p, a, q, qa, CASE WHEN p.author_id = :user_id THEN ',"status":"sent"' ELSE '' END)
FROM messages p
JOIN users a ON a.id = p.author_id
LEFT JOIN LATERAL (
    SELECT m.* FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
        AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)) q ON true
LEFT JOIN users qa ON qa.id = q.author_id
WHERE p.thread_id = :thread_id AND p.seq = :seq
    AND EXISTS (SELECT FROM sight s WHERE :seq > s.low AND :seq <= s.high);

-- name: send :one
-- One message more, or the one that this client id has made before (sent false): decided here, inside
-- the transaction. message is its shared form; bare the same with the quote as a bare seq (null when it
-- quotes nothing); same whether the body is the one first sent; quotable false when reply_to is nothing
-- the sender may see, blocked true when the other one of a direct thread has blocked them (then nothing is
-- sent). No row when not a member. Raises client_ids_pkey when the
-- same client id has committed while this waited: then `replay` answers.
-- params: user_id, thread_id, text, reply_to (seq or null), client_id (text or null), body_hash (bytea)
-- route:  POST /api/threads/<thread_id:id>/messages (hot: each send)
-- plan:   memberships_open/memberships_mine, client_ids_pkey, thread_heads_pkey, users_pkey; one row each
-- locks:  the sender's membership, the quoted message (shared: a steady stream of replies can hold up its
--         deletion), then the head of the thread
WITH door AS (
    -- Locked: two sends of one person queue here, and a removal or block that wins the race is seen.
    SELECT m.thread_id, m.user_id, m.joined_rev, m.blocked
    FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
        -- For a retry in a deleted thread: only a new message meets the condition of head.
        AND EXISTS (SELECT FROM thread_heads h WHERE h.thread_id = m.thread_id AND h.deleted_at IS NULL)
    FOR NO KEY UPDATE
), seen AS (
    SELECT c.seq, c.body_hash
    FROM client_ids c
    WHERE c.thread_id = :thread_id AND c.author_id = :user_id AND c.client_id = :client_id::text
), quoted AS (
    -- Locked: an edit or deletion of it that commits first, and so has the earlier rev, is seen.
    SELECT m.*
    FROM messages m
    JOIN sights s ON s.user_id = :user_id AND s.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high
    WHERE m.thread_id = :thread_id AND m.seq = :reply_to::bigint
    FOR SHARE OF m
), head AS (
    -- The lock that orders the thread: under it seq and rev are dense and time does not go back.
    UPDATE thread_heads h
    SET last_seq = h.last_seq + 1, last_rev = h.last_rev + 1, message_count = h.message_count + 1,
        last_message_at = greatest(clock_timestamp(), h.last_message_at)
    FROM door
    WHERE h.thread_id = door.thread_id AND h.deleted_at IS NULL AND NOT door.blocked
        AND NOT EXISTS (SELECT FROM seen)
        AND (:reply_to::bigint IS NULL OR EXISTS (SELECT FROM quoted))
    RETURNING h.last_seq, h.last_rev, h.last_message_at
), once AS (
    INSERT INTO client_ids (thread_id, author_id, client_id, seq, body_hash)
    SELECT :thread_id, :user_id, :client_id::text, last_seq, :body_hash FROM head WHERE :client_id::text IS NOT NULL
), message AS (
    INSERT INTO messages (thread_id, seq, rev, author_id, reply_to, client_id, text, created_at)
    SELECT :thread_id, last_seq, last_rev, :user_id, :reply_to::bigint, :client_id::text, :text, last_message_at
    FROM head
    RETURNING *
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message', last_seq FROM head
), read AS (
    -- Who answers has read.
    UPDATE memberships m SET read_seq = head.last_seq
    FROM head, door
    WHERE m.thread_id = door.thread_id AND m.user_id = door.user_id AND m.joined_rev = door.joined_rev
), entry AS (
    SELECT m.* FROM message m
    UNION ALL
    SELECT m.* FROM seen JOIN messages m ON m.thread_id = :thread_id AND m.seq = seen.seq
)
SELECT EXISTS (SELECT FROM head) AS sent, e.seq, e.rev, e.reply_to,
    message_json(e, a, q, qa, '') AS message,
    CASE WHEN e.reply_to IS NOT NULL THEN message_json(e, a, NULL, NULL, '') END AS bare,
    (SELECT body_hash FROM seen) IS NOT DISTINCT FROM :body_hash AS same,
    (:reply_to::bigint IS NULL OR EXISTS (SELECT FROM quoted)) AS quotable, door.blocked
FROM door
LEFT JOIN entry e ON true
LEFT JOIN users a ON a.id = e.author_id
LEFT JOIN quoted q ON q.seq = e.reply_to
LEFT JOIN users qa ON qa.id = q.author_id;

-- name: replay :one
-- The message an author has made with this client id, as it now is; columns as for send. No row
-- when not a member (any more) or when there is none.
-- params: user_id, thread_id, client_id, body_hash (bytea)
-- route:  POST /api/threads/<thread_id:id>/messages (only after a duplicate raced)
-- plan:   memberships_open/memberships_mine, client_ids_pkey, messages_pkey; one row each
WITH sight AS (
    SELECT low, high FROM sights WHERE user_id = :user_id AND thread_id = :thread_id
)
SELECT false AS sent, p.seq, p.rev, p.reply_to, message_json(p, a, q, qa, '') AS message, NULL AS bare,
    c.body_hash = :body_hash AS same, true AS quotable, false AS blocked
FROM doors d
JOIN client_ids c ON c.thread_id = d.thread_id AND c.author_id = d.user_id AND c.client_id = :client_id
JOIN messages p ON p.thread_id = :thread_id AND p.seq = c.seq
JOIN users a ON a.id = p.author_id
LEFT JOIN LATERAL (
    SELECT m.* FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
        AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)) q ON true
LEFT JOIN users qa ON qa.id = q.author_id
WHERE d.user_id = :user_id AND d.thread_id = :thread_id;

-- name: edit :one
-- Another text for one's own message; the same text changes nothing (rev null). own, deleted, blocked (by the
-- other one of a direct thread) and gone (the thread was deleted while this waited) tell why else nothing has
-- changed. No row when there is
-- none that the caller may see.
-- params: user_id, thread_id, seq, text
-- route:  PATCH /api/threads/<thread_id:id>/messages/<seq:id>
-- plan:   memberships_open/memberships_mine, messages_pkey, thread_heads_pkey; one row each
-- locks:  the caller's membership, the message, the head of the thread
WITH door AS (
    SELECT m.thread_id, m.blocked FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
    FOR NO KEY UPDATE
), target AS (
    SELECT m.*
    FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = :seq AND EXISTS (SELECT FROM door)
        AND EXISTS (
            SELECT FROM sights s
            WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
    FOR NO KEY UPDATE OF m
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1
    FROM target t, door
    WHERE h.thread_id = t.thread_id AND h.deleted_at IS NULL AND NOT door.blocked
        AND t.author_id = :user_id AND t.deleted_at IS NULL AND t.text <> :text
    RETURNING h.last_rev
), message AS (
    UPDATE messages m SET text = :text, rev = head.last_rev, edited_at = clock_timestamp()
    FROM head
    WHERE m.thread_id = :thread_id AND m.seq = :seq
    RETURNING m.*
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message_updated', :seq FROM head
), entry AS (
    SELECT m.* FROM message m
    UNION ALL
    SELECT t.* FROM target t WHERE NOT EXISTS (SELECT FROM head)
)
SELECT head.last_rev AS rev, e.author_id = :user_id AS own, e.deleted_at IS NOT NULL AS deleted,
    (SELECT blocked FROM door) AS blocked,
    head.last_rev IS NULL AND e.author_id = :user_id AND e.deleted_at IS NULL AND e.text <> :text AS gone,
    message_json(e, a, q, qa, ',"status":"sent"') AS message
FROM entry e
JOIN users a ON a.id = e.author_id
LEFT JOIN head ON true
LEFT JOIN LATERAL (
    SELECT m.* FROM messages m
    JOIN sights s ON s.user_id = :user_id AND s.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high
    WHERE m.thread_id = :thread_id AND m.seq = e.reply_to) q ON true
LEFT JOIN users qa ON qa.id = q.author_id;

-- name: remove :one
-- Takes the text of a message away; its place stays. rev is null when nothing has changed: deleted
-- already, not allowed (allowed false), or gone (the thread was deleted while this waited). No row when
-- there is none that the caller may see.
-- params: user_id, thread_id, seq
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>
-- plan:   memberships_open/memberships_mine, messages_pkey, thread_heads_pkey; one row each
-- locks:  the caller's membership, the message, the head of the thread
WITH door AS (
    SELECT m.thread_id, m.role FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
    FOR NO KEY UPDATE
), target AS (
    SELECT m.thread_id, m.seq, m.deleted_at, m.author_id = :user_id OR door.role <> 'member' AS allowed
    FROM door
    JOIN messages m ON m.thread_id = door.thread_id AND m.seq = :seq
    WHERE EXISTS (
        SELECT FROM sights s
        WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
    FOR NO KEY UPDATE OF m
), head AS (
    UPDATE thread_heads h
    SET last_rev = h.last_rev + 1, message_count = h.message_count - 1,
        last_deleted_seq = greatest(h.last_deleted_seq, :seq)
    FROM target t
    WHERE h.thread_id = t.thread_id AND h.deleted_at IS NULL AND t.allowed AND t.deleted_at IS NULL
    RETURNING h.last_rev
), message AS (
    UPDATE messages m SET text = '', rev = head.last_rev, deleted_at = clock_timestamp()
    FROM head
    WHERE m.thread_id = :thread_id AND m.seq = :seq
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message_updated', :seq FROM head
)
SELECT head.last_rev AS rev, t.allowed, t.allowed AND t.deleted_at IS NULL AND head.last_rev IS NULL AS gone
FROM target t
LEFT JOIN head ON true;
