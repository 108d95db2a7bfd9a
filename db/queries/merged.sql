-- merged.sql: everything that concerns a person, over all their threads.
-- Writes nothing, but trims personal_changes. A place in the merged log is a pg_snapshot: what it sees, has been told.
-- Every change has the xid of the transaction that made it, so what one snapshot sees and an earlier one did not, is
-- found exactly, however late a transaction commits. `tail` answers the worker, for the people who have a stream there.

-- name: place :value
-- Where the log stands now.
-- params:
-- live:   a worker whose first user stream begins; an event id that is newer than what the worker knows
-- plan:   any: the latest row of two indexes
SELECT log_place();

-- name: tail :many
-- All changes since a place, as far as they concern these people, in rows of several kinds:
--   place    the new place (head); whole: false when there are more changes than size, or their threads have more members
--            here than pairs (as far as the heads tell), and then nothing else
--   changed  a thread and the xids of its changes
--   message  a new message (rev, seq, quoted), in its shared form (head) and with a bare quote (rest)
--   thread   what all readers of a thread share: head, the last message, rest
--   mine     what these people (user_ids) share beyond it (head), whether the last message is in their sight (whole),
--            all after which seq is (rev), and which of the messages and quotes before it (seqs)
--   own      a change of one person's alone (user_ids)
--   anew     people (user_ids) who came to the staff or left it: they see other threads now
--   gone     a thread that these people (user_ids) are no longer in, and why (head)
-- asked_threads and asked_users are pairs that are told although nothing has changed. Of a contact thread (it counts no
-- members) all of the staff are told who are here: what the snapshot says they are.
-- params: seen (pg_snapshot, as text), user_ids (bigint[]), asked_threads (bigint[]), asked_users (bigint[]), size, pairs
-- live:   merged, each worker that has user streams: after each hint, and once a second (hot)
-- plan:   changes_by_xid, personal_changes_pkey, memberships_open, thread_heads_pkey, threads_pkey, messages_pkey,
--         users_pkey; at most size changes of each transaction that was under way and of all since, and for their threads
--         at most pairs rows of these people
WITH since AS MATERIALIZED (
    -- What was under way then and is over (what still is, is not asked for again and again), and what has begun since.
    SELECT xid AS low, xid AS high
    FROM (SELECT pg_snapshot_xip(:seen::text::pg_snapshot) EXCEPT SELECT pg_snapshot_xip(pg_current_snapshot())) ended (xid)
    UNION ALL
    SELECT pg_snapshot_xmax(:seen::text::pg_snapshot),
        (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)::text::xid8
), fresh AS MATERIALIZED (
    -- Ranges, and in order: whatever the planner thinks of how many changes a transaction makes, it takes the index.
    SELECT c.*
    FROM since
    CROSS JOIN LATERAL (
        SELECT * FROM changes WHERE xid >= since.low AND xid <= since.high ORDER BY xid LIMIT :size::int + 1) c
), own AS MATERIALIZED (
    SELECT p.*
    FROM since
    CROSS JOIN LATERAL (
        SELECT * FROM personal_changes WHERE xid >= since.low AND xid <= since.high ORDER BY xid LIMIT :size + 1) p
), staff AS MATERIALIZED (
    -- Read only where something has changed in a contact thread.
    SELECT u.id AS user_id
    FROM users u
    WHERE u.id = ANY(:user_ids::bigint[]) AND u.role <> 'member' AND u.deactivated_at IS NULL
), changed AS MATERIALIZED (
    SELECT f.*, h.member_count
    FROM (
        SELECT thread_id, array_agg(DISTINCT xid::text) AS xids, bool_or(act = 'joined') AS joined
        FROM fresh GROUP BY thread_id) f
    CROSS JOIN LATERAL (SELECT h.member_count FROM thread_heads h WHERE h.thread_id = f.thread_id OFFSET 0) h
), counted AS MATERIALIZED (
    SELECT (SELECT count(*) FROM fresh) <= :size AND (SELECT count(*) FROM own) <= :size AND (
            SELECT coalesce(sum(CASE c.member_count WHEN 0 THEN (SELECT count(*) FROM staff)
                ELSE least(c.member_count, cardinality(:user_ids::bigint[])) END), 0)
            FROM changed c
        ) <= :pairs AS whole,
        greatest((SELECT max(xid::text::bigint) FROM fresh), (SELECT max(xid::text::bigint) FROM own),
            pg_snapshot_xmax(:seen::text::pg_snapshot)::text::bigint - 1)::text::xid8 AS latest
), here AS MATERIALIZED (
    SELECT unnest(:user_ids::bigint[]) AS user_id
), news AS MATERIALIZED (
    SELECT c.thread_id, c.xids, c.joined,
        -- Of whom there are less: its members, or the people here.
        c.member_count <= 2 * cardinality(:user_ids) AS few,
        c.member_count = 0 AND (SELECT t.kind FROM threads t WHERE t.id = c.thread_id) = 'contact' AS inbox
    FROM changed c
    WHERE (SELECT whole FROM counted)
), wanted AS MATERIALIZED (
    SELECT o.thread_id, o.user_id FROM own o JOIN here ON here.user_id = o.user_id WHERE o.thread_id > 0
    UNION ALL
    SELECT a.thread_id, a.user_id FROM unnest(:asked_threads::bigint[], :asked_users::bigint[]) AS a (thread_id, user_id)
    UNION ALL
    SELECT f.thread_id, f.user_id FROM fresh f JOIN here ON here.user_id = f.user_id WHERE f.act IN ('left', 'removed')
), pairs AS MATERIALIZED (
    -- Each thread and index by itself (OFFSET 0).
    SELECT n.thread_id, m.user_id
    FROM news n
    CROSS JOIN LATERAL (
        SELECT m.user_id FROM memberships m WHERE m.thread_id = n.thread_id AND m.left_rev IS NULL OFFSET 0) m
    JOIN here ON here.user_id = m.user_id
    WHERE n.few AND NOT n.inbox
    UNION
    SELECT n.thread_id, m.user_id
    FROM news n
    CROSS JOIN LATERAL (
        SELECT m.user_id FROM memberships m
        WHERE m.thread_id = n.thread_id AND m.user_id = ANY(:user_ids) AND m.left_rev IS NULL OFFSET 0) m
    WHERE NOT n.few
    UNION
    SELECT n.thread_id, s.user_id FROM news n CROSS JOIN staff s WHERE n.inbox
    UNION
    SELECT w.thread_id, w.user_id FROM wanted w WHERE (SELECT whole FROM counted)
), points AS MATERIALIZED (
    -- Messages that may lie before somebody's span: those that are quoted, and all where somebody came in just now.
    SELECT f.thread_id, point.seq
    FROM fresh f
    JOIN news n ON n.thread_id = f.thread_id
    CROSS JOIN LATERAL (SELECT m.reply_to FROM messages m WHERE m.thread_id = f.thread_id AND m.seq = f.seq OFFSET 0) m
    CROSS JOIN LATERAL (VALUES (m.reply_to), (CASE WHEN n.joined THEN f.seq END)) point (seq)
    WHERE f.kind = 'message' AND point.seq IS NOT NULL
), told AS MATERIALIZED (
    SELECT p.thread_id, p.user_id, v.mine, v.sees_last, v.floor
    FROM pairs p
    CROSS JOIN LATERAL (
        SELECT v.mine, v.sees_last, v.floor FROM my_threads v
        WHERE v.thread_id = p.thread_id AND v.user_id = p.user_id OFFSET 0) v
), threads_told AS MATERIALIZED (
    SELECT t.thread_id, min(t.user_id) AS user_id FROM told t GROUP BY t.thread_id
), lost AS MATERIALIZED (
    SELECT thread_id, user_id FROM pairs EXCEPT SELECT thread_id, user_id FROM told
)
SELECT 'place' AS kind, NULL::bigint AS thread_id, NULL::bigint AS rev, NULL::bigint AS seq, NULL::bigint AS quoted,
    NULL::text[] AS xids, NULL::bigint[] AS user_ids, NULL::bigint[] AS seqs, c.whole,
    log_place(c.latest) AS head, NULL AS last, NULL AS rest
FROM counted c
UNION ALL
SELECT 'changed', n.thread_id, NULL, NULL, NULL, n.xids, NULL, NULL, NULL, NULL, NULL, NULL
FROM news n
WHERE n.thread_id IN (SELECT thread_id FROM pairs)
UNION ALL
SELECT 'own', o.thread_id, NULL, NULL, NULL, array_agg(o.xid::text), ARRAY[o.user_id], NULL, NULL, NULL, NULL, NULL
FROM own o
JOIN here ON here.user_id = o.user_id
WHERE (SELECT whole FROM counted) AND o.thread_id > 0
GROUP BY o.thread_id, o.user_id
UNION ALL
SELECT 'anew', NULL, NULL, NULL, NULL, NULL, array_agg(o.user_id), NULL, NULL, NULL, NULL, NULL
FROM own o
JOIN here ON here.user_id = o.user_id
WHERE (SELECT whole FROM counted) AND o.thread_id = 0
HAVING count(*) > 0
UNION ALL
SELECT 'thread', t.thread_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, v.head, v.last, v.rest
FROM threads_told t
CROSS JOIN LATERAL (
    SELECT v.head, v.last, v.rest FROM my_threads v
    WHERE v.thread_id = t.thread_id AND v.user_id = t.user_id OFFSET 0) v
UNION ALL
(SELECT 'message', f.thread_id, f.rev, f.seq, m.reply_to, ARRAY[f.xid::text], NULL, NULL, NULL,
    message_json(m, a, q, qa, m.reactions::text, ''), NULL,
    CASE WHEN m.reply_to IS NOT NULL THEN message_json(m, a, NULL, NULL, m.reactions::text, '') END
FROM fresh f
JOIN threads_told t ON t.thread_id = f.thread_id
JOIN news n ON n.thread_id = f.thread_id
CROSS JOIN LATERAL (SELECT * FROM messages WHERE thread_id = f.thread_id AND seq = f.seq OFFSET 0) m
CROSS JOIN LATERAL (SELECT * FROM users WHERE id = m.author_id OFFSET 0) a
LEFT JOIN LATERAL (SELECT * FROM messages WHERE thread_id = f.thread_id AND seq = m.reply_to OFFSET 0) q ON true
LEFT JOIN LATERAL (SELECT * FROM users WHERE id = q.author_id OFFSET 0) qa ON true
WHERE f.kind = 'message'
ORDER BY f.thread_id, f.rev)
UNION ALL
SELECT 'mine', g.thread_id, g.floor, NULL, NULL, NULL, array_agg(g.user_id), g.seqs, g.sees_last, g.mine, NULL, NULL
FROM (
    SELECT t.thread_id, t.user_id, t.mine, t.sees_last, t.floor, CASE WHEN t.floor > 0 THEN (
        SELECT array_agg(DISTINCT p.seq) FROM points p
        WHERE p.thread_id = t.thread_id AND p.seq <= t.floor AND EXISTS (
            SELECT FROM memberships s
            WHERE s.thread_id = t.thread_id AND s.user_id = t.user_id
                AND s.joined_seq < p.seq AND s.left_seq >= p.seq)) END AS seqs
    FROM told t) g
GROUP BY g.thread_id, g.mine, g.sees_last, g.floor, g.seqs
UNION ALL
SELECT 'gone', g.thread_id, NULL, NULL, NULL, NULL, array_agg(g.user_id), NULL, NULL, g.act, NULL, NULL
FROM (
    SELECT l.thread_id, l.user_id, coalesce((
        SELECT CASE WHEN m.left_rev IS NULL THEN 'deleted' WHEN m.removed THEN 'removed' ELSE 'left' END
        FROM memberships m
        WHERE m.thread_id = l.thread_id AND m.user_id = l.user_id
        ORDER BY m.joined_rev DESC LIMIT 1), (
        -- Of the staff, who needs no membership.
        SELECT 'deleted' FROM thread_heads h WHERE h.thread_id = l.thread_id AND h.deleted_at IS NOT NULL), 'removed') AS act
    FROM lost l) g
GROUP BY g.thread_id, g.act;

-- name: since :many
-- A page of somebody's threads about which something has changed since a place, by id, as they are now: each thread's
-- JSON, or null and why it is gone (act). place is where the log stands; a row without a thread_id when there are none.
-- Of the staff also the contact threads in which they have no membership: inbox are these, as the first page (which is
-- asked with null) tells them in its first row for all that follow. whole: false when that can't be told, and then
-- nothing is: there are more than most of them, or more than looks changes since; or this person has come to the staff
-- or left it since.
-- params: user_id, seen (pg_snapshot, as text), after_id (thread id, exclusive), size, inbox (bigint[], or null), looks, most
-- live:   merged: a user stream that resumes, or whose reader is slow (hot after a restart)
-- plan:   memberships_mine, memberships_past, thread_heads_pkey, users_pkey, changes_by_xid; in proportion to one's own
--         threads, present and past; of the staff at most looks changes; size of the others, no Seq Scan on messages
WITH seen AS MATERIALIZED (
    SELECT :seen::text::pg_snapshot AS place, pg_snapshot_xmax(pg_current_snapshot()) AS high
), person AS MATERIALIZED (
    SELECT u.role <> 'member' AND u.deactivated_at IS NULL AS staff,
        u.staff_xid < seen.high AND NOT pg_visible_in_snapshot(u.staff_xid, seen.place) AS turned
    FROM seen
    CROSS JOIN LATERAL (SELECT * FROM users WHERE id = :user_id OFFSET 0) u
), since AS MATERIALIZED (
    -- As in tail.
    SELECT xid AS low, xid AS high
    FROM (SELECT pg_snapshot_xip(:seen::text::pg_snapshot) EXCEPT SELECT pg_snapshot_xip(pg_current_snapshot())) ended (xid)
    UNION ALL
    SELECT pg_snapshot_xmax(:seen::text::pg_snapshot),
        (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)::text::xid8
), fresh AS MATERIALIZED (
    SELECT c.thread_id
    FROM since
    CROSS JOIN LATERAL (
        SELECT thread_id, xid FROM changes WHERE xid >= since.low AND xid <= since.high ORDER BY xid LIMIT :looks::int + 1) c
    WHERE :inbox::bigint[] IS NULL AND (SELECT staff AND NOT turned FROM person)
), found AS MATERIALIZED (
    SELECT f.thread_id
    FROM (SELECT DISTINCT thread_id FROM fresh) f
    CROSS JOIN LATERAL (
        SELECT FROM threads t
        WHERE t.id = f.thread_id AND t.kind = 'contact' AND NOT EXISTS (
            SELECT FROM memberships m WHERE m.thread_id = t.id AND m.user_id = :user_id AND m.left_rev IS NULL)
        OFFSET 0) t
    LIMIT :most::int + 1
), inbox AS MATERIALIZED (
    SELECT coalesce(:inbox::bigint[], (SELECT array_agg(thread_id ORDER BY thread_id) FROM found), '{}') AS ids,
        (SELECT count(*) FROM fresh) <= :looks AND (SELECT count(*) FROM found) <= :most
            AND (SELECT NOT turned FROM person) IS NOT FALSE AS whole
), present AS (
    -- Each head a lookup (OFFSET 0), in the order of the index, until there are enough.
    SELECT m.thread_id
    FROM memberships m
    CROSS JOIN LATERAL (SELECT h.last_xid FROM thread_heads h WHERE h.thread_id = m.thread_id OFFSET 0) h
    WHERE m.user_id = :user_id AND m.thread_id > :after_id AND m.left_rev IS NULL
        AND ((h.last_xid < (SELECT high FROM seen) AND NOT pg_visible_in_snapshot(h.last_xid, (SELECT place FROM seen)))
            OR (m.changed_xid < (SELECT high FROM seen)
                AND NOT pg_visible_in_snapshot(m.changed_xid, (SELECT place FROM seen))))
    ORDER BY m.thread_id
    LIMIT :size
), past AS (
    SELECT DISTINCT m.thread_id
    FROM memberships m
    WHERE m.user_id = :user_id AND m.thread_id > :after_id AND m.left_rev IS NOT NULL
        AND m.changed_xid < (SELECT high FROM seen)
        AND NOT pg_visible_in_snapshot(m.changed_xid, (SELECT place FROM seen))
        AND NOT EXISTS (
            SELECT FROM memberships o
            WHERE o.thread_id = m.thread_id AND o.user_id = m.user_id AND o.left_rev IS NULL)
    ORDER BY m.thread_id
    LIMIT :size
), page AS (
    SELECT o.thread_id
    FROM (
        SELECT thread_id FROM present
        UNION SELECT thread_id FROM past
        UNION SELECT i.thread_id FROM inbox, unnest(inbox.ids) i (thread_id) WHERE i.thread_id > :after_id) o
    WHERE (SELECT whole FROM inbox)
    ORDER BY o.thread_id
    LIMIT :size
)
SELECT log_place() AS place, p.thread_id, v.thread, inbox.whole,
    CASE WHEN p.thread_id IS NOT DISTINCT FROM (SELECT min(thread_id) FROM page) THEN inbox.ids END AS inbox,
    CASE WHEN v.thread IS NULL THEN coalesce((
        SELECT CASE WHEN m.left_rev IS NULL THEN 'deleted' WHEN m.removed THEN 'removed' ELSE 'left' END
        FROM memberships m
        WHERE m.thread_id = p.thread_id AND m.user_id = :user_id
        ORDER BY m.joined_rev DESC LIMIT 1), (
        SELECT 'deleted' FROM thread_heads h WHERE h.thread_id = p.thread_id AND h.deleted_at IS NOT NULL)) END AS act
FROM inbox
LEFT JOIN page p ON true
LEFT JOIN LATERAL (
    SELECT v.thread FROM my_threads v WHERE v.user_id = :user_id AND v.thread_id = p.thread_id OFFSET 0) v ON true
ORDER BY p.thread_id;

-- name: trim :exec
-- Forgets personal changes that every worker has seen long ago; never the latest, at which a place may end.
-- params: size, seconds
-- live:   each worker, twice a minute
-- plan:   personal_changes_pkey; at most size rows
-- locks:  those rows
DELETE FROM personal_changes p
USING (
    SELECT o.xid, o.user_id, o.thread_id
    FROM personal_changes o
    WHERE o.xid < (SELECT xid FROM personal_changes WHERE xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid DESC LIMIT 1)
    ORDER BY o.xid
    LIMIT :size
    FOR UPDATE SKIP LOCKED) old
WHERE p.xid = old.xid AND p.user_id = old.user_id AND p.thread_id = old.thread_id
    AND p.at < now() - make_interval(secs => :seconds);
