-- The schema after all migrations, made by `python -m server migrate --dump`: do not edit.

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: pg_trgm; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;

--
-- Name: EXTENSION pg_trgm; Type: COMMENT; Schema: -; Owner: -
--

COMMENT ON EXTENSION pg_trgm IS 'text similarity measurement and index searching based on trigrams';

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: users; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.users (
    id bigint NOT NULL,
    kind text DEFAULT 'user'::text NOT NULL,
    role text DEFAULT 'member'::text NOT NULL,
    email text,
    username text,
    name text NOT NULL,
    password_hash text,
    read_receipts boolean DEFAULT true NOT NULL,
    external_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    deactivated_at timestamp with time zone,
    staff_since timestamp with time zone,
    staff_xid xid8 DEFAULT '0'::xid8 NOT NULL,
    CONSTRAINT users_admin CHECK (((role <> 'admin'::text) OR ((kind = 'user'::text) AND (COALESCE(external_id, ''::text) !~~ 'host:%'::text)))),
    CONSTRAINT users_contact CHECK (((kind <> 'contact'::text) OR ((deactivated_at IS NOT NULL) AND (role = 'member'::text) AND (num_nonnulls(email, username, password_hash, external_id) = 0)))),
    CONSTRAINT users_kind CHECK ((kind = ANY (ARRAY['user'::text, 'bot'::text, 'contact'::text]))),
    CONSTRAINT users_role CHECK ((role = ANY (ARRAY['admin'::text, 'agent'::text, 'member'::text])))
);

--
-- Name: account_json(public.users); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.account_json(u public.users) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || u.id || ',"email":' || coalesce(to_json(u.email)::text, 'null')
    || ',"username":' || coalesce(to_json(u.username)::text, 'null') || ',"name":' || to_json(u.name)::text
    || ',"role":"' || u.role || '","settings":{"readReceipts":' || u.read_receipts || '}}' $$;

--
-- Name: audit_refuse(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.audit_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'audit is append-only' USING ERRCODE = 'insufficient_privilege'; END $$;

--
-- Name: author_json(public.users); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.author_json(a public.users) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || a.id || ',"name":' || to_json(a.name)::text || ',"kind":"' || a.kind || '"}' $$;

--
-- Name: blocks; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.blocks (
    user_id bigint NOT NULL,
    blocked_id bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT blocks_other CHECK ((user_id <> blocked_id))
);

--
-- Name: block_json(public.blocks, public.users); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.block_json(b public.blocks, u public.users) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"userId":' || u.id || ',"name":' || to_json(u.name)::text
    || ',"username":' || coalesce(to_json(u.username)::text, 'null') || ',"at":' || time_json(b.created_at) || '}' $$;

--
-- Name: contact_fold(text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.contact_fold(said text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT translate(lower(said), 'ς', 'σ') $$;

--
-- Name: contact_grams(text, text, text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.contact_grams(name text, phone_number text, email text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT array_to_tsvector(ARRAY(
       SELECT DISTINCT substr(said.text, n, 3) FROM generate_series(1, length(said.text) - 1) n))
   FROM (SELECT translate(lower(name || E'\n' || coalesce(phone_number, '') || E'\n' || coalesce(email, '') || E'\n\n'),
             'ς', 'σ') AS text) said $$;

--
-- Name: contacts; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.contacts (
    id bigint NOT NULL,
    thread_id bigint NOT NULL,
    name text NOT NULL,
    phone_number text,
    email text,
    external_id text,
    notes text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT contacts_phone_number CHECK ((phone_number ~ '^\+[1-9][0-9]{6,14}$'::text))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_insert_scale_factor='0.02');

--
-- Name: contact_json(public.contacts); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.contact_json(c public.contacts) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || c.id || ',"threadId":' || c.thread_id || ',"name":' || to_json(c.name)::text
    || ',"phoneNumber":' || coalesce(to_json(c.phone_number)::text, 'null')
    || ',"email":' || coalesce(to_json(c.email)::text, 'null')
    || ',"externalId":' || coalesce(to_json(c.external_id)::text, 'null') || ',"notes":' || to_json(c.notes)::text
    || ',"createdAt":' || time_json(c.created_at) || ',"updatedAt":' || time_json(c.updated_at) || '}' $$;

--
-- Name: contact_needle(text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.contact_needle(needle text) RETURNS tsquery
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT string_agg(DISTINCT '''' || replace(replace(substr(folded.needle, n, 3), '\', '\\'), '''', '''''') || ''''
           || CASE WHEN length(folded.needle) < 3 THEN ':*' ELSE '' END, ' & ')::tsquery
   FROM (SELECT contact_fold(needle) AS needle) folded, generate_series(1, greatest(1, length(folded.needle) - 2)) n $$;

--
-- Name: contact_text(text, text, text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.contact_text(name text, phone_number text, email text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT contact_fold(name || E'\n' || coalesce(phone_number, '') || E'\n' || coalesce(email, '')) $$;

--
-- Name: contacts_show(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.contacts_show() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
    UPDATE conversations SET name = NEW.name, phone_number = NEW.phone_number WHERE thread_id = NEW.thread_id;
    RETURN NULL;
END $$;

--
-- Name: contacts_tally(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.contacts_tally() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ DECLARE more bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT count(*) INTO more FROM new_rows WHERE deleted_at IS NULL;
    ELSE
        SELECT (SELECT count(*) FROM new_rows WHERE deleted_at IS NULL) - (SELECT count(*) FROM old_rows WHERE deleted_at IS NULL)
        INTO more;
    END IF;
    IF more <> 0 THEN
        PERFORM tally('contacts', more);
    END IF;
    RETURN NULL;
END $$;

--
-- Name: conversation_day(timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversation_day(last_at timestamp with time zone) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT timezone('UTC', last_at)::date $$;

--
-- Name: conversation_told(bigint, bigint, text, text, text, timestamp with time zone, bigint, bigint, text, timestamp with time zone, text[]); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversation_told(thread_id bigint, contact_id bigint, name text, phone_number text, content text, last_at timestamp with time zone, last_seq bigint, last_author_id bigint, status text, snoozed_until timestamp with time zone, labels text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || thread_id || ',"contactId":' || contact_id || ',"name":' || to_json(name)::text
    || ',"phoneNumber":' || coalesce('"' || phone_number || '"', 'null')
    || ',"content":' || to_json(content)::text
    || ',"createdAt":' || left(to_json(timezone('UTC', last_at))::text, -1) || 'Z"'
    || ',"lastSeq":' || last_seq
    || CASE last_author_id WHEN contact_id
        THEN ',"author":{"id":' || contact_id || ',"name":' || to_json(name)::text || ',"kind":"contact"}' ELSE '' END
    || ',"status":"' || status
    || '","snoozedUntil":' || coalesce(left(to_json(timezone('UTC', snoozed_until))::text, -1) || 'Z"', 'null')
    || ',"labels":' || to_json(labels)::text || ',' $$;

--
-- Name: conversations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.conversations (
    thread_id bigint NOT NULL,
    contact_id bigint NOT NULL,
    last_at timestamp with time zone,
    status text DEFAULT 'open'::text NOT NULL,
    snoozed_until timestamp with time zone,
    assignee_id bigint,
    labels text[] DEFAULT '{}'::text[] NOT NULL,
    name text NOT NULL,
    phone_number text,
    created_at timestamp with time zone NOT NULL,
    last_seq bigint DEFAULT 0 NOT NULL,
    last_deleted_seq bigint DEFAULT 0 NOT NULL,
    archived_seq bigint DEFAULT 0 NOT NULL,
    last_author_id bigint,
    content text DEFAULT ''::text NOT NULL,
    told text GENERATED ALWAYS AS (public.conversation_told(thread_id, contact_id, name, phone_number, content, last_at, last_seq, last_author_id, status, snoozed_until, labels)) STORED,
    CONSTRAINT conversations_snoozed_until CHECK (((status = 'snoozed'::text) = (snoozed_until IS NOT NULL))),
    CONSTRAINT conversations_status CHECK ((status = ANY (ARRAY['open'::text, 'snoozed'::text, 'closed'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02');

--
-- Name: conversation_json(public.conversations); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversation_json(n public.conversations) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || n.contact_id || ',"phoneNumber":' || coalesce('"' || n.phone_number || '"', 'null')
    || ',"status":"' || n.status || '","snoozedUntil":' || coalesce(time_json(n.snoozed_until), 'null')
    || ',"assigneeId":' || coalesce(n.assignee_id::text, 'null')
    || ',"labels":' || to_json(n.labels)::text || '}' $$;

--
-- Name: conversation_row(public.conversations, bigint, timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversation_row(n public.conversations, reader bigint, since timestamp with time zone) RETURNS TABLE(conversation text)
    LANGUAGE sql STABLE ROWS 1 PARALLEL SAFE
    AS $$ SELECT n.told || '"unreadCount":' || r.unread
       || CASE WHEN n.last_author_id = n.contact_id THEN '' ELSE ',"author":' || coalesce((
           SELECT author_json(u) FROM users u WHERE u.id = n.last_author_id), 'null') END
       || ',"assignee":' || CASE WHEN n.assignee_id IS NULL THEN 'null' ELSE (
           SELECT '{"id":' || u.id || ',"name":' || to_json(u.name)::text || '}' FROM users u WHERE u.id = n.assignee_id) END || '}'
   FROM conversation_unread(n, reader, since) r $$;

--
-- Name: conversation_unread(public.conversations, bigint, timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversation_unread(n public.conversations, reader bigint, since timestamp with time zone) RETURNS TABLE(unread bigint)
    LANGUAGE sql STABLE ROWS 1 PARALLEL SAFE
    AS $$ SELECT CASE WHEN n.last_deleted_seq <= d.read_seq THEN n.last_seq - d.read_seq
       ELSE n.last_seq - d.read_seq - deleted_after(n.thread_id, d.read_seq) END
   FROM (SELECT greatest(n.archived_seq, coalesce((
             SELECT read_seq FROM memberships
             WHERE thread_id = n.thread_id AND user_id = reader AND left_rev IS NULL),
             read_before(n.thread_id, since, n.created_at, n.last_at, n.archived_seq, n.last_seq))) AS read_seq OFFSET 0) d $$;

--
-- Name: conversations_add(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversations_add() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
    PERFORM tally(added.status, added.count), tally('conversations', added.count)
    FROM (SELECT status, count(*) AS count FROM new_rows WHERE last_at IS NOT NULL GROUP BY status) added;
    RETURN NULL;
END $$;

--
-- Name: conversations_add_days(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversations_add_days() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
    PERFORM tally_day(added.at, added.status, added.count)
    FROM (SELECT min(last_at) AS at, status, count(*) AS count FROM new_rows
          WHERE last_at IS NOT NULL GROUP BY conversation_day(last_at), status) added;
    RETURN NULL;
END $$;

--
-- Name: conversations_change_days(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversations_change_days() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
    IF OLD.last_at IS NOT NULL THEN
        PERFORM tally_day(OLD.last_at, OLD.status, -1);
    END IF;
    IF NEW.last_at IS NOT NULL THEN
        PERFORM tally_day(NEW.last_at, NEW.status, 1);
    END IF;
    RETURN NULL;
END $$;

--
-- Name: conversations_label(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversations_label() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
    DELETE FROM conversation_labels
    WHERE thread_id = NEW.thread_id AND (NEW.last_at IS NULL OR label <> ALL (NEW.labels));
    INSERT INTO conversation_labels (thread_id, label, last_at)
    SELECT NEW.thread_id, label, NEW.last_at FROM unnest(NEW.labels) AS label WHERE NEW.last_at IS NOT NULL
    ON CONFLICT (thread_id, label) DO UPDATE SET last_at = excluded.last_at;
    RETURN NULL;
END $$;

--
-- Name: conversations_tally(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.conversations_tally() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN
    IF TG_OP <> 'INSERT' AND OLD.last_at IS NOT NULL THEN
        PERFORM tally('conversations', -1), tally(OLD.status, -1);
    END IF;
    IF NEW.last_at IS NOT NULL THEN
        PERFORM tally('conversations', 1), tally(NEW.status, 1);
    END IF;
    RETURN NULL;
END $$;

--
-- Name: deleted_after(bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.deleted_after(thread bigint, place bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT (SELECT count(*) FROM messages m
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

--
-- Name: door(bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.door(reader bigint, thread bigint) RETURNS TABLE(history text, last_seq bigint, last_rev bigint, archived_seq bigint)
    LANGUAGE sql STABLE ROWS 1 PARALLEL SAFE
    AS $$ WITH own AS MATERIALIZED (
       SELECT d.history, d.last_seq, d.last_rev, d.archived_seq FROM own_doors d
       WHERE d.user_id = reader AND d.thread_id = thread)
   SELECT o.* FROM own o
   UNION ALL
   SELECT d.history, d.last_seq, d.last_rev, d.archived_seq FROM staff_doors d
   WHERE d.user_id = reader AND d.thread_id = thread AND NOT EXISTS (SELECT FROM own) $$;

--
-- Name: audit; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    act text NOT NULL,
    actor_id bigint,
    subject_id bigint,
    thread_id bigint,
    address inet,
    request_id text,
    details jsonb DEFAULT '{}'::jsonb NOT NULL
);

--
-- Name: entry_json(public.audit); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.entry_json(e public.audit) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || e.id || ',"at":' || time_json(e.at) || ',"act":' || to_json(e.act)::text
    || ',"actorId":' || coalesce(e.actor_id::text, 'null') || ',"subjectId":' || coalesce(e.subject_id::text, 'null')
    || ',"threadId":' || coalesce(e.thread_id::text, 'null')
    || ',"address":' || coalesce(to_json(host(e.address))::text, 'null')
    || ',"requestId":' || coalesce(to_json(e.request_id)::text, 'null') || ',"details":' || e.details::text || '}' $$;

--
-- Name: first_unread(bigint, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.first_unread(reader bigint, thread bigint, read_to bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ WITH RECURSIVE walk AS (
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

--
-- Name: invites; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.invites (
    id bigint NOT NULL,
    thread_id bigint NOT NULL,
    token_hash bytea NOT NULL,
    created_by bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    created_rev bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    max_uses integer,
    uses integer DEFAULT 0 NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT invites_uses CHECK (((uses >= 0) AND (uses <= max_uses)))
)
WITH (fillfactor='80');

--
-- Name: invite_json(public.invites); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.invite_json(i public.invites) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || i.id || ',"createdAt":' || time_json(i.created_at) || ',"createdBy":' || i.created_by
    || ',"expiresAt":' || time_json(i.expires_at) || ',"maxUses":' || coalesce(i.max_uses::text, 'null')
    || ',"uses":' || i.uses || '}' $$;

--
-- Name: is_small(bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.is_small(member_count bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT member_count <= 100 $$;

--
-- Name: api_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.api_keys (
    session_id bigint NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    key_hash bytea NOT NULL,
    created_by bigint NOT NULL,
    CONSTRAINT api_keys_kind CHECK ((kind = ANY (ARRAY['bot'::text, 'host'::text])))
);

--
-- Name: sessions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.sessions (
    id bigint NOT NULL,
    user_id bigint NOT NULL,
    refresh_hash bytea,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    kind text DEFAULT 'device'::text NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    address inet,
    user_agent text,
    ended_at timestamp with time zone,
    ended_xid xid8,
    minted_by bigint,
    CONSTRAINT sessions_end CHECK (((ended_at IS NULL) = (ended_xid IS NULL))),
    CONSTRAINT sessions_kind CHECK ((kind = ANY (ARRAY['device'::text, 'key'::text, 'guest'::text]))),
    CONSTRAINT sessions_minted CHECK (((kind = 'guest'::text) = ((minted_by IS NOT NULL) AND (user_agent IS NOT NULL)))),
    CONSTRAINT sessions_refresh CHECK (((kind = 'device'::text) = (refresh_hash IS NOT NULL)))
);

--
-- Name: key_json(public.api_keys, public.sessions); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.key_json(k public.api_keys, s public.sessions) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || k.session_id || ',"kind":"' || k.kind || '","name":' || to_json(k.name)::text
    || ',"userId":' || s.user_id || ',"createdAt":' || time_json(s.created_at)
    || ',"lastUsedAt":' || CASE WHEN s.last_used_at = s.created_at THEN 'null' ELSE time_json(s.last_used_at) END
    || ',"createdBy":' || k.created_by || '}' $$;

--
-- Name: log_place(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.log_place() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT log_place(greatest('3'::xid8,
    (SELECT xid FROM changes WHERE xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid DESC LIMIT 1),
    (SELECT xid FROM personal_changes WHERE xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid DESC LIMIT 1))) $$;

--
-- Name: log_place(xid8); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.log_place(latest xid8) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce(min(open.xid), place.after) || ':' || place.after || ':'
        || coalesce(string_agg(open.xid::text, ',' ORDER BY open.xid), '')
   FROM (SELECT CASE WHEN pg_is_in_recovery()
            THEN least(latest::text::bigint + 1, pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
            ELSE latest::text::bigint + 1 END AS after) place
   LEFT JOIN (SELECT x::text::bigint AS xid FROM pg_snapshot_xip(pg_current_snapshot()) x) open ON open.xid < place.after
   GROUP BY place.after $$;

--
-- Name: managed_json(public.users, timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.managed_json(u public.users, seen_at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"id":' || u.id || ',"email":' || coalesce(to_json(u.email)::text, 'null')
    || ',"username":' || coalesce(to_json(u.username)::text, 'null') || ',"name":' || to_json(u.name)::text
    || ',"kind":"' || u.kind || '","role":"' || u.role || '","active":' || (u.deactivated_at IS NULL)
    || ',"createdAt":' || time_json(u.created_at) || ',"lastSeenAt":' || coalesce(time_json(seen_at), 'null') || '}' $$;

--
-- Name: mark_lasts(bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.mark_lasts(member_count bigint) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN is_small(member_count) THEN interval '1 second' ELSE interval '1 minute' END $$;

--
-- Name: members_named(bigint, bigint, text[]); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.members_named(thread bigint, author bigint, handles text[]) RETURNS bigint[]
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    AS $$ SELECT array_agg(u.id ORDER BY u.id)
   FROM users u
   CROSS JOIN LATERAL (
       SELECT FROM memberships o
       WHERE o.thread_id = thread AND o.user_id = u.id AND o.left_rev IS NULL
       UNION
       SELECT FROM threads t WHERE t.id = thread AND t.kind = 'contact' AND u.role <> 'member' OFFSET 0) o
   WHERE lower(u.username) = ANY(ARRAY(SELECT lower(said) FROM unnest(handles) said))
       AND u.id <> author AND u.deactivated_at IS NULL
       AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = u.id AND b.blocked_id = author) $$;

--
-- Name: messages; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.messages (
    thread_id bigint NOT NULL,
    seq bigint NOT NULL,
    rev bigint NOT NULL,
    author_id bigint NOT NULL,
    reply_to bigint,
    form text,
    client_id text,
    text text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    edited_at timestamp with time zone,
    deleted_at timestamp with time zone,
    mentions bigint[],
    reactions jsonb,
    pinned_at timestamp with time zone,
    CONSTRAINT messages_deleted_text CHECK (((deleted_at IS NULL) OR (text = ''::text))),
    CONSTRAINT messages_form CHECK ((form = ANY (ARRAY['action'::text, 'notice'::text]))),
    CONSTRAINT messages_place CHECK (((seq > 0) AND (rev > 0) AND (reply_to < seq)))
)
WITH (fillfactor='90', autovacuum_vacuum_insert_scale_factor='0.02', autovacuum_analyze_scale_factor='0.02');

--
-- Name: message_json(public.messages, public.users, public.messages, public.users, text, text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.message_json(m public.messages, a public.users, quoted public.messages, quoted_author public.users, reactions text, extra text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"threadId":' || m.thread_id || ',"seq":' || m.seq || ',"rev":' || m.rev
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

--
-- Name: reach_of_others(bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.reach_of_others(thread bigint, author bigint) RETURNS TABLE(low bigint, high bigint, delivered bigint, seen bigint)
    LANGUAGE sql STABLE STRICT ROWS 10 PARALLEL SAFE
    AS $$ WITH span AS MATERIALIZED (
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

--
-- Name: reactions_for(public.messages, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.reactions_for(m public.messages, reader bigint) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '[' || string_agg('{"emoji":' || (r.value -> 'emoji')::text || ',"count":' || (r.value -> 'count')::text
    || ',"mine":' || EXISTS (
        SELECT FROM reactions own
        WHERE own.thread_id = m.thread_id AND own.seq = m.seq AND own.user_id = reader
            AND own.emoji = r.value ->> 'emoji')::text || '}', ',' ORDER BY r.ordinality) || ']'
   FROM jsonb_array_elements(m.reactions) WITH ORDINALITY r $$;

--
-- Name: read_before(bigint, timestamp with time zone, timestamp with time zone, timestamp with time zone, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.read_before(thread bigint, since timestamp with time zone, created_at timestamp with time zone, last_at timestamp with time zone, archived_seq bigint, last_seq bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN since <= created_at THEN 0
       WHEN last_seq = 0 OR since > last_at THEN last_seq
       ELSE seq_before(thread, since, archived_seq + 1, last_seq) END $$;

--
-- Name: receipt_json(bigint, bigint, bigint, bigint, timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.receipt_json(thread bigint, reader bigint, delivered bigint, seen bigint, at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"threadId":' || thread || ',"userId":' || reader || ',"deliveredSeq":' || delivered
    || ',"readSeq":' || coalesce(seen::text, 'null') || ',"at":' || time_json(at) || '}' $$;

--
-- Name: search_lexemes(text); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.search_lexemes(grams text) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE STRICT COST 100000 PARALLEL SAFE
    AS $$
BEGIN
    RETURN array_to_tsvector(string_to_array(grams, E'\n'));
END $$;

--
-- Name: seq_before(bigint, timestamp with time zone, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.seq_before(thread bigint, moment timestamp with time zone, first_seq bigint, last_seq bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ WITH RECURSIVE halves AS (
       SELECT first_seq AS low, last_seq + 1 AS high
       UNION ALL
       SELECT CASE WHEN m.created_at < moment THEN m.seq + 1 ELSE h.low END,
           CASE WHEN m.created_at < moment THEN h.high ELSE m.seq END
       FROM halves h
       CROSS JOIN LATERAL (
           SELECT seq, created_at FROM messages WHERE thread_id = thread AND seq = (h.low + h.high) / 2 OFFSET 0) m
       WHERE h.low < h.high
   )
   SELECT h.low - 1 FROM halves h WHERE h.low = h.high $$;

--
-- Name: status_of(bigint, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.status_of(seq bigint, delivered bigint, seen bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT ',"status":"' || CASE WHEN seen >= seq THEN 'read' WHEN delivered >= seq THEN 'delivered' ELSE 'sent' END || '"' $$;

--
-- Name: stretches(bigint, bigint, text, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.stretches(reader bigint, thread bigint, history text, archived_seq bigint, last_seq bigint) RETURNS TABLE(low bigint, high bigint)
    LANGUAGE sql STABLE ROWS 2 PARALLEL SAFE
    AS $$ SELECT greatest(s.low, stretches.archived_seq), s.high
   FROM (SELECT 0::bigint AS low, stretches.last_seq AS high
         WHERE stretches.history = 'all'
         UNION ALL
         SELECT m.joined_seq, coalesce(m.left_seq, stretches.last_seq)
         FROM memberships m
         WHERE stretches.history = 'joined' AND m.thread_id = stretches.thread AND m.user_id = stretches.reader) s
   WHERE greatest(s.low, stretches.archived_seq) < s.high $$;

--
-- Name: tally(text, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.tally(what text, more bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$ DECLARE mine smallint;
BEGIN
    SELECT t.shard INTO mine FROM tallies t WHERE t.name = what LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE tallies t SET count = t.count + more WHERE t.name = what AND t.shard = mine;
    ELSE
        INSERT INTO tallies AS t (name, shard, count) VALUES (what, (random() * 32767)::smallint, more)
        ON CONFLICT (name, shard) DO UPDATE SET count = t.count + excluded.count;
    END IF;
END $$;

--
-- Name: tally_day(timestamp with time zone, text, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.tally_day(at timestamp with time zone, state text, more bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$ DECLARE mine bigint; had bigint;
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

--
-- Name: time_json(timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.time_json(t timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT left(to_json(timezone('UTC', t))::text, -1) || 'Z"' $$;

--
-- Name: unread_after(bigint, bigint, text, bigint, bigint, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.unread_after(reader bigint, thread bigint, history text, joined_seq bigint, last_seq bigint, last_deleted_seq bigint, read_to bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE
    WHEN history = 'joined' AND read_to < joined_seq THEN unread_in_sight(reader, thread, read_to)
    WHEN last_deleted_seq <= read_to THEN last_seq - read_to
    ELSE last_seq - read_to - deleted_after(thread, read_to) END $$;

--
-- Name: unread_in_sight(bigint, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.unread_in_sight(reader bigint, thread bigint, read_to bigint) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce(sum(s.high - greatest(s.low, read_to)
        - deleted_after(thread, greatest(s.low, read_to)) + deleted_after(thread, s.high)), 0)::bigint
   FROM sights s
   WHERE s.user_id = reader AND s.thread_id = thread AND s.high > read_to $$;

--
-- Name: unread_json(bigint, bigint, text, bigint, bigint, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.unread_json(reader bigint, thread bigint, history text, joined_seq bigint, last_seq bigint, last_deleted_seq bigint, read_to bigint) RETURNS SETOF text
    LANGUAGE sql STABLE ROWS 1 PARALLEL SAFE
    AS $$ SELECT '"unreadCount":' || CASE  -- unread_after, with deleted_after in place
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

--
-- Name: archives; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.archives (
    thread_id bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    living bigint NOT NULL,
    file text NOT NULL,
    at_byte bigint NOT NULL,
    digest bytea NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT archives_digest CHECK ((octet_length(digest) = 32)),
    CONSTRAINT archives_stretch CHECK ((((first_seq >= 1) AND (first_seq <= last_seq)) AND ((living >= 0) AND (living <= ((last_seq - first_seq) + 1)))))
);

--
-- Name: audit_acts; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.audit_acts WITH (security_invoker='true') AS
 WITH RECURSIVE found AS (
        ( SELECT audit.act
           FROM public.audit
          ORDER BY audit.act
         LIMIT 1)
        UNION ALL
         SELECT ( SELECT a.act
                   FROM public.audit a
                  WHERE (a.act > f.act)
                  ORDER BY a.act
                 LIMIT 1) AS act
           FROM found f
          WHERE (f.act IS NOT NULL)
        )
 SELECT act
   FROM found
  WHERE (act IS NOT NULL);

--
-- Name: audit_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: changes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.changes (
    thread_id bigint NOT NULL,
    rev bigint NOT NULL,
    kind text NOT NULL,
    seq bigint,
    user_id bigint,
    act text,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT changes_act CHECK ((act = ANY (ARRAY['joined'::text, 'left'::text, 'removed'::text, 'role'::text]))),
    CONSTRAINT changes_kind CHECK ((kind = ANY (ARRAY['message'::text, 'message_updated'::text, 'member'::text, 'thread_updated'::text, 'thread_deleted'::text]))),
    CONSTRAINT changes_subject CHECK ((((kind = ANY (ARRAY['message'::text, 'message_updated'::text])) = (seq IS NOT NULL)) AND ((kind = 'member'::text) = ((user_id IS NOT NULL) AND (act IS NOT NULL)))))
);

--
-- Name: client_ids; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.client_ids (
    thread_id bigint NOT NULL,
    author_id bigint NOT NULL,
    client_id text NOT NULL,
    seq bigint NOT NULL,
    body_hash bytea NOT NULL,
    CONSTRAINT client_ids_hash CHECK ((octet_length(body_hash) = 32))
);

--
-- Name: conversation_days; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.conversation_days (
    id bigint NOT NULL,
    day date NOT NULL,
    status text NOT NULL,
    count bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_threshold='50', autovacuum_vacuum_scale_factor='0');

--
-- Name: conversation_days_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.conversation_days ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.conversation_days_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: conversation_labels; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.conversation_labels (
    thread_id bigint NOT NULL,
    label text NOT NULL,
    last_at timestamp with time zone NOT NULL
);

--
-- Name: deletions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.deletions (
    thread_id bigint NOT NULL,
    level smallint NOT NULL,
    block bigint NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT deletions_count CHECK ((count > 0)),
    CONSTRAINT deletions_level CHECK ((level = ANY (ARRAY[1, 2, 3])))
)
WITH (fillfactor='80');

--
-- Name: direct_pairs; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.direct_pairs (
    low_user_id bigint NOT NULL,
    high_user_id bigint NOT NULL,
    leads_to bigint NOT NULL,
    CONSTRAINT direct_pairs_order CHECK ((low_user_id < high_user_id))
);

--
-- Name: memberships; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.memberships (
    thread_id bigint NOT NULL,
    user_id bigint NOT NULL,
    joined_rev bigint NOT NULL,
    joined_seq bigint NOT NULL,
    joined_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    left_rev bigint,
    left_seq bigint,
    left_at timestamp with time zone,
    role text DEFAULT 'member'::text NOT NULL,
    read_seq bigint NOT NULL,
    muted boolean DEFAULT false NOT NULL,
    archived boolean DEFAULT false NOT NULL,
    notify text DEFAULT 'all'::text NOT NULL,
    blocked boolean DEFAULT false NOT NULL,
    removed boolean DEFAULT false NOT NULL,
    seen_seq bigint DEFAULT 0 NOT NULL,
    seen_at timestamp with time zone,
    delivered_seq bigint DEFAULT 0 NOT NULL,
    delivered_at timestamp with time zone,
    changed_xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT memberships_marks CHECK (((seen_seq <= delivered_seq) AND ((seen_seq = 0) = (seen_at IS NULL)) AND ((delivered_seq = 0) = (delivered_at IS NULL)))),
    CONSTRAINT memberships_notify CHECK ((notify = ANY (ARRAY['all'::text, 'mentions'::text, 'none'::text]))),
    CONSTRAINT memberships_role CHECK ((role = ANY (ARRAY['admin'::text, 'moderator'::text, 'member'::text]))),
    CONSTRAINT memberships_span CHECK (((num_nulls(left_rev, left_seq, left_at) = ANY (ARRAY[0, 3])) AND ((left_rev IS NULL) OR ((left_rev > joined_rev) AND (left_seq >= joined_seq)))))
)
WITH (fillfactor='70');

--
-- Name: thread_heads; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.thread_heads (
    thread_id bigint NOT NULL,
    last_seq bigint DEFAULT 0 NOT NULL,
    last_rev bigint DEFAULT 0 NOT NULL,
    log_floor bigint DEFAULT 0 NOT NULL,
    message_count bigint DEFAULT 0 NOT NULL,
    last_deleted_seq bigint DEFAULT 0 NOT NULL,
    last_message_at timestamp with time zone,
    deleted_at timestamp with time zone,
    last_xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    member_count bigint DEFAULT 0 NOT NULL,
    archived_seq bigint DEFAULT 0 NOT NULL,
    CONSTRAINT thread_heads_archived CHECK (((archived_seq >= 0) AND (archived_seq <= last_seq))),
    CONSTRAINT thread_heads_counts CHECK ((((message_count >= 0) AND (message_count <= last_seq)) AND ((last_deleted_seq >= 0) AND (last_deleted_seq <= last_seq)) AND ((log_floor >= 0) AND (log_floor <= last_rev)))),
    CONSTRAINT thread_heads_member_count CHECK ((member_count >= 0))
)
WITH (fillfactor='50');

--
-- Name: threads; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.threads (
    id bigint NOT NULL,
    kind text NOT NULL,
    title text,
    created_by bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    listed boolean DEFAULT true NOT NULL,
    history text GENERATED ALWAYS AS (
CASE
    WHEN (kind = ANY (ARRAY['channel'::text, 'contact'::text])) THEN 'all'::text
    ELSE 'joined'::text
END) STORED NOT NULL,
    CONSTRAINT threads_kind CHECK ((kind = ANY (ARRAY['direct'::text, 'group'::text, 'channel'::text, 'contact'::text]))),
    CONSTRAINT threads_title CHECK (((title IS NULL) = (kind = 'direct'::text)))
);

--
-- Name: own_doors; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.own_doors WITH (security_invoker='true') AS
 SELECT m.user_id,
    m.thread_id,
    m.role,
    m.joined_rev,
    m.joined_seq,
    GREATEST(m.read_seq, h.archived_seq) AS read_seq,
    t.kind,
    t.history,
    t.title,
    t.created_at,
    h.last_seq,
    h.last_rev,
    h.log_floor,
    h.message_count,
    h.last_deleted_seq,
    h.last_message_at,
    m.muted,
    m.archived,
    m.notify,
    m.seen_seq,
    m.delivered_seq,
    m.changed_xid,
    h.last_xid,
    h.member_count,
    h.archived_seq
   FROM ((public.memberships m
     JOIN public.threads t ON ((t.id = m.thread_id)))
     JOIN public.thread_heads h ON ((h.thread_id = m.thread_id)))
  WHERE ((m.left_rev IS NULL) AND (h.deleted_at IS NULL));

--
-- Name: staff_doors; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.staff_doors WITH (security_invoker='true') AS
 SELECT u.id AS user_id,
    t.id AS thread_id,
    'moderator'::text AS role,
    (0)::bigint AS joined_rev,
    (0)::bigint AS joined_seq,
    GREATEST(h.archived_seq, public.read_before(t.id, COALESCE(u.staff_since, u.created_at), t.created_at, h.last_message_at, h.archived_seq, h.last_seq)) AS read_seq,
    t.kind,
    t.history,
    t.title,
    t.created_at,
    h.last_seq,
    h.last_rev,
    h.log_floor,
    h.message_count,
    h.last_deleted_seq,
    h.last_message_at,
    false AS muted,
    false AS archived,
    'all'::text AS notify,
    (0)::bigint AS seen_seq,
    (0)::bigint AS delivered_seq,
    '0'::xid8 AS changed_xid,
    h.last_xid,
    h.member_count,
    h.archived_seq
   FROM ((public.users u
     JOIN public.threads t ON ((t.kind = 'contact'::text)))
     JOIN public.thread_heads h ON ((h.thread_id = t.id)))
  WHERE ((u.role <> 'member'::text) AND (u.deactivated_at IS NULL) AND (h.deleted_at IS NULL) AND (NOT (EXISTS ( SELECT
           FROM public.memberships m
          WHERE ((m.thread_id = t.id) AND (m.user_id = u.id) AND (m.left_rev IS NULL))))));

--
-- Name: doors; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.doors WITH (security_invoker='true') AS
 SELECT own_doors.user_id,
    own_doors.thread_id,
    own_doors.role,
    own_doors.joined_rev,
    own_doors.joined_seq,
    own_doors.read_seq,
    own_doors.kind,
    own_doors.history,
    own_doors.title,
    own_doors.created_at,
    own_doors.last_seq,
    own_doors.last_rev,
    own_doors.log_floor,
    own_doors.message_count,
    own_doors.last_deleted_seq,
    own_doors.last_message_at,
    own_doors.muted,
    own_doors.archived,
    own_doors.notify,
    own_doors.seen_seq,
    own_doors.delivered_seq,
    own_doors.changed_xid,
    own_doors.last_xid,
    own_doors.member_count,
    own_doors.archived_seq
   FROM public.own_doors
UNION ALL
 SELECT staff_doors.user_id,
    staff_doors.thread_id,
    staff_doors.role,
    staff_doors.joined_rev,
    staff_doors.joined_seq,
    staff_doors.read_seq,
    staff_doors.kind,
    staff_doors.history,
    staff_doors.title,
    staff_doors.created_at,
    staff_doors.last_seq,
    staff_doors.last_rev,
    staff_doors.log_floor,
    staff_doors.message_count,
    staff_doors.last_deleted_seq,
    staff_doors.last_message_at,
    staff_doors.muted,
    staff_doors.archived,
    staff_doors.notify,
    staff_doors.seen_seq,
    staff_doors.delivered_seq,
    staff_doors.changed_xid,
    staff_doors.last_xid,
    staff_doors.member_count,
    staff_doors.archived_seq
   FROM public.staff_doors;

--
-- Name: imports; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.imports (
    thread_id bigint NOT NULL,
    source text NOT NULL,
    records bigint NOT NULL,
    digest bytea NOT NULL
);

--
-- Name: inbound_ids; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.inbound_ids (
    bot_id bigint NOT NULL,
    external_id text NOT NULL,
    thread_id bigint NOT NULL,
    seq bigint NOT NULL,
    body_hash bytea NOT NULL,
    CONSTRAINT inbound_ids_hash CHECK ((octet_length(body_hash) = 32))
);

--
-- Name: invites_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.invites ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.invites_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: log_epoch; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.log_epoch (
    one boolean DEFAULT true NOT NULL,
    epoch text DEFAULT "left"(md5(((random())::text || (clock_timestamp())::text)), 8) NOT NULL,
    CONSTRAINT log_epoch_single CHECK (one)
);

--
-- Name: marks; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.marks (
    thread_id bigint NOT NULL,
    user_id bigint NOT NULL,
    kind text NOT NULL,
    seq bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    CONSTRAINT marks_kind CHECK ((kind = ANY (ARRAY['read'::text, 'delivered'::text])))
);

--
-- Name: mentions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.mentions (
    thread_id bigint NOT NULL,
    user_id bigint NOT NULL,
    seq bigint NOT NULL
);

--
-- Name: message_edits; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.message_edits (
    thread_id bigint NOT NULL,
    seq bigint NOT NULL,
    rev bigint NOT NULL,
    text text NOT NULL,
    at timestamp with time zone NOT NULL
);

--
-- Name: my_threads; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.my_threads WITH (security_invoker='true') AS
 SELECT user_id,
    thread_id,
    (((head ||
        CASE
            WHEN sees_last THEN last
            ELSE 'null'::text
        END) || rest) || mine) AS thread,
    head,
    last,
    sees_last,
    rest,
    mine,
    floor
   FROM ( SELECT d.user_id,
            d.thread_id,
                CASE d.history
                    WHEN 'joined'::text THEN d.joined_seq
                    ELSE (0)::bigint
                END AS floor,
            ((((((((((((((((((((((((('{"id":'::text || d.thread_id) || ',"kind":"'::text) || d.kind) || '","history":"'::text) || d.history) || '"'::text) || ',"title":'::text) || COALESCE((to_json(d.title))::text, 'null'::text)) || ',"createdAt":'::text) || public.time_json(d.created_at)) ||
                CASE
                    WHEN (d.archived_seq = 0) THEN ''::text
                    ELSE (',"archivedBefore":'::text || (d.archived_seq + 1))
                END) || ',"lastSeq":'::text) || d.last_seq) || ',"lastRev":'::text) || d.last_rev) || ',"streamCursor":"'::text) || ( SELECT log_epoch.epoch
                   FROM public.log_epoch)) || '.'::text) || d.thread_id) || '.'::text) || d.last_rev) || '"'::text) || ',"lastMessageAt":'::text) || COALESCE(public.time_json(d.last_message_at), 'null'::text)) || ',"lastMessage":'::text) AS head,
            COALESCE(( SELECT ((((((('{"seq":'::text || m.seq) || ',"author":'::text) || public.author_json(a.*)) || ',"text":'::text) || (to_json("left"(m.text, 200)))::text) ||
                        CASE
                            WHEN (m.deleted_at IS NULL) THEN ''::text
                            ELSE (',"deletedAt":'::text || public.time_json(m.deleted_at))
                        END) || '}'::text)
                   FROM (public.messages m
                     JOIN public.users a ON ((a.id = m.author_id)))
                  WHERE ((m.thread_id = d.thread_id) AND (m.seq = d.last_seq))), 'null'::text) AS last,
            ((d.history = 'all'::text) OR (d.last_seq > d.joined_seq) OR (EXISTS ( SELECT
                   FROM public.memberships s
                  WHERE ((s.thread_id = d.thread_id) AND (s.user_id = d.user_id) AND (s.joined_seq < d.last_seq) AND (s.left_seq >= d.last_seq))))) AS sees_last,
            ((((',"messageCount":'::text || d.message_count) || ',"memberCount":'::text) || d.member_count) ||
                CASE d.kind
                    WHEN 'channel'::text THEN ''::text
                    WHEN 'contact'::text THEN ( SELECT (',"contact":'::text || public.conversation_json(n.*))
                       FROM public.conversations n
                      WHERE (n.thread_id = d.thread_id))
                    ELSE (',"members":'::text || ( SELECT (('['::text || string_agg((((((((('{"userId":'::text || u.id) || ',"name":'::text) || (to_json(u.name))::text) || ',"username":'::text) || COALESCE((to_json(u.username))::text, 'null'::text)) || ',"role":"'::text) || first.role) || '"}'::text), ','::text ORDER BY first.user_id)) || ']'::text)
                       FROM (( SELECT o.user_id,
                                o.role
                               FROM public.memberships o
                              WHERE ((o.thread_id = d.thread_id) AND (o.left_rev IS NULL))
                              ORDER BY o.user_id
                             LIMIT 10) first
                         JOIN public.users u ON ((u.id = first.user_id)))))
                END) AS rest,
            (((((((((((','::text || unread.counts) || ',"role":"'::text) || d.role) || '"'::text) || ',"muted":'::text) || d.muted) || ',"archived":'::text) || d.archived) || ',"notify":"'::text) || d.notify) || '"}'::text) AS mine
           FROM (public.doors d
             CROSS JOIN LATERAL public.unread_json(d.user_id, d.thread_id, d.history, d.joined_seq, d.last_seq, d.last_deleted_seq, d.read_seq) unread(counts))) parts;

--
-- Name: open_channels; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.open_channels WITH (security_invoker='true') AS
 SELECT t.id AS thread_id,
    ((((((((((((((((((((((((('{"id":'::text || t.id) || ',"kind":"channel","history":"all","title":'::text) || (to_json(t.title))::text) || ',"createdAt":'::text) || public.time_json(t.created_at)) ||
        CASE
            WHEN (h.archived_seq = 0) THEN ''::text
            ELSE (',"archivedBefore":'::text || (h.archived_seq + 1))
        END) || ',"lastSeq":'::text) || h.last_seq) || ',"lastRev":'::text) || h.last_rev) || ',"streamCursor":"'::text) || ( SELECT log_epoch.epoch
           FROM public.log_epoch)) || '.'::text) || t.id) || '.'::text) || h.last_rev) || '","lastMessageAt":'::text) || COALESCE(public.time_json(h.last_message_at), 'null'::text)) || ',"lastMessage":null,"messageCount":'::text) || h.message_count) || ',"memberCount":'::text) || h.member_count) || ',"unreadCount":0,"mentionCount":0,"firstUnreadSeq":null,"lastReadSeq":'::text) || h.last_seq) || ',"role":null}'::text) AS thread
   FROM (public.threads t
     JOIN public.thread_heads h ON ((h.thread_id = t.id)))
  WHERE ((t.kind = 'channel'::text) AND (h.deleted_at IS NULL));

--
-- Name: personal_changes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.personal_changes (
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    user_id bigint NOT NULL,
    thread_id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

--
-- Name: pins; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.pins (
    thread_id bigint NOT NULL,
    seq bigint NOT NULL,
    rev bigint NOT NULL,
    user_id bigint NOT NULL
);

--
-- Name: reactions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.reactions (
    thread_id bigint NOT NULL,
    seq bigint NOT NULL,
    user_id bigint NOT NULL,
    emoji text NOT NULL
);

--
-- Name: schema_migrations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.schema_migrations (
    version character varying NOT NULL
);

--
-- Name: search_blocks; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.search_blocks (
    id bigint NOT NULL,
    at bigint NOT NULL,
    thread_id bigint NOT NULL,
    seq bigint NOT NULL,
    ats bigint[] NOT NULL,
    thread_ids bigint[] NOT NULL,
    seqs bigint[] NOT NULL,
    author_ids bigint[] NOT NULL,
    text text NOT NULL,
    loose integer DEFAULT 0 NOT NULL,
    stale integer DEFAULT 0 NOT NULL,
    tidy_at timestamp with time zone
)
WITH (toast_tuple_target='128', fillfactor='80', autovacuum_vacuum_scale_factor='0.05');
ALTER TABLE ONLY public.search_blocks ALTER COLUMN ats SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.search_blocks ALTER COLUMN thread_ids SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.search_blocks ALTER COLUMN seqs SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.search_blocks ALTER COLUMN author_ids SET STORAGE EXTERNAL;
ALTER TABLE ONLY public.search_blocks ALTER COLUMN text SET STORAGE EXTERNAL;

--
-- Name: search_blocks_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.search_blocks ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.search_blocks_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: search_grams; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.search_grams (
    block_id bigint NOT NULL,
    grams text NOT NULL
)
WITH (toast_tuple_target='128', autovacuum_vacuum_scale_factor='0.05');

--
-- Name: search_late; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.search_late (
    at bigint NOT NULL,
    thread_id bigint NOT NULL,
    seq bigint NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.05');

--
-- Name: search_place; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.search_place (
    one boolean DEFAULT true NOT NULL,
    place text DEFAULT '3:3:'::text NOT NULL,
    moved_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT search_place_single CHECK (one)
);

--
-- Name: search_todo; Type: TABLE; Schema: public; Owner: -
--

CREATE UNLOGGED TABLE public.search_todo (
    at bigint NOT NULL,
    thread_id bigint NOT NULL,
    seq bigint NOT NULL
);

--
-- Name: sessions_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.sessions ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.sessions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: sights; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.sights WITH (security_invoker='true') AS
 SELECT d.user_id,
    d.thread_id,
    s.low,
    s.high
   FROM (public.doors d
     CROSS JOIN LATERAL public.stretches(d.user_id, d.thread_id, d.history, d.archived_seq, d.last_seq) s(low, high));

--
-- Name: spent_tokens; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.spent_tokens (
    hash bytea NOT NULL,
    session_id bigint NOT NULL,
    spent_at timestamp with time zone DEFAULT now() NOT NULL
);

--
-- Name: tallies; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.tallies (
    name text NOT NULL,
    shard smallint NOT NULL,
    count bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_threshold='50', autovacuum_vacuum_scale_factor='0');

--
-- Name: threads_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.threads ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.threads_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: tickets; Type: TABLE; Schema: public; Owner: -
--

CREATE UNLOGGED TABLE public.tickets (
    hash bytea NOT NULL,
    session_id bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL
);

--
-- Name: users_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.users ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.users_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

--
-- Name: api_keys api_keys_key_hash_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash);

--
-- Name: api_keys api_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (session_id);

--
-- Name: archives archives_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.archives
    ADD CONSTRAINT archives_pkey PRIMARY KEY (thread_id, first_seq);

--
-- Name: audit audit_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);

--
-- Name: blocks blocks_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.blocks
    ADD CONSTRAINT blocks_pkey PRIMARY KEY (user_id, blocked_id);

--
-- Name: changes changes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.changes
    ADD CONSTRAINT changes_pkey PRIMARY KEY (thread_id, rev);

--
-- Name: client_ids client_ids_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.client_ids
    ADD CONSTRAINT client_ids_pkey PRIMARY KEY (thread_id, author_id, client_id);

--
-- Name: contacts contacts_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.contacts
    ADD CONSTRAINT contacts_pkey PRIMARY KEY (id);

--
-- Name: contacts contacts_thread_id_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.contacts
    ADD CONSTRAINT contacts_thread_id_key UNIQUE (thread_id);

--
-- Name: conversation_days conversation_days_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.conversation_days
    ADD CONSTRAINT conversation_days_pkey PRIMARY KEY (id);

--
-- Name: conversation_labels conversation_labels_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.conversation_labels
    ADD CONSTRAINT conversation_labels_pkey PRIMARY KEY (thread_id, label);

--
-- Name: conversations conversations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_pkey PRIMARY KEY (thread_id);

--
-- Name: deletions deletions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.deletions
    ADD CONSTRAINT deletions_pkey PRIMARY KEY (thread_id, level, block);

--
-- Name: direct_pairs direct_pairs_leads_to_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.direct_pairs
    ADD CONSTRAINT direct_pairs_leads_to_key UNIQUE (leads_to);

--
-- Name: direct_pairs direct_pairs_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.direct_pairs
    ADD CONSTRAINT direct_pairs_pkey PRIMARY KEY (low_user_id, high_user_id);

--
-- Name: imports imports_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_pkey PRIMARY KEY (thread_id, source);

--
-- Name: inbound_ids inbound_ids_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.inbound_ids
    ADD CONSTRAINT inbound_ids_pkey PRIMARY KEY (bot_id, external_id);

--
-- Name: invites invites_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.invites
    ADD CONSTRAINT invites_pkey PRIMARY KEY (id);

--
-- Name: invites invites_token_hash_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.invites
    ADD CONSTRAINT invites_token_hash_key UNIQUE (token_hash);

--
-- Name: log_epoch log_epoch_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.log_epoch
    ADD CONSTRAINT log_epoch_pkey PRIMARY KEY (one);

--
-- Name: marks marks_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.marks
    ADD CONSTRAINT marks_pkey PRIMARY KEY (thread_id, user_id, kind, seq);

--
-- Name: memberships memberships_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_pkey PRIMARY KEY (thread_id, user_id, joined_rev);

--
-- Name: mentions mentions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.mentions
    ADD CONSTRAINT mentions_pkey PRIMARY KEY (thread_id, user_id, seq);

--
-- Name: message_edits message_edits_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.message_edits
    ADD CONSTRAINT message_edits_pkey PRIMARY KEY (thread_id, seq, rev);

--
-- Name: messages messages_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (thread_id, seq);

--
-- Name: personal_changes personal_changes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.personal_changes
    ADD CONSTRAINT personal_changes_pkey PRIMARY KEY (xid, user_id, thread_id);

--
-- Name: pins pins_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.pins
    ADD CONSTRAINT pins_pkey PRIMARY KEY (thread_id, seq);

--
-- Name: pins pins_rev_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.pins
    ADD CONSTRAINT pins_rev_key UNIQUE (thread_id, rev);

--
-- Name: reactions reactions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.reactions
    ADD CONSTRAINT reactions_pkey PRIMARY KEY (thread_id, seq, user_id, emoji);

--
-- Name: schema_migrations schema_migrations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

--
-- Name: search_blocks search_blocks_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.search_blocks
    ADD CONSTRAINT search_blocks_pkey PRIMARY KEY (id);

--
-- Name: search_late search_late_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.search_late
    ADD CONSTRAINT search_late_pkey PRIMARY KEY (at, thread_id, seq);

--
-- Name: search_place search_place_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.search_place
    ADD CONSTRAINT search_place_pkey PRIMARY KEY (one);

--
-- Name: search_todo search_todo_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.search_todo
    ADD CONSTRAINT search_todo_pkey PRIMARY KEY (at, thread_id, seq);

--
-- Name: sessions sessions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);

--
-- Name: sessions sessions_refresh_hash_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_refresh_hash_key UNIQUE (refresh_hash);

--
-- Name: spent_tokens spent_tokens_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.spent_tokens
    ADD CONSTRAINT spent_tokens_pkey PRIMARY KEY (hash);

--
-- Name: tallies tallies_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.tallies
    ADD CONSTRAINT tallies_pkey PRIMARY KEY (name, shard);

--
-- Name: thread_heads thread_heads_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.thread_heads
    ADD CONSTRAINT thread_heads_pkey PRIMARY KEY (thread_id);

--
-- Name: threads threads_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.threads
    ADD CONSTRAINT threads_pkey PRIMARY KEY (id);

--
-- Name: tickets tickets_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.tickets
    ADD CONSTRAINT tickets_pkey PRIMARY KEY (hash);

--
-- Name: users users_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);

--
-- Name: archives_by_file; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX archives_by_file ON public.archives USING btree (file, at_byte);

--
-- Name: audit_act; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_act ON public.audit USING btree (act, id);

--
-- Name: audit_actor; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_actor ON public.audit USING btree (actor_id, act, id);

--
-- Name: audit_subject; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_subject ON public.audit USING btree (subject_id, act, id);

--
-- Name: changes_by_xid; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX changes_by_xid ON public.changes USING btree (xid);

--
-- Name: contacts_by_name; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX contacts_by_name ON public.contacts USING btree (lower(name), id) INCLUDE (name) WHERE (deleted_at IS NULL);

--
-- Name: contacts_by_part; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX contacts_by_part ON public.contacts USING gin (public.contact_grams(name, phone_number, email)) WITH (fastupdate=off) WHERE (deleted_at IS NULL);

--
-- Name: contacts_external_id_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX contacts_external_id_key ON public.contacts USING btree (external_id) WHERE (deleted_at IS NULL);

--
-- Name: contacts_phone_number_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX contacts_phone_number_key ON public.contacts USING btree (phone_number) WHERE (deleted_at IS NULL);

--
-- Name: contacts_unnumbered; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX contacts_unnumbered ON public.contacts USING btree (lower(name), lower(COALESCE(email, ''::text)), id) WHERE ((phone_number IS NULL) AND (external_id IS NULL) AND (deleted_at IS NULL));

--
-- Name: conversation_days_by_day; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX conversation_days_by_day ON public.conversation_days USING btree (day, status);

--
-- Name: conversation_labels_latest; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX conversation_labels_latest ON public.conversation_labels USING btree (label, last_at, thread_id);

--
-- Name: conversations_by_assignee; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX conversations_by_assignee ON public.conversations USING btree (assignee_id, last_at, thread_id) WHERE ((assignee_id IS NOT NULL) AND (last_at IS NOT NULL));

--
-- Name: conversations_by_status; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX conversations_by_status ON public.conversations USING btree (status, last_at, thread_id) WHERE (last_at IS NOT NULL);

--
-- Name: conversations_latest; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX conversations_latest ON public.conversations USING btree (last_at, thread_id) WHERE (last_at IS NOT NULL);

--
-- Name: conversations_snoozed; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX conversations_snoozed ON public.conversations USING btree (snoozed_until) WHERE (status = 'snoozed'::text);

--
-- Name: direct_pairs_high; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX direct_pairs_high ON public.direct_pairs USING btree (high_user_id, low_user_id);

--
-- Name: invites_living; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX invites_living ON public.invites USING btree (thread_id, expires_at) WHERE (ended_at IS NULL);

--
-- Name: memberships_admins; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX memberships_admins ON public.memberships USING btree (thread_id) WHERE ((left_rev IS NULL) AND (role = 'admin'::text));

--
-- Name: memberships_mine; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX memberships_mine ON public.memberships USING btree (user_id, thread_id) WHERE (left_rev IS NULL);

--
-- Name: memberships_open; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX memberships_open ON public.memberships USING btree (thread_id, user_id) WHERE (left_rev IS NULL);

--
-- Name: memberships_own; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX memberships_own ON public.memberships USING btree (user_id, thread_id) WHERE ((left_rev IS NULL) AND (joined_rev > 0));

--
-- Name: memberships_past; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX memberships_past ON public.memberships USING btree (user_id, thread_id) WHERE (left_rev IS NOT NULL);

--
-- Name: messages_deleted; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX messages_deleted ON public.messages USING btree (thread_id, seq) WHERE (deleted_at IS NOT NULL);

--
-- Name: search_blocks_in_order; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX search_blocks_in_order ON public.search_blocks USING btree (at, thread_id, seq);

--
-- Name: search_blocks_untidy; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX search_blocks_untidy ON public.search_blocks USING btree (tidy_at) WHERE (tidy_at IS NOT NULL);

--
-- Name: search_grams_block_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX search_grams_block_id ON public.search_grams USING btree (block_id);

--
-- Name: search_grams_found; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX search_grams_found ON public.search_grams USING gin (public.search_lexemes(grams)) WITH (fastupdate=off);
ALTER INDEX public.search_grams_found ALTER COLUMN 1 SET STATISTICS 0;

--
-- Name: sessions_ended; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sessions_ended ON public.sessions USING btree (ended_at) INCLUDE (ended_xid, id) WHERE (ended_at IS NOT NULL);

--
-- Name: sessions_guests_over; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sessions_guests_over ON public.sessions USING btree (expires_at) WHERE (kind = 'guest'::text);

--
-- Name: sessions_minted_by; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sessions_minted_by ON public.sessions USING btree (minted_by, user_id) WHERE (kind = 'guest'::text);

--
-- Name: sessions_user_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sessions_user_id ON public.sessions USING btree (user_id, last_used_at);

--
-- Name: spent_tokens_session_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX spent_tokens_session_id ON public.spent_tokens USING btree (session_id, spent_at);

--
-- Name: threads_channels; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX threads_channels ON public.threads USING btree (lower(title), id) WHERE ((kind = 'channel'::text) AND listed);

--
-- Name: tickets_expires_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX tickets_expires_at ON public.tickets USING btree (expires_at);

--
-- Name: users_by_name; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_by_name ON public.users USING btree (lower(name) text_pattern_ops) WHERE (deactivated_at IS NULL);

--
-- Name: users_by_part; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_by_part ON public.users USING gin (lower(name) public.gin_trgm_ops, lower(username) public.gin_trgm_ops) WHERE (deactivated_at IS NULL);

--
-- Name: users_by_username; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_by_username ON public.users USING btree (lower(username) text_pattern_ops) WHERE (deactivated_at IS NULL);

--
-- Name: users_deactivated; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_deactivated ON public.users USING btree (id) WHERE ((deactivated_at IS NOT NULL) AND (kind <> 'contact'::text));

--
-- Name: users_email_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX users_email_key ON public.users USING btree (lower(email));

--
-- Name: users_external_id_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX users_external_id_key ON public.users USING btree (external_id);

--
-- Name: users_people; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_people ON public.users USING btree (id) WHERE (kind <> 'contact'::text);

--
-- Name: users_staff; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_staff ON public.users USING btree (role, id) WHERE (role <> 'member'::text);

--
-- Name: users_username_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX users_username_key ON public.users USING btree (lower(username));

--
-- Name: audit audit_append_only; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER audit_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit FOR EACH STATEMENT EXECUTE FUNCTION public.audit_refuse();

--
-- Name: contacts contacts_added; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER contacts_added AFTER INSERT ON public.contacts REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.contacts_tally();

--
-- Name: contacts contacts_changed; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER contacts_changed AFTER UPDATE ON public.contacts REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.contacts_tally();

--
-- Name: contacts contacts_shown; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER contacts_shown AFTER UPDATE ON public.contacts FOR EACH ROW WHEN (((old.name IS DISTINCT FROM new.name) OR (old.phone_number IS DISTINCT FROM new.phone_number))) EXECUTE FUNCTION public.contacts_show();

--
-- Name: conversations conversations_added; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER conversations_added AFTER INSERT ON public.conversations REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.conversations_add();

--
-- Name: conversations conversations_changed; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER conversations_changed AFTER UPDATE ON public.conversations FOR EACH ROW WHEN (((old.status <> new.status) OR ((old.last_at IS NULL) <> (new.last_at IS NULL)))) EXECUTE FUNCTION public.conversations_tally();

--
-- Name: conversations conversations_days_added; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER conversations_days_added AFTER INSERT ON public.conversations REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.conversations_add_days();

--
-- Name: conversations conversations_days_changed; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER conversations_days_changed AFTER UPDATE ON public.conversations FOR EACH ROW WHEN (((old.status IS DISTINCT FROM new.status) OR (public.conversation_day(old.last_at) IS DISTINCT FROM public.conversation_day(new.last_at)))) EXECUTE FUNCTION public.conversations_change_days();

--
-- Name: conversations conversations_labelled; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER conversations_labelled AFTER INSERT ON public.conversations FOR EACH ROW WHEN ((new.labels <> '{}'::text[])) EXECUTE FUNCTION public.conversations_label();

--
-- Name: conversations conversations_relabelled; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER conversations_relabelled AFTER UPDATE ON public.conversations FOR EACH ROW WHEN ((((old.labels <> '{}'::text[]) OR (new.labels <> '{}'::text[])) AND ((old.labels IS DISTINCT FROM new.labels) OR (old.last_at IS DISTINCT FROM new.last_at)))) EXECUTE FUNCTION public.conversations_label();

--
-- Name: api_keys api_keys_created_by_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.users(id);

--
-- Name: api_keys api_keys_session_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id);

--
-- Name: archives archives_thread_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.archives
    ADD CONSTRAINT archives_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES public.threads(id);

--
-- Name: blocks blocks_blocked_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.blocks
    ADD CONSTRAINT blocks_blocked_id_fkey FOREIGN KEY (blocked_id) REFERENCES public.users(id);

--
-- Name: blocks blocks_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.blocks
    ADD CONSTRAINT blocks_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);

--
-- Name: contacts contacts_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.contacts
    ADD CONSTRAINT contacts_id_fkey FOREIGN KEY (id) REFERENCES public.users(id);

--
-- Name: contacts contacts_thread_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.contacts
    ADD CONSTRAINT contacts_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES public.threads(id);

--
-- Name: conversation_labels conversation_labels_thread_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.conversation_labels
    ADD CONSTRAINT conversation_labels_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES public.conversations(thread_id);

--
-- Name: conversations conversations_assignee_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_assignee_id_fkey FOREIGN KEY (assignee_id) REFERENCES public.users(id);

--
-- Name: conversations conversations_contact_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_contact_id_fkey FOREIGN KEY (contact_id) REFERENCES public.contacts(id);

--
-- Name: conversations conversations_thread_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.conversations
    ADD CONSTRAINT conversations_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES public.threads(id);

--
-- Name: direct_pairs direct_pairs_high_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.direct_pairs
    ADD CONSTRAINT direct_pairs_high_fkey FOREIGN KEY (high_user_id) REFERENCES public.users(id);

--
-- Name: direct_pairs direct_pairs_low_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.direct_pairs
    ADD CONSTRAINT direct_pairs_low_fkey FOREIGN KEY (low_user_id) REFERENCES public.users(id);

--
-- Name: imports imports_thread_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.imports
    ADD CONSTRAINT imports_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES public.threads(id);

--
-- Name: invites invites_created_by_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.invites
    ADD CONSTRAINT invites_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.users(id);

--
-- Name: memberships memberships_thread_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES public.threads(id);

--
-- Name: memberships memberships_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);

--
-- Name: search_grams search_grams_block_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.search_grams
    ADD CONSTRAINT search_grams_block_id_fkey FOREIGN KEY (block_id) REFERENCES public.search_blocks(id);

--
-- Name: sessions sessions_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);

--
-- Name: spent_tokens spent_tokens_session_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.spent_tokens
    ADD CONSTRAINT spent_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id) ON DELETE CASCADE;

--
-- Name: thread_heads thread_heads_thread_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.thread_heads
    ADD CONSTRAINT thread_heads_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES public.threads(id);

--
-- Name: threads threads_created_by_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.threads
    ADD CONSTRAINT threads_created_by_fkey FOREIGN KEY (created_by) REFERENCES public.users(id);
