"""Contacts, and people of the staff, for the tests of what contact threads are to both."""

from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.client import Api, Person


@dataclass(frozen=True)
class Contact:
    """An outside person, and the thread of that."""

    id: int
    thread: int

    @property
    def url(self) -> str:
        return f"/api/threads/{self.thread}"


MAKE = """
    WITH account AS (
        INSERT INTO users (kind, name, deactivated_at) VALUES ('contact', $1, now()) RETURNING id
    ), thread AS (
        INSERT INTO threads (kind, title) VALUES ('contact', $1) RETURNING id, created_at
    ), head AS (
        INSERT INTO thread_heads (thread_id) SELECT id FROM thread
    ), contact AS (
        INSERT INTO contacts (id, thread_id, name) SELECT a.id, t.id, $1 FROM account a, thread t
    ), conversation AS (
        INSERT INTO conversations (thread_id, contact_id, name, created_at)
        SELECT t.id, a.id, $1, t.created_at FROM account a, thread t
    ), span AS (
        INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq)
        SELECT t.id, a.id, 0, 0, 0 FROM account a, thread t
    )
    SELECT a.id, t.id AS thread FROM account a, thread t"""

SAY = """
    WITH head AS (
        UPDATE thread_heads SET last_seq = last_seq + 1, last_rev = last_rev + 1, message_count = message_count + 1,
            last_xid = pg_current_xact_id(), last_message_at = clock_timestamp()
        WHERE thread_id = $1
        RETURNING last_seq, last_rev, last_message_at
    ), message AS (
        INSERT INTO messages (thread_id, seq, rev, author_id, text, created_at)
        SELECT $1, last_seq, last_rev, $2, $3, last_message_at FROM head
    ), place AS (
        UPDATE conversations n
        SET last_at = head.last_message_at, last_seq = head.last_seq, last_author_id = $2, content = $3
        FROM head WHERE n.thread_id = $1
    )
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT $1, last_rev, 'message', last_seq FROM head
    RETURNING seq"""


# What a conversation repeats of others, where it is another thing than they say.
ASTRAY = """
    SELECT n.thread_id, n.name, n.content, n.told FROM conversations n
    JOIN contacts c ON c.id = n.contact_id
    JOIN threads t ON t.id = n.thread_id
    JOIN thread_heads h ON h.thread_id = n.thread_id
    LEFT JOIN messages m ON m.thread_id = n.thread_id AND m.seq = h.last_seq
    WHERE (n.thread_id, n.name, n.phone_number, n.created_at, n.last_seq, n.last_deleted_seq, n.archived_seq,
            n.last_author_id, n.content, CASE WHEN h.deleted_at IS NULL THEN n.last_at END, n.told IS NULL)
        IS DISTINCT FROM (
            c.thread_id, c.name, c.phone_number, t.created_at, h.last_seq, h.last_deleted_seq, h.archived_seq,
            m.author_id, coalesce(left(m.text, 200), ''),
            CASE WHEN h.deleted_at IS NULL THEN h.last_message_at END, n.last_at IS NULL)"""


async def astray(db: Any, *these: Contact) -> list[Any]:
    """Those of these conversations that show another thing than is so."""
    threads = {one.thread for one in these}
    return [tuple(row) for row in await db.fetch(ASTRAY) if row["thread_id"] in threads]


async def contact(db: Any, name: str = "Carla") -> Contact:
    """Somebody outside."""
    row = await db.fetchrow(MAKE, name)
    return Contact(row["id"], row["thread"])


async def says(db: Any, one: Contact, *texts: str) -> int:
    """The contact writes, and no doorbell rings; the last seq."""
    seq = 0
    for text in texts:
        seq = await db.fetchval(SAY, one.thread, one.id, text)
    return seq


async def hire(api: Api, root: Person, person: Person, role: str = "agent") -> Person:
    """Give somebody another role for the whole server."""
    reply = await api.patch(f"/api/admin/users/{person.id}", {"role": role}, as_=root)
    assert reply.status == 200, reply.body
    return person


async def rows(db: asyncpg.Pool, one: Contact) -> set[int]:
    """Who has a membership in the thread."""
    found = await db.fetch("SELECT user_id FROM memberships WHERE thread_id = $1", one.thread)
    return {row["user_id"] for row in found}
