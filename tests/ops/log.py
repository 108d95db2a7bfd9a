"""What holds in every log, whoever wrote it: asked of Postgres itself."""

import asyncpg

from tests.staff import ASTRAY

BROKEN = {
    "a conversation repeats what its contact, its head and its latest message say": ASTRAY,
    "seqs are 1 to last_seq": """
        SELECT h.thread_id FROM thread_heads h LEFT JOIN messages m USING (thread_id)
        GROUP BY h.thread_id, h.last_seq
        HAVING count(m.seq) <> h.last_seq OR coalesce(max(m.seq), 0) <> h.last_seq OR min(m.seq) <> 1""",
    "revs are 1 to last_rev": """
        SELECT h.thread_id FROM thread_heads h LEFT JOIN changes c USING (thread_id)
        GROUP BY h.thread_id, h.last_rev
        HAVING count(c.rev) <> h.last_rev OR coalesce(max(c.rev), 0) <> h.last_rev OR min(c.rev) <> 1""",
    "each message is the change of its rev": """
        SELECT m.thread_id, m.seq FROM messages m
        LEFT JOIN changes c ON c.thread_id = m.thread_id AND c.rev = m.rev AND c.seq = m.seq
            AND c.kind = 'message'
        WHERE c.rev IS NULL""",
    "each join is the change of its rev, but in contact threads": """
        SELECT m.thread_id, m.user_id FROM memberships m
        JOIN threads t ON t.id = m.thread_id AND t.kind <> 'contact'
        LEFT JOIN changes c ON c.thread_id = m.thread_id AND c.rev = m.joined_rev
            AND c.user_id = m.user_id AND c.kind = 'member' AND c.act = 'joined'
        WHERE c.rev IS NULL""",
    "times never fall": """
        SELECT thread_id, seq FROM
            (SELECT thread_id, seq, created_at,
                    lag(created_at) OVER (PARTITION BY thread_id ORDER BY seq) AS before
             FROM messages) m
        WHERE created_at < before""",
    "the head knows count and time": """
        SELECT h.thread_id FROM thread_heads h LEFT JOIN messages m USING (thread_id)
        GROUP BY h.thread_id, h.message_count, h.last_message_at
        HAVING h.message_count <> count(m.seq) OR h.last_message_at IS DISTINCT FROM max(m.created_at)""",
    "authors are members since before their message, and have read it": """
        SELECT m.thread_id, m.seq FROM messages m
        LEFT JOIN memberships p ON p.thread_id = m.thread_id AND p.user_id = m.author_id
            AND p.joined_rev < m.rev AND p.joined_seq < m.seq AND p.read_seq >= m.seq AND p.left_rev IS NULL
        WHERE p.user_id IS NULL""",
    "nobody has read what isn't there": """
        SELECT p.thread_id, p.user_id FROM memberships p JOIN thread_heads h USING (thread_id)
        WHERE p.read_seq > h.last_seq OR p.read_seq < p.joined_seq""",
    "quotes point back": """
        SELECT thread_id, seq FROM messages WHERE reply_to NOT BETWEEN 1 AND seq - 1""",
}


async def broken(conn: asyncpg.Connection) -> list[str]:
    """The rules that do not hold, each with the first rows that break it."""
    await conn.execute("ANALYZE messages, changes, memberships, thread_heads")  # else these take seconds
    found = []
    for rule, sql in BROKEN.items():
        rows = await conn.fetch(f"{sql} LIMIT 3")
        if rows:
            found.append(f"{rule}: {[tuple(row) for row in rows]}")
    return found
