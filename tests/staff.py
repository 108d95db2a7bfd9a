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
        UPDATE conversations n SET last_at = head.last_message_at, last_seq = head.last_seq, last_author_id = $2, content = $3
        FROM head WHERE n.thread_id = $1
    )
    INSERT INTO changes (thread_id, rev, kind, seq) SELECT $1, last_rev, 'message', last_seq FROM head
    RETURNING seq"""


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
