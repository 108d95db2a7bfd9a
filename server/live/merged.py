"""The user stream: what concerns a person, over all their threads. SQL: db/queries/merged.sql.

A worker with such readers has one tail. It looks for all that has been committed since the place of its last look, in
one statement, with what is to be told of it to the people here; it looks when somebody says that there is something
(the bus), and once a second. What members of a thread share is made once, whoever reads it.

A reader who stands where the tail stands needs nothing of its own. One whose socket does not take it keeps its place
and the threads in which it missed something, and the tail tells these again; one who comes back, or has missed too
much, reads which of its threads have changed since its place. Both tell what is so now: a `thread` event each.

Who is in a thread is decided by the snapshot that the event is made of. So nothing from after a removal is told.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from server.base import log
from server.base.db import Db, query
from server.base.errors import AWAY, Unavailable
from server.live.hub import HEARTBEAT_SECONDS, PUSH_BYTES
from server.live.outlet import Outlet
from server.live.reader import Reader
from server.live.stream import JOINING_SECONDS
from server.live.wire import Wire

LOOK_SECONDS = 0.015  # between two looks, at least, and as long as the last one took
POLL_SECONDS = 1.0  # how late a reader may be when nobody says that there is news
RETRY_SECONDS = 1.0  # between tries while the database is away
CHANGES = 20_000  # told from one look; of more each reader finds by itself what concerns it
PAIRS = 50_000  # of a changed thread and a member of it here, likewise: a second, or two if in 20,000 threads
ASKED = 2000  # threads told again in one look, of all readers
MISSED = 64  # threads that a slow reader remembers
PAGE = 50  # threads read at once by a reader who catches up
# Of the staff, who have no membership in most contact threads: looked through for one who catches up, and told; where
# there are more, they are told to begin anew.
INBOX_CHANGES, INBOX_THREADS = 20_000, 1000
RESUMES = 3  # such reads at once, so that connections are left for the rest
OPEN_XIDS = 32  # transactions under way that a cursor names
TRIM_SECONDS, TRIM_ROWS = 30.0, 5000
KEPT_SECONDS = 600  # of personal changes
BLIND_SECONDS = KEPT_SECONDS / 2  # without a look: personal changes may have been trimmed
PLACE = re.compile(r"([1-9]\d{0,17}):([1-9]\d{0,17}):((?:[1-9]\d{0,17}(?:,[1-9]\d{0,17})*)?)", re.ASCII)


@query
async def place(db: Db) -> str: ...


@query
async def tail(
    db: Db,
    *,
    seen: str,
    user_ids: list[int],
    asked_threads: list[int],
    asked_users: list[int],
    size: int,
    pairs: int,
) -> list[asyncpg.Record]: ...


@query
async def since(
    db: Db,
    *,
    user_id: int,
    seen: str,
    after_id: int,
    size: int,
    inbox: list[int] | None,
    looks: int,
    most: int,
) -> list[asyncpg.Record]: ...


@query
async def trim(db: Db, *, size: int, seconds: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody stands in the merged log: all transactions before `end` have been told, but for the open ones."""

    text: str
    first: int  # the first of the open ones, or end
    end: int
    open: frozenset[int]

    def sees(self, xids: Iterable[int]) -> bool:
        """Whether all of these have been told."""
        return all(xid < self.end and xid not in self.open for xid in xids)

    def covers(self, other: "Place") -> bool:
        """Whether all that has been told there has been told here."""
        return other.end <= self.end and all(xid in other.open for xid in self.open if xid < other.end)


def parsed(text: str) -> Place | None:
    """A pg_snapshot, or None when it is none."""
    match = PLACE.fullmatch(text)
    if match is None:
        return None
    first, end = int(match[1]), int(match[2])
    xids = [int(xid) for xid in match[3].split(",")] if match[3] else []
    if not first <= end or xids != sorted(set(xids)) or any(not first <= xid < end for xid in xids):
        return None
    return Place(text, first, end, frozenset(xids))


def known(text: str) -> Place:
    """One that the database tells."""
    found = parsed(text)
    assert found is not None, text
    return found


def cursor(epoch: str, here: Place) -> str:
    """The id of an event. With many transactions under way, all after the first of them will be told again."""
    text = here.text if len(here.open) <= OPEN_XIDS else f"{here.first}:{here.first}:"
    return f"{epoch}.u.{text}"


def position(given: str, *, epoch: str) -> Place | None:
    """The place that a cursor stands for, or None when it is none of a user stream in this life of the log."""
    head, _, text = given.rpartition(".")
    found = parsed(text) if head == f"{epoch}.u" else None
    return found if found is not None and len(found.open) <= OPEN_XIDS else None


@dataclass(slots=True)
class News:
    """What some people are told alike of a thread: an event, or one for each new message."""

    thread_id: int
    xids: tuple[int, ...]  # of all its changes; none: it is told again to whoever asked
    state: bytes  # the thread
    messages: list[tuple[int, bytes]]  # xid, the thread and a message
    _frames: dict[tuple[Wire, str | None], bytes] = field(default_factory=dict)
    _chunks: dict[Wire, bytes] = field(default_factory=dict)

    def frames(self, wire: Wire, id_: str | None) -> bytes:
        """All of it; the last event has the id."""
        found = self._frames.get((wire, id_))
        if found is None:
            found = self._frames[wire, id_] = frames_of(
                wire, [data for _, data in self.messages] or [self.state], id_
            )
        return found

    def chunk(self, wire: Wire, id_: str) -> bytes:
        """The same, packed."""
        found = self._chunks.get(wire)
        if found is None:
            found = self._chunks[wire] = wire.pack(self.frames(wire, id_))
        return found

    def after(self, here: Place) -> list[bytes]:
        """The events that somebody at this place has not been told."""
        found = [data for xid, data in self.messages if not here.sees((xid,))]
        return found or [self.state]


def frames_of(wire: Wire, data: Sequence[bytes], id_: str | None) -> bytes:
    """`thread` events, the last with an id."""
    last = len(data) - 1
    return b"".join([wire.event("thread", id_ if n == last else None, one) for n, one in enumerate(data)])


@dataclass(slots=True)
class Look:
    """What a tail has found."""

    place: Place
    whole: bool
    news: dict[int, list[News]] = field(default_factory=dict)  # by person
    own: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)  # xids, by thread and person
    anew: set[int] = field(default_factory=set)  # people who see other threads from now on

    def xids(self, news: News, user_id: int) -> tuple[int, ...]:
        """Of what has changed for one person; none when nothing has."""
        return news.xids + self.own.get((news.thread_id, user_id), ())


def look_of(rows: list[asyncpg.Record]) -> Look:
    """From the rows of `tail`."""
    by_kind: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    (here,) = by_kind["place"]
    look = Look(known(here["head"]), here["whole"])
    xids = {row["thread_id"]: _xids(row) for row in by_kind.get("changed", ())}
    look.own = {(row["thread_id"], row["user_ids"][0]): _xids(row) for row in by_kind.get("own", ())}
    look.anew = {one for row in by_kind.get("anew", ()) for one in row["user_ids"]}
    threads = {row["thread_id"]: row for row in by_kind.get("thread", ())}
    messages: dict[int, list[asyncpg.Record]] = {}
    for row in by_kind.get("message", ()):
        messages.setdefault(row["thread_id"], []).append(row)
    for row in by_kind.get("mine", ()):
        thread_id = row["thread_id"]
        shared = threads[thread_id]
        last = shared["last"] if row["whole"] else "null"
        state = f"{shared['head']}{last}{shared['rest']}{row['head']}"
        said = [
            (int(m["xids"][0]), f'{state[:-1]},"message":{text}}}'.encode())
            for m in messages.get(thread_id, ())
            if (text := _in_sight(m, row)) is not None
        ]
        _add(look, row, News(thread_id, xids.get(thread_id, ()), state.encode(), said))
    for row in by_kind.get("gone", ()):
        thread_id = row["thread_id"]
        _add(look, row, News(thread_id, xids.get(thread_id, ()), gone(thread_id, row["head"]), []))
    return look


def _xids(row: asyncpg.Record) -> tuple[int, ...]:
    return tuple(int(xid) for xid in row["xids"])


def _in_sight(message: asyncpg.Record, mine: asyncpg.Record) -> str | None:
    """A message as these people may see it."""

    def seen(seq: int) -> bool:
        return seq > mine["rev"] or seq in (mine["seqs"] or ())

    if not seen(message["seq"]):
        return None
    text: str = message["head"] if message["quoted"] is None or seen(message["quoted"]) else message["rest"]
    return text


def _add(look: Look, row: asyncpg.Record, news: News) -> None:
    for user_id in row["user_ids"]:
        look.news.setdefault(user_id, []).append(news)


def gone(thread_id: int, act: str | None) -> bytes:
    """A thread that is no longer one's own."""
    return f'{{"id":{thread_id},"role":null,"act":"{act or "removed"}"}}'.encode()


class UserReader(Reader):
    """One user stream, over whatever socket."""

    __slots__ = ("_merged", "asking", "missed", "place", "user_id")

    def __init__(self, merged: "Merged", user_id: int, outlet: Outlet) -> None:
        super().__init__(outlet)
        self.user_id = user_id
        self.place: Place | None = None  # None: where the tail stands
        # Threads in which something has happened since, with the xids of the latest; None: any of one's own.
        self.missed: dict[int, tuple[int, ...]] | None = None
        self.asking = False  # the tail is about to tell these
        self._merged = merged

    async def run(self) -> None:
        """Write all that concerns this person, until the end of the session or of the worker."""
        merged = self._merged
        while not (self._ending or merged.closing):
            if self.missed is None:
                try:
                    await self._catch_up()
                except AWAY as error:
                    log.event("stream.blind", level="warning", reason=type(error).__name__)
                    await asyncio.sleep(RETRY_SECONDS)
                continue
            if not self.outlet.writable():
                async with self.outlet.turn():
                    pass
            if self.missed:
                merged.hint()
            if not self._ending:
                await self._park()

    async def _catch_up(self) -> None:
        """Tell which of one's threads have changed since the place, as they are. What comes meanwhile is missed."""
        assert self.place is not None
        seen, after, here = self.place.text, 0, None
        inbox: list[int] | None = None
        try:
            more = True
            while more and not self._ending:
                async with self.outlet.turn():
                    if here is None:
                        self.missed = {}  # from the first page on; of what came before that each page tells
                    rows, more = await self._merged.changed(self.user_id, seen, after, inbox)
                    here, inbox = here or known(rows[0]["place"]), rows[0]["inbox"]
                    if not rows[0]["whole"]:
                        anew = resync(self.outlet.wire, cursor(self._merged.epoch, here))
                        await self.outlet.send(anew)
                    told = [row for row in rows if row["thread_id"] is not None]
                    if told:
                        after = told[-1]["thread_id"]
                        data = [
                            row["thread"].encode() if row["thread"] else gone(row["thread_id"], row["act"])
                            for row in told
                        ]
                        id_ = None if more else cursor(self._merged.epoch, here)
                        await self.outlet.send(frames_of(self.outlet.wire, data, id_))
        except BaseException:
            self.missed = None
            raise
        if here is None:
            return
        self.place = here
        if self.missed is not None:  # else so much has come meanwhile that it is to be done again
            self.missed = {one: xids for one, xids in self.missed.items() if not here.sees(xids)}


class Merged:
    """The tail of a worker, and its readers."""

    def __init__(self, db: Db, tailing: Db) -> None:
        self.epoch = ""
        self.closing = False
        self._db = db
        self._tailing = tailing  # for the tail alone: open_pool(generic=True)
        self._place: Place | None = None  # of the last look
        self._looked_at = 0.0
        self._readers: dict[int, set[UserReader]] = {}  # by person
        self._apart: set[UserReader] = set()  # those that have a place of their own
        self._arriving: dict[UserReader, tuple[Place, asyncio.Future[None]]] = {}
        self._hinted = asyncio.Event()
        self._left = asyncio.Event()
        self._reading = asyncio.Semaphore(RESUMES)
        self._tail: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, *, epoch: str) -> None:
        """Begin to beat, and to trim, for as long as the worker lives. The tail begins with the first reader."""
        self.epoch = epoch
        self._spawn(self._beat())
        self._spawn(self._trim())

    async def close(self, seconds: float) -> None:
        """Send every reader away, to come back elsewhere; after so many seconds without waiting for them."""
        self.closing = True
        self._refuse(stopping())
        for reader in self._all():
            reader.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._all():
                    self._left.clear()
                    await self._left.wait()
        for reader in self._all():
            reader.outlet.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _all(self) -> list[UserReader]:
        return [reader for readers in self._readers.values() for reader in readers]

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- readers

    async def follow(self, reader: UserReader, given: str | None) -> tuple[str, bool]:
        """Add a reader, who has been told all up to a cursor (or now), and has to leave again.

        Where it stands, and whether it asked for what can't be served. Raises Unavailable when the worker stops, and
        what the database raises.
        """
        if self.closing:
            raise stopping()
        start = position(given, epoch=self.epoch) if given else None
        missed = False
        if start is None or self._place is None or start.end > self._place.end:
            # Now; or newer than what is known here: told by another worker, or by nobody.
            now = known(await place(self._db))
            missed = bool(given) and (start is None or start.end > now.end)
            start = now if start is None or missed else start
        admitted = asyncio.get_running_loop().create_future()
        self._arriving[reader] = start, admitted
        if self._tail is None:
            self._tail = self._spawn(self._run())
        self.hint()
        try:
            await admitted
        finally:
            self._arriving.pop(reader, None)
        return cursor(self.epoch, start), missed

    def leave(self, reader: UserReader) -> None:
        """Remove a reader, if it is there."""
        self._apart.discard(reader)
        if (readers := self._readers.get(reader.user_id)) is not None:
            readers.discard(reader)
            if not readers:
                del self._readers[reader.user_id]
        self._left.set()

    async def changed(
        self, user_id: int, seen: str, after_id: int, inbox: list[int] | None
    ) -> tuple[list[asyncpg.Record], bool]:
        """A page of somebody's changed threads, and whether there are more."""
        async with self._reading:
            rows = await since(
                self._db,
                user_id=user_id,
                seen=seen,
                after_id=after_id,
                size=PAGE + 1,
                inbox=inbox,
                looks=INBOX_CHANGES,
                most=INBOX_THREADS,
            )
        return rows[:PAGE], len(rows) > PAGE

    def tell(self, user_id: int, name: str, data: bytes) -> None:
        """Tell somebody what is so at the moment and in no log; whoever is busy misses it."""
        now = time.monotonic()
        for reader in self._readers.get(user_id, ()):
            if reader.parked:
                wire = reader.outlet.wire
                reader.outlet.take(wire.pack(wire.event(name, None, data)), now)

    def presence(self, user_id: int, online: list[int], offline: list[int]) -> None:
        """Who came and who went of the people in somebody's direct threads."""
        self.tell(user_id, "presence", presence(online, offline))

    # -- the tail

    def hint(self, payload: bytes = b"") -> None:
        """There is something new, somewhere."""
        self._hinted.set()

    async def _run(self) -> None:
        """As long as there are readers."""
        blind = False
        while self._readers or self._arriving:
            self._hinted.clear()
            began = time.monotonic()
            try:
                await self._look()
                blind = False
            except Exception as error:  # whatever it is: the next look begins at the same place
                if not blind:
                    log.event("merged.blind", level="warning", reason=type(error).__name__)
                blind = True
                self._refuse(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await asyncio.sleep(max(LOOK_SECONDS, time.monotonic() - began))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._hinted.wait()
        self._place = self._tail = None

    async def _look(self) -> None:
        before = self._place
        if before is None:
            before = self._place = known(await place(self._db))
            self._looked_at = time.monotonic()
        self._admit(before)
        asked = self._ask()
        rows = await tail(
            self._tailing,
            seen=before.text,
            user_ids=list(self._readers),
            asked_threads=[thread_id for thread_id, _ in asked],
            asked_users=[user_id for _, user_id in asked],
            size=CHANGES,
            pairs=PAIRS,
        )
        now = time.monotonic()
        look = look_of(rows)
        late = now - self._looked_at > BLIND_SECONDS
        self._place, self._looked_at = look.place, now
        if look.whole and not late:
            self._tell(look, before, now)
        else:
            for reader in self._all():
                self._set_apart(reader, before, None)

    def _admit(self, here: Place) -> None:
        """From this look on those who have come are told what it finds."""
        for reader, (start, admitted) in self._arriving.items():
            if admitted.done():
                continue
            reader.place = start
            reader.missed = {} if reader.place.covers(here) else None
            self._apart.add(reader)
            self._readers.setdefault(reader.user_id, set()).add(reader)
            admitted.set_result(None)

    def _refuse(self, error: Exception) -> None:
        for _, admitted in self._arriving.values():
            if not admitted.done():
                admitted.set_exception(error)

    def _ask(self) -> list[tuple[int, int]]:
        """What is to be told again: to whom the socket has taken everything since they missed it."""
        asked = set[tuple[int, int]]()
        for reader in self._apart:
            reader.asking = reader.parked and bool(reader.missed) and len(asked) < ASKED
            if reader.asking:
                asked.update((thread_id, reader.user_id) for thread_id in reader.missed or ())
        return list(asked)

    def _tell(self, look: Look, before: Place, now: float) -> None:
        id_ = cursor(self.epoch, look.place)
        for user_id in look.anew:
            look.news.pop(user_id, None)
            for reader in list(self._readers.get(user_id, ())):
                self._set_apart(reader, before, None)  # it reads what is so, and is told of that
        for user_id, news in look.news.items():
            fresh = [one for one in news if look.xids(one, user_id)]
            for reader in list(self._readers.get(user_id, ())):
                if reader in self._apart:
                    self._tell_apart(reader, look, news, id_, now)
                    continue
                if not fresh:
                    continue
                wire = reader.outlet.wire
                if len(fresh) == 1:
                    chunk = fresh[0].chunk(wire, id_)
                else:
                    ids = [None] * (len(fresh) - 1) + [id_]
                    chunk = wire.pack(
                        b"".join([one.frames(wire, i) for one, i in zip(fresh, ids, strict=True)])
                    )
                if not (reader.parked and len(chunk) <= PUSH_BYTES and reader.outlet.take(chunk, now)):
                    self._set_apart(reader, before, {one.thread_id: look.xids(one, user_id) for one in fresh})
        for reader in list(self._apart):
            if reader.asking and reader.missed and reader.parked and reader.user_id not in look.news:
                reader.missed = {}  # nothing is to be said of these any more
            if reader.parked and reader.missed == {} and reader.place and look.place.covers(reader.place):
                reader.place = None
                self._apart.discard(reader)

    def _tell_apart(self, reader: UserReader, look: Look, news: list[News], id_: str, now: float) -> None:
        """Somebody who has a place of their own: what they have not been told, and what they asked for."""
        if reader.missed is None:
            return  # all is read, anyway
        here = reader.place
        assert here is not None
        due: dict[int, tuple[int, ...]] = {}
        data: list[bytes] = []
        for one in news:
            xids = look.xids(one, reader.user_id)
            if not here.sees(xids):
                due[one.thread_id] = xids
            if reader.asking and one.thread_id in reader.missed:
                data.append(one.state)  # with all that was missed
            elif one.thread_id in due:
                data += one.after(here)
        if not data:
            return
        if reader.parked and (reader.asking or not reader.missed):
            wire = reader.outlet.wire
            chunk = wire.pack(frames_of(wire, data, id_))
            if len(chunk) <= PUSH_BYTES and reader.outlet.take(chunk, now):
                reader.missed = {}
                return
        self._set_apart(reader, here, due)

    def _set_apart(self, reader: UserReader, here: Place, missed: dict[int, tuple[int, ...]] | None) -> None:
        """Somebody has not been told something. What it was they remember, if it isn't too much."""
        self._apart.add(reader)
        if reader.place is None:
            reader.place, reader.missed = here, {}
        if missed is None or reader.missed is None or len(reader.missed | missed) > MISSED:
            reader.missed = None
        else:
            reader.missed |= missed
        reader.wake()

    # -- in the background

    async def _beat(self) -> None:
        """A comment to whoever has heard nothing for a while, so that proxies and timeouts let them be."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for reader in self._all():
                beat = reader.outlet.wire.heartbeat
                if beat and reader.parked and now - reader.outlet.written_at >= HEARTBEAT_SECONDS:
                    reader.outlet.take(beat, now)

    async def _trim(self) -> None:
        """Personal changes are of use until every worker has seen them."""
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            with contextlib.suppress(Exception):  # the next time
                while await trim(self._db, size=TRIM_ROWS, seconds=KEPT_SECONDS) == f"DELETE {TRIM_ROWS}":
                    pass


def stopping() -> Unavailable:
    """Another worker, or this one's successor, takes them."""
    return Unavailable("The server is stopping; come back in a moment.", code="stopping")


def resync(wire: Wire, id_: str) -> bytes:
    """Something is missing that can't be told: fetch afresh, and go on from here."""
    return wire.event("resync", id_, b'{"cursor":"%b"}' % id_.encode())


async def friends(ctx: Any, user_id: int, wire: Wire) -> bytes:
    """Who is there of somebody's direct threads, for whoever begins; nothing where that can't be told."""
    if not ctx.settings.presence:
        return b""
    try:
        async with asyncio.timeout(JOINING_SECONDS):
            found = await ctx.presence.friends(user_id)
    except Exception as error:  # whatever it is: the stream is worth more
        log.event("joining.blind", level="warning", reason=type(error).__name__)
        return b""
    return wire.event("presence", None, presence(found, []))


def presence(online: list[int], offline: list[int]) -> bytes:
    """The event of a user stream."""
    return orjson.dumps({"online": online, "offline": offline})
