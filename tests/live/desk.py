"""Hub and streams on a real log: doorbells are rung by the test, or not, and sockets stand still at will."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import asyncpg

from server import members, messages, threads
from server.base.front import Front
from server.live import changes
from server.live.bus import Bus
from server.live.endings import Endings
from server.live.hub import Feed, Hub
from server.live.presence import Presence
from server.live.sse import Follow, thread_stream
from server.live.typists import Typists
from tests.client import NUMBERS
from tests.live.wire import Frame, frames, so

NOWHERE = "redis://127.0.0.1:1"
SOCKET_BYTES = 64 * 1024  # what Sanic lets a transport hold before it makes writers wait


class Bells(Bus):
    """What was rung, for the test to deliver: later, twice, in another order, or never."""

    def __init__(self) -> None:
        self.rung: list[tuple[int, bytes]] = []
        self.ready = asyncio.Event()  # of a subscription
        self.ready.set()

    def _ring(self, thread_id: int, payload: str) -> None:
        self.rung.append((thread_id, payload.encode()))

    async def follow(self, thread_id: int) -> None:
        await self.ready.wait()

    async def unfollow(self, thread_id: int) -> None:
        pass


class Line:
    """The connection of a stream, as Sanic's protocol and response show it. `room` bytes go through, then it stands."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.room: float = float("inf")
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._time = 0.0
        self.headers: dict[str, str] = {}
        self.transport: Line | None = self

    def write(self, data: bytes) -> None:
        """An HTTP chunk, as the hub writes it."""
        size, _, rest = data.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
        self._put(rest[:-2])

    def _put(self, data: bytes) -> None:
        self.got += data
        if len(self.got) > self.room:
            self._can_write.clear()

    def is_closing(self) -> bool:
        return False

    async def send(self, data: bytes) -> None:
        await self._can_write.wait()
        self._put(data)

    def stop(self) -> None:
        """Takes nothing more."""
        self.room = len(self.got)
        self._can_write.clear()

    def go(self) -> None:
        self.room = float("inf")
        self._can_write.set()

    def abort(self) -> None:
        self.transport = None


class Reader:
    """One stream by the real handler."""

    def __init__(self, desk: "Desk", user_id: int, *, since: int | None = None) -> None:
        self.line = Line()
        headers = {"last-event-id": desk.cursor(since)} if since is not None else {}

        async def respond(**_: object) -> Line:
            return self.line

        front = Front(trusted=(), public_url="", origins=())
        ctx = SimpleNamespace(
            hub=desk.hub,
            db=desk.db,
            epoch=desk.hub.epoch,
            endings=Endings(desk.db),
            front=front,
            joining=desk.joining,
            presence=Presence(NOWHERE, desk.db, on=False, hub=desk.hub, post=desk.bells.post),
            typists=Typists(desk.db, on=False, hub=desk.hub, post=desk.bells.post),
        )
        request: Any = SimpleNamespace(
            app=SimpleNamespace(ctx=ctx),
            ctx=SimpleNamespace(user_id=user_id, session_id=1, request_id="test", rate=()),
            headers=headers,
            stream=SimpleNamespace(protocol=self.line),
            respond=respond,
        )
        self.task = asyncio.ensure_future(thread_stream(request, desk.thread_id, Follow()))

    @property
    def told(self) -> list[Frame]:
        """What has been written but `ready`."""
        return [frame for frame in frames(bytes(self.line.got)) if frame.event != "ready"]

    @property
    def revs(self) -> list[int]:
        return [frame.rev for frame in self.told]

    def revs_of(self, event: str) -> list[int]:
        return [frame.rev for frame in self.told if frame.event == event]

    @property
    def started(self) -> bool:
        return bool(self.line.got)

    async def cut(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Desk:
    """A thread of ada (admin) and ben, written to by the server's own statements, and a hub that follows it."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self.db, self.bells, self.hub = db, Bells(), Hub(db)
        self.joining: list[Any] = []
        self.thread_id = self.ada = self.ben = 0
        self.head = 0  # the last rev
        self.seq = 0

    async def open(self) -> None:
        self.ada, self.ben = [await self.person() for _ in range(2)]
        made = await threads.create(
            self.db, user_id=self.ada, kind="group", title="Team", member_ids=[self.ben]
        )
        assert made is not None
        self.thread_id, self.head = made, 2
        self.hub.start(self.bells, epoch=await changes.epoch(self.db))

    async def person(self) -> int:
        name = f"person{next(NUMBERS)}"
        return int(await self.db.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name))

    def cursor(self, rev: int) -> str:
        return f"{self.hub.epoch}.{self.thread_id}.{rev}"

    async def say(self, text: str, *, quoted: int | None = None) -> int:
        """Its seq; the bell is in `bells.rung`."""
        row = await messages.send(
            self.db,
            user_id=self.ada,
            thread_id=self.thread_id,
            text=text,
            reply_to=quoted,
            client_id=None,
            body_hash=b"",
            handles=[],
        )
        assert row is not None
        self.head, self.seq = row["rev"], row["seq"]
        self.bells.ring_message(
            self.thread_id, row["rev"], row["seq"], row["reply_to"], row["message"], row["bare"]
        )
        return self.seq

    async def edit(self, seq: int, text: str) -> None:
        row = await messages.edit(self.db, user_id=self.ada, thread_id=self.thread_id, seq=seq, text=text)
        self._changed(row and row["rev"])

    async def delete(self, seq: int) -> None:
        row = await messages.remove(self.db, user_id=self.ada, thread_id=self.thread_id, seq=seq)
        self._changed(row and row["rev"])

    async def rename(self, title: str) -> None:
        self._changed(await threads.rename(self.db, thread_id=self.thread_id, title=title))

    async def add(self, who: int) -> None:
        rev = await members.open_span(
            self.db, thread_id=self.thread_id, member_id=who, role="member", by_id=who
        )
        self._changed(rev)

    async def remove(self, who: int) -> None:
        rev = await members.close_span(self.db, thread_id=self.thread_id, member_id=who, act="removed")
        self._changed(rev)

    def _changed(self, rev: int | None) -> None:
        if rev is not None:
            self.head = rev
            self.bells.ring(self.thread_id, rev)

    def ring(self) -> None:
        """Deliver every doorbell in order."""
        for thread_id, payload in self.bells.rung:
            self.hub.heard(thread_id, payload)
        self.bells.rung.clear()

    def look(self) -> None:
        """Every doorbell is lost; something makes the hub doubt."""
        self.bells.rung.clear()
        self.hub.doubt("test")

    async def feed(self) -> Feed:
        """The feed, once a reader follows."""
        await so(lambda: self.thread_id in self.hub._feeds, "a feed")
        return self.hub._feeds[self.thread_id]

    async def reader(self, user_id: int | None = None, *, since: int | None = None) -> Reader:
        reader = Reader(self, user_id or self.ben, since=since)
        await so(lambda: reader.started, "ready is written")
        return reader

    async def settled(self, *readers: Reader) -> None:
        """Each has been told the last change."""
        for reader in readers:
            await so(lambda r=reader: self.head in r.revs, f"{self.head} in {reader.revs[-5:]}")  # type: ignore[misc]


@contextlib.asynccontextmanager
async def desk_on(pool: asyncpg.Pool) -> AsyncIterator[Desk]:
    desk = Desk(pool)
    await desk.open()
    yield desk
    await desk.hub.close(0)
