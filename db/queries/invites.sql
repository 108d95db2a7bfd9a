-- invites.sql: links by which people come into a group or channel.
-- Writes invites. Making, revoking and taking one is done with the head of its thread held (members.act): so the
-- bound on living ones and the count of uses are exact, and who is removed does not slip in again.
-- A living invite is not ended (revoked or used up) and not expired.

-- name: make :json
-- A new invite. No row when the thread has a hundred living ones.
-- params: thread_id, user_id, token_hash (bytea), seconds, max_uses (or null)
-- route:  POST /api/threads/<thread_id:id>/invites
-- plan:   thread_heads_pkey, invites_living; at most a hundred rows
-- locks:  the new row
INSERT INTO invites AS i (thread_id, token_hash, created_by, created_at, created_rev, expires_at, max_uses)
SELECT h.thread_id, :token_hash, :user_id, now(), h.last_rev, now() + make_interval(secs => :seconds), :max_uses
FROM thread_heads h
WHERE h.thread_id = :thread_id AND (
    SELECT count(*) FROM (
        SELECT FROM invites o
        WHERE o.thread_id = :thread_id AND o.ended_at IS NULL AND o.expires_at > now()
        LIMIT 100) living) < 100
RETURNING invite_json(i);

-- name: list :one
-- The caller's role, the kind of the thread, and its living invites, newest first. No row when not a member.
-- params: user_id, thread_id
-- route:  GET /api/threads/<thread_id:id>/invites
-- plan:   memberships_open/memberships_mine, invites_living; at most a hundred rows
SELECT d.role, d.kind, (
    SELECT coalesce('[' || string_agg(invite_json(i), ',' ORDER BY i.id DESC) || ']', '[]')
    FROM invites i
    WHERE i.thread_id = d.thread_id AND i.ended_at IS NULL AND i.expires_at > now()) AS invites
FROM doors d
WHERE d.user_id = :user_id AND d.thread_id = :thread_id;

-- name: revoke :value
-- Ends a living invite of this thread. No row when there is none.
-- params: thread_id, invite_id
-- route:  DELETE /api/threads/<thread_id:id>/invites/<invite_id:id>
-- plan:   invites_pkey/invites_living; one row
-- locks:  the invite
UPDATE invites SET ended_at = now()
WHERE id = :invite_id AND thread_id = :thread_id AND ended_at IS NULL AND expires_at > now()
RETURNING id;

-- name: leads_to :value
-- The thread of an invite, living or not. No row when it is none of ours.
-- params: token_hash (bytea)
-- route:  POST /api/invites/<token:str>/accept
-- plan:   invites_token_hash_key; one row
SELECT thread_id FROM invites WHERE token_hash = :token_hash;

-- name: take :value
-- One use of a living invite, for somebody who has not been removed since it was made. Its id; no row when it
-- does not let them in.
-- params: user_id, token_hash (bytea)
-- route:  POST /api/invites/<token:str>/accept
-- plan:   invites_token_hash_key, memberships_pkey/memberships_past; one row, and the person's spans
-- locks:  the invite
UPDATE invites i SET uses = i.uses + 1, ended_at = CASE WHEN i.uses + 1 = i.max_uses THEN now() END
WHERE i.token_hash = :token_hash AND i.ended_at IS NULL AND i.expires_at > now()
    AND NOT EXISTS (
        SELECT FROM memberships m
        WHERE m.thread_id = i.thread_id AND m.user_id = :user_id AND m.removed AND m.left_rev > i.created_rev)
RETURNING i.id;
