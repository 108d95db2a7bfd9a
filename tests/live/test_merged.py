"""The user stream: nothing skipped, whatever the order in which transactions end; and as a client meets it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest

from server import messages, threads
from server.live import changes, merged
from server.live.merged import Merged, UserReader
from server.live.wire import SSE, Wire
from tests.client import NUMBERS
from tests.live.wire import Frame, frames, so


class Paper:
    """An outlet on which a client reads when the test says so."""

    wire: Wire = SSE

    def __init__(self) -> None:
        self.written_at = 0.0
        self.got = bytearray()
        self.dead = False
        self._open = asyncio.Event()
        self._open.set()

    @property
    def told(self) -> list[Frame]:
        return frames(bytes(self.got))

    def stop(self) -> None:
        self._open.clear()

    def go(self) -> None:
        self._open.set()

    def writable(self) -> bool:
        return self._open.is_set() and not self.dead

    def take(self, chunk: bytes, now: float) -> bool:
        if not self.writable():
            return False
        size, _, rest = chunk.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
        self.got += rest[:-2]
        return True

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._open.wait()
        yield

    async def send(self, frames: bytes) -> None:
        await self._open.wait()
        self.got += frames

    def abort(self) -> None:
        self.dead = True


class Listener:
    """Somebody who reads, is slow, goes away and comes back with the last id."""

    def __init__(self, tail: Merged, user_id: int) -> None:
        self.user_id, self._merged = user_id, tail
        self.told: list[Frame] = []
        self.id: str | None = None
        self.resyncs = 0
        self._task: asyncio.Task[None] | None = None

    async def come(self) -> None:
        self.paper = Paper()
        self.reader = UserReader(self._merged, self.user_id, self.paper)
        start, missed = await self._merged.follow(self.reader, self.id)
        self.resyncs += missed
        self.id = self.id or start
        self._task = asyncio.ensure_future(self.reader.run())

    async def go(self) -> None:
        """Some of what was written on the way may be lost."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._merged.leave(self.reader)
        self.read()

    def read(self) -> None:
        new = self.paper.told
        self.paper.got.clear()
        for frame in new:
            assert frame.event == "thread", frame
            self.told.append(frame)
            self.id = frame.id or self.id

    @property
    def states(self) -> dict[int, dict[str, Any]]:
        """The latest that was told of each thread."""
        return {
            frame.json["id"]: {k: v for k, v in frame.json.items() if k != "message"} for frame in self.told
        }

    def seqs(self, thread_id: int) -> list[int]:
        """Of the messages that were told, in the order of telling."""
        return [
            f.json["message"]["seq"] for f in self.told if f.json["id"] == thread_id and "message" in f.json
        ]


async def person(db: asyncpg.Pool, name: str = "") -> int:
    name = name or f"person{next(NUMBERS)}"
    return int(await db.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name))


async def group(db: asyncpg.Pool, founder: int, *others: int, kind: str = "group") -> int:
    made = await threads.create(db, user_id=founder, kind=kind, title="Team", member_ids=sorted(others))
    assert made is not None
    return made


async def say(db: Any, thread_id: int, who: int, text: str = "hi", *, quoted: int | None = None) -> int:
    row = await messages.send(
        db, user_id=who, thread_id=thread_id, text=text, reply_to=quoted, client_id=None, body_hash=b"", handles=[]
    )  # fmt: skip
    assert row is not None and row["sent"]
    return int(row["seq"])


@contextlib.asynccontextmanager
async def tail_on(pool: asyncpg.Pool) -> AsyncIterator[Merged]:
    tail = Merged(pool)
    tail.start(epoch=await changes.epoch(pool))
    yield tail
    await tail.close(0)


@pytest.fixture
async def tail(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Merged]:
    """Looks are due all the time."""
    monkeypatch.setattr(merged, "POLL_SECONDS", 0.02)
    async with tail_on(pool) as tail:
        yield tail


async def fresh(db: asyncpg.Pool, user_id: int, thread_id: int) -> Any:
    found = await threads.get(db, user_id=user_id, thread_id=thread_id)
    return orjson.loads(found) if found is not None else None


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_is_skipped_however_late_transactions_end(
    pool: asyncpg.Pool, db_url: str, tail: Merged, seed: int
) -> None:
    """16 writers that dawdle between statement and commit, roll back, and have subtransactions; readers that are
    slow, leave and come back at any moment."""
    chance = random.Random(seed)
    people = [await person(pool) for _ in range(6)]
    rooms = [await group(pool, *chance.sample(people, 4)) for _ in range(5)]
    inside = {
        room: [
            r["user_id"]
            for r in await pool.fetch("SELECT user_id FROM memberships WHERE thread_id = $1", room)
        ]
        for room in rooms
    }
    steady = [Listener(tail, one) for one in people]
    flaky = [Listener(tail, one) for one in people for _ in range(2)]
    for listener in (*steady, *flaky):
        await listener.come()
    done = False

    async def write(number: int) -> int:
        count, own = 0, random.Random(seed * 100 + number)
        conn = await asyncpg.connect(db_url)
        try:
            for _ in range(12):
                transaction = conn.transaction()
                await transaction.start()
                said = 0
                for room in sorted(own.sample(rooms, own.randint(1, 2))):
                    await asyncio.sleep(own.random() * 0.01)
                    if own.random() < 0.3:
                        inner = conn.transaction()
                        await inner.start()
                        await say(conn, room, own.choice(inside[room]))
                        await inner.rollback()
                    async with conn.transaction():
                        await say(conn, room, own.choice(inside[room]))
                        said += 1
                await asyncio.sleep(own.random() ** 3 * 0.1)
                if own.random() < 0.2:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    count += said
        finally:
            await conn.close()
        return count

    async def dawdle() -> None:
        """A transaction that is open for long and has to do with none of this."""
        conn = await asyncpg.connect(db_url)
        try:
            while not done:
                async with conn.transaction():
                    await conn.execute("INSERT INTO audit (act) VALUES ('dawdle')")
                    await asyncio.sleep(0.3)
        finally:
            await conn.close()

    async def fret(listener: Listener) -> None:
        own = random.Random(listener.user_id * 7 + id(listener) % 1000)
        while not done:
            match own.choice(("stop", "leave", "read", "read")):
                case "stop":
                    listener.paper.stop()
                    await asyncio.sleep(own.random() * 0.1)
                    listener.paper.go()
                case "leave":
                    await listener.go()
                    await asyncio.sleep(own.random() * 0.1)
                    await listener.come()
                case "read":
                    listener.read()
            await asyncio.sleep(own.random() * 0.05)

    frets = [asyncio.ensure_future(fret(listener)) for listener in flaky]
    slow = asyncio.ensure_future(dawdle())
    written = sum(await asyncio.gather(*(write(number) for number in range(16))))
    done = True
    await asyncio.gather(*frets, slow)
    heads = {r["thread_id"]: r["last_seq"] for r in await pool.fetch("SELECT * FROM thread_heads")}
    assert written == sum(heads[room] for room in rooms) > 100

    def told() -> bool:
        for listener in (*steady, *flaky):
            listener.read()
        return all(
            listener.states.get(room, {}).get("lastSeq") == heads[room]
            for listener in (*steady, *flaky)
            for room in rooms
            if listener.user_id in inside[room]
        )

    await so(
        told, lambda: str([{r: s["lastSeq"] for r, s in one.states.items()} for one in (*steady, *flaky)])
    )
    for listener in (*steady, *flaky):
        assert not listener.resyncs
        assert set(listener.states) == {room for room in rooms if listener.user_id in inside[room]}
        for room, state in listener.states.items():
            assert state == await fresh(pool, listener.user_id, room)
            seqs = [frame.json["lastSeq"] for frame in listener.told if frame.json["id"] == room]
            assert seqs == sorted(seqs), "told something older than before"
            assert listener.seqs(room) == sorted(set(listener.seqs(room)))
    for listener in steady:
        for room in listener.states:
            assert listener.seqs(room) == list(range(1, heads[room] + 1)), "an event for each message"
