-- search.sql: messages with a needle, the newest first.
-- Writes nothing. Where they may be, search_blocks says, which the indexer keeps (indexer.sql); whether they are there, and
-- whether the reader may see them, is decided by messages and sights. at is createdAt in microseconds; a place in the order
-- is (at, thread_id, seq).

-- name: steady :value
-- Each statement of the transaction is planned once: planning one of these takes longer than it runs.
-- params:
-- route:  GET /api/search (hot)
-- route:  GET /api/conversations
-- plan:   none
SELECT set_config('plan_cache_mode', 'force_generic_plan', true);

-- name: mine :one
-- The threads that somebody is in, at most size + 1, without those of contacts, and whether they are of the staff, who see
-- all of these.
-- params: user_id, size
-- route:  GET /api/search (hot)
-- plan:   users_pkey, memberships_own; at most size + 1 rows
SELECT u.role <> 'member' AND u.deactivated_at IS NULL AS staff, ARRAY(
    SELECT m.thread_id
    FROM memberships m
    WHERE m.user_id = u.id AND m.left_rev IS NULL AND m.joined_rev > 0  -- 0: in a thread of a contact
    LIMIT :size::int + 1) AS thread_ids
FROM users u
WHERE u.id = :user_id;

-- name: inside :value
-- Whether somebody is in a thread. No row when not.
-- params: user_id, thread_id
-- route:  GET /api/search
-- plan:   memberships_open/memberships_mine; one row
SELECT true FROM doors WHERE user_id = :user_id AND thread_id = :thread_id;

-- name: newest :many
-- The newest blocks that begin before a place, and when their last messages were sent (last_at).
-- params: at, thread_id, seq (exclusive), size
-- route:  GET /api/search (hot)
-- route:  GET /api/conversations
-- plan:   search_blocks_in_order; at most size rows
SELECT b.id, b.at, b.thread_id, b.seq, b.ats[cardinality(b.ats)] AS last_at
FROM search_blocks b
WHERE (b.at, b.thread_id, b.seq) < (:at, :thread_id, :seq)
ORDER BY b.at DESC, b.thread_id DESC, b.seq DESC
LIMIT :size;

-- name: likely :many
-- The newest blocks that begin before a place and have these lexemes: a message that has them all is in one of them.
-- params: at, thread_id, seq (exclusive), wanted (a tsquery, as text), size
-- route:  GET /api/search (hot)
-- route:  GET /api/conversations
-- plan:   search_grams_found, search_blocks_pkey; the blocks with these lexemes (wanted names months, which bound them)
SELECT b.id, b.at, b.thread_id, b.seq
FROM (
    SELECT DISTINCT g.block_id FROM search_grams g
    WHERE search_lexemes(g.grams) @@ :wanted::text::tsquery OFFSET 0) g
CROSS JOIN LATERAL (SELECT * FROM search_blocks WHERE id = g.block_id OFFSET 0) b
WHERE (b.at, b.thread_id, b.seq) < (:at, :thread_id, :seq)
ORDER BY b.at DESC, b.thread_id DESC, b.seq DESC
LIMIT :size;

-- name: hits :many
-- Messages of these blocks that have a part and all others, between two places, the newest first; of these threads and this
-- author, if any; none that lies outside the sight of user_id (null: whoever asks decides that). What somebody may not see
-- neither counts nor is a place: else by how much is found one could guess what it says. The text of a block is cut at the part: the marks before a cut tell in which message it is, so that the
-- many without it are not taken apart. [:] reads an array once, and not once for each of its elements.
-- params: user_id, ids (bigint[]), part (folded, as all), parts (text[]), low_at, at, thread_id, seq (exclusive),
--         thread_ids (bigint[]), author_id, size
-- route:  GET /api/search (hot)
-- route:  GET /api/conversations
-- plan:   search_blocks_pkey, memberships_open/memberships_mine; these blocks, and a door for each message found in them
--         until there are size
SELECT f.at, f.thread_id, f.seq
FROM (SELECT m.at, m.thread_id, m.seq
FROM (
    SELECT b.cuts, b.ats[:] AS ats, b.thread_ids[:] AS thread_ids, b.seqs[:] AS seqs,
        CASE WHEN :author_id::bigint IS NOT NULL THEN b.author_ids[:] END AS author_ids,
        CASE WHEN cardinality(:parts::text[]) > 0 THEN string_to_array(b.text, E'\x01') END AS texts
    FROM (SELECT *, string_to_array(text, :part) AS cuts FROM search_blocks WHERE id = ANY(:ids::bigint[]) OFFSET 0) b
    WHERE cardinality(b.cuts) > 1 OFFSET 0) b
CROSS JOIN LATERAL (
    SELECT DISTINCT 1 + sum(octet_length(c.cut) - octet_length(replace(c.cut, E'\x01', ''))) OVER (ORDER BY c.i)::int AS n
    FROM unnest(b.cuts) WITH ORDINALITY AS c (cut, i)
    WHERE c.i < cardinality(b.cuts) OFFSET 0) hit
CROSS JOIN LATERAL (
    SELECT b.ats[hit.n] AS at, b.thread_ids[hit.n] AS thread_id, b.seqs[hit.n] AS seq OFFSET 0) m
WHERE m.at >= :low_at AND (m.at, m.thread_id, m.seq) < (:at::bigint, :thread_id::bigint, :seq::bigint)
    AND (:thread_ids::bigint[] IS NULL OR m.thread_id = ANY(:thread_ids))
    AND (:author_id::bigint IS NULL OR b.author_ids[hit.n] = :author_id)
    AND (cardinality(:parts::text[]) = 0 OR NOT EXISTS (
        SELECT FROM unnest(:parts::text[]) AS more (part) WHERE strpos(b.texts[hit.n], more.part) = 0))
ORDER BY m.at DESC, m.thread_id DESC, m.seq DESC OFFSET 0) f
WHERE :user_id::bigint IS NULL OR EXISTS (
    SELECT FROM sights s
    WHERE s.user_id = :user_id AND s.thread_id = f.thread_id AND f.seq > s.low AND f.seq <= s.high)
LIMIT :size;

-- name: tell :many
-- Of these messages those that the reader may see, as they are now and in the given order, with their threads.
-- params: user_id, thread_ids (bigint[]), seqs (bigint[]; pairs)
-- route:  GET /api/search (hot)
-- plan:   memberships_open/memberships_mine, messages_pkey, users_pkey; one row of each for each message
SELECT m.thread_id, m.seq, m.text,
    message_json(m, a, q, qa, CASE WHEN m.reactions IS NOT NULL THEN reactions_for(m, :user_id) END,
        CASE WHEN m.author_id = :user_id THEN (
            SELECT status_of(m.seq, min(r.delivered), min(r.seen)) FROM reach_of_others(m.thread_id, :user_id) r
            WHERE m.seq > r.low AND m.seq <= r.high) ELSE '' END) AS message,
    '{"id":' || s.thread_id || ',"kind":"' || s.kind || '","title":' || coalesce(to_json(s.title)::text, 'null') || '}' AS thread
FROM unnest(:thread_ids::bigint[], :seqs::bigint[]) WITH ORDINALITY AS asked (thread_id, seq, n)
CROSS JOIN LATERAL (
    SELECT d.thread_id, d.kind, d.title FROM doors d
    WHERE d.user_id = :user_id AND d.thread_id = asked.thread_id AND EXISTS (
        SELECT FROM sights s
        WHERE s.user_id = :user_id AND s.thread_id = asked.thread_id AND asked.seq > s.low AND asked.seq <= s.high)
    OFFSET 0) s
CROSS JOIN LATERAL (
    SELECT * FROM messages WHERE thread_id = asked.thread_id AND seq = asked.seq AND deleted_at IS NULL OFFSET 0) m
CROSS JOIN LATERAL (SELECT * FROM users WHERE id = m.author_id OFFSET 0) a
LEFT JOIN LATERAL (
    SELECT o.* FROM messages o
    WHERE o.thread_id = asked.thread_id AND o.seq = m.reply_to AND EXISTS (
        SELECT FROM sights s
        WHERE s.user_id = :user_id AND s.thread_id = asked.thread_id AND o.seq > s.low AND o.seq <= s.high) OFFSET 0) q ON true
LEFT JOIN LATERAL (SELECT * FROM users WHERE id = q.author_id OFFSET 0) qa ON true
ORDER BY asked.n;

-- name: alive :many
-- Of these messages those of the inbox that are not deleted.
-- params: thread_ids (bigint[]), seqs (bigint[]; pairs)
-- route:  GET /api/conversations
-- plan:   threads_pkey, thread_heads_pkey, messages_pkey; one row of each for each message
SELECT asked.thread_id, m.text
FROM unnest(:thread_ids::bigint[], :seqs::bigint[]) WITH ORDINALITY AS asked (thread_id, seq, n)
CROSS JOIN LATERAL (SELECT kind FROM threads WHERE id = asked.thread_id AND kind = 'contact' OFFSET 0) t
CROSS JOIN LATERAL (
    SELECT FROM thread_heads WHERE thread_id = asked.thread_id AND deleted_at IS NULL AND archived_seq < asked.seq OFFSET 0) h
CROSS JOIN LATERAL (
    SELECT text FROM messages WHERE thread_id = asked.thread_id AND seq = asked.seq AND deleted_at IS NULL OFFSET 0) m
ORDER BY asked.n;
