"""Brakes: a caller has one bucket however many workers there are, and no flood, guess or lost Redis gets past."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from server.base.errors import Problem, TooMany
from server.base.front import Pairs, line_of
from server.base.limits import (
    BRAKES,
    BUCKETS,
    GUESSES,
    KIB,
    KNOWN_SECONDS,
    PATIENCE_SECONDS,
    STREAMS,
    Brake,
    Limits,
)
from server.ops.embedded import Valkey
from server.routes import ROUTES
from tests.client import NUMBERS, Api, Person
from tests.conftest import Backing
from tests.ops.conftest import folder, kept_folder
from tests.ops.process import Bobbin
from tests.rules import ok, refused, until

__all__ = ["folder", "kept_folder"]

SLOW = {"read": Brake(100, 0.01), "small": Brake(5, 0.01), "quick": Brake(5, 50)}
NOBODY = "unix:///nonexistent/valkey.sock"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Maker = Callable[..., Limits]


@pytest.fixture
async def worker(backing: Backing, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Maker]:
    """Make the limits of a worker: worker(workers=2). All of a test share their buckets, and with no other test."""
    # On a busy machine Redis is slow, and not away.
    monkeypatch.setattr("server.base.limits.PATIENCE_SECONDS", 20.0)
    made: list[Limits] = []
    namespace = f"{os.getpid()}.{next(NUMBERS)}"

    def make(
        url: str = backing.redis_url,
        *,
        workers: int = 1,
        on: bool = True,
        brakes: dict[str, Brake] = SLOW,
        **more: Any,
    ) -> Limits:
        made.append(Limits(url, on=on, workers=workers, namespace=lambda: namespace, brakes=brakes, **more))
        return made[-1]

    yield make
    for limits in made:
        await limits.close()


def said(pairs: Pairs) -> tuple[int, int, int]:
    """Limit, remaining and reset."""
    found = {name.decode(): int(value) for name, value in pairs}
    assert list(found) == ["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
    limit, remaining, reset = found.values()
    return limit, remaining, reset


async def passed(limits: Limits, cost: str, who: int | str, count: int) -> int:
    """How many of so many requests at once are let through."""
    answers = await asyncio.gather(*(limits.take(cost, who) for _ in range(count)), return_exceptions=True)
    assert all(isinstance(one, TooMany | tuple) for one in answers), answers
    return sum(isinstance(one, tuple) for one in answers)


async def calls(backing: Backing) -> int:
    """How many scripts Redis has run."""
    async with Redis.from_url(backing.redis_url, protocol=3) as client:
        stats = await client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


# ---- buckets


@pytest.mark.parametrize("cost", ["read", "small"])
async def test_a_burst_is_let_through_to_the_last_token_and_then_refused(worker: Maker, cost: str) -> None:
    limits, burst = worker(), SLOW[cost].burst
    told = [said(await limits.take(cost, 1)) for _ in range(burst)]
    assert {limit for limit, _, _ in told} == {burst}
    assert [remaining for _, remaining, _ in told] == list(range(burst - 1, -1, -1))
    assert all(0 < reset <= burst * 100 for _, _, reset in told)
    with pytest.raises(TooMany) as refusal:
        await limits.take(cost, 1)
    problem = refusal.value
    assert (problem.status, problem.code) == (429, "rate_limited")
    assert problem.headers["RateLimit-Limit"] == str(burst)
    assert problem.headers["RateLimit-Remaining"] == "0"
    assert 90 <= int(problem.headers["Retry-After"]) <= int(problem.headers["RateLimit-Reset"]) <= burst * 100
    await limits.take(cost, 2)  # another user has a bucket of their own
    await limits.take("quick", 1)  # and so has another cost
    await limits.take(cost, "1")  # an address is no user


async def test_what_is_spent_runs_in_again(worker: Maker) -> None:
    limits = worker()

    async def spent() -> bool:
        return await passed(limits, "quick", 1, 50) < 50

    await until(spent, "fifty at once are more than it holds, whatever has run in meanwhile")

    async def again() -> bool:
        return await passed(limits, "quick", 1, 1) == 1

    for _ in range(5):
        await until(again, "a token has run in")


@pytest.mark.parametrize("workers", [2, 7, 64])
async def test_all_workers_together_let_no_more_through_than_one_bucket_holds(
    worker: Maker, workers: int
) -> None:
    every = [worker(workers=workers) for _ in range(workers)]
    counts = await asyncio.gather(*(passed(one, "read", 1, 100) for one in every))
    assert sum(counts) == 100
    assert await passed(every[0], "read", 2, 100) >= 90  # one alone gets all but the parts of the others


async def test_a_lease_that_nobody_spends_lapses(worker: Maker, backing: Backing) -> None:
    clock = Clock()
    limits = worker(workers=2, brakes={"read": Brake(100, 100)}, clock=clock)  # full again after a second
    for who, later, asked in ((1, 0.0, 0), (2, 1.0, 1)):
        assert await passed(limits, "read", who, 6) == 6  # five of its own, and one of a lease of nine
        before = await calls(backing)
        clock.now += later
        assert await passed(limits, "read", who, 8) == 8
        assert await calls(backing) - before == asked


async def test_who_asks_for_little_costs_redis_nothing_and_a_flood_next_to_nothing(
    worker: Maker, backing: Backing
) -> None:
    limits = worker(workers=2)
    await limits.take("small", 0)  # the script is loaded
    before = await calls(backing)
    for who in range(1, 51):
        assert await passed(limits, "read", who, 5) == 5
    assert await calls(backing) == before
    assert await passed(limits, "read", 1, 5000) == 90
    asked = await calls(backing) - before
    assert 10 <= asked <= 12  # leases of nine, and the refusal
    assert await passed(limits, "read", 1, 5000) == 0
    assert await calls(backing) - before == asked


async def test_a_client_that_goes_away_takes_no_lease_with_it(worker: Maker) -> None:
    limits = worker()
    gone, waiting = (asyncio.ensure_future(limits.take("small", 1)) for _ in range(2))
    await asyncio.sleep(0)  # both wait for the same lease
    gone.cancel()
    assert said(await waiting)[1] == 4
    assert gone.cancelled()


async def test_the_memory_of_buckets_is_bounded(worker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.base.limits.BUCKETS", 10)
    limits = worker(workers=2)
    for who in range(30):
        await limits.take("read", who)
        await limits.take("read", 0)  # used all the time, it stays
    assert len(limits._buckets) == 10 < BUCKETS
    assert said(await limits.take("read", 0))[1] <= 100 - 31


async def test_off_is_off(worker: Maker) -> None:
    limits = worker(NOBODY, on=False, brakes=BRAKES)
    assert await wrong(limits, "10.0.0.1", "ada", 2 * GUESSES[0].burst) == 2 * GUESSES[0].burst
    with limits.stream(1):
        for _ in range(2 * STREAMS):
            limits.stream(1).__enter__()
    assert await limits.pass_(None, "send") == ()  # type: ignore[arg-type]  # it does not look


async def test_a_bucket_is_not_locked_by_another_burst_or_a_clock_set_back(
    worker: Maker, backing: Backing
) -> None:
    limits = worker()
    key = limits._key("small", "1")
    async with Redis.from_url(backing.redis_url, protocol=3) as client:
        await client.set(key, str(2**52), px=60_000)
    with pytest.raises(TooMany) as refusal:
        await limits.take("small", 1)
    assert int(refusal.value.headers["Retry-After"]) <= 100


async def test_keys_tell_nobody_and_end_by_themselves(worker: Maker, backing: Backing) -> None:
    limits = worker()
    await limits.take("small", line_of("203.0.113.77"))
    await right(limits, "203.0.113.77", "ada@example.com")
    await wrong(limits, "203.0.113.77", "ada@example.com", 1)
    async with Redis.from_url(backing.redis_url, protocol=3, decode_responses=True) as client:
        keys = [key async for key in client.scan_iter("bobbin:limit:*")]
        assert keys
        for key in keys:
            assert len(key) < 50 and "203." not in key and "ada@" not in key
            ends = await client.pttl(key)
            # A hundred seconds for each of a hundred tokens; an address that is known a month.
            longest = KNOWN_SECONDS * 1000 if ":known:" in key else 10_000_000
            assert 0 < ends <= longest or ends == -2


# ---- without Redis


@pytest.fixture
def valkey(folder: Path) -> Iterator[Valkey]:
    """One of the test's own, to stop."""
    with Valkey(folder / "data") as own:
        yield own


def pid_of(valkey: Valkey) -> int:
    return int((valkey.folder / "valkey.pid").read_text())


async def test_without_redis_each_worker_keeps_its_part_of_every_bucket(worker: Maker) -> None:
    clock = Clock()
    limits = worker(NOBODY, workers=4, clock=clock)
    assert await passed(limits, "read", 1, 100) == 2 + 25  # of its own, before it knew; then its quarter
    assert limits.alone
    assert await passed(limits, "read", 1, 100) == 0
    assert await passed(limits, "read", 2, 100) == 25
    assert await passed(limits, "small", 1, 100) == 1  # five by four
    with pytest.raises(TooMany) as refusal:
        await limits.take("read", 1)
    wait = int(refusal.value.headers["Retry-After"])
    assert 1 <= wait <= 400
    clock.now += wait
    assert await passed(limits, "read", 1, 100) == 1
    assert said(await limits.take("read", 3))[:2] == (100, 24)


async def test_a_redis_that_hangs_holds_up_nobody_and_is_used_again_when_it_answers(
    worker: Maker, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.base.limits.PATIENCE_SECONDS", PATIENCE_SECONDS)
    limits, loop = worker(valkey.url(), workers=2), asyncio.get_running_loop()
    await limits.take("small", 1)
    os.kill(pid_of(valkey), signal.SIGSTOP)
    try:
        begun = loop.time()
        assert await passed(limits, "small", 2, 20) == 2  # its half of five
        assert PATIENCE_SECONDS <= loop.time() - begun < 18 * PATIENCE_SECONDS  # once, for all
        begun = loop.time()
        for who in range(3, 53):
            assert await passed(limits, "small", who, 20) == 2
            await right(limits, "10.0.0.1", f"account {who}")
        assert loop.time() - begun < 100 * PATIENCE_SECONDS  # a thousand requests, none of which waited
    finally:
        os.kill(pid_of(valkey), signal.SIGCONT)

    async def together() -> bool:
        return not limits.alone

    await until(together, "Redis is used again")
    assert await passed(limits, "small", 99, 20) == 5


# ---- guesses


async def right(limits: Limits, address: str | None, account: str) -> None:
    """The right password."""
    async with limits.guess(address, account) as guess:
        await guess.right()


async def wrong(limits: Limits, address: str | None, account: str, count: int) -> int:
    """How many of so many wrong guesses at once are compared."""

    async def guess() -> None:
        async with limits.guess(address, account):
            pass

    answers = await asyncio.gather(*(guess() for _ in range(count)), return_exceptions=True)
    refusals = [one for one in answers if isinstance(one, BaseException)]
    assert all(isinstance(one, TooMany) and one.code == "rate_limited" for one in refusals), refusals
    return count - len(refusals)


@pytest.mark.parametrize("url", [None, NOBODY])
async def test_ten_guesses_at_an_account_from_an_address_and_then_one_a_minute(
    worker: Maker, url: str | None
) -> None:
    limits = worker(**({"url": url} if url else {}))
    assert await wrong(limits, "10.0.0.1", "Ada@Example.com", 30) == 10
    for spelling in ("ada@example.com", "ADA@EXAMPLE.COM ", "\uff21da@example.com"):
        assert await wrong(limits, "10.0.0.1", spelling, 1) == 0, "another spelling is the same account"
    assert await wrong(limits, "::ffff:10.0.0.1", "ada@example.com", 1) == 0
    with pytest.raises(TooMany) as refusal:
        await right(limits, "10.0.0.1", "ada@example.com")
    assert 50 <= int(refusal.value.headers["Retry-After"]) <= 60
    assert refusal.value.headers["RateLimit-Limit"] == "10"
    assert await wrong(limits, "10.0.0.2", "ada@example.com", 1) == 1  # from elsewhere she still comes in
    assert await wrong(limits, "10.0.0.1", "ben@example.com", 1) == 1  # and another from here


@pytest.mark.parametrize("url", [None, NOBODY])
async def test_many_addresses_and_many_accounts_are_braked_too(worker: Maker, url: str | None) -> None:
    limits = worker(**({"url": url} if url else {}))
    addresses = [f"10.0.1.{number}" for number in range(15)]
    assert sum([await wrong(limits, one, "ada", 10) for one in addresses]) == 100
    assert await wrong(limits, "2001:db8::1", "ada", 1) == 0
    accounts = [f"somebody {number}" for number in range(60)]
    found = [await wrong(limits, f"2001:db8:1:2::{number:x}", one, 1) for number, one in enumerate(accounts)]
    assert sum(found) == 50  # of one /64
    assert await wrong(limits, "2001:db8:1:3::1", "somebody else", 1) == 1


@pytest.mark.parametrize("url", [None, NOBODY])
async def test_a_right_password_is_no_guess(worker: Maker, url: str | None) -> None:
    limits = worker(**({"url": url} if url else {}))
    for _ in range(100):
        await right(limits, "10.0.0.1", "ada")
    # However many at once: they wait for each other, and none is taken for a guess.
    await asyncio.gather(*(right(limits, "10.0.0.1", f"person {number}") for number in range(100)))
    await asyncio.gather(*(right(limits, "10.0.0.1", "ada") for _ in range(100)))
    assert limits._comparing == {}
    assert await wrong(limits, "10.0.0.1", "ada", 30) == 10


async def test_guesses_from_many_addresses_lock_nobody_out_at_home(worker: Maker) -> None:
    limits = worker()
    await right(limits, "192.0.2.1", "ada")
    for number in range(15):
        await wrong(limits, f"10.0.1.{number}", "ada", 10)
    assert await wrong(limits, "10.0.2.1", "ada", 1) == 0, "they have not guessed enough"
    await right(limits, "192.0.2.1", "ada")
    assert (
        await wrong(limits, "192.0.2.1", "ada", 30) == 10
    )  # where she is known one guesses as little as elsewhere
    assert await wrong(limits, "192.0.2.1", "ben", 1) == 1


# ---- streams


def test_a_user_has_so_many_streams_open_on_a_worker(worker: Maker) -> None:
    limits = worker(NOBODY)
    opened = [limits.stream(1) for _ in range(STREAMS)]
    for one in opened:
        one.__enter__()
    with pytest.raises(TooMany) as refusal, limits.stream(1):
        pass
    assert refusal.value.code == "too_many_streams"
    assert str(STREAMS) not in refusal.value.sentence, "of all workers it is another number"
    assert int(refusal.value.headers["Retry-After"]) >= 1
    with limits.stream(2):
        pass
    opened[0].__exit__(None, None, None)
    with limits.stream(1):
        pass
    for one in opened[1:]:
        one.__exit__(None, None, None)
    assert limits._streams == {}


# ---- the table


def test_every_route_has_its_cost_and_room_for_the_largest_body_it_takes() -> None:
    assert {route.cost for route in ROUTES} | {"refused"} == set(BRAKES)
    for route in ROUTES:
        if route.access != "OPEN":
            assert route.brake.burst, f"{route.name} is not braked"
        if route.name.endswith(("/messages", "/messages/<seq:id>")) and route.body is not None:
            assert route.brake.body_bytes > 10_000 * len(r"\ud83d\ude00") + KIB


# ---- over HTTP


@pytest.fixture(scope="module")
def braked(kept_folder: Path) -> Iterator[Bobbin]:
    """A server with all brakes on, which believes 127.0.0.1 whom it forwards for."""
    own = Bobbin(kept_folder, BOBBIN_TRUSTED_PROXIES="127.0.0.1")
    try:
        yield own.ready()
    finally:
        own.close()


@pytest.fixture(scope="module")
async def front(braked: Bobbin) -> AsyncIterator[Api]:
    client = Api(braked.url)
    yield client
    await client.close()


def by(address: str) -> dict[str, Any]:
    return {"headers": {"X-Forwarded-For": address}}


async def join(front: Api, name: str, address: str) -> Person:
    """Register, from an address."""
    body = {"email": f"{name}@example.com", "name": name, "username": name, "password": "password123"}
    user = ok(await front.post("/api/auth/register", body, **by(address)), 201)
    return Person(user["user"]["id"], name, user["accessToken"])


def limits_of(headers: httpx.Headers) -> list[str]:
    return [headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "reset")]


async def test_a_hundred_register_from_one_address(front: Api) -> None:
    people = await asyncio.gather(*(join(front, f"pupil{number}", "192.0.2.1") for number in range(100)))
    assert len({person.id for person in people}) == 100


async def test_a_burst_of_messages_passes_and_a_flood_is_refused_in_the_one_shape(front: Api) -> None:
    ada, ben = await join(front, "ada", "192.0.2.2"), await join(front, "ben", "192.0.2.2")
    thread_id = await front.thread(ada, ben)

    async def send() -> Any:
        return await front.post(f"/api/threads/{thread_id}/messages", {"text": "here"}, as_=ada)

    for reply in await asyncio.gather(*(send() for _ in range(200))):
        ok(reply, 201)
        limit, remaining, reset = map(int, limits_of(reply.headers))
        assert limit == BRAKES["send"].burst and 0 <= remaining < limit and 0 < reset <= 15
    replies = [await send() for _ in range(400)]
    refusals = [reply for reply in replies if reply.status == 429]
    assert refusals and {reply.status for reply in replies} == {201, 429}
    for reply in refusals:
        refused(reply, 429, "rate_limited")
        assert 1 <= int(reply.headers["retry-after"]) <= 2
        assert limits_of(reply.headers)[:2] == [str(BRAKES["send"].burst), "0"]
    assert ok(await front.get("/api/me", as_=ada))  # reading goes on
    assert "ratelimit-limit" not in (await front.get("/livez")).headers
    said_by_ben = await front.post(f"/api/threads/{thread_id}/messages", {"text": "here"}, as_=ben)
    ok(said_by_ben, 201)
    missing = await front.get("/api/threads/999999999", as_=ben)
    refused(missing, 404)
    assert limits_of(missing.headers)[0] == str(BRAKES["read"].burst)


async def test_bad_tokens_are_braked_by_address_and_good_ones_are_not(front: Api) -> None:
    cy, bad = await join(front, "cy", "192.0.2.3"), Person(1, "nobody", "a.b.c")
    burst = BRAKES["refused"].burst
    replies = [await front.get("/api/me", as_=bad, **by("192.0.2.3")) for _ in range(burst + 200)]
    assert {reply.status for reply in replies} == {401, 429}
    assert sum(reply.status == 401 for reply in replies) >= 0.9 * burst
    last = next(reply for reply in replies if reply.status == 429)
    refused(last, 429, "rate_limited")
    for token in ("bbk_no-such-key", "no-such-ticket"):  # the database is not asked
        for _ in range(200):  # the bucket fills while a slow machine pauses
            guess = await front.get(f"/api/threads/1/stream?token={token}", **by("192.0.2.3"))
            if guess.status != 401:
                break
        refused(guess, 429, "rate_limited")
        refused(await front.get(f"/api/threads/1/stream?token={token}", **by("192.0.2.4")), 401)
    refused(await front.get("/api/me", as_=bad, **by("192.0.2.4")), 401)
    ok(await front.get("/api/me", as_=cy, **by("192.0.2.3")))


async def test_who_guesses_is_braked_whether_there_is_such_an_account_or_not(front: Api) -> None:
    dee = await join(front, "dee", "192.0.2.5")

    async def login(name: str, password: str, address: str) -> Any:
        return await front.post("/api/auth/login", {"username": name, "password": password}, **by(address))

    for name in ("dee", "nobody-at-all"):
        for _ in range(10):
            refused(await login(name, "wrong", "192.0.2.6"), 401, "wrong_credentials")
        shapes = []
        for password in ("wrong", "password123"):  # braked is braked: the right one is not told apart
            reply = await login(name, password, "192.0.2.6")
            body = refused(reply, 429, "rate_limited")
            assert len(reply.headers.get_list("ratelimit-limit")) == 1
            assert 50 <= int(reply.headers["retry-after"]) <= 60
            shapes.append((body["error"], reply.headers["ratelimit-limit"]))
        assert len(set(shapes)) == 1
    ok(await login("dee", "password123", "192.0.2.7"))
    refused(await login("dee", "wrong", "192.0.2.7"), 401)
    body = {"current": "wrong", "new": "password456"}
    for _ in range(10):
        refused(await front.post("/api/me/password", body, as_=dee, **by("192.0.2.8")), 403, "wrong_password")
    refused(await front.post("/api/me/password", body, as_=dee, **by("192.0.2.8")), 429, "rate_limited")


async def test_an_account_is_one_however_it_is_named(front: Api) -> None:
    await join(front, "gil", "192.0.2.20")
    body = {"password": "wrong"}
    for who in ({"username": "gil"}, {"username": "GİL"}, {"email": "gil@example.com"}):
        for _ in range(4):
            reply = await front.post("/api/auth/login", who | body, **by("192.0.2.21"))
            assert reply.status in (401, 429)
    refused(reply, 429, "rate_limited")


async def test_what_a_role_or_a_forgery_is_refused_for_is_braked_too(front: Api) -> None:
    eve = await join(front, "eve", "192.0.2.22")
    reply = await front.get("/api/admin/users", as_=eve, **by("192.0.2.22"))
    refused(reply, 403, "forbidden")
    assert int(reply.headers["ratelimit-remaining"]) < int(reply.headers["ratelimit-limit"])


async def test_twenty_log_in_at_once_again_and_again_from_one_address(front: Api) -> None:
    names = [f"staff{number}" for number in range(20)]
    await asyncio.gather(*(join(front, name, "192.0.2.9") for name in names))
    for _ in range(4):
        bodies = [{"username": name, "password": "password123"} for name in names]
        replies = await asyncio.gather(
            *(front.post("/api/auth/login", body, **by("192.0.2.10")) for body in bodies)
        )
        assert {reply.status for reply in replies} == {200}


def test_a_refusal_says_when_to_come_back_in_whole_seconds() -> None:
    told = [TooMany(retry_after=seconds).headers["Retry-After"] for seconds in (-1, 0, 0.2, 1.0, 1.1, 59.9)]
    assert told == ["1", "1", "1", "1", "2", "60"]
    assert issubclass(TooMany, Problem)
