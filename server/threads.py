"""Threads: make, list, rename, delete. SQL: db/queries/threads.sql."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Literal

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, blocks, inbox, members, shapes, users
from server.base.db import Db, query
from server.base.errors import BadRequest, Conflict, Forbidden, Invalid, NotFound
from server.base.http import TOP, Body, Query, answers, empty, json_bytes, length, many, whole
from server.live import merged

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = 2**53  # microseconds since 1970, in the year 2255: later than any activity
LOOKS = 2000  # channels, or conversations, that one request searches, a few milliseconds


@query
async def mine(
    db: Db,
    *,
    user_id: int,
    search: str | None,
    kind: str | None,
    unread: bool,
    archived: bool,
    before_at: datetime,
    before_id: int,
    size: int,
) -> asyncpg.Record: ...


@query
async def get(db: Db, *, user_id: int, thread_id: int) -> str | None: ...


@query
async def channel(db: Db, *, thread_id: int) -> str | None: ...


@query
async def channels(
    db: Db, *, user_id: int, search: str | None, after_title: str, after_id: int, looks: int, size: int
) -> asyncpg.Record: ...


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
    archived: bool = False
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


class ChannelQuery(Query):
    search: Annotated[str, length(0, 1000)] | None = None
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


class NewThread(Body):
    kind: Literal["group", "channel", "direct"] = "group"
    title: Annotated[str, length(0, 255)] | None = None  # 2 and more, but for direct, which has none
    memberIds: Annotated[list[int], many(0, 1000)] = []  # noqa: RUF012  # msgspec copies it


class Title(Body):
    title: Annotated[str, length(2, 255)]


class MyThread(Body):
    muted: bool | None = None
    archived: bool | None = None
    notify: Literal["all", "mentions", "none"] | None = None


@answers({200: shapes.ThreadPage}, {400: "bad_cursor"})
async def list_threads(request: Request, query: ThreadQuery) -> HTTPResponse:
    """My threads, latest activity first. search matches any part of the title, ignoring case.

    Those that I have archived are left out; archived=true gives those alone. Contact threads are listed with
    kind=contact alone: for the staff those in which something has been said, a page looking at 2,000 of them at most,
    so that it may hold fewer than asked, even none, and still have a nextCursor. streamCursor is where GET /api/stream
    goes on from this page: of several pages take the first one's.
    """
    ctx = request.app.ctx
    purpose = f"{'inbox' if query.kind == 'contact' else 'threads'}:{request.ctx.user_id}"
    before_at, before_id = LATEST, TOP
    if query.cursor is not None:
        before_at, before_id = ctx.cursors.open(purpose, query.cursor, count=2)
    asked: dict[str, Any] = {
        "user_id": request.ctx.user_id, "search": query.search or None, "unread": query.unread,
        "archived": query.archived, "before_at": EPOCH + timedelta(microseconds=before_at), "before_id": before_id,
        "size": query.limit,
    }  # fmt: skip
    if query.kind == "contact":
        row = await inbox.threads(ctx.reads, **asked, looks=LOOKS)
    else:
        row = await mine(ctx.reads, **asked, kind=query.kind)
    following = "null"
    if row["more"]:
        active_at = (row["active_at"] - EPOCH) // timedelta(microseconds=1)
        following = f'"{ctx.cursors.seal(purpose, active_at, row["thread_id"])}"'
    cursor = merged.cursor(ctx.epoch, merged.known(row["place"]))
    return json_bytes(f'{{"threads":{row["threads"]},"nextCursor":{following},"streamCursor":"{cursor}"}}')


@answers({200: shapes.ChannelPage}, {400: "bad_cursor"})
async def list_channels(request: Request, query: ChannelQuery) -> HTTPResponse:
    """Channels to discover, by title, each as I see it: those I am in with my role, unread count and so on.

    search matches any part of the title, ignoring case. It looks at 2,000 channels at most, so a page may hold fewer
    than asked, even none, and still have a nextCursor.
    """
    ctx, search = request.app.ctx, query.search or None
    after_title, after_id = _channel_place(request, query.cursor)
    row = await channels(
        ctx.reads,
        user_id=request.ctx.user_id,
        search=search,
        after_title=after_title,
        after_id=after_id,
        looks=LOOKS if search else query.limit + 1,
        size=query.limit,
    )
    following = "null"
    if row["last_id"] is not None:
        following = f'"{_channel_cursor(request, row["last_title"], row["last_id"])}"'
    return json_bytes(f'{{"channels":{row["channels"]},"nextCursor":{following}}}')


def _channel_cursor(request: Request, title: str, channel_id: int) -> str:
    """It holds the title as it is now: later the channel may have another one."""
    sealed = request.app.ctx.cursors.seal(f"channels:{title}", channel_id)
    return f"{sealed}.{urlsafe_b64encode(title.encode()).decode()}"


def _channel_place(request: Request, cursor: str | None) -> tuple[str, int]:
    """Where a page of channels begins, exclusive. Raises BadRequest for a cursor that is not ours."""
    if cursor is None:
        return "", 0
    sealed, _, packed = cursor.partition(".")
    try:
        title = urlsafe_b64decode(packed.encode("ascii")).decode()
    except ValueError:
        title = ""
    (after_id,) = request.app.ctx.cursors.open(f"channels:{title}", sealed, count=1)
    if cursor != _channel_cursor(request, title, after_id):  # base64 is read leniently
        raise BadRequest("This cursor is not one of ours for this list.", code="bad_cursor")
    return title, after_id


@answers({201: shapes.ThreadAnswer, 200: shapes.ThreadAnswer}, {403: "blocked"})
async def post_thread(request: Request, body: NewThread) -> HTTPResponse:
    """A new thread; who makes it is its admin.

    A group or channel has a title of 2 to 255 characters. A direct thread has none, and exactly one other person in
    memberIds; the one that is there already is answered with 200. 403 when one of these people has blocked me.
    """
    ctx, me = request.app.ctx, request.ctx.user_id
    others = sorted(set(body.memberIds) - {me})
    if body.kind == "direct":
        return await _direct(request, others)
    if body.title is None:
        raise Invalid({"title": "is required"})
    if len(body.title) < 2:
        raise Invalid({"title": "must have at least 2 characters"})
    title = body.title

    async def work() -> int:
        async with ctx.db.acquire() as conn, conn.transaction():
            await users.hold(conn, user_ids=[*others, me])
            made = await create(conn, user_id=me, kind=body.kind, title=title, member_ids=others)
            if made is None:
                await blocks.refuse(conn, user_ids=others, blocked_id=me)
                raise Invalid({"memberIds": "not all of these people exist"})
        return made

    return await _shown(request, await ctx.tasks.finish(work()), status=201)


async def _direct(request: Request, others: list[int]) -> HTTPResponse:
    ctx, me = request.app.ctx, request.ctx.user_id
    if len(others) != 1:
        raise Invalid({"memberIds": "a direct thread is with exactly one other person"})
    pair = {"user_id": me, "other_id": others[0]}

    async def work() -> tuple[int, int]:
        async with ctx.db.acquire() as conn, conn.transaction():
            await users.hold(conn, user_ids=[*others, me])
            made = await create_direct(conn, **pair)
            if made is not None:
                return made, 201
            there = await direct_of(conn, **pair)
            if there is None:
                await blocks.refuse(conn, user_ids=others, blocked_id=me)
                raise Invalid({"memberIds": "not all of these people exist"})
        return there, 200

    thread_id, status = await ctx.tasks.finish(work())
    if status == 201:
        ctx.presence.look_again(me, others[0])
    return await _shown(request, thread_id, status=status)


@answers({200: shapes.ThreadAnswer})
async def get_thread(request: Request, thread_id: int) -> HTTPResponse:
    """One thread; a channel also before joining it, then with role null and nothing of what was said."""
    return await _shown(request, thread_id, status=200, db=request.app.ctx.reads)


async def _shown(request: Request, thread_id: int, *, status: int, db: "Db | None" = None) -> HTTPResponse:
    db = db or request.app.ctx.db
    found = await get(db, user_id=request.ctx.user_id, thread_id=thread_id)
    if found is None:
        found = await channel(db, thread_id=thread_id)
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"thread":{found}}}', status=status)


@answers({200: shapes.ThreadAnswer}, {403: "forbidden", 409: "direct_thread contact_thread"})
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


@answers({204: None}, {403: "forbidden", 409: "direct_thread contact_thread"})
async def delete_thread(request: Request, thread_id: int) -> HTTPResponse:
    """Delete softly: admins. For everybody in it the thread is gone, and streams of it end."""

    async def work(db: Db, held: members.Held) -> int | None:
        if held.kind == "direct":
            raise Conflict("A direct thread can't be deleted.", code="direct_thread")
        if held.role != "admin":
            raise Forbidden()
        await audit.record(db, request, "thread.deleted", thread_id=thread_id)
        return await remove(db, thread_id=thread_id)

    await members.act(request, thread_id, work)
    return empty()


@answers({200: shapes.ThreadAnswer})
async def patch_mine(request: Request, thread_id: int, body: MyThread) -> HTTPResponse:
    """My own settings of a thread, of which nobody else learns; what is not given stays.

    An archived thread is left out of my list, and no message brings it back. They end with the membership.
    """
    ctx, me = request.app.ctx, request.ctx.user_id
    work = partial(
        members.settle,
        ctx.db,
        user_id=me,
        thread_id=thread_id,
        muted=body.muted,
        archived=body.archived,
        notify=body.notify,
    )
    if await ctx.tasks.finish(members.inside(ctx.db, me, thread_id, work)) is None:
        raise NotFound()
    ctx.bus.changed()
    return await _shown(request, thread_id, status=200)
