"""The user stream: nothing skipped, whatever the order in which transactions end; and as a client meets it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import orjson
import pytest

from server import members, messages, threads
from server.live import changes, merged
from server.live.merged import Merged, UserReader
from server.live.wire import SSE, Wire
from tests.client import NUMBERS, Api
from tests.conftest import Cast
from tests.live.wire import Frame, frames, so
from tests.rules import ok, refused


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
    tail = Merged(pool, pool)
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


# -- by itself, on a log of its own


@contextlib.asynccontextmanager
async def listening(tail: Merged, user_id: int, since: str | None = None) -> AsyncIterator[Listener]:
    listener = Listener(tail, user_id)
    listener.id = since
    await listener.come()
    try:
        yield listener
    finally:
        await listener.go()


async def until(listener: Listener, so_far: Callable[[], bool]) -> None:
    """Until something is so of what was told."""

    def look() -> bool:
        listener.read()
        return so_far()

    await so(look, lambda: str(listener.told[-3:]))


async def live(listener: Listener) -> None:
    """Until it stands where the tail stands."""
    await so(lambda: listener.reader.place is None and listener.reader.parked, "it is live")


async def test_a_transaction_that_is_open_for_long_delays_nothing_and_is_told_when_it_ends(
    pool: asyncpg.Pool, db_url: str, tail: Merged
) -> None:
    ada, ben = await person(pool), await person(pool)
    room, late = await group(pool, ada, ben), await group(pool, ada, ben)
    conn = await asyncpg.connect(db_url)
    async with listening(tail, ben) as listener:
        transaction = conn.transaction()
        await transaction.start()
        await say(conn, late, ada, "late")
        for number in range(1, 4):
            await say(pool, room, ada)
            await until(listener, lambda n=number: listener.seqs(room) == list(range(1, n + 1)))  # type: ignore[misc]
        assert not listener.seqs(late)
        between = listener.id  # it names the open transaction: what came after is not told again
        async with listening(tail, ben, between) as again:
            await transaction.commit()
            await until(again, lambda: again.seqs(late) == [1])
            assert not again.seqs(room)
        await until(listener, lambda: listener.seqs(late) == [1])
    async with listening(tail, ben, between) as resumed:
        await until(resumed, lambda: late in resumed.states)
        assert set(resumed.states) == {late}
        assert resumed.id is not None and "," not in resumed.id
        assert resumed.id.split(":")[0].split(".")[-1] == resumed.id.split(":")[1], (
            "nothing is open: it has recovered"
        )
    await conn.close()


async def test_with_many_open_transactions_a_cursor_goes_back_to_the_first_of_them(
    pool: asyncpg.Pool, db_url: str, tail: Merged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "OPEN_XIDS", 2)
    ada, ben = await person(pool), await person(pool)
    rooms = [await group(pool, ada, ben) for _ in range(4)]
    conns = [await asyncpg.connect(db_url) for _ in range(3)]
    async with listening(tail, ben) as listener:
        for conn, room in zip(conns, rooms, strict=False):
            await conn.execute("BEGIN")
            await say(conn, room, ada)
        await say(pool, rooms[3], ada)
        await until(listener, lambda: listener.seqs(rooms[3]) == [1])
        assert listener.id is not None and listener.id.endswith(":") and listener.id.count(":") == 2
        since = listener.id
        for conn in conns:
            await conn.execute("COMMIT")
        await until(listener, lambda: all(listener.seqs(room) == [1] for room in rooms))
    async with listening(tail, ben, since) as resumed:
        await until(resumed, lambda: set(resumed.states) == set(rooms))  # the one told before is told again
    for conn in conns:
        await conn.close()


async def test_what_is_rolled_back_moves_no_cursor(pool: asyncpg.Pool, db_url: str) -> None:
    """Its xids may be given out again after a crash."""
    ada = await person(pool)
    room = await group(pool, ada)
    before = await merged.place(pool)
    conn = await asyncpg.connect(db_url)
    for _ in range(3):
        transaction = conn.transaction()
        await transaction.start()
        await say(conn, room, ada)
        await transaction.rollback()
    await conn.close()
    assert await merged.place(pool) == before
    await say(pool, room, ada)
    assert merged.known(await merged.place(pool)).end > merged.known(before).end + 2


async def test_rows_that_a_dump_brought_from_another_cluster_disturb_nothing(
    pool: asyncpg.Pool, tail: Merged
) -> None:
    """Their xids may be still to come here, or have been others here."""
    ada, ben = await person(pool), await person(pool)
    rooms = [await group(pool, ada, ben) for _ in range(3)]
    for room, xid in zip(rooms, ("4", "9000000000", "500"), strict=True):
        await say(pool, room, ada)
        await pool.execute("UPDATE changes SET xid = $2::text::xid8 WHERE thread_id = $1", room, xid)
        await pool.execute(
            "UPDATE thread_heads SET last_xid = $2::text::xid8 WHERE thread_id = $1", room, xid
        )
        await pool.execute(
            "UPDATE memberships SET changed_xid = $2::text::xid8 WHERE thread_id = $1", room, xid
        )
    async with listening(tail, ben) as listener:
        since = listener.id
        for room in rooms:
            await say(pool, room, ada)
        await until(listener, lambda: all(listener.seqs(room) == [2] for room in rooms))
        assert len(listener.told) == 3
    async with listening(tail, ben, since) as resumed:
        await until(resumed, lambda: set(resumed.states) == set(rooms))
        last = resumed.id
    await pool.execute("UPDATE thread_heads SET last_xid = '9000000000' WHERE thread_id = $1", rooms[1])
    async with listening(tail, ben, last) as again:
        await say(pool, rooms[0], ada)
        await until(again, lambda: rooms[0] in again.states)
        assert set(again.states) == {rooms[0]}


async def test_a_slow_reader_is_told_what_it_missed_and_keeps_nobody_waiting(
    pool: asyncpg.Pool, tail: Merged
) -> None:
    ada, ben = await person(pool), await person(pool)
    rooms = [await group(pool, ada, ben) for _ in range(3)]
    async with listening(tail, ben) as slow, listening(tail, ben) as other:
        await live(slow)
        slow.paper.stop()
        for _ in range(5):
            for room in rooms[:2]:
                await say(pool, room, ada)
        await until(other, lambda: all(other.seqs(room) == [1, 2, 3, 4, 5] for room in rooms[:2]))
        slow.read()
        assert not slow.told and set(slow.reader.missed or ()) == set(rooms[:2])
        slow.paper.go()
        await until(slow, lambda: set(slow.states) == set(rooms[:2]))
        assert {state["unreadCount"] for state in slow.states.values()} == {5}
        assert len(slow.told) == 2, "each once"
        other.read()
        assert len(other.told) == 10, "and it is told to nobody else"
        await live(slow)
        await say(pool, rooms[2], ada)
        await until(slow, lambda: slow.seqs(rooms[2]) == [1])
        assert slow.told[-1].id == slow.id


@pytest.mark.parametrize("bound", ["MISSED", "CHANGES", "PAIRS", "BLIND_SECONDS"])
async def test_whoever_has_missed_too_much_finds_it_by_itself(
    pool: asyncpg.Pool, db_url: str, tail: Merged, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(merged, "PAGE", 2)
    ada, ben = await person(pool), await person(pool)
    rooms = [await group(pool, ada, ben) for _ in range(5)]
    async with listening(tail, ben) as listener:
        await live(listener)
        monkeypatch.setattr(merged, bound, 3 if bound != "BLIND_SECONDS" else 0.0)
        if bound == "MISSED":
            listener.paper.stop()
        conn = await asyncpg.connect(db_url)
        async with conn.transaction():
            for room in rooms:
                await say(conn, room, ada)
        await conn.close()
        if bound == "MISSED":
            await so(lambda: listener.reader.missed is None, "too much")
            listener.paper.go()
        await until(listener, lambda: set(listener.states) == set(rooms))
        assert [frame.json["id"] for frame in listener.told[:5]] == rooms
        assert not any("message" in frame.json for frame in listener.told[:5]), "not from the look"
        monkeypatch.setattr(merged, bound, 1000)
        await live(listener)
        await say(pool, rooms[0], ada)
        await until(listener, lambda: 2 in [f.json["lastSeq"] for f in listener.told])


async def test_what_lies_outside_ones_stretches_is_not_told(pool: asyncpg.Pool, tail: Merged) -> None:
    ada, ben, eve = [await person(pool) for _ in range(3)]
    room = await group(pool, ada, ben)
    secret = await say(pool, room, ada, "a secret")
    since = (await merged.place(pool), tail.epoch)
    async with listening(tail, eve) as listener:
        await say(pool, room, ada, "another")
        await members.open_span(pool, thread_id=room, member_id=eve, role="member", by_id=ada)
        await until(listener, lambda: room in listener.states)
        assert listener.states[room]["lastMessage"] is None
        assert listener.states[room]["unreadCount"] == 0
        inside = await say(pool, room, ada, "inside", quoted=secret)
        await until(listener, lambda: listener.seqs(room) == [inside])
        assert listener.told[-1].json["message"]["replyTo"] == {"seq": secret}
        await say(pool, room, ada, "again", quoted=inside)
        await until(listener, lambda: len(listener.seqs(room)) == 2)
        assert listener.told[-1].json["message"]["replyTo"]["text"] == "inside"
        await members.close_span(pool, thread_id=room, member_id=eve, act="removed")
        await say(pool, room, ada, "when she was away")
        await until(listener, lambda: listener.states[room]["role"] is None)
        assert listener.states[room] == {"id": room, "role": None, "act": "removed"}
        await say(pool, room, ada, "still away")
        other = await group(pool, ada, eve)
        await until(listener, lambda: other in listener.states)
        assert listener.told[-2].json == {"id": room, "role": None, "act": "removed"}, "nothing after it"
        await members.open_span(pool, thread_id=room, member_id=eve, role="member", by_id=ada)
        back = await say(pool, room, ada, "of both times", quoted=inside)
        await until(listener, lambda: back in listener.seqs(room))
        assert listener.told[-1].json["message"]["replyTo"]["text"] == "inside"
        told = [frame.data for frame in listener.told]
    for word in (b"a secret", b"another", b"away"):
        assert not any(word in data for data in told)
    place, epoch = since
    async with listening(tail, eve, f"{epoch}.u.{place}") as resumed:
        await until(resumed, lambda: {room, other} <= set(resumed.states))
        assert resumed.states[room] == await fresh(pool, eve, room)
        assert not any(b"secret" in frame.data or b"away" in frame.data for frame in resumed.told)


async def test_all_at_once_in_one_transaction_comes_out_as_it_ends(
    pool: asyncpg.Pool, db_url: str, tail: Merged
) -> None:
    """In one look: said, left and back; said and deleted; joined and left."""
    ada, ben, eve = [await person(pool) for _ in range(3)]
    room, other = await group(pool, ada, ben), await group(pool, ada)
    conn = await asyncpg.connect(db_url)
    async with listening(tail, ben) as listener, listening(tail, eve) as guest:
        since = listener.id
        async with conn.transaction():
            seen = await say(conn, room, ada, "seen")
            await members.close_span(conn, thread_id=room, member_id=ben, act="left")
            await say(conn, room, ada, "unseen")
            await members.open_span(conn, thread_id=room, member_id=ben, role="member", by_id=ada)
            last = await say(conn, room, ada, "told", quoted=seen)
            gone = await say(conn, room, ada, "taken back")
            await messages.remove(conn, user_id=ada, thread_id=room, seq=gone)
            await members.open_span(conn, thread_id=other, member_id=eve, role="member", by_id=ada)
            await members.close_span(conn, thread_id=other, member_id=eve, act="left")
        await until(listener, lambda: listener.seqs(room) == [seen, last, gone])
        shown = [frame.json["message"] for frame in listener.told]
        assert [message["text"] for message in shown] == ["seen", "told", ""]
        assert shown[1]["replyTo"]["text"] == "seen" and "deletedAt" in shown[2]
        assert [frame.id is not None for frame in listener.told] == [False, False, True]
        assert listener.states[room] == await fresh(pool, ben, room)
        await until(guest, lambda: guest.states == {other: {"id": other, "role": None, "act": "left"}})
    await conn.close()
    async with listening(tail, ben, since) as resumed:
        await until(resumed, lambda: room in resumed.states)
        assert resumed.states[room] == await fresh(pool, ben, room)


async def test_the_database_may_go_away_and_come_back(
    pool: asyncpg.Pool, tail: Merged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "RETRY_SECONDS", 0.01)
    ada, ben = await person(pool), await person(pool)
    room = await group(pool, ada, ben)
    async with listening(tail, ben) as listener:
        await live(listener)
        asked, ask = [], merged.tail

        async def fail(*_: Any, **__: Any) -> Any:
            asked.append(1)
            raise OSError("away")

        monkeypatch.setattr(merged, "tail", fail)
        await say(pool, room, ada)
        await so(lambda: len(asked) > 2, "it tries again")
        async with listening(tail, ada) as another:  # it goes on from where the tail stands
            monkeypatch.setattr(merged, "tail", ask)
            await say(pool, room, ada)
            await until(another, lambda: another.seqs(room) == [2])
        await until(listener, lambda: listener.seqs(room) == [1, 2])


async def test_a_silent_stream_beats(
    pool: asyncpg.Pool, tail: Merged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "HEARTBEAT_SECONDS", 0.0)
    async with listening(tail, await person(pool)) as listener:
        await so(lambda: bytes(listener.paper.got).endswith(b":\n\n"), "a comment")


async def test_personal_changes_are_forgotten_but_for_the_latest(pool: asyncpg.Pool) -> None:
    ada = await person(pool)
    room = await group(pool, ada)
    for muted in (True, False, True):
        await members.settle(pool, user_id=ada, thread_id=room, muted=muted, archived=None, notify=None)
    before = await merged.place(pool)
    assert await merged.trim(pool, size=1000, seconds=60) == "DELETE 0"
    await pool.execute("UPDATE personal_changes SET at = at - interval '1 hour'")
    await merged.trim(pool, size=1000, seconds=60)
    assert await pool.fetchval("SELECT count(*) FROM personal_changes") == 1
    assert await merged.place(pool) == before


@pytest.mark.parametrize(
    "text",
    ["", "1", "1:2", "a:b:", "0:1:", "3:2:", "1:5:6", "1:5:3,2", "1:5:2,2", "2:5:1", " 1:2:", "1:2:\n", "01:2:",
     "1:9:2,", "9" * 19 + ":" + "9" * 19 + ":", "1:2:1;", "١:2:"],
)  # fmt: skip
def test_what_is_no_place_is_known(text: str) -> None:
    assert merged.parsed(text) is None
    assert merged.position(f"epoch.u.{text}", epoch="epoch") is None
    assert merged.position("epoch.u.3:9:4,6", epoch="epoch") is not None
    assert merged.position("epoch.7.3:9:4,6", epoch="epoch") is None
    assert merged.position("other.u.3:9:4,6", epoch="epoch") is None
    assert merged.position("epoch.u.3:99:" + ",".join(map(str, range(3, 40))), epoch="epoch") is None


def test_a_place_sees_and_covers() -> None:
    here = merged.known("10:20:10,15")
    assert here.sees([9, 11, 19]) and not here.sees([9, 10]) and not here.sees([20]) and here.sees([])
    for other, covered in (("5:10:", True), ("10:20:10,15", True), ("12:21:", False), ("11:16:", False),
                           ("10:12:10", True), ("10:20:10,12,15", True), ("10:20:10", False)):  # fmt: skip
        assert here.covers(merged.known(other)) is covered, other


# -- as a client meets it


async def test_each_message_is_one_event_with_the_thread_as_it_is(api: Api, cast: Cast) -> None:
    async with api.feed(cast.ben) as feed:
        assert feed.ready.data == {"cursor": feed.ready.id}
        for number in range(3):
            sent = await api.say(cast.team, cast.ada, f"message {number}")
            event = await feed.next()
            message = event.data.pop("message")
            assert message == sent
            assert event.data == ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ben))["thread"]
            assert event.data["unreadCount"] == number + 1
        await api.say(cast.team, cast.ben, "read and answered")
        assert (await feed.next()).data["unreadCount"] == 0


async def test_it_is_told_on_every_worker_and_to_nobody_else(api: Api, cast: Cast) -> None:
    """The streams of one person are spread over both workers; each hears of what the other sends."""
    async with contextlib.AsyncExitStack() as stack:
        outsider = await stack.enter_async_context(api.feed(cast.mallory))
        feeds = [await stack.enter_async_context(api.feed(cast.ben)) for _ in range(12)]
        sent = [await api.say(cast.team, cast.ada, f"message {number}") for number in range(5)]
        for feed in feeds:
            assert [event.data["message"] for event in await feed.take(5)] == sent
        own = await api.thread(cast.mallory, title="Mine")
        assert (await outsider.next()).data["id"] == own, "the first that mallory is told"


async def test_coming_and_going_takes_effect_on_the_open_stream(api: Api, cast: Cast) -> None:
    ada, ben = cast.ada, cast.ben
    async with api.feed(ben) as feed:
        room = await api.thread(ada, title="Another")
        await api.say(room, ada, "before")
        ok(await api.post(f"/api/threads/{room}/members", {"userId": ben.id}, as_=ada), 201)
        joined = (await feed.next()).data
        assert (joined["id"], joined["role"], joined["lastMessage"], joined["unreadCount"]) == (
            room,
            "member",
            None,
            0,
        )
        sent = await api.say(room, ada, "since")
        assert (await feed.next()).data["message"] == sent
        ok(await api.patch(f"/api/threads/{room}", {"title": "A better one"}, as_=ada))
        assert (await feed.next()).data["title"] == "A better one"
        ok(await api.patch(f"/api/threads/{room}/members/{ben.id}", {"role": "moderator"}, as_=ada))
        assert (await feed.next()).data["role"] == "moderator"
        ok(await api.delete(f"/api/threads/{room}/members/{ben.id}", as_=ada), 204)
        await api.say(room, ada, "after")
        assert (await feed.next()).data == {"id": room, "role": None, "act": "removed"}
        channel = await api.thread(ada, kind="channel", title=f"Channel {room}")
        ok(await api.post(f"/api/threads/{channel}/join", as_=ben))
        assert (await feed.next()).data["id"] == channel, "nothing of the other one came in between"
        ok(await api.post(f"/api/threads/{channel}/leave", as_=ben), 204)
        assert (await feed.next()).data == {"id": channel, "role": None, "act": "left"}
        ok(await api.delete(f"/api/threads/{cast.team}", as_=ada), 204)
        assert (await feed.next()).data == {"id": cast.team, "role": None, "act": "deleted"}
        direct = await api.thread(ada, ben, kind="direct")
        assert (await feed.next()).data["id"] == direct
    async with api.feed(ben, since=feed.ready.id) as again:
        told = {event.data["id"]: event.data for event in await again.take(4)}
    assert {one: data.get("act") for one, data in told.items()} == {
        room: "removed", channel: "left", cast.team: "deleted", direct: None
    }  # fmt: skip


async def test_what_i_do_is_told_to_my_other_devices_alone(api: Api, cast: Cast) -> None:
    async with api.feed(cast.ben) as mine, api.feed(cast.ben) as also_mine, api.feed(cast.ada) as theirs:
        ok(await api.patch(f"/api/threads/{cast.team}/me", {"muted": True, "notify": "none"}, as_=cast.ben))
        for feed in (mine, also_mine):
            told = (await feed.next()).data
            assert (told["id"], told["muted"], told["notify"]) == (cast.team, True, "none")
            assert "message" not in told
        last = mine.cursor
        sent = await api.say(cast.team, cast.ada, "next")
        assert (await theirs.next()).data["message"] == sent, "the first that ada is told"
    async with api.feed(cast.ben, since=last) as again:
        told = (await again.next()).data
        assert (told["lastSeq"], told["muted"]) == (1, True)


async def test_what_i_have_read_is_told_to_my_other_devices(api: Api, cast: Cast) -> None:
    for number in range(4):
        await api.say(cast.team, cast.ada, f"message {number}")
    async with api.feed(cast.ben) as feed:
        for act, seq, unread, first in (("read", 3, 1, 4), ("unread", 2, 3, 2), ("read", 4, 0, None)):
            state = ok(await api.post(f"/api/threads/{cast.team}/{act}", {"seq": seq}, as_=cast.ben))
            told = (await feed.next()).data
            assert (told["unreadCount"], told["firstUnreadSeq"]) == (unread, first)
            assert {
                key: told[key] for key in ("lastReadSeq", "unreadCount", "mentionCount", "firstUnreadSeq")
            } == {key: value for key, value in state.items() if key not in ("threadId", "deliveredSeq")}
            last = feed.cursor
    async with api.feed(cast.ben, since=last) as again:
        await api.say(cast.team, cast.ada, "more")
        assert (await again.next()).data["unreadCount"] == 1, "nothing before it is told again"
        last = again.cursor
    ok(await api.post(f"/api/threads/{cast.team}/read", {"seq": 5}, as_=cast.ben))
    async with api.feed(cast.ben, since=last) as again:
        assert (await again.next()).data["unreadCount"] == 0, "what was read while none of them listened"


async def test_edits_deletions_and_mentions_move_the_counts(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    handle = await db.fetchval("SELECT username FROM users WHERE id = $1", cast.ben.id)
    url = f"/api/threads/{cast.team}/messages"
    async with api.feed(cast.ben) as feed:
        told = []
        for text in ("one", f"two for @{handle}"):  # one by one: both of one look would tell the same counts
            await api.say(cast.team, cast.ada, text)
            told.append((await feed.next()).data)
        assert [(one["unreadCount"], one["mentionCount"]) for one in told] == [(1, 0), (2, 1)]
        ok(await api.patch(f"{url}/2", {"text": "edited"}, as_=cast.ada))
        told = [(await feed.next()).data]
        assert (told[0]["lastMessage"]["text"], "message" in told[0]) == ("edited", False)
        ok(await api.delete(f"{url}/2", as_=cast.ada), 204)
        deleted = (await feed.next()).data
        assert (deleted["unreadCount"], deleted["mentionCount"], deleted["messageCount"]) == (1, 0, 1)
        assert "deletedAt" in deleted["lastMessage"]


async def test_a_list_and_what_follows_it_has_no_hole(api: Api, cast: Cast) -> None:
    await api.say(cast.team, cast.ada, "in the list")
    page = ok(await api.get("/api/threads", as_=cast.ben))
    other = await api.thread(cast.ada, cast.ben, title="Between")
    for number in range(3):
        await api.say(other, cast.ada, f"between {number}")
    async with api.feed(cast.ben, since=page["streamCursor"]) as feed:
        assert feed.ready.id == page["streamCursor"]
        told = (await feed.next()).data
        assert (told["id"], told["lastSeq"], told["unreadCount"]) == (other, 3, 3)
        sent = await api.say(cast.team, cast.ada, "after")
        assert (await feed.next()).data["message"] == sent
    again = ok(await api.get("/api/threads", as_=cast.ben))
    assert again["streamCursor"] == feed.cursor or again["streamCursor"] > page["streamCursor"]


async def test_what_cannot_be_served_gets_a_resync_and_goes_on(api: Api, cast: Cast) -> None:
    page = ok(await api.get("/api/threads", as_=cast.ben))
    epoch, _, place = page["streamCursor"].partition(".u.")
    thread = page["threads"][0]["streamCursor"]
    for since in (
        "garbage", "0", thread, f"{epoch}.u.", f"{epoch}.u.x", f"other.u.{place}", f"{epoch}.u.{2**59}:{2**59}:",
        f"{epoch}.u.{place}7", f"{epoch}.u.3:{2**59}:", "x" * 5000,
    ):  # fmt: skip
        async with api.feed(cast.ben, since=since) as feed:
            resync = await feed.next()
            assert (resync.name, resync.id) == ("resync", feed.ready.id)
            assert resync.data == {"cursor": resync.id}
            sent = await api.say(cast.team, cast.ada, "next")
            assert (await feed.next()).data["message"] == sent
    async with api.feed(cast.ben, since=f"{epoch}.u.3:4:") as feed:
        assert (await feed.next()).data["id"] == cast.team, "one from the beginning tells everything"


async def test_a_stream_lives_as_long_as_its_session(api: Api, cast: Cast) -> None:
    async with api.feed(cast.ben) as feed:
        ok(await api.post("/api/auth/logout", as_=cast.ben), 204)
        await api.say(cast.team, cast.ada, "too late")
        assert [event.name for event in await feed.end()] == []
    refused(await api.get("/api/stream", as_=cast.ben), 401)


async def test_people_of_direct_threads_are_told_of(api: Api, cast: Cast) -> None:
    await api.thread(cast.ada, cast.ben, kind="direct")
    async with api.feed(cast.ada) as feed:
        assert await feed.told("presence") == {"online": [], "offline": []}
        async with api.feed(cast.ben) as other:
            assert await feed.told("presence") == {"online": [cast.ben.id], "offline": []}
            while (told := await other.told("presence"))["online"] != [cast.ada.id]:
                assert told == {"online": [], "offline": []}  # its worker has not heard of her yet
        assert await feed.told("presence") == {"online": [], "offline": [cast.ben.id]}


async def test_a_reader_who_comes_and_goes_at_any_moment_misses_nothing(api: Api, cast: Cast) -> None:
    rooms = [cast.team, await api.thread(cast.ada, cast.ben, title="Other")]
    since, chance = ok(await api.get("/api/threads", as_=cast.ben))["streamCursor"], random.Random(5)
    heads, told, done = dict.fromkeys(rooms, 0), dict.fromkeys(rooms, 0), asyncio.Event()

    async def write() -> None:
        for _ in range(40):
            room = chance.choice(rooms)
            heads[room] = max(heads[room], (await api.say(room, cast.ada, "hi"))["seq"])
        done.set()

    writing = [asyncio.ensure_future(write()) for _ in range(4)]
    while not (done.is_set() and all(one.done() for one in writing) and told == heads):
        async with api.feed(cast.ben, since=since) as feed:
            with contextlib.suppress(TimeoutError):
                for _ in range(chance.randint(1, 8)):
                    thread = (await feed.next(limit=2)).data
                    assert thread["lastSeq"] >= told[thread["id"]]
                    told[thread["id"]] = thread["lastSeq"]
            since = feed.cursor
    await asyncio.gather(*writing)
