"""Who does not want to hear from whom. SQL: db/queries/blocks.sql.

Somebody I have blocked can't write in our direct thread, begin one with me, or put me into a group or channel. It is
the statements of those acts that refuse (messages.send and edit, threads.create and create_direct, members.open_span).
"""

from collections.abc import Sequence
from typing import Annotated

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, shapes
from server.base.db import Db, query
from server.base.errors import Forbidden, Invalid, NotFound
from server.base.http import Query, answers, empty, json_bytes, whole


@query
async def hold(db: Db, *, user_id: int, other_id: int) -> bool | None: ...


@query
async def silence(db: Db, *, user_id: int, other_id: int, blocked: bool) -> str: ...


@query
async def make(db: Db, *, user_id: int, other_id: int) -> int | None: ...


@query
async def lift(db: Db, *, user_id: int, other_id: int) -> int | None: ...


@query
async def get(db: Db, *, user_id: int, other_id: int) -> str | None: ...


@query
async def page(db: Db, *, user_id: int, after_id: int, size: int) -> asyncpg.Record: ...


@query
async def by_any(db: Db, *, user_ids: Sequence[int], blocked_id: int) -> bool: ...


class BlockQuery(Query):
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


def refused() -> Forbidden:
    """What somebody is told who has been blocked."""
    return Forbidden("This person has blocked you.", code="blocked")


async def refuse(db: Db, *, user_ids: Sequence[int], blocked_id: int) -> None:
    """After an act that came to nothing: raises Forbidden when it was because one of these has blocked this one."""
    if await by_any(db, user_ids=user_ids, blocked_id=blocked_id):
        raise refused()


@answers({200: shapes.BlockPage}, {400: "bad_cursor"})
async def list_blocks(request: Request, query: BlockQuery) -> HTTPResponse:
    """The people I have blocked, by user id."""
    ctx, me, after_id = request.app.ctx, request.ctx.user_id, 0
    purpose = f"blocks:{me}"
    if query.cursor is not None:
        (after_id,) = ctx.cursors.open(purpose, query.cursor, count=1)
    row = await page(ctx.db, user_id=me, after_id=after_id, size=query.limit)
    following = f'"{ctx.cursors.seal(purpose, row["last_id"])}"' if row["more"] else "null"
    return json_bytes(f'{{"blocks":{row["blocks"]},"nextCursor":{following}}}')


@answers({200: shapes.BlockAnswer})
async def get_block(request: Request, other_id: int) -> HTTPResponse:
    """Whether I have blocked somebody: 404 when not."""
    found = await get(request.app.ctx.db, user_id=request.ctx.user_id, other_id=other_id)
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"block":{found}}}')


@answers({204: None}, {422: "invalid"})
async def put_block(request: Request, other_id: int) -> HTTPResponse:
    """Block somebody; again is 204 too.

    From then on they can't write or edit in our direct thread, begin one with me, or add me to a group or channel.
    What was said stays, and in groups we still read each other.
    """
    if other_id == request.ctx.user_id:
        raise Invalid({"other_id": "is oneself"})
    await request.app.ctx.tasks.finish(_change(request, other_id, blocked=True))
    return empty()


@answers({204: None})
async def delete_block(request: Request, other_id: int) -> HTTPResponse:
    """Block somebody no longer; 204 also when they were not blocked."""
    await request.app.ctx.tasks.finish(_change(request, other_id, blocked=False))
    return empty()


async def _change(request: Request, other_id: int, *, blocked: bool) -> None:
    me, act = request.ctx.user_id, "user.blocked" if blocked else "user.unblocked"
    async with request.app.ctx.db.acquire() as conn, conn.transaction():
        if not await hold(conn, user_id=me, other_id=other_id):
            raise NotFound()
        await silence(conn, user_id=me, other_id=other_id, blocked=blocked)
        if await (make if blocked else lift)(conn, user_id=me, other_id=other_id) is not None:
            await audit.record(conn, request, act, subject_id=other_id)
    request.app.ctx.presence.look_again(me, other_id)
