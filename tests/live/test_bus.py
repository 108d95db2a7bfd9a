"""The doorbell by itself, between two workers that share a Redis and perhaps a log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from server.live.bus import Bus
from tests.conftest import Backing


@contextlib.asynccontextmanager
async def bus(
    url: str, *, epoch: str, prepare: Callable[[Bus], None] = lambda _: None
) -> AsyncIterator[tuple[Bus, "asyncio.Queue[bytes]"]]:
    """A bus that follows thread 7, and what it heard."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    joined = asyncio.Event()
    made = Bus(
        url,
        heard=lambda _, payload: heard.put_nowait(payload),
        told=lambda *what: heard.put_nowait(repr(what).encode()),
        joined=lambda _: joined.set(),
        doubt=lambda _: None,
        ended=lambda payload: heard.put_nowait(b"ended " + payload),
    )
    prepare(made)
    await made.follow(7)
    made.start(epoch=epoch)
    try:
        async with asyncio.timeout(10):
            await joined.wait()
        yield made, heard
    finally:
        await made.close()


async def test_a_doorbell_is_heard_in_its_own_log_only(backing: Backing) -> None:
    async with (
        bus(backing.redis_url, epoch="aaaa") as (ours, heard),
        bus(backing.redis_url, epoch="aaaa") as (_, beside),
        bus(backing.redis_url, epoch="bbbb") as (theirs, elsewhere),
    ):
        ours.ring(7, 1)
        assert heard.get_nowait() == b"1"  # one's own readers don't wait for Redis
        async with asyncio.timeout(10):
            assert await heard.get() == await beside.get() == b"1"
        theirs.ring(7, 2)
        async with asyncio.timeout(10):
            assert await elsewhere.get() == await elsewhere.get() == b"2"  # the first it heard
        assert heard.empty() and beside.empty()
        ours.ring_ended([3, 12])
        ours.ring_ended([])
        theirs.ring_ended([4])
        async with asyncio.timeout(10):
            assert await heard.get() == await beside.get() == b"ended 3 12"
            assert await elsewhere.get() == b"ended 4"
        assert heard.empty() and beside.empty()


async def test_a_bus_that_is_closed_while_it_connects_ends(backing: Backing) -> None:
    """redis-py turns being cancelled into other errors, or into nothing, at some places."""
    for steps in range(40):
        made = Bus(
            backing.redis_url,
            heard=lambda *_: None,
            told=lambda *_: None,
            joined=lambda _: None,
            doubt=lambda _: None,
            ended=lambda _: None,
        )
        made.start(epoch="aaaa")
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await made.close()


async def test_what_is_posted_to_a_closed_bus_opens_no_connection(backing: Backing) -> None:
    async with bus(backing.redis_url, epoch="aaaa") as (ours, _):
        ours.ring(7, 1)  # and a little later it would say that something has changed
    ours.ring(7, 2)
    ours.post("presence", b"3")
    assert not ours._tasks and not ours._outbox
    assert not ours._publisher.connection_pool._in_use_connections


async def test_a_server_that_is_away_is_told_once_and_stops_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    bell = Bus(
        "redis://:hush@127.0.0.1:1",
        heard=lambda *_: None,
        told=lambda *_: None,
        joined=lambda _: None,
        doubt=lambda _: None,
        ended=lambda _: None,
    )
    bell.start(epoch="aaaa")
    for rev in range(3):
        bell.ring(7, rev)
        await asyncio.sleep(0.1)  # it tries again after 0.05 s
    assert not await bell.answers()
    await bell.close()
    said = "".join(capfd.readouterr())
    assert said.count("bus.away") == said.count("bus.unrung") == 1
    assert "127.0.0.1:1" in said and "hush" not in said
