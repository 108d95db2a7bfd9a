-- audit.sql: what was done that bears on security.
-- Writes audit, in the transaction of the act where there is one.

-- name: note :exec
-- One act.
-- params: act, actor_id (or null), subject_id (or null), thread_id (or null), address (or null), request_id, details (a JSON object, as text)
-- live:   every route that signs in or out, or changes what somebody may do
-- plan:   one insert
-- locks:  the new row
INSERT INTO audit (act, actor_id, subject_id, thread_id, address, request_id, details)
VALUES (:act, :actor_id::bigint, :subject_id::bigint, :thread_id::bigint, :address::text::inet, :request_id, :details::text::jsonb);

-- name: newest :many
-- The newest entries, by id.
-- params: before_id (exclusive), size
-- route:  GET /api/admin/audit
-- plan:   audit_pkey; at most size rows
SELECT id FROM audit WHERE id < :before_id ORDER BY id DESC LIMIT :size;

-- name: newest_act :many
-- The same of one act, or of all that begin so: the newest of each of those, merged.
-- params: act, whole (true: this act, false: those that begin so), before_id (exclusive), size
-- route:  GET /api/admin/audit
-- plan:   audit_act; at most size rows of each act
SELECT found.id
FROM audit_acts known
CROSS JOIN LATERAL (
    SELECT a.id FROM audit a
    WHERE a.act = known.act AND a.id < :before_id
    ORDER BY a.id DESC LIMIT :size) found
WHERE known.act = :act OR (NOT :whole AND starts_with(known.act, :act))
ORDER BY found.id DESC LIMIT :size;

-- name: newest_of :many
-- The same of what one person did, or was done to them.
-- params: user_id, act, whole, before_id (exclusive), size
-- route:  GET /api/admin/audit
-- plan:   audit_act, audit_actor, audit_subject; at most size rows of each act, twice
SELECT found.id
FROM audit_acts known
CROSS JOIN LATERAL (
    (SELECT a.id FROM audit a
     WHERE a.actor_id = :user_id AND a.act = known.act AND a.id < :before_id
     ORDER BY a.id DESC LIMIT :size)
    UNION
    (SELECT a.id FROM audit a
     WHERE a.subject_id = :user_id AND a.act = known.act AND a.id < :before_id
     ORDER BY a.id DESC LIMIT :size)) found
WHERE known.act = :act OR (NOT :whole AND starts_with(known.act, :act))
ORDER BY found.id DESC LIMIT :size;

-- name: entries :json
-- These entries, newest first.
-- params: ids (bigint[])
-- route:  GET /api/admin/audit
-- plan:   audit_pkey; one row for each
SELECT coalesce('[' || string_agg(entry_json(e), ',' ORDER BY e.id DESC) || ']', '[]')
FROM audit e WHERE e.id = ANY(:ids::bigint[]);
