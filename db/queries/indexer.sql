-- indexer.sql: search_blocks and search_grams are kept as the messages are.
-- Writes them, search_late and search_place; reads changes and messages. All of it by whoever holds search_place, so that
-- nothing else in these tables is ever waited for. A place is a pg_snapshot, as of the user streams (merged.sql).

-- name: hold :one
-- What the indexer has seen. No row while another one is at work. Whoever hangs afterwards loses it after 15 seconds.
-- params:
-- job:    indexer: each worker, when something has changed and once a second (hot)
-- plan:   search_place: its one row
-- locks:  search_place, as long as the transaction; nobody waits for it
SELECT place, set_config('idle_in_transaction_session_timeout', '15s', true) AS limited
FROM search_place WHERE one FOR UPDATE SKIP LOCKED;

-- name: waits :one
-- The place, for how many seconds it has not moved, whether anything has been committed since it (or it is one of another cluster), and whether
-- anything is late: what can be known without a lock, while another is at work, and without a transaction id.
-- params:
-- job:    indexer: before each round, and after one in which another one was at work (hot)
-- plan:   search_place: its one row; changes_by_xid, one row of each transaction that was under way, and of all since;
--         search_late_pkey, one row
WITH seen AS MATERIALIZED (
    SELECT place::pg_snapshot AS place, moved_at FROM search_place WHERE one
), since AS MATERIALIZED (
    SELECT xid AS low, xid AS high
    FROM (SELECT pg_snapshot_xip(place) FROM seen EXCEPT SELECT pg_snapshot_xip(pg_current_snapshot())) ended (xid)
    UNION ALL
    SELECT pg_snapshot_xmax(place), (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)::text::xid8 FROM seen
)
SELECT place::text AS place, extract(epoch FROM clock_timestamp() - moved_at)::float AS still_seconds, EXISTS (
    SELECT FROM since
    CROSS JOIN LATERAL (SELECT FROM changes WHERE xid >= since.low AND xid <= since.high ORDER BY xid LIMIT 1) c) AS any,
    pg_snapshot_xmax(place)::text::bigint > pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS foreign_place,
    (SELECT l.at FROM search_late l ORDER BY l.at, l.thread_id, l.seq LIMIT 1) IS NOT NULL AS late
FROM seen;

-- name: fresh :many
-- Changes since a place, in order: low tells apart what was under way then (its xid) and what has begun since; of each at
-- most size + 1. The place is that of this look. A row without an xid when there are none.
-- params: seen (pg_snapshot, as text), size
-- job:    indexer (hot)
-- plan:   changes_by_xid; at most size + 1 changes of each transaction that was under way and of all since
WITH since AS MATERIALIZED (
    SELECT xid AS low, xid AS high
    FROM (SELECT pg_snapshot_xip(:seen::text::pg_snapshot) EXCEPT SELECT pg_snapshot_xip(pg_current_snapshot())) ended (xid)
    UNION ALL
    SELECT pg_snapshot_xmax(:seen::text::pg_snapshot),
        (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)::text::xid8
)
SELECT pg_current_snapshot()::text AS place, found.low, found.xid, found.thread_id, found.seq
FROM (SELECT) AS one
LEFT JOIN (
    SELECT since.low::text::bigint AS low, c.xid::text::bigint AS xid, c.thread_id, c.seq
    FROM since
    CROSS JOIN LATERAL (
        SELECT * FROM changes WHERE xid >= since.low AND xid <= since.high ORDER BY xid LIMIT :size::int + 1) c) found ON true
ORDER BY found.low, found.xid;

-- name: of_one :many
-- All messages that a transaction has changed, of which there are more than are taken at once: an import.
-- params: only (a transaction id)
-- job:    indexer
-- plan:   changes_by_xid; all of one transaction
SELECT c.thread_id, c.seq FROM changes c WHERE c.xid = :only::bigint::text::xid8 AND c.seq IS NOT NULL;

-- name: now :many
-- Messages as they are. gone: deleted. Those that are no longer there, archived, have no row.
-- params: thread_ids (bigint[]), seqs (bigint[]; pairs)
-- job:    indexer (hot)
-- plan:   messages_pkey, threads_pkey; one row each
SELECT m.thread_id, m.seq, m.created_at, m.author_id, m.text, m.deleted_at IS NOT NULL AS gone, t.kind = 'contact' AS inbox
FROM unnest(:thread_ids::bigint[], :seqs::bigint[]) AS asked (thread_id, seq)
CROSS JOIN LATERAL (SELECT * FROM messages WHERE thread_id = asked.thread_id AND seq = asked.seq OFFSET 0) m
CROSS JOIN LATERAL (SELECT kind FROM threads WHERE id = asked.thread_id OFFSET 0) t;

-- name: newest :one
-- The block that still grows, where it begins, and which transaction has written it (stamp): whoever was that knows the
-- rest. No row when there is none.
-- params:
-- job:    indexer (hot)
-- plan:   search_blocks_in_order; one row, without its long values
SELECT b.id, b.at, b.thread_id, b.seq, b.xmin::text AS stamp
FROM search_blocks b
ORDER BY b.at DESC, b.thread_id DESC, b.seq DESC
LIMIT 1;

-- name: some :many
-- These blocks.
-- params: ids (bigint[])
-- job:    indexer (hot: the newest one, when another worker has written it)
-- plan:   search_blocks_pkey, threads_pkey; these rows, and the threads of their messages
SELECT b.*, ARRAY(
    SELECT t.kind = 'contact' FROM unnest(b.thread_ids) WITH ORDINALITY AS said (thread_id, n)
    CROSS JOIN LATERAL (SELECT kind FROM threads WHERE id = said.thread_id OFFSET 0) t ORDER BY said.n) AS inbox
FROM search_blocks b
WHERE b.id = ANY(:ids::bigint[]);

-- name: places :many
-- Into which block messages belong, and their number n in the question: the last one that begins before them, else the first.
-- params: ats (bigint[], microseconds), thread_ids (bigint[]), seqs (bigint[])
-- job:    indexer
-- plan:   search_blocks_in_order; one row each
SELECT asked.n, coalesce((
    SELECT b.id FROM search_blocks b WHERE (b.at, b.thread_id, b.seq) <= (asked.at, asked.thread_id, asked.seq)
    ORDER BY b.at DESC, b.thread_id DESC, b.seq DESC LIMIT 1), (
    SELECT b.id FROM search_blocks b ORDER BY b.at, b.thread_id, b.seq LIMIT 1)) AS id
FROM unnest(:ats::bigint[], :thread_ids::bigint[], :seqs::bigint[]) WITH ORDINALITY AS asked (at, thread_id, seq, n);

-- name: make :one
-- A new block; its id, and the stamp that it has now.
-- params: at, thread_id, seq, ats, thread_ids, seqs, author_ids, text
-- job:    indexer
-- plan:   none
-- locks:  the new row
INSERT INTO search_blocks (at, thread_id, seq, ats, thread_ids, seqs, author_ids, text)
VALUES (:at, :thread_id, :seq, :ats, :thread_ids, :seqs, :author_ids, :text)
RETURNING id, xmin::text AS stamp;

-- name: remake :one
-- Another content of a block; the same comes back. loose: how often since its grams were made; stale: how many messages have left it or changed
-- since. Its grams are made again when that is worth it, or after a day.
-- params: id, at, thread_id, seq, ats, thread_ids, seqs, author_ids, text, loose, stale, enough
-- job:    indexer (hot)
-- plan:   search_blocks_pkey; one row
-- locks:  the block
UPDATE search_blocks
SET at = :at, thread_id = :thread_id, seq = :seq, ats = :ats, thread_ids = :thread_ids, seqs = :seqs,
    author_ids = :author_ids, text = :text, loose = :loose, stale = :stale, tidy_at = CASE
        WHEN :loose = 0 THEN NULL
        WHEN :stale >= :enough::int THEN clock_timestamp()
        ELSE coalesce(tidy_at, clock_timestamp() + interval '1 day') END
WHERE id = :id
RETURNING id, xmin::text AS stamp;

-- name: unmake :exec
-- A block in which no message is left; after `ungram`.
-- params: id
-- job:    indexer
-- plan:   search_blocks_pkey; one row
-- locks:  the block
DELETE FROM search_blocks WHERE id = :id;

-- name: gram :exec
-- What a block is found by, besides what there is.
-- params: id, grams
-- job:    indexer
-- plan:   none
-- locks:  the new row
INSERT INTO search_grams (block_id, grams) VALUES (:id, :grams);

-- name: ungram :exec
-- A block is found by nothing, until `gram`.
-- params: id
-- job:    indexer
-- plan:   search_grams_block_id; those of one block, at most 65
-- locks:  these rows
DELETE FROM search_grams WHERE block_id = :id;

-- name: move :exec
-- What has been seen.
-- params: place (pg_snapshot, as text)
-- job:    indexer (hot)
-- plan:   search_place: its one row
-- locks:  search_place, which is held
UPDATE search_place SET place = :place, moved_at = clock_timestamp() WHERE one;

-- name: leave :exec
-- Whoever has kept the index, up to this place, ends: another need not wait until it has stood still.
-- params: place (pg_snapshot, as text)
-- job:    indexer: at the end of a worker
-- plan:   search_place: its one row
-- locks:  search_place
UPDATE search_place SET moved_at = 'epoch' WHERE one AND place = :place;

-- name: delay :exec
-- These are to be looked at later.
-- params: ats (bigint[], microseconds), thread_ids (bigint[]), seqs (bigint[])
-- job:    indexer
-- plan:   search_late_pkey
-- locks:  the new rows
INSERT INTO search_late (at, thread_id, seq)
SELECT * FROM unnest(:ats::bigint[], :thread_ids::bigint[], :seqs::bigint[])
ON CONFLICT ON CONSTRAINT search_late_pkey DO NOTHING;

-- name: late :many
-- The first of those that are to be looked at. One that somebody holds is passed by: its message comes or goes with their
-- commit (archive.sql).
-- params: size
-- job:    indexer (hot)
-- plan:   search_late_pkey; at most size rows, and those that are held
-- locks:  these rows, until they are done with
SELECT at, thread_id, seq FROM search_late ORDER BY at, thread_id, seq LIMIT :size FOR UPDATE SKIP LOCKED;

-- name: done :exec
-- These have been looked at.
-- params: ats (bigint[], microseconds), thread_ids (bigint[]), seqs (bigint[])
-- job:    indexer
-- plan:   search_late_pkey; one row each
-- locks:  these rows
DELETE FROM search_late l
USING unnest(:ats::bigint[], :thread_ids::bigint[], :seqs::bigint[]) AS seen (at, thread_id, seq)
WHERE l.at = seen.at AND l.thread_id = seen.thread_id AND l.seq = seen.seq;

-- name: untidy :value
-- A block whose grams are to be made again.
-- params:
-- job:    indexer
-- plan:   search_blocks_untidy; one row
SELECT id FROM search_blocks WHERE tidy_at <= now() ORDER BY tidy_at LIMIT 1;

-- name: state :one
-- What there is: blocks and messages in them, what waits, for how long the oldest change waits (seconds; 0: none does), and
-- whether the place is one of another cluster. Reads all blocks.
-- params:
-- cli:    bobbin search status
-- plan:   any: all blocks, and what waits
SELECT (SELECT count(*) FROM search_blocks) AS blocks,
    (SELECT coalesce(sum(cardinality(seqs)), 0) FROM search_blocks) AS messages,
    (SELECT count(*) FROM search_late) AS late,
    (SELECT count(*) FROM search_blocks WHERE loose > 0) AS loose,
    pg_total_relation_size('search_blocks') AS block_bytes, pg_total_relation_size('search_grams') AS gram_bytes,
    pg_snapshot_xmax(p.place::pg_snapshot)::text::bigint > pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS foreign_place,
    (SELECT count(*) FROM (
        SELECT FROM changes c
        WHERE c.xid >= pg_snapshot_xmin(p.place::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xid, p.place::pg_snapshot)
        LIMIT 100000) AS waiting) AS waiting,
    (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(m.created_at)), 0)::float
     FROM (SELECT c.thread_id, c.seq FROM changes c
           WHERE c.xid >= pg_snapshot_xmin(p.place::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xid, p.place::pg_snapshot)
               AND c.kind = 'message'
           ORDER BY c.xid LIMIT 1) c
     JOIN messages m ON m.thread_id = c.thread_id AND m.seq = c.seq) AS behind_seconds
FROM search_place p;
