-- threads.sql: threads and their lists.
-- Writes threads, thread_heads, direct_pairs, and the first memberships of a new thread. Before somebody is put into
-- one, their account is held (users.hold), so that a block or a deactivation is either seen or waits.
-- Reads go through the caller's own membership (views doors and my_threads); channels are open to all.

-- name: mine :one
-- My threads, latest activity first: their JSON and, when there are more, the key to go on from. place: where the
-- user stream goes on from this page.
-- params: user_id, search (part of the title, or null), kind (or null), unread (true: only those with unread),
--         archived (true: only those that are, false: only the others), before_at (timestamptz), before_id (where the last page ended, exclusive), size (1 to 100)
-- route:  GET /api/threads (hot: each start of a client)
-- plan:   memberships_own; in proportion to one's own threads; of deleted messages their counters
WITH page AS (
    SELECT d.thread_id, coalesce(d.last_message_at, d.created_at) AS active_at
    FROM own_doors d
    WHERE d.user_id = :user_id AND d.archived = :archived
        AND d.joined_rev > 0 AND d.kind <> 'contact'  -- 0: in those of contacts, and of them inbox.sql tells
        AND (:kind::text IS NULL OR d.kind = :kind)
        AND (:search::text IS NULL OR strpos(lower(d.title), lower(:search)) > 0)
        AND (coalesce(d.last_message_at, d.created_at), d.thread_id) < (:before_at::timestamptz, :before_id::bigint)
        -- Where the last message is neither read nor deleted, or one of the last, something is unread; else it is counted.
        AND (NOT :unread::boolean OR d.last_seq > greatest(d.read_seq, d.joined_seq, d.last_deleted_seq)
            OR EXISTS (
                SELECT FROM messages m
                WHERE m.thread_id = d.thread_id AND m.seq > greatest(d.read_seq, d.joined_seq, d.last_seq - 8)
                    AND m.deleted_at IS NULL)
            OR (d.last_seq > d.read_seq AND unread_after(d.user_id, d.thread_id, d.history, d.joined_seq, d.last_seq,
                d.last_deleted_seq, d.read_seq) > 0))
    ORDER BY active_at DESC, d.thread_id DESC
    LIMIT :size::int + 1  -- one more tells whether there is a next page
), kept AS (
    SELECT thread_id, active_at FROM page ORDER BY active_at DESC, thread_id DESC LIMIT :size
)
SELECT coalesce('[' || string_agg(v.thread, ',' ORDER BY k.active_at DESC, k.thread_id DESC) || ']', '[]') AS threads,
    (SELECT count(*) FROM page) > count(*) AS more,
    log_place() AS place,
    min(k.active_at) AS active_at,
    (array_agg(k.thread_id ORDER BY k.active_at, k.thread_id))[1] AS thread_id
FROM kept k
CROSS JOIN LATERAL (
    SELECT v.thread FROM my_threads v WHERE v.thread_id = k.thread_id AND v.user_id = :user_id OFFSET 0) v;

-- name: get :json
-- One thread as a member sees it. No row when not a member.
-- params: user_id, thread_id
-- route:  GET /api/threads/<thread_id:id>
-- plan:   memberships_open/memberships_mine, threads_pkey, thread_heads_pkey; one row each, and the counters of
--         messages deleted after one's read cursor
SELECT v.thread FROM my_threads v WHERE v.user_id = :user_id AND v.thread_id = :thread_id;

-- name: channel :json
-- A channel as somebody sees it who has not joined. No row when there is none.
-- params: thread_id
-- route:  GET /api/threads/<thread_id:id>
-- plan:   threads_pkey, thread_heads_pkey; one row each
SELECT thread FROM open_channels WHERE thread_id = :thread_id;

-- name: channels :one
-- Channels by title, ignoring case, each as the caller sees it: their JSON and, when there may be more, the key to
-- go on from. At most looks of them are looked at, so a search may answer fewer than size, and a key.
-- params: user_id, search (part of the title, or null), after_title (in small letters), after_id (where the last page
--         ended, exclusive), looks (more than size), size (1 to 100)
-- route:  GET /api/channels
-- plan:   threads_channels, memberships_open/memberships_mine; at most looks rows of threads, size of the others
WITH looked AS (
    SELECT t.id, lower(t.title) AS title
    FROM threads t
    WHERE t.kind = 'channel' AND t.listed AND (lower(t.title), t.id) > (:after_title, :after_id::bigint)
    ORDER BY lower(t.title), t.id
    LIMIT :looks
), page AS (
    SELECT id, title FROM looked
    WHERE :search::text IS NULL OR strpos(title, lower(:search)) > 0
    ORDER BY title, id
    LIMIT :size::int + 1  -- one more tells whether there is a next page
), kept AS (
    SELECT id, title FROM page ORDER BY title, id LIMIT :size
), place AS (
    (SELECT id, title FROM kept WHERE (SELECT count(*) FROM page) > :size ORDER BY title DESC, id DESC LIMIT 1)
    UNION ALL
    (SELECT id, title FROM looked
     WHERE (SELECT count(*) FROM page) <= :size AND (SELECT count(*) FROM looked) = :looks
     ORDER BY title DESC, id DESC LIMIT 1)
)
SELECT coalesce('[' || string_agg(coalesce(v.thread, c.thread), ',' ORDER BY k.title, k.id) || ']', '[]') AS channels,
    (SELECT title FROM place) AS last_title, (SELECT id FROM place) AS last_id
FROM kept k
JOIN open_channels c ON c.thread_id = k.id
-- Each by itself (OFFSET 0): joined, all threads of the caller might be read.
LEFT JOIN LATERAL (
    SELECT v.thread FROM my_threads v WHERE v.thread_id = k.id AND v.user_id = :user_id OFFSET 0) v ON true;

-- name: create :value
-- A new group or channel, its people in it, each join a change. No row, and nothing made, when one
-- of member_ids is nobody, or deactivated, or has blocked the founder.
-- params: user_id, kind (group or channel), title, member_ids (bigint[], distinct, without user_id)
-- route:  POST /api/threads
-- plan:   users_pkey, blocks_pkey; at most 1,001 people
-- locks:  the new rows (the people are held)
WITH people AS (
    -- The founder first: rev 1 is their own join.
    SELECT u.id, row_number() OVER (ORDER BY u.id <> :user_id, u.id) AS rev
    FROM users u
    WHERE u.id = ANY(:member_ids::bigint[] || :user_id::bigint) AND u.deactivated_at IS NULL
        AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = u.id AND b.blocked_id = :user_id)
), thread AS (
    INSERT INTO threads (kind, title, created_by)
    SELECT :kind, :title, :user_id
    WHERE (SELECT count(*) FROM people) = cardinality(:member_ids::bigint[]) + 1
    RETURNING id
), head AS (
    INSERT INTO thread_heads (thread_id, last_rev, member_count)
    SELECT thread.id, n.count, n.count FROM thread, (SELECT count(*) FROM people) n
), span AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, role, read_seq)
    SELECT thread.id, p.id, p.rev, 0, CASE WHEN p.id = :user_id THEN 'admin' ELSE 'member' END, 0
    FROM thread, people p
), change AS (
    INSERT INTO changes (thread_id, rev, kind, user_id, act)
    SELECT thread.id, p.rev, 'member', p.id, 'joined' FROM thread, people p
)
SELECT id FROM thread;

-- name: create_direct :value
-- The direct thread of two people. No row when it is there already (also when another made it while
-- this waited), or when the other is nobody, or deactivated, or has blocked this person. Whom this person has
-- blocked can read in it, and not write.
-- params: user_id, other_id (not user_id)
-- route:  POST /api/threads
-- plan:   users_pkey, blocks_pkey; one row each
-- locks:  the pair, until the one who makes it has committed (the two people are held)
WITH other AS (
    SELECT u.id, EXISTS (SELECT FROM blocks b WHERE b.user_id = :user_id AND b.blocked_id = :other_id) AS blocked
    FROM users u
    WHERE u.id = :other_id AND u.deactivated_at IS NULL
        AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = :other_id AND b.blocked_id = :user_id)
), pair AS (
    INSERT INTO direct_pairs (low_user_id, high_user_id, leads_to)
    SELECT least(:user_id::bigint, id), greatest(:user_id::bigint, id), nextval(pg_get_serial_sequence('threads', 'id'))
    FROM other
    ON CONFLICT ON CONSTRAINT direct_pairs_pkey DO NOTHING
    RETURNING leads_to
), thread AS (
    INSERT INTO threads (id, kind, created_by) SELECT leads_to, 'direct', :user_id FROM pair RETURNING id
), head AS (
    INSERT INTO thread_heads (thread_id, last_rev, member_count) SELECT id, 2, 2 FROM thread
), span AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq, blocked)
    SELECT thread.id, :user_id::bigint, 1, 0, 0, false FROM thread
    UNION ALL SELECT thread.id, other.id, 2, 0, 0, other.blocked FROM thread, other
), change AS (
    INSERT INTO changes (thread_id, rev, kind, user_id, act)
    SELECT id, 1, 'member', :user_id::bigint, 'joined' FROM thread
    UNION ALL SELECT id, 2, 'member', :other_id::bigint, 'joined' FROM thread
)
SELECT id FROM thread;

-- name: direct_of :value
-- The direct thread of two people. No row when there is none.
-- params: user_id, other_id
-- route:  POST /api/threads
-- plan:   direct_pairs_pkey/direct_pairs_high; one row
SELECT leads_to FROM direct_pairs
WHERE low_user_id = least(:user_id::bigint, :other_id::bigint)
    AND high_user_id = greatest(:user_id::bigint, :other_id::bigint);

-- name: rename :value
-- A new title; the rev of the change. No row when it has that title already.
-- params: thread_id, title
-- route:  PATCH /api/threads/<thread_id:id>
-- plan:   threads_pkey, thread_heads_pkey; one row each
-- locks:  the head (already held by members.hold_head), the thread
WITH thread AS (
    UPDATE threads SET title = :title WHERE id = :thread_id AND title <> :title RETURNING id
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id() FROM thread WHERE h.thread_id = thread.id
    RETURNING h.thread_id, h.last_rev
)
INSERT INTO changes (thread_id, rev, kind) SELECT thread_id, last_rev, 'thread_updated' FROM head
RETURNING rev;

-- name: remove :value
-- Deletes a thread softly: its rows stay, nobody comes in any more. The rev of the change.
-- params: thread_id
-- route:  DELETE /api/threads/<thread_id:id>
-- plan:   thread_heads_pkey, threads_pkey; one row each
-- locks:  the head (already held by members.hold_head), the thread
WITH head AS (
    UPDATE thread_heads SET last_rev = last_rev + 1, last_xid = pg_current_xact_id(), deleted_at = clock_timestamp()
    WHERE thread_id = :thread_id AND deleted_at IS NULL
    RETURNING thread_id, last_rev
), thread AS (
    UPDATE threads t SET listed = false FROM head WHERE t.id = head.thread_id
)
INSERT INTO changes (thread_id, rev, kind) SELECT thread_id, last_rev, 'thread_deleted' FROM head
RETURNING rev;
