"""What is so at the moment and in no log: told in rounds to who is there, and to whoever joins."""

import asyncio
from typing import Any

import asyncpg
import orjson
import pytest

from server.live import changes, hub, stream
from server.live.bus import Bus
from tests.conftest import Backing
from tests.live.desk import Desk, Reader
from tests.live.test_bus import bus
from tests.live.wire import so


def tell(desk: Desk, name: str, key: str, value: object, but: int = 0) -> None:
    desk.hub.told(desk.thread_id, name, key, orjson.dumps(value), but)


def said(reader: Reader) -> list[tuple[str, Any]]:
    """What it has been told that has no id."""
    return [(frame.event, frame.json) for frame in reader.told if frame.id is None]


async def there(desk: Desk, *readers: Reader) -> None:
    """They are parked."""
    feed = await desk.feed()
    await so(lambda: sum(reader.parked for reader in feed.readers) >= len(readers), "all are parked")


async def test_everybody_but_the_one_it_is_about_is_told_at_once(desk: Desk, patient: None) -> None:
    ada, ben = await desk.reader(desk.ada), await desk.reader()
    await there(desk, ada, ben)
    tell(desk, "typing", "ada", 1, desk.ada)
    tell(desk, "receipt", "ada", 2)
    await so(lambda: len(said(ben)) == 2, "ben is told")
    assert said(ben) == [("typing", 1), ("receipt", 2)]
    assert said(ada) == [("receipt", 2)]
    tell(desk, "typing", "ben", 3, desk.ben)
    await so(lambda: len(said(ada)) == 2, "ada is told")
    assert said(ada)[1:] == [("typing", 3)]
    assert len(said(ben)) == 2


async def test_only_the_newest_of_a_kind_and_person_is_told_when_many_come(desk: Desk, patient: None) -> None:
    reader = await desk.reader()
    await there(desk, reader)
    for number in range(100):
        tell(desk, "receipt", "ada", number)
        tell(desk, "receipt", "ben", number)
        await asyncio.sleep(0)
    await so(lambda: len(said(reader)) >= 2 and said(reader)[-1] == ("receipt", 99), "the last is told")
    assert len(said(reader)) <= 6  # some at once, the rest in one round


async def test_a_crowd_is_told_seldom(desk: Desk, patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "EPHEMERAL_PER_SECOND", 40)
    readers = [await desk.reader() for _ in range(20)]
    await there(desk, *readers)
    began = asyncio.get_running_loop().time()
    for number in range(3):
        tell(desk, "presence", "all", number)
        await so(lambda n=number: all(("presence", n) in said(reader) for reader in readers), "told")  # type: ignore[misc]
    took = asyncio.get_running_loop().time() - began
    assert took >= 2 * 20 / 40, "two pauses between three rounds"


async def test_who_is_busy_is_told_the_newest_afterwards(desk: Desk, patient: None) -> None:
    quick, slow = await desk.reader(), await desk.reader()
    await there(desk, quick, slow)
    slow.line.stop()
    for number in range(3):
        tell(desk, "receipt", "ada", number)
        await so(lambda n=number: ("receipt", n) in said(quick), "told")  # type: ignore[misc]
    assert said(slow) == []
    slow.line.go()
    await so(lambda: bool(said(slow)), "the slow one too")
    assert said(slow) == [("receipt", 2)]


async def test_what_is_over_after_a_while_is_not_told_late(
    desk: Desk, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "EPHEMERAL_SECONDS", {"typing": 0.05})
    quick, slow = await desk.reader(), await desk.reader()
    await there(desk, quick, slow)
    slow.line.stop()
    tell(desk, "typing", "ada", 1)
    tell(desk, "receipt", "ada", 2)
    await so(lambda: len(said(quick)) == 2, "told")
    await asyncio.sleep(0.06)
    slow.line.go()
    await so(lambda: bool(said(slow)), "the slow one too")
    assert said(slow) == [("receipt", 2)]


async def test_nothing_is_told_past_a_change_that_is_not_yet_read(desk: Desk, patient: None) -> None:
    """It may be the removal of whoever is listening."""
    ben = await desk.reader()
    await there(desk, ben)
    await desk.remove(desk.ben)
    desk.ring()
    tell(desk, "receipt", "ada", 1)
    await so(ben.task.done, "ben's stream ends")
    assert said(ben) == []
    assert [frame.event for frame in ben.told] == ["member"]


async def test_who_was_removed_is_told_nothing_that_came_later_though_nothing_rang(
    desk: Desk, patient: None
) -> None:
    ada, ben = await desk.reader(desk.ada), await desk.reader()
    await there(desk, ada, ben)
    await desk.remove(desk.ben)
    tell(desk, "receipt", "ada", 1)
    await so(lambda: bool(said(ada)), "ada is told")
    await so(ben.task.done, "ben's stream ends")
    assert said(ben) == []
    assert [frame.event for frame in ada.told] == ["member", "receipt"]


async def test_what_comes_while_the_head_is_looked_up_waits_for_the_next_look(
    desk: Desk, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, ben = await desk.reader(desk.ada), await desk.reader()
    await there(desk, ada, ben)
    real = changes.heads

    async def slow(*args: Any, **more: Any) -> list[asyncpg.Record]:
        found = await real(*args, **more)
        if desk.head == 2:
            await desk.remove(desk.ben)
            tell(desk, "receipt", "ben", 2)
        return found

    monkeypatch.setattr(changes, "heads", slow)
    tell(desk, "receipt", "ada", 1)
    await so(lambda: ("receipt", 2) in said(ada), "ada is told")
    await so(ben.task.done, "ben's stream ends")
    assert said(ben) == [("receipt", 1)]


async def test_without_the_database_nothing_is_told_and_messages_go_on(
    desk: Desk, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ben = await desk.reader()
    await there(desk, ben)
    asked, real = 0, changes.heads

    async def away(*_: Any, **__: Any) -> list[asyncpg.Record]:
        nonlocal asked
        asked += 1
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(changes, "heads", away)
        tell(desk, "receipt", "ada", 1)
        await so(lambda: asked > 1, "asked again")
        await desk.say("hello")
        desk.ring()
        await desk.settled(ben)
        assert said(ben) == []
    assert changes.heads is real
    await so(lambda: said(ben) == [("receipt", 1)], "told later")


async def test_a_round_asks_once_however_much_came_and_whoever_is_late(
    desk: Desk, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = await desk.reader(desk.ada), await desk.reader()
    await there(desk, quick, slow)
    slow.line.stop()
    asked, real = list[list[int]](), changes.heads

    async def counted(*args: Any, **more: Any) -> list[asyncpg.Record]:
        asked.append(more["thread_ids"])
        return await real(*args, **more)

    monkeypatch.setattr(changes, "heads", counted)
    for number in range(100):
        tell(desk, "receipt", "ada", number)
    await so(lambda: ("receipt", 99) in said(quick), "told")
    slow.line.go()
    await so(lambda: ("receipt", 99) in said(slow), "told in a later round")
    assert asked == [[desk.thread_id]]


async def test_what_is_kept_is_bounded_and_rounds_end(desk: Desk, patient: None) -> None:
    reader = await desk.reader()
    await there(desk, reader)
    for number in range(3 * hub.EPHEMERAL_KEPT):
        tell(desk, "receipt", str(number), number)
    feed = await desk.feed()
    assert len(feed.ephemeral) == hub.EPHEMERAL_KEPT
    await so(lambda: ("receipt", 3 * hub.EPHEMERAL_KEPT - 1) in said(reader), "the last is told")
    assert feed.round is None  # nobody is left to be told
    await reader.cut()
    tell(desk, "receipt", "1", 1)
    assert feed.round is None


async def test_who_joins_is_told_what_is_so_and_not_what_was_told_before(desk: Desk, patient: None) -> None:
    early = await desk.reader(desk.ada)
    await there(desk, early)
    tell(desk, "typing", "ada", "before")
    await so(lambda: bool(said(early)), "told")

    async def receipts(_: Any, user_id: int, thread_id: int) -> list[tuple[str, bytes]]:
        return [("receipt", orjson.dumps([user_id, thread_id]))]

    async def broken(*_: Any) -> list[tuple[str, bytes]]:
        raise OSError

    async def hangs(*_: Any) -> list[tuple[str, bytes]]:
        await asyncio.sleep(3600)
        return []

    desk.joining += [broken, receipts]
    late = await desk.reader()
    await so(lambda: bool(said(late)), "the state")
    assert said(late) == [("receipt", [desk.ben, desk.thread_id])]
    await there(desk, early, late)
    tell(desk, "receipt", "ada", 2)
    await so(lambda: len(said(late)) == 2, "and what is new")

    desk.joining += [hangs]
    stream_ = await desk.reader()
    await desk.say("hello")
    desk.ring()
    await so(lambda: bool(stream_.revs_of("message")), "the stream goes on", limit=5 * stream.JOINING_SECONDS)


async def test_it_goes_to_the_other_workers_and_is_not_told_twice_here(backing: Backing) -> None:
    async with (
        bus(backing.redis_url, epoch="aaaa") as (ours, heard),
        bus(backing.redis_url, epoch="aaaa") as (
            _,
            beside,
        ),
    ):
        ours.tell(7, "receipt", "3", b'{"a":\n1}', 12)
        told = b"""(7, 'receipt', '3', b'{"a":\\n1}', 12)"""
        assert heard.get_nowait() == told  # one's own readers don't wait for Redis
        ours.ring(7, 1)
        async with asyncio.timeout(10):
            assert [await beside.get(), await beside.get()] == [told, b"1"]
            assert [await heard.get(), await heard.get()] == [b"1", b"1"]
        assert heard.empty() and beside.empty()


async def test_a_topic_is_heard_by_all_who_listen(backing: Backing) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def listen(made: Bus) -> None:
        made.on("presence", heard.put_nowait)

    async with (
        bus(backing.redis_url, epoch="aaaa", prepare=listen) as (ours, _),
        bus(backing.redis_url, epoch="aaaa", prepare=listen),
        bus(backing.redis_url, epoch="bbbb", prepare=listen),
    ):
        ours.post("presence", b"7 1")
        ours.post("presence", "7 0")
        async with asyncio.timeout(10):
            assert sorted([await heard.get() for _ in range(4)]) == [b"7 0", b"7 0", b"7 1", b"7 1"]
        assert heard.empty()
