-- migrate:up

-- What was done that bears on security: who, what, when, from where. Rows are only ever added.
-- No foreign keys: what is written here outlives whatever it is about.
CREATE TABLE audit (
    id         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT audit_pkey PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    act        text NOT NULL,   -- a dotted name, as 'session.opened'
    actor_id   bigint,          -- who did it; null: nobody signed in, or the command line
    subject_id bigint,          -- to whom, or whose it is
    thread_id  bigint,          -- where, if in a thread
    address    inet,
    request_id text,
    details    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_actor ON audit (actor_id, id);      -- audit.newest_of
CREATE INDEX audit_subject ON audit (subject_id, id);  -- audit.newest_of
CREATE INDEX audit_act ON audit (act, id);             -- audit.newest_act

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'audit is append-only' USING ERRCODE = 'insufficient_privilege'; END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- migrate:down

DROP TABLE audit;
DROP FUNCTION audit_refuse;
