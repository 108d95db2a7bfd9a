-- members.sql: who is in a thread, over which spans.
-- Writes memberships (but for blocked: blocks.sql, and the cursors: receipts.sql, messages.sql), the member changes and
-- thread_heads with them, and personal_changes. An act locks first whoever is to
-- be added (users.hold), then the memberships of the two people (hold_members, in the order of user_id), then
-- the head (hold_head): the order in which a send takes the same rows. What is decided then stays true until
-- the commit.
-- In a contact thread there are memberships of the contact and of those of the staff who have done something there, and
-- of nobody else: whoever loses the role loses them in the same transaction (admin.sql). They are no changes, and
-- member_count does not count them.

-- name: list :one
-- The people in a thread, by user id: their JSON and the key to go on from. Of a contact thread those of the staff who
-- have done something there; the contact is what it is about. No row when not a member.
-- params: user_id, thread_id, after_id (user id, exclusive), size (1 to 100)
-- route:  GET /api/threads/<thread_id:id>/members
-- plan:   memberships_open, users_pkey; at most size + 1 rows
WITH page AS (
    SELECT m.user_id, m.role, m.joined_at
    FROM memberships m
    WHERE m.thread_id = :thread_id AND m.user_id > :after_id AND m.left_rev IS NULL
        AND (SELECT n.contact_id FROM conversations n WHERE n.thread_id = :thread_id) IS DISTINCT FROM m.user_id
    ORDER BY m.user_id
    LIMIT :size::int + 1
), kept AS (
    SELECT user_id, role, joined_at FROM page ORDER BY user_id LIMIT :size
)
SELECT (SELECT coalesce('[' || string_agg('{"userId":' || u.id || ',"name":' || to_json(u.name)::text
            || ',"username":' || coalesce(to_json(u.username)::text, 'null') || ',"kind":"' || u.kind
            || '","role":"' || k.role || '","joinedAt":' || time_json(k.joined_at) || '}', ',' ORDER BY u.id)
            || ']', '[]')
        FROM kept k JOIN users u ON u.id = k.user_id) AS members,
    (SELECT count(*) FROM page) > :size AS more,
    (SELECT max(user_id) FROM kept) AS last_id
FROM doors d
WHERE d.user_id = :user_id AND d.thread_id = :thread_id;

-- name: hold_members :many
-- The open memberships of the one who acts and the one acted upon (often the same), locked.
-- params: thread_id, user_ids (bigint[])
-- route:  PATCH /api/threads/<thread_id:id>
-- route:  DELETE /api/threads/<thread_id:id>
-- route:  POST /api/threads/<thread_id:id>/join
-- route:  POST /api/threads/<thread_id:id>/leave
-- route:  POST /api/threads/<thread_id:id>/members
-- route:  PATCH /api/threads/<thread_id:id>/members/<member_id:id>
-- route:  DELETE /api/threads/<thread_id:id>/members/<member_id:id>
-- route:  POST /api/threads/<thread_id:id>/invites
-- route:  DELETE /api/threads/<thread_id:id>/invites/<invite_id:id>
-- route:  POST /api/invites/<token:str>/accept
-- plan:   memberships_open/memberships_mine; at most two rows
-- locks:  those rows, in the order of user_id
SELECT m.user_id, m.role, m.joined_rev
FROM memberships m
WHERE m.thread_id = :thread_id AND m.user_id = ANY(:user_ids::bigint[]) AND m.left_rev IS NULL
ORDER BY m.user_id
FOR NO KEY UPDATE;

-- name: hold_head :value
-- The kind of a living thread, its head locked. No row when there is none.
-- params: thread_id
-- route:  PATCH /api/threads/<thread_id:id>
-- route:  DELETE /api/threads/<thread_id:id>
-- route:  POST /api/threads/<thread_id:id>/join
-- route:  POST /api/threads/<thread_id:id>/leave
-- route:  POST /api/threads/<thread_id:id>/members
-- route:  PATCH /api/threads/<thread_id:id>/members/<member_id:id>
-- route:  DELETE /api/threads/<thread_id:id>/members/<member_id:id>
-- route:  POST /api/threads/<thread_id:id>/invites
-- route:  DELETE /api/threads/<thread_id:id>/invites/<invite_id:id>
-- route:  POST /api/invites/<token:str>/accept
-- plan:   thread_heads_pkey, threads_pkey; one row each
-- locks:  the head
SELECT t.kind
FROM thread_heads h
JOIN threads t ON t.id = h.thread_id
WHERE h.thread_id = :thread_id AND h.deleted_at IS NULL
FOR NO KEY UPDATE OF h;

-- name: succession :one
-- Whether a thread has active people, and active admins, besides this one. Asked with the head held.
-- params: thread_id, member_id
-- route:  POST /api/threads/<thread_id:id>/leave
-- route:  PATCH /api/threads/<thread_id:id>/members/<member_id:id>
-- route:  DELETE /api/threads/<thread_id:id>/members/<member_id:id>
-- live:   after PATCH /api/admin/users/<user_id:id>, once for each thread of which they are admin
-- plan:   memberships_open/memberships_admins, users_pkey; up to the first that is active
-- In the order of the index, so that no plan is taken that reads all memberships to find one.
SELECT EXISTS (
        SELECT FROM (
            SELECT m.user_id FROM memberships m
            WHERE m.thread_id = :thread_id AND m.user_id <> :member_id AND m.left_rev IS NULL
            ORDER BY m.user_id) m
        JOIN users u ON u.id = m.user_id
        WHERE u.deactivated_at IS NULL) AS others,
    EXISTS (
        SELECT FROM memberships m
        JOIN users u ON u.id = m.user_id
        WHERE m.thread_id = :thread_id AND m.user_id <> :member_id AND m.left_rev IS NULL
            AND m.role = 'admin' AND u.deactivated_at IS NULL) AS admins;

-- name: open_span :value
-- Somebody comes in (again): a new span from here on, everything so far read. The rev of the change;
-- no row when member_id is nobody, or deactivated, or has blocked by_id, who lets them in. Raises
-- memberships_open when in already.
-- params: thread_id, member_id, role, by_id (member_id: by themself)
-- route:  POST /api/threads/<thread_id:id>/join
-- route:  POST /api/threads/<thread_id:id>/members
-- route:  POST /api/invites/<token:str>/accept
-- plan:   thread_heads_pkey, users_pkey, blocks_pkey; one row each
-- locks:  the head (already held by hold_head)
WITH head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id(), member_count = h.member_count + 1
    FROM users u
    WHERE h.thread_id = :thread_id AND u.id = :member_id AND u.deactivated_at IS NULL
        AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = :member_id AND b.blocked_id = :by_id)
    RETURNING h.last_rev, h.last_seq
), span AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, role, read_seq)
    SELECT :thread_id, :member_id, last_rev, last_seq, :role, last_seq FROM head
)
INSERT INTO changes (thread_id, rev, kind, user_id, act)
SELECT :thread_id, last_rev, 'member', :member_id, 'joined' FROM head
RETURNING rev;

-- name: close_span :value
-- Somebody goes: their span ends here. The rev of the change; no row when not in.
-- params: thread_id, member_id, act (left or removed)
-- route:  POST /api/threads/<thread_id:id>/leave
-- route:  DELETE /api/threads/<thread_id:id>/members/<member_id:id>
-- plan:   memberships_open/memberships_mine, thread_heads_pkey; one row each
-- locks:  the head and the span (already held)
WITH head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id(), member_count = h.member_count - 1
    FROM memberships m
    WHERE h.thread_id = :thread_id AND m.thread_id = :thread_id AND m.user_id = :member_id AND m.left_rev IS NULL
    RETURNING h.last_rev, h.last_seq
), span AS (
    UPDATE memberships m
    SET left_rev = head.last_rev, left_seq = head.last_seq, left_at = clock_timestamp(), removed = :act = 'removed',
        changed_xid = pg_current_xact_id()
    FROM head
    WHERE m.thread_id = :thread_id AND m.user_id = :member_id AND m.left_rev IS NULL
)
INSERT INTO changes (thread_id, rev, kind, user_id, act)
SELECT :thread_id, last_rev, 'member', :member_id, :act FROM head
RETURNING rev;

-- name: set_role :value
-- Another role for a member. The rev of the change; no row when they have it already.
-- params: thread_id, member_id, role
-- route:  PATCH /api/threads/<thread_id:id>/members/<member_id:id>
-- route:  POST /api/threads/<thread_id:id>/leave (a successor)
-- plan:   memberships_open/memberships_mine, thread_heads_pkey; one row each
-- locks:  the head and the span (already held)
WITH span AS (
    UPDATE memberships m SET role = :role
    WHERE m.thread_id = :thread_id AND m.user_id = :member_id AND m.left_rev IS NULL AND m.role <> :role
    RETURNING m.thread_id
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id() FROM span WHERE h.thread_id = span.thread_id
    RETURNING h.last_rev
)
INSERT INTO changes (thread_id, rev, kind, user_id, act)
SELECT :thread_id, last_rev, 'member', :member_id, 'role' FROM head
RETURNING rev;

-- name: enter :value
-- What somebody of the staff does first in a contact thread makes them a member of it, which is no change of the thread:
-- they saw it before. True when they are one now, however. No row for all others, and for any other thread.
-- params: user_id, thread_id
-- route:  POST /api/threads/<thread_id:id>/messages (here and below: only after it found no membership)
-- route:  PATCH /api/threads/<thread_id:id>/messages/<seq:id>
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>
-- route:  PUT /api/threads/<thread_id:id>/messages/<seq:id>/reactions/<emoji:str>
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>/reactions/<emoji:str>
-- route:  PUT /api/threads/<thread_id:id>/messages/<seq:id>/pin
-- route:  DELETE /api/threads/<thread_id:id>/messages/<seq:id>/pin
-- route:  POST /api/threads/<thread_id:id>/read
-- route:  POST /api/threads/<thread_id:id>/delivered
-- route:  POST /api/threads/<thread_id:id>/unread
-- route:  POST /api/threads/<thread_id:id>/typing
-- route:  PATCH /api/threads/<thread_id:id>/me
-- route:  GET /api/threads/<thread_id:id>/stream
-- plan:   users_pkey, threads_pkey, thread_heads_pkey, memberships_open/memberships_mine; one row each, and of messages
--         those at which the time before somebody's coming is halved
-- locks:  the account (shared: whoever takes the role away waits, and then finds the membership), the new row
WITH person AS MATERIALIZED (
    SELECT u.id FROM users u
    WHERE u.id = :user_id AND u.role <> 'member' AND u.deactivated_at IS NULL
    FOR SHARE
), door AS MATERIALIZED (
    SELECT d.thread_id, d.user_id, d.read_seq FROM doors d
    WHERE d.user_id = :user_id AND d.thread_id = :thread_id AND d.kind = 'contact' AND EXISTS (SELECT FROM person)
), made AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, role, read_seq)
    SELECT thread_id, user_id, 0, 0, 'moderator', read_seq FROM door
    ON CONFLICT DO NOTHING  -- another device of theirs
)
SELECT true FROM door;

-- name: settle :value
-- One's own settings of a thread; null leaves one as it is. No row when not a member. Nobody else learns of it.
-- Writes personal_changes, for one's other devices.
-- params: user_id, thread_id, muted, archived, notify (all, mentions or none)
-- route:  PATCH /api/threads/<thread_id:id>/me
-- plan:   memberships_open/memberships_mine, thread_heads_pkey; one row each
-- locks:  the caller's membership
WITH settled AS (
    UPDATE memberships m
    SET muted = coalesce(:muted, m.muted), archived = coalesce(:archived, m.archived), notify = coalesce(:notify, m.notify),
        changed_xid = pg_current_xact_id()
    WHERE m.thread_id = :thread_id AND m.user_id = :user_id AND m.left_rev IS NULL
        AND EXISTS (SELECT FROM thread_heads h WHERE h.thread_id = m.thread_id AND h.deleted_at IS NULL)
    RETURNING m.thread_id, m.user_id
)
INSERT INTO personal_changes (user_id, thread_id) SELECT user_id, thread_id FROM settled
RETURNING thread_id;
