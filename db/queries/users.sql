-- users.sql: accounts and sign-ins.
-- Writes users and sessions. Emails and usernames are unique ignoring case, by index.

-- name: register :one
-- A new account and its first sign-in. Raises users_email_key or users_username_key.
-- params: email, username, name, password_hash, refresh_hash (bytea, SHA-256), days (of the refresh token)
-- route:  POST /api/auth/register
-- plan:   two inserts
-- locks:  the new rows
WITH person AS (
    INSERT INTO users (email, username, name, password_hash)
    VALUES (:email, :username, :name, :password_hash)
    RETURNING *
), session AS (
    INSERT INTO sessions (user_id, refresh_hash, expires_at)
    SELECT id, :refresh_hash, now() + make_interval(days => :days) FROM person
    RETURNING id
)
SELECT p.id AS user_id, session.id AS session_id, account_json(p) AS account
FROM person p, session;

-- name: by_email :one
-- Who signs in with this email, ignoring case; no row when nobody, or without a password.
-- params: email
-- route:  POST /api/auth/login
-- plan:   users_email_key; one row
SELECT id, password_hash FROM users WHERE lower(email) = lower(:email) AND password_hash IS NOT NULL;

-- name: by_username :one
-- Who signs in with this handle, ignoring case; no row when nobody, or without a password.
-- params: username
-- route:  POST /api/auth/login
-- plan:   users_username_key; one row
SELECT id, password_hash FROM users WHERE lower(username) = lower(:username) AND password_hash IS NOT NULL;

-- name: open_session :one
-- A new sign-in of an account.
-- params: user_id, refresh_hash (bytea, SHA-256), days (of the refresh token)
-- route:  POST /api/auth/login
-- plan:   users_pkey; one insert
-- locks:  none but the new row
WITH session AS (
    INSERT INTO sessions (user_id, refresh_hash, expires_at)
    VALUES (:user_id, :refresh_hash, now() + make_interval(days => :days))
    RETURNING id
)
SELECT p.id AS user_id, session.id AS session_id, account_json(p) AS account
FROM users p, session
WHERE p.id = :user_id;

-- name: account :json
-- The account as its owner sees it. No row when it is gone.
-- params: user_id
-- route:  GET /api/me
-- plan:   users_pkey; one row
SELECT account_json(u) FROM users u WHERE u.id = :user_id;
