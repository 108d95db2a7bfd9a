-- migrate:up

-- Sign-ins that can be listed, renewed and ended, and people who are out.
-- Locks: users and sessions for as long as it takes to read sessions once.

ALTER TABLE users ADD deactivated_at timestamptz;  -- not null: signs in nowhere, is found by nobody

-- A session is one way in: of a device that signed in, of an API key, or of a guest of a host application.
-- Every access token names one. Ended or expired it opens nothing any more, and its streams end.
ALTER TABLE sessions
    ADD kind         text NOT NULL DEFAULT 'device'
                     CONSTRAINT sessions_kind CHECK (kind IN ('device', 'key', 'guest')),
    ADD last_used_at timestamptz NOT NULL DEFAULT now(),
    ADD address      inet,   -- where it was last renewed from
    ADD user_agent   text,   -- and by what, in its own words
    ADD ended_at     timestamptz,
    ADD ended_xid    xid8,   -- who looks since when, misses none: sessions.ended
    ALTER refresh_hash DROP NOT NULL,
    ADD CONSTRAINT sessions_refresh CHECK ((kind = 'device') = (refresh_hash IS NOT NULL)),
    ADD CONSTRAINT sessions_end CHECK ((ended_at IS NULL) = (ended_xid IS NULL));
-- By time, though xids are asked for: what ended of late is little, and xids of another cluster (pg_dump) do no harm.
CREATE INDEX sessions_ended ON sessions (ended_at) INCLUDE (ended_xid, id) WHERE ended_at IS NOT NULL;  -- endings.since

-- Refresh tokens that have been exchanged. One that comes again was stolen, or its thief was faster.
CREATE TABLE spent_tokens (
    hash       bytea CONSTRAINT spent_tokens_pkey PRIMARY KEY,
    session_id bigint NOT NULL CONSTRAINT spent_tokens_session_id_fkey REFERENCES sessions ON DELETE CASCADE,
    spent_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX spent_tokens_session_id ON spent_tokens (session_id, spent_at);  -- the foreign key; sessions.rotate

-- Single-use tickets for ?token= of a stream, for a minute. Unlogged: after a crash a client asks for another.
CREATE UNLOGGED TABLE tickets (
    hash       bytea CONSTRAINT tickets_pkey PRIMARY KEY,
    session_id bigint NOT NULL,  -- no foreign key: one from here would have every ticket lock its session
    expires_at timestamptz NOT NULL
);
CREATE INDEX tickets_expires_at ON tickets (expires_at);  -- sessions.make_ticket clears up

-- migrate:down

DROP TABLE tickets, spent_tokens;
DROP INDEX sessions_ended;
-- Nothing would say any more that these are over: what was ended must not come back.
DELETE FROM sessions s USING users u
WHERE u.id = s.user_id AND (s.kind <> 'device' OR s.ended_at IS NOT NULL OR u.deactivated_at IS NOT NULL);
ALTER TABLE sessions DROP CONSTRAINT sessions_refresh, DROP CONSTRAINT sessions_end,
    DROP kind, DROP last_used_at, DROP address, DROP user_agent, DROP ended_at, DROP ended_xid,
    ALTER refresh_hash SET NOT NULL;
ALTER TABLE users DROP deactivated_at;
