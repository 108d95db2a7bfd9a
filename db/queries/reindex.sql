-- reindex.sql: the index of messages is made anew while it is used and kept.
-- Writes search_todo; search_blocks and search_grams by way of indexer.sql.

-- name: forget :exec
-- An empty list.
-- params:
-- cli:    bobbin search rebuild
-- plan:   any: all of the list
-- locks:  its rows
DELETE FROM search_todo;

-- name: enlist :exec
-- The list of all messages that are to be found, in their order.
-- params:
-- cli:    bobbin search rebuild
-- plan:   any: all messages
-- locks:  the new rows
INSERT INTO search_todo (at, thread_id, seq)
SELECT (extract(epoch FROM m.created_at) * 1000000)::bigint, m.thread_id, m.seq
FROM messages m
WHERE m.deleted_at IS NULL
ORDER BY m.created_at, m.thread_id, m.seq;

-- name: size :value
-- How many are on the list.
-- params:
-- cli:    bobbin search rebuild
-- plan:   any: all of the list
SELECT count(*) FROM search_todo;

-- name: part :many
-- The next ones of the list.
-- params: at, thread_id, seq (exclusive), size
-- cli:    bobbin search rebuild
-- plan:   search_todo_pkey; size rows
SELECT t.at, t.thread_id, t.seq
FROM search_todo t
WHERE (t.at, t.thread_id, t.seq) > (:at, :thread_id, :seq)
ORDER BY t.at, t.thread_id, t.seq
LIMIT :size;

-- name: take :exec
-- Have the index to oneself. Waits for the indexer.
-- params:
-- cli:    bobbin search rebuild
-- plan:   search_place: its one row
-- locks:  search_place, as long as the transaction
SELECT FROM search_place WHERE one FOR UPDATE;

-- name: between :many
-- The blocks that begin after a place and not after another one.
-- params: at, thread_id, seq, to_at, to_thread_id, to_seq
-- cli:    bobbin search rebuild
-- plan:   search_blocks_in_order; these rows
SELECT b.id
FROM search_blocks b
WHERE (b.at, b.thread_id, b.seq) > (:at, :thread_id, :seq)
    AND (b.at, b.thread_id, b.seq) <= (:to_at, :to_thread_id, :to_seq);
