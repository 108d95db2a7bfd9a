"""Brakes: how often a caller may do what, and how much they may say at once.

A caller has one bucket for each word of BRAKES: a user their own, wherever they are signed in, and whoever is
not signed in that of their address. It is kept in Redis and shared by all workers. A call to Redis would cost half as
much as a small request itself, so a worker asks seldom:

- A tenth of each bucket is dealt out to the workers beforehand. Who asks for little never gets beyond it.
- Of the rest a worker leases a tenth at once, and spends that from memory. What it does not spend lapses when it would
  have run in again: all workers together never let more through than the bucket holds.
- A bucket known to be empty refuses from memory until another lease has run in: a flood does not reach Redis.

Without Redis nobody is held up. Each worker goes on with its even part of every bucket.
"""

import asyncio
import base64
import contextlib
import hashlib
import math
import time
import unicodedata
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError
from sanic import Request

from server.base import log
from server.base.errors import TooMany
from server.base.front import Pairs, address_of, line_of, plain

KIB = 1024


@dataclass(frozen=True)
class Brake:
    """A bucket of `burst` tokens that fills by per_second; each request takes one."""

    burst: int  # 0: no brake
    per_second: float
    body_bytes: int = 16 * KIB


# What a request costs, by the word beside its path in ROUTES. No honest client comes near: one that opens thirty
# threads, with a page, the members and a stream of each, a script that sends two hundred messages, a class of a
# hundred who register from one address. Sustained, a bucket is a fraction of what one worker can do.
BRAKES = {
    "free": Brake(0, 0),
    "register": Brake(200, 0.1),
    "auth": Brake(400, 10),
    "ticket": Brake(300, 10),
    "read": Brake(600, 50),
    "write": Brake(300, 20),
    "make": Brake(150, 1, body_bytes=32 * KIB),
    # 10,000 characters, each escaped as \uXXXX\uXXXX at worst
    "send": Brake(300, 20, body_bytes=256 * KIB),
    # One gateway hands in what all contacts say.
    "inbound": Brake(3000, 200, body_bytes=256 * KIB),
    "stream": Brake(300, 10),
    "bulk": Brake(30, 0.2, body_bytes=10 * 1024 * KIB),
    "refused": Brake(1000, 20),  # no route's: a token that is not good, by address
}

# Guesses at a password, and how soon they are forgotten. Each takes a token of all three before it is compared: of
# the account at this address, of the address, and of the account. Braked is braked, for the right password too: else
# the answer would tell it apart. From where its owner has signed in of late the last one is not asked: nobody who
# guesses from many addresses locks them out there.
GUESSES = (Brake(10, 1 / 60), Brake(50, 1 / 5), Brake(100, 100 / 3600))
KNOWN_SECONDS = 30 * 86400  # how long an address from which somebody signed in is one of theirs
# Compared at once, of one address, by all workers: the rest waits its turn, for tokens are given back to the right ones
# only when they have been compared. Fewer than the smallest bucket of GUESSES holds.
COMPARED = 8
QUEUE = 300  # and waiting, on one worker

STREAMS = 100  # open at once, of one user on one worker
OWN = 0.1  # of each bucket: dealt out to the workers beforehand
LEASE = 0.1  # of what is shared: taken at once
HOLD_SECONDS = 1.0  # an empty bucket is asked again after that at the latest
BUCKETS = 50_000  # known to a worker, the last used ones; at 400 bytes each this is 20 MB
PATIENCE_SECONDS = 0.25  # that one request waits for Redis; then none does, until it is back
RETURN_SECONDS = 1.0  # between two looks whether it is
CONNECTIONS = 8
HAIR = 1e-6  # by which sums of seconds may miss
AWAY = (RedisError, OSError, asyncio.TimeoutError)

# GCRA: a bucket is the moment at which it will be full, in microseconds of Redis's own clock.
# KEYS: buckets. ARGV: how many tokens of each, fewer than none to give them back; then, for each key, the microseconds
# in which a token runs in, and how many it holds. All keys give as many as the emptiest has.
# Answers: how many were given; in how many microseconds the first will be full; in how many all have
# one; and the number of the key that this is up to.
TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local given, full, wait, last = tonumber(ARGV[1]), {}, 0, 1
for i, key in ipairs(KEYS) do
    local gap, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    -- never beyond what an empty one has: a clock that was set back, or another burst, would lock it
    full[i] = math.min(math.max(now, tonumber(redis.call('GET', key) or now)), now + burst * gap)
    local free = burst + math.floor((now - full[i]) / gap)
    if given > free then given = free end
    if free < 1 and full[i] + gap - burst * gap - now > wait then
        wait, last = full[i] + gap - burst * gap - now, i
    end
end
for i, key in ipairs(KEYS) do
    full[i] = math.max(now, full[i] + given * tonumber(ARGV[2 * i]))
    if given ~= 0 and full[i] > now then
        redis.call('SET', key, string.format('%.0f', full[i]), 'PX', math.ceil((full[i] - now) / 1000))
    elseif given ~= 0 then
        redis.call('DEL', key)
    end
end
return {given, full[1] - now, wait, last}
"""


class Scale:
    """A brake as it is divided among so many workers. Gaps are the seconds in which a token runs in."""

    def __init__(self, brake: Brake, workers: int, *, dealt: float = OWN) -> None:
        own = int(brake.burst * dealt / workers)
        self.burst = brake.burst
        self.shared = brake.burst - own * workers
        self.lease = max(1, int(self.shared * LEASE))
        self.depth = (
            brake.burst / brake.per_second
        )  # seconds in which an empty bucket fills, each part of it alike
        self.own_gap = self.depth / own if own else math.inf
        self.alone_gap = self.depth / max(1.0, brake.burst / workers)
        self.gap_us = math.ceil(self.depth / self.shared * 1e6)
        self.gap = self.gap_us / 1e6


class Bucket:
    """What this worker knows of a caller's bucket. Each part of it is the moment at which it will be full."""

    __slots__ = ("alone_full", "asking", "closed_until", "leased", "own_full", "shared_full")

    def __init__(self) -> None:
        self.own_full = self.shared_full = self.alone_full = 0.0
        self.leased = 0
        self.closed_until = 0.0  # until then the shared part gives nothing
        self.asking: asyncio.Task[None] | None = None


def poured(full: float, gap: float, depth: float, now: float) -> float | None:
    """When a part of a bucket will be full after a token is taken, or None when it holds none."""
    after = max(full, now) + gap
    return after if after - now <= depth + HAIR else None


class Guess:
    """A try at a password, which has taken its tokens."""

    def __init__(self, limits: "Limits", keys: tuple[str, ...], known: str, *, alone: bool) -> None:
        self._limits, self._keys, self._known, self._alone = limits, keys, known, alone

    async def right(self) -> None:
        """It was no guess: it does not count."""
        await self._limits._forget(self._keys, self._known, alone=self._alone)


class Waiting:
    """Those of one address whose passwords are compared, or wait for it."""

    __slots__ = ("count", "turn")

    def __init__(self, at_once: int) -> None:
        self.count, self.turn = 0, asyncio.Semaphore(at_once)


class Limits:
    """All brakes of this worker; `on` is False: none of them.

    namespace() keeps apart what shares a Redis: the life of the log, "" while it is unknown.
    """

    def __init__(
        self,
        url: str,
        *,
        on: bool,
        workers: int,
        namespace: Callable[[], str],
        brakes: Mapping[str, Brake] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.alone = False  # whether Redis is away
        self._on, self._namespace, self._clock = on, namespace, clock
        brakes = BRAKES if brakes is None else brakes
        self._scales = {word: Scale(one, workers) for word, one in brakes.items() if one.burst} if on else {}
        self._guesses = tuple(Scale(one, workers, dealt=0) for one in GUESSES)
        self._buckets: OrderedDict[tuple[str, int | str], Bucket] = OrderedDict()
        self._streams: dict[int, int] = {}
        self._comparing: dict[str, Waiting] = {}
        self._at_once = max(1, COMPARED // workers)
        self._returning: asyncio.Task[None] | None = None
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=PATIENCE_SECONDS,
            protocol=3,
            socket_timeout=PATIENCE_SECONDS,
            socket_connect_timeout=PATIENCE_SECONDS,
            retry=None,
            health_check_interval=0,
        )
        self._redis = redis.Redis.from_pool(pool)
        self._take = self._redis.register_script(TAKE)

    async def close(self) -> None:
        """No more calls to Redis."""
        asking = [bucket.asking for bucket in self._buckets.values() if bucket.asking is not None]
        tasks = [*asking, *([self._returning] if self._returning is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(*AWAY):
            await self._redis.aclose()

    # -- requests

    async def pass_(self, request: Request, cost: str) -> Pairs:
        """Let a request through; what its answer says of the limits. Raises TooMany."""
        if cost not in self._scales:
            return ()
        who = request.ctx.user_id
        return await self.take(cost, who if who is not None else line_of(address_of(request)))

    async def take(self, cost: str, who: int | str) -> Pairs:
        """Take a token of a user's bucket, or of that of a line. Raises TooMany."""
        if cost not in self._scales:
            return ()
        scale, bucket, now = self._scales[cost], self._bucket(cost, who), self._clock()
        if not self._spent(scale, bucket, now):
            await self._ask(cost, who, scale, bucket)
            now = self._clock()
        return self._told(scale, bucket, now)

    def refuses(self, request: Request, cost: str) -> None:
        """For what is dear to find out: raises TooMany when the caller's line is known to have had enough."""
        bucket = self._buckets.get((cost, line_of(address_of(request)))) if cost in self._scales else None
        if bucket is not None and bucket.closed_until > (now := self._clock()):
            raise self._refusal(self._scales[cost], bucket.closed_until - now, bucket.shared_full - now)

    def _bucket(self, cost: str, who: int | str) -> Bucket:
        buckets, key = self._buckets, (cost, who)
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = Bucket()
            if len(buckets) > BUCKETS:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(key)
        return bucket

    def _spent(self, scale: Scale, bucket: Bucket, now: float) -> bool:
        """Take a token from what is here."""
        if self.alone:
            after = poured(bucket.alone_full, scale.alone_gap, scale.depth, now)
            if after is not None:
                bucket.alone_full = after
            return after is not None
        after = poured(bucket.own_full, scale.own_gap, scale.depth, now)
        if after is not None:
            bucket.own_full = after
            return True
        if bucket.leased:  # as much of it as would not yet have run in again
            bucket.leased = min(bucket.leased, int(max(0.0, bucket.shared_full - now) / scale.gap))
        if bucket.leased:
            bucket.leased -= 1
            return True
        return False

    async def _ask(self, cost: str, who: int | str, scale: Scale, bucket: Bucket) -> None:
        """Take a token from a new lease, of whoever asks for it first. Raises TooMany."""
        while True:
            now = self._clock()
            if self.alone:
                if self._spent(scale, bucket, now):
                    return
                full = bucket.alone_full - now
                raise self._refusal(scale, full + scale.alone_gap - scale.depth, full)
            if now < bucket.closed_until:
                raise self._refusal(scale, bucket.closed_until - now, bucket.shared_full - now)
            if bucket.asking is None:
                key = self._key(cost, repr(who))
                bucket.asking = asyncio.ensure_future(self._lease(key, scale, bucket))
            # Not cancelled with a client that goes away: others wait for it too.
            await asyncio.wait({bucket.asking})
            if bucket.leased:
                bucket.leased -= 1
                return

    async def _lease(self, key: str, scale: Scale, bucket: Bucket) -> None:
        now = self._clock()
        try:
            answer = await self._call([key], scale.lease, [scale])
        finally:
            bucket.asking = None
        if answer is not None:
            given, full_us, wait_us, _ = answer
            bucket.leased, bucket.shared_full = given, now + full_us / 1e6
            if not given:
                enough = min(scale.lease * scale.gap, HOLD_SECONDS)
                bucket.closed_until = self._clock() + max(wait_us / 1e6, enough)

    def _told(self, scale: Scale, bucket: Bucket, now: float) -> Pairs:
        """How much is left, as far as this worker knows, and when all of it will be."""
        if self.alone:
            wait = bucket.alone_full - now
            left = int((scale.depth - max(0.0, wait)) / scale.alone_gap + HAIR)
        else:
            own, shared = max(0.0, bucket.own_full - now), max(0.0, bucket.shared_full - now)
            wait = max(own, shared)
            taken = math.ceil(shared / scale.gap - HAIR)
            left = int((scale.depth - own) / scale.own_gap + HAIR) + scale.shared - taken + bucket.leased
        return _headers(scale.burst, max(0, left), wait)

    def _refusal(self, scale: Scale, wait: float, full: float, *, sentence: str | None = None) -> TooMany:
        return TooMany(sentence, retry_after=wait, headers=plain(_headers(scale.burst, 0, full)))

    # -- passwords

    @contextlib.asynccontextmanager
    async def guess(self, address: str | None, account: str) -> AsyncIterator[Guess]:
        """While a password is compared. account names the account, or is what was typed where there is none.

        Raises TooMany.
        """
        if not self._on:
            yield Guess(self, (), "", alone=True)
            return
        line = line_of(address)
        waiting = self._comparing.setdefault(line, Waiting(self._at_once))
        if waiting.count >= QUEUE:
            raise self._refusal(self._guesses[1], RETURN_SECONDS, 0)
        waiting.count += 1
        try:
            async with waiting.turn:
                yield await self._guess(line, account)
        finally:
            waiting.count -= 1
            if not waiting.count:
                del self._comparing[line]

    async def _guess(self, line: str, account: str) -> Guess:
        account = unicodedata.normalize("NFKC", account).casefold().strip()
        keys = tuple(self._key("guess", words) for words in (f"{line} {account}", line, f" {account}"))
        known = self._key("known", f"{line} {account}")
        if await self._is_known(known):
            keys = keys[:2]
        answer = await self._call(keys, 1, self._guesses[: len(keys)])
        if answer is None:
            given, wait, last = self._guess_alone(keys)
        else:
            given, wait, last = answer[0], answer[2] / 1e6, answer[3] - 1
        if given:
            return Guess(self, keys, known, alone=answer is None)
        scale = self._guesses[last]
        full = wait + scale.depth - (scale.gap if answer else scale.alone_gap)
        raise self._refusal(scale, wait, full, sentence="Too many wrong passwords; try again after a while.")

    async def _is_known(self, key: str) -> bool:
        """Whether the account has signed in from this address of late; not known while Redis is away."""
        return not self.alone and bool(await self._asked(lambda: self._redis.exists(key)))

    def _guess_alone(self, keys: Sequence[str]) -> tuple[int, float, int]:
        """The same of what this worker has: how many, in how many seconds there is one, and which lacks it."""
        now = self._clock()
        parts = [(scale, self._bucket("guess", key)) for scale, key in zip(self._guesses, keys, strict=True)]
        waits = [bucket.alone_full + scale.alone_gap - scale.depth - now for scale, bucket in parts]
        if not all(self._holds(scale, bucket, now) for scale, bucket in parts):
            last = max(range(len(parts)), key=lambda number: waits[number])
            return 0, waits[last], last
        for scale, bucket in parts:
            bucket.alone_full = max(now, bucket.alone_full) + scale.alone_gap
        return 1, 0.0, 0

    def _holds(self, scale: Scale, bucket: Bucket, now: float) -> bool:
        return poured(bucket.alone_full, scale.alone_gap, scale.depth, now) is not None

    async def _forget(self, keys: tuple[str, ...], known: str, *, alone: bool) -> None:
        if alone:
            for scale, key in zip(self._guesses, keys, strict=False):
                self._bucket("guess", key).alone_full -= scale.alone_gap
        else:
            await self._call(keys, -1, self._guesses[: len(keys)])
            await self._asked(lambda: self._redis.set(known, 1, ex=KNOWN_SECONDS))

    # -- streams

    @contextlib.contextmanager
    def stream(self, user_id: int) -> Iterator[None]:
        """As long as a stream is open. Raises TooMany when its user has too many on this worker."""
        count = self._streams.get(user_id, 0)
        if self._on and count >= STREAMS:
            raise TooMany(
                "Too many streams of yours are open; close one.",
                code="too_many_streams",
                retry_after=10,
            )
        self._streams[user_id] = count + 1
        try:
            yield
        finally:
            self._streams[user_id] -= 1
            if not self._streams[user_id]:
                del self._streams[user_id]

    # -- Redis

    def _key(self, cost: str, who: str) -> str:
        """Short, and telling nobody's address or name."""
        hidden = hashlib.blake2b(
            f"{self._namespace()}\n{who}".encode("utf-8", "surrogatepass"), digest_size=12
        )
        return f"bobbin:limit:{cost}:{base64.urlsafe_b64encode(hidden.digest()).decode()}"

    async def _call(self, keys: Sequence[str], count: int, scales: Sequence[Scale]) -> list[int] | None:
        """Run TAKE. None when Redis is away, or too slow."""
        sizes = [size for scale in scales for size in (scale.gap_us, scale.shared)]
        found: list[int] | None = await self._asked(lambda: self._take(keys=list(keys), args=[count, *sizes]))
        return found

    async def _asked(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """What Redis answers. None when it is away, or too slow: then it is left alone until it answers again."""
        if self.alone:
            return None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await command()
        except Exception as error:  # whatever it is: no request waits for it, or fails by it
            self._go_on_alone(type(error).__name__)
            return None

    def _go_on_alone(self, reason: str) -> None:
        if not self.alone:
            self.alone = True
            log.event("limits.alone", level="warning", reason=reason)
            self._returning = asyncio.ensure_future(self._return())

    async def _return(self) -> None:
        """Look after Redis, that no request need wait to find out."""
        while True:
            await asyncio.sleep(RETURN_SECONDS)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._redis.ping()
                break
            except Exception:  # as above
                continue
        self.alone, self._returning = False, None
        log.event("limits.together")


def _headers(limit: int, left: int, full: float) -> Pairs:
    return (
        (b"RateLimit-Limit", b"%d" % limit),
        (b"RateLimit-Remaining", b"%d" % left),
        (b"RateLimit-Reset", b"%d" % math.ceil(max(0.0, full))),
    )
