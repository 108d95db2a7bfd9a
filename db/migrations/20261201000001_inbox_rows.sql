-- migrate:up

-- A conversation tells all of itself that is the same for everybody: a page of the inbox reads these rows, the reader's
-- own memberships, and nobody else's. Each is kept by the statement, or trigger, that changes what it repeats.
-- Locks: conversations, and contacts against writing, for as long as it takes to rewrite the former, some 4 s for 100,000. Stop all
-- servers of the older version first: they would not keep these columns.

LOCK TABLE contacts IN SHARE ROW EXCLUSIVE MODE;  -- so that nobody is renamed before contacts_shown is there
ALTER TABLE conversations
    ADD name             text NOT NULL DEFAULT '',       -- of the contact (trigger contacts_shown)
    ADD phone_number     text,                           -- the same
    ADD created_at       timestamptz,                    -- of the thread; it never changes
    ADD last_seq         bigint NOT NULL DEFAULT 0,      -- these as thread_heads has them: messages.send, .remove, archive
    ADD last_deleted_seq bigint NOT NULL DEFAULT 0,
    ADD archived_seq     bigint NOT NULL DEFAULT 0,
    ADD last_author_id   bigint,                         -- of the latest message: messages.send
    ADD content          text NOT NULL DEFAULT '';       -- its first 200 characters: messages.send, .edit, .remove
UPDATE conversations n
SET name = c.name, phone_number = c.phone_number, created_at = t.created_at, last_seq = h.last_seq,
    last_deleted_seq = h.last_deleted_seq, archived_seq = h.archived_seq, last_author_id = m.author_id,
    content = coalesce(left(m.text, 200), '')
FROM threads t
JOIN contacts c ON c.thread_id = t.id
JOIN thread_heads h ON h.thread_id = t.id
LEFT JOIN messages m ON m.thread_id = h.thread_id AND m.seq = h.last_seq
WHERE t.id = n.thread_id;
ALTER TABLE conversations
    ALTER name DROP DEFAULT,
    ALTER created_at SET NOT NULL;

CREATE FUNCTION contacts_show() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    UPDATE conversations SET name = NEW.name, phone_number = NEW.phone_number WHERE thread_id = NEW.thread_id;
    RETURN NULL;
END $$;
-- At the end of its statement, which holds the head by then: first the head, then the conversation, as a send does.
CREATE TRIGGER contacts_shown AFTER UPDATE ON contacts FOR EACH ROW
    WHEN ((OLD.name, OLD.phone_number) IS DISTINCT FROM (NEW.name, NEW.phone_number)) EXECUTE FUNCTION contacts_show();

-- That part of its JSON, left open at the end. To make it when the row is written, some 10 us, and not for each look saves
-- half of the time of a page. Immutable, as a generated column wants it: to_json knows no setting for texts and times
-- without a zone. It uses nothing of ours, for a restore makes it before there is a search_path.
CREATE FUNCTION conversation_told(
    thread_id bigint, contact_id bigint, name text, phone_number text, content text, last_at timestamptz, last_seq bigint,
    last_author_id bigint, status text, snoozed_until timestamptz, labels text[]
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || thread_id || ',"contactId":' || contact_id || ',"name":' || to_json(name)::text
    || ',"phoneNumber":' || coalesce('"' || phone_number || '"', 'null')
    || ',"content":' || to_json(content)::text
    || ',"createdAt":' || left(to_json(timezone('UTC', last_at))::text, -1) || 'Z"'
    || ',"lastSeq":' || last_seq
    || CASE last_author_id WHEN contact_id
        THEN ',"author":{"id":' || contact_id || ',"name":' || to_json(name)::text || ',"kind":"contact"}' ELSE '' END
    || ',"status":"' || status
    || '","snoozedUntil":' || coalesce(left(to_json(timezone('UTC', snoozed_until))::text, -1) || 'Z"', 'null')
    || ',"labels":' || to_json(labels)::text || ',' $$;
ALTER TABLE conversations ADD told text GENERATED ALWAYS AS (conversation_told(
    thread_id, contact_id, name, phone_number, content, last_at, last_seq, last_author_id, status, snoozed_until, labels)) STORED;

CREATE OR REPLACE FUNCTION conversation_json(n conversations) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || n.contact_id || ',"phoneNumber":' || coalesce('"' || n.phone_number || '"', 'null')
    || ',"status":"' || n.status || '","snoozedUntil":' || coalesce(time_json(n.snoozed_until), 'null')
    || ',"assigneeId":' || coalesce(n.assignee_id::text, 'null')
    || ',"labels":' || to_json(n.labels)::text || '}' $$;

-- How many messages of a conversation one of the staff (reader, since: of the staff since then) has not read: arithmetic, and
-- what is read as doors says. Each lookup by itself (OFFSET 0): joined freely, a plan may read all of a thread.
DROP FUNCTION conversation_row, conversation_unread;
CREATE FUNCTION conversation_unread(n conversations, reader bigint, since timestamptz)
RETURNS TABLE (unread bigint) LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS
$$ SELECT CASE WHEN n.last_deleted_seq <= d.read_seq THEN n.last_seq - d.read_seq
       ELSE n.last_seq - d.read_seq - deleted_after(n.thread_id, d.read_seq) END
   FROM (SELECT greatest(n.archived_seq, coalesce((
             SELECT read_seq FROM memberships
             WHERE thread_id = n.thread_id AND user_id = reader AND left_rev IS NULL),
             read_before(n.thread_id, since, n.created_at, n.last_at, n.archived_seq, n.last_seq))) AS read_seq OFFSET 0) d $$;

-- A conversation as they see it, for the list.
CREATE FUNCTION conversation_row(n conversations, reader bigint, since timestamptz)
RETURNS TABLE (conversation text) LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS
$$ SELECT n.told || '"unreadCount":' || r.unread
       || CASE WHEN n.last_author_id = n.contact_id THEN '' ELSE ',"author":' || coalesce((
           SELECT author_json(u) FROM users u WHERE u.id = n.last_author_id), 'null') END
       || ',"assignee":' || CASE WHEN n.assignee_id IS NULL THEN 'null' ELSE (
           SELECT '{"id":' || u.id || ',"name":' || to_json(u.name)::text || '}' FROM users u WHERE u.id = n.assignee_id) END || '}'
   FROM conversation_unread(n, reader, since) r $$;

-- The stretches of seq that a reader sees of a thread whose door is open, after low and up to high.
CREATE FUNCTION stretches(reader bigint, thread bigint, history text, archived_seq bigint, last_seq bigint)
RETURNS TABLE (low bigint, high bigint) LANGUAGE sql STABLE PARALLEL SAFE ROWS 2 AS
$$ SELECT greatest(s.low, stretches.archived_seq), s.high
   FROM (SELECT 0::bigint AS low, stretches.last_seq AS high
         WHERE stretches.history = 'all'
         UNION ALL
         SELECT m.joined_seq, coalesce(m.left_seq, stretches.last_seq)
         FROM memberships m
         WHERE stretches.history = 'joined' AND m.thread_id = stretches.thread AND m.user_id = stretches.reader) s
   WHERE greatest(s.low, stretches.archived_seq) < s.high $$;
CREATE OR REPLACE VIEW sights WITH (security_invoker) AS
SELECT d.user_id, d.thread_id, s.low, s.high
FROM doors d
CROSS JOIN LATERAL stretches(d.user_id, d.thread_id, d.history, d.archived_seq, d.last_seq) s;

-- The second half of doors by itself: contact threads, as those of the staff see them who have done nothing there.
CREATE VIEW staff_doors WITH (security_invoker) AS
SELECT u.id AS user_id, t.id AS thread_id, 'moderator'::text AS role, 0::bigint AS joined_rev, 0::bigint AS joined_seq,
       greatest(h.archived_seq, read_before(
           t.id, coalesce(u.staff_since, u.created_at), t.created_at, h.last_message_at, h.archived_seq, h.last_seq)) AS read_seq,
       t.kind, t.history, t.title, t.created_at,
       h.last_seq, h.last_rev, h.log_floor, h.message_count, h.last_deleted_seq, h.last_message_at,
       false AS muted, false AS archived, 'all'::text AS notify, 0::bigint AS seen_seq, 0::bigint AS delivered_seq,
       '0'::xid8 AS changed_xid, h.last_xid, h.member_count, h.archived_seq
FROM users u
JOIN threads t ON t.kind = 'contact'
JOIN thread_heads h ON h.thread_id = t.id
WHERE u.role <> 'member' AND u.deactivated_at IS NULL AND h.deleted_at IS NULL
    AND NOT EXISTS (
        SELECT FROM memberships m WHERE m.thread_id = t.id AND m.user_id = u.id AND m.left_rev IS NULL);
CREATE OR REPLACE VIEW doors WITH (security_invoker) AS
SELECT * FROM own_doors
UNION ALL
SELECT * FROM staff_doors;

-- The door of one thread, as doors has it: whether somebody is of the staff is only asked when they are no member.
CREATE FUNCTION door(reader bigint, thread bigint)
RETURNS TABLE (history text, last_seq bigint, last_rev bigint, archived_seq bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS
$$ WITH own AS MATERIALIZED (
       SELECT d.history, d.last_seq, d.last_rev, d.archived_seq FROM own_doors d
       WHERE d.user_id = reader AND d.thread_id = thread)
   SELECT o.* FROM own o
   UNION ALL
   SELECT d.history, d.last_seq, d.last_rev, d.archived_seq FROM staff_doors d
   WHERE d.user_id = reader AND d.thread_id = thread AND NOT EXISTS (SELECT FROM own) $$;

-- As before, but the accounts of all members are looked up at once and not one by one.
CREATE OR REPLACE FUNCTION reach_of_others(thread bigint, author bigint)
RETURNS TABLE (low bigint, high bigint, delivered bigint, seen bigint) LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 10 AS
$$ WITH span AS MATERIALIZED (
       SELECT o.user_id, o.joined_seq, coalesce(o.left_seq, 9223372036854775807) AS left_seq, o.delivered_seq, o.seen_seq
       FROM memberships o
       WHERE o.thread_id = thread AND o.user_id <> author
           AND (SELECT is_small(h.member_count) FROM thread_heads h WHERE h.thread_id = thread)
       ORDER BY o.user_id, o.joined_rev
       LIMIT 301
   ), account AS MATERIALIZED (
       SELECT u.id, u.read_receipts FROM users u
       WHERE u.id = ANY (ARRAY(SELECT s.user_id FROM span s))
           -- In a contact thread the contact alone: a message to them has not come when the team has seen it.
           AND (u.kind = 'contact' OR (SELECT t.kind <> 'contact' FROM threads t WHERE t.id = thread))
   ), other AS (
       SELECT s.joined_seq, s.left_seq, max(s.delivered_seq) OVER person AS delivered,
           CASE WHEN a.read_receipts THEN max(s.seen_seq) OVER person ELSE 0 END AS seen
       FROM span s
       JOIN account a ON a.id = s.user_id
       WINDOW person AS (PARTITION BY s.user_id)
   )
   SELECT joined_seq, left_seq, min(o.delivered), min(o.seen)
   FROM other o
   WHERE (SELECT count(*) FROM other) <= 300
   GROUP BY joined_seq, left_seq $$;

-- migrate:down

CREATE OR REPLACE FUNCTION reach_of_others(thread bigint, author bigint)
RETURNS TABLE (low bigint, high bigint, delivered bigint, seen bigint) LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 10 AS
$$ WITH other AS (
       SELECT o.joined_seq, coalesce(o.left_seq, 9223372036854775807) AS left_seq,
           max(o.delivered_seq) OVER person AS delivered,
           CASE WHEN u.read_receipts THEN max(o.seen_seq) OVER person ELSE 0 END AS seen
       FROM (SELECT o.* FROM memberships o
             WHERE o.thread_id = thread AND o.user_id <> author
                 AND (SELECT is_small(h.member_count) FROM thread_heads h WHERE h.thread_id = thread)
             ORDER BY o.user_id, o.joined_rev
             LIMIT 301) o
       JOIN users u ON u.id = o.user_id
       -- In a contact thread the contact alone: a message to them has not come when the team has seen it.
       WHERE u.kind = 'contact' OR (SELECT t.kind <> 'contact' FROM threads t WHERE t.id = thread)
       WINDOW person AS (PARTITION BY o.user_id)
   )
   SELECT joined_seq, left_seq, min(o.delivered), min(o.seen)
   FROM other o
   WHERE (SELECT count(*) FROM other) <= 300
   GROUP BY joined_seq, left_seq $$;
CREATE OR REPLACE VIEW sights WITH (security_invoker) AS
SELECT d.user_id, d.thread_id, greatest(stretch.low, d.archived_seq) AS low, stretch.high
FROM doors d
CROSS JOIN LATERAL (
    SELECT 0::bigint AS low, d.last_seq AS high
    WHERE d.history = 'all'
    UNION ALL
    SELECT s.joined_seq, coalesce(s.left_seq, d.last_seq)
    FROM memberships s
    WHERE d.history = 'joined' AND s.thread_id = d.thread_id AND s.user_id = d.user_id) stretch
WHERE greatest(stretch.low, d.archived_seq) < stretch.high;
DROP FUNCTION door, stretches;
CREATE OR REPLACE VIEW doors WITH (security_invoker) AS
SELECT * FROM own_doors
UNION ALL
SELECT u.id, t.id, 'moderator', 0, 0, greatest(h.archived_seq, read_before(
           t.id, coalesce(u.staff_since, u.created_at), t.created_at, h.last_message_at, h.archived_seq, h.last_seq)),
       t.kind, t.history, t.title, t.created_at,
       h.last_seq, h.last_rev, h.log_floor, h.message_count, h.last_deleted_seq, h.last_message_at,
       false, false, 'all', 0, 0, '0'::xid8, h.last_xid, h.member_count, h.archived_seq
FROM users u
JOIN threads t ON t.kind = 'contact'
JOIN thread_heads h ON h.thread_id = t.id
WHERE u.role <> 'member' AND u.deactivated_at IS NULL AND h.deleted_at IS NULL
    AND NOT EXISTS (
        SELECT FROM memberships m WHERE m.thread_id = t.id AND m.user_id = u.id AND m.left_rev IS NULL);
DROP VIEW staff_doors;
DROP FUNCTION conversation_row, conversation_unread;
DROP TRIGGER contacts_shown ON contacts;
DROP FUNCTION contacts_show;
ALTER TABLE conversations DROP told, DROP name, DROP phone_number, DROP created_at, DROP last_seq, DROP last_deleted_seq,
    DROP archived_seq, DROP last_author_id, DROP content;
DROP FUNCTION conversation_told;
CREATE OR REPLACE FUNCTION conversation_json(n conversations) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"id":' || n.contact_id || ',"phoneNumber":' || coalesce(to_json(c.phone_number)::text, 'null')
    || ',"status":"' || n.status || '","snoozedUntil":' || coalesce(time_json(n.snoozed_until), 'null')
    || ',"assigneeId":' || coalesce(n.assignee_id::text, 'null')
    || ',"labels":' || to_json(n.labels)::text || '}'
   FROM contacts c WHERE c.id = n.contact_id $$;
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
