-- replica.sql: how far a replica has come (server/base/replica.py). Writes one word into the WAL, at most.

-- name: written :one
-- On the primary: up to where of its WAL anybody can have seen what was committed. A commit is seen only once it is
-- flushed, unless synchronous_commit is off: then what has been written counts. That would do always, and would be too
-- much: what a long transaction writes is ahead of the flush by megabytes, for seconds, and no replica
-- gets it. And the timeline, which a failover changes.
-- params:
-- job:    reads from a replica: before each, one for all who wait (hot)
-- plan:   any: no table
SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
        ELSE pg_current_wal_flush_lsn() END AS place,
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline;

-- name: replayed :value
-- On the replica: up to where it has replayed the WAL; what was committed before that can be seen. Null: it is no replica
-- (any more).
-- params:
-- job:    reads from a replica: until it is there, and once a second (hot)
-- plan:   any: no table
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END;

-- name: identity :one
-- Which server this is. The timeline of a replica is that of its last restart point: after a failover it is the new one
-- only when it has certainly followed.
-- params:
-- job:    reads from a replica: when it is connected
-- plan:   any: one row
SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster,
    (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database,
    (SELECT epoch FROM log_epoch) AS epoch,
    pg_is_in_recovery() AS recovering,
    CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS timeline,
    pg_backend_pid() AS pid;

-- name: mark :value
-- Marks the replica as long as this session lives.
-- params: key (bigint, at random)
-- job:    reads from a replica: when it is connected
-- plan:   any: no table
SELECT pg_try_advisory_lock(:key);

-- name: unmarked :value
-- False: the session that has marked it lives on this very server, which so has not been started anew since.
-- params: key (bigint)
-- job:    reads from a replica: each new connection
-- plan:   any: no table
SELECT pg_try_advisory_lock_shared(:key);

-- name: flush :value
-- On the primary: a commit of nothing, so that a replica gets the rest of the WAL. What a rolled back transaction, a vacuum
-- or a read wrote there may lie unflushed for 15 s, and the last record be torn.
-- params:
-- job:    reads from a replica: once, when it seems to be behind and nothing moves
-- plan:   any: no table
SELECT pg_logical_emit_message(true, 'bobbin', '');
