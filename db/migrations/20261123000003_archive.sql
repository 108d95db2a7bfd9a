-- migrate:up

-- What has left the table of messages (bobbin archive): which stretch of a thread is in which block of which file. The
-- stretches of a thread follow each other, from its first message to thread_heads.archived_seq.
CREATE TABLE archives (
    thread_id bigint NOT NULL CONSTRAINT archives_thread_id_fkey REFERENCES threads (id),
    first_seq bigint NOT NULL,
    last_seq  bigint NOT NULL,
    living    bigint NOT NULL,                 -- those that are not deleted
    file      text NOT NULL,                   -- its name, without its folder
    at_byte   bigint NOT NULL,                 -- where the block begins
    digest    bytea NOT NULL CONSTRAINT archives_digest CHECK (octet_length(digest) = 32),  -- SHA-256 of its lines
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT archives_pkey PRIMARY KEY (thread_id, first_seq),
    CONSTRAINT archives_stretch CHECK (first_seq BETWEEN 1 AND last_seq AND living BETWEEN 0 AND last_seq - first_seq + 1)
);
CREATE INDEX archives_by_file ON archives (file, at_byte);  -- archive.stretches

-- migrate:down

-- Without this table nobody knows any more what is missing.
DO $$ BEGIN
    IF EXISTS (SELECT FROM archives) THEN
        RAISE EXCEPTION 'Messages are archived: bring them back first (bobbin archive restore).';
    END IF;
END $$;
DROP TABLE archives;
