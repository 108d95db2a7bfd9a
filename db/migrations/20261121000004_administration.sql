-- migrate:up

-- Roles of the server at work: accounts that are administered, API keys, host applications, the reading of audit.
-- Locks: users, sessions and audit, each for as long as it takes to read it a few times.

-- An admin signs in by themselves. Else whoever holds the key of a bot, or of the host of a guest, would be admin too.
ALTER TABLE users ADD CONSTRAINT users_admin
    CHECK (role <> 'admin' OR (kind = 'user' AND coalesce(external_id, '') NOT LIKE 'host:%'));
CREATE INDEX users_staff ON users (role, id) WHERE role <> 'member';            -- admin.hold; the list of admin.py
CREATE INDEX users_deactivated ON users (id) WHERE deactivated_at IS NOT NULL;  -- the list of admin.py

-- A key is a way in for a bot, or for a host application: it lives as long as its session, which has the same id.
-- The key is stored as its SHA-256, never as it is. Revoked, its row goes; audit remembers.
CREATE TABLE api_keys (
    session_id bigint CONSTRAINT api_keys_pkey PRIMARY KEY CONSTRAINT api_keys_session_id_fkey REFERENCES sessions,
    kind       text NOT NULL CONSTRAINT api_keys_kind CHECK (kind IN ('bot', 'host')),
    name       text NOT NULL,
    key_hash   bytea NOT NULL CONSTRAINT api_keys_key_hash_key UNIQUE,
    created_by bigint NOT NULL CONSTRAINT api_keys_created_by_fkey REFERENCES users
);

-- A guest's session is of one host key, one of its people and one device, whose name is in user_agent.
ALTER TABLE sessions
    ADD minted_by bigint,  -- the session of the key; no foreign key: it would read all sessions when one is cleared up
    ADD CONSTRAINT sessions_minted CHECK ((kind = 'guest') = (minted_by IS NOT NULL AND user_agent IS NOT NULL));
CREATE INDEX sessions_minted_by ON sessions (minted_by, user_id) WHERE kind = 'guest';  -- keys.renew, keys.end_guests
CREATE INDEX sessions_guests_over ON sessions (expires_at) WHERE kind = 'guest';        -- keys.open_guest clears up
DROP INDEX sessions_user_id;
CREATE INDEX sessions_user_id ON sessions (user_id, last_used_at);  -- the foreign key; sessions.*; who was last seen when

-- Which acts there are: some dozens of words, however many entries.
CREATE VIEW audit_acts WITH (security_invoker) AS
WITH RECURSIVE found AS (
    (SELECT act FROM audit ORDER BY act LIMIT 1)
    UNION ALL
    SELECT (SELECT a.act FROM audit a WHERE a.act > f.act ORDER BY a.act LIMIT 1) FROM found f WHERE f.act IS NOT NULL
)
SELECT act FROM found WHERE act IS NOT NULL;
DROP INDEX audit_actor, audit_subject;
CREATE INDEX audit_actor ON audit (actor_id, act, id);      -- audit.newest_of
CREATE INDEX audit_subject ON audit (subject_id, act, id);  -- audit.newest_of

-- What admins see.

-- An account; seen_at is when one of its sessions was last used.
CREATE FUNCTION managed_json(u users, seen_at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || u.id || ',"email":' || coalesce(to_json(u.email)::text, 'null')
    || ',"username":' || coalesce(to_json(u.username)::text, 'null') || ',"name":' || to_json(u.name)::text
    || ',"kind":"' || u.kind || '","role":"' || u.role || '","active":' || (u.deactivated_at IS NULL)
    || ',"createdAt":' || time_json(u.created_at) || ',"lastSeenAt":' || coalesce(time_json(seen_at), 'null') || '}' $$;

-- A key. Its session was used last when it was made: then never.
CREATE FUNCTION key_json(k api_keys, s sessions) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || k.session_id || ',"kind":"' || k.kind || '","name":' || to_json(k.name)::text
    || ',"userId":' || s.user_id || ',"createdAt":' || time_json(s.created_at)
    || ',"lastUsedAt":' || CASE WHEN s.last_used_at = s.created_at THEN 'null' ELSE time_json(s.last_used_at) END
    || ',"createdBy":' || k.created_by || '}' $$;

CREATE FUNCTION entry_json(e audit) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || e.id || ',"at":' || time_json(e.at) || ',"act":' || to_json(e.act)::text
    || ',"actorId":' || coalesce(e.actor_id::text, 'null') || ',"subjectId":' || coalesce(e.subject_id::text, 'null')
    || ',"threadId":' || coalesce(e.thread_id::text, 'null')
    || ',"address":' || coalesce(to_json(host(e.address))::text, 'null')
    || ',"requestId":' || coalesce(to_json(e.request_id)::text, 'null') || ',"details":' || e.details::text || '}' $$;

-- migrate:down

DROP FUNCTION entry_json, key_json, managed_json;
DROP VIEW audit_acts;
DROP INDEX audit_actor, audit_subject;
CREATE INDEX audit_actor ON audit (actor_id, id);
CREATE INDEX audit_subject ON audit (subject_id, id);
DROP TABLE api_keys;
DROP INDEX sessions_user_id;
CREATE INDEX sessions_user_id ON sessions (user_id);
DELETE FROM sessions WHERE kind = 'guest';
ALTER TABLE sessions DROP CONSTRAINT sessions_minted, DROP minted_by;
DROP INDEX users_staff, users_deactivated;
ALTER TABLE users DROP CONSTRAINT users_admin;
