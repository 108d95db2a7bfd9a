"""What is pinned to the wall of a thread. SQL: db/queries/pins.sql."""

from functools import partial
from typing import Annotated

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import blocks, messages, shapes
from server.base.db import Db, query
from server.base.errors import NotFound
from server.base.http import TOP, Query, answers, empty, json_bytes, whole

LOOKS = 1000  # pins that one page looks at: those from before the reader's time are passed over


@query
async def add(db: Db, *, user_id: int, thread_id: int, seq: int) -> asyncpg.Record | None: ...


@query
async def take(db: Db, *, user_id: int, thread_id: int, seq: int) -> asyncpg.Record | None: ...


@query
async def list(
    db: Db, *, user_id: int, thread_id: int, before: int, looks: int, size: int
) -> asyncpg.Record | None: ...


class PinQuery(Query):
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


@answers({204: None}, {403: "blocked", 404: "message_archived", 409: "message_deleted"})
async def put_pin(request: Request, thread_id: int, seq: int) -> HTTPResponse:
    """Pin a message: any member; again is 204 too, and changes nothing."""
    ctx, me = request.app.ctx, request.ctx.user_id
    work = partial(add, ctx.db, user_id=me, thread_id=thread_id, seq=seq)
    row = await ctx.tasks.finish(messages.change(ctx, me, thread_id, work))
    if row is None or row["gone"]:
        raise await messages.missing(request, thread_id, seq)
    if row["blocked"]:
        raise blocks.refused()
    if row["deleted"]:
        raise messages.deleted()
    return empty()


@answers({204: None}, {403: "blocked", 404: "message_archived"})
async def delete_pin(request: Request, thread_id: int, seq: int) -> HTTPResponse:
    """Take a pin off: any member; 204 also when there is none (any more), as of a deleted message."""
    ctx, me = request.app.ctx, request.ctx.user_id
    work = partial(take, ctx.db, user_id=me, thread_id=thread_id, seq=seq)
    row = await ctx.tasks.finish(messages.change(ctx, me, thread_id, work))
    if row is None:
        raise await messages.missing(request, thread_id, seq)
    if row["blocked"]:
        raise blocks.refused()
    return empty()


@answers({200: shapes.PinPage}, {400: "bad_cursor"})
async def list_pins(request: Request, thread_id: int, query: PinQuery) -> HTTPResponse:
    """The pinned messages that I may see, the newest pin first.

    A page looks at 1,000 pins at most, so it may hold fewer than asked, even none, and still have a nextCursor.
    """
    ctx, purpose, before = request.app.ctx, f"pins:{thread_id}", TOP
    if query.cursor is not None:
        (before,) = ctx.cursors.open(purpose, query.cursor, count=1)
    row = await list(
        ctx.reads,
        user_id=request.ctx.user_id,
        thread_id=thread_id,
        before=before,
        looks=LOOKS,
        size=query.limit,
    )
    if row is None:
        raise NotFound()
    following = "null" if row["next_rev"] is None else f'"{ctx.cursors.seal(purpose, row["next_rev"])}"'
    return json_bytes(f'{{"items":[{row["items"]}],"nextCursor":{following}}}')
