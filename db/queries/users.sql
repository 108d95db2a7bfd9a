-- users.sql: accounts.
-- Writes users. Emails and usernames are unique ignoring case, by index.

-- name: create :value
-- A new account. Raises users_email_key or users_username_key.
-- params: email, username, name, password_hash, role
-- route:  POST /api/auth/register
-- cli:    bobbin createuser
-- plan:   one insert
-- locks:  the new row
INSERT INTO users (email, username, name, password_hash, role)
VALUES (:email, :username, :name, :password_hash, :role)
RETURNING id;

-- name: account :json
-- The account as its owner sees it. No row when it is gone.
-- params: user_id
-- route:  GET /api/me
-- plan:   users_pkey; one row
SELECT account_json(u) FROM users u WHERE u.id = :user_id;

-- name: edit :json
-- Change what is given; null leaves it. The account as it now is. Raises users_email_key or users_username_key.
-- params: user_id, name, username, email, read_receipts
-- route:  PATCH /api/me
-- plan:   users_pkey; one row
-- locks:  the account
UPDATE users u
SET name = coalesce(:name, u.name), username = coalesce(:username, u.username), email = coalesce(:email, u.email),
    read_receipts = coalesce(:read_receipts::boolean, u.read_receipts)
WHERE u.id = :user_id AND u.deactivated_at IS NULL
RETURNING account_json(u);

-- name: set_password :value
-- Another password, where the stored one is still the one that was compared. No row otherwise.
-- params: user_id, old_hash, new_hash
-- route:  POST /api/me/password
-- plan:   users_pkey; one row
-- locks:  the account
UPDATE users SET password_hash = :new_hash
WHERE id = :user_id AND password_hash = :old_hash AND deactivated_at IS NULL
RETURNING id;

-- name: hold :many
-- People to be put into a thread, their accounts locked: whom they block and whether they are deactivated stays so.
-- params: user_ids (bigint[])
-- route:  POST /api/threads
-- route:  POST /api/threads/<thread_id:id>/members
-- plan:   users_pkey; at most 1,001 rows
-- locks:  those accounts (shared), in the order of id
SELECT id FROM users WHERE id = ANY(:user_ids::bigint[]) ORDER BY id FOR SHARE;

-- name: find :json
-- People by name or username, ignoring case: those that it is, then those that begin with it, then those that have
-- it somewhere. Of the last up to 200 are looked at, and only when the others are too few; parts need three letters or
-- digits on end, without which the index of parts knows nothing. Nobody who is deactivated.
-- params: search, part (search for LIKE: its signs escaped, between %), size (1 to 50)
-- route:  GET /api/users (hot: each letter typed)
-- plan:   users_by_name, users_by_username, users_by_part, users_pkey; at most twice size and 200 rows
WITH near AS (
    -- In byte order what it is comes before what begins with it.
    (SELECT u.id FROM users u
     WHERE lower(u.name) ~>=~ lower(:search) AND lower(u.name) ~<~ (lower(:search) || chr(1114111))
        AND u.deactivated_at IS NULL
     ORDER BY lower(u.name) USING ~<~
     LIMIT :size)
    UNION
    (SELECT u.id FROM users u
     WHERE lower(u.username) ~>=~ lower(:search) AND lower(u.username) ~<~ (lower(:search) || chr(1114111))
        AND u.deactivated_at IS NULL
     ORDER BY lower(u.username) USING ~<~
     LIMIT :size)
), far AS (
    SELECT u.id FROM users u
    WHERE (SELECT count(*) FROM near) < :size AND u.deactivated_at IS NULL
        AND (lower(u.name) LIKE CASE WHEN lower(:search) ~ '[[:alnum:]]{3}' THEN lower(:part) END
            OR lower(u.username) LIKE CASE WHEN lower(:search) ~ '[[:alnum:]]{3}' THEN lower(:part) END)
    LIMIT 200
), found AS (
    SELECT u.id, u.username, u.name, u.kind,
        CASE WHEN lower(:search) IN (lower(u.name), lower(u.username)) THEN 0
            WHEN starts_with(lower(u.name), lower(:search)) OR starts_with(lower(u.username), lower(:search)) THEN 1
            ELSE 2 END AS distance
    FROM users u
    WHERE u.id IN (SELECT id FROM near UNION SELECT id FROM far)
    ORDER BY distance, lower(u.name), u.id
    LIMIT :size
)
SELECT coalesce('[' || string_agg('{"id":' || id || ',"username":' || coalesce(to_json(username)::text, 'null')
        || ',"name":' || to_json(name)::text || ',"kind":"' || kind || '"}', ',' ORDER BY distance, lower(name), id)
    || ']', '[]')
FROM found;

-- name: role :value
-- The role of an active account for the whole server. No row when it is none.
-- params: user_id
-- live:   before every route of admins
-- plan:   users_pkey; one row
SELECT role FROM users WHERE id = :user_id AND deactivated_at IS NULL;

-- name: secret_of :value
-- The stored password of an account. No row when it has none, or is deactivated.
-- params: user_id
-- route:  POST /api/me/password
-- route:  PATCH /api/me
-- plan:   users_pkey; one row
SELECT password_hash FROM users WHERE id = :user_id AND deactivated_at IS NULL AND password_hash IS NOT NULL;
