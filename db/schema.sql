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
    CONSTRAINT users_admin CHECK (((role <> 'admin'::text) OR ((kind = 'user'::text) AND (COALESCE(external_id, ''::text) !~~ 'host:%'::text)))),
    CONSTRAINT users_kind CHECK ((kind = ANY (ARRAY['user'::text, 'bot'::text]))),
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
   FROM (SELECT latest::text::bigint + 1 AS after) place
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
       WHERE o.thread_id = thread AND o.user_id = u.id AND o.left_rev IS NULL OFFSET 0) o
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
    AS $$ WITH other AS (
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
-- Name: receipt_json(bigint, bigint, bigint, bigint, timestamp with time zone); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.receipt_json(thread bigint, reader bigint, delivered bigint, seen bigint, at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT '{"threadId":' || thread || ',"userId":' || reader || ',"deliveredSeq":' || delivered
    || ',"readSeq":' || coalesce(seen::text, 'null') || ',"at":' || time_json(at) || '}' $$;

--
-- Name: status_of(bigint, bigint, bigint); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.status_of(seq bigint, delivered bigint, seen bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT ',"status":"' || CASE WHEN seen >= seq THEN 'read' WHEN delivered >= seq THEN 'delivered' ELSE 'sent' END || '"' $$;

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
    history text GENERATED ALWAYS AS (
CASE kind
    WHEN 'channel'::text THEN 'all'::text
    ELSE 'joined'::text
END) STORED NOT NULL,
    title text,
    created_by bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    listed boolean DEFAULT true NOT NULL,
    CONSTRAINT threads_kind CHECK ((kind = ANY (ARRAY['direct'::text, 'group'::text, 'channel'::text]))),
    CONSTRAINT threads_title CHECK (((title IS NULL) = (kind = 'direct'::text)))
);

--
-- Name: doors; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.doors WITH (security_invoker='true') AS
 SELECT m.user_id,
    m.thread_id,
    m.role,
    m.joined_rev,
    m.joined_seq,
    m.read_seq,
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
    h.member_count
   FROM ((public.memberships m
     JOIN public.threads t ON ((t.id = m.thread_id)))
     JOIN public.thread_heads h ON ((h.thread_id = m.thread_id)))
  WHERE ((m.left_rev IS NULL) AND (h.deleted_at IS NULL));

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
            (((((((((((((((((((((((('{"id":'::text || d.thread_id) || ',"kind":"'::text) || d.kind) || '","history":"'::text) || d.history) || '"'::text) || ',"title":'::text) || COALESCE((to_json(d.title))::text, 'null'::text)) || ',"createdAt":'::text) || public.time_json(d.created_at)) || ',"lastSeq":'::text) || d.last_seq) || ',"lastRev":'::text) || d.last_rev) || ',"streamCursor":"'::text) || ( SELECT log_epoch.epoch
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
                CASE
                    WHEN (d.kind = 'channel'::text) THEN ''::text
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
    (((((((((((((((((((((((('{"id":'::text || t.id) || ',"kind":"channel","history":"all","title":'::text) || (to_json(t.title))::text) || ',"createdAt":'::text) || public.time_json(t.created_at)) || ',"lastSeq":'::text) || h.last_seq) || ',"lastRev":'::text) || h.last_rev) || ',"streamCursor":"'::text) || ( SELECT log_epoch.epoch
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
    stretch.low,
    stretch.high
   FROM (public.doors d
     CROSS JOIN LATERAL ( SELECT (0)::bigint AS low,
            d.last_seq AS high
          WHERE (d.history = 'all'::text)
        UNION ALL
         SELECT s.joined_seq,
            COALESCE(s.left_seq, d.last_seq) AS "coalesce"
           FROM public.memberships s
          WHERE ((d.history = 'joined'::text) AND (s.thread_id = d.thread_id) AND (s.user_id = d.user_id))) stretch)
  WHERE (stretch.low < stretch.high);

--
-- Name: spent_tokens; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.spent_tokens (
    hash bytea NOT NULL,
    session_id bigint NOT NULL,
    spent_at timestamp with time zone DEFAULT now() NOT NULL
);

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
-- Name: memberships_past; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX memberships_past ON public.memberships USING btree (user_id, thread_id) WHERE (left_rev IS NOT NULL);

--
-- Name: messages_deleted; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX messages_deleted ON public.messages USING btree (thread_id, seq) WHERE (deleted_at IS NOT NULL);

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

CREATE INDEX users_deactivated ON public.users USING btree (id) WHERE (deactivated_at IS NOT NULL);

--
-- Name: users_email_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX users_email_key ON public.users USING btree (lower(email));

--
-- Name: users_external_id_key; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX users_external_id_key ON public.users USING btree (external_id);

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
