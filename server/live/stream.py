"""One reader of a thread, over whatever socket: everything after a cursor, without gap, repeat or queue."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from server import members
from server.base import log
from server.base.errors import AWAY, NotFound, Unavailable
from server.live import changes
from server.live.hub import LOG_PAGE, PIECE_BYTES, Feed, Gap, Hub
from server.live.outlet import Outlet
from server.live.reader import Reader
from server.live.sight import FOREVER, Event, Sight
from server.live.wire import WS, Wire

RETRY_LOG_SECONDS = 1.0  # between tries to read the log while the database is away
JOINING_SECONDS = 1.0  # that somebody who joins waits for what is so at the moment


class ThreadReader(Reader):
    """See hub.Reader. `reason` says why it has ended: left, removed or deleted; None: it was closed."""

    __slots__ = ("_certain", "_hub", "_page", "cursor", "heard", "reason", "sight")

    def __init__(self, hub: Hub, sight: Sight, cursor: int, *, head: int, outlet: Outlet) -> None:
        """head: the last rev of the thread when the sight was made."""
        super().__init__(outlet)
        self.cursor, self.sight, self.heard = cursor, sight, 0
        self.reason: str | None = None
        self._hub = hub
        self._page = LOG_PAGE  # changes to read from the log at once
        self._certain = head  # up to here this reader is known not to have left

    async def run(self, feed: Feed) -> None:
        """Write all changes after the cursor, until the end of membership, thread or worker."""
        while not (self._ending or self._hub.closing):
            try:
                idle = await self._go_on(feed)
            except Gap as gap:
                self.cursor = gap.head
                cursor = changes.cursor(self._hub.epoch, feed.thread_id, gap.head)
                await self.outlet.send(resync(self.outlet.wire, feed.thread_id, cursor))
            except AWAY as error:
                log.event("stream.blind", level="warning", thread=feed.thread_id, reason=type(error).__name__)
                await asyncio.sleep(RETRY_LOG_SECONDS)
            else:
                if idle:
                    await self._park()

    async def _go_on(self, feed: Feed) -> bool:
        """Write what there is, as soon as the socket takes it; true when that is nothing."""
        if self.cursor >= feed.head:
            return True
        async with self.outlet.turn():
            if self._ending:
                return False
            piece = await self._piece(feed)
            if piece:
                await self.outlet.send(piece)
        return piece is None

    async def _piece(self, feed: Feed) -> bytes | None:
        """What to write next; nothing when none of it is for this reader, None at the end of the log.

        What the socket takes at once goes out on the way. Where it would have to wait, the rest is
        let go and read again later: nothing is held for a slow reader, and nothing told that is no longer so.
        """
        batch = await self._hub.after(feed, self.cursor, opened=self.sight.opened, size=self._page)
        if batch is None:
            return None
        if feed.guarded and not await self._hub.stays(feed, self.sight.user_id):
            self.expel()
            return b""
        if batch.suits(self):
            shared = batch.frames(self.outlet.wire)
            if len(shared) <= PIECE_BYTES:
                self.cursor = batch.last
                return shared
        events = batch.events
        # Of long messages fewer at once: what the socket does not take is read again.
        average = sum(len(event.data) for event in events) // len(events)
        self._page = max(4, min(LOG_PAGE, 2 * PIECE_BYTES // max(1, average)))
        horizon = await self._horizon(feed, events)
        frames: list[bytes] = []
        size = 0
        for event in events:
            if event.as_of > horizon:
                self._end(next((later for later in events if self.sight.ends(later)), None))
                break
            data = self.sight.data(event)
            if data is not None:
                frame = event.frame(self.outlet.wire, data)
                if size and size + len(frame) > PIECE_BYTES:
                    if not self.outlet.writable():
                        break
                    await self.outlet.send(b"".join(frames))
                    frames, size = [], 0
                frames.append(frame)
                size += len(frame)
            self.cursor = event.rev
            if self.sight.ends(event):
                self._end(event)
                break
        return b"".join(frames)

    def expel(self) -> None:
        """End: this person is no longer in it, by something that is no change of the thread."""
        self._end(None)
        self.wake()

    def _end(self, event: Event | None) -> None:
        """Nothing more is for this reader, by this change, or by one that is not yet in sight."""
        self._ending = True
        if event is not None and event.kind == "thread_deleted":
            self.reason = "deleted"
        else:
            self.reason = (event and event.act) or "removed"

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


@dataclass(frozen=True, slots=True)
class Entered:
    """Somebody who has begun to follow a thread, and has to leave it again (Hub.leave)."""

    reader: ThreadReader
    feed: Feed
    cursor: str  # where they stand
    last_seq: int
    missed: bool  # whether they asked for what can't be served


async def enter(ctx: Any, user_id: int, thread_id: int, *, since: str | None, outlet: Outlet) -> Entered:
    """Begin to follow a thread from a cursor on, or from now. Raises NotFound; Unavailable when the worker stops."""
    hub: Hub = ctx.hub
    if hub.closing:
        raise Unavailable("The server is stopping; come back in a moment.", code="stopping")
    found = partial(changes.door, ctx.db, user_id=user_id, thread_id=thread_id)
    entered = partial(ctx.presence.entered, thread_id, user_id)
    door = await members.inside(ctx.db, user_id, thread_id, found, entered=entered)
    if door is None:
        raise NotFound()
    head = start = door["last_rev"]
    missed = False
    if since:
        position = changes.position(since, epoch=ctx.epoch, thread_id=thread_id)
        missed = position is None or not door["log_floor"] <= position <= head
        start = head if missed or position is None else position
    reader = ThreadReader(hub, changes.sight_of(door, user_id), start, head=head, outlet=outlet)
    feed = hub.follow(reader, thread_id, head=head)
    return Entered(reader, feed, changes.cursor(ctx.epoch, thread_id, start), door["last_seq"], missed)


def resync(wire: Wire, thread_id: int, cursor: str) -> bytes:
    """Something is missing that can't be told any more: fetch afresh, and go on from here."""
    which = f'"threadId":{thread_id},' if wire is WS else ""  # a WebSocket may follow several
    return wire.event("resync", cursor, f'{{{which}"cursor":"{cursor}"}}'.encode())


async def current(ctx: Any, user_id: int, thread_id: int, wire: Wire) -> bytes:
    """What is so at the moment and in no log, for somebody who joins: by the hooks of ctx.joining.

    What fails or takes long is left out: it is told again when it changes.
    """
    found: list[tuple[str, bytes]] = []
    for hook in ctx.joining:
        try:
            async with asyncio.timeout(JOINING_SECONDS):
                found += await hook(ctx, user_id, thread_id)
        except Exception as error:  # whatever it is: the stream is worth more
            log.event("joining.blind", level="warning", reason=type(error).__name__)
    return b"".join([wire.event(name, None, data) for name, data in found])
