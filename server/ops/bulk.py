"""Bulk: many records appended to one thread, a short transaction per batch. SQL: db/queries/bulk.sql."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

import asyncpg

from server.base.db import Db, query
from server.ops.records import Record

# Messages of one transaction. Even if each brings a member, user streams tell it from one look (merged.CHANGES).
BATCH = 10_000

TRIES = 3  # of one batch, when somebody is let into the thread just while it begins

Rows: TypeAlias = list[asyncpg.Record]
Message: TypeAlias = tuple[int, int, int, int, int | None, str | None, str, datetime]
MESSAGE = ("thread_id", "seq", "rev", "author_id", "reply_to", "form", "text", "created_at")
Membership: TypeAlias = tuple[int, int, int, int, datetime, str, int]
MEMBERSHIP = ("thread_id", "user_id", "joined_rev", "joined_seq", "joined_at", "role", "read_seq")


@query
async def lock_head(db: Db, *, thread_id: int) -> asyncpg.Record | None: ...
@query
async def known_people(db: Db, *, external_ids: list[str]) -> Rows: ...
@query
async def make_people(db: Db, *, external_ids: list[str], names: list[str]) -> Rows: ...
@query
async def hold_open_members(db: Db, *, thread_id: int, user_ids: list[int]) -> Rows: ...
@query
async def log_messages(db: Db, *, thread_id: int, after: int) -> str: ...
@query
async def log_joins(db: Db, *, thread_id: int, user_ids: list[int], revs: list[int]) -> str: ...
@query
async def move_read(db: Db, *, thread_id: int, user_ids: list[int], seqs: list[int]) -> str: ...
@query
async def advance_head(
    db: Db, *, thread_id: int, last_seq: int, last_rev: int, added: int, last_at: datetime | None
) -> str: ...
@query
async def progress(db: Db, *, thread_id: int) -> Rows: ...
@query
async def advance_source(
    db: Db, *, thread_id: int, source: str, before: int, records: int, digest: bytes
) -> bool | None: ...
@query
async def try_import(db: Db, *, thread_id: int) -> bool: ...
@query
async def lock_title(db: Db, *, title: str) -> str: ...
@query
async def channels_titled(db: Db, *, title: str) -> Rows: ...
@query
async def living_channel(db: Db, *, thread_id: int) -> str | None: ...
@query
async def make_thread(
    db: Db, *, kind: str, title: str | None, created_by: int | None, created_at: datetime
) -> int: ...
@query
async def lock_town(db: Db) -> str: ...
@query
async def taken_names(db: Db, *, handles: list[str], emails: list[str]) -> Rows: ...
@query
async def town(db: Db, *, user_ids: list[int]) -> asyncpg.Record: ...


@query
async def make_townspeople(
    db: Db,
    *,
    external_ids: list[str],
    usernames: list[str],
    names: list[str],
    emails: list[str | None],
    roles: list[str],
    password_hashes: list[str | None],
    created_at: datetime,
) -> Rows: ...
@query
async def pair(db: Db, *, low_user_id: int, high_user_id: int, thread_id: int) -> str: ...


class Gone(Exception):
    """The thread was deleted; nothing of the batch was written."""


class Overtaken(Exception):
    """Another writer came in between: the records are older than the thread by now, or their source
    is further than the caller knows. Nothing of the batch was written."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a source has been read, written in the transaction of its records."""

    source: str
    before: int  # records, as the imports table has it now
    records: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """What one batch did, believed only once it is committed."""

    rev: int
    seq: int
    messages: int
    moved: int
    joined: int
    people: dict[str, int]  # name as spelled to user id


@dataclass(slots=True)
class Tail:
    """The growing end of one thread, held by one bulk writer.

    Afterwards seq and rev are dense as after single sends, each author is a member from a change
    before their first message, and has read up to their last one. A crash leaves whole batches.
    """

    conn: asyncpg.Connection
    thread_id: int
    network: str  # names are the same person within it, ignoring case: "irc:ubuntu"
    committed: Callable[[int, int], Awaitable[None]] | None = (
        None  # told thread and last rev after each batch
    )
    mine: int | None = None  # the last seq, while nobody else has written since it was ours
    messages: int = 0
    moved: int = 0  # records that got a later time than their own, so that createdAt never decreases
    joined: int = 0
    people: dict[str, int] = field(default_factory=dict)  # external id to user id

    async def append(self, records: Sequence[Record], marks: Sequence[Mark] = ()) -> None:
        """One batch, whole or not at all. Raises Gone or Overtaken."""
        for attempt in range(1, TRIES + 1):
            try:
                async with self.conn.transaction():
                    done = await self._write(records, marks)
                break
            except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
                if attempt == TRIES:
                    raise
        self.mine = done.seq
        self.people.update(
            (f"{self.network}:{name.lower()}", user_id) for name, user_id in done.people.items()
        )
        self.messages += done.messages
        self.moved += done.moved
        self.joined += done.joined
        if self.committed is not None:
            await self.committed(self.thread_id, done.rev)

    async def _write(self, records: Sequence[Record], marks: Sequence[Mark]) -> "Written":
        thread_id, conn = self.thread_id, self.conn
        people = await people_named(conn, self.network, [r.author for r in records], self.people)
        held = await hold_open_members(conn, thread_id=thread_id, user_ids=list(set(people.values())))
        members = {row["user_id"] for row in held}
        head = await lock_head(conn, thread_id=thread_id)
        if head is None:
            raise Gone
        seq, rev, last_at = head["last_seq"], head["last_rev"], head["last_at"]
        if records and seq != self.mine and last_at is not None and last_at > records[0].when:
            raise Overtaken
        for mark in marks:
            if not await advance_source(
                conn,
                thread_id=thread_id,
                source=mark.source,
                before=mark.before,
                records=mark.records,
                digest=mark.digest,
            ):
                raise Overtaken
        rows: list[Message] = []
        joins: dict[int, tuple[int, int, datetime]] = {}
        read: dict[int, int] = {}
        moved = 0
        for record in records:
            user_id = people[record.author]
            if last_at is None or record.when >= last_at:
                last_at = record.when
            else:
                moved += 1
            if user_id not in members:
                rev += 1
                joins[user_id] = (rev, seq, last_at)
                members.add(user_id)
            seq += 1
            rev += 1
            rows.append((thread_id, seq, rev, user_id, record.reply_to, record.form, record.text, last_at))
            read[user_id] = seq
        await copy_members(
            conn, [(thread_id, u, r, s, at, "member", read[u]) for u, (r, s, at) in joins.items()]
        )
        await copy_messages(conn, rows)
        there = [user_id for user_id in read if user_id not in joins]
        await move_read(conn, thread_id=thread_id, user_ids=there, seqs=[read[u] for u in there])
        await advance_head(
            conn, thread_id=thread_id, last_seq=seq, last_rev=rev, added=len(rows), last_at=last_at
        )
        return Written(rev, seq, len(rows), moved, len(joins), people)


async def copy_messages(conn: asyncpg.Connection, rows: Sequence[Message]) -> None:
    """Messages of one thread, in the order of their seqs, and their changes."""
    if rows:
        await conn.copy_records_to_table("messages", records=rows, columns=MESSAGE)
        await log_messages(conn, thread_id=rows[0][0], after=rows[0][1] - 1)


async def copy_members(conn: asyncpg.Connection, rows: Sequence[Membership]) -> None:
    """New memberships of one thread and their changes."""
    if rows:
        await conn.copy_records_to_table("memberships", records=rows, columns=MEMBERSHIP)
        await log_joins(conn, thread_id=rows[0][0], user_ids=[r[1] for r in rows], revs=[r[2] for r in rows])


async def people_named(
    conn: asyncpg.Connection, network: str, names: Iterable[str], known: dict[str, int]
) -> dict[str, int]:
    """The account of each name, made where there is none. Names are compared ignoring case."""
    spelled: dict[str, str] = {}  # external id to the first spelling, in order of appearance
    keys = {name: f"{network}:{name.lower()}" for name in dict.fromkeys(names)}
    for name, key in keys.items():
        spelled.setdefault(key, name)
    ids = {key: known[key] for key in spelled if key in known}

    missing = [key for key in spelled if key not in ids]
    if missing:
        found = await known_people(conn, external_ids=missing)
        ids.update((row["external_id"], row["id"]) for row in found)
    new = sorted(
        key for key in missing if key not in ids
    )  # two imports take the same locks in the same order
    if new:
        made = await make_people(conn, external_ids=new, names=[spelled[key] for key in new])
        ids.update((row["external_id"], row["id"]) for row in made)
    return {name: ids[key] for name, key in keys.items()}


async def analyze(conn: asyncpg.Connection) -> None:
    """Tell the planner what has come in, instead of leaving it to guess until autovacuum comes by.

    Not a block of bulk.sql: ANALYZE cannot be prepared.
    """
    await conn.execute("ANALYZE users, thread_heads, threads, memberships, messages, changes")
