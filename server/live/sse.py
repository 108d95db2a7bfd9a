"""The thread stream: Server-Sent Events from a cursor on, without gap, repeat or queue."""

import asyncio
import random
import time
from typing import Any

from sanic import Request
from sanic.response import HTTPResponse

from server import shapes
from server.base import log
from server.base.errors import AWAY, NotFound, Unauthorized, Unavailable
from server.base.front import outer, plain
from server.base.http import Query, answers
from server.live import changes
from server.live.hub import LOG_PAGE, Feed, Gap, Hub
from server.live.sight import FOREVER, Event, Sight

RETRY_MS = 2000
PIECE_BYTES = 64 * 1024  # what a slow reader is sent at once: the most that is held for one
RETRY_LOG_SECONDS = 1.0  # between tries to read the log while the database is away


def encode(frames: bytes) -> bytes:
    """Frames as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(frames), frames)


class Stream:
    """One reader over SSE: see hub.Reader.

    Sanic's own send is used whenever there may be a wait. The hub writes to the transport directly
    when the stream is parked and its buffer is not full: that is half of the cost of a delivery.
    """

    __slots__ = ("_certain", "_ending", "_hub", "_page", "_protocol", "_response", "_waiter", "cursor",
                 "parked", "sight", "written_at")  # fmt: skip

    def __init__(self, hub: Hub, sight: Sight, cursor: int, *, head: int) -> None:
        """head: the last rev of the thread when the sight was made."""
        self.cursor, self.sight = cursor, sight
        self.parked, self.written_at = False, time.monotonic()
        self._hub, self._ending = hub, False
        self._page = LOG_PAGE  # changes to read from the log at once
        self._certain = head  # up to here this reader is known not to have left
        self._waiter: asyncio.Future[None] | None = None
        self._response: HTTPResponse | None = None
        self._protocol: Any = None

    # -- what the hub calls

    def writable(self) -> bool:
        transport = self._protocol.transport  # None once Sanic has aborted it
        return transport is not None and self._protocol._can_write.is_set() and not transport.is_closing()

    def push(self, chunk: bytes, now: float) -> None:
        self._protocol.transport.write(chunk)
        self._protocol._time = self.written_at = now  # Sanic counts the silence of a connection from here

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        self._ending = True
        self.wake()

    def cut(self) -> None:
        """The session is over. Parked, it can say goodbye; held up by a slow reader, it is broken off."""
        if self.parked:
            self.parked = False  # the hub writes nothing more
            self.close()
        else:
            self._ending = True
            self.abort()

    def abort(self) -> None:
        if self._protocol is not None:
            self._protocol.abort()

    # -- what the handler calls

    async def run(self, request: Request, feed: Feed, response: HTTPResponse, opening: bytes) -> None:
        """Write the opening, then all changes after the cursor, until the end of membership, thread or worker."""
        self._response, self._protocol = response, request.stream.protocol  # type: ignore[union-attr]
        await self._send(opening)
        while not (self._ending or self._hub.closing):
            try:
                piece = await self._piece(feed)
            except Gap as gap:
                self.cursor = gap.head
                cursor = f"{self._hub.epoch}.{feed.thread_id}.{gap.head}"
                await self._send(resync(cursor))
                continue
            except AWAY as error:
                log.event("stream.blind", level="warning", thread=feed.thread_id, reason=type(error).__name__)
                await asyncio.sleep(RETRY_LOG_SECONDS)
                continue
            if piece is None:
                await self._park()
            elif piece:
                await self._send(piece)
        if self._hub.closing:
            # Not all at once: those who are sent away come back over some seconds.
            await self._send(b"retry: %d\n\n" % random.randint(RETRY_MS // 2, RETRY_MS * 2))

    async def _piece(self, feed: Feed) -> bytes | None:
        """What to write next; nothing when none of it is for this reader, None at the end of the log.

        What the socket takes at once goes out on the way. Where it would have to wait, the rest is
        let go and read again later: nothing is held for a slow reader, and nothing told that is no longer so.
        """
        events = await self._hub.after(feed, self.cursor, opened=self.sight.opened, size=self._page)
        if not events:
            return None
        # Of long messages fewer at once: what the socket does not take is read again.
        average = sum(len(event.frame) for event in events) // len(events)
        self._page = max(4, min(LOG_PAGE, 2 * PIECE_BYTES // average))
        horizon = await self._horizon(feed, events)
        frames: list[bytes] = []
        size = 0
        for event in events:
            if event.as_of > horizon:
                self._ending = True
                break
            frame = self.sight.frame(event)
            if frame is not None:
                if size and size + len(frame) > PIECE_BYTES:
                    if not self.writable():
                        break
                    await self._send(b"".join(frames))
                    frames, size = [], 0
                frames.append(frame)
                size += len(frame)
            self.cursor = event.rev
            if self.sight.ends(event):
                self._ending = True
                break
        return b"".join(frames)

    async def _horizon(self, feed: Feed, events: list[Event]) -> int:
        """How new the content of these events may be for this reader.

        A message is told as it now is, under the id of its beginning; an edit that came after the reader
        was removed is not for them, though the removal itself may still lie ahead.
        """
        end = next((event.rev for event in events if self.sight.ends(event)), None)
        if end is not None:
            return end
        seen = events[-1].rev
        if max(event.as_of for event in events) <= max(seen, self._certain):
            return FOREVER
        certain = await self._hub.certain(feed, self.sight)
        if certain is None:
            return seen
        self._certain = certain
        return FOREVER

    async def _send(self, frames: bytes) -> None:
        await self._response.send(frames)  # type: ignore[union-attr]
        self.written_at = time.monotonic()

    async def _park(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        self.parked = True
        try:
            await self._waiter
        finally:
            self.parked, self._waiter = False, None


def resync(cursor: str) -> bytes:
    """Something is missing that can't be told any more: fetch afresh, and go on from here."""
    return f'id: {cursor}\nevent: resync\ndata: {{"cursor":"{cursor}"}}\n\n'.encode()


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
    cursor = f"{epoch}.{thread_id}.{start}"
    opening = (
        f"retry: {RETRY_MS}\n\n"
        f'id: {cursor}\nevent: ready\ndata: {{"cursor":"{cursor}","lastSeq":{door["last_seq"]}}}\n\n'
    ).encode() + (resync(cursor) if missed else b"")
    stream = Stream(hub, changes.sight_of(door, user_id), start, head=head)
    session_id = request.ctx.session_id
    if not ctx.endings.watch(session_id, stream):
        raise Unauthorized("This session has ended.", code="session_ended")
    feed = hub.follow(stream, thread_id, head=head)
    try:
        response = await request.respond(
            content_type="text/event-stream; charset=utf-8",
            headers={
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                **plain(outer(request, request.ctx.request_id)),
            },
        )
        await stream.run(request, feed, response, opening)
        return None  # Sanic ends the response
    finally:
        hub.leave(stream, feed)
        ctx.endings.unwatch(session_id, stream)
