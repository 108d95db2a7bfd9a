-- sessions.sql: signing in, staying signed in, and no longer.
-- Writes sessions (those of keys and guests begin in keys.sql), spent_tokens, tickets. A session is never brought back; who comes again gets a new one.
-- What ends one sets ended_xid, by which every worker learns of it (endings.sql).

-- name: by_email :one
-- Who signs in with this email, ignoring case; no row when nobody, or without a password.
-- params: email
-- route:  POST /api/auth/login
-- plan:   users_email_key; one row
SELECT id, password_hash, deactivated_at IS NOT NULL AS deactivated
FROM users WHERE lower(email) = lower(:email) AND password_hash IS NOT NULL;

-- name: by_username :one
-- Who signs in with this handle, ignoring case; no row when nobody, or without a password.
-- params: username
-- route:  POST /api/auth/login
-- plan:   users_username_key; one row
SELECT id, password_hash, deactivated_at IS NOT NULL AS deactivated
FROM users WHERE lower(username) = lower(:username) AND password_hash IS NOT NULL;

-- name: open :one
-- A new sign-in of an account whose password was compared with password_hash. No row when that is no
-- longer its password, or it is deactivated: both wait for the lock that is taken here, and end what was
-- opened before them. Some sessions of this person that are long over go on the way.
-- params: user_id, password_hash, refresh_hash (bytea, SHA-256), days (of the refresh token), address, user_agent
-- route:  POST /api/auth/register
-- route:  POST /api/auth/login
-- plan:   users_pkey, sessions_user_id; one insert, and in proportion to the person's sessions
-- locks:  the account (shared), the new row, and the old ones
WITH person AS (
    SELECT id FROM users
    WHERE id = :user_id AND deactivated_at IS NULL AND password_hash = :password_hash
    FOR SHARE
), old AS (
    DELETE FROM sessions s USING (
        SELECT id FROM sessions
        WHERE user_id = :user_id AND kind = 'device'
            AND (expires_at < now() - interval '30 days' OR ended_at < now() - interval '30 days')
        LIMIT 10
        FOR UPDATE SKIP LOCKED) gone
    WHERE s.id = gone.id
), session AS (
    INSERT INTO sessions (user_id, refresh_hash, expires_at, address, user_agent)
    SELECT id, :refresh_hash, now() + make_interval(days => :days), :address::inet, :user_agent FROM person
    RETURNING id
)
SELECT u.id AS user_id, session.id AS session_id, account_json(u) AS account
FROM session, person p
JOIN users u ON u.id = p.id;

-- name: rotate :one
-- Exchange a refresh token: the session goes on with a new one, the old one is spent. No row when it is
-- not the current token of a living session; of several at once with the same token one gets a row.
-- params: old_hash (bytea), new_hash (bytea), days, address, user_agent
-- route:  POST /api/auth/refresh
-- plan:   sessions_refresh_hash_key, users_pkey, spent_tokens_session_id; one row each, and the session's
--         spent tokens
-- locks:  the session
WITH session AS (
    UPDATE sessions s
    SET refresh_hash = :new_hash, last_used_at = now(), expires_at = now() + make_interval(days => :days),
        address = :address::inet, user_agent = :user_agent
    FROM users u
    WHERE s.refresh_hash = :old_hash AND s.ended_at IS NULL AND s.expires_at > now()
        AND u.id = s.user_id AND u.deactivated_at IS NULL
    RETURNING s.id, s.user_id
), spent AS (
    INSERT INTO spent_tokens (hash, session_id) SELECT :old_hash, id FROM session
), forgotten AS (
    -- Past its own seven days a token opens nothing, whoever has it.
    DELETE FROM spent_tokens t USING session
    WHERE t.session_id = session.id AND t.spent_at < now() - make_interval(days => :days)
)
SELECT session.user_id, session.id AS session_id, account_json(u) AS account
FROM session
JOIN users u ON u.id = session.user_id;

-- name: reused :one
-- A spent refresh token was presented: its session ends, whoever holds the newest token. No row when it
-- is none of ours, or the session has ended already.
-- params: hash (bytea)
-- route:  POST /api/auth/refresh (only when rotate has no row)
-- plan:   spent_tokens_pkey, sessions_pkey; one row each
-- locks:  the session
UPDATE sessions s SET ended_at = now(), ended_xid = pg_current_xact_id()
FROM spent_tokens t
WHERE t.hash = :hash AND s.id = t.session_id AND s.ended_at IS NULL
RETURNING s.id AS session_id, s.user_id;

-- name: end_one :value
-- End a session of this person. Its id; no row when there is no such, or it has ended.
-- params: user_id, session_id
-- route:  POST /api/auth/logout
-- route:  DELETE /api/auth/sessions/<session_id:id>
-- plan:   sessions_pkey/sessions_user_id; one row
-- locks:  the session
UPDATE sessions SET ended_at = now(), ended_xid = pg_current_xact_id()
WHERE id = :session_id AND user_id = :user_id AND kind <> 'key' AND ended_at IS NULL AND expires_at > now()
RETURNING id;

-- name: end_others :many
-- End all sessions of this person but one (0: all).
-- params: user_id, session_id
-- route:  POST /api/me/password
-- route:  PATCH /api/admin/users/<user_id:id>
-- route:  POST /api/admin/users/<user_id:id>/password
-- route:  DELETE /api/host/users/<external_id:str>/sessions
-- cli:    bobbin createuser
-- plan:   sessions_user_id, sessions_pkey; in proportion to the person's sessions
-- locks:  those sessions, in the order of id
WITH those AS (
    SELECT id FROM sessions
    WHERE user_id = :user_id AND id <> :session_id AND ended_at IS NULL
    ORDER BY id
    FOR NO KEY UPDATE
)
UPDATE sessions s SET ended_at = now(), ended_xid = pg_current_xact_id() FROM those WHERE s.id = those.id
RETURNING s.id;

-- name: devices :json
-- A person's living sign-ins, latest first: the newest hundred.
-- params: user_id, session_id (the one that asks)
-- route:  GET /api/auth/sessions
-- plan:   sessions_user_id; in proportion to the person's sessions
SELECT coalesce('[' || string_agg('{"id":' || s.id || ',"current":' || (s.id = :session_id)
        || ',"createdAt":' || time_json(s.created_at) || ',"lastUsedAt":' || time_json(s.last_used_at)
        || ',"expiresAt":' || time_json(s.expires_at)
        || ',"address":' || coalesce(to_json(host(s.address))::text, 'null')
        || ',"userAgent":' || coalesce(to_json(s.user_agent)::text, 'null') || '}',
        ',' ORDER BY s.last_used_at DESC, s.id DESC) || ']', '[]')
FROM (
    SELECT * FROM sessions
    WHERE user_id = :user_id AND kind <> 'key' AND ended_at IS NULL AND expires_at > now()
    ORDER BY last_used_at DESC, id DESC
    LIMIT 100) s;

-- name: alive :one
-- The person of a living session, and whether its time is to be moved on (touch). No row when it is over.
-- params: session_id
-- live:   a request with a cookie, when this worker has not looked for half a minute
-- plan:   sessions_pkey, users_pkey; one row each
SELECT s.user_id, s.last_used_at < now() - interval '1 hour' AS stale
FROM sessions s
JOIN users u ON u.id = s.user_id
WHERE s.id = :session_id AND s.ended_at IS NULL AND s.expires_at > now() AND u.deactivated_at IS NULL;

-- name: touch :exec
-- A session that lives by its cookie was used: its days begin anew.
-- params: session_id, days
-- live:   a request with a cookie, once an hour
-- plan:   sessions_pkey; one row
-- locks:  the session
UPDATE sessions SET last_used_at = now(), expires_at = now() + make_interval(days => :days)
WHERE id = :session_id AND kind = 'device' AND ended_at IS NULL;

-- name: by_key :one
-- Whose living API key this is, of which kind, and whether its use is to be noted (note_use). No row when it is none.
-- params: hash (bytea)
-- live:   a request with an API key, when this worker has not looked for half a minute
-- plan:   api_keys_key_hash_key, sessions_pkey, users_pkey; one row each
SELECT s.user_id, s.id AS session_id, k.kind,
    s.last_used_at = s.created_at OR s.last_used_at < now() - interval '1 hour' AS stale
FROM api_keys k
JOIN sessions s ON s.id = k.session_id
JOIN users u ON u.id = s.user_id
WHERE k.key_hash = :hash AND s.ended_at IS NULL AND u.deactivated_at IS NULL;

-- name: note_use :exec
-- A key was used.
-- params: session_id
-- live:   a request with an API key, once an hour
-- plan:   sessions_pkey; one row
-- locks:  the session
UPDATE sessions SET last_used_at = now() WHERE id = :session_id AND ended_at IS NULL;

-- name: make_ticket :exec
-- A ticket for one stream, for a minute. A few that nobody used go on the way.
-- params: hash (bytea), session_id, seconds
-- route:  POST /api/auth/stream-token
-- plan:   tickets_expires_at; at most ten rows
-- locks:  the new row, and those that go (SKIP LOCKED)
WITH old AS (
    DELETE FROM tickets t
    USING (SELECT hash FROM tickets WHERE expires_at < now() ORDER BY expires_at LIMIT 10 FOR UPDATE SKIP LOCKED) gone
    WHERE t.hash = gone.hash
)
INSERT INTO tickets (hash, session_id, expires_at)
VALUES (:hash, :session_id, now() + make_interval(secs => :seconds));

-- name: redeem :one
-- Use a ticket: it is gone, whoever comes next has none. The person and session it stands for; no row
-- when it is used, too old or none of ours, or the session is over.
-- params: hash (bytea)
-- live:   ?token= of a stream
-- plan:   tickets_pkey, sessions_pkey, users_pkey; one row each
-- locks:  the ticket
WITH ticket AS (
    DELETE FROM tickets WHERE hash = :hash RETURNING session_id, expires_at
)
SELECT s.user_id, s.id AS session_id, s.kind
FROM ticket t
JOIN sessions s ON s.id = t.session_id
JOIN users u ON u.id = s.user_id
WHERE t.expires_at > now() AND s.ended_at IS NULL AND s.expires_at > now() AND u.deactivated_at IS NULL;
