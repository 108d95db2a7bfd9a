-- messages.sql: the log of a thread.
-- Writes messages, client_ids, mentions, message_edits, deletions, the message changes, and thread_heads and conversations
-- (else: inbox.sql) with them; the
-- sender's cursors and marks (else: receipts.sql); takes reactions and pins away with a message (else: reactions.sql,
-- pins.sql).
-- OFFSET 0 keeps a lookup one: joined freely, a plan made while a thread was thought short reads all of it for each row.
-- Every write locks in one order: the caller's membership, the message, the head of the thread. A
-- removal or deletion that commits while a statement waits for a lock is seen by it.

-- name: page_after :one
-- The page after a position.
-- items is the JSON of the messages, comma-separated; low and high their first and last seq (null when
-- there are none); first_seq and final_seq what the reader may see in all, which is after archived_seq. No row when not
-- a member.
-- params: user_id, thread_id, after (seq, exclusive), size (1 to 100), direction (1: items ascend, -1: they descend)
-- route:  GET /api/threads/<thread_id:id>/messages (hot: each thread opened, each scroll)
-- plan:   memberships_open/memberships_mine, messages_pkey, users_pkey; at most size messages of each stretch, no Seq Scan on messages
WITH door AS MATERIALIZED (
    SELECT d.history, d.last_seq, d.last_rev, d.archived_seq FROM door(:user_id, :thread_id) d
), sight AS MATERIALIZED (
    -- As the view sights, from the door that is open already.
    SELECT s.low, s.high FROM door d, stretches(:user_id, :thread_id, d.history, d.archived_seq, d.last_seq) s
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
), reach AS MATERIALIZED (
    -- Asked once, for the status of the reader's own messages; not at all when there are none.
    SELECT * FROM reach_of_others(:thread_id, :user_id)
), quoted AS MATERIALIZED (
    -- Most are of the page itself, each of the others is a lookup. Not all of them by one scan with ANY: before Postgres 17
    -- a plan may read the whole thread for that. Outside the reader's stretches a quote stays a bare seq.
    SELECT p.* FROM page p WHERE p.seq = ANY (ARRAY(SELECT o.reply_to FROM page o WHERE o.reply_to IS NOT NULL))
    UNION ALL
    SELECT m.*
    FROM (SELECT DISTINCT p.reply_to AS seq FROM page p WHERE p.reply_to <> ALL (ARRAY(SELECT o.seq FROM page o))) other
    CROSS JOIN LATERAL (SELECT o.* FROM messages o WHERE o.thread_id = :thread_id AND o.seq = other.seq OFFSET 0) m
    WHERE EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)
), author AS MATERIALIZED (
    -- Each once and not for each message, whatever the planner thinks: a lookup costs more the more people there are.
    SELECT u.id, u AS account FROM users u
    WHERE u.id = ANY (ARRAY(SELECT p.author_id FROM page p UNION SELECT q.author_id FROM quoted q))
), items AS (
    SELECT string_agg(message_json(p, a.account, q, qa.account, CASE WHEN p.reactions IS NOT NULL THEN reactions_for(p, :user_id) END,
            CASE WHEN p.author_id = :user_id THEN (
                SELECT status_of(p.seq, min(r.delivered), min(r.seen)) FROM reach r WHERE p.seq > r.low AND p.seq <= r.high)
                ELSE '' END),
            ',' ORDER BY p.seq * :direction::int) AS items,
        min(p.seq) AS low, max(p.seq) AS high
    FROM page p
    JOIN author a ON a.id = p.author_id
    LEFT JOIN quoted q ON q.seq = p.reply_to
    LEFT JOIN author qa ON qa.id = q.author_id
)
-- seqs are dense, so what lies before and after the page is told by the stretches alone.
SELECT coalesce(items.items, '') AS items, items.low, items.high, door.last_rev, door.archived_seq,
    (SELECT min(low) + 1 FROM sight) AS first_seq, (SELECT max(high) FROM sight) AS final_seq
FROM door, items;

-- name: page_before :one
-- The page before a position.
-- items is the JSON of the messages, comma-separated; low and high their first and last seq (null when
-- there are none); first_seq and final_seq what the reader may see in all. No row when not a member.
-- params: user_id, thread_id, before (seq, exclusive), size (1 to 100), direction (1: items ascend, -1: they descend)
-- route:  GET /api/threads/<thread_id:id>/messages (hot: each thread opened, each scroll)
-- plan:   memberships_open/memberships_mine, messages_pkey, users_pkey; at most size messages of each stretch, no Seq Scan on messages
WITH door AS MATERIALIZED (
    SELECT d.history, d.last_seq, d.last_rev, d.archived_seq FROM door(:user_id, :thread_id) d
), sight AS MATERIALIZED (
    -- As the view sights, from the door that is open already.
    SELECT s.low, s.high FROM door d, stretches(:user_id, :thread_id, d.history, d.archived_seq, d.last_seq) s
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
), reach AS MATERIALIZED (
    -- Asked once, for the status of the reader's own messages; not at all when there are none.
    SELECT * FROM reach_of_others(:thread_id, :user_id)
), quoted AS MATERIALIZED (
    -- Most are of the page itself, each of the others is a lookup. Not all of them by one scan with ANY: before Postgres 17
    -- a plan may read the whole thread for that. Outside the reader's stretches a quote stays a bare seq.
    SELECT p.* FROM page p WHERE p.seq = ANY (ARRAY(SELECT o.reply_to FROM page o WHERE o.reply_to IS NOT NULL))
    UNION ALL
    SELECT m.*
    FROM (SELECT DISTINCT p.reply_to AS seq FROM page p WHERE p.reply_to <> ALL (ARRAY(SELECT o.seq FROM page o))) other
    CROSS JOIN LATERAL (SELECT o.* FROM messages o WHERE o.thread_id = :thread_id AND o.seq = other.seq OFFSET 0) m
    WHERE EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)
), author AS MATERIALIZED (
    -- Each once and not for each message, whatever the planner thinks: a lookup costs more the more people there are.
    SELECT u.id, u AS account FROM users u
    WHERE u.id = ANY (ARRAY(SELECT p.author_id FROM page p UNION SELECT q.author_id FROM quoted q))
), items AS (
    SELECT string_agg(message_json(p, a.account, q, qa.account, CASE WHEN p.reactions IS NOT NULL THEN reactions_for(p, :user_id) END,
            CASE WHEN p.author_id = :user_id THEN (
                SELECT status_of(p.seq, min(r.delivered), min(r.seen)) FROM reach r WHERE p.seq > r.low AND p.seq <= r.high)
                ELSE '' END),
            ',' ORDER BY p.seq * :direction::int) AS items,
        min(p.seq) AS low, max(p.seq) AS high
    FROM page p
    JOIN author a ON a.id = p.author_id
    LEFT JOIN quoted q ON q.seq = p.reply_to
    LEFT JOIN author qa ON qa.id = q.author_id
)
-- seqs are dense, so what lies before and after the page is told by the stretches alone.
SELECT coalesce(items.items, '') AS items, items.low, items.high, door.last_rev, door.archived_seq,
    (SELECT min(low) + 1 FROM sight) AS first_seq, (SELECT max(high) FROM sight) AS final_seq
FROM door, items;

-- name: window :one
-- The window around a position (or the nearest one that may be seen), ascending: about half of it up to
-- there, half after it, and more of the one side where the other is short. Columns as for page_after.
-- params: user_id, thread_id, middle (seq), size (1 to 100)
-- route:  GET /api/threads/<thread_id:id>/messages
-- plan:   memberships_open/memberships_mine, messages_pkey, users_pkey; at most size messages of each stretch, no Seq Scan on messages
WITH door AS MATERIALIZED (
    SELECT d.history, d.last_seq, d.last_rev, d.archived_seq FROM door(:user_id, :thread_id) d
), sight AS MATERIALIZED (
    -- As the view sights, from the door that is open already.
    SELECT s.low, s.high FROM door d, stretches(:user_id, :thread_id, d.history, d.archived_seq, d.last_seq) s
), near AS (
    -- Up to a full window on either side. Seqs are dense: no row is looked at for that.
    (SELECT n.seq
     FROM sight s
     CROSS JOIN LATERAL generate_series(
        greatest(s.low + 1, least(s.high, :middle) - :size::int + 1), least(s.high, :middle)) n (seq)
     ORDER BY n.seq DESC LIMIT :size)
    UNION ALL
    (SELECT n.seq
     FROM sight s
     CROSS JOIN LATERAL (SELECT greatest(s.low, least(s.high, :middle)) AS middle) at
     CROSS JOIN LATERAL generate_series(at.middle + 1, least(s.high, at.middle + :size::int)) n (seq)
     ORDER BY n.seq LIMIT :size)
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
), span AS (
    SELECT min(n.seq) AS low, max(n.seq) AS high
    FROM share, side n
    WHERE n.step <= CASE WHEN n.older THEN share.older ELSE share.newer END
), page AS (
    -- One walk from the first to the last, not a lookup of each: nothing that may be seen lies between them unchosen.
    SELECT m.*
    FROM span, sight s
    CROSS JOIN LATERAL (
        SELECT m.* FROM messages m
        WHERE m.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high AND m.seq >= span.low AND m.seq <= span.high
        ORDER BY m.seq
        LIMIT :size) m
), reach AS MATERIALIZED (
    -- Asked once, for the status of the reader's own messages; not at all when there are none.
    SELECT * FROM reach_of_others(:thread_id, :user_id)
), quoted AS MATERIALIZED (
    -- Most are of the page itself, each of the others is a lookup. Not all of them by one scan with ANY: before Postgres 17
    -- a plan may read the whole thread for that. Outside the reader's stretches a quote stays a bare seq.
    SELECT p.* FROM page p WHERE p.seq = ANY (ARRAY(SELECT o.reply_to FROM page o WHERE o.reply_to IS NOT NULL))
    UNION ALL
    SELECT m.*
    FROM (SELECT DISTINCT p.reply_to AS seq FROM page p WHERE p.reply_to <> ALL (ARRAY(SELECT o.seq FROM page o))) other
    CROSS JOIN LATERAL (SELECT o.* FROM messages o WHERE o.thread_id = :thread_id AND o.seq = other.seq OFFSET 0) m
    WHERE EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high)
), author AS MATERIALIZED (
    -- Each once and not for each message, whatever the planner thinks: a lookup costs more the more people there are.
    SELECT u.id, u AS account FROM users u
    WHERE u.id = ANY (ARRAY(SELECT p.author_id FROM page p UNION SELECT q.author_id FROM quoted q))
), items AS (
    SELECT string_agg(message_json(p, a.account, q, qa.account, CASE WHEN p.reactions IS NOT NULL THEN reactions_for(p, :user_id) END,
            CASE WHEN p.author_id = :user_id THEN (
                SELECT status_of(p.seq, min(r.delivered), min(r.seen)) FROM reach r WHERE p.seq > r.low AND p.seq <= r.high)
                ELSE '' END),
            ',' ORDER BY p.seq) AS items,
        min(p.seq) AS low, max(p.seq) AS high
    FROM page p
    JOIN author a ON a.id = p.author_id
    LEFT JOIN quoted q ON q.seq = p.reply_to
    LEFT JOIN author qa ON qa.id = q.author_id
)
-- seqs are dense, so what lies before and after the page is told by the stretches alone.
SELECT coalesce(items.items, '') AS items, items.low, items.high, door.last_rev, door.archived_seq,
    (SELECT min(low) + 1 FROM sight) AS first_seq, (SELECT max(high) FROM sight) AS final_seq
FROM door, items;

-- name: seq_at :value
-- The first message at or after a moment that the reader may see, by halving: createdAt never decreases
-- with seq, so no index on it is needed. The first that is not archived, when all others are later. A seq beyond what
-- they may see when all of that is earlier: when the messages in between were written is not told. No row when not a
-- member.
-- params: user_id, thread_id, moment (timestamptz)
-- route:  GET /api/threads/<thread_id:id>/messages
-- plan:   memberships_open/memberships_mine, messages_pkey; as many single rows as the length has binary digits
WITH RECURSIVE halves AS (
    SELECT d.archived_seq + 1 AS low, d.last_seq + 1 AS high
    FROM doors d
    WHERE d.user_id = :user_id AND d.thread_id = :thread_id
    UNION ALL
    SELECT CASE WHEN m.created_at < :moment THEN m.seq + 1 ELSE h.low END,
        CASE WHEN m.created_at < :moment THEN h.high ELSE m.seq END
    FROM halves h
    CROSS JOIN LATERAL (
        SELECT seq, created_at FROM messages WHERE thread_id = :thread_id AND seq = (h.low + h.high) / 2 OFFSET 0) m
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
SELECT message_json(p, a, q, qa, CASE WHEN p.reactions IS NOT NULL THEN reactions_for(p, :user_id) END,
    CASE WHEN p.author_id = :user_id THEN (
        SELECT status_of(p.seq, min(r.delivered), min(r.seen)) FROM reach_of_others(:thread_id, :user_id) r
        WHERE p.seq > r.low AND p.seq <= r.high) ELSE '' END)
FROM messages p
JOIN users a ON a.id = p.author_id
LEFT JOIN LATERAL (
    SELECT m.* FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
        AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high) OFFSET 0) q ON true
LEFT JOIN users qa ON qa.id = q.author_id
WHERE p.thread_id = :thread_id AND p.seq = :seq
    AND EXISTS (SELECT FROM sight s WHERE :seq > s.low AND :seq <= s.high);

-- name: archived :value
-- True when there is such a message, which the caller could see if it were not archived. No row for all others.
-- params: user_id, thread_id, seq
-- route:  POST /api/threads/<thread_id:id>/messages (here and below: only after it was not found)
-- route:  GET /api/threads/<thread_id:id>/messages/<seq:id>
-- route:  PATCH /api/threads/<thread_id:id>/messages/<seq:id>
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>
-- route:  GET /api/threads/<thread_id:id>/messages/<seq:id>/edits
-- route:  GET /api/threads/<thread_id:id>/messages/<seq:id>/receipts
-- route:  PUT /api/threads/<thread_id:id>/messages/<seq:id>/reactions/<emoji:str>
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>/reactions/<emoji:str>
-- route:  PUT /api/threads/<thread_id:id>/messages/<seq:id>/pin
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>/pin
-- plan:   memberships_open/memberships_mine, memberships_pkey; one row for each span
SELECT true
FROM doors d
WHERE d.user_id = :user_id AND d.thread_id = :thread_id AND :seq::bigint <= d.archived_seq
    AND (d.history = 'all' OR EXISTS (
        SELECT FROM memberships s
        WHERE s.thread_id = d.thread_id AND s.user_id = d.user_id
            AND s.joined_seq < :seq AND coalesce(s.left_seq, d.last_seq) >= :seq));

-- name: send :one
-- One message more, or the one that this client id has made before (sent false): decided here, inside
-- the transaction. message is its shared form; bare the same with the quote as a bare seq (null when it
-- quotes nothing); same whether the body is the one first sent; quotable false when reply_to is nothing
-- the sender may see, blocked true when the other one of a direct thread has blocked them (then nothing is
-- sent); known the seq of the message that this client id has made, which is archived where message is null. shown tells
-- others that the sender has read what was before it, or, false, that it has reached them; null: nothing new. No row
-- when not a member. Raises client_ids_pkey when the same client id has committed while this waited: then `replay`
-- answers.
-- params: user_id, thread_id, text, reply_to (seq or null), client_id (text or null), body_hash (bytea),
--         handles (text[]: who is mentioned if they are members)
-- route:  POST /api/threads/<thread_id:id>/messages (hot: each send)
-- plan:   memberships_open/memberships_mine, client_ids_pkey, thread_heads_pkey, users_pkey, conversations_pkey; one row
--         each, and in members_named one of three indexes for each handle
-- locks:  the sender's membership, the quoted message (shared: a steady stream of replies can hold up its
--         deletion), then the head of the thread, of a contact thread its conversation
WITH door AS (
    -- Locked: two sends of one person queue here, and a removal or block that wins the race is seen.
    SELECT m.thread_id, m.user_id, m.joined_rev, m.blocked, m.seen_seq, m.seen_at, m.delivered_seq, m.delivered_at,
        u.read_receipts, clock_timestamp() AS now
    FROM memberships m
    JOIN users u ON u.id = m.user_id
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
        -- For a retry in a deleted thread: only a new message meets the condition of head.
        AND EXISTS (SELECT FROM thread_heads h WHERE h.thread_id = m.thread_id AND h.deleted_at IS NULL)
    FOR NO KEY UPDATE OF m
), seen AS (
    SELECT c.seq, c.body_hash
    FROM client_ids c
    WHERE c.thread_id = :thread_id AND c.author_id = :user_id AND c.client_id = :client_id::text
), quoted AS (
    -- Locked: an edit or deletion of it that commits first, and so has the earlier rev, is seen.
    SELECT m.*
    FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = :reply_to::bigint AND EXISTS (
        SELECT FROM sights s
        WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high)
    FOR SHARE OF m
), mentioned AS MATERIALIZED (
    SELECT members_named(:thread_id, :user_id, nullif(:handles::text[], '{}')) AS ids
), head AS (
    -- The lock that orders the thread: under it seq and rev are dense and time does not go back.
    UPDATE thread_heads h
    SET last_seq = h.last_seq + 1, last_rev = h.last_rev + 1, message_count = h.message_count + 1,
        last_xid = pg_current_xact_id(), last_message_at = greatest(clock_timestamp(), h.last_message_at)
    FROM door
    WHERE h.thread_id = door.thread_id AND h.deleted_at IS NULL AND NOT door.blocked
        AND NOT EXISTS (SELECT FROM seen)
        AND (:reply_to::bigint IS NULL OR EXISTS (SELECT FROM quoted))
    RETURNING h.last_seq, h.last_rev, h.last_message_at, h.member_count
), conversation AS (
    -- Of a contact thread its place in the inbox, and what is shown of it there; what the contact says opens it again.
    UPDATE conversations n
    SET last_at = head.last_message_at, last_seq = head.last_seq, last_author_id = :user_id, content = left(:text, 200),
        status = CASE WHEN n.contact_id = :user_id THEN 'open' ELSE n.status END,
        snoozed_until = CASE WHEN n.contact_id = :user_id THEN NULL ELSE n.snoozed_until END
    FROM head
    WHERE n.thread_id = :thread_id
), once AS (
    INSERT INTO client_ids (thread_id, author_id, client_id, seq, body_hash)
    SELECT :thread_id, :user_id, :client_id::text, last_seq, :body_hash FROM head WHERE :client_id::text IS NOT NULL
), message AS (
    INSERT INTO messages (thread_id, seq, rev, author_id, reply_to, client_id, text, created_at, mentions)
    SELECT :thread_id, last_seq, last_rev, :user_id, :reply_to::bigint, :client_id::text, :text, last_message_at,
        mentioned.ids
    FROM head, mentioned
    RETURNING *
), mention AS (
    INSERT INTO mentions (thread_id, user_id, seq)
    SELECT :thread_id, unnest(mentioned.ids), head.last_seq FROM head, mentioned
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message', last_seq FROM head
), read AS (
    -- Who answers has read, and others may know it if they may know of any reading.
    UPDATE memberships m
    SET read_seq = head.last_seq, delivered_seq = head.last_seq,
        delivered_at = CASE WHEN door.now < door.delivered_at + mark_lasts(head.member_count) THEN door.delivered_at
            ELSE door.now END,
        seen_seq = CASE WHEN door.read_receipts THEN head.last_seq ELSE door.seen_seq END,
        seen_at = CASE WHEN NOT door.read_receipts OR door.now < door.seen_at + mark_lasts(head.member_count)
            THEN door.seen_at ELSE door.now END
    FROM head, door
    WHERE m.thread_id = door.thread_id AND m.user_id = door.user_id AND m.joined_rev = door.joined_rev
), marked AS (
    INSERT INTO marks (thread_id, user_id, kind, seq, at)
    SELECT door.thread_id, door.user_id, old.kind, old.seq, old.at
    FROM head, door
    CROSS JOIN LATERAL (VALUES ('read', door.seen_seq, door.seen_at, door.read_receipts),
        ('delivered', door.delivered_seq, door.delivered_at, NOT (door.read_receipts
            AND (door.seen_seq, door.seen_at) = (door.delivered_seq, door.delivered_at)))) old (kind, seq, at, kept)
    WHERE old.kept AND door.now >= old.at + mark_lasts(head.member_count)
    ON CONFLICT ON CONSTRAINT marks_pkey DO NOTHING  -- of an earlier span that ended at the same place
), entry AS (
    SELECT m.* FROM message m
    UNION ALL
    SELECT m.* FROM seen
    CROSS JOIN LATERAL (SELECT * FROM messages WHERE thread_id = :thread_id AND seq = seen.seq OFFSET 0) m
)
SELECT head.last_seq IS NOT NULL AS sent, e.seq, e.rev, e.reply_to,
    message_json(e, a, q, qa, e.reactions::text, '') AS message,
    CASE WHEN e.reply_to IS NOT NULL THEN message_json(e, a, NULL, NULL, e.reactions::text, '') END AS bare,
    (SELECT body_hash FROM seen) IS NOT DISTINCT FROM :body_hash AS same,
    (:reply_to::bigint IS NULL OR EXISTS (SELECT FROM quoted)) AS quotable, door.blocked, (SELECT seq FROM seen) AS known,
    CASE WHEN is_small(head.member_count)
        AND CASE WHEN door.read_receipts THEN door.seen_seq ELSE door.delivered_seq END < head.last_seq - 1
        THEN door.read_receipts END AS shown
FROM door
LEFT JOIN head ON true
LEFT JOIN entry e ON true
LEFT JOIN users a ON a.id = e.author_id
LEFT JOIN quoted q ON q.seq = e.reply_to
LEFT JOIN users qa ON qa.id = q.author_id;

-- name: replay :one
-- The message an author has made with this client id, as it now is; columns as for send. No row
-- when not a member (any more) or when it has made none.
-- params: user_id, thread_id, client_id, body_hash (bytea)
-- route:  POST /api/threads/<thread_id:id>/messages (only after a duplicate raced)
-- plan:   memberships_open/memberships_mine, client_ids_pkey, messages_pkey; one row each
WITH sight AS (
    SELECT low, high FROM sights WHERE user_id = :user_id AND thread_id = :thread_id
)
SELECT false AS sent, p.seq, p.rev, p.reply_to, message_json(p, a, q, qa, p.reactions::text, '') AS message, NULL AS bare,
    c.body_hash = :body_hash AS same, true AS quotable, false AS blocked, c.seq AS known
FROM doors d
JOIN client_ids c ON c.thread_id = d.thread_id AND c.author_id = d.user_id AND c.client_id = :client_id
LEFT JOIN LATERAL (SELECT * FROM messages WHERE thread_id = :thread_id AND seq = c.seq OFFSET 0) p ON true
LEFT JOIN users a ON a.id = p.author_id
LEFT JOIN LATERAL (
    SELECT m.* FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = p.reply_to
        AND EXISTS (SELECT FROM sight s WHERE m.seq > s.low AND m.seq <= s.high) OFFSET 0) q ON true
LEFT JOIN users qa ON qa.id = q.author_id
WHERE d.user_id = :user_id AND d.thread_id = :thread_id;

-- name: edit :one
-- Another text for one's own message; the same text changes nothing (rev null). own, deleted, blocked (by the
-- other one of a direct thread) and gone (the thread was deleted while this waited) tell why else nothing has
-- changed. No row when there is
-- none that the caller may see.
-- params: user_id, thread_id, seq, text
-- route:  PATCH /api/threads/<thread_id:id>/messages/<seq:id>
-- plan:   memberships_open/memberships_mine, messages_pkey, thread_heads_pkey, conversations_pkey, message_edits_pkey; one row
--         each, and the places of the earlier texts
-- locks:  the caller's membership, the message, the head of the thread, the conversation
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
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM target t, door
    WHERE h.thread_id = t.thread_id AND h.deleted_at IS NULL AND NOT door.blocked
        AND t.author_id = :user_id AND t.deleted_at IS NULL AND t.text <> :text
    RETURNING h.last_rev
), message AS (
    UPDATE messages m SET text = :text, rev = head.last_rev, edited_at = clock_timestamp()
    FROM head
    WHERE m.thread_id = :thread_id AND m.seq = :seq
    RETURNING m.*
), conversation AS (
    UPDATE conversations n SET content = left(:text, 200)
    FROM head
    WHERE n.thread_id = :thread_id AND n.last_seq = :seq
), kept AS (
    -- What the message said until now, with the rev of its last change until now. Its text is that of the last edit.
    INSERT INTO message_edits (thread_id, seq, rev, text, at)
    SELECT t.thread_id, t.seq, t.rev, t.text, coalesce(t.edited_at, t.created_at) FROM target t, head
), dropped AS (
    -- The latest 1,000 are kept; this one is not among those that are seen here.
    DELETE FROM message_edits e USING head
    WHERE e.thread_id = :thread_id AND e.seq = :seq AND e.rev <= (
        SELECT o.rev FROM message_edits o
        WHERE o.thread_id = :thread_id AND o.seq = :seq
        ORDER BY o.rev DESC
        OFFSET 999 LIMIT 1)
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
    message_json(e, a, q, qa, CASE WHEN e.reactions IS NOT NULL THEN reactions_for(e, :user_id) END,
        (SELECT status_of(e.seq, min(r.delivered), min(r.seen)) FROM reach_of_others(:thread_id, :user_id) r
         WHERE e.seq > r.low AND e.seq <= r.high)) AS message
FROM entry e
JOIN users a ON a.id = e.author_id
LEFT JOIN head ON true
LEFT JOIN LATERAL (
    SELECT m.* FROM messages m
    WHERE m.thread_id = :thread_id AND m.seq = e.reply_to AND EXISTS (
        SELECT FROM sights s
        WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND m.seq > s.low AND m.seq <= s.high)
    OFFSET 0) q ON true
LEFT JOIN users qa ON qa.id = q.author_id;

-- name: edits :one
-- What a message has said before, the oldest first: JSON, and the rev to go on from. allowed: whether the caller may
-- know. Nothing of a deleted one. No row when there is none that the caller may see.
-- params: user_id, thread_id, seq, after_rev (exclusive), size (1 to 100)
-- route:  GET /api/threads/<thread_id:id>/messages/<seq:id>/edits
-- plan:   memberships_open/memberships_mine, messages_pkey, message_edits_pkey; at most size + 1 rows
WITH target AS (
    SELECT m.thread_id, m.seq, m.deleted_at, m.author_id = :user_id OR d.role <> 'member' AS allowed
    FROM doors d
    JOIN messages m ON m.thread_id = d.thread_id AND m.seq = :seq
    WHERE d.user_id = :user_id AND d.thread_id = :thread_id
        AND EXISTS (
            SELECT FROM sights s
            WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
), page AS (
    SELECT e.rev, e.text, e.at
    FROM target t
    JOIN message_edits e ON e.thread_id = :thread_id AND e.seq = :seq
    WHERE t.allowed AND t.deleted_at IS NULL AND e.rev > :after_rev
    ORDER BY e.rev
    LIMIT :size::int + 1
), kept AS (
    SELECT p.* FROM page p ORDER BY p.rev LIMIT :size
)
SELECT t.allowed,
    (SELECT coalesce('[' || string_agg('{"text":' || to_json(k.text)::text || ',"at":' || time_json(k.at) || '}', ','
            ORDER BY k.rev) || ']', '[]') FROM kept k) AS edits,
    (SELECT count(*) FROM page) > :size AS more,
    (SELECT max(k.rev) FROM kept k) AS last_rev
FROM target t;

-- name: remove :one
-- Takes the text of a message away; its place stays. rev is null when nothing has changed: deleted
-- already, not allowed (allowed false), or gone (the thread was deleted while this waited). No row when
-- there is none that the caller may see.
-- params: user_id, thread_id, seq
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>
-- plan:   memberships_open/memberships_mine, messages_pkey, thread_heads_pkey, conversations_pkey; one row each
-- locks:  the caller's membership, the message, the head of the thread, the conversation
WITH door AS (
    SELECT m.thread_id, m.role FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
    FOR NO KEY UPDATE
), target AS (
    SELECT m.thread_id, m.seq, m.deleted_at, m.mentions, m.author_id = :user_id OR door.role <> 'member' AS allowed
    FROM door
    JOIN messages m ON m.thread_id = door.thread_id AND m.seq = :seq
    WHERE EXISTS (
        SELECT FROM sights s
        WHERE s.user_id = :user_id AND s.thread_id = :thread_id AND :seq > s.low AND :seq <= s.high)
    FOR NO KEY UPDATE OF m
), head AS (
    UPDATE thread_heads h
    SET last_rev = h.last_rev + 1, message_count = h.message_count - 1, last_xid = pg_current_xact_id(),
        last_deleted_seq = greatest(h.last_deleted_seq, :seq)
    FROM target t
    WHERE h.thread_id = t.thread_id AND h.deleted_at IS NULL AND t.allowed AND t.deleted_at IS NULL
    RETURNING h.last_rev
), message AS (
    UPDATE messages m
    SET text = '', rev = head.last_rev, deleted_at = clock_timestamp(), mentions = NULL, reactions = NULL, pinned_at = NULL
    FROM head
    WHERE m.thread_id = :thread_id AND m.seq = :seq
), conversation AS (
    UPDATE conversations n
    SET last_deleted_seq = greatest(n.last_deleted_seq, :seq), content = CASE WHEN n.last_seq = :seq THEN '' ELSE n.content END
    FROM head
    WHERE n.thread_id = :thread_id
), counted AS (
    INSERT INTO deletions AS d (thread_id, level, block, count)
    SELECT :thread_id, level, :seq::bigint >> 7 * level, 1 FROM head, generate_series(1, 3) level
    ON CONFLICT ON CONSTRAINT deletions_pkey DO UPDATE SET count = d.count + 1
), unmentioned AS (
    DELETE FROM mentions n USING head, target t
    WHERE n.thread_id = :thread_id AND n.user_id = ANY(t.mentions) AND n.seq = :seq
), change AS (
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT :thread_id, last_rev, 'message_updated', :seq FROM head
)
SELECT head.last_rev AS rev, t.allowed, t.allowed AND t.deleted_at IS NULL AND head.last_rev IS NULL AS gone
FROM target t
LEFT JOIN head ON true;

-- name: forget :exec
-- What goes with a message that has just been deleted: its earlier texts, its reactions (the first 5,000, so that nobody
-- waits for long: messages.reactions is null, so nothing leads to the rest), its pin. A statement by itself, after `remove`
-- in its transaction: so it sees also what was committed while that waited for the message.
-- params: thread_id, seq
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>
-- plan:   message_edits_pkey, reactions_pkey, pins_pkey; those of one message, at most 1,000 texts and 5,000 reactions
-- locks:  these rows; the message is held
WITH texts AS (
    DELETE FROM message_edits e WHERE e.thread_id = :thread_id AND e.seq = :seq
), unreacted AS (
    -- By their places, which stay while the message is held: a join might read all of them for each.
    DELETE FROM reactions r
    WHERE r.ctid = ANY(ARRAY(
        SELECT o.ctid FROM reactions o
        WHERE o.thread_id = :thread_id AND o.seq = :seq
        ORDER BY o.user_id, o.emoji
        LIMIT 5000))
)
DELETE FROM pins p WHERE p.thread_id = :thread_id AND p.seq = :seq;
