"""Search over the messages. SQL: db/queries/search.sql. How they are found: grams.py; what keeps that: live/indexer.py.

A search walks the blocks of messages from the newest backwards. The newest few it looks into, which is all that a
common word needs. Then it asks the index for those in which the needle may be, some months at a time, more each time.
What it does is bounded by blocks and messages looked at; then there is a cursor: a place in the order of all messages,
whoever may see them.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import asyncpg
import msgspec
import orjson
from msgspec import Meta
from sanic import Request
from sanic.response import HTTPResponse

from server import grams, shapes
from server.base.db import Db, query
from server.base.errors import Invalid, NotFound
from server.base.http import TOP, Query, answers, json_bytes, length, whole
from server.grams import MARK, Key

OWN = 1000  # threads of a person in which alone is searched; who has more searches everywhere, and sees their own
FACETS = 300  # of these that the index is asked for
WALK = 3  # the newest blocks, which are looked into without asking the index: 1, then 2
CHUNK = 16  # blocks looked into at once, at most
BLOCKS = 350  # looked into by a request
LOOKS = 300  # messages found, and asked whether they may be seen, by a request
WINDOWS = 8  # times that the index is asked by a request
MONTHS = 24  # that it is asked for at once, at most
INBOX_LOOKS, INBOX_PAGE = 2_500, 500  # of threads_with, which has no pages
BOTTOM, CEILING = -(2**63), (TOP, TOP, TOP)


@query
async def steady(db: Db) -> str: ...


@query
async def mine(db: Db, *, user_id: int, size: int) -> asyncpg.Record | None: ...


@query
async def inside(db: Db, *, user_id: int, thread_id: int) -> bool | None: ...


@query
async def newest(db: Db, *, at: int, thread_id: int, seq: int, size: int) -> list[asyncpg.Record]: ...


@query
async def likely(
    db: Db, *, at: int, thread_id: int, seq: int, wanted: str, size: int
) -> list[asyncpg.Record]: ...


@query
async def hits(
    db: Db,
    *,
    user_id: int | None,
    ids: list[int],
    part: str,
    parts: list[str],
    low_at: int,
    at: int,
    thread_id: int,
    seq: int,
    thread_ids: list[int] | None,
    author_id: int | None,
    size: int,
) -> list[asyncpg.Record]: ...


@query
async def tell(db: Db, *, user_id: int, thread_ids: list[int], seqs: list[int]) -> list[asyncpg.Record]: ...


@query
async def alive(db: Db, *, thread_ids: list[int], seqs: list[int]) -> list[asyncpg.Record]: ...


class SearchQuery(Query):
    q: Annotated[str, length(1, 200, trim=False)]
    threadId: Annotated[int, whole()] | None = None
    authorId: Annotated[int, whole()] | None = None
    from_: Annotated[datetime, Meta(tz=True)] | None = msgspec.field(name="from", default=None)
    to: Annotated[datetime, Meta(tz=True)] | None = None
    hasFile: bool = False
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 20


@dataclass
class Walk:
    """A walk over the messages that have all of these parts, from a place backwards, within bounds of its work."""

    parts: Sequence[str]  # folded, the longest first
    here: Key = CEILING  # what is not before it has been looked at
    low_at: int = BOTTOM
    user_id: int | None = None  # whose sight bounds what is found; None: who asks looks after that
    thread_ids: list[int] | None = None  # none but these
    facets: list[str] = field(default_factory=list)  # lexemes of which a block has one
    author_id: int | None = None
    looks: int = LOOKS
    ended: bool = False  # before here there is nothing more
    _blocks: list[asyncpg.Record] = field(default_factory=list)  # to be looked into, the newest first
    _bound: int = BOTTOM  # as far back as they are of interest
    _edge: Key | None = None  # the new place after them, where that is farther back than the last of them
    _chunk: int = 1
    _looked: int = 0  # blocks, and messages found in them: what is to be expected of the next
    _found: int = 0
    _months: int = 0  # of the next window; 0: the walk has not begun
    _windows: int = WINDOWS
    _left: int = BLOCKS

    @property
    def over(self) -> bool:
        """Whether the work that a request may do has been done, or all of it."""
        return self.ended or self.looks <= 0 or self._left <= 0 or (not self._blocks and not self._windows)

    async def more(self, db: Db, size: int) -> list[Key]:
        """The next messages as the index knows them, at most size, the newest first; none: a step without any."""
        if not self._blocks:
            await self._next(db)
            return []
        chosen = self._blocks[: min(self._chunk, self._left)]
        size = min(size, self.looks)
        found = await self._hits(db, chosen, size)
        self.looks -= len(found)
        self._left -= len(chosen)
        self._looked, self._found = self._looked + len(chosen), self._found + len(found)
        if len(found) == size:
            self.here = found[-1]
            self._blocks = [block for block in self._blocks if _key(block) < self.here]
        else:
            self._blocks = self._blocks[len(chosen) :]
            self._chunk = self._enough(size - len(found))
            self._back_to(max(_key(chosen[-1]), (self._bound, 0, 0)))
        if not self._blocks and self._edge is not None:
            self._back_to(self._edge)
        return found

    def _enough(self, missing: int) -> int:
        """How many blocks to look into next: as would fill the page if they were like those before."""
        if not self._found:
            return min(self._chunk * 2, CHUNK)
        return max(1, min(-(-missing * self._looked // self._found), CHUNK))

    def _back_to(self, place: Key) -> None:
        self.here = min(self.here, place)
        if self.here <= (self.low_at, 0, 0):
            self.ended = True

    async def _next(self, db: Db) -> None:
        """The next blocks to look into: the newest ones, then those that the index tells for some months."""
        at, thread_id, seq = self.here
        before = {"at": at, "thread_id": thread_id, "seq": seq}
        if not self._months:
            self._months, self._chunk = 2, 1
            self._blocks = await newest(db, **before, size=WALK)
            self._bound, self._edge = self.low_at, None
            self.ended = not self._blocks
            return
        beginning = await newest(db, **before, size=1)
        if not beginning or beginning[0]["last_at"] < self.low_at:
            self.ended = True
            return
        months, first = _window(min(beginning[0]["last_at"], at), self._months)
        self._months, self._windows = min(self._months * 4, MONTHS), self._windows - 1
        self._bound = max(first, self.low_at)
        asked = [*grams.lexemes_of(self.parts), _any(months), _any(self.facets)]
        if self.author_id is not None:
            asked.append(grams.quoted(f"{MARK}a{self.author_id}"))
        wanted = " & ".join(one for one in asked if one)
        self._blocks = await likely(db, **before, wanted=wanted, size=self._left)
        self._edge = (self._bound, 0, 0) if len(self._blocks) < self._left else None
        if not self._blocks:
            self._back_to((self._bound, 0, 0))

    async def _hits(self, db: Db, blocks: Sequence[asyncpg.Record], size: int) -> list[Key]:
        at, thread_id, seq = self.here
        rows = await hits(
            db,
            user_id=self.user_id,
            ids=[row["id"] for row in blocks],
            part=self.parts[0],
            parts=list(self.parts[1:]),
            low_at=self._bound,
            at=at,
            thread_id=thread_id,
            seq=seq,
            thread_ids=self.thread_ids,
            author_id=self.author_id,
            size=size,
        )
        return [_key(row) for row in rows]


def _key(row: asyncpg.Record) -> Key:
    return row["at"], row["thread_id"], row["seq"]


def _any(lexemes: Sequence[str]) -> str:
    return f"({' | '.join(grams.quoted(one) for one in lexemes)})" if lexemes else ""


def _window(at: int, months: int) -> tuple[list[str], int]:
    """The lexemes of so many months, the last one that of a time, and when the first begins."""
    moment = grams.EPOCH + timedelta(microseconds=at)
    last = moment.year * 12 + moment.month - 1
    first = max(last - months + 1, 12)
    names = [f"{MARK}m{month // 12}-{month % 12 + 1}" for month in range(first, last + 1)]
    return names, grams.micros(datetime(first // 12, first % 12 + 1, 1, tzinfo=UTC))


@answers({200: shapes.SearchPage}, {400: "bad_cursor", 404: "not_found"})
async def get_search(request: Request, query: SearchQuery) -> HTTPResponse:
    """Messages that I may see, the newest first: with any part of a word, ignoring case.

    q: words that must all occur in the message, and phrases in "…"; at least one of two characters or more, at most
    ten. from and to: when it was sent, to exclusive. hasFile=true: with a file. A search does a bounded amount of work:
    a page may hold fewer than asked, even none, and still have a nextCursor, which leads on. snippet is HTML: the text
    around the first hit, with what was found in <mark>. At most two seconds behind what is sent.
    """
    parts = grams.parts_of(query.q)
    if not parts:
        raise Invalid(
            {"q": f"must have one to {grams.PARTS} parts, one of them of {grams.LEAST} characters or more"}
        )
    ctx, me = request.app.ctx, request.ctx.user_id
    filters = (query.threadId, query.authorId, query.from_, query.to, query.hasFile)
    purpose = f"search:{hashlib.sha256(repr((parts, filters)).encode()).hexdigest()}"
    here = CEILING
    if query.cursor is not None:
        at, thread_id, seq = ctx.cursors.open(purpose, query.cursor, count=3)
        here = at, thread_id, seq
    elif query.to is not None:
        here = grams.micros(query.to), 0, 0

    async def work(conn: asyncpg.Connection) -> tuple[Walk, list[tuple[asyncpg.Record, str]]]:
        """From the beginning, each time: what a replica has begun, the primary may have to do again."""
        walk = Walk(parts, here=here, author_id=query.authorId)
        if query.from_ is not None:
            walk.low_at = grams.micros(query.from_)
        async with _look(conn):
            await _sight(conn, walk, me, query.threadId)
            if query.hasFile:
                walk.ended = True  # there are no files yet
            return walk, await _page(conn, walk, me, query.limit)

    walk, found = await ctx.reads.reading(work)
    results = ",".join(
        f'{{"message":{row["message"]},"thread":{row["thread"]},"snippet":{orjson.dumps(told).decode()}}}'
        for row, told in found
    )
    following = "null" if walk.ended else f'"{ctx.cursors.seal(purpose, *walk.here)}"'
    return json_bytes(f'{{"results":[{results}],"nextCursor":{following}}}')


@contextlib.asynccontextmanager
async def _look(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """In one snapshot, so that a block that is divided meanwhile hides nothing; and nothing is planned twice."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        await steady(conn)
        yield


async def _sight(db: Db, walk: Walk, user_id: int, thread_id: int | None) -> None:
    """Whose sight bounds the walk, and which threads have anything in it. Raises NotFound."""
    walk.user_id = user_id
    if thread_id is not None:
        if not await inside(db, user_id=user_id, thread_id=thread_id):
            raise NotFound()
        walk.thread_ids, walk.facets = [thread_id], [f"{MARK}t{thread_id}"]
        return
    row = await mine(db, user_id=user_id, size=OWN)
    own = row["thread_ids"] if row is not None else []
    if len(own) > OWN:
        return
    if len(own) <= FACETS:
        walk.facets = [f"{MARK}t{one}" for one in own]
    if row is not None and row["staff"]:
        walk.facets = [f"{MARK}c", *walk.facets] if walk.facets or not own else []
    else:
        walk.thread_ids = own
        walk.ended = not own


async def _page(db: Db, walk: Walk, user_id: int, limit: int) -> list[tuple[asyncpg.Record, str]]:
    """Messages that are there and may be seen, with their snippets."""
    found = list[tuple[asyncpg.Record, str]]()
    while len(found) < limit and not walk.over:
        keys = await walk.more(db, limit - len(found))
        if keys:
            rows = await tell(db, user_id=user_id, **_pairs(keys))
            found += [
                (row, grams.snippet(row["text"], walk.parts))
                for row in rows
                if grams.has(row["text"], walk.parts)
            ]
    return found


def _pairs(keys: Sequence[Key]) -> dict[str, list[int]]:
    return {"thread_ids": [key[1] for key in keys], "seqs": [key[2] for key in keys]}


async def threads_with(db: Any, needle: str, at_most: int = 1001) -> tuple[list[int], bool]:
    """Threads of contacts with a message that has this (read as q of a search), the latest such message first, and
    whether these are all. db: the context of the app, or where to ask."""
    parts = grams.parts_of(needle)
    if not parts:
        return [], True

    async def look(conn: asyncpg.Connection) -> tuple[list[int], bool]:
        async with _look(conn):
            return await work(conn)

    async def work(conn: Db) -> tuple[list[int], bool]:
        walk, found = Walk(parts, facets=[f"{MARK}c"], looks=INBOX_LOOKS), dict[int, None]()
        while len(found) < at_most and not walk.over:
            keys = await walk.more(conn, INBOX_PAGE)
            if keys:
                rows = await alive(conn, **_pairs(keys))
                found.update((row["thread_id"], None) for row in rows if grams.has(row["text"], parts))
        return list(found)[:at_most], walk.ended and len(found) <= at_most

    reads = getattr(db, "reads", db)
    found: tuple[list[int], bool] = await (reads.reading(look) if hasattr(reads, "reading") else work(reads))
    return found
