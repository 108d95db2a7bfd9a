"""Receipts: how far each person has come in a thread, and what others are told of it. SQL: db/queries/receipts.sql."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

import asyncpg
import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server import members, messages, shapes
from server.base.db import Db, query
from server.base.errors import Invalid, NotFound
from server.base.http import Body, Query, answers, json_bytes, whole
from server.live.bus import Bus

LOOKS = 500  # spans that one page of receipts looks at, a few milliseconds
SENT_SECONDS = 1.0  # what sends tell of their authors is told once in that time, for each thread and person
TICK_SECONDS = 0.05  # between two looks at what is to be told


@query
async def reach(db: Db, *, user_id: int, thread_id: int, seq: int, read: bool) -> asyncpg.Record | None: ...


@query
async def unread(db: Db, *, user_id: int, thread_id: int, seq: int) -> asyncpg.Record | None: ...


@query
async def standing(db: Db, *, user_id: int, thread_id: int) -> tuple[asyncpg.Record, ...]: ...


@query
async def of_message(
    db: Db, *, user_id: int, thread_id: int, seq: int, after_id: int, after_rev: int, looks: int, size: int
) -> asyncpg.Record | None: ...


class Place(Body):
    seq: Annotated[int, whole(0)]


class ReceiptQuery(Query):
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 100


@answers({200: shapes.ReadState})
async def post_read(request: Request, thread_id: int, body: Place) -> HTTPResponse:
    """I have read up to here: moves my cursor forward, never back.

    Others learn of it, unless my setting readReceipts is false: then only that it was delivered.
    """
    return json_bytes(await move(request.app.ctx, request.ctx.user_id, thread_id, body.seq, "read"))


@answers({200: shapes.ReadState})
async def post_delivered(request: Request, thread_id: int, body: Place) -> HTTPResponse:
    """Up to here it has reached a device of mine: moves that cursor forward, never back."""
    return json_bytes(await move(request.app.ctx, request.ctx.user_id, thread_id, body.seq, "delivered"))


@answers({200: shapes.ReadState})
async def post_unread(request: Request, thread_id: int, body: Place) -> HTTPResponse:
    """From here on I have it still to read: moves my cursor back, never forward. What others saw as read stays."""
    return json_bytes(await move(request.app.ctx, request.ctx.user_id, thread_id, body.seq, "unread"))


async def move(
    ctx: Any, user_id: int, thread_id: int, seq: int, what: Literal["read", "delivered", "unread"]
) -> str:
    """Move a cursor of somebody's, over HTTP or a WebSocket: their read state as JSON.

    Raises NotFound for who is not in, Invalid for what is after the last message.
    """
    state: str = await ctx.tasks.finish(_move(ctx, user_id, thread_id, seq, what))
    return state


async def _move(ctx: Any, user_id: int, thread_id: int, seq: int, what: str) -> str:
    """Commit, then tell. Runs to its end although the client may be gone."""
    work = unread if what == "unread" else partial(reach, read=what == "read")
    row = await members.inside(
        ctx.db, user_id, thread_id, partial(work, ctx.db, user_id=user_id, thread_id=thread_id, seq=seq)
    )
    if row is None:
        raise NotFound()
    if row["beyond"]:
        raise Invalid({"seq": "is after the last message"})
    if row["read_moved"]:
        ctx.bus.changed()
    if row["receipt"] is not None:
        ctx.receipts.told(thread_id, user_id, row["receipt"])
    state: str = row["state"]
    return state


@answers({200: shapes.ReceiptPage}, {400: "bad_cursor", 404: "message_archived"})
async def list_receipts(request: Request, thread_id: int, seq: int, query: ReceiptQuery) -> HTTPResponse:
    """Whom a message has reached, and who has read it, by user id: of those who were members when it came.

    Its author is left out, and in read whoever hides what they read. A page may hold fewer people than limit, even
    none, and still have a nextCursor.
    """
    ctx, purpose, after = request.app.ctx, f"receipts:{thread_id}:{seq}", (0, 0)
    if query.cursor is not None:
        after = ctx.cursors.open(purpose, query.cursor, count=2)
    row = await of_message(
        ctx.reads,
        user_id=request.ctx.user_id,
        thread_id=thread_id,
        seq=seq,
        after_id=after[0],
        after_rev=after[1],
        looks=LOOKS,
        size=query.limit,
    )
    if row is None:
        raise await messages.missing(request, thread_id, seq)
    following = "null"
    if row["last_id"] is not None:
        following = f'"{ctx.cursors.seal(purpose, row["last_id"], row["last_rev"])}"'
    return json_bytes(f'{{"delivered":[{row["delivered"]}],"read":[{row["read"]}],"nextCursor":{following}}}')


async def joining(ctx: Any, user_id: int, thread_id: int) -> list[tuple[str, bytes]]:
    """What whoever joins the stream of a thread is told: how far the others have come."""
    rows = await standing(ctx.db, user_id=user_id, thread_id=thread_id)
    return [("receipt", row["receipt"].encode()) for row in rows]


class Receipts:
    """Tells threads how far people have come: what somebody reports at once, what a send implies a little later.

    Who answers has read; but in a lively thread that would be a receipt with each message.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # By thread and person, the longest waiting first: until when, the seq, whether reading is shown, since when.
        self._waiting: dict[tuple[int, int], tuple[float, int, bool, datetime]] = {}

    def told(self, thread_id: int, user_id: int, receipt: str) -> None:
        """Somebody has reported how far they have come; what they have sent before is part of it."""
        self._waiting.pop((thread_id, user_id), None)
        self._bus.tell(thread_id, "receipt", str(user_id), receipt.encode())

    def sent(self, thread_id: int, user_id: int, seq: int, *, shown: bool) -> None:
        """Somebody has sent a message, and so has read what was before it."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(TICK_SECONDS, self._tick)
        known = self._waiting.get((thread_id, user_id))
        due = known[0] if known else loop.time() + SENT_SECONDS
        self._waiting[thread_id, user_id] = (due, seq, shown, datetime.now(UTC))

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for (thread_id, user_id), (due, seq, shown, at) in list(self._waiting.items()):
            if due > now:
                break
            del self._waiting[thread_id, user_id]
            receipt = {
                "threadId": thread_id,
                "userId": user_id,
                "deliveredSeq": seq,
                "readSeq": seq if shown else None,
            }
            told = orjson.dumps(receipt | {"at": at}, option=orjson.OPT_UTC_Z)
            self._bus.tell(thread_id, "receipt", str(user_id), told)
        if self._waiting:
            loop.call_later(TICK_SECONDS, self._tick)
