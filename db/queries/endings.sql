-- endings.sql: how every worker learns which sessions are over.
-- Writes nothing. Redis tells it sooner; this is what holds without Redis.

-- name: since :one
-- The sessions that ended in transactions which the last look may not have seen: ids, and where the next
-- look goes on. A transaction that was open then has an xid at or above that snapshot's xmin, so none is
-- missed however late it commits. What ended before any token still good was made does not matter.
-- params: horizon (xid8, as text), minutes
-- live:   endings, each worker, several times a second
-- plan:   sessions_ended; the endings of so many minutes
SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon,
    (SELECT array_agg(s.id) FROM sessions s
     WHERE s.ended_xid >= :horizon::text::xid8 AND s.ended_at > now() - make_interval(mins => :minutes)) AS ids;

-- name: dead :many
-- Which of these sessions are over: ended, expired, or gone.
-- params: session_ids (bigint[])
-- live:   endings, each worker, twice a minute for the sessions that have streams there
-- plan:   sessions_pkey; one row for each session
SELECT asked.id
FROM unnest(:session_ids::bigint[]) AS asked (id)
LEFT JOIN sessions s ON s.id = asked.id AND s.ended_at IS NULL AND s.expires_at > now()
WHERE s.id IS NULL;
