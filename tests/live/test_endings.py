"""A session that ends takes its streams with it, on every worker, with Redis and without."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.base.db import open_pool
from server.live import endings
from server.live.endings import Endings
from tests.client import Api, Person, Stream
from tests.conftest import Backing, Cast, apart
from tests.live.crowd import register
from tests.live.wire import wire
from tests.rules import ok, refused

STREAMS = 8  # of one person, each on a connection of its own: some on either worker
SOON = 5.0  # seconds; it takes half of one, but not on a machine that is busy


@contextlib.asynccontextmanager
async def streams(api: Api, thread_id: int, who: Person) -> AsyncIterator[list[Stream]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(api.stream(thread_id, who)) for _ in range(STREAMS)]


async def test_logout_ends_the_streams_of_that_session_only(api: Api, cast: Cast) -> None:
    async with streams(api, cast.team, cast.ben) as theirs, api.stream(cast.team, cast.ada) as mine:
        ok(await api.post("/api/auth/logout", as_=cast.ben), 204)
        began = time.monotonic()
        assert [await stream.end() for stream in theirs] == [[]] * STREAMS
        assert time.monotonic() - began < SOON
        for _ in range(10):  # whichever worker answers
            refused(await api.get("/api/me", as_=cast.ben), 401, "session_ended")
        said = await api.say(cast.team, cast.ada, "after")
        assert [event.data["seq"] for event in await mine.until(said["rev"])] == [1]


async def test_a_reader_that_stands_still_is_cut_off_too(api: Api, cast: Cast, address: str) -> None:
    """What it has not yet taken is not kept for it."""
    text, count = "x" * 9_900, 600  # 6 MB: more than its socket takes in
    async with wire(address, cast.team, cast.ben, receive_bytes=4096) as stands_still:
        for _ in range(count):
            last = await api.say(cast.team, cast.ada, text)
        ok(await api.post("/api/auth/logout", as_=cast.ben), 204)
        after = await api.say(cast.team, cast.ada, "after the end")
        told = [frame for frame in await stands_still.rest() if frame.event == "message"]
    assert 0 < len(told) < count, "this reader did not stand still"
    assert told[-1].rev < last["rev"] < after["rev"]


async def test_without_redis_too(backing: Backing) -> None:
    """REDIS_URL leads nowhere: what ends is found by looking."""
    async with apart(backing, REDIS_URL="redis://127.0.0.1:1") as (server, _):
        ada, ben = await register(server.url, "ada", "ben")
        api = Api(server.url)
        try:
            thread_id = await api.thread(ada, ben)
            async with streams(api, thread_id, ben) as theirs:
                ok(await api.post("/api/auth/logout", as_=ben), 204)
                began = time.monotonic()
                assert [await stream.end() for stream in theirs] == [[]] * STREAMS
                assert time.monotonic() - began < SOON
                for _ in range(10):
                    refused(await api.get("/api/me", as_=ben), 401, "session_ended")
        finally:
            await api.close()


class Cuttable:
    """A stream that only knows whether it was cut."""

    def __init__(self) -> None:
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1


@pytest.fixture
async def pool(db_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await open_pool(db_url, size=4, statement_cache=10)
    yield opened
    await opened.close()


async def session(pool: asyncpg.Pool) -> int:
    """A new session of somebody."""
    return int(
        await pool.fetchval(
            """WITH person AS (INSERT INTO users (name) VALUES ('Somebody') RETURNING id)
               INSERT INTO sessions (user_id, refresh_hash, expires_at)
               SELECT id, sha256(id::text::bytea), now() + interval '1 day' FROM person RETURNING id"""
        )
    )


END = "UPDATE sessions SET ended_at = now(), ended_xid = pg_current_xact_id() WHERE id = $1"


async def test_an_ending_that_commits_late_is_not_missed(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction began before many looks that saw later ones."""
    monkeypatch.setattr(endings, "LOOK_SECONDS", 0.005)
    known, late, soon = Endings(pool), await session(pool), [await session(pool) for _ in range(5)]
    stream = Cuttable()
    await known.begin()
    try:
        assert known.watch(late, stream)
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute(END, late)
            for one in soon:
                await pool.execute(END, one)
                await _so(known, one)
            assert not known.over(late) and not stream.cuts
        await _so(known, late)
        assert stream.cuts >= 1
        assert not known.watch(late, Cuttable()), "a stream that opens now is refused"
    finally:
        await known.close()


async def test_who_begins_later_knows_what_has_ended(pool: asyncpg.Pool) -> None:
    ended, living = await session(pool), await session(pool)
    await pool.execute(END, ended)
    known = Endings(pool)
    await known.begin()
    assert known.over(ended) and not known.over(living)
    await known.close()


async def test_a_session_that_expires_ends_its_streams(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "ALIVE_SECONDS", 0.01)
    known, one, other = Endings(pool), await session(pool), await session(pool)
    mine, theirs = Cuttable(), Cuttable()
    await known.begin()
    try:
        known.watch(one, mine)
        known.watch(other, theirs)
        await pool.execute("UPDATE sessions SET expires_at = now() WHERE id = $1", one)
        await _so(known, one)
        assert mine.cuts and not theirs.cuts
    finally:
        await known.close()


async def test_garbage_on_the_bus_ends_nothing(pool: asyncpg.Pool) -> None:
    known = Endings(pool)
    for payload in (b"", b"x", b"1 x", b"\xff", b"1.5", b"9" * 5000):
        known.heard(payload)
    assert not known.over(1)
    known.heard(b"1 2")
    assert known.over(1) and known.over(2)


async def _so(known: Endings, session_id: int) -> None:
    async with asyncio.timeout(10):
        while not known.over(session_id):
            await asyncio.sleep(0.005)
