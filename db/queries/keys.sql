-- keys.sql: API keys of bots and host applications, and the guests that a host vouches for.
-- Writes api_keys, the sessions of keys and guests, and users: bots and guests. A key has a session, so that what ends
-- a session ends it, and its streams, on every worker. Locks are taken in one order: account, key, its session,
-- guests' sessions.

-- name: make_bot :value
-- A new bot. Raises users_username_key.
-- params: username, name
-- route:  POST /api/admin/keys
-- plan:   one insert
-- locks:  the new row
INSERT INTO users (kind, username, name) VALUES ('bot', :username, :name) RETURNING id;

-- name: hold_bot :value
-- An active bot, which stays so until the commit. No row when there is none.
-- params: user_id
-- route:  POST /api/admin/keys
-- plan:   users_pkey/users_people; one row
-- locks:  the account (shared)
SELECT id FROM users WHERE id = :user_id AND kind = 'bot' AND deactivated_at IS NULL FOR SHARE;

-- name: make :one
-- A new key of a bot: its id, and its JSON without the secret.
-- params: user_id, kind, name, key_hash (bytea, SHA-256), created_by
-- route:  POST /api/admin/keys
-- plan:   two inserts
-- locks:  the new rows
WITH session AS (
    INSERT INTO sessions (user_id, kind, expires_at) VALUES (:user_id, 'key', 'infinity') RETURNING *
), key AS (
    INSERT INTO api_keys (session_id, kind, name, key_hash, created_by)
    SELECT id, :kind, :name, :key_hash, :created_by FROM session
    RETURNING *
)
SELECT key.session_id, key_json(key::api_keys, session::sessions) AS key FROM key, session;

-- name: page :one
-- The living keys, newest first: their JSON and the key to go on from.
-- params: before_id (exclusive), size (1 to 100)
-- route:  GET /api/admin/keys
-- plan:   api_keys_pkey, sessions_pkey; at most size + 1 rows
WITH page AS (
    SELECT * FROM api_keys WHERE session_id < :before_id ORDER BY session_id DESC LIMIT :size::int + 1
), kept AS (
    SELECT * FROM page ORDER BY session_id DESC LIMIT :size
)
SELECT (SELECT coalesce('[' || string_agg(key_json(k::api_keys, s), ',' ORDER BY k.session_id DESC) || ']', '[]')
        FROM kept k JOIN sessions s ON s.id = k.session_id) AS keys,
    (SELECT count(*) FROM page) > :size AS more,
    (SELECT min(session_id) FROM kept) AS last_id;

-- name: revoke :one
-- End a key. Whose it was; no row when there is none.
-- params: key_id
-- route:  DELETE /api/admin/keys/<key_id:id>
-- plan:   api_keys_pkey, sessions_pkey; one row each
-- locks:  the key and its session
WITH gone AS (
    DELETE FROM api_keys WHERE session_id = :key_id RETURNING session_id, kind, name
)
UPDATE sessions s SET ended_at = now(), ended_xid = pg_current_xact_id()
FROM gone
WHERE s.id = gone.session_id AND s.ended_at IS NULL
RETURNING s.user_id, gone.kind, gone.name;

-- name: forget :exec
-- The keys of a bot that is deactivated, whose sessions are then ended.
-- params: user_id
-- route:  PATCH /api/admin/users/<user_id:id>
-- plan:   sessions_user_id, api_keys_pkey; in proportion to the person's sessions
-- locks:  those keys
DELETE FROM api_keys k USING sessions s WHERE s.user_id = :user_id AND s.kind = 'key' AND k.session_id = s.id;

-- name: end_guests :many
-- End the living guest sessions that these keys have minted.
-- params: key_ids (bigint[])
-- route:  DELETE /api/admin/keys/<key_id:id>
-- route:  PATCH /api/admin/users/<user_id:id>
-- plan:   sessions_minted_by, sessions_pkey; in proportion to the guests of the last day
-- locks:  those sessions, in the order of id
WITH those AS (
    SELECT id FROM sessions
    WHERE kind = 'guest' AND minted_by = ANY(:key_ids::bigint[]) AND ended_at IS NULL AND expires_at > now()
    ORDER BY id
    FOR NO KEY UPDATE
)
UPDATE sessions s SET ended_at = now(), ended_xid = pg_current_xact_id() FROM those WHERE s.id = those.id
RETURNING s.id;

-- name: hold_guest :one
-- A person of a host application. No row when there is none yet.
-- params: external_id
-- route:  POST /api/host/tokens
-- route:  DELETE /api/host/users/<external_id:str>/sessions
-- plan:   users_external_id_key; one row
-- locks:  the account: whoever mints for the same person waits, and whoever deactivates them
SELECT id, name, deactivated_at IS NOT NULL AS deactivated
FROM users WHERE external_id = :external_id
FOR NO KEY UPDATE;

-- name: make_guest :value
-- A new person of a host application. No row when somebody else has just made them. Raises users_username_key.
-- params: external_id, username, name
-- route:  POST /api/host/tokens
-- plan:   users_external_id_key; one insert
-- locks:  the new row
INSERT INTO users (external_id, username, name) VALUES (:external_id, :username, :name)
ON CONFLICT (external_id) DO NOTHING
RETURNING id;

-- name: rename_guest :exec
-- The host calls them so now.
-- params: user_id, name
-- route:  POST /api/host/tokens
-- plan:   users_pkey; one row
-- locks:  the account (already held)
UPDATE users SET name = :name WHERE id = :user_id;

-- name: guest :json
-- Who they are, for their host.
-- params: user_id
-- route:  POST /api/host/tokens
-- plan:   users_pkey; one row
SELECT '{"id":' || id || ',"name":' || to_json(name)::text || ',"username":' || to_json(username)::text || '}'
FROM users WHERE id = :user_id;

-- name: hold_key :value
-- The session of a living key: whoever revokes it waits, and then ends what was minted. No row when it is over.
-- params: key_id
-- route:  POST /api/host/tokens
-- plan:   sessions_pkey; one row
-- locks:  the session of the key (shared)
SELECT id FROM sessions WHERE id = :key_id AND ended_at IS NULL FOR SHARE;

-- name: renew :value
-- Move the end of a guest's session forward. No row when they have none there that lives: what is all but over is not
-- renewed, for a worker may have found it expired meanwhile.
-- params: key_id, user_id, device, seconds
-- route:  POST /api/host/tokens
-- plan:   sessions_minted_by; the sessions of that person in the last day
-- locks:  the session
UPDATE sessions SET expires_at = clock_timestamp() + make_interval(secs => :seconds), last_used_at = now()
WHERE kind = 'guest' AND minted_by = :key_id AND user_id = :user_id AND user_agent = :device
    AND ended_at IS NULL AND expires_at > clock_timestamp() + interval '5 seconds'
RETURNING id;

-- name: open_guest :value
-- A new session of a guest. Some that are long over, whoever's they were, go on the way.
-- params: key_id, user_id, device, seconds
-- route:  POST /api/host/tokens
-- plan:   sessions_guests_over; at most ten rows
-- locks:  the new row, and those that go (SKIP LOCKED)
WITH old AS (
    DELETE FROM sessions s
    USING (SELECT id FROM sessions WHERE kind = 'guest' AND expires_at < now() - interval '1 day'
           ORDER BY expires_at LIMIT 10 FOR UPDATE SKIP LOCKED) gone
    WHERE s.id = gone.id
)
INSERT INTO sessions (user_id, kind, expires_at, minted_by, user_agent)
VALUES (:user_id, 'guest', clock_timestamp() + make_interval(secs => :seconds), :key_id, :device)
RETURNING id;
