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
