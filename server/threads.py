"""Threads: make, list, rename, delete. SQL: db/queries/threads.sql."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import members
from server.base.db import Db, query
from server.base.errors import Conflict, Forbidden, Invalid, NotFound
from server.base.http import TOP, Body, empty, json_bytes, known, length, many, number, read, word

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = 2**53  # microseconds since 1970, in the year 2255: later than any activity
KINDS = ("direct", "group", "channel", "contact")


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


class NewThread(Body):
    kind: Literal["group", "channel", "direct"] = "group"
    title: Annotated[str, length(0, 255)] | None = None  # 2 and more, but for direct, which has none
    memberIds: Annotated[list[int], many(0, 1000)] = []  # noqa: RUF012  # msgspec copies it


class Title(Body):
    title: Annotated[str, length(2, 255)]


async def list_threads(request: Request) -> HTTPResponse:
    """My threads, latest activity first.

    Query: search (any part of the title), kind, unread (true or false), cursor, limit (1 to 100, default 50).
    200 {"threads": [thread], "nextCursor": cursor or null}; 400 on a bad cursor.
    """
    values = known(request, "search", "kind", "unread", "cursor", "limit")
    ctx = request.app.ctx
    purpose = f"threads:{request.ctx.user_id}"
    before_at, before_id = LATEST, TOP
    if "cursor" in values:
        before_at, before_id = ctx.cursors.open(purpose, values["cursor"], count=2)
    row = await mine(
        ctx.db,
        user_id=request.ctx.user_id,
        search=values.get("search", "").strip() or None,
        kind=word(values, "kind", KINDS),
        unread=word(values, "unread", ("true", "false")) == "true",
        before_at=EPOCH + timedelta(microseconds=before_at),
        before_id=before_id,
        size=number(values, "limit", default=50, low=1, high=100),
    )
    following = "null"
    if row["more"]:
        active_at = (row["active_at"] - EPOCH) // timedelta(microseconds=1)
        following = f'"{ctx.cursors.seal(purpose, active_at, row["thread_id"])}"'
    return json_bytes(f'{{"threads":{row["threads"]},"nextCursor":{following}}}')


async def post_thread(request: Request) -> HTTPResponse:
    """A new thread; who makes it is its admin.

    Body: kind (group, channel or direct; default group), title (2 to 255; a direct thread has none),
    memberIds? (up to 1,000; exactly the one other for direct).
    201 {"thread"}; 200 and the thread of old for a direct one that exists already; 422 for unknown people.
    """
    body = read(request, NewThread)
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


async def get_thread(request: Request, thread_id: int) -> HTTPResponse:
    """One thread; a channel also before joining it, then with role null and nothing of what was said.

    200 {"thread"}; 404.
    """
    return await _shown(request, thread_id, status=200)


async def _shown(request: Request, thread_id: int, *, status: int) -> HTTPResponse:
    db = request.app.ctx.db
    found = await get(db, user_id=request.ctx.user_id, thread_id=thread_id)
    if found is None:
        found = await channel(db, thread_id=thread_id)
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"thread":{found}}}', status=status)


async def patch_thread(request: Request, thread_id: int) -> HTTPResponse:
    """Rename: admins and moderators, not a direct thread.

    Body: title (2 to 255). 200 {"thread"}; 403, 404; 409 direct_thread.
    """
    title = read(request, Title).title

    async def work(db: Db, held: members.Held) -> int | None:
        if held.kind == "direct":
            raise Conflict("A direct thread has no title.", code="direct_thread")
        if held.role == "member":
            raise Forbidden()
        return await rename(db, thread_id=thread_id, title=title)

    await members.act(request, thread_id, work)
    return await _shown(request, thread_id, status=200)


async def delete_thread(request: Request, thread_id: int) -> HTTPResponse:
    """Delete softly: admins; for everybody in it the thread is gone, and streams of it end.

    204; 403, 404; 409 direct_thread.
    """

    async def work(db: Db, held: members.Held) -> int | None:
        if held.kind == "direct":
            raise Conflict("A direct thread can't be deleted.", code="direct_thread")
        if held.role != "admin":
            raise Forbidden()
        return await remove(db, thread_id=thread_id)

    await members.act(request, thread_id, work)
    return empty()
