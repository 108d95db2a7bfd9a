-- migrate:up

-- A person's direct threads from either side.
-- Locks: direct_pairs against writing, for as long as it takes to build the index.
CREATE INDEX direct_pairs_high ON direct_pairs (high_user_id, low_user_id);  -- presence.friends, presence.friends_among

-- migrate:down

DROP INDEX direct_pairs_high;
