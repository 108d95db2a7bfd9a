"""The log as live readers follow it. SQL: db/queries/changes.sql."""

import asyncpg

from server.base.db import Db, query
from server.live.sight import FOREVER, Event, Sight, Span


@query
async def epoch(db: Db) -> str: ...


@query
async def door(db: Db, *, user_id: int, thread_id: int) -> asyncpg.Record | None: ...


@query
async def since(db: Db, *, thread_id: int, after_rev: int, size: int) -> list[asyncpg.Record]: ...


@query
async def inside(db: Db, *, thread_ids: list[int], user_ids: list[int]) -> list[asyncpg.Record]: ...


@query
async def heads(db: Db, *, thread_ids: list[int]) -> list[asyncpg.Record]: ...


def cursor(epoch: str, thread_id: int, rev: int) -> str:
    """Where whoever has read up to rev stands, in this life of the log."""
    return f"{epoch}.{thread_id}.{rev}"


def position(given: str, *, epoch: str, thread_id: int) -> int | None:
    """The rev a cursor stands for, or None when it is none of this thread in this life of the log."""
    head, _, rev = given.rpartition(".")
    if head != f"{epoch}.{thread_id}" or not (rev.isascii() and rev.isdigit()) or len(rev) > 18:
        return None
    return int(rev)


def sight_of(row: asyncpg.Record, user_id: int) -> Sight:
    """The sight of a member from what `door` answers."""
    spans = tuple(
        Span(a, FOREVER if b is None else b, c, FOREVER if d is None else d)
        for a, b, c, d in zip(
            row["from_seq"], row["until_seq"], row["from_rev"], row["until_rev"], strict=True
        )
    )
    return Sight(user_id=user_id, everything=row["history"] == "all", spans=spans, guarded=row["guarded"])


def event_of(row: asyncpg.Record, *, epoch: str, thread_id: int) -> Event:
    """A change from a row of `since`."""
    spans = None
    if row["from_rev"] is not None:
        pairs = zip(row["from_rev"], row["until_rev"], strict=True)
        spans = tuple((start, FOREVER if end is None else end) for start, end in pairs)
    return Event(
        id=cursor(epoch, thread_id, row["rev"]),
        rev=row["rev"],
        kind=row["kind"],
        seq=row["seq"],
        quoted=row["reply_to"],
        user_id=row["user_id"],
        act=row["act"],
        as_of=row["as_of"],
        data=row["data"].encode(),
        bare=row["bare"].encode() if row["bare"] is not None else None,
        spans=spans,
    )
