-- archive.sql: messages that are so old that they are kept in files, and their way back.
-- Takes rows of messages, mentions, pins, reactions, message_edits, marks and changes away, moves archived_seq and
-- log_floor of thread_heads (and the former of conversations), writes archives, and search_late, from which the index of the search learns of it.
-- client_ids stay: a retry stays a retry for ever. deletions stay too, at most a row for 128 messages: of a place below
-- archived_seq nobody is told anything.
-- Each transaction locks as messages.sql does: messages, then heads (in the order of their ids), and these for its last
-- statement alone.

-- name: try_archive :value
-- One at a time, archiving or restoring: true when it is ours, false when another is at work.
-- params:
-- cli:    bobbin archive
-- job:    retention
-- plan:   none
-- locks:  an advisory lock until the connection ends
SELECT pg_try_advisory_lock(hashtextextended('bobbin archive', 0));

-- name: due :many
-- The next threads by id, and up to which seq they are to be archived: the last before moment, but never the latest of the
-- thread, which lists show. border is null where the first that is left came after begun_before, or there is none.
-- params: after_id (thread id, exclusive), up_to_id, moment (timestamptz), begun_before (timestamptz, at most moment), size
-- cli:    bobbin archive
-- job:    retention
-- plan:   thread_heads_pkey, messages_pkey; size heads, a message each, and where it is old those at which the rest is halved
SELECT h.thread_id, h.archived_seq, CASE WHEN m.created_at < :begun_before
    THEN seq_before(h.thread_id, :moment, h.archived_seq + 1, h.last_seq - 1) END AS border
FROM (
    SELECT o.thread_id, o.archived_seq, o.last_seq FROM thread_heads o
    WHERE o.thread_id > :after_id AND o.thread_id <= :up_to_id
    ORDER BY o.thread_id
    LIMIT :size) h
LEFT JOIN LATERAL (
    SELECT o.created_at FROM messages o
    WHERE o.thread_id = h.thread_id AND o.seq = h.archived_seq + 1 AND o.seq < h.last_seq OFFSET 0) m ON true
ORDER BY h.thread_id;

-- name: heads :many
-- How far these threads have come, in the snapshot in which their messages are then read: what is newer in one of
-- these has changed since.
-- params: thread_ids
-- cli:    bobbin archive
-- job:    retention
-- plan:   thread_heads_pkey; one row each
SELECT thread_id, last_rev FROM thread_heads WHERE thread_id = ANY(:thread_ids::bigint[]);

-- name: messages :many
-- The messages of some stretches (low, high], as lines of a file.
-- params: thread_ids, lows, highs
-- cli:    bobbin archive
-- job:    retention
-- plan:   messages_pkey; those rows alone
SELECT m.thread_id, m.rev, m.deleted_at IS NULL AS living, '{"messages":' || row_to_json(m)::text || '}' AS line
FROM unnest(:thread_ids::bigint[], :lows::bigint[], :highs::bigint[]) AS s (thread_id, low, high)
CROSS JOIN LATERAL (
    SELECT * FROM messages o WHERE o.thread_id = s.thread_id AND o.seq > s.low AND o.seq <= s.high OFFSET 0) m;

-- name: reactions :many
-- What these messages were answered with.
-- params: thread_ids, lows, highs
-- cli:    bobbin archive
-- job:    retention
-- plan:   reactions_pkey; those rows alone
SELECT '{"reactions":' || row_to_json(r)::text || '}' AS line
FROM unnest(:thread_ids::bigint[], :lows::bigint[], :highs::bigint[]) AS s (thread_id, low, high)
CROSS JOIN LATERAL (
    SELECT * FROM reactions o WHERE o.thread_id = s.thread_id AND o.seq > s.low AND o.seq <= s.high OFFSET 0) r;

-- name: edits :many
-- What they have said before.
-- params: thread_ids, lows, highs
-- cli:    bobbin archive
-- job:    retention
-- plan:   message_edits_pkey; those rows alone
SELECT '{"message_edits":' || row_to_json(e)::text || '}' AS line
FROM unnest(:thread_ids::bigint[], :lows::bigint[], :highs::bigint[]) AS s (thread_id, low, high)
CROSS JOIN LATERAL (
    SELECT * FROM message_edits o WHERE o.thread_id = s.thread_id AND o.seq > s.low AND o.seq <= s.high OFFSET 0) e;

-- name: pins :many
-- Which of them are pinned.
-- params: thread_ids, lows, highs
-- cli:    bobbin archive
-- job:    retention
-- plan:   pins_pkey; those rows alone
SELECT '{"pins":' || row_to_json(p)::text || '}' AS line
FROM unnest(:thread_ids::bigint[], :lows::bigint[], :highs::bigint[]) AS s (thread_id, low, high)
CROSS JOIN LATERAL (
    SELECT * FROM pins o WHERE o.thread_id = s.thread_id AND o.seq > s.low AND o.seq <= s.high OFFSET 0) p;

-- name: marks :many
-- What dates the receipts of messages up to here: no later message's. Person by person, for marks have no order of seq.
-- params: thread_ids, highs
-- cli:    bobbin archive
-- job:    retention
-- plan:   marks_pkey; those rows, and two for each person who has any
WITH RECURSIVE stretch AS (
    SELECT s.thread_id, s.high FROM unnest(:thread_ids::bigint[], :highs::bigint[]) AS s (thread_id, high)
), people AS (
    SELECT s.thread_id, s.high, (
        SELECT o.user_id FROM marks o WHERE o.thread_id = s.thread_id ORDER BY o.user_id LIMIT 1) AS user_id
    FROM stretch s
    UNION ALL
    SELECT p.thread_id, p.high, (
        SELECT o.user_id FROM marks o
        WHERE o.thread_id = p.thread_id AND o.user_id > p.user_id
        ORDER BY o.user_id LIMIT 1)
    FROM people p
    WHERE p.user_id IS NOT NULL
)
SELECT k.thread_id, k.user_id, k.kind, k.seq, '{"marks":' || row_to_json(k)::text || '}' AS line
FROM people p
CROSS JOIN unnest('{read,delivered}'::text[]) AS said (kind)
CROSS JOIN LATERAL (
    SELECT * FROM marks o
    WHERE o.thread_id = p.thread_id AND o.user_id = p.user_id AND o.kind = said.kind AND o.seq <= p.high OFFSET 0) k;

-- name: take :value
-- Takes the messages of some stretches (low, high] away, with their mentions and pins; all of it stands in the file. How
-- many: fewer than there are when one has changed since the file was written, and then nothing of it may be committed.
-- params: thread_ids, lows, highs, revs (of the threads, when they were read)
-- cli:    bobbin archive
-- job:    retention
-- plan:   messages_pkey, mentions_pkey, pins_pkey; those rows alone
-- locks:  these messages: who would change one waits, and then finds it gone; and their rows of search_late
WITH stretch AS MATERIALIZED (
    SELECT s.* FROM unnest(:thread_ids::bigint[], :lows::bigint[], :highs::bigint[], :revs::bigint[])
        AS s (thread_id, low, high, rev)
), gone AS (
    -- By their places: one that is changed while this waits has another, and stays.
    DELETE FROM messages m
    WHERE m.ctid = ANY(ARRAY(
        SELECT o.ctid FROM stretch s
        CROSS JOIN LATERAL (
            SELECT o.ctid FROM messages o
            WHERE o.thread_id = s.thread_id AND o.seq > s.low AND o.seq <= s.high AND o.rev <= s.rev OFFSET 0) o))
    RETURNING m.thread_id, m.seq, m.created_at, m.mentions
), unlisted AS (
    -- The index of the search looks at them again, finds them gone, and lets go of their texts.
    INSERT INTO search_late (at, thread_id, seq)
    SELECT (extract(epoch FROM created_at) * 1000000)::bigint, thread_id, seq FROM gone
    ON CONFLICT ON CONSTRAINT search_late_pkey DO UPDATE SET seq = excluded.seq  -- see put_messages
), unmentioned AS (
    DELETE FROM mentions n
    WHERE n.ctid = ANY(ARRAY(
        SELECT o.ctid FROM gone g
        CROSS JOIN LATERAL unnest(g.mentions) AS named (user_id)
        CROSS JOIN LATERAL (
            SELECT o.ctid FROM mentions o
            WHERE o.thread_id = g.thread_id AND o.user_id = named.user_id AND o.seq = g.seq OFFSET 0) o))
), unpinned AS (
    DELETE FROM pins p
    WHERE p.ctid = ANY(ARRAY(
        SELECT o.ctid FROM stretch s
        CROSS JOIN LATERAL (
            SELECT o.ctid FROM pins o WHERE o.thread_id = s.thread_id AND o.seq > s.low AND o.seq <= s.high OFFSET 0) o))
)
SELECT count(*) FROM gone;

-- name: advance :value
-- From now on these threads begin after their stretch, and their log after the latest change of a message in it. How many:
-- all of them, or nothing may be committed. Nobody is told: it is no change of the log.
-- params: thread_ids, lows, highs, floors (revs), livings (counts), file, at_byte, digest
-- cli:    bobbin archive
-- job:    retention
-- plan:   thread_heads_pkey, conversations_pkey; one row each
-- locks:  the heads, in the order of their ids, and their conversations, until the commit that follows at once
WITH stretch AS MATERIALIZED (
    SELECT s.* FROM unnest(:thread_ids::bigint[], :lows::bigint[], :highs::bigint[], :floors::bigint[], :livings::bigint[])
        AS s (thread_id, low, high, floor, living)
), held AS MATERIALIZED (
    SELECT h.thread_id FROM thread_heads h WHERE h.thread_id = ANY(:thread_ids) ORDER BY h.thread_id FOR NO KEY UPDATE
), noted AS (
    INSERT INTO archives (thread_id, first_seq, last_seq, living, file, at_byte, digest)
    SELECT s.thread_id, s.low + 1, s.high, s.living, :file, :at_byte, :digest FROM stretch s
), moved AS (
    UPDATE thread_heads h
    SET archived_seq = s.high, log_floor = greatest(h.log_floor, s.floor)
    FROM stretch s
    WHERE h.thread_id = ANY(:thread_ids) AND h.thread_id = s.thread_id AND h.archived_seq = s.low
        AND (SELECT count(*) FROM held) > 0
    RETURNING h.thread_id, h.archived_seq
), shown AS (
    UPDATE conversations n SET archived_seq = moved.archived_seq
    FROM moved
    WHERE n.thread_id = ANY(:thread_ids) AND n.thread_id = moved.thread_id
)
SELECT count(*) FROM moved;

-- name: sweep_reactions :exec
-- Reactions to messages of these threads that are archived.
-- params: thread_ids, size
-- cli:    bobbin archive
-- job:    retention
-- plan:   thread_heads_pkey, reactions_pkey; at most size rows
-- locks:  these rows, which nobody asks for
DELETE FROM reactions r
WHERE r.ctid = ANY(ARRAY(
    SELECT o.ctid
    FROM unnest(:thread_ids::bigint[]) AS t (thread_id)
    CROSS JOIN LATERAL (SELECT h.archived_seq FROM thread_heads h WHERE h.thread_id = t.thread_id OFFSET 0) h
    CROSS JOIN LATERAL (
        SELECT o.ctid FROM reactions o WHERE o.thread_id = t.thread_id AND o.seq <= h.archived_seq ORDER BY o.seq LIMIT :size) o
    LIMIT :size));

-- name: sweep_edits :exec
-- Earlier texts of messages of these threads that are archived.
-- params: thread_ids, size
-- cli:    bobbin archive
-- job:    retention
-- plan:   thread_heads_pkey, message_edits_pkey; at most size rows
-- locks:  these rows, which nobody asks for
DELETE FROM message_edits e
WHERE e.ctid = ANY(ARRAY(
    SELECT o.ctid
    FROM unnest(:thread_ids::bigint[]) AS t (thread_id)
    CROSS JOIN LATERAL (SELECT h.archived_seq FROM thread_heads h WHERE h.thread_id = t.thread_id OFFSET 0) h
    CROSS JOIN LATERAL (
        SELECT o.ctid FROM message_edits o WHERE o.thread_id = t.thread_id AND o.seq <= h.archived_seq ORDER BY o.seq LIMIT :size) o
    LIMIT :size));

-- name: sweep_marks :exec
-- Marks that stand in a file. (One that has come since, of somebody who read on, stays for the next.)
-- params: thread_ids, user_ids, kinds, seqs (parallel)
-- cli:    bobbin archive
-- job:    retention
-- plan:   marks_pkey; these rows
-- locks:  these rows, which nobody asks for
DELETE FROM marks m
WHERE m.ctid = ANY(ARRAY(
    SELECT o.ctid
    FROM unnest(:thread_ids::bigint[], :user_ids::bigint[], :kinds::text[], :seqs::bigint[]) AS k (thread_id, user_id, kind, seq)
    CROSS JOIN LATERAL (
        SELECT o.ctid FROM marks o
        WHERE o.thread_id = k.thread_id AND o.user_id = k.user_id AND o.kind = k.kind AND o.seq = k.seq OFFSET 0) o));

-- name: sweep_changes :exec
-- The changes of these threads up to that with which the last archived message came. Those between it and log_floor stay
-- until the archive has come past them: they may be of just now, and user streams and the index of the search find by
-- them which threads have changed.
-- params: thread_ids, size
-- cli:    bobbin archive
-- job:    retention
-- plan:   thread_heads_pkey, changes_pkey; what is taken away, and on to the first message that stays
-- locks:  at most size rows
DELETE FROM changes c
WHERE c.ctid = ANY(ARRAY(
    SELECT o.ctid
    FROM unnest(:thread_ids::bigint[]) AS t (thread_id)
    CROSS JOIN LATERAL (
        SELECT h.archived_seq, h.log_floor FROM thread_heads h WHERE h.thread_id = t.thread_id OFFSET 0) h
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT o.rev FROM changes o
            WHERE o.thread_id = t.thread_id AND o.kind = 'message' AND o.seq > h.archived_seq
            ORDER BY o.rev LIMIT 1), h.log_floor + 1) AS rev OFFSET 0) stays
    CROSS JOIN LATERAL (
        SELECT o.rev FROM changes o
        WHERE o.thread_id = t.thread_id AND o.rev <= h.log_floor AND o.rev < stays.rev AND o.kind = 'message'
        ORDER BY o.rev DESC LIMIT 1) latest
    CROSS JOIN LATERAL (
        SELECT o.ctid FROM changes o WHERE o.thread_id = t.thread_id AND o.rev <= latest.rev ORDER BY o.rev LIMIT :size) o
    LIMIT :size));

-- name: stretches :many
-- What is archived in these files, the latest block first, and where its threads begin now.
-- params: files
-- cli:    bobbin archive restore
-- plan:   any: once for a restore; all that stands in these files
SELECT a.thread_id, a.first_seq, a.last_seq, a.file, a.at_byte, a.digest, h.archived_seq
FROM archives a
JOIN thread_heads h USING (thread_id)
WHERE a.file = ANY(:files::text[])
ORDER BY a.at DESC, a.file, a.at_byte DESC, a.thread_id;

-- name: put_reactions :exec
-- params: lines
-- cli:    bobbin archive restore
-- plan:   none
-- locks:  the new rows, which nobody asks for yet (so below)
INSERT INTO reactions
SELECT r.* FROM unnest(:lines::text[]) line CROSS JOIN LATERAL json_populate_record(NULL::reactions, line::json) r
ON CONFLICT DO NOTHING;

-- name: put_edits :exec
-- params: lines
-- cli:    bobbin archive restore
-- plan:   none
-- locks:  the new rows
INSERT INTO message_edits
SELECT r.* FROM unnest(:lines::text[]) line CROSS JOIN LATERAL json_populate_record(NULL::message_edits, line::json) r
ON CONFLICT DO NOTHING;

-- name: put_pins :exec
-- params: lines
-- cli:    bobbin archive restore
-- plan:   none
-- locks:  the new rows
INSERT INTO pins
SELECT r.* FROM unnest(:lines::text[]) line CROSS JOIN LATERAL json_populate_record(NULL::pins, line::json) r
ON CONFLICT DO NOTHING;

-- name: put_marks :exec
-- params: lines
-- cli:    bobbin archive restore
-- plan:   none
-- locks:  the new rows
INSERT INTO marks
SELECT r.* FROM unnest(:lines::text[]) line CROSS JOIN LATERAL json_populate_record(NULL::marks, line::json) r
ON CONFLICT DO NOTHING;

-- name: put_messages :value
-- How many: each as it was, and who is mentioned in it.
-- params: lines
-- cli:    bobbin archive restore
-- plan:   none
-- locks:  the new rows, and those of search_late
WITH put AS (
    INSERT INTO messages
    SELECT r.* FROM unnest(:lines::text[]) line CROSS JOIN LATERAL json_populate_record(NULL::messages, line::json) r
    RETURNING thread_id, seq, created_at, mentions
), listed AS (
    -- One that is there is held until the commit, so that the indexer passes it by; if it is just taking it, this waits for
    -- that, and puts it there anew. Else it could be done with before the message is there to be seen.
    INSERT INTO search_late (at, thread_id, seq)
    SELECT (extract(epoch FROM created_at) * 1000000)::bigint, thread_id, seq FROM put
    ON CONFLICT ON CONSTRAINT search_late_pkey DO UPDATE SET seq = excluded.seq
), mention AS (
    INSERT INTO mentions (thread_id, user_id, seq) SELECT thread_id, unnest(mentions), seq FROM put
    ON CONFLICT DO NOTHING
)
SELECT count(*) FROM put;

-- name: retreat :value
-- From now on these threads begin with their stretch again; their log stays as short as it is. How many: all of them, or
-- nothing may be committed.
-- params: thread_ids, lows, highs
-- cli:    bobbin archive restore
-- plan:   thread_heads_pkey, conversations_pkey, archives_pkey; one row each
-- locks:  the heads, in the order of their ids, and their conversations, until the commit that follows at once; waits half
--         a second for them at most
WITH stretch AS MATERIALIZED (
    SELECT s.* FROM unnest(:thread_ids::bigint[], :lows::bigint[], :highs::bigint[]) AS s (thread_id, low, high)
), held AS MATERIALIZED (
    SELECT h.thread_id FROM thread_heads h WHERE h.thread_id = ANY(:thread_ids) ORDER BY h.thread_id FOR NO KEY UPDATE
), forgotten AS (
    DELETE FROM archives a USING stretch s
    WHERE a.thread_id = s.thread_id AND a.first_seq = s.low + 1 AND a.thread_id = ANY(:thread_ids)
), moved AS (
    UPDATE thread_heads h SET archived_seq = s.low
    FROM stretch s
    WHERE h.thread_id = ANY(:thread_ids) AND h.thread_id = s.thread_id AND h.archived_seq = s.high
        AND (SELECT count(*) FROM held) > 0
    RETURNING h.thread_id, h.archived_seq
), shown AS (
    UPDATE conversations n SET archived_seq = moved.archived_seq
    FROM moved
    WHERE n.thread_id = ANY(:thread_ids) AND n.thread_id = moved.thread_id
)
SELECT count(*) FROM moved;

-- name: files :many
-- The files that hold something which is not in the database, the latest first.
-- params:
-- cli:    bobbin archive list
-- plan:   any: reads all of archives
SELECT a.file, min(a.at) AS at, count(DISTINCT a.thread_id) AS threads, sum(a.last_seq - a.first_seq + 1)::bigint AS messages
FROM archives a
GROUP BY a.file
ORDER BY min(a.at) DESC, a.file;
