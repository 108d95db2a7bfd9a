-- explain.sql: a sample shaped like production, on which plans are made and tested.
-- Writes all tables of the log, of an empty database that is thrown away afterwards.

-- name: sample :exec
-- 5,000 people, 2,000 threads, 27,500 messages that came interleaved: a fifth of the first 300 threads has
-- most of them, one has 4,000; the others are direct threads. 1,500 contacts with a message each. Fewer than 30,000 rows in each table, so that ANALYZE reads all of them and
-- the plans are the same each time.
-- params:
-- cli:    make generate
-- plan:   none
-- locks:  the new rows
WITH people AS (
    INSERT INTO users (id, name, username, email, password_hash, external_id, role, deactivated_at)
    SELECT i, 'Person ' || i, 'person' || i, 'person' || i || '@example.com', 'hash ' || i, 'irc:sample:' || i,
        CASE WHEN i % 1000 = 0 THEN 'admin' WHEN i % 100 = 0 THEN 'agent' ELSE 'member' END,
        CASE WHEN i % 50 = 49 THEN now() END
    FROM generate_series(1, 5000) i
), bot AS (
    INSERT INTO users (id, kind, name, username)
    SELECT i, 'bot', 'Bot ' || i, 'bot' || i FROM generate_series(5001, 5100) i
), kinds AS (
    SELECT i AS id, CASE WHEN i > 300 THEN 'direct' WHEN i % 5 = 0 THEN 'channel' ELSE 'group' END AS kind
    FROM generate_series(1, 2000) i
), thread AS (
    INSERT INTO threads (id, kind, title, created_by, created_at)
    SELECT id, kind, CASE WHEN kind <> 'direct' THEN 'Thread ' || id END, 1 + id % 5000, '2026-01-01'
    FROM kinds
), said AS (
    -- Every seventh message goes to thread 7, four of the rest in five to one thread in five.
    SELECT i, CASE
            WHEN i % 7 = 0 THEN 7
            WHEN i % 5 <> 0 THEN 1 + 5 * (i * 13 % 60)
            ELSE 1 + i * 31 % 300 END AS thread_id,
        timestamptz '2026-01-01' + i * interval '11 minutes' AS at
    FROM generate_series(1, 27500) i
), message AS (
    SELECT s.thread_id, row_number() OVER (PARTITION BY s.thread_id ORDER BY s.i) AS seq, s.at, s.i,
        1 + (s.thread_id * 17 + s.i * 7 % 20) % 5000 AS author_id
    FROM said s
), member AS (
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, joined_at, left_rev, left_seq, left_at,
        role, read_seq)
    SELECT k.id, 1 + (k.id * 17 + n) % 5000, n + 1, 0, '2026-01-01', CASE WHEN n % 9 = 8 THEN 60 END,
        CASE WHEN n % 9 = 8 THEN 10 END, CASE WHEN n % 9 = 8 THEN timestamptz '2026-01-20' END, CASE WHEN n = 0 THEN 'admin' ELSE 'member' END, 0
    FROM kinds k, generate_series(0, CASE WHEN k.kind = 'direct' THEN 1 ELSE 19 END) n
), back AS (
    -- Some of those who left came back: a second span.
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, joined_at, role, read_seq)
    SELECT k.id, 1 + (k.id * 17 + 8) % 5000, 70, 20, '2026-02-01', 'member', 20
    FROM kinds k
    WHERE k.kind <> 'direct'
), everybody AS (
    -- Person 1 is in every channel, and thread 7.
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, joined_at, role, read_seq)
    SELECT k.id, 1, 80, 0, '2026-02-01', 'member', 0
    FROM kinds k
    WHERE (k.kind = 'channel' OR k.id = 7) AND NOT EXISTS (SELECT FROM generate_series(0, 19) n WHERE 1 + (k.id * 17 + n) % 5000 = 1)
), pair AS (
    INSERT INTO direct_pairs (low_user_id, high_user_id, leads_to)
    SELECT least(1 + id * 17 % 5000, 1 + (id * 17 + 1) % 5000), greatest(1 + id * 17 % 5000, 1 + (id * 17 + 1) % 5000), id
    FROM kinds
    WHERE kind = 'direct'
), log AS (
    INSERT INTO changes (thread_id, rev, kind, seq, xid)
    SELECT thread_id, seq + 100, 'message', seq, (4 + i / 50)::text::xid8 FROM message
), once AS (
    INSERT INTO client_ids (thread_id, author_id, client_id, seq, body_hash)
    SELECT thread_id, author_id, 'client ' || i, seq, sha256('sample') FROM message
), source AS (
    INSERT INTO imports (thread_id, source, records, digest)
    SELECT k.id, n || '.txt', 100, '\x00' FROM kinds k, generate_series(1, 5) n
), session AS (
    INSERT INTO sessions (user_id, refresh_hash, expires_at)
    SELECT 1 + i % 5000, decode(md5(i::text), 'hex'), '2036-01-01' FROM generate_series(1, 5000) i
    RETURNING id
), over AS (
    INSERT INTO sessions (user_id, refresh_hash, expires_at, ended_at, ended_xid)
    SELECT 1 + i % 5000, decode(md5('over ' || i::text), 'hex'), '2036-01-01', now(), pg_current_xact_id()
    FROM generate_series(1, 500) i
), key_session AS (
    INSERT INTO sessions (id, user_id, kind, expires_at)
    SELECT 9000 + i, 5001 + i % 100, 'key', 'infinity' FROM generate_series(1, 2000) i
), key AS (
    INSERT INTO api_keys (session_id, kind, name, key_hash, created_by)
    SELECT 9000 + i, CASE WHEN i % 2 = 0 THEN 'host' ELSE 'bot' END, 'Key ' || i, decode(md5(i::text), 'hex'), 1000
    FROM generate_series(1, 2000) i
), guest AS (
    INSERT INTO sessions (user_id, kind, expires_at, minted_by, user_agent)
    SELECT 1 + i, 'guest', '2036-01-01', 9001 + i % 100, 'phone' FROM generate_series(1, 2000) i
), spent AS (
    INSERT INTO spent_tokens (hash, session_id) SELECT decode(md5(id || ' ' || n), 'hex'), id FROM session, generate_series(1, 3) n
), ticket AS (
    INSERT INTO tickets (hash, session_id, expires_at)
    SELECT decode(md5(id::text), 'hex'), id, now() + id * interval '1 second' FROM session
), block AS (
    INSERT INTO blocks (user_id, blocked_id) SELECT 1 + i % 500, 1001 + i FROM generate_series(1, 3000) i
), invite AS (
    INSERT INTO invites (thread_id, token_hash, created_by, created_rev, expires_at, ended_at)
    SELECT 1 + i % 300, decode(repeat(md5(i::text), 2), 'hex'), 1, 50, '2036-01-01', CASE WHEN i % 3 = 0 THEN now() END
    FROM generate_series(1, 3000) i
), act AS (
    INSERT INTO audit (act, actor_id, subject_id)
    SELECT ('{session.opened,session.opened,session.ended,login.failed,user.role}'::text[])[1 + i % 5], 1 + i % 499, 1 + i % 501
    FROM generate_series(1, 5000) i
), mark AS (
    INSERT INTO marks (thread_id, user_id, kind, seq, at)
    SELECT k.id, 1 + (k.id * 17 + n) % 5000, m.kind, 10 * step, timestamptz '2026-02-01' + step * interval '1 day'
    FROM kinds k, generate_series(0, 19) n, unnest('{read,delivered}'::text[]) m (kind), generate_series(1, 3) step
    WHERE k.id <= 200
), personal AS (
    INSERT INTO personal_changes (xid, user_id, thread_id)
    SELECT (i / 10)::text::xid8, 1 + i % 500, 1 + i % 300 FROM generate_series(1000, 3000) i
), deletion AS (
    INSERT INTO deletions (thread_id, level, block, count)
    SELECT thread_id, level, seq >> 7 * level, count(*)
    FROM message, generate_series(1, 3) level
    WHERE seq % 50 = 0
    GROUP BY 1, 2, 3
), mention AS (
    INSERT INTO mentions (thread_id, user_id, seq)
    SELECT thread_id, 1 + (thread_id * 17 + i % 20) % 5000, seq FROM message WHERE seq % 9 = 0 AND seq % 50 <> 0
), reaction AS (
    INSERT INTO reactions (thread_id, seq, user_id, emoji)
    SELECT thread_id, seq, 1 + (thread_id * 17 + n) % 5000, '👍' FROM message, generate_series(0, 4) n WHERE seq % 11 = 0
), pin AS (
    INSERT INTO pins (thread_id, seq, rev, user_id)
    SELECT thread_id, seq, seq + 100, author_id FROM message WHERE seq % 20 = 3
), edited AS (
    INSERT INTO message_edits (thread_id, seq, rev, text, at)
    SELECT thread_id, seq, n, 'What was said before.', at FROM message, generate_series(1, 2) n WHERE seq % 7 = 3
), search_message AS (
    SELECT m.*, 1 + i / 8 AS n, (extract(epoch FROM at) * 1000000)::bigint AS micros FROM message m
), search_block AS (
    INSERT INTO search_blocks (id, at, thread_id, seq, ats, thread_ids, seqs, author_ids, text, loose)
    SELECT n, (array_agg(micros ORDER BY i))[1], (array_agg(thread_id ORDER BY i))[1], (array_agg(seq ORDER BY i))[1],
        array_agg(micros ORDER BY i), array_agg(thread_id ORDER BY i), array_agg(seq ORDER BY i),
        array_agg(author_id ORDER BY i), string_agg('words and more words. ', E'\x01'), CASE WHEN n % 100 = 7 THEN 1 ELSE 0 END
    FROM search_message
    GROUP BY n
), search_gram AS (
    -- Some that many blocks have, some that few have.
    INSERT INTO search_grams (block_id, grams)
    SELECT n, E'wor\nord\nrds\nmor\nn' || n % 90 + 10 || E'\n\x01m2026-' || min(extract(month FROM at))
        || E'\n' || string_agg(DISTINCT E'\x01t' || thread_id, E'\n')
    FROM search_message
    GROUP BY n
), search_late AS (
    INSERT INTO search_late (at, thread_id, seq) SELECT micros, thread_id, seq FROM search_message WHERE i % 7 = 3
), search_todo AS (
    INSERT INTO search_todo (at, thread_id, seq) SELECT micros, thread_id, seq FROM search_message WHERE i % 2 = 1
), archive AS (
    INSERT INTO archives (thread_id, first_seq, last_seq, living, file, at_byte, digest)
    SELECT k.id, 1 + 1000 * n, 1000 * (n + 1), 990, 'file ' || k.id % 20, 1000 * k.id + n, sha256('sample')
    FROM kinds k, generate_series(0, 3) n
    WHERE k.id <= 300
), contacts_numbered AS (
    SELECT i, 6000 + i AS id, 3000 + i AS thread_id, timestamptz '2026-03-01' + i * 7919 % 1500 * interval '10 minutes' AS at
    FROM generate_series(1, 1500) i
), contact_account AS (
    INSERT INTO users (id, kind, name, deactivated_at) SELECT id, 'contact', 'Contact ' || i, now() FROM contacts_numbered
), contact_thread AS (
    INSERT INTO threads (id, kind, title, created_at) SELECT thread_id, 'contact', 'Contact ' || i, '2026-02-01' FROM contacts_numbered
), contact_head AS (
    INSERT INTO thread_heads (thread_id, last_seq, last_rev, message_count, last_message_at)
    SELECT thread_id, 1, 1, 1, at FROM contacts_numbered
), contact_member AS (
    -- The contact, and of the staff who has read there.
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, role, read_seq)
    SELECT thread_id, id, 0, 0, 'member', 1 FROM contacts_numbered
    UNION ALL SELECT thread_id, 100, 0, 0, 'moderator', 1 FROM contacts_numbered WHERE i % 10 = 0
), contact AS (
    INSERT INTO contacts (id, thread_id, name, phone_number, email, external_id)
    SELECT id, thread_id, 'Contact ' || i, CASE WHEN i % 50 <> 49 THEN '+491510000' || 1000 + i END,
        'contact' || i || '@example.org', CASE WHEN i % 50 <> 49 THEN 'crm:' || i END
    FROM contacts_numbered
), conversation AS (
    INSERT INTO conversations (thread_id, contact_id, name, phone_number, created_at, last_at, last_seq, last_author_id, content,
        status, snoozed_until, assignee_id, labels)
    SELECT thread_id, id, 'Contact ' || i, CASE WHEN i % 50 <> 49 THEN '+491510000' || 1000 + i END, '2026-02-01', at, 1, id,
        'Words of contact ' || i, (ARRAY['open', 'open', 'closed', 'snoozed'])[1 + i % 4],
        CASE WHEN i % 4 = 3 THEN timestamptz '2036-01-01' + i * interval '1 minute' END, CASE WHEN i % 3 = 0 THEN 100 * (1 + i % 40) END, ARRAY['label ' || i % 20]
    FROM contacts_numbered
), inbound AS (
    INSERT INTO inbound_ids (bot_id, external_id, thread_id, seq, body_hash)
    SELECT 5001, 'sms ' || i, thread_id, 1, sha256('sample') FROM contacts_numbered
), contact_log AS (
    INSERT INTO changes (thread_id, rev, kind, seq, xid) SELECT thread_id, 1, 'message', 1, (600 + i / 50)::text::xid8 FROM contacts_numbered
), head AS (
    INSERT INTO thread_heads (thread_id, last_seq, last_rev, log_floor, message_count, last_deleted_seq, last_message_at,
        member_count)
    SELECT k.id, coalesce(m.last_seq, 0), coalesce(m.last_seq, 0) + 100, 100, coalesce(m.last_seq - m.last_seq / 50, 0),
        coalesce(m.last_seq / 50 * 50, 0), m.last_at, CASE WHEN k.kind = 'direct' THEN 2 ELSE 20 END
    FROM kinds k
    LEFT JOIN (SELECT thread_id, max(seq) AS last_seq, max(at) AS last_at FROM message GROUP BY thread_id) m
        ON m.thread_id = k.id
)
INSERT INTO messages (thread_id, seq, rev, author_id, reply_to, client_id, text, created_at, deleted_at, reactions,
    pinned_at)
SELECT thread_id, seq, seq + 100, author_id, CASE WHEN seq % 10 = 0 THEN seq - 3 END, 'client ' || i,
    CASE WHEN seq % 50 = 0 THEN '' ELSE repeat('Words and more words. ', 1 + i * 7 % 9) END, at AS created_at,
    CASE WHEN seq % 50 = 0 THEN at END, CASE WHEN seq % 11 = 0 THEN '[{"emoji":"👍","count":5}]'::jsonb END,
    CASE WHEN seq % 20 = 3 THEN at END
FROM message
UNION ALL
SELECT thread_id, 1, 1, id, NULL, NULL, 'Words of contact ' || i, at, NULL, NULL, NULL FROM contacts_numbered
ORDER BY created_at;
