-- contacts.sql: the people outside who write to the team.
-- Writes contacts, and with each its account (users), its thread (threads, thread_heads), its place in that (memberships)
-- and in the inbox (conversations; else: inbox.sql, messages.sql).

-- name: create :one
-- A new contact and its thread: their ids, and the contact as JSON. No row, and nothing made, when somebody has this
-- phone number, also when another made them while this waited. Raises contacts_external_id_key.
-- params: name, phone_number (E.164, or null), email, external_id, notes
-- route:  POST /api/contacts
-- plan:   contacts_phone_number_key; one insert each
-- locks:  the new rows
WITH contact AS (
    -- First, under ids of their own: what is already there is found before anything is made for it.
    INSERT INTO contacts AS c (id, thread_id, name, phone_number, email, external_id, notes)
    VALUES (nextval(pg_get_serial_sequence('users', 'id')), nextval(pg_get_serial_sequence('threads', 'id')),
        :name, :phone_number, :email, :external_id, :notes)
    ON CONFLICT (phone_number) WHERE deleted_at IS NULL DO NOTHING
    RETURNING c.id, c.thread_id, c.name, contact_json(c) AS contact
), account AS (
    INSERT INTO users (id, kind, name, deactivated_at) SELECT id, 'contact', name, clock_timestamp() FROM contact
), thread AS (
    INSERT INTO threads (id, kind, title) SELECT thread_id, 'contact', name FROM contact
), head AS (
    INSERT INTO thread_heads (thread_id) SELECT thread_id FROM contact
), conversation AS (
    INSERT INTO conversations (thread_id, contact_id) SELECT thread_id, id FROM contact
), span AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq) SELECT thread_id, id, 0, 0, 0 FROM contact
)
SELECT id, thread_id, contact FROM contact;
