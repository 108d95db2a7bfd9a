"""Turns, and connections at hand: the plumbing between a handler and its statement."""

import asyncio

import asyncpg
import pytest

from server.base.db import Connections, open_pool
from server.base.tasks import Turns
from tests.live.wire import so


async def test_one_has_the_turn_of_a_key_and_the_others_follow_in_the_order_of_asking() -> None:
    turns, order, inside = Turns(), list[str](), set[int]()
    let = asyncio.Event()

    async def work(name: str, key: int) -> None:
        async with turns.of(key):
            assert key not in inside
            inside.add(key)
            await let.wait()
            order.append(name)
            inside.discard(key)

    tasks = [asyncio.create_task(work(name, key)) for name, key in (("a", 1), ("b", 1), ("c", 1), ("x", 2))]
    await so(lambda: inside == {1, 2}, "another key does not wait")
    let.set()
    await asyncio.gather(*tasks)
    assert [name for name in order if name != "x"] == ["a", "b", "c"]
    assert turns._waiting == {}  # nothing is kept for keys that are idle


async def test_who_gives_up_or_fails_passes_the_turn_on() -> None:
    turns, let = Turns(), asyncio.Event()

    async def hold() -> None:
        async with turns.of(1):
            await let.wait()
            raise ValueError

    async def work() -> str:
        async with turns.of(1):
            return "done"

    holder = asyncio.create_task(hold())
    impatient, patient = asyncio.create_task(work()), asyncio.create_task(work())
    await so(lambda: len(turns._waiting.get(1, ())) == 2, "two wait")
    impatient.cancel()
    let.set()
    with pytest.raises(ValueError):
        await holder
    assert await patient == "done" and turns._waiting == {}


async def test_a_turn_given_to_somebody_who_is_cancelled_at_that_moment_goes_on() -> None:
    turns = Turns()

    async def work() -> str:
        async with turns.of(1):
            return "done"

    async with turns.of(1):
        first, second = asyncio.create_task(work()), asyncio.create_task(work())
        await so(lambda: len(turns._waiting[1]) == 2, "two wait")
    first.cancel()  # its future has its result, the task has not run yet
    assert await second == "done" and turns._waiting == {}


async def test_a_pool_plans_statements_once_where_it_keeps_them(db_url: str) -> None:
    for cache, generic, mode in ((10, True, "force_generic_plan"), (10, False, "auto"), (0, True, "auto")):
        pool = await open_pool(db_url, size=1, statement_cache=cache, generic=generic)
        try:
            assert await pool.fetchval("SHOW plan_cache_mode") == mode
        finally:
            await pool.close()


async def test_connections_are_shared_kept_and_given_up_when_something_went_wrong(db_url: str) -> None:
    connections = Connections(await open_pool(db_url, size=2, statement_cache=10))
    try:
        first = await connections.take()
        pid = await first.fetchval("SELECT pg_backend_pid()")
        connections.give_back(first)
        async with connections.acquire() as again:
            assert await again.fetchval("SELECT pg_backend_pid()") == pid  # the one that was used last
        # Twenty at once on two connections: whoever waits gets the one that comes back.

        async def ask(number: int) -> int:
            async with connections.acquire() as conn:
                return int(await conn.fetchval("SELECT $1::int FROM pg_sleep(0.001)", number))

        assert await asyncio.gather(*map(ask, range(20))) == list(range(20))
        # A cancelled question must not reach the next one on the same connection.
        began = asyncio.Event()
        slow = asyncio.create_task(ask_slowly(connections, began))
        await began.wait()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await ask(7) == 7
        # Nor one whose server has closed it.
        async with connections.acquire() as conn:
            with pytest.raises(asyncpg.PostgresError):
                await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await ask(8) == 8
    finally:
        await connections.close()


async def ask_slowly(connections: Connections, began: asyncio.Event) -> None:
    async with connections.acquire() as conn:
        began.set()
        await conn.execute("SELECT pg_sleep(30)")
