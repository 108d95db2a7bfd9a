"""The streams as Server-Sent Events."""

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable

from sanic import Request
from sanic.response import HTTPResponse

from server import shapes
from server.base.errors import Unauthorized
from server.base.front import outer, plain
from server.base.http import Query, answers
from server.live.endings import Closable
from server.live.hub import Hub
from server.live.merged import UserReader, friends
from server.live.outlet import RETRY_MS, SseOutlet
from server.live.stream import Entered, current, enter, resync
from server.live.wire import SSE


class Follow(Query):
    lenient = True
    lastEventId: str | None = None
    token: str | None = None


@answers({200: shapes.EVENT_STREAM}, {503: "stopping"})
async def thread_stream(request: Request, thread_id: int, query: Follow) -> HTTPResponse | None:
    """Follow a thread live, from now on or from where one has read to.

    Last-Event-ID (header, or lastEventId): the cursor to go on from; one that can't be served gets `resync`.
    token: a ticket or an access token, for clients that can't set headers. Events: ready {"cursor", "lastSeq"}, then
    message, message_updated, member, thread_updated, thread_deleted, resync, each with its id; a comment every 15 s.
    Of a contact thread, thread_updated has its place in the inbox too (contact, as in the thread); a message of the
    contact means status open by itself.
    Without an id: presence and typing, as it is at the moment on joining, and then what changes.
    The stream ends when the caller is no longer a member, the thread is deleted, or the session ends.
    """
    ctx, user_id = request.app.ctx, request.ctx.user_id
    hub: Hub = ctx.hub
    outlet = SseOutlet(request)
    since = request.headers.get("last-event-id") or query.lastEventId
    entered = await enter(ctx, user_id, thread_id, since=since, outlet=outlet)
    stream = entered.reader
    try:
        async with _open(request, outlet, stream):
            await outlet.send(_thread_opening(thread_id, entered))
            await _send(outlet, current(ctx, user_id, thread_id, SSE))
            await stream.run(entered.feed)
        return None  # Sanic ends the response
    finally:
        hub.leave(stream, entered.feed)
        ctx.typists.left(user_id, thread_id)


@answers({200: shapes.EVENT_STREAM}, {503: "stopping"})
async def user_stream(request: Request, query: Follow) -> HTTPResponse | None:
    """Follow all my threads live, from now on or from where one has read to.

    Last-Event-ID (header, or lastEventId): the cursor to go on from, an event id or the streamCursor of GET
    /api/threads; one that can't be served gets `resync`. token: a ticket or an access token. Events: ready {"cursor"},
    then `thread`: what GET /api/threads/{id} gives, live one with each new message, for every change in a thread of
    mine and for what I do on other devices; {"id", "role": null, "act"} when it is no longer mine. Of events that come
    together only the last has an id. presence {"online", "offline"}: people of my direct threads. resync; a comment
    every 15 s. The stream ends when the session ends.
    """
    ctx, user_id = request.app.ctx, request.ctx.user_id
    outlet = SseOutlet(request)
    reader = UserReader(ctx.merged, user_id, outlet)
    try:
        since = request.headers.get("last-event-id") or query.lastEventId
        cursor, missed = await ctx.merged.follow(reader, since)
        async with _open(request, outlet, reader):
            await outlet.send(_user_opening(cursor, missed=missed))
            await _send(outlet, friends(ctx, user_id, SSE))
            await reader.run()
        return None
    finally:
        ctx.merged.leave(reader)


# What a handler keeps in a name, it keeps for as long as the stream lives: so these are functions.


def _thread_opening(thread_id: int, entered: Entered) -> bytes:
    ready = f'{{"cursor":"{entered.cursor}","lastSeq":{entered.last_seq}}}'
    opening = b"retry: %d\n\n" % RETRY_MS + SSE.event("ready", entered.cursor, ready.encode())
    return opening + (resync(SSE, thread_id, entered.cursor) if entered.missed else b"")


def _user_opening(cursor: str, *, missed: bool) -> bytes:
    here = b'{"cursor":"%b"}' % cursor.encode()
    opening = b"retry: %d\n\n" % RETRY_MS + SSE.event("ready", cursor, here)
    return opening + (SSE.event("resync", cursor, here) if missed else b"")


async def _send(outlet: SseOutlet, asked: Awaitable[bytes]) -> None:
    if frames := await asked:
        await outlet.send(frames)


@contextlib.asynccontextmanager
async def _open(request: Request, outlet: SseOutlet, reader: Closable) -> AsyncIterator[None]:
    """Begin the answer, for as long as the session and the worker live; whoever is sent away is told to come back."""
    ctx, session_id = request.app.ctx, request.ctx.session_id
    if not ctx.endings.watch(session_id, reader):
        raise Unauthorized("This session has ended.", code="session_ended")
    try:
        with ctx.presence.of(request.ctx.user_id):
            await outlet.open(plain(outer(request, request.ctx.request_id)))
            yield
            if ctx.hub.closing:
                # Not all at once: those who are sent away come back over some seconds.
                await outlet.send(b"retry: %d\n\n" % random.randint(RETRY_MS // 2, RETRY_MS * 2))
    finally:
        ctx.endings.unwatch(session_id, reader)
