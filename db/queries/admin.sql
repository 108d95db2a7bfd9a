-- admin.sql: the accounts of the server, as its admins see and change them; and whom their threads go to.
-- Writes users, and of whoever comes to the staff or leaves it the memberships in contact threads and personal_changes.
-- Contacts are no accounts here. The list of accounts is made in server/admin.py, for its caller chooses the filters.

-- name: get :json
-- An account. No row when there is none.
-- params: user_id
-- route:  GET /api/admin/users/<user_id:id>
-- plan:   users_pkey/users_people, sessions_user_id; one row each
SELECT managed_json(u, (SELECT max(s.last_used_at) FROM sessions s WHERE s.user_id = u.id))
FROM users u WHERE u.id = :user_id AND u.kind <> 'contact';

-- name: by_email :value
-- Whose email this is, ignoring case. No row when nobody's.
-- params: email
-- cli:    bobbin createuser
-- plan:   users_email_key; one row
SELECT id FROM users WHERE lower(email) = lower(:email);

-- name: hold :many
-- The account that is to be changed, and all active admins: none of them is changed meanwhile, so whether one
-- is the last, and whether who asks is one still, stays as it is found here.
-- params: user_id
-- route:  PATCH /api/admin/users/<user_id:id>
-- route:  POST /api/admin/users/<user_id:id>/password
-- cli:    bobbin createuser
-- plan:   users_pkey/users_people, users_staff; the account and the admins
-- locks:  those accounts, in the order of id
SELECT u.id, u.role, u.name, u.deactivated_at IS NULL AS active,
    u.kind = 'user' AND coalesce(u.external_id, '') NOT LIKE 'host:%' AS person
FROM users u
WHERE u.id = :user_id AND u.kind <> 'contact' OR (u.role = 'admin' AND u.deactivated_at IS NULL)
ORDER BY u.id
FOR NO KEY UPDATE;

-- name: change :json
-- Change what is given; null leaves it. The account as it now is. Raises users_admin. Who comes to the staff with it, or
-- leaves it, sees other threads from then on: their user streams are told so (a personal change of no thread).
-- params: user_id, name, role, active
-- route:  PATCH /api/admin/users/<user_id:id>
-- cli:    bobbin createuser
-- plan:   users_pkey, sessions_user_id; one row each
-- locks:  the account (already held)
WITH staff AS (
    SELECT o.role <> 'member' AND o.deactivated_at IS NULL AS before,
        coalesce(:role, o.role) <> 'member' AND coalesce(:active::boolean, o.deactivated_at IS NULL) AS after
    FROM users o WHERE o.id = :user_id
), told AS (
    INSERT INTO personal_changes (user_id, thread_id) SELECT :user_id, 0 FROM staff s WHERE s.before <> s.after
)
UPDATE users u
SET name = coalesce(:name, u.name), role = coalesce(:role, u.role),
    deactivated_at = CASE coalesce(:active::boolean, u.deactivated_at IS NULL)
        WHEN true THEN NULL ELSE coalesce(u.deactivated_at, now()) END,
    staff_since = CASE WHEN s.before = s.after THEN u.staff_since WHEN s.after THEN clock_timestamp() END,
    staff_xid = CASE WHEN s.before = s.after THEN u.staff_xid ELSE pg_current_xact_id() END
FROM staff s
WHERE u.id = :user_id
RETURNING managed_json(u, (SELECT max(s.last_used_at) FROM sessions s WHERE s.user_id = u.id));

-- name: leave_inbox :value
-- The memberships in contact threads of somebody who is not of the staff (any more) go, and their cursors with them.
-- How many. After `change`, in its transaction: the account is held, so nobody of theirs comes in meanwhile
-- (members.enter).
-- params: user_id
-- route:  PATCH /api/admin/users/<user_id:id>
-- cli:    bobbin createuser
-- plan:   users_pkey, memberships_mine, threads_pkey; in proportion to their threads: 20,000 take some 0.1 s
-- locks:  those memberships
WITH gone AS (
    DELETE FROM memberships m
    WHERE m.user_id = :user_id AND m.left_rev IS NULL
        AND (SELECT t.kind FROM threads t WHERE t.id = m.thread_id) = 'contact'
        AND NOT EXISTS (SELECT FROM users u WHERE u.id = :user_id AND u.role <> 'member' AND u.deactivated_at IS NULL)
    RETURNING m.thread_id
)
SELECT count(*) FROM gone;

-- name: set_password :exec
-- Another password, whatever the old one was.
-- params: user_id, password_hash
-- route:  POST /api/admin/users/<user_id:id>/password
-- cli:    bobbin createuser
-- plan:   users_pkey; one row
-- locks:  the account (already held)
UPDATE users SET password_hash = :password_hash WHERE id = :user_id;

-- name: places :many
-- The next threads of a deactivated account, and of each whether as admin. None when it is active again.
-- params: user_id, after_id (thread id, exclusive), size
-- live:   after PATCH /api/admin/users/<user_id:id>
-- plan:   memberships_mine/memberships_open, users_pkey/users_deactivated; at most size rows
SELECT m.thread_id, m.role = 'admin' AS presides
FROM memberships m
JOIN users u ON u.id = m.user_id
WHERE m.user_id = :user_id AND m.thread_id > :after_id AND m.left_rev IS NULL AND u.deactivated_at IS NOT NULL
ORDER BY m.thread_id
LIMIT :size;

-- name: heir :value
-- Who takes over a thread: its longest-standing active moderator, else its longest-standing active member; no bot.
-- They stay active until the commit, so that whoever deactivates them finds them admin. No row when there is nobody.
-- params: thread_id, user_id (whose place it is)
-- live:   after PATCH /api/admin/users/<user_id:id>, once for each thread that is without an admin by it
-- plan:   memberships_open, users_pkey/users_people; in proportion to the members of the thread
-- locks:  the account of the heir (shared)
SELECT m.user_id
FROM memberships m
JOIN users u ON u.id = m.user_id
WHERE m.thread_id = :thread_id AND m.user_id <> :user_id AND m.left_rev IS NULL
    AND u.deactivated_at IS NULL AND u.kind = 'user'
ORDER BY m.role = 'moderator' DESC, m.joined_rev
LIMIT 1
FOR SHARE OF u;
