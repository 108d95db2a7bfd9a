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
