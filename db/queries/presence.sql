-- presence.sql: whom it concerns that somebody comes, goes or types. Who does is in Redis.
-- Writes nothing. `door` is a person's own; the others answer the worker: what they find is told to members of the
-- thread, and to people of direct threads, and never to whom the person has blocked.

-- name: sees :value
-- True for whoever sees a thread.
-- params: user_id, thread_id
-- route:  GET /api/threads/<thread_id:id>/presence
-- plan:   memberships_open/memberships_mine, thread_heads_pkey, threads_pkey; one row each
SELECT true FROM doors d WHERE d.user_id = :user_id AND d.thread_id = :thread_id;

-- name: door :one
-- Whether a member has blocked the other one of a direct thread, or is blocked: then neither types for the other. No
-- row when not a member.
-- params: user_id, thread_id
-- route:  POST /api/threads/<thread_id:id>/typing (at most each two seconds for a person and thread)
-- plan:   memberships_open/memberships_mine, thread_heads_pkey, threads_pkey; one row each, of a direct thread two
SELECT m.blocked OR t.kind = 'direct' AND EXISTS (
    SELECT FROM memberships o
    WHERE o.thread_id = m.thread_id AND o.user_id <> m.user_id AND o.left_rev IS NULL AND o.blocked) AS apart
FROM memberships m
JOIN thread_heads h ON h.thread_id = m.thread_id
JOIN threads t ON t.id = m.thread_id
WHERE m.user_id = :user_id AND m.thread_id = :thread_id AND m.left_rev IS NULL AND h.deleted_at IS NULL;

-- name: typing :many
-- Those of the people who type in a thread whom a member is told of: not who is no longer a member, nor the other one of
-- a direct thread when one has blocked the other.
-- params: user_id, thread_id, user_ids (bigint[])
-- route:  GET /api/threads/<thread_id:id>/presence (where somebody types, at most 1,000)
-- live:   typing: for whoever begins to follow a thread where somebody types, at most 20
-- plan:   memberships_open/memberships_mine; at most a row for each person
SELECT m.user_id
FROM doors d
JOIN memberships m ON m.thread_id = d.thread_id
WHERE d.user_id = :user_id AND d.thread_id = :thread_id
    AND m.user_id = ANY(:user_ids::bigint[]) AND m.left_rev IS NULL AND NOT m.blocked
    AND NOT EXISTS (
        SELECT FROM memberships r
        WHERE r.thread_id = :thread_id AND r.user_id = :user_id AND r.left_rev IS NULL AND r.blocked);

-- name: members :many
-- The members of a thread, the first by id.
-- params: thread_id, size
-- live:   presence: at most twice a second for each thread that somebody begins to follow
-- plan:   memberships_open; at most size rows
SELECT m.user_id, m.blocked
FROM memberships m
WHERE m.thread_id = :thread_id AND m.left_rev IS NULL
ORDER BY m.user_id
LIMIT :size;

-- name: among :many
-- Those of these people who are members of a thread, the first by id.
-- params: thread_id, user_ids (bigint[]), size
-- live:   presence: the same of large threads, with those who are online
-- plan:   memberships_open/memberships_mine; at most a row for each person
SELECT m.user_id
FROM memberships m
WHERE m.thread_id = :thread_id AND m.user_id = ANY(:user_ids::bigint[]) AND m.left_rev IS NULL
ORDER BY m.user_id
LIMIT :size;

-- name: concerned :many
-- Of these threads those that have any of these people as members, and which. Not somebody in a direct thread with
-- whom they have blocked.
-- params: thread_ids (bigint[]), user_ids (bigint[])
-- live:   presence: for each batch of people who came or went, with the threads that this worker's readers follow
-- plan:   memberships_mine/memberships_open, threads_pkey; in proportion to these people's threads
SELECT m.thread_id, array_agg(m.user_id ORDER BY m.user_id) AS user_ids
FROM memberships m
JOIN threads t ON t.id = m.thread_id
WHERE m.user_id = ANY(:user_ids::bigint[]) AND m.thread_id = ANY(:thread_ids::bigint[]) AND m.left_rev IS NULL
    AND (t.kind <> 'direct' OR NOT EXISTS (
        SELECT FROM memberships o
        WHERE o.thread_id = m.thread_id AND o.user_id <> m.user_id AND o.left_rev IS NULL AND o.blocked))
GROUP BY m.thread_id;

-- name: between :value
-- The direct thread of two people. No row when there is none.
-- params: user_id, other_id
-- live:   presence: when it is made, or one of them blocks the other, or no longer
-- plan:   direct_pairs_pkey/direct_pairs_high; one row
SELECT leads_to FROM direct_pairs
WHERE low_user_id = least(:user_id::bigint, :other_id::bigint)
    AND high_user_id = greatest(:user_id::bigint, :other_id::bigint);

-- name: friends :many
-- The other ones of somebody's direct threads, without those who have blocked this person.
-- params: user_id
-- live:   presence: when a user stream begins
-- plan:   direct_pairs_pkey, direct_pairs_high, blocks_pkey; in proportion to one's own direct threads
SELECT o.id
FROM (
    SELECT p.high_user_id AS id FROM direct_pairs p WHERE p.low_user_id = :user_id
    UNION ALL
    SELECT p.low_user_id FROM direct_pairs p WHERE p.high_user_id = :user_id
) o
WHERE NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = o.id AND b.blocked_id = :user_id);

-- name: friends_among :many
-- For each of the others who has a direct thread with any of these people: with which, without those by whom they
-- are blocked.
-- params: user_ids (bigint[]), other_ids (bigint[])
-- live:   presence: for each batch of people who came or went, with the people who have a stream on this worker
-- plan:   direct_pairs_pkey/direct_pairs_high, blocks_pkey; in proportion to these people's direct threads
SELECT p.other_id, array_agg(p.user_id ORDER BY p.user_id) AS user_ids
FROM (
    SELECT p.low_user_id AS user_id, p.high_user_id AS other_id FROM direct_pairs p
    WHERE p.low_user_id = ANY(:user_ids::bigint[]) AND p.high_user_id = ANY(:other_ids::bigint[])
    UNION ALL
    SELECT p.high_user_id, p.low_user_id FROM direct_pairs p
    WHERE p.high_user_id = ANY(:user_ids::bigint[]) AND p.low_user_id = ANY(:other_ids::bigint[])
) p
WHERE NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = p.user_id AND b.blocked_id = p.other_id)
GROUP BY p.other_id;
