"""The thread stream as Server-Sent Events."""

import random

from sanic import Request
from sanic.response import HTTPResponse

from server import shapes
from server.base.errors import NotFound, Unauthorized, Unavailable
from server.base.front import outer, plain
from server.base.http import Query, answers
from server.live import changes
from server.live.hub import Hub
from server.live.outlet import SseOutlet
from server.live.stream import ThreadReader, current, resync
from server.live.wire import SSE

RETRY_MS = 2000


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
    Without an id: presence and typing, as it is at the moment on joining, and then what changes.
    The stream ends when the caller is no longer a member, the thread is deleted, or the session ends.
    """
    ctx, user_id = request.app.ctx, request.ctx.user_id
    hub: Hub = ctx.hub
    if hub.closing:
        raise Unavailable("The server is stopping; come back in a moment.", code="stopping")
    door = await changes.door(ctx.db, user_id=user_id, thread_id=thread_id)
    if door is None:
        raise NotFound()
    head, epoch = door["last_rev"], ctx.epoch
    given = request.headers.get("last-event-id") or query.lastEventId
    start, missed = head, False
    if given:
        position = changes.position(given, epoch=epoch, thread_id=thread_id)
        missed = position is None or not door["log_floor"] <= position <= head
        start = head if missed or position is None else position
    cursor = changes.cursor(epoch, thread_id, start)
    opening = b"retry: %d\n\n" % RETRY_MS
    ready = f'{{"cursor":"{cursor}","lastSeq":{door["last_seq"]}}}'
    opening += SSE.event("ready", cursor, ready.encode())
    outlet = SseOutlet(request)
    stream = ThreadReader(hub, changes.sight_of(door, user_id), start, head=head, outlet=outlet)
    session_id = request.ctx.session_id
    if not ctx.endings.watch(session_id, stream):
        raise Unauthorized("This session has ended.", code="session_ended")
    feed = hub.follow(stream, thread_id, head=head)
    try:
        with ctx.presence.of(user_id):
            await outlet.open(plain(outer(request, request.ctx.request_id)))
            await outlet.send(opening + (resync(SSE, cursor) if missed else b""))
            if now := await current(ctx, user_id, thread_id, SSE):
                await outlet.send(now)
            await stream.run(feed)
            if hub.closing:
                # Not all at once: those who are sent away come back over some seconds.
                await outlet.send(b"retry: %d\n\n" % random.randint(RETRY_MS // 2, RETRY_MS * 2))
        return None  # Sanic ends the response
    finally:
        hub.leave(stream, feed)
        ctx.typists.stop(user_id, thread_id)
        ctx.endings.unwatch(session_id, stream)
