"""The audit log: what was done that bears on security. SQL: db/queries/audit.sql."""

from typing import Annotated, Any

import asyncpg
import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server import shapes
from server.base.db import Db, query
from server.base.front import address_of
from server.base.http import TOP, Query, answers, json_bytes, length, whole


@query
async def note(
    db: Db,
    *,
    act: str,
    actor_id: int | None,
    subject_id: int | None,
    thread_id: int | None,
    address: str | None,
    request_id: str | None,
    details: str,
) -> str: ...


@query
async def newest(db: Db, *, before_id: int, size: int) -> list[asyncpg.Record]: ...


@query
async def newest_act(db: Db, *, act: str, whole: bool, before_id: int, size: int) -> list[asyncpg.Record]: ...


@query
async def newest_of(
    db: Db, *, user_id: int, act: str, whole: bool, before_id: int, size: int
) -> list[asyncpg.Record]: ...


@query
async def entries(db: Db, *, ids: list[int]) -> str: ...


class AuditQuery(Query):
    userId: Annotated[int, whole()] | None = None
    act: Annotated[str, length(0, 100)] | None = None
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


async def record(
    db: Db,
    request: Request,
    act: str,
    *,
    actor_id: int | None = None,
    subject_id: int | None = None,
    thread_id: int | None = None,
    **details: Any,
) -> None:
    """Note an act, in the caller's transaction where there is one. actor_id is by default who asks.

    details are names and numbers: never a password, a token or a text.
    """
    await note(
        db,
        act=act,
        actor_id=actor_id if actor_id is not None else request.ctx.user_id,
        subject_id=subject_id,
        thread_id=thread_id,
        address=address_of(request),
        request_id=request.ctx.request_id,
        details=orjson.dumps(details).decode(),
    )


@answers({200: shapes.AuditPage}, {400: "bad_cursor"})
async def list_audit(request: Request, query: AuditQuery) -> HTTPResponse:
    """What was done that bears on security, newest first.

    userId: what this person did, or was done to them. act: one act, or with a trailing dot, as `session.`, all that
    begin so.
    """
    ctx, purpose, act = request.app.ctx, f"audit:{query.userId}:{query.act}", query.act or ""
    there = {"before_id": TOP, "size": query.limit + 1}
    if query.cursor is not None:
        (there["before_id"],) = ctx.cursors.open(purpose, query.cursor, count=1)
    exact = not (act == "" or act.endswith("."))
    if query.userId is not None:
        rows = await newest_of(ctx.db, user_id=query.userId, act=act, whole=exact, **there)
    elif act:
        rows = await newest_act(ctx.db, act=act, whole=exact, **there)
    else:
        rows = await newest(ctx.db, **there)
    ids = [row["id"] for row in rows[: query.limit]]
    following = f'"{ctx.cursors.seal(purpose, ids[-1])}"' if len(rows) > len(ids) else "null"
    return json_bytes(f'{{"entries":{await entries(ctx.db, ids=ids)},"nextCursor":{following}}}')
