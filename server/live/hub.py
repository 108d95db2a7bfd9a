"""The hub of a worker: for each followed thread a short ring of the latest changes, and its readers.

A reader keeps a cursor and no queue. Whoever stands at the end of the ring and whose socket takes it
is written to at once; everybody else reads from the cursor: from the ring where it reaches, else from
the log. Resume, join, lost doorbell and slow reader are that one path. Doorbells may come twice, late,
out of order or not at all: revs are dense, so a gap is seen, and a poll sees what rang nowhere.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from server.base import log
from server.base.db import Db
from server.live import changes
from server.live.outlet import Outlet
from server.live.sight import FOREVER, Event, Sight
from server.live.wire import Wire

RING_EVENTS, RING_BYTES = 256, 256 * 1024  # of one thread
RING_SECONDS = 60.0  # a thread without news for so long needs no ring: the log has it
POLL_SECONDS = 1.0  # how late a reader may be when no doorbell rings
GRACE_SECONDS = 0.01  # doorbells of one thread overtake each other; the missing one is usually on its way
LINGER_SECONDS = 10.0  # a feed without readers is kept for so long: they often come back
POLL_PAGE = 1000  # threads asked about at once
LOG_PAGE = 200  # changes read at once
LOG_READERS = 4  # reads of the log at once, so that catching up leaves connections for the rest
PUSH_BYTES = 128 * 1024  # more than that at once goes the slow way, in pieces
PIECE_BYTES = 64 * 1024  # of such a piece: the most that is held for one reader
BATCHES = (
    8  # joined pieces of a ring that are kept: after a restart many readers stand at the same few places
)
REFILL_SECONDS = 1.0  # between two tries to have what several readers ask for in the ring
# After an offer that took long a thread's next one waits as long, and takes what comes meanwhile with it: one message
# alone goes out at once, and a stream of them to thousands of readers leaves half of the time to everybody else.
LONG_OFFER_SECONDS, REST_SECONDS = 0.002, 0.05  # from how long on, and how long at most
HEARTBEAT_SECONDS = 15.0

# What is so at the moment and in no log (receipts, typing, presence): the newest of each kind and person is kept, and
# told in rounds. A thread that has had none lately gets its round at once, and so many deliveries each second.
EPHEMERAL_PER_SECOND = 500
ROUND_SECONDS = (0.05, 4.0)  # between two rounds, at least and at most
EPHEMERAL_KEPT = 256  # of one thread, for readers who were busy at the time
EPHEMERAL_SECONDS = {"typing": 5.0}  # what is over after a while; the rest holds until something newer comes


class Reader(Protocol):
    """Somebody who follows a thread: see stream.ThreadReader."""

    cursor: int  # the rev up to which everything visible has been written
    heard: int  # the number of the last ephemeral event that is known to them
    sight: Sight
    outlet: Outlet
    parked: bool  # waiting for news, nothing half-written

    def wake(self) -> None:
        """Look again: there is news, or the end."""

    def close(self) -> None:
        """End as soon as possible; the client is to come back."""

    def expel(self) -> None:
        """End: they are no longer in it."""


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """What is so at the moment."""

    number: int  # in the order of coming
    name: str
    data: bytes
    but: int  # whom it is not told, being about them; 0: nobody
    until: float


class Doorbell(Protocol):
    """What the hub needs of the bus."""

    async def follow(self, thread_id: int) -> None:
        """Listen for a thread."""

    async def unfollow(self, thread_id: int) -> None:
        """No longer."""


class Gap(Exception):
    """What a cursor asks for is no longer in the log; `head` is where the reader may go on."""

    def __init__(self, head: int) -> None:
        super().__init__(head)
        self.head = head


class Batch:
    """Changes that follow each other, joined once for all readers who may be told all of them as they are."""

    __slots__ = ("_frames", "_lowest", "_plain", "events", "first", "last")

    def __init__(self, events: list[Event]) -> None:
        self.events, self.first, self.last = events, events[0].rev, events[-1].rev
        self._frames: dict[Wire, bytes] = {}
        self._lowest = min(
            (place for e in events for place in (e.seq, e.quoted) if place is not None), default=FOREVER
        )
        self._plain = all(
            event.kind != "thread_deleted"
            and event.act not in ("left", "removed")
            and event.as_of <= self.last
            for event in events
        )

    def suits(self, reader: Reader) -> bool:
        """Whether it is the next that this reader is told, all of it."""
        sight = reader.sight
        return (
            self._plain
            and reader.cursor == self.first - 1
            and self._lowest > sight.floor
            and self.first > sight.opened
        )

    def frames(self, wire: Wire) -> bytes:
        """All of it."""
        found = self._frames.get(wire)
        if found is None:
            joined = b"".join([event.frame(wire, event.data) for event in self.events])
            found = self._frames[wire] = joined
        return found


class Feed:
    """One followed thread: the ring covers the revs up to head, without a gap."""

    __slots__ = ("_batches", "asking", "checked", "early", "ephemeral", "filling", "fresh", "grace", "guard", "guarded",
                 "head", "heard_at", "inside", "known", "left_at", "number", "offer", "offer_at", "pause", "readers",
                 "refill", "refilled_at", "ring", "ring_bytes", "round", "round_at", "thread_id")  # fmt: skip

    def __init__(self, thread_id: int, head: int) -> None:
        self.thread_id = thread_id
        self.head = self.known = head  # known: the highest rev that is said to exist
        self.ring: deque[Event] = deque()
        self.ring_bytes = 0
        self.guarded = False  # a contact thread: see Hub.stays
        self.guard: asyncio.Task[set[int]] | None = None  # a look at who is in it, that has not begun
        self.inside: set[int] = set()  # those who were, when a round was last asked for
        self.early: dict[int, Event] = {}  # came before their predecessor
        self.fresh: list[Event] = []  # in the ring, not yet offered to the parked readers
        self.offer: asyncio.Handle | None = None  # the next offer
        self.offer_at = 0.0  # when it may be
        self.asking = 0  # readers who wait for the log
        self.refill: asyncio.Task[None] | None = None
        self.refilled_at = float("-inf")
        self._batches: dict[int, Batch] = {}  # by the cursor before them
        self.readers: set[Reader] = set()
        self.filling = False
        self.grace: asyncio.TimerHandle | None = None
        self.heard_at = self.left_at = 0.0
        self.ephemeral: dict[tuple[str, str], Ephemeral] = {}  # by name and key, the newest last
        self.number = 0  # of the newest
        self.checked = 0  # up to which it was known, after they came, how far the thread had come
        self.round: asyncio.TimerHandle | None = None  # the next one
        self.round_at, self.pause = 0.0, ROUND_SECONDS[0]  # when it may be, how long after the last one

    def covers(self, cursor: int) -> bool:
        """Whether the ring has all that follows a cursor."""
        return bool(self.ring) and self.ring[0].rev <= cursor + 1

    def after(self, cursor: int) -> list[Event]:
        """The events of the ring that follow a cursor it covers."""
        return list(islice(self.ring, cursor + 1 - self.ring[0].rev, None))

    def batch(self, cursor: int) -> Batch:
        """As many of them as make a piece."""
        found = self._batches.get(cursor)
        if found is None:
            events, size = list[Event](), 0
            for event in self.after(cursor):
                size += len(event.data)
                if events and size > PIECE_BYTES:
                    break
                events.append(event)
            found = self._batches[cursor] = Batch(events)
            if len(self._batches) > BATCHES:
                del self._batches[next(iter(self._batches))]
        return found

    def append(self, event: Event) -> None:
        """The next rev. What it makes outdated is dropped: text that was edited or deleted is not told again."""
        if event.kind == "message_updated":
            stale = max((e.rev for e in self.ring if event.seq in (e.seq, e.quoted)), default=0)
            while self.ring and self.ring[0].rev <= stale:
                self._drop()
            self._batches.clear()
        self.ring.append(event)
        self.ring_bytes += _size(event)
        self.head = event.rev
        self.fresh.append(event)
        while len(self.ring) > RING_EVENTS or self.ring_bytes > RING_BYTES:
            self._drop()

    def prepend(self, events: list[Event]) -> None:
        """What the log has from before the ring; nothing that has become outdated while it was read."""
        first = self.ring[0].rev if self.ring else self.head + 1
        older = [event for event in events if event.rev < first]
        if not older or older[-1].rev != first - 1:
            return
        edits = {event.seq: event.rev for event in self.ring if event.kind == "message_updated"}
        for event in reversed(older):
            if max(edits.get(event.seq, 0), edits.get(event.quoted, 0)) > event.as_of:
                return
            if len(self.ring) == RING_EVENTS or self.ring_bytes + _size(event) > RING_BYTES:
                return
            self.ring.appendleft(event)
            self.ring_bytes += _size(event)

    def _drop(self) -> None:
        self.ring_bytes -= _size(self.ring.popleft())

    def clear(self) -> None:
        """Forget the ring; readers go on from the log."""
        self.ring.clear()
        self._batches.clear()
        self.ring_bytes = 0


def _size(event: Event) -> int:
    return len(event.data) + len(event.bare or b"")


class Hub:
    """All feeds of this worker."""

    def __init__(self, db: Db) -> None:
        self.epoch = ""
        self.closing = False
        # A thread that is followed here, somebody whose membership has changed, and how.
        self.moved: Callable[[int, int, str], None] = lambda thread_id, user_id, act: None
        self._db = db
        self._bus: Doorbell | None = None
        self._feeds: dict[int, Feed] = {}
        self._left = asyncio.Event()  # some reader has gone
        self._unseen: set[int] = set()  # feeds whose head is to be looked up
        self._rounds: list[Feed] = []  # whose round waits for that
        self._checking = False
        self._reading = asyncio.Semaphore(LOG_READERS)
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, bus: "Doorbell", *, epoch: str) -> None:
        """Begin to poll and to beat, for as long as the worker lives."""
        self._bus, self.epoch = bus, epoch
        self._spawn(self._poll())
        self._spawn(self._beat())

    async def close(self, seconds: float) -> None:
        """Send every reader away, to come back elsewhere; after so many seconds without waiting for them."""
        self.closing = True
        for reader in self._readers():
            reader.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._readers():
                    self._left.clear()
                    await self._left.wait()
        for reader in self._readers():
            reader.outlet.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _readers(self) -> list["Reader"]:
        return [reader for feed in self._feeds.values() for reader in feed.readers]

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- readers

    def follow(self, reader: "Reader", thread_id: int, *, head: int) -> Feed:
        """Add a reader; head is the last rev of the thread as its door told it.

        What happens between that and the subscription is found when the subscription stands. It is
        made in a task of its own: a reader that vanishes meanwhile must not leave others without it.
        """
        feed = self._feeds.get(thread_id)
        if feed is None:
            feed = self._feeds[thread_id] = Feed(thread_id, head)
            if self._bus is not None:
                self._spawn(self._bus.follow(thread_id))
        feed.readers.add(reader)
        feed.guarded = reader.sight.guarded
        reader.heard = feed.number
        self._known(feed, head)
        return feed

    def leave(self, reader: "Reader", feed: Feed) -> None:
        """Remove a reader. The feed stays for a while: they often come back at once."""
        feed.readers.discard(reader)
        feed.left_at = time.monotonic()
        self._left.set()

    def followed(self) -> list[int]:
        """The threads that have readers here."""
        return [feed.thread_id for feed in self._feeds.values() if feed.readers]

    def follows(self, user_id: int, thread_id: int) -> bool:
        """Whether somebody is among the readers of a thread."""
        feed = self._feeds.get(thread_id)
        return feed is not None and any(reader.sight.user_id == user_id for reader in feed.readers)

    async def after(self, feed: Feed, cursor: int, *, opened: int, size: int) -> Batch | None:
        """The next changes after a cursor; None when it stands at the end. Raises Gap, or what the database raises.

        size is how many are read from the log at the most. opened is the rev of the reader's coming in:
        what was before, they are told by the spans of others, and those are up to date in the log only.
        """
        if cursor >= feed.head:
            return None
        if cursor >= opened and (feed.covers(cursor) or await self._refilled(feed, cursor)):
            return feed.batch(cursor)
        feed.asking += 1
        try:
            rows = await self._since(feed, cursor, size)
        finally:
            feed.asking -= 1
        if not rows or rows[0].rev != cursor + 1:
            raise Gap(feed.head)
        return Batch(rows)

    async def _refilled(self, feed: Feed, cursor: int) -> bool:
        """Whether the ring covers a cursor after what is before it was read, once for all who ask at the same time.

        After a restart thousands come back to the same place. Whoever comes alone reads the log for themselves.
        """
        if feed.head - cursor > RING_EVENTS or not feed.asking:
            return False
        if feed.refill is None:
            if time.monotonic() - feed.refilled_at < REFILL_SECONDS:
                return False
            feed.refill = asyncio.ensure_future(self._refill(feed))
            self._tasks.add(feed.refill)
            feed.refill.add_done_callback(self._tasks.discard)
        await asyncio.wait({feed.refill})  # whoever goes meanwhile does not take it from the others
        return feed.covers(cursor)

    async def _refill(self, feed: Feed) -> None:
        try:
            feed.prepend(await self._since(feed, max(0, feed.head - RING_EVENTS), RING_EVENTS))
        except Exception as error:  # the log is there for each by themselves
            log.event("hub.blind", level="warning", reason=type(error).__name__)
        finally:
            feed.refill, feed.refilled_at = None, time.monotonic()

    async def certain(self, feed: Feed, sight: Sight) -> int | None:
        """A rev up to which this reader is a member now without having left; None when there is no such."""
        door = await changes.door(self._db, user_id=sight.user_id, thread_id=feed.thread_id)
        return door["last_rev"] if door is not None and door["from_rev"][-1] == sight.opened else None

    async def stays(self, feed: Feed, user_id: int) -> bool:
        """Whether a reader of a contact thread is in it, by a look that begins after this.

        Whoever loses their role for the whole server is out of these threads, and no change of a thread says so. So
        what is committed after that may ring before anybody knows of it, and each is asked for before they are told.
        """
        if feed.guard is None:
            feed.guard = asyncio.ensure_future(self._guard(feed))
            self._tasks.add(feed.guard)
            feed.guard.add_done_callback(self._tasks.discard)
            feed.guard.add_done_callback(lambda done: done.cancelled() or done.exception())
        return user_id in await asyncio.shield(feed.guard)  # others wait for it too

    async def _guard(self, feed: Feed) -> set[int]:
        await asyncio.sleep(0)  # whoever else is woken by the same news
        feed.guard = None
        return (await self._insiders([feed])).get(feed.thread_id, set())

    async def _insiders(self, feeds: list[Feed]) -> dict[int, set[int]]:
        """Who of the readers of these threads is in them now."""
        pairs = list({(feed.thread_id, reader.sight.user_id) for feed in feeds for reader in feed.readers})
        found: dict[int, set[int]] = {}
        for start in range(0, len(pairs), POLL_PAGE):
            some = pairs[start : start + POLL_PAGE]
            rows = await changes.inside(
                self._db, thread_ids=[one for one, _ in some], user_ids=[one for _, one in some]
            )
            for row in rows:
                found.setdefault(row["thread_id"], set()).add(row["user_id"])
        return found

    def turned(self, payload: bytes = b"") -> None:
        """Somebody came to the staff or left it: the ids."""
        with contextlib.suppress(ValueError):
            people = {int(word) for word in payload.split()}
            if any(reader.sight.user_id in people for feed in self._guarded() for reader in feed.readers):
                self._spawn(self._expel())

    def _guarded(self) -> list[Feed]:
        return [feed for feed in self._feeds.values() if feed.guarded and feed.readers]

    async def _expel(self) -> None:
        """Send away the readers of contact threads who are no longer in them."""
        feeds = {feed: list(feed.readers) for feed in self._guarded()}  # not who comes meanwhile
        if not feeds:
            return
        try:
            inside = await self._insiders(list(feeds))
        except Exception as error:  # the next poll asks again; and so does whatever they are told before
            log.event("hub.blind", level="warning", reason=type(error).__name__)
            return
        for feed, readers in feeds.items():
            for reader in readers:
                if reader.sight.user_id not in inside.get(feed.thread_id, ()):
                    reader.expel()

    async def _since(self, feed: Feed, cursor: int, size: int) -> list[Event]:
        async with self._reading:
            rows = await changes.since(self._db, thread_id=feed.thread_id, after_rev=cursor, size=size)
        return [changes.event_of(row, epoch=self.epoch, thread_id=feed.thread_id) for row in rows]

    # -- news, from the bus

    def heard(self, thread_id: int, payload: bytes) -> None:
        """A doorbell: "rev", or "rev seq quoted", the message, and the same with a bare quote, a line each."""
        feed = self._feeds.get(thread_id)
        if feed is None:
            return
        head, _, rest = payload.partition(b"\n")
        rev, *place = (int(part) for part in head.split())
        if rev <= feed.head:
            return
        feed.heard_at = time.monotonic()
        if not place:
            self._known(feed, rev)
            return
        feed.known = max(feed.known, rev)
        message, _, bare = rest.partition(b"\n")
        event = Event(
            id=changes.cursor(self.epoch, thread_id, rev),
            rev=rev,
            kind="message",
            seq=place[0],
            quoted=place[1] or None,
            user_id=None,
            act=None,
            as_of=rev,
            data=message,
            bare=bare or None,
        )
        if rev == feed.head + 1:
            self._take(feed, event)
        elif len(feed.early) < RING_EVENTS:
            feed.early[rev] = event
        if feed.known > feed.head and feed.grace is None:
            feed.grace = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._grace_over, feed)

    def joined(self, thread_id: int) -> None:
        """The subscription stands: what came before it is looked up."""
        self._look(thread_id)

    def doubt(self, reason: str) -> None:
        """Doorbells may have been missed: look everywhere."""
        log.event("hub.doubt", reason=reason, threads=len(self._feeds))
        self._look(*self._feeds)

    def _look(self, *thread_ids: int) -> None:
        if not self._unseen:
            self._spawn(self._look_up())
        self._unseen.update(thread_ids)

    async def _look_up(self) -> None:
        await asyncio.sleep(0)  # gather what else this turn of the loop asks for
        wanted, self._unseen = list(self._unseen), set()
        try:
            for start in range(0, len(wanted), POLL_PAGE):
                for row in await changes.heads(self._db, thread_ids=wanted[start : start + POLL_PAGE]):
                    feed = self._feeds.get(row["thread_id"])
                    if feed is not None:
                        self._known(feed, row["last_rev"])
        except Exception as error:  # the next poll asks again, whatever it was
            log.event("hub.blind", level="warning", reason=type(error).__name__)

    async def _poll(self) -> None:
        """Whatever rings nowhere is found here: a worker died before it rang, Redis is away."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now = time.monotonic()
            for feed in list(self._feeds.values()):
                if not feed.readers and now - feed.left_at > LINGER_SECONDS:
                    del self._feeds[feed.thread_id]
                    if self._bus is not None:
                        await self._bus.unfollow(feed.thread_id)
                elif now - max(feed.heard_at, feed.refilled_at) > RING_SECONDS:
                    feed.clear()
            silent = [feed.thread_id for feed in self._feeds.values() if now - feed.heard_at > POLL_SECONDS]
            if silent:
                self._unseen.update(silent)
                await self._look_up()
            await self._expel()

    # -- the ring

    def _known(self, feed: Feed, rev: int) -> None:
        """There is a change up to rev: see that the ring gets there."""
        feed.known = max(feed.known, rev)
        if feed.known > feed.head and not feed.filling:
            feed.filling = True
            self._spawn(self._fill(feed))

    def _grace_over(self, feed: Feed) -> None:
        feed.grace = None
        self._known(feed, feed.known)

    async def _fill(self, feed: Feed) -> None:
        """Read the log from the ring's end, once for all readers."""
        try:
            while feed.known > feed.head and self._feeds.get(feed.thread_id) is feed:
                events = await self._since(feed, feed.head, LOG_PAGE)
                if not events:
                    self._skip(feed, feed.known)  # no longer in the log
                    return
                if events[0].rev > feed.head + 1:
                    self._skip(feed, events[0].rev - 1)
                for event in events:
                    if event.rev == feed.head + 1:
                        self._take(feed, event)
        except Exception as error:  # the next poll tries again, whatever it was
            log.event("hub.blind", level="warning", reason=type(error).__name__)
        finally:
            feed.filling = False

    def _skip(self, feed: Feed, head: int) -> None:
        feed.clear()
        feed.fresh.clear()
        feed.head = head
        for reader in feed.readers:
            reader.wake()

    def _take(self, feed: Feed, event: Event) -> None:
        """Append the next change, and those that waited for it; offer them when this turn of the loop ends."""
        if feed.offer is None:
            loop, wait = asyncio.get_running_loop(), feed.offer_at - time.monotonic()
            feed.offer = (
                loop.call_later(wait, self._offer, feed) if wait > 0 else loop.call_soon(self._offer, feed)
            )
        feed.append(event)
        if event.user_id is not None and event.act is not None:
            self.moved(feed.thread_id, event.user_id, event.act)
        while feed.early:
            waiting = feed.early.pop(feed.head + 1, None)
            if waiting is None:
                feed.early = {rev: early for rev, early in feed.early.items() if rev > feed.head}
                break
            feed.append(waiting)

    def _offer(self, feed: Feed) -> None:
        """Write what is new, joined and encoded once, to each reader who stands at the end and takes it."""
        now, feed.offer = time.monotonic(), None
        events, feed.fresh = feed.fresh, []
        if not events:
            return
        batch, chunks = Batch(events), dict[Wire, bytes]()
        current = bool(feed.ring) and feed.ring[0].rev <= batch.first  # else some of it is outdated already
        for reader in feed.readers:
            if reader.parked and current and not feed.guarded and batch.suits(reader):
                outlet = reader.outlet
                chunk = chunks.get(outlet.wire)
                if chunk is None:
                    chunk = chunks[outlet.wire] = outlet.wire.pack(batch.frames(outlet.wire))
                if len(chunk) <= PUSH_BYTES and outlet.take(chunk, now):
                    reader.cursor = batch.last
                    continue
            if reader.cursor < batch.last:
                reader.wake()
        took = time.monotonic() - now
        if took > LONG_OFFER_SECONDS:
            feed.offer_at = now + took + min(took, REST_SECONDS)

    # -- what is so at the moment

    def told(self, thread_id: int, name: str, key: str, data: bytes, but: int = 0) -> None:
        """Tell the readers of a thread something that is in no log, instead of what had the same name and key."""
        feed = self._feeds.get(thread_id)
        if feed is None or not feed.readers:
            return
        now = time.monotonic()
        feed.number += 1
        feed.ephemeral.pop((name, key), None)
        until = now + EPHEMERAL_SECONDS.get(name, float("inf"))
        feed.ephemeral[name, key] = Ephemeral(feed.number, name, data, but, until)
        if len(feed.ephemeral) > EPHEMERAL_KEPT:
            feed.ephemeral.pop(next(iter(feed.ephemeral)))
        if feed.round is None:
            wait = max(0.0, feed.round_at - now)
            feed.round = asyncio.get_running_loop().call_later(wait, self._round, feed)

    def due(self, thread_id: int) -> float:
        """In how many seconds a thread's next round may be: what is told sooner waits, and may be put together."""
        feed = self._feeds.get(thread_id)
        return max(0.0, feed.round_at - time.monotonic()) if feed is not None else 0.0

    def _round(self, feed: Feed) -> None:
        """The next round, as soon as it is known how far the thread has come.

        What is new may have come after a removal that has rung nowhere: whoever was removed is not told of it.
        """
        if feed.checked == feed.number:
            self._tell(feed)
            return
        self._rounds.append(feed)
        if not self._checking:
            self._checking = True
            self._spawn(self._check())

    async def _check(self) -> None:
        """Ask for the heads of the threads whose rounds wait, together, and go on with them."""
        try:
            while self._rounds:
                feeds, self._rounds = self._rounds[:POLL_PAGE], self._rounds[POLL_PAGE:]
                numbers = {feed.thread_id: feed.number for feed in feeds}
                heads = dict[int, int]()
                with contextlib.suppress(Exception):  # the poll says so; the rounds come later
                    if guarded := [feed for feed in feeds if feed.guarded]:
                        inside = await self._insiders(guarded)
                        for feed in guarded:
                            feed.inside = inside.get(feed.thread_id, set())
                    heads = {
                        row["thread_id"]: row["last_rev"]
                        for row in await changes.heads(self._db, thread_ids=list(numbers))
                    }
                for feed in feeds:
                    if feed.thread_id in heads:
                        feed.checked = numbers[feed.thread_id]
                        self._known(feed, heads[feed.thread_id])
                    self._tell(feed)
        finally:
            self._checking = False

    def _tell(self, feed: Feed) -> None:
        """Tell each reader what they have not heard. Who is busy or behind is told in a later round."""
        now, feed.round = time.monotonic(), None
        # A change on its way: perhaps somebody is no longer in it.
        written, late = (0, True) if feed.known > feed.head else self._write(feed, now)
        late = late or feed.checked < feed.number
        shortest, longest = ROUND_SECONDS
        if written or not late:
            feed.pause = min(longest, max(shortest, written / EPHEMERAL_PER_SECOND))
        else:
            feed.pause = min(longest, feed.pause * 2)
        feed.round_at = now + feed.pause
        if late and feed.readers:
            feed.round = asyncio.get_running_loop().call_later(feed.pause, self._round, feed)

    def _write(self, feed: Feed, now: float) -> tuple[int, bool]:
        """To how many readers something was written, and whether others have still to be told."""
        for key in [key for key, one in feed.ephemeral.items() if one.until < now]:
            del feed.ephemeral[key]
        ready = [one for one in feed.ephemeral.values() if one.number <= feed.checked]
        people = {one.but for one in ready}  # who is not told all of it
        chunks: dict[tuple[Wire, int, int], bytes] = {}
        written, late = 0, False
        for reader in feed.readers:
            if reader.heard >= feed.checked or (feed.guarded and reader.sight.user_id not in feed.inside):
                continue
            if not reader.parked or reader.cursor != feed.head:
                late = True
                continue
            wire, user_id = reader.outlet.wire, reader.sight.user_id
            kind = (wire, reader.heard, user_id if user_id in people else 0)
            chunk = chunks.get(kind)
            if chunk is None:
                news = [
                    wire.event(one.name, None, one.data)
                    for one in ready
                    if one.number > reader.heard and one.but != user_id
                ]
                chunk = chunks[kind] = wire.pack(b"".join(news)) if news else b""
            if chunk and not reader.outlet.take(chunk, now):
                late = True
                continue
            reader.heard = feed.checked
            written += bool(chunk)
        return written, late

    async def _beat(self) -> None:
        """A comment to whoever has heard nothing for a while, so that proxies and timeouts let them be."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for feed in self._feeds.values():
                for reader in feed.readers:
                    outlet, beat = reader.outlet, reader.outlet.wire.heartbeat
                    if now - outlet.written_at >= HEARTBEAT_SECONDS and beat and reader.parked:
                        outlet.take(beat, now)
