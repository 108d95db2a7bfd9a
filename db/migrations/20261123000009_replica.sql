-- Where the log stands, told by a replica. Adds no table; takes a moment.

-- migrate:up

-- A snapshot that is taken in recovery doesn't name the transactions under way: its xip is empty, so they would pass for
-- told. But all before its xmin have ended, so there the log stands; what came after will be told again.
CREATE OR REPLACE FUNCTION log_place(latest xid8) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT coalesce(min(open.xid), place.after) || ':' || place.after || ':'
        || coalesce(string_agg(open.xid::text, ',' ORDER BY open.xid), '')
   FROM (SELECT CASE WHEN pg_is_in_recovery()
            THEN least(latest::text::bigint + 1, pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
            ELSE latest::text::bigint + 1 END AS after) place
   LEFT JOIN (SELECT x::text::bigint AS xid FROM pg_snapshot_xip(pg_current_snapshot()) x) open ON open.xid < place.after
   GROUP BY place.after $$;

-- migrate:down

CREATE OR REPLACE FUNCTION log_place(latest xid8) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT coalesce(min(open.xid), place.after) || ':' || place.after || ':'
        || coalesce(string_agg(open.xid::text, ',' ORDER BY open.xid), '')
   FROM (SELECT latest::text::bigint + 1 AS after) place
   LEFT JOIN (SELECT x::text::bigint AS xid FROM pg_snapshot_xip(pg_current_snapshot()) x) open ON open.xid < place.after
   GROUP BY place.after $$;
