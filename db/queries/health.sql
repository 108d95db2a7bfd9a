-- health.sql: is the database there. Writes nothing.

-- name: alive :value
-- 1, when the database answers.
-- params:
-- route:  GET /readyz
-- route:  GET /healthz
-- plan:   no table
SELECT 1;
