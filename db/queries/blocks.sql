-- blocks.sql: who does not want to hear from whom.
-- Writes blocks, and memberships.blocked of the blocked person in the direct thread of the two. Whoever writes
-- holds the blocker's row of users (hold), and whoever makes a thread or adds somebody holds it shared
-- (users.hold): so each sees what the other has done. Then the blocked person's membership, which every send and
-- edit of theirs locks first: once a block is committed, what waited for that row sees it, and what did not wait
-- is committed before.

-- name: hold :value
-- The blocker's account, locked; whether the other is anybody. No row when the blocker is gone.
-- params: user_id, other_id
-- route:  PUT /api/me/blocks/<other_id:id>
-- route:  DELETE /api/me/blocks/<other_id:id>
-- plan:   users_pkey; two rows
-- locks:  the blocker's account
SELECT EXISTS (SELECT FROM users o WHERE o.id = :other_id AND o.kind <> 'contact') FROM users u WHERE u.id = :user_id FOR NO KEY UPDATE OF u;

-- name: silence :exec
-- Whether the other one can write in the direct thread of the two, if there is one. Asked with the account held.
-- params: user_id, other_id, blocked
-- route:  PUT /api/me/blocks/<other_id:id>
-- route:  DELETE /api/me/blocks/<other_id:id>
-- plan:   direct_pairs_pkey/direct_pairs_high, memberships_open/memberships_mine; one row each
-- locks:  the other one's membership in the direct thread
UPDATE memberships m SET blocked = :blocked
FROM direct_pairs p
WHERE p.low_user_id = least(:user_id::bigint, :other_id::bigint)
    AND p.high_user_id = greatest(:user_id::bigint, :other_id::bigint)
    AND m.thread_id = p.leads_to AND m.user_id = :other_id AND m.left_rev IS NULL;

-- name: make :value
-- A block. No row when it is there already.
-- params: user_id, other_id
-- route:  PUT /api/me/blocks/<other_id:id>
-- plan:   blocks_pkey; one insert
-- locks:  the new row
INSERT INTO blocks (user_id, blocked_id) VALUES (:user_id, :other_id)
ON CONFLICT ON CONSTRAINT blocks_pkey DO NOTHING
RETURNING blocked_id;

-- name: lift :value
-- No block any more. No row when there was none.
-- params: user_id, other_id
-- route:  DELETE /api/me/blocks/<other_id:id>
-- plan:   blocks_pkey; one row
-- locks:  the block
DELETE FROM blocks WHERE user_id = :user_id AND blocked_id = :other_id
RETURNING blocked_id;

-- name: get :json
-- One block of this person. No row when there is none.
-- params: user_id, other_id
-- route:  GET /api/me/blocks/<other_id:id>
-- plan:   blocks_pkey, users_pkey; one row each
SELECT block_json(b, u) FROM blocks b JOIN users u ON u.id = b.blocked_id
WHERE b.user_id = :user_id AND b.blocked_id = :other_id;

-- name: page :one
-- The people somebody has blocked, by user id: their JSON and the key to go on from.
-- params: user_id, after_id (user id, exclusive), size (1 to 100)
-- route:  GET /api/me/blocks
-- plan:   blocks_pkey, users_pkey; at most size + 1 rows
WITH page AS (
    SELECT b.* FROM blocks b
    WHERE b.user_id = :user_id AND b.blocked_id > :after_id
    ORDER BY b.blocked_id
    LIMIT :size::int + 1
), kept AS (
    SELECT p.* FROM page p ORDER BY p.blocked_id LIMIT :size
)
SELECT coalesce('[' || string_agg(block_json(b, u), ',' ORDER BY b.blocked_id) || ']', '[]') AS blocks,
    (SELECT count(*) FROM page) > count(*) AS more,
    max(b.blocked_id) AS last_id
FROM blocks b
JOIN kept k ON k.user_id = b.user_id AND k.blocked_id = b.blocked_id
JOIN users u ON u.id = b.blocked_id;

-- name: by_any :value
-- Whether one of these people has blocked somebody: why a thread was not made, or nobody added.
-- params: user_ids (bigint[]), blocked_id
-- route:  POST /api/threads (only when nothing was made)
-- route:  POST /api/threads/<thread_id:id>/members (only when nobody was added)
-- plan:   blocks_pkey; one row for each person
SELECT EXISTS (SELECT FROM blocks b WHERE b.user_id = ANY(:user_ids::bigint[]) AND b.blocked_id = :blocked_id);
