-- migrate:up

-- Live: read and delivered marks, unread counts by arithmetic, mentions, reactions, pins, earlier texts, and what the
-- user stream stands on.
-- Stop all servers of the older version first: their statements call message_json as it was, and they would change threads
-- without saying so in last_xid.
-- Locks: thread_heads, memberships and messages, and changes against writing, for as long as it takes to build the indexes
-- and to count the members and the deleted messages.

-- last_xid: of the latest change. Whoever sets last_rev sets it.
ALTER TABLE thread_heads
    ADD last_xid     xid8 NOT NULL DEFAULT '3',
    ADD member_count bigint NOT NULL DEFAULT 0 CONSTRAINT thread_heads_member_count CHECK (member_count >= 0);
ALTER TABLE thread_heads ALTER last_xid SET DEFAULT pg_current_xact_id();
UPDATE thread_heads h SET member_count = m.count
FROM (SELECT thread_id, count(*) FROM memberships WHERE left_rev IS NULL GROUP BY thread_id) m
WHERE m.thread_id = h.thread_id;

-- What others may know of a person's reading: everything up to seen_seq, since seen_at, and the same of what has reached
-- a device of theirs. Both only rise. A rise within a second of the last one (in a large thread: a minute) keeps its time;
-- a later one leaves the old pair in marks, and if both are the same, only that of reading: so whoever reads a lively
-- thread leaves at most a row each second or minute, and whoever comes seldom, one each time.
-- read_seq is the person's own: it decides what is unread, and may go back.
ALTER TABLE memberships
    ADD seen_seq      bigint NOT NULL DEFAULT 0,
    ADD seen_at       timestamptz,
    ADD delivered_seq bigint NOT NULL DEFAULT 0,
    ADD delivered_at  timestamptz,
    ADD changed_xid   xid8 NOT NULL DEFAULT '3',  -- what concerns this person alone: reading, settings, having left
    ADD CONSTRAINT memberships_marks CHECK (seen_seq <= delivered_seq
        AND (seen_seq = 0) = (seen_at IS NULL) AND (delivered_seq = 0) = (delivered_at IS NULL));
ALTER TABLE memberships ALTER changed_xid SET DEFAULT pg_current_xact_id();
CREATE INDEX memberships_past ON memberships (user_id, thread_id)
    WHERE left_rev IS NOT NULL;               -- merged.since

CREATE TABLE marks (
    thread_id bigint NOT NULL,
    user_id   bigint NOT NULL,
    kind      text NOT NULL CONSTRAINT marks_kind CHECK (kind IN ('read', 'delivered')),
    seq       bigint NOT NULL,
    at        timestamptz NOT NULL,
    CONSTRAINT marks_pkey PRIMARY KEY (thread_id, user_id, kind, seq)
);

-- What the user stream's tails must hear of that is no change of a thread: reading, settings. Kept for some minutes.
CREATE TABLE personal_changes (
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    user_id   bigint NOT NULL,
    thread_id bigint NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT personal_changes_pkey PRIMARY KEY (xid, user_id, thread_id)
);

CREATE INDEX changes_by_xid ON changes (xid);  -- merged.tail, log_place

-- How many messages are deleted in each 2^7, 2^14 and 2^21 places: so that unread counts need not count them.
CREATE TABLE deletions (
    thread_id bigint NOT NULL,
    level     smallint NOT NULL CONSTRAINT deletions_level CHECK (level IN (1, 2, 3)),
    block     bigint NOT NULL,                 -- seq >> (7 * level)
    count     bigint NOT NULL CONSTRAINT deletions_count CHECK (count > 0),
    CONSTRAINT deletions_pkey PRIMARY KEY (thread_id, level, block)
) WITH (fillfactor = 80);
INSERT INTO deletions (thread_id, level, block, count)
SELECT m.thread_id, level, m.seq >> (7 * level), count(*)
FROM messages m, generate_series(1, 3) level
WHERE m.deleted_at IS NOT NULL
GROUP BY 1, 2, 3;

-- How many messages after a place are deleted: the rest of its own block one by one, then whole blocks, each larger
-- than the last. At most 128 rows of each size. (What has subqueries is never inlined, and each call begins anew: that
-- costs more than the rows. So unread_json, of which merged.tail asks thousands at once, has these lines in place.)
CREATE FUNCTION deleted_after(thread bigint, place bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT (SELECT count(*) FROM messages m
           WHERE m.thread_id = thread AND m.deleted_at IS NOT NULL
               AND m.seq > place AND m.seq < ((place + 1 >> 7) + 1) << 7)
    + (SELECT coalesce(sum(d.count), 0)::bigint FROM deletions d
       WHERE d.thread_id = thread AND d.level = 1
           AND d.block > place + 1 >> 7 AND d.block < ((place + 1 >> 14) + 1) << 7)
    + (SELECT coalesce(sum(d.count), 0)::bigint FROM deletions d
       WHERE d.thread_id = thread AND d.level = 2
           AND d.block > place + 1 >> 14 AND d.block < ((place + 1 >> 21) + 1) << 7)
    + (SELECT coalesce(sum(d.count), 0)::bigint FROM deletions d
       WHERE d.thread_id = thread AND d.level = 3 AND d.block > place + 1 >> 21) $$;

-- How many members a thread may have whose receipts are told and whose messages have a status.
CREATE FUNCTION is_small(member_count bigint) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT member_count <= 100 $$;

-- How long a mark keeps its time while more is read. The messages of a large thread have no status: minutes are enough.
CREATE FUNCTION mark_lasts(member_count bigint) RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN is_small(member_count) THEN interval '1 second' ELSE interval '1 minute' END $$;

-- The event that says how far somebody has come; seen is null while they hide it.
CREATE FUNCTION receipt_json(thread bigint, reader bigint, delivered bigint, seen bigint, at timestamptz)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"threadId":' || thread || ',"userId":' || reader || ',"deliveredSeq":' || delivered
    || ',"readSeq":' || coalesce(seen::text, 'null') || ',"at":' || time_json(at) || '}' $$;

-- How far the others of a small thread have come, by the stretches (low, high] in which they were members. A person
-- has come as far as in the best of their spans; who hides what they read has read nothing. No rows: nothing is told,
-- as of whom there are too many. (STRICT, so not inlined: most pages that might ask this don't.)
CREATE FUNCTION reach_of_others(thread bigint, author bigint)
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
       WINDOW person AS (PARTITION BY o.user_id)
   )
   SELECT joined_seq, left_seq, min(o.delivered), min(o.seen)
   FROM other o
   WHERE (SELECT count(*) FROM other) <= 300
   GROUP BY joined_seq, left_seq $$;

-- The status of a message that all others have come to.
CREATE FUNCTION status_of(seq bigint, delivered bigint, seen bigint)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ',"status":"' || CASE WHEN seen >= seq THEN 'read' WHEN delivered >= seq THEN 'delivered' ELSE 'sent' END || '"' $$;

-- A message's own: who is mentioned in it (as resolved when it was sent), its reactions as [{"emoji", "count"}] in the
-- order of their first, when it was pinned.
ALTER TABLE messages
    ADD mentions  bigint[],
    ADD reactions jsonb,
    ADD pinned_at timestamptz;

CREATE TABLE mentions (
    thread_id bigint NOT NULL,
    user_id   bigint NOT NULL,
    seq       bigint NOT NULL,
    CONSTRAINT mentions_pkey PRIMARY KEY (thread_id, user_id, seq)
);

-- Who of these is mentioned: members now, and none who has blocked the author. In small letters as Postgres makes them,
-- which are not always Python's. (STRICT: not entered when nobody is named. OFFSET 0: each member a lookup.)
CREATE FUNCTION members_named(thread bigint, author bigint, handles text[]) RETURNS bigint[]
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS
$$ SELECT array_agg(u.id ORDER BY u.id)
   FROM users u
   CROSS JOIN LATERAL (
       SELECT FROM memberships o
       WHERE o.thread_id = thread AND o.user_id = u.id AND o.left_rev IS NULL OFFSET 0) o
   WHERE lower(u.username) = ANY(ARRAY(SELECT lower(said) FROM unnest(handles) said))
       AND u.id <> author AND u.deactivated_at IS NULL
       AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = u.id AND b.blocked_id = author) $$;

CREATE TABLE reactions (
    thread_id bigint NOT NULL,
    seq       bigint NOT NULL,
    user_id   bigint NOT NULL,
    emoji     text NOT NULL,
    CONSTRAINT reactions_pkey PRIMARY KEY (thread_id, seq, user_id, emoji)
);

CREATE TABLE pins (
    thread_id bigint NOT NULL,
    seq       bigint NOT NULL,
    rev       bigint NOT NULL,                 -- of the pinning: the newest is listed first
    user_id   bigint NOT NULL,
    CONSTRAINT pins_pkey PRIMARY KEY (thread_id, seq),
    CONSTRAINT pins_rev_key UNIQUE (thread_id, rev)  -- pins.list
);

-- The texts that edits have replaced, until the message is deleted.
CREATE TABLE message_edits (
    thread_id bigint NOT NULL,
    seq       bigint NOT NULL,
    rev       bigint NOT NULL,                 -- the message's last one with this text
    text      text NOT NULL,
    at        timestamptz NOT NULL,            -- when it was written
    CONSTRAINT message_edits_pkey PRIMARY KEY (thread_id, seq, rev)
);

-- As before, with pinnedAt and mentions. reactions is '[…]': in the shared form those of the message, for one reader
-- with "mine" (reactions_for). extra as before.
CREATE FUNCTION message_json(m messages, a users, quoted messages, quoted_author users, reactions text, extra text)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"threadId":' || m.thread_id || ',"seq":' || m.seq || ',"rev":' || m.rev
    || CASE WHEN m.client_id IS NULL THEN '' ELSE ',"clientId":' || to_json(m.client_id)::text END
    || ',"author":' || author_json(a)
    || CASE WHEN m.form IS NULL THEN '' ELSE ',"form":"' || m.form || '"' END
    || ',"text":' || to_json(m.text)::text
    || ',"createdAt":' || time_json(m.created_at)
    || CASE WHEN m.edited_at IS NULL THEN '' ELSE ',"editedAt":' || time_json(m.edited_at) END
    || CASE WHEN m.deleted_at IS NULL THEN '' ELSE ',"deletedAt":' || time_json(m.deleted_at) END
    || CASE WHEN m.pinned_at IS NULL THEN '' ELSE ',"pinnedAt":' || time_json(m.pinned_at) END
    || CASE WHEN m.mentions IS NULL THEN '' ELSE ',"mentions":' || to_json(m.mentions)::text END
    || CASE WHEN m.reply_to IS NULL THEN ''
            WHEN quoted.seq IS NULL OR quoted.deleted_at IS NOT NULL THEN ',"replyTo":{"seq":' || m.reply_to || '}'
            ELSE ',"replyTo":{"seq":' || m.reply_to || ',"author":' || author_json(quoted_author)
                 || ',"text":' || to_json(left(quoted.text, 200))::text || '}' END
    || ',"files":[],"reactions":' || coalesce(reactions, '[]') || extra || '}' $$;
DROP FUNCTION message_json(messages, users, messages, users, text);

-- The reactions of a message as one reader sees them. Asked only of messages that have any.
CREATE FUNCTION reactions_for(m messages, reader bigint) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '[' || string_agg('{"emoji":' || (r.value -> 'emoji')::text || ',"count":' || (r.value -> 'count')::text
    || ',"mine":' || EXISTS (
        SELECT FROM reactions own
        WHERE own.thread_id = m.thread_id AND own.seq = m.seq AND own.user_id = reader
            AND own.emoji = r.value ->> 'emoji')::text || '}', ',' ORDER BY r.ordinality) || ']'
   FROM jsonb_array_elements(m.reactions) WITH ORDINALITY r $$;

CREATE OR REPLACE VIEW doors WITH (security_invoker) AS
SELECT m.user_id, m.thread_id, m.role, m.joined_rev, m.joined_seq, m.read_seq,
       t.kind, t.history, t.title, t.created_at,
       h.last_seq, h.last_rev, h.log_floor, h.message_count, h.last_deleted_seq, h.last_message_at,
       m.muted, m.archived, m.notify, m.seen_seq, m.delivered_seq, m.changed_xid, h.last_xid, h.member_count
FROM memberships m
JOIN threads t ON t.id = m.thread_id
JOIN thread_heads h ON h.thread_id = m.thread_id
WHERE m.left_rev IS NULL AND h.deleted_at IS NULL;

-- Unread messages where the read cursor was moved back before the open span: what lies between the stretches is not
-- the reader's.
CREATE FUNCTION unread_in_sight(reader bigint, thread bigint, read_to bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT coalesce(sum(s.high - greatest(s.low, read_to)
        - deleted_after(thread, greatest(s.low, read_to)) + deleted_after(thread, s.high)), 0)::bigint
   FROM sights s
   WHERE s.user_id = reader AND s.thread_id = thread AND s.high > read_to $$;

-- How many messages are unread. Arithmetic: those after the read cursor, less the deleted ones among them, which are
-- asked for only where there can be any.
CREATE FUNCTION unread_after(reader bigint, thread bigint, history text, joined_seq bigint, last_seq bigint,
    last_deleted_seq bigint, read_to bigint) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT CASE
    WHEN history = 'joined' AND read_to < joined_seq THEN unread_in_sight(reader, thread, read_to)
    WHEN last_deleted_seq <= read_to THEN last_seq - read_to
    ELSE last_seq - read_to - deleted_after(thread, read_to) END $$;

-- The first of them; null when there is none. A step for each deleted one before it, but whole blocks of deleted ones
-- are one step: so there are at most some hundred.
CREATE FUNCTION first_unread(reader bigint, thread bigint, read_to bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ WITH RECURSIVE walk AS (
       SELECT s.low, s.high, greatest(s.low, read_to) + 1 AS seq
       FROM sights s
       WHERE s.user_id = reader AND s.thread_id = thread AND s.high > read_to
       UNION ALL
       SELECT w.low, w.high, w.seq + CASE
           WHEN w.seq & 2097151 = 0 AND (
               SELECT d.count = 2097152 FROM deletions d
               WHERE d.thread_id = thread AND d.level = 3 AND d.block = w.seq >> 21) THEN 2097152
           WHEN w.seq & 16383 = 0 AND (
               SELECT d.count = 16384 FROM deletions d
               WHERE d.thread_id = thread AND d.level = 2 AND d.block = w.seq >> 14) THEN 16384
           WHEN w.seq & 127 = 0 AND (
               SELECT d.count = 128 FROM deletions d
               WHERE d.thread_id = thread AND d.level = 1 AND d.block = w.seq >> 7) THEN 128
           ELSE 1 END
       FROM walk w
       WHERE w.seq <= w.high AND (
           SELECT m.deleted_at IS NOT NULL FROM messages m WHERE m.thread_id = thread AND m.seq = w.seq)
   )
   SELECT min(f.seq) FROM (SELECT w.high, max(w.seq) AS seq FROM walk w GROUP BY w.low, w.high) f WHERE f.seq <= f.high $$;

-- What is unread, as part of a thread or of the answer to a move. (RETURNS SETOF, always one: so it is inlined in FROM.)
CREATE FUNCTION unread_json(reader bigint, thread bigint, history text, joined_seq bigint, last_seq bigint,
    last_deleted_seq bigint, read_to bigint) RETURNS SETOF text LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS
$$ SELECT '"unreadCount":' || CASE  -- unread_after, with deleted_after in place
        WHEN history = 'joined' AND read_to < joined_seq THEN unread_in_sight(reader, thread, read_to)
        WHEN last_deleted_seq <= read_to THEN last_seq - read_to
        ELSE last_seq - read_to - (
            SELECT count(*) FROM messages m
            WHERE m.thread_id = thread AND m.deleted_at IS NOT NULL
                AND m.seq > read_to AND m.seq < ((read_to + 1 >> 7) + 1) << 7) - (
            SELECT coalesce(sum(d.count), 0)::bigint FROM deletions d
            WHERE d.thread_id = thread AND d.level = 1
                AND d.block > read_to + 1 >> 7 AND d.block < ((read_to + 1 >> 14) + 1) << 7) - (
            SELECT coalesce(sum(d.count), 0)::bigint FROM deletions d
            WHERE d.thread_id = thread AND d.level = 2
                AND d.block > read_to + 1 >> 14 AND d.block < ((read_to + 1 >> 21) + 1) << 7) - (
            SELECT coalesce(sum(d.count), 0)::bigint FROM deletions d
            WHERE d.thread_id = thread AND d.level = 3 AND d.block > read_to + 1 >> 21) END
    || ',"mentionCount":' || (
        SELECT count(*) FROM (
            SELECT FROM mentions n
            WHERE n.thread_id = thread AND n.user_id = reader AND n.seq > read_to
            LIMIT 1000) unread_ones)
    || ',"firstUnreadSeq":' || coalesce(CASE
        WHEN last_seq <= read_to THEN NULL
        WHEN last_deleted_seq <= read_to AND (history = 'all' OR read_to >= joined_seq) THEN read_to + 1
        WHEN history = 'all' OR read_to >= joined_seq THEN coalesce((  -- mostly one of the next is there
            SELECT m.seq FROM messages m
            WHERE m.thread_id = thread AND m.seq > read_to AND m.seq <= read_to + 128 AND m.deleted_at IS NULL
            ORDER BY m.seq
            LIMIT 1), first_unread(reader, thread, read_to))
        ELSE first_unread(reader, thread, read_to) END::text, 'null')
    || ',"lastReadSeq":' || read_to $$;

-- In parts, so that what the readers of a thread share is told to all of them (merged.tail): head, the last message,
-- rest; and mine. They stand side by side in `thread`, and each costs nothing where it is not asked for.
CREATE OR REPLACE VIEW my_threads WITH (security_invoker) AS
SELECT user_id, thread_id, head || CASE WHEN sees_last THEN last ELSE 'null' END || rest || mine AS thread,
    head, last, sees_last, rest, mine, floor
FROM (
    SELECT d.user_id, d.thread_id,
        CASE d.history WHEN 'joined' THEN d.joined_seq ELSE 0 END AS floor,  -- all after it is in sight
        '{"id":' || d.thread_id || ',"kind":"' || d.kind || '","history":"' || d.history || '"'
        || ',"title":' || coalesce(to_json(d.title)::text, 'null')
        || ',"createdAt":' || time_json(d.created_at)
        || ',"lastSeq":' || d.last_seq || ',"lastRev":' || d.last_rev
        || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || d.thread_id || '.' || d.last_rev || '"'
        || ',"lastMessageAt":' || coalesce(time_json(d.last_message_at), 'null')
        || ',"lastMessage":' AS head,
        coalesce((
            SELECT '{"seq":' || m.seq || ',"author":' || author_json(a)
                || ',"text":' || to_json(left(m.text, 200))::text
                || CASE WHEN m.deleted_at IS NULL THEN '' ELSE ',"deletedAt":' || time_json(m.deleted_at) END || '}'
            FROM messages m
            JOIN users a ON a.id = m.author_id
            WHERE m.thread_id = d.thread_id AND m.seq = d.last_seq), 'null') AS last,
        -- Not when the latest message lies outside the reader's stretches.
        d.history = 'all' OR d.last_seq > d.joined_seq OR EXISTS (
            SELECT FROM memberships s
            WHERE s.thread_id = d.thread_id AND s.user_id = d.user_id
                AND s.joined_seq < d.last_seq AND s.left_seq >= d.last_seq) AS sees_last,
        ',"messageCount":' || d.message_count || ',"memberCount":' || d.member_count
        || CASE WHEN d.kind = 'channel' THEN '' ELSE ',"members":' || (
            SELECT '[' || string_agg('{"userId":' || u.id || ',"name":' || to_json(u.name)::text
                || ',"username":' || coalesce(to_json(u.username)::text, 'null')
                || ',"role":"' || first.role || '"}', ',' ORDER BY first.user_id) || ']'
            FROM (SELECT o.user_id, o.role FROM memberships o
                  WHERE o.thread_id = d.thread_id AND o.left_rev IS NULL
                  ORDER BY o.user_id LIMIT 10) first
            JOIN users u ON u.id = first.user_id) END AS rest,
        ',' || unread.counts
        || ',"role":"' || d.role || '"'
        || ',"muted":' || d.muted || ',"archived":' || d.archived || ',"notify":"' || d.notify || '"}' AS mine
    FROM doors d
    CROSS JOIN LATERAL unread_json(d.user_id, d.thread_id, d.history, d.joined_seq, d.last_seq, d.last_deleted_seq,
        d.read_seq) unread (counts)) parts;

-- Where the log stands in the snapshot of the statement that asks, for the user stream: a pg_snapshot, as text. It
-- ends after the latest change, and not with the next xid: of transactions that were rolled back a crash may leave no
-- trace, and their xids are given out again.
CREATE FUNCTION log_place(latest xid8) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT coalesce(min(open.xid), place.after) || ':' || place.after || ':'
        || coalesce(string_agg(open.xid::text, ',' ORDER BY open.xid), '')
   FROM (SELECT latest::text::bigint + 1 AS after) place
   LEFT JOIN (SELECT x::text::bigint AS xid FROM pg_snapshot_xip(pg_current_snapshot()) x) open ON open.xid < place.after
   GROUP BY place.after $$;

-- Rows that pg_dump brought from another cluster may have xids that are still to come here: they count when these have.
CREATE FUNCTION log_place() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT log_place(greatest('3'::xid8,
    (SELECT xid FROM changes WHERE xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid DESC LIMIT 1),
    (SELECT xid FROM personal_changes WHERE xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid DESC LIMIT 1))) $$;

CREATE OR REPLACE VIEW open_channels WITH (security_invoker) AS
SELECT t.id AS thread_id,
    '{"id":' || t.id || ',"kind":"channel","history":"all","title":' || to_json(t.title)::text
    || ',"createdAt":' || time_json(t.created_at) || ',"lastSeq":' || h.last_seq || ',"lastRev":' || h.last_rev
    || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || t.id || '.' || h.last_rev
    || '","lastMessageAt":' || coalesce(time_json(h.last_message_at), 'null')
    || ',"lastMessage":null,"messageCount":' || h.message_count || ',"memberCount":' || h.member_count
    || ',"unreadCount":0,"mentionCount":0,"firstUnreadSeq":null,"lastReadSeq":' || h.last_seq || ',"role":null}' AS thread
FROM threads t
JOIN thread_heads h ON h.thread_id = t.id
WHERE t.kind = 'channel' AND h.deleted_at IS NULL;

-- migrate:down

DROP VIEW open_channels, my_threads, sights, doors;
DROP FUNCTION unread_json, unread_after, unread_in_sight, first_unread, deleted_after, is_small, mark_lasts, members_named, receipt_json,
    reach_of_others, status_of, reactions_for, log_place(), log_place(xid8),
    message_json(messages, users, messages, users, text, text);
DROP TABLE message_edits, pins, reactions, mentions, deletions, personal_changes, marks;
DROP INDEX changes_by_xid, memberships_past;
ALTER TABLE messages DROP mentions, DROP reactions, DROP pinned_at;
ALTER TABLE memberships DROP seen_seq, DROP seen_at, DROP delivered_seq, DROP delivered_at, DROP changed_xid;
ALTER TABLE thread_heads DROP last_xid, DROP member_count;
CREATE FUNCTION message_json(m messages, a users, quoted messages, quoted_author users, extra text)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT '{"threadId":' || m.thread_id || ',"seq":' || m.seq || ',"rev":' || m.rev
    || CASE WHEN m.client_id IS NULL THEN '' ELSE ',"clientId":' || to_json(m.client_id)::text END
    || ',"author":' || author_json(a)
    || CASE WHEN m.form IS NULL THEN '' ELSE ',"form":"' || m.form || '"' END
    || ',"text":' || to_json(m.text)::text
    || ',"createdAt":' || time_json(m.created_at)
    || CASE WHEN m.edited_at IS NULL THEN '' ELSE ',"editedAt":' || time_json(m.edited_at) END
    || CASE WHEN m.deleted_at IS NULL THEN '' ELSE ',"deletedAt":' || time_json(m.deleted_at) END
    || CASE WHEN m.reply_to IS NULL THEN ''
            WHEN quoted.seq IS NULL OR quoted.deleted_at IS NOT NULL THEN ',"replyTo":{"seq":' || m.reply_to || '}'
            ELSE ',"replyTo":{"seq":' || m.reply_to || ',"author":' || author_json(quoted_author)
                 || ',"text":' || to_json(left(quoted.text, 200))::text || '}' END
    || ',"files":[],"reactions":[]' || extra || '}' $$;
CREATE VIEW doors WITH (security_invoker) AS
SELECT m.user_id, m.thread_id, m.role, m.joined_rev, m.joined_seq, m.read_seq,
       t.kind, t.history, t.title, t.created_at,
       h.last_seq, h.last_rev, h.log_floor, h.message_count, h.last_deleted_seq, h.last_message_at,
       m.muted, m.archived, m.notify
FROM memberships m
JOIN threads t ON t.id = m.thread_id
JOIN thread_heads h ON h.thread_id = m.thread_id
WHERE m.left_rev IS NULL AND h.deleted_at IS NULL;

CREATE VIEW sights WITH (security_invoker) AS
SELECT d.user_id, d.thread_id, stretch.low, stretch.high
FROM doors d
CROSS JOIN LATERAL (
    SELECT 0::bigint AS low, d.last_seq AS high
    WHERE d.history = 'all'
    UNION ALL
    SELECT s.joined_seq, coalesce(s.left_seq, d.last_seq)
    FROM memberships s
    WHERE d.history = 'joined' AND s.thread_id = d.thread_id AND s.user_id = d.user_id) stretch
WHERE stretch.low < stretch.high;

CREATE VIEW my_threads WITH (security_invoker) AS
SELECT d.user_id, d.thread_id,
    '{"id":' || d.thread_id || ',"kind":"' || d.kind || '","history":"' || d.history || '"'
    || ',"title":' || coalesce(to_json(d.title)::text, 'null')
    || ',"createdAt":' || time_json(d.created_at)
    || ',"lastSeq":' || d.last_seq || ',"lastRev":' || d.last_rev
    || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || d.thread_id || '.' || d.last_rev || '"'
    || ',"lastMessageAt":' || coalesce(time_json(d.last_message_at), 'null')
    -- Null when the latest message lies outside the reader's stretches.
    || ',"lastMessage":' || coalesce((
        SELECT '{"seq":' || m.seq || ',"author":' || author_json(a)
            || ',"text":' || to_json(left(m.text, 200))::text
            || CASE WHEN m.deleted_at IS NULL THEN '' ELSE ',"deletedAt":' || time_json(m.deleted_at) END || '}'
        FROM messages m
        JOIN users a ON a.id = m.author_id
        WHERE m.thread_id = d.thread_id AND m.seq = d.last_seq
            AND (d.history = 'all' OR m.seq > d.joined_seq OR EXISTS (
                SELECT FROM memberships s
                WHERE s.thread_id = d.thread_id AND s.user_id = d.user_id
                    AND s.joined_seq < m.seq AND s.left_seq >= m.seq))), 'null')
    || ',"messageCount":' || d.message_count
    || ',"unreadCount":' || unread.count
    || ',"lastReadSeq":' || d.read_seq
    || ',"role":"' || d.role || '"'
    || ',"muted":' || d.muted || ',"archived":' || d.archived || ',"notify":"' || d.notify || '"'
    || CASE WHEN d.kind = 'channel' THEN '' ELSE ',"members":' || (
        SELECT '[' || string_agg('{"userId":' || u.id || ',"name":' || to_json(u.name)::text
            || ',"username":' || coalesce(to_json(u.username)::text, 'null')
            || ',"role":"' || first.role || '"}', ',' ORDER BY first.user_id) || ']'
        FROM (SELECT o.user_id, o.role FROM memberships o
              WHERE o.thread_id = d.thread_id AND o.left_rev IS NULL
              ORDER BY o.user_id LIMIT 10) first
        JOIN users u ON u.id = first.user_id) END
    || '}' AS thread
FROM doors d
-- Arithmetic: the messages after my read cursor, less the deleted ones among them, which are
-- looked for only where there can be any.
CROSS JOIN LATERAL (SELECT d.last_seq - d.read_seq - CASE WHEN d.last_deleted_seq <= d.read_seq THEN 0 ELSE (
    SELECT count(*) FROM messages m
    WHERE m.thread_id = d.thread_id AND m.seq > d.read_seq AND m.deleted_at IS NOT NULL) END AS count) unread;

CREATE VIEW open_channels WITH (security_invoker) AS
SELECT t.id AS thread_id,
    '{"id":' || t.id || ',"kind":"channel","history":"all","title":' || to_json(t.title)::text
    || ',"createdAt":' || time_json(t.created_at) || ',"lastSeq":' || h.last_seq || ',"lastRev":' || h.last_rev
    || ',"streamCursor":"' || (SELECT epoch FROM log_epoch) || '.' || t.id || '.' || h.last_rev
    || '","lastMessageAt":' || coalesce(time_json(h.last_message_at), 'null')
    || ',"lastMessage":null,"messageCount":' || h.message_count
    || ',"unreadCount":0,"lastReadSeq":' || h.last_seq || ',"role":null}' AS thread
FROM threads t
JOIN thread_heads h ON h.thread_id = t.id
WHERE t.kind = 'channel' AND h.deleted_at IS NULL;
