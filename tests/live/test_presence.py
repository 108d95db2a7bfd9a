"""Who is there, and who types: over all devices and workers, told to whom it concerns and nobody else."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
import redis.asyncio as redis

from server import blocks, members, threads
from server.base.db import open_pool
from server.live import presence as module
from server.live.bus import PRESENCE, TYPING, Bus
from server.live.presence import Periods, Presence, merge
from server.live.typists import TOLD, Spells, Typists
from server.ops.embedded import Valkey, remove
from tests.client import Api, Person, Stream
from tests.conftest import Backing, Cast, apart
from tests.live.crowd import register
from tests.live.talk import talk
from tests.live.wire import so, wire, worker_of
from tests.rules import ok, refused

Maker = Callable[[str], Awaitable[Person]]
QUICK = Periods(beat=0.05, kept=1.0, grace=0.5, leaving=0.1, batch=0.01)
BRIEF = Spells(typing=0.6, pause=0.3, batch=0.01)
DEAD_SECONDS = 45.0  # within which a worker's people are gone


# ---- through the server


async def seen(stream: Stream, known: set[int], *wanted: Person) -> None:
    """Wait until those who are there, as this stream has been told, are these; known is kept up to date."""
    while known != {person.id for person in wanted}:
        told = await stream.told("presence")
        known |= set(told["online"])
        known -= set(told["offline"])


async def shows(api: Api, thread_id: int, who: Person, **wanted: list[Person]) -> None:
    """Wait until every worker answers so."""
    right, found = 0, None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while right < 6:
                found = ok(await api.get(f"/api/threads/{thread_id}/presence", as_=who))
                same = all({p.id for p in people} == set(found[key]) for key, people in wanted.items())
                right = right + 1 if same else 0
                await asyncio.sleep(0.01)
    assert right == 6, found


def typing(thread_id: int, so: bool) -> tuple[str, dict[str, bool]]:
    return f"/api/threads/{thread_id}/typing", {"isTyping": so}


async def types(api: Api, thread_id: int, who: Person, so: bool = True) -> None:
    ok(await api.post(*typing(thread_id, so), as_=who), 204)


async def test_who_comes_and_goes_is_told_to_the_members_of_their_threads_only(api: Api, cast: Cast) -> None:
    other, known = await api.thread(cast.mallory), set[int]()
    async with api.stream(cast.team, cast.ada) as ada, api.stream(other, cast.mallory) as mallory:
        await seen(ada, known, cast.ada)
        async with api.stream(cast.team, cast.ben) as ben:
            await seen(ben, set(), cast.ada, cast.ben)
            await seen(ada, known, cast.ada, cast.ben)
            await shows(api, cast.team, cast.ada, online=[cast.ada, cast.ben], typing=[])
        await seen(ada, known, cast.ada)
        await shows(api, cast.team, cast.ben, online=[cast.ada])
        theirs = set[int]()
        await seen(mallory, theirs, cast.mallory)
        async with api.stream(other, cast.mallory):  # nothing turns, and nothing else had been told
            pass
        assert theirs == {cast.mallory.id}
    refused(await api.get(f"/api/threads/{cast.team}/presence", as_=cast.mallory), 404)
    await shows(api, cast.team, cast.ada, online=[])


async def test_one_of_two_devices_is_no_goodbye(api: Api, people: Maker) -> None:
    """The witness comes and goes afterwards: of whom nothing has been told by then, nothing will be."""
    ada, ben, witness = [await people(name) for name in ("ada", "ben", "witness")]
    team, known = await api.thread(ada, ben, witness), set[int]()
    async with api.stream(team, ada) as stream, contextlib.AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(contextlib.AsyncExitStack()) for _ in range(6)]
        for device in devices:  # on either worker
            await device.enter_async_context(api.stream(team, ben))
        await seen(stream, known, ada, ben)
        for device in devices[:-1]:
            await device.aclose()
        async with api.stream(team, witness):
            await seen(stream, known, ada, ben, witness)
        while witness.id in known:
            told = await stream.told("presence")
            assert ben.id not in told["offline"]
            known -= set(told["offline"])
        await devices[-1].aclose()
        await seen(stream, known, ada)


async def test_who_is_removed_is_no_longer_there_and_who_comes_in_is(api: Api, cast: Cast) -> None:
    known = set[int]()
    elsewhere = await api.thread(cast.mallory, cast.ben)
    async with (
        api.stream(cast.team, cast.ada) as ada,
        api.stream(cast.team, cast.ben) as ben,
        api.stream(elsewhere, cast.ben),
        api.stream(elsewhere, cast.mallory),
    ):
        await seen(ada, known, cast.ada, cast.ben)
        await types(api, cast.team, cast.ben)
        assert (await ada.told("typing"))["isTyping"] is True
        ok(await api.delete(f"/api/threads/{cast.team}/members/{cast.ben.id}", as_=cast.ada), 204)
        await ben.end()
        assert (await ada.told("typing")) == {"threadId": cast.team, "userId": cast.ben.id, "isTyping": False}
        await shows(api, cast.team, cast.ada, online=[cast.ada], typing=[])
        refused(await api.get(f"/api/threads/{cast.team}/presence", as_=cast.ben), 404)
        async with asyncio.timeout(10):  # after the pause of what he said before
            while (reply := await api.post(*typing(cast.team, True), as_=cast.ben)).status == 204:
                await asyncio.sleep(0.05)
        refused(reply, 404)
        body = {"userId": cast.mallory.id}
        ok(await api.post(f"/api/threads/{cast.team}/members", body, as_=cast.ada), 201)
        while cast.mallory.id not in known:
            known |= set((await ada.told("presence"))["online"])
        await shows(api, cast.team, cast.ada, online=[cast.ada, cast.mallory])


async def test_who_is_blocked_does_not_see_the_other_one(api: Api, people: Maker) -> None:
    ada, ben, witness = [await people(name) for name in ("ada", "ben", "witness")]
    pair = await api.thread(ada, ben, kind="direct")
    beside = await api.thread(ben, witness, kind="direct")
    async with api.stream(pair, ben) as stream:
        known = set[int]()
        async with api.stream(pair, ada):
            await seen(stream, known, ada, ben)
        await seen(stream, known, ben)
        ok(await api.ask("PUT", f"/api/me/blocks/{ben.id}", as_=ada), 204)
        async with api.stream(pair, ada) as hers:
            await seen(hers, set(), ada, ben)
            await shows(api, pair, ben, online=[ben], typing=[])
            await types(api, pair, ben)
            await shows(api, pair, ada, online=[ada, ben], typing=[])
            async with api.stream(pair, ben) as again:
                assert (await again.told("presence"))["online"] == [ben.id]
            async with api.stream(beside, witness) as other:  # told after anything of ada
                await seen(other, set(), ben, witness)
            assert hers.untold("typing")
        while not stream.untold("presence"):
            assert ada.id not in (await stream.told("presence"))["online"]
        ok(await api.delete(f"/api/me/blocks/{ben.id}", as_=ada), 204)
        async with api.stream(pair, ada):
            await seen(stream, known, ada, ben)


async def test_typing_is_told_to_the_others_and_ends_when_it_is_sent(api: Api, cast: Cast) -> None:
    async with api.stream(cast.team, cast.ada) as ada, api.stream(cast.team, cast.ben) as ben:
        await types(api, cast.team, cast.ben)
        told = {"threadId": cast.team, "userId": cast.ben.id}
        assert await ada.told("typing") == {**told, "isTyping": True}
        await shows(api, cast.team, cast.ada, typing=[cast.ben])
        async with api.stream(cast.team, cast.ada) as late:
            assert await late.told("typing") == {**told, "isTyping": True}
        await api.say(cast.team, cast.ben, "There.")
        assert await ada.told("typing") == {**told, "isTyping": False}
        await shows(api, cast.team, cast.ada, typing=[])
        await types(api, cast.team, cast.ada)
        assert (await ben.told("typing"))["userId"] == cast.ada.id
        assert ada.untold("typing") and ben.untold("typing")
        await types(api, cast.team, cast.ada, False)
        assert (await ben.told("typing"))["isTyping"] is False
    for so_ in (True, False):
        refused(await api.post(*typing(cast.team, so_), as_=cast.mallory), 404)


async def test_typing_ends_by_itself_and_with_the_stream(api: Api, cast: Cast, address: str) -> None:
    async with api.stream(cast.team, cast.ada) as ada:
        await types(api, cast.team, cast.ben)
        began = time.monotonic()
        assert (await ada.told("typing"))["isTyping"] is True
        assert (await ada.told("typing"))["isTyping"] is False
        assert 4.5 < time.monotonic() - began < 8
        async with talk(address, cast.ben) as ben:
            await ben.join(cast.team)
            await ben.done("typing", threadId=cast.team, isTyping=True)
            assert (await ada.told("typing"))["isTyping"] is True
            began = time.monotonic()
            await shows(api, cast.team, cast.ada, typing=[cast.ben])
        assert (await ada.told("typing"))["isTyping"] is False
        assert time.monotonic() - began < 4


async def test_both_can_be_switched_off(backing: Backing) -> None:
    async with apart(backing, BOBBIN_PRESENCE="off", BOBBIN_TYPING="off") as (server, database_url):
        ada, ben = await register(server.url, "ada", "ben")
        async with contextlib.aclosing(Api(server.url)) as api:
            team = await api.thread(ada, ben)
            async with api.stream(team, ada) as stream, api.stream(team, ben):
                await types(api, team, ben)
                await shows(api, team, ada, online=[], typing=[])
                said = await api.say(team, ben, "something that is told")
                await stream.until(said["rev"])
                assert stream.untold("presence") and stream.untold("typing")
        client = redis.Redis.from_url(backing.redis_url)
        conn = await asyncpg.connect(database_url)
        epoch = await conn.fetchval("SELECT epoch FROM log_epoch")
        assert [key async for key in client.scan_iter(f"bobbin:{epoch}:*")] == []
        await conn.close()
        await client.aclose()


@pytest.mark.timeout(150)
async def test_the_people_of_a_worker_that_is_killed_are_gone(backing: Backing) -> None:
    async with apart(backing) as (server, _), contextlib.aclosing(Api(server.url)) as api:
        ada, ben = await register(server.url, "ada", "ben")
        team = await api.thread(ada, ben)
        workers = server.pids("server worker")
        async with contextlib.AsyncExitStack() as stack:
            by_worker: dict[int, Any] = {}
            while len(by_worker) < 2:
                who = ben if by_worker else ada
                line = await stack.enter_async_context(wire(server.url, team, who))
                pid = worker_of(line.port, workers)
                if pid in by_worker:
                    line.cut()
                else:
                    by_worker[pid] = line
            await shows(api, team, ada, online=[ada, ben])
            os.kill(list(by_worker)[1], signal.SIGKILL)
            began = time.monotonic()
            found = [ben.id]
            while ben.id in found:
                assert time.monotonic() - began < DEAD_SECONDS
                with contextlib.suppress(httpx.TransportError):  # a connection to the dead one
                    found = ok(await api.get(f"/api/threads/{team}/presence", as_=ada))["online"]
                await asyncio.sleep(0.1)
            assert found == [ada.id]
            assert time.monotonic() - began > 5, "it is not taken for a goodbye"


# ---- the class by itself, between workers, with short periods


class Rounds:
    """The readers of some threads, as the hub tells them."""

    def __init__(self, *thread_ids: int) -> None:
        self.thread_ids = thread_ids
        self.told_: list[tuple[int, str, Any]] = []
        self.wait = 0.0
        self.following: set[tuple[int, int]] = set()

    def followed(self) -> list[int]:
        return list(self.thread_ids)

    def due(self, thread_id: int) -> float:
        return self.wait

    def follows(self, user_id: int, thread_id: int) -> bool:
        return (user_id, thread_id) in self.following

    def told(self, thread_id: int, name: str, key: str, data: bytes, but: int = 0) -> None:
        self.told_.append((thread_id, name, orjson.loads(data)))

    def online(self, thread_id: int) -> set[int]:
        """Who is there, by what has been told."""
        found = set[int]()
        for thread, name, data in self.told_:
            if (thread, name) == (thread_id, "presence"):
                found |= set(data["online"])
                found -= set(data["offline"])
        return found

    def turned(self, user_id: int) -> list[bool]:
        """What has been told of somebody."""
        return [
            user_id in data["online"]
            for _, name, data in self.told_
            if name == "presence" and user_id in data["online"] + data["offline"]
        ]


class Worker:
    """What of a worker is concerned."""

    def __init__(
        self, url: str, pool: asyncpg.Pool, epoch: str, thread_ids: tuple[int, ...], periods: Periods
    ) -> None:
        self.hub = Rounds(*thread_ids)
        self.bus = Bus(
            url,
            heard=lambda *_: None,
            told=lambda *_: None,
            joined=lambda _: None,
            doubt=lambda _: None,
            ended=lambda _: None,
        )
        self.presence = Presence(url, pool, on=True, hub=self.hub, post=self.bus.post, periods=periods)
        self.typists = Typists(pool, on=True, hub=self.hub, post=self.bus.post, spells=BRIEF)
        self.bus.on(PRESENCE, self.presence.heard, stands=self.presence.connected)
        self.bus.on(TYPING, self.typists.heard)
        self.presence.start(epoch=epoch)
        self.bus.start(epoch=epoch)

    async def die(self) -> None:
        await self.presence.close()
        await self.bus.close()

    async def sees(self, *user_ids: int) -> None:
        wanted = set(user_ids)
        await so(
            lambda: set(self.presence._where) == wanted,
            lambda: f"{set(self.presence._where)} is {wanted}",
        )


Start = Callable[..., Worker]


@pytest.fixture
async def pool(db_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await open_pool(db_url, size=4, statement_cache=100)
    yield opened
    await opened.close()


@pytest.fixture
async def start(backing: Backing, pool: asyncpg.Pool) -> AsyncIterator[Start]:
    """Start a worker of one log whose readers follow these threads."""
    epoch, started = secrets.token_hex(4), list[Worker]()

    def run(*thread_ids: int, url: str = backing.redis_url, periods: Periods = QUICK) -> Worker:
        started.append(Worker(url, pool, epoch, thread_ids, periods))
        return started[-1]

    yield run
    for worker in started:
        await worker.die()


async def users(pool: asyncpg.Pool, count: int) -> list[int]:
    made = "INSERT INTO users (name) SELECT 'Somebody' FROM generate_series(1, $1) RETURNING id"
    return [row["id"] for row in await pool.fetch(made, count)]


async def group(pool: asyncpg.Pool, *user_ids: int) -> int:
    made = await threads.create(
        pool, user_id=user_ids[0], kind="group", title="Team", member_ids=list(user_ids[1:])
    )
    assert made is not None
    return made


async def test_a_page_that_loads_again_is_no_goodbye(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    here, there = start(team), start(team)
    with here.presence.of(ada):
        await there.sees(ada)
    with here.presence.of(ada):  # within the same turn of the loop
        with here.presence.of(ben):
            await there.sees(ada, ben)
        await there.sees(ada)  # so what was to be told of ada, has been
        await so(lambda: there.hub.online(team) == {ada}, "told")
    assert there.hub.turned(ada) == here.hub.turned(ada) == [True]
    await there.sees()


async def test_who_is_on_two_workers_is_there_until_the_last(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    here, there, third = start(team), start(team), start(team)
    with here.presence.of(ada):
        with there.presence.of(ada):
            await third.sees(ada)
        with there.presence.of(ben):
            await third.sees(ada, ben)
        await third.sees(ada)
    await third.sees()
    await so(lambda: len(third.hub.turned(ada)) == 2, "told")
    assert third.hub.turned(ada) == third.hub.turned(ben) == [True, False]


async def test_a_worker_that_begins_later_knows_who_is_there(pool: asyncpg.Pool, start: Start) -> None:
    ada, *crowd = await users(pool, 30)
    team = await group(pool, ada, *crowd)
    here = start()
    with contextlib.ExitStack() as stack:
        for one in crowd:
            stack.enter_context(here.presence.of(one))
        await so(lambda: here.presence._unsaid == {}, "written")
        late = start(team)
        await late.sees(*crowd)
        assert await late.presence.of_thread(team, reader_id=ada) == sorted(crowd)
        await so(lambda: late.hub.online(team) == set(crowd), "told")
        assert len(late.hub.told_) < 5  # many at once


async def test_a_worker_that_dies_takes_its_people_along(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    here, there = start(team), start(team)
    with there.presence.of(ben), here.presence.of(ada):
        await there.sees(ada, ben)
        await here.die()
        began = time.monotonic()
        await there.sees(ben)
        took = time.monotonic() - began
        assert took > QUICK.grace, "it might have come back"
        await so(lambda: there.hub.turned(ada) == [True, False], "told")
        registered = await there.presence._redis.smembers(there.presence._registry)
        assert registered == {there.presence._worker.encode()}


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """One of one's own, to be killed."""
    folder = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    folder.chmod(0o711)
    server = Valkey(folder / "data")
    with server:
        yield server
    remove(folder / "data")
    shutil.rmtree(folder)


async def test_a_redis_that_comes_back_empty_makes_nobody_blink(
    pool: asyncpg.Pool, start: Start, valkey: Valkey
) -> None:
    ada, ben, eve = await users(pool, 3)
    team = await group(pool, ada, ben, eve)
    here, there = start(team, url=valkey.url()), start(team, url=valkey.url())
    with here.presence.of(ada), there.presence.of(ben):
        with here.presence.of(eve):
            await here.sees(ada, ben, eve)
            await there.sees(ada, ben, eve)
            assert valkey.process is not None
            valkey.process.kill()
            valkey.process.wait()
            await so(lambda: bool(here.presence._blind and there.presence._blind), "both have noticed")
        await here.sees(ada, ben)  # one's own are known
        began = time.monotonic()
        while time.monotonic() - began < QUICK.kept + QUICK.grace:  # the outage
            await asyncio.sleep(0.05)
        assert set(there.presence._where) == {ada, ben, eve}, "whoever was there, is taken to be there"
        valkey.spawn()
        await there.sees(ada, ben)
        await so(lambda: there.hub.turned(eve) == [True, False], "told")
        with here.presence.of(eve):
            await there.sees(ada, ben, eve)
    await here.sees()
    await there.sees()
    await so(lambda: there.hub.online(team) == here.hub.online(team) == set(), "told")
    for worker in (here, there):
        assert worker.hub.turned(ada) == worker.hub.turned(ben) == [True, False]


async def test_without_redis_each_worker_knows_its_own(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    here, there = (start(team, url="redis://127.0.0.1:1") for _ in range(2))
    with here.presence.of(ada), there.presence.of(ben):
        await so(lambda: here.hub.online(team) == {ada}, "told")
        await so(lambda: there.hub.online(team) == {ben}, "told")
        await here.typists.type(ada, team, typing=True)
        await so(lambda: len([1 for _, name, _ in here.hub.told_ if name == "typing"]) == 2, "it ends")
    await so(lambda: here.hub.online(team) == there.hub.online(team) == set(), "told")


async def test_what_was_missed_is_found_by_looking(pool: asyncpg.Pool, start: Start) -> None:
    """The set of another worker has changed, and nothing was said."""
    ada, ben = await users(pool, 2)
    here, there = start(), start()
    with here.presence.of(ada):
        await there.sees(ada)
        key = here.presence._key(here.presence._worker)
        await there.presence._redis.sadd(key, ben)
        await there.sees(ada, ben)
        await there.presence._redis.delete(key)
        await there.sees(ada)  # put back by whose it is


async def test_a_database_that_is_away_makes_it_late(
    pool: asyncpg.Pool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    asked, real = 0, module.concerned

    async def fails_first(*args: Any, **more: Any) -> list[asyncpg.Record]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError
        return await real(*args, **more)

    monkeypatch.setattr(module, "concerned", fails_first)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    here = start(team)
    with here.presence.of(ada):
        with here.presence.of(ben):
            await so(lambda: asked >= 1, "asked")
        await so(lambda: here.hub.online(team) == {ada}, "told")
    assert asked >= 2


async def test_what_waits_for_its_round_is_put_together(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben, eve = await users(pool, 3)
    team = await group(pool, ada, ben, eve)
    here = start(team)
    here.hub.wait = 1.0
    with here.presence.of(ada), here.presence.of(eve):
        with here.presence.of(ben):
            await so(
                lambda: here.presence._waiting.get(team) == dict.fromkeys((ada, eve, ben), True), "waits"
            )
        await so(lambda: here.presence._waiting.get(team) == dict.fromkeys((ada, eve), True), "waits")
        await so(lambda: bool(here.hub.told_), "told")
        (told,) = here.hub.told_
        assert told == (team, "presence", {"threadId": team, "online": [ada, eve], "offline": []})


def test_who_turns_back_has_not_turned() -> None:
    turned = {1: True, 2: False}
    merge(turned, {1: False, 2: False, 3: True})
    assert turned == {2: False, 3: True}


async def test_of_a_large_thread_those_who_are_there_are_shown(
    pool: asyncpg.Pool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", 10)
    monkeypatch.setattr(module, "SHOWN", 5)
    monkeypatch.setattr(module, "VIEW_SECONDS", 30.0)
    ada, *crowd = await users(pool, 30)
    (stranger,) = await users(pool, 1)
    team = await group(pool, ada, *crowd)
    here = start(team)
    with here.presence.of(stranger), here.presence.of(crowd[-1]):
        assert await here.presence.of_thread(team, reader_id=ada) == [crowd[-1]]
        with here.presence.of(crowd[-2]):  # after the members have been looked up
            await so(lambda: here.hub.online(team) == set(crowd[-2:]), "told")
            assert await here.presence.of_thread(team, reader_id=ada) == crowd[-2:]
        with contextlib.ExitStack() as stack:
            for one in crowd:
                stack.enter_context(here.presence.of(one))
            await so(lambda: here.hub.online(team) == set(crowd), "told")
            assert await here.presence.of_thread(team, reader_id=ada) == crowd[:5]


async def test_a_crowd_that_joins_at_once_costs_one_question(
    pool: asyncpg.Pool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, *crowd = await users(pool, 30)
    team = await group(pool, ada, *crowd)
    asked, real = 0, module.members

    async def counted(*args: Any, **more: Any) -> list[asyncpg.Record]:
        nonlocal asked
        asked += 1
        return await real(*args, **more)

    monkeypatch.setattr(module, "members", counted)
    monkeypatch.setattr(module, "VIEW_SECONDS", 30.0)
    here = start(team)
    with contextlib.ExitStack() as stack:

        async def joins(one: int) -> None:
            stack.enter_context(here.presence.of(one))
            assert one in await here.presence.of_thread(team, reader_id=one)

        await asyncio.gather(*map(joins, crowd))
    assert asked == 1


# ---- people of direct threads


async def test_people_of_direct_threads_are_told_but_not_of_who_has_blocked_them(
    pool: asyncpg.Pool, start: Start
) -> None:
    ada, ben, eve, mallory = await users(pool, 4)
    here, there = start(), start()
    heard: list[tuple[int, list[int], list[int]]] = []
    there.presence.for_user = lambda *told: heard.append(told)
    for other in (ben, eve):
        assert await threads.create_direct(pool, user_id=ada, other_id=other)
    await group(pool, ada, mallory)
    with there.presence.of(ben), there.presence.of(mallory):
        await here.sees(ben, mallory)
        with here.presence.of(ada):
            await so(lambda: heard == [(ben, [ada], [])], lambda: f"{heard}")
            assert await there.presence.friends(ben) == [ada]
            assert await there.presence.friends(mallory) == []
            assert await here.presence.friends(ada) == [ben]
            await blocks.make(pool, user_id=ada, other_id=ben)
            here.presence.look_again(ada, ben)
            await so(lambda: heard[1:] == [(ben, [], [ada])], lambda: f"{heard}")
            assert await there.presence.friends(ben) == []
            assert await here.presence.friends(ada) == [ben]
            await threads.create_direct(pool, user_id=ada, other_id=mallory)
            here.presence.look_again(mallory, ada)
            await so(lambda: heard[2:] == [(mallory, [ada], [])], lambda: f"{heard}")
        await so(lambda: heard[3:] == [(mallory, [], [ada])], lambda: f"{heard}")
        await blocks.lift(pool, user_id=ada, other_id=ben)
        with here.presence.of(ada), here.presence.of(eve):
            await there.sees(ada, ben, eve, mallory)
            await so(lambda: len(heard) == 6, lambda: f"{heard}")
            assert sorted(heard[4:]) == [(ben, [ada], []), (mallory, [ada], [])]


# ---- typing


def typed(worker: Worker) -> list[tuple[int, bool]]:
    return [(data["userId"], data["isTyping"]) for _, name, data in worker.hub.told_ if name == "typing"]


async def test_typing_is_said_once_in_a_while_and_asked_about_as_seldom(
    pool: asyncpg.Pool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    here, there = start(team), start(team)
    asked, real = 0, module.door

    async def counted(*args: Any, **more: Any) -> asyncpg.Record | None:
        nonlocal asked
        asked += 1
        return await real(*args, **more)

    monkeypatch.setattr(module, "door", counted)
    await so(lambda: here.bus.up and there.bus.up, "connected")
    began = time.monotonic()
    while time.monotonic() - began < 3 * BRIEF.pause:
        assert await here.typists.type(ada, team, typing=True)
        await asyncio.sleep(0.005)
    assert 2 <= asked <= 4
    assert await here.typists.of(team, reader_id=ben) == [ada]
    assert typed(here) == [(ada, True)] * asked
    await so(lambda: typed(there) == [(ada, True)] * asked + [(ada, False)], lambda: f"{typed(there)}")
    await so(lambda: typed(here) == typed(there), "both")
    assert not here.typists._rooms and not there.typists._rooms
    await so(lambda: not here.typists._said_at and not here.typists._timer, "nothing is kept")


async def test_typing_ends_elsewhere_when_its_worker_is_dead(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    here, there = start(), start(team)
    await so(lambda: there.bus.up and here.bus.up, "connected")
    await here.typists.type(ada, team, typing=True)
    await so(lambda: typed(there) == [(ada, True)], "told")
    await here.die()
    await so(lambda: typed(there) == [(ada, True), (ada, False)], "told")


async def test_stopping_goes_through_and_beginning_again_does_too(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben, mallory = await users(pool, 3)
    team = await group(pool, ada, ben)
    here = start(team)
    for typing in (True, False, True, True, False, True):
        assert await here.typists.type(ada, team, typing=typing)
    assert typed(here) == [(ada, True), (ada, False)] * 2 + [(ada, True)]
    for typing in (True, False):
        assert not await here.typists.type(mallory, team, typing=typing)
    assert await here.typists.of(team, reader_id=ben) == [ada]


async def test_a_stream_that_ends_ends_the_typing_it_was_for_and_no_other(
    pool: asyncpg.Pool, start: Start
) -> None:
    ada, ben = await users(pool, 2)
    team = await group(pool, ada, ben)
    here, there = start(team), start(team)
    await so(lambda: here.bus.up and there.bus.up, "connected")
    await here.typists.type(ada, team, typing=True)
    await so(lambda: typed(there) == [(ada, True)], "told")
    there.typists.left(ada, team)  # another device, at another worker
    here.hub.following.add((ada, team))
    here.typists.left(ada, team)  # and one of two here
    assert typed(here) == typed(there) == [(ada, True)]
    here.hub.following.clear()
    here.typists.left(ada, team)
    assert typed(here) == [(ada, True), (ada, False)]
    await so(lambda: typed(there) == [(ada, True), (ada, False)], "told")
    await there.typists.type(ada, team, typing=True)  # the pause is over with it, at each worker
    await so(lambda: typed(here) == [(ada, True), (ada, False), (ada, True)], "told")
    here.typists.left(ada, team)
    assert typed(here) == [(ada, True), (ada, False), (ada, True)]


async def test_who_was_removed_types_no_longer_for_whoever_asks(pool: asyncpg.Pool, start: Start) -> None:
    ada, ben, eve, mallory = await users(pool, 4)
    team = await group(pool, ada, ben, eve)
    here = start()
    for one in (ada, ben):
        assert await here.typists.type(one, team, typing=True)
    assert await here.typists.of(team, reader_id=eve) == [ada, ben]
    assert len(await here.typists.events(team, reader_id=eve)) == 2
    assert await here.typists.of(team, reader_id=mallory) == []
    await members.close_span(pool, thread_id=team, member_id=ben, act="removed")
    assert await here.typists.of(team, reader_id=eve) == [ada]
    (told,) = await here.typists.events(team, reader_id=eve)
    assert orjson.loads(told)["userId"] == ada
    assert await here.typists.of(team, reader_id=ben) == []


@pytest.mark.parametrize("before", [True, False])
async def test_neither_of_two_types_for_the_other_when_one_has_blocked_the_other(
    pool: asyncpg.Pool, start: Start, before: bool
) -> None:
    ada, ben = await users(pool, 2)
    pair = await threads.create_direct(pool, user_id=ada, other_id=ben)
    assert pair is not None
    here = start(pair)

    async def both_type() -> None:
        for one in (ada, ben):
            assert await here.typists.type(one, pair, typing=True)

    if not before:
        await both_type()
        assert await here.typists.of(pair, reader_id=ada) == [ada, ben]
        here.hub.told_.clear()
    await blocks.silence(pool, user_id=ada, other_id=ben, blocked=True)
    if before:
        await both_type()
        assert typed(here) == []
    for reader_id in (ada, ben):
        assert set(await here.typists.of(pair, reader_id=reader_id)) <= {reader_id}
        assert await here.typists.events(pair, reader_id=reader_id) == []


async def test_of_many_who_type_some_are_told(pool: asyncpg.Pool, start: Start) -> None:
    crowd = await users(pool, TOLD + 5)
    team = await group(pool, *crowd)
    here = start(team)
    for one in crowd:
        await here.typists.type(one, team, typing=True)
    assert typed(here) == [(one, True) for one in crowd[:TOLD]]
    assert len(await here.typists.events(team, reader_id=crowd[0])) == TOLD - 1
    assert await here.typists.of(team, reader_id=crowd[0]) == crowd
    await so(lambda: not here.typists._rooms, "all end")
    assert sorted(typed(here)[TOLD:]) == [(one, False) for one in crowd[:TOLD]]


async def test_garbage_on_the_topics_changes_nothing(pool: asyncpg.Pool, start: Start) -> None:
    here = start(7)
    for payload in (b"", b"x", b"[]", b"1", b'["a","moved",1,2]', b'["a","moved",["x"],[]]', b'["a","pair"]',
                    b'["a",[[1]]]', b'["a",[["x",1,true]]]', b"\xff", b'[["a"],"moved",[1],[2]]'):  # fmt: skip
        here.presence.heard(payload)
        here.typists.heard(payload)
    assert not here.presence._where and not here.typists._rooms and not here.hub.told_
