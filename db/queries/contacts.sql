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
    RETURNING c.id, c.thread_id, c.name, c.phone_number, contact_json(c) AS contact
), account AS (
    INSERT INTO users (id, kind, name, deactivated_at) SELECT id, 'contact', name, clock_timestamp() FROM contact
), thread AS (
    INSERT INTO threads (id, kind, title) SELECT thread_id, 'contact', name FROM contact RETURNING created_at
), head AS (
    INSERT INTO thread_heads (thread_id) SELECT thread_id FROM contact
), conversation AS (
    INSERT INTO conversations (thread_id, contact_id, name, phone_number, created_at)
    SELECT contact.thread_id, contact.id, contact.name, contact.phone_number, thread.created_at FROM contact, thread
), span AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq) SELECT thread_id, id, 0, 0, 0 FROM contact
)
SELECT id, thread_id, contact FROM contact;

-- name: get :json
-- One contact. No row when there is none, or none any more.
-- params: contact_id
-- route:  GET /api/contacts/<contact_id:id>
-- plan:   contacts_pkey; one row
SELECT contact_json(c) FROM contacts c WHERE c.id = :contact_id AND c.deleted_at IS NULL;

-- name: page :one
-- A page of the contacts, by name: their JSON, and how many there are in all. It is counted off from the nearer end.
-- params: skip (how many come before it), size (1 to 100)
-- route:  GET /api/contacts (hot: each look at the list)
-- plan:   contacts_by_name, contacts_pkey; size rows, and at most half of the entries of the index, at some 60 ns each
WITH total AS MATERIALIZED (
    SELECT coalesce(sum(count), 0)::bigint AS count FROM tallies WHERE name = 'contacts'
), page AS (
    (SELECT c.id, lower(c.name) AS low
     FROM contacts c
     WHERE c.deleted_at IS NULL AND 2 * :skip::bigint <= (SELECT count FROM total)
     ORDER BY lower(c.name), c.id
     OFFSET :skip LIMIT :size)
    UNION ALL
    (SELECT c.id, lower(c.name) AS low
     FROM contacts c
     WHERE c.deleted_at IS NULL AND 2 * :skip::bigint > (SELECT count FROM total) AND :skip < (SELECT count FROM total)
     ORDER BY lower(c.name) DESC, c.id DESC
     OFFSET greatest(0, (SELECT count FROM total) - :skip - :size::bigint)
     LIMIT least(:size::bigint, greatest(0, (SELECT count FROM total) - :skip)))
)
SELECT total.count AS total, true AS exact, (
    SELECT coalesce('[' || string_agg(contact_json(c), ',' ORDER BY p.low, p.id) || ']', '[]')
    FROM page p
    CROSS JOIN LATERAL (SELECT * FROM contacts WHERE id = p.id OFFSET 0) c) AS contacts
FROM total;

-- name: search :one
-- A page of those who have a needle in their name, phone number or email, by name: their JSON, and how many there are, which
-- is exact up to 1,000. While there are no more, the index of parts gives all of them. When there are, the page may be
-- found among the first looks contacts by name; else the index gives most of them again, to be sorted.
-- params: search (2 characters and more), digits (how it would stand in a phone number, or null), looks, most, skip (how many
--         come before the page), size (0 to 100; up to the 1,000th)
-- route:  GET /api/contacts (hot: each letter typed)
-- plan:   contacts_by_part, contacts_by_name, contacts_pkey; 1,001 that match, then up to looks rows, then most that match
WITH part AS MATERIALIZED (
    SELECT c.id, lower(c.name) AS low
    FROM contacts c
    WHERE c.deleted_at IS NULL
        AND contact_grams(c.name, c.phone_number, c.email)
            @@ (SELECT coalesce(contact_needle(:search) || contact_needle(:digits), contact_needle(:search)))
        AND (strpos(contact_text(c.name, c.phone_number, c.email), contact_fold(:search)) > 0 OR strpos(c.phone_number, :digits) > 0)
    LIMIT 1001
), walk AS MATERIALIZED (
    SELECT l.id, l.low
    FROM (SELECT c.*, lower(c.name) AS low FROM contacts c
          WHERE c.deleted_at IS NULL
          ORDER BY lower(c.name), c.id
          LIMIT :looks) l
    WHERE (SELECT count(*) FROM part) > 1000
        AND (strpos(contact_text(l.name, l.phone_number, l.email), contact_fold(:search)) > 0 OR strpos(l.phone_number, :digits) > 0)
    ORDER BY l.low, l.id
    LIMIT :skip::bigint + :size::bigint
), found AS (
    SELECT id, low FROM part WHERE (SELECT count(*) FROM part) <= 1000
    UNION ALL
    SELECT id, low FROM walk WHERE (SELECT count(*) FROM walk) = :skip::bigint + :size::bigint
    UNION ALL
    (SELECT c.id, lower(c.name) AS low
     FROM contacts c
     WHERE c.deleted_at IS NULL
        AND (SELECT count(*) FROM part) > 1000 AND (SELECT count(*) FROM walk) < :skip::bigint + :size::bigint
        AND contact_grams(c.name, c.phone_number, c.email)
            @@ (SELECT coalesce(contact_needle(:search) || contact_needle(:digits), contact_needle(:search)))
        AND (strpos(contact_text(c.name, c.phone_number, c.email), contact_fold(:search)) > 0 OR strpos(c.phone_number, :digits) > 0)
     LIMIT :most)
), page AS (
    SELECT f.id, f.low FROM found f ORDER BY f.low, f.id OFFSET :skip LIMIT :size
)
SELECT least((SELECT count(*) FROM part), 1000) AS total, (SELECT count(*) FROM part) <= 1000 AS exact, (
    SELECT coalesce('[' || string_agg(contact_json(c), ',' ORDER BY p.low, p.id) || ']', '[]')
    FROM page p
    CROSS JOIN LATERAL (SELECT * FROM contacts WHERE id = p.id OFFSET 0) c) AS contacts;

-- name: search_letter :one
-- The same for a single character. Most have it, mostly: then all are found among the first looks contacts by name, and the
-- index, where it is in very many runs, is not asked.
-- params: search, digits, looks, most, skip, size (0 to 100; up to the 1,000th)
-- route:  GET /api/contacts (hot: each first letter typed)
-- plan:   contacts_by_name, contacts_by_part, contacts_pkey; up to looks rows, then most that match
WITH walk AS MATERIALIZED (
    SELECT l.id, l.low
    FROM (SELECT c.*, lower(c.name) AS low FROM contacts c
          WHERE c.deleted_at IS NULL
          ORDER BY lower(c.name), c.id
          LIMIT :looks) l
    WHERE strpos(contact_text(l.name, l.phone_number, l.email), contact_fold(:search)) > 0 OR strpos(l.phone_number, :digits) > 0
    ORDER BY l.low, l.id
    LIMIT 1001
), part AS MATERIALIZED (
    SELECT c.id, lower(c.name) AS low
    FROM contacts c
    WHERE c.deleted_at IS NULL AND (SELECT count(*) FROM walk) <= 1000
        AND contact_grams(c.name, c.phone_number, c.email)
            @@ (SELECT coalesce(contact_needle(:search) || contact_needle(:digits), contact_needle(:search)))
        AND (strpos(contact_text(c.name, c.phone_number, c.email), contact_fold(:search)) > 0 OR strpos(c.phone_number, :digits) > 0)
    LIMIT :most
), found AS (
    SELECT id, low FROM walk WHERE (SELECT count(*) FROM walk) > 1000
    UNION ALL SELECT id, low FROM part
), page AS (
    SELECT f.id, f.low FROM found f ORDER BY f.low, f.id OFFSET :skip LIMIT :size
)
SELECT least((SELECT count(*) FROM found), 1000) AS total, (SELECT count(*) FROM found) <= 1000 AS exact, (
    SELECT coalesce('[' || string_agg(contact_json(c), ',' ORDER BY p.low, p.id) || ']', '[]')
    FROM page p
    CROSS JOIN LATERAL (SELECT * FROM contacts WHERE id = p.id OFFSET 0) c) AS contacts;

-- name: change :one
-- Changes what is given of a contact; rev of the change in its thread, if its name or phone number is another one now.
-- No row when there is none (any more). Raises contacts_phone_number_key or contacts_external_id_key.
-- params: contact_id, given (text[]: the fields that are, as the API calls them), name, phone_number, email, external_id, notes
-- route:  PATCH /api/contacts/<contact_id:id>
-- plan:   contacts_pkey, users_pkey, threads_pkey, thread_heads_pkey; one row each
-- locks:  the contact, the head of its thread, then the thread and the account: not after a send in one transaction
WITH old AS (
    -- Before all else, so that two changes, or a change and a deletion, meet here.
    SELECT c.* FROM contacts c WHERE c.id = :contact_id AND c.deleted_at IS NULL FOR NO KEY UPDATE
), new AS (
    SELECT o.id,
        CASE WHEN 'name' = ANY(:given::text[]) THEN :name ELSE o.name END AS name,
        CASE WHEN 'phoneNumber' = ANY(:given) THEN :phone_number ELSE o.phone_number END AS phone_number,
        CASE WHEN 'email' = ANY(:given) THEN :email ELSE o.email END AS email,
        CASE WHEN 'externalId' = ANY(:given) THEN :external_id ELSE o.external_id END AS external_id,
        CASE WHEN 'notes' = ANY(:given) THEN :notes ELSE o.notes END AS notes
    FROM old o
), contact AS (
    UPDATE contacts c
    SET name = n.name, phone_number = n.phone_number, email = n.email, external_id = n.external_id, notes = n.notes,
        updated_at = clock_timestamp()
    FROM new n, old o
    WHERE c.id = n.id AND (n.name, n.phone_number, n.email, n.external_id, n.notes)
        IS DISTINCT FROM (o.name, o.phone_number, o.email, o.external_id, o.notes)
    RETURNING c.*
), account AS (
    UPDATE users u SET name = c.name FROM contact c WHERE u.id = c.id AND u.name <> c.name
), thread AS (
    UPDATE threads t SET title = c.name FROM contact c WHERE t.id = c.thread_id AND t.title <> c.name
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM contact c, old o
    WHERE h.thread_id = c.thread_id AND (c.name, c.phone_number) IS DISTINCT FROM (o.name, o.phone_number)
    RETURNING h.thread_id, h.last_rev
), told AS (
    INSERT INTO changes (thread_id, rev, kind) SELECT thread_id, last_rev, 'thread_updated' FROM head
)
SELECT o.thread_id, (SELECT last_rev FROM head) AS rev,
    coalesce((SELECT contact_json(c::contacts) FROM contact c), contact_json(o::contacts)) AS contact
FROM old o;

-- name: remove :one
-- Deletes a contact softly, and its thread with it: the rows stay, nobody comes in any more, and its phone number and external
-- id are free. The thread, and the rev of the change there. No row when there is none (any more).
-- params: contact_id
-- route:  DELETE /api/contacts/<contact_id:id>
-- plan:   contacts_pkey, thread_heads_pkey, threads_pkey, conversations_pkey; one row each
-- locks:  the contact, the head, the thread, the conversation
WITH contact AS (
    UPDATE contacts SET deleted_at = clock_timestamp() WHERE id = :contact_id AND deleted_at IS NULL RETURNING thread_id
), head AS (
    UPDATE thread_heads h
    SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id(), deleted_at = clock_timestamp()
    FROM contact c
    WHERE h.thread_id = c.thread_id
    RETURNING h.thread_id, h.last_rev
), thread AS (
    UPDATE threads t SET listed = false FROM head WHERE t.id = head.thread_id
), conversation AS (
    -- In no list any more, and nothing is to wake it.
    UPDATE conversations n SET last_at = NULL, status = 'closed', snoozed_until = NULL
    FROM head WHERE n.thread_id = head.thread_id
)
INSERT INTO changes (thread_id, rev, kind) SELECT thread_id, last_rev, 'thread_deleted' FROM head
RETURNING thread_id, rev;

-- name: hold_imports :exec
-- One batch of an import at a time, of all workers: two with the same people would wait for each other, or make them twice.
-- params:
-- route:  POST /api/contacts/import
-- plan:   none
-- locks:  an advisory lock until the end of the transaction
SELECT pg_advisory_xact_lock(hashtextextended('bobbin contacts', 0));

-- name: matches :many
-- Who is meant by each line of a file, in the order of lines: by_external has its external id, by_phone its phone number
-- (numbered: and an external id), by_name its name and email where neither the line nor the contact has one of these.
-- params: names (text[]), phone_numbers (text[]), emails (text[]), external_ids (text[]; all of one length, with nulls)
-- route:  POST /api/contacts/import
-- plan:   contacts_external_id_key, contacts_phone_number_key, contacts_unnumbered; at most 3 rows for each line
SELECT x.id AS by_external, p.id AS by_phone, coalesce(p.numbered, false) AS numbered, a.id AS by_name
FROM unnest(:names::text[], :phone_numbers::text[], :emails::text[], :external_ids::text[])
    WITH ORDINALITY line (name, phone_number, email, external_id, n)
LEFT JOIN LATERAL (
    SELECT c.id FROM contacts c WHERE c.external_id = line.external_id AND c.deleted_at IS NULL OFFSET 0) x ON true
LEFT JOIN LATERAL (
    SELECT c.id, c.external_id IS NOT NULL AS numbered FROM contacts c
    WHERE c.phone_number = line.phone_number AND c.deleted_at IS NULL OFFSET 0) p ON true
LEFT JOIN LATERAL (
    SELECT c.id FROM contacts c
    WHERE line.phone_number IS NULL AND line.external_id IS NULL
        AND c.phone_number IS NULL AND c.external_id IS NULL AND c.deleted_at IS NULL
        AND lower(c.name) = lower(line.name) AND lower(coalesce(c.email, '')) = lower(coalesce(line.email, ''))
    ORDER BY c.id
    LIMIT 1) a ON true
ORDER BY line.n;

-- name: create_many :many
-- New contacts, each as by create: their ids, in the order of lines. Raises contacts_phone_number_key or
-- contacts_external_id_key, and then nothing is made.
-- params: names (text[]), phone_numbers (text[]), emails (text[]), external_ids (text[]), notes (text[]; all of one length)
-- route:  POST /api/contacts/import
-- plan:   none
-- locks:  the new rows
WITH line AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('users', 'id')) AS id, nextval(pg_get_serial_sequence('threads', 'id')) AS thread_id, l.*
    FROM unnest(:names::text[], :phone_numbers::text[], :emails::text[], :external_ids::text[], :notes::text[])
        WITH ORDINALITY l (name, phone_number, email, external_id, notes, n)
), contact AS (
    INSERT INTO contacts (id, thread_id, name, phone_number, email, external_id, notes)
    SELECT id, thread_id, name, phone_number, email, external_id, notes FROM line
), account AS (
    INSERT INTO users (id, kind, name, deactivated_at) SELECT id, 'contact', name, clock_timestamp() FROM line
), thread AS (
    INSERT INTO threads (id, kind, title) SELECT thread_id, 'contact', name FROM line RETURNING id, created_at
), head AS (
    INSERT INTO thread_heads (thread_id) SELECT thread_id FROM line
), conversation AS (
    INSERT INTO conversations (thread_id, contact_id, name, phone_number, created_at)
    SELECT l.thread_id, l.id, l.name, l.phone_number, t.created_at FROM line l JOIN thread t ON t.id = l.thread_id
), span AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq) SELECT thread_id, id, 0, 0, 0 FROM line
)
SELECT id FROM line ORDER BY n;

-- name: change_many :many
-- Changes what is not null of some contacts, as by change: those of which something is another thing now. Raises
-- contacts_phone_number_key or contacts_external_id_key, and then nothing is changed.
-- params: contact_ids (bigint[], distinct), names (text[]), phone_numbers (text[]), emails (text[]), external_ids (text[]),
--         notes (text[]; all of one length)
-- route:  POST /api/contacts/import
-- plan:   contacts_pkey, users_pkey, threads_pkey, thread_heads_pkey; one row each for each contact
-- locks:  the contacts, by id, then the heads, threads and accounts of those that are another now, in no order
WITH line AS MATERIALIZED (
    SELECT l.*
    FROM unnest(:contact_ids::bigint[], :names::text[], :phone_numbers::text[], :emails::text[], :external_ids::text[],
        :notes::text[]) l (id, name, phone_number, email, external_id, notes)
), old AS MATERIALIZED (
    SELECT c.* FROM contacts c WHERE c.id = ANY(:contact_ids) AND c.deleted_at IS NULL ORDER BY c.id FOR NO KEY UPDATE
), new AS MATERIALIZED (
    SELECT o.id, o.name AS old_name, o.phone_number AS old_number, coalesce(l.name, o.name) AS name,
        coalesce(l.phone_number, o.phone_number) AS phone_number, coalesce(l.email, o.email) AS email,
        coalesce(l.external_id, o.external_id) AS external_id, coalesce(l.notes, o.notes) AS notes
    FROM old o
    JOIN line l ON l.id = o.id
    WHERE (coalesce(l.name, o.name), coalesce(l.phone_number, o.phone_number), coalesce(l.email, o.email),
            coalesce(l.external_id, o.external_id), coalesce(l.notes, o.notes))
        IS DISTINCT FROM (o.name, o.phone_number, o.email, o.external_id, o.notes)
), contact AS (
    UPDATE contacts c
    SET name = n.name, phone_number = n.phone_number, email = n.email, external_id = n.external_id, notes = n.notes,
        updated_at = clock_timestamp()
    FROM new n
    WHERE c.id = n.id
    RETURNING c.id, c.thread_id, c.name, n.old_name, (n.name, n.phone_number) IS DISTINCT FROM (n.old_name, n.old_number) AS shown
), account AS (
    UPDATE users u SET name = c.name FROM contact c WHERE u.id = c.id AND c.name <> c.old_name
), thread AS (
    UPDATE threads t SET title = c.name FROM contact c WHERE t.id = c.thread_id AND c.name <> c.old_name
), head AS (
    UPDATE thread_heads h SET last_rev = h.last_rev + 1, last_xid = pg_current_xact_id()
    FROM contact c
    WHERE h.thread_id = c.thread_id AND c.shown
    RETURNING h.thread_id, h.last_rev
), told AS (
    INSERT INTO changes (thread_id, rev, kind) SELECT thread_id, last_rev, 'thread_updated' FROM head
)
SELECT c.id, h.thread_id, h.last_rev AS rev FROM contact c LEFT JOIN head h ON h.thread_id = c.thread_id;

-- name: after :many
-- All contacts by id, a piece at a time; the deleted ones too, so that a piece costs the same wherever it is.
-- params: after_id (exclusive), size
-- route:  GET /api/contacts/export
-- plan:   contacts_pkey; size rows
SELECT c.id, c.deleted_at IS NULL AS living, c.name, c.phone_number, c.email, c.external_id, c.notes
FROM contacts c
WHERE c.id > :after_id
ORDER BY c.id
LIMIT :size;
