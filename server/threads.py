"""Threads: make, list, rename, delete. SQL: db/queries/threads.sql."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import members, shapes
from server.base.db import Db, query
from server.base.errors import Conflict, Forbidden, Invalid, NotFound
from server.base.http import TOP, Body, Query, answers, empty, json_bytes, length, many, whole

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = 2**53  # microseconds since 1970, in the year 2255: later than any activity


@query
async def mine(
    db: Db,
    *,
    user_id: int,
    search: str | None,
    kind: str | None,
    unread: bool,
    before_at: datetime,
    before_id: int,
    size: int,
) -> asyncpg.Record: ...


@query
async def get(db: Db, *, user_id: int, thread_id: int) -> str | None: ...


@query
async def channel(db: Db, *, thread_id: int) -> str | None: ...


@query
async def create(db: Db, *, user_id: int, kind: str, title: str, member_ids: list[int]) -> int | None: ...


@query
async def create_direct(db: Db, *, user_id: int, other_id: int) -> int | None: ...


@query
async def direct_of(db: Db, *, user_id: int, other_id: int) -> int | None: ...


@query
async def rename(db: Db, *, thread_id: int, title: str) -> int | None: ...


@query
async def remove(db: Db, *, thread_id: int) -> int | None: ...


class ThreadQuery(Query):
    search: Annotated[str, length(0, 1000)] | None = None
    kind: Literal["direct", "group", "channel", "contact"] | None = None
    unread: bool = False
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


class NewThread(Body):
    kind: Literal["group", "channel", "direct"] = "group"
    title: Annotated[str, length(0, 255)] | None = None  # 2 and more, but for direct, which has none
    memberIds: Annotated[list[int], many(0, 1000)] = []  # noqa: RUF012  # msgspec copies it


class Title(Body):
    title: Annotated[str, length(2, 255)]


@answers({200: shapes.ThreadPage}, {400: "bad_cursor"})
async def list_threads(request: Request, query: ThreadQuery) -> HTTPResponse:
    """My threads, latest activity first. search matches any part of the title, ignoring case."""
    ctx = request.app.ctx
    purpose = f"threads:{request.ctx.user_id}"
    before_at, before_id = LATEST, TOP
    if query.cursor is not None:
        before_at, before_id = ctx.cursors.open(purpose, query.cursor, count=2)
    row = await mine(
        ctx.db,
        user_id=request.ctx.user_id,
        search=query.search or None,
        kind=query.kind,
        unread=query.unread,
        before_at=EPOCH + timedelta(microseconds=before_at),
        before_id=before_id,
        size=query.limit,
    )
    following = "null"
    if row["more"]:
        active_at = (row["active_at"] - EPOCH) // timedelta(microseconds=1)
        following = f'"{ctx.cursors.seal(purpose, active_at, row["thread_id"])}"'
    return json_bytes(f'{{"threads":{row["threads"]},"nextCursor":{following}}}')


@answers({201: shapes.ThreadAnswer, 200: shapes.ThreadAnswer})
async def post_thread(request: Request, body: NewThread) -> HTTPResponse:
    """A new thread; who makes it is its admin.

    A group or channel has a title of 2 to 255 characters. A direct thread has none, and exactly one other person in
    memberIds; the one that is there already is answered with 200.
    """
    ctx, me = request.app.ctx, request.ctx.user_id
    others = sorted(set(body.memberIds) - {me})
    if body.kind == "direct":
        return await _direct(request, others)
    if body.title is None:
        raise Invalid({"title": "is required"})
    if len(body.title) < 2:
        raise Invalid({"title": "must have at least 2 characters"})
    made = await ctx.tasks.finish(
        create(ctx.db, user_id=me, kind=body.kind, title=body.title, member_ids=others)
    )
    if made is None:
        raise Invalid({"memberIds": "not all of these people exist"})
    return await _shown(request, made, status=201)


async def _direct(request: Request, others: list[int]) -> HTTPResponse:
    ctx, me = request.app.ctx, request.ctx.user_id
    if len(others) != 1:
        raise Invalid({"memberIds": "a direct thread is with exactly one other person"})
    made = await ctx.tasks.finish(create_direct(ctx.db, user_id=me, other_id=others[0]))
    if made is not None:
        return await _shown(request, made, status=201)
    there = await direct_of(ctx.db, user_id=me, other_id=others[0])
    if there is None:
        raise Invalid({"memberIds": "not all of these people exist"})
    return await _shown(request, there, status=200)


@answers({200: shapes.ThreadAnswer})
async def get_thread(request: Request, thread_id: int) -> HTTPResponse:
    """One thread; a channel also before joining it, then with role null and nothing of what was said."""
    return await _shown(request, thread_id, status=200)


async def _shown(request: Request, thread_id: int, *, status: int) -> HTTPResponse:
    db = request.app.ctx.db
    found = await get(db, user_id=request.ctx.user_id, thread_id=thread_id)
    if found is None:
        found = await channel(db, thread_id=thread_id)
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"thread":{found}}}', status=status)


@answers({200: shapes.ThreadAnswer}, {403: "forbidden", 409: "direct_thread"})
async def patch_thread(request: Request, thread_id: int, body: Title) -> HTTPResponse:
    """Rename: admins and moderators, not a direct thread."""

    async def work(db: Db, held: members.Held) -> int | None:
        if held.kind == "direct":
            raise Conflict("A direct thread has no title.", code="direct_thread")
        if held.role == "member":
            raise Forbidden()
        return await rename(db, thread_id=thread_id, title=body.title)

    await members.act(request, thread_id, work)
    return await _shown(request, thread_id, status=200)


@answers({204: None}, {403: "forbidden", 409: "direct_thread"})
async def delete_thread(request: Request, thread_id: int) -> HTTPResponse:
    """Delete softly: admins. For everybody in it the thread is gone, and streams of it end."""

    async def work(db: Db, held: members.Held) -> int | None:
        if held.kind == "direct":
            raise Conflict("A direct thread can't be deleted.", code="direct_thread")
        if held.role != "admin":
            raise Forbidden()
        return await remove(db, thread_id=thread_id)

    await members.act(request, thread_id, work)
    return empty()
