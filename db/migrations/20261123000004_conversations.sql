-- migrate:up

-- The list of conversations at size: any page of it without counting what lies before, any label without a sort.
-- Locks: nothing that is in use; stop all servers of the older version before 20261123000001.

-- A conversation tells its labels itself. The table of labels follows it (trigger), in the order of the list.
ALTER TABLE conversations ADD labels text[] NOT NULL DEFAULT '{}';
UPDATE conversations n
SET labels = (SELECT array_agg(l.label ORDER BY l.label) FROM conversation_labels l WHERE l.thread_id = n.thread_id)
WHERE n.thread_id IN (SELECT thread_id FROM conversation_labels);
DROP INDEX conversation_labels_by_label;
ALTER TABLE conversation_labels ADD last_at timestamptz;
UPDATE conversation_labels l SET last_at = n.last_at FROM conversations n WHERE n.thread_id = l.thread_id;
DELETE FROM conversation_labels WHERE last_at IS NULL;
ALTER TABLE conversation_labels ALTER last_at SET NOT NULL;
CREATE INDEX conversation_labels_latest ON conversation_labels (label, last_at, thread_id);  -- inbox filters

CREATE FUNCTION conversations_label() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    DELETE FROM conversation_labels
    WHERE thread_id = NEW.thread_id AND (NEW.last_at IS NULL OR label <> ALL (NEW.labels));
    INSERT INTO conversation_labels (thread_id, label, last_at)
    SELECT NEW.thread_id, label, NEW.last_at FROM unnest(NEW.labels) AS label WHERE NEW.last_at IS NOT NULL
    ON CONFLICT (thread_id, label) DO UPDATE SET last_at = excluded.last_at;
    RETURN NULL;
END $$;
CREATE TRIGGER conversations_labelled AFTER INSERT ON conversations FOR EACH ROW
    WHEN (NEW.labels <> '{}') EXECUTE FUNCTION conversations_label();
CREATE TRIGGER conversations_relabelled AFTER UPDATE ON conversations FOR EACH ROW
    WHEN ((OLD.labels <> '{}' OR NEW.labels <> '{}')
        AND (OLD.labels, OLD.last_at) IS DISTINCT FROM (NEW.labels, NEW.last_at)) EXECUTE FUNCTION conversations_label();

-- How many conversations of a status had their latest message on a day (UTC): what a deep page passes over. A message
-- changes it only where the one before it is of another day. The rows of a day and status are summed: whoever counts
-- takes one that nobody holds, or makes another, so nobody waits for anybody, and none can wait for each other.
CREATE TABLE conversation_days (
    id     bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT conversation_days_pkey PRIMARY KEY,
    day    date NOT NULL,
    status text NOT NULL,
    count  bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX conversation_days_by_day ON conversation_days (day, status);  -- inbox.latest

CREATE FUNCTION conversation_day(last_at timestamptz) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT timezone('UTC', last_at)::date $$;
CREATE FUNCTION tally_day(at timestamptz, state text, more bigint) RETURNS void LANGUAGE plpgsql AS
$$ DECLARE mine bigint; had bigint;
BEGIN
    SELECT d.id, d.count INTO mine, had FROM conversation_days d
    WHERE d.day = conversation_day(at) AND d.status = state LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND AND had + more = 0 THEN
        DELETE FROM conversation_days d WHERE d.id = mine;
    ELSIF FOUND THEN
        UPDATE conversation_days d SET count = d.count + more WHERE d.id = mine;
    ELSE
        INSERT INTO conversation_days (day, status, count) VALUES (conversation_day(at), state, more);
    END IF;
END $$;
INSERT INTO conversation_days (day, status, count)
SELECT conversation_day(last_at), status, count(*) FROM conversations WHERE last_at IS NOT NULL GROUP BY 1, 2;

CREATE FUNCTION conversations_add_days() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    PERFORM tally_day(added.at, added.status, added.count)
    FROM (SELECT min(last_at) AS at, status, count(*) AS count FROM new_rows
          WHERE last_at IS NOT NULL GROUP BY conversation_day(last_at), status) added;
    RETURN NULL;
END $$;
CREATE TRIGGER conversations_days_added AFTER INSERT ON conversations REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION conversations_add_days();
CREATE FUNCTION conversations_change_days() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF OLD.last_at IS NOT NULL THEN
        PERFORM tally_day(OLD.last_at, OLD.status, -1);
    END IF;
    IF NEW.last_at IS NOT NULL THEN
        PERFORM tally_day(NEW.last_at, NEW.status, 1);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER conversations_days_changed AFTER UPDATE ON conversations FOR EACH ROW
    WHEN ((OLD.status, conversation_day(OLD.last_at)) IS DISTINCT FROM (NEW.status, conversation_day(NEW.last_at)))
    EXECUTE FUNCTION conversations_change_days();

-- The same of the totals. Of many new conversations at once only the sum is added: row by row, each would add a dead
-- version of the same few rows, and 100,000 took two minutes.
CREATE OR REPLACE FUNCTION tally(what text, more bigint) RETURNS void LANGUAGE plpgsql AS
$$ DECLARE mine smallint;
BEGIN
    SELECT t.shard INTO mine FROM tallies t WHERE t.name = what LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE tallies t SET count = t.count + more WHERE t.name = what AND t.shard = mine;
    ELSE
        INSERT INTO tallies AS t (name, shard, count) VALUES (what, (random() * 32767)::smallint, more)
        ON CONFLICT (name, shard) DO UPDATE SET count = t.count + excluded.count;
    END IF;
END $$;
CREATE FUNCTION conversations_add() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    PERFORM tally(added.status, added.count), tally('conversations', added.count)
    FROM (SELECT status, count(*) AS count FROM new_rows WHERE last_at IS NOT NULL GROUP BY status) added;
    RETURN NULL;
END $$;
DROP TRIGGER conversations_added ON conversations;
CREATE TRIGGER conversations_added AFTER INSERT ON conversations REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION conversations_add();

CREATE OR REPLACE FUNCTION conversation_json(n conversations) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || n.contact_id || ',"phoneNumber":' || coalesce(to_json(c.phone_number)::text, 'null')
    || ',"status":"' || n.status || '","snoozedUntil":' || coalesce(time_json(n.snoozed_until), 'null')
    || ',"assigneeId":' || coalesce(n.assignee_id::text, 'null')
    || ',"labels":' || to_json(n.labels)::text || '}'
   FROM contacts c WHERE c.id = n.contact_id $$;

-- How many messages of a conversation one of the staff (reader, since: of the staff since then) has not read: arithmetic, and
-- what is read as doors says. Each lookup by itself (OFFSET 0): joined freely, a plan may read all of a thread.
CREATE FUNCTION conversation_unread(n conversations, reader bigint, since timestamptz)
RETURNS TABLE (last_seq bigint, unread bigint) LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS
$$ SELECT h.last_seq, CASE WHEN h.last_deleted_seq <= d.read_seq THEN h.last_seq - d.read_seq
       ELSE h.last_seq - d.read_seq - deleted_after(n.thread_id, d.read_seq) END
   FROM (SELECT last_seq, last_deleted_seq, archived_seq FROM thread_heads WHERE thread_id = n.thread_id OFFSET 0) h
   LEFT JOIN LATERAL (
       SELECT read_seq FROM memberships
       WHERE thread_id = n.thread_id AND user_id = reader AND left_rev IS NULL OFFSET 0) own ON true
   CROSS JOIN LATERAL (
       SELECT greatest(h.archived_seq, coalesce(own.read_seq, (
           SELECT read_before(t.id, since, t.created_at, n.last_at, h.archived_seq, h.last_seq)
           FROM threads t WHERE t.id = n.thread_id))) AS read_seq OFFSET 0) d $$;

-- A conversation as they see it, for the list. A latest message that is archived has neither text nor author here.
CREATE FUNCTION conversation_row(n conversations, reader bigint, since timestamptz)
RETURNS TABLE (conversation text) LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS
$$ SELECT '{"id":' || n.thread_id || ',"contactId":' || n.contact_id || ',"name":' || c.name
        || ',"phoneNumber":' || coalesce('"' || c.phone_number || '"', 'null')
        || ',"content":' || coalesce(to_json(left(m.text, 200))::text, '""') || ',"createdAt":' || time_json(n.last_at)
        || ',"unreadCount":' || r.unread || ',"lastSeq":' || r.last_seq
        || ',"author":' || CASE m.author_id
            WHEN n.contact_id THEN '{"id":' || n.contact_id || ',"name":' || c.name || ',"kind":"contact"}'
            ELSE coalesce(a.author, 'null') END
        || ',"status":"' || n.status || '","snoozedUntil":' || coalesce(time_json(n.snoozed_until), 'null')
        || ',"assignee":' || coalesce(s.assignee, 'null') || ',"labels":' || to_json(n.labels)::text || '}'
   FROM (SELECT to_json(name)::text AS name, phone_number FROM contacts WHERE id = n.contact_id OFFSET 0) c
   CROSS JOIN LATERAL (SELECT * FROM conversation_unread(n, reader, since) OFFSET 0) r
   LEFT JOIN LATERAL (
       SELECT author_id, text FROM messages WHERE thread_id = n.thread_id AND seq = r.last_seq OFFSET 0) m ON true
   LEFT JOIN LATERAL (
       SELECT author_json(u) AS author FROM users u WHERE u.id = m.author_id AND m.author_id <> n.contact_id OFFSET 0) a ON true
   LEFT JOIN LATERAL (
       SELECT '{"id":' || id || ',"name":' || to_json(name)::text || '}' AS assignee
       FROM users WHERE id = n.assignee_id OFFSET 0) s ON true $$;

-- migrate:down

DROP FUNCTION conversation_row, conversation_unread;
DROP TRIGGER conversations_days_added ON conversations;
DROP TRIGGER conversations_days_changed ON conversations;
DROP TRIGGER conversations_labelled ON conversations;
DROP TRIGGER conversations_relabelled ON conversations;
DROP TRIGGER conversations_added ON conversations;
DROP FUNCTION conversations_add, conversations_add_days, conversations_change_days, conversations_label, tally_day,
    conversation_day;
DROP TABLE conversation_days;
DROP FUNCTION tally;
CREATE FUNCTION tally(what text, more bigint) RETURNS void LANGUAGE sql AS
$$ INSERT INTO tallies AS t (name, shard, count) VALUES (what, pg_backend_pid() % 16, more)
   ON CONFLICT (name, shard) DO UPDATE SET count = t.count + excluded.count $$;
CREATE TRIGGER conversations_added AFTER INSERT ON conversations FOR EACH ROW
    WHEN (NEW.last_at IS NOT NULL) EXECUTE FUNCTION conversations_tally();
CREATE OR REPLACE FUNCTION conversation_json(n conversations) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || n.contact_id || ',"phoneNumber":' || coalesce(to_json(c.phone_number)::text, 'null')
    || ',"status":"' || n.status || '","snoozedUntil":' || coalesce(time_json(n.snoozed_until), 'null')
    || ',"assigneeId":' || coalesce(n.assignee_id::text, 'null')
    || ',"labels":' || coalesce((
        SELECT json_agg(l.label ORDER BY l.label)::text FROM conversation_labels l WHERE l.thread_id = n.thread_id), '[]') || '}'
   FROM contacts c WHERE c.id = n.contact_id $$;
DROP INDEX conversation_labels_latest;
ALTER TABLE conversation_labels DROP last_at;
CREATE INDEX conversation_labels_by_label ON conversation_labels (label, thread_id);
ALTER TABLE conversations DROP labels;
