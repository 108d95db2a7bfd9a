"""Who is there: by person, over all devices and workers. SQL: db/queries/presence.sql.

Kept in Redis, never in Postgres. Each worker has a set there of the people connected to it, which lapses unless the
worker says that it lives: by one command, however many they are. What changes in it, the worker tells the others on
the bus, in batches. Each keeps a copy of all sets: fetched anew when its subscription stands again, and compared by
size with every beat.

Whoever says goodbye is gone at once, but for the moment that a page takes to load again. A worker that is killed takes
its people along when its set has lapsed and some grace is over: the grace is for a Redis that came back empty. While
Redis is away everybody is taken to be where they were. A worker that stops says no goodbye: its people come back
elsewhere within seconds.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Protocol

import asyncpg
import orjson
import redis.asyncio as redis
from redis.exceptions import RedisError
from sanic import Request
from sanic.response import HTTPResponse

from server import shapes
from server.base import log
from server.base.db import Db, query
from server.base.errors import NotFound
from server.base.http import answers, json_bytes
from server.live.bus import PRESENCE, channel_of

AWAY = (RedisError, OSError, asyncio.TimeoutError)
SHOWN = 1000  # people who are online, of one thread, to one reader
SMALL = 1000  # with fewer members than that a thread is looked at from its members, else from those who are online
ASKED = 20_000  # people asked about at once, of a large thread
AT_ONCE = 1000  # people who came or went, in one question
VIEW_SECONDS = 0.5  # how old the members of a thread may be of whom one is told: a crowd comes at once
CLOSE_SECONDS = 1.0  # that a worker which stops waits for Redis
RETRY_SECONDS = 1.0  # between tries to ask a database that is away
NOBODY = 0  # in each worker's set: a set of nobody would not be there


@dataclass(frozen=True)
class Periods:
    """Seconds. A worker's death is known after kept + grace, and two beats: within 35."""

    beat: float = 5.0
    kept: float = 15.0
    grace: float = 10.0
    leaving: float = 0.3
    batch: float = 0.1


@dataclass(slots=True)
class View:
    """Of whom a thread's readers are told."""

    loading: asyncio.Task[None] | None = None
    members: set[int] = field(
        default_factory=set
    )  # of a large thread only those who were online, or came since
    blocked: set[int] = field(default_factory=set)  # by the other one of a direct thread


class Rounds(Protocol):
    """What presence and typing need of the hub."""

    def followed(self) -> list[int]:
        """The threads that have readers here."""

    def due(self, thread_id: int) -> float:
        """In how many seconds the readers of a thread may be told something."""

    def told(self, thread_id: int, name: str, key: str, data: bytes, but: int = 0) -> None:
        """Tell them."""

    def follows(self, user_id: int, thread_id: int) -> bool:
        """Whether somebody is among them."""


@query
async def sees(db: Db, *, user_id: int, thread_id: int) -> bool | None: ...


@query
async def door(db: Db, *, user_id: int, thread_id: int) -> asyncpg.Record | None: ...


@query
async def typing(db: Db, *, user_id: int, thread_id: int, user_ids: list[int]) -> list[asyncpg.Record]: ...


@query
async def members(db: Db, *, thread_id: int, size: int) -> list[asyncpg.Record]: ...


@query
async def among(db: Db, *, thread_id: int, user_ids: list[int], size: int) -> list[asyncpg.Record]: ...


@query
async def concerned(db: Db, *, thread_ids: list[int], user_ids: list[int]) -> list[asyncpg.Record]: ...


@query
async def between(db: Db, *, user_id: int, other_id: int) -> int | None: ...


@query
async def friends(db: Db, *, user_id: int) -> list[asyncpg.Record]: ...


@query
async def friends_among(db: Db, *, user_ids: list[int], other_ids: list[int]) -> list[asyncpg.Record]: ...


class Presence:
    """Who is there, as this worker knows it.

    post(topic, payload): publish on the bus. for_user(user_id, online, offline), once it is set: people of this
    person's direct threads came or went.
    """

    def __init__(
        self,
        url: str,
        db: Db,
        *,
        on: bool,
        hub: Rounds,
        post: Callable[[str, str], None],
        periods: Periods = Periods(),
    ) -> None:
        self.for_user: Callable[[int, list[int], list[int]], None] | None = None
        self._db, self._on, self._hub, self._post = db, on, hub, post
        self._periods = periods
        self._epoch, self._worker = "", secrets.token_hex(6)
        self._connections: dict[int, int] = {}  # here, of each person
        self._leaving: dict[int, float] = {}  # has none left here: from when on they are gone
        self._here: set[int] = set()  # with the leaving ones
        self._others: dict[str, set[int]] = {}  # people by worker
        self._missing: dict[str, float] = {}  # workers without a set: since when
        self._where: dict[int, int] = {}  # on how many workers each person is, if on any
        self._turned: dict[int, bool] = {}  # came or went, and nobody here has been told
        self._waiting: dict[int, dict[int, bool]] = {}  # the same by thread, for its next round
        self._numbers = count(1)  # of what is told: none takes the place of another
        self._unsaid: dict[int, bool] = {}  # of this worker's people: and the others have not been told
        self._stale = True  # what Redis has of this worker may be wrong
        self._unsure = True  # what this worker has of the others may be wrong
        self._meanwhile: dict[
            str, list[tuple[list[int], list[int]]]
        ] = {}  # heard while a set is being fetched
        self._looking, self._writing = asyncio.Lock(), asyncio.Lock()
        self._views: dict[int, View] = {}
        self._closing = False
        self._blind = ""  # why Redis can't be asked, if so
        self._tasks: set[asyncio.Task[None]] = set()
        self._spreading: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._redis = redis.Redis.from_url(
            url, protocol=3, socket_timeout=2, socket_connect_timeout=2, retry=None, health_check_interval=0
        )

    def start(self, *, epoch: str) -> None:
        """Begin to keep the own set, and to look at the others', for as long as the worker lives."""
        self._epoch = epoch
        if self._on:
            self._spawn(self._beat())

    def freeze(self) -> None:
        """The worker is stopping: whoever is sent away comes back elsewhere."""
        self._closing = True

    async def close(self) -> None:
        """No more calls to Redis."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS), self._looking, self._writing:
                self._cancel()  # while there is no call: a connection that is just being made would stay
        self._cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(*AWAY):
            await self._redis.aclose()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- people

    @contextlib.contextmanager
    def of(self, user_id: int) -> Iterator[None]:
        """As long as a connection of somebody is open: a stream, a WebSocket."""
        if not self._on:
            yield
            return
        self._connections[user_id] = self._connections.get(user_id, 0) + 1
        self._leaving.pop(user_id, None)
        if user_id not in self._here:
            self._here.add(user_id)
            self._moved(user_id, here=True)
        try:
            yield
        finally:
            self._connections[user_id] -= 1
            if not self._connections[user_id]:
                del self._connections[user_id]
                if not self._closing:
                    self._leaving[user_id] = time.monotonic() + self._periods.leaving
                    self._spread()

    def online(self, user_id: int) -> bool:
        """Whether somebody is there."""
        return user_id in self._where

    async def friends(self, user_id: int) -> list[int]:
        """Who is there of the other ones of this person's direct threads."""
        if not self._on:
            return []
        return [row["id"] for row in await friends(self._db, user_id=user_id) if row["id"] in self._where]

    async def of_thread(self, thread_id: int, *, reader_id: int) -> list[int]:
        """Which members of a thread are there, at most SHOWN, as one of them may know it."""
        if not self._on:
            return []
        view = self._views.get(thread_id)
        if view is None:
            view = self._views[thread_id] = View()
            view.loading = self._spawn(self._load(view, thread_id))
            view.loading.add_done_callback(lambda done: done.cancelled() or done.exception())
            asyncio.get_running_loop().call_later(VIEW_SECONDS, self._views.pop, thread_id, None)
        if view.loading is not None:
            await asyncio.shield(view.loading)  # others wait for it too
        known = view.members if reader_id not in view.blocked else {reader_id} & view.members
        return list(islice((one for one in sorted(known) if one in self._where), SHOWN))

    async def _load(self, view: View, thread_id: int) -> None:
        rows = await members(self._db, thread_id=thread_id, size=SMALL)
        if len(rows) == SMALL:
            asked = list(islice(self._where, ASKED))
            rows = await among(self._db, thread_id=thread_id, user_ids=asked, size=SHOWN)
        else:
            view.blocked = {row["user_id"] for row in rows if row["blocked"]}
        view.members.update(row["user_id"] for row in rows)

    def moved(self, thread_id: int, user_id: int, act: str) -> None:
        """Somebody came into a thread that is followed here, or left it."""
        view = self._views.get(thread_id)
        if act == "joined" and self._on:
            if view is not None:
                view.members.add(user_id)
            if user_id in self._where:
                self._tell_later(thread_id, {user_id: True})
        elif act in ("left", "removed") and view is not None:
            view.members.discard(user_id)

    def entered(self, thread_id: int, user_id: int) -> None:
        """Somebody of the staff is a member of a contact thread from now on, which is no change of it."""
        if self._on:
            self.moved(thread_id, user_id, "joined")
            self._say(PRESENCE, "entered", thread_id, user_id)

    def look_again(self, one: int, other: int) -> None:
        """Two people have a direct thread from now on, or one has blocked the other, or no longer."""
        if self._on:
            self._say(PRESENCE, "pair", one, other)
            self._spawn(self._pair(one, other))

    async def _pair(self, one: int, other: int) -> None:
        with contextlib.suppress(Exception):  # the database is away: a stream that begins anew asks
            for user_id, reader_id in ((one, other), (other, one)):
                if reader_id in self._here and user_id in self._where and self.for_user is not None:
                    if await friends_among(self._db, user_ids=[user_id], other_ids=[reader_id]):
                        self.for_user(reader_id, [user_id], [])
                    else:
                        self.for_user(reader_id, [], [user_id])
            thread_id = await between(self._db, user_id=one, other_id=other)
            if thread_id is None or thread_id not in self._hub.followed():
                return
            rows = await concerned(self._db, thread_ids=[thread_id], user_ids=[one, other])
            shown = {user_id for row in rows for user_id in row["user_ids"]}
            for user_id in {one, other} & self._where.keys():
                data = event(thread_id, *parted([user_id], {user_id: user_id in shown}))
                but = 0 if user_id in shown else user_id
                self._hub.told(thread_id, "presence", str(next(self._numbers)), data, but)

    # -- what has changed, to the others

    def _moved(self, user_id: int, *, here: bool) -> None:
        """Somebody of this worker came or went."""
        self._count(user_id, 1 if here else -1)
        self._unsaid[user_id] = here
        self._spread()

    def _spread(self) -> None:
        if self._spreading is None or self._spreading.done():
            self._spreading = self._spawn(self._spread_out())

    async def _spread_out(self) -> None:
        while self._leaving or self._unsaid:
            await asyncio.sleep(self._periods.batch)
            now = time.monotonic()
            for user_id, gone_at in list(self._leaving.items()):
                if gone_at > now:
                    break  # those behind left later
                del self._leaving[user_id]
                self._here.discard(user_id)
                self._moved(user_id, here=False)
            async with self._writing:
                unsaid, self._unsaid = self._unsaid, {}
                if unsaid and self._epoch and not self._stale:  # else all of it is written with the next look
                    with self._reaching():
                        await self._write(unsaid)

    async def _write(self, unsaid: dict[int, bool]) -> None:
        came = [user_id for user_id, here in unsaid.items() if here]
        went = [user_id for user_id, here in unsaid.items() if not here]
        key = self._key(self._worker)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(key, NOBODY, *came)
            if went:
                pipe.srem(key, *went)
            pipe.pexpire(key, self._kept_ms)
            pipe.publish(channel_of(self._epoch, PRESENCE), self._payload("moved", came, went))
            added, *_ = await pipe.execute()
        if added > len(came):
            self._stale = True  # not even nobody was there: Redis has been emptied

    async def _write_whole(self) -> None:
        """All people of this worker; the others are to fetch them."""
        key = self._key(self._worker)
        async with self._writing:
            people = list(self._here)
            self._unsaid.clear()
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                pipe.sadd(key, NOBODY)
                for start in range(0, len(people), AT_ONCE):
                    pipe.sadd(key, *people[start : start + AT_ONCE])
                pipe.pexpire(key, self._kept_ms)
                pipe.sadd(self._registry, self._worker)
                pipe.publish(channel_of(self._epoch, PRESENCE), self._payload("all"))
                await pipe.execute()
            self._stale = False

    def _say(self, topic: str, *words: Any) -> None:
        self._post(topic, self._payload(*words))

    def _payload(self, *words: Any) -> str:
        return orjson.dumps([self._worker, *words]).decode()

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Around calls to Redis: when one fails, it may or may not have been done, and a later look puts it right."""
        try:
            yield
            self._blind = ""
        except Exception as error:  # whatever it is
            self._stale = self._unsure = True
            if (reason := type(error).__name__) != self._blind:  # each try says it again
                log.event("presence.blind", level="warning", reason=reason)
            self._blind = reason

    # -- what the others say

    def connected(self) -> None:
        """The subscription stands: what was said before it is not known."""
        self._unsure = True
        if self._on and self._epoch:
            self._spawn(self._look())

    def heard(self, payload: bytes) -> None:
        """Another worker says who came and went there."""
        with contextlib.suppress(ValueError, TypeError):
            worker, kind, *words = orjson.loads(payload)
            if worker == self._worker or not self._on:
                return
            if kind == "moved":
                came, went = ([int(one) for one in some] for some in words)
                if worker in self._meanwhile:
                    self._meanwhile[worker].append((came, went))
                if worker in self._others:
                    self._apply(worker, came, went)
                else:
                    self._spawn(self._meet(worker))
            elif kind == "all":
                self._spawn(self._meet(worker))
            elif kind == "entered":
                thread_id, user_id = (int(word) for word in words)
                self.moved(thread_id, user_id, "joined")
            elif kind == "pair":
                one, other = (int(word) for word in words)
                self._spawn(self._pair(one, other))

    async def _meet(self, worker: str) -> None:
        async with self._looking:
            with self._reaching():
                await self._fetch(worker)

    async def _beat(self) -> None:
        while not self._closing:  # being cancelled in a call to Redis may look like its failing
            await self._look()
            await asyncio.sleep(0 if self._closing else self._periods.beat)

    async def _look(self) -> None:
        """Say that this worker lives, and see who else does."""
        async with self._looking:
            with self._reaching():
                if self._stale:
                    await self._write_whole()
                known = list(self._others)
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.pexpire(self._key(self._worker), self._kept_ms)
                    pipe.sadd(self._registry, self._worker)
                    pipe.smembers(self._registry)
                    for worker in known:
                        pipe.scard(self._key(worker))
                    there, _, registered, *sizes = await pipe.execute()
                if not there:
                    await self._write_whole()
                unsure, self._unsure = self._unsure, False
                for worker, size in zip(known, sizes, strict=True):
                    if unsure or size != len(self._others[worker]) + 1 or worker in self._missing:
                        await self._fetch(worker)
                for name in registered:
                    worker = name.decode()
                    if worker != self._worker and worker not in self._others:
                        await self._fetch(worker)

    async def _fetch(self, worker: str) -> None:
        """The people of another worker, from Redis."""
        self._others.setdefault(worker, set())
        self._meanwhile[worker] = []
        try:
            found = await self._redis.smembers(self._key(worker))
        finally:
            meanwhile = self._meanwhile.pop(worker)
        if not found:
            await self._miss(worker)
            return
        self._missing.pop(worker, None)
        people = {int(one) for one in found} - {NOBODY}
        for came, went in meanwhile:  # after the answer, perhaps; if before, nothing changes by it
            people.update(came)
            people.difference_update(went)
        known = self._others[worker]
        self._apply(worker, people - known, known - people)

    async def _miss(self, worker: str) -> None:
        now = time.monotonic()
        if now - self._missing.setdefault(worker, now) >= self._periods.grace:
            del self._missing[worker]
            self._apply(worker, (), list(self._others[worker]))
            del self._others[worker]
            await self._redis.srem(self._registry, worker)

    def _apply(self, worker: str, came: Iterable[int], went: Iterable[int]) -> None:
        known = self._others[worker]
        for user_id in came:
            if user_id not in known:
                known.add(user_id)
                self._count(user_id, 1)
        for user_id in went:
            if user_id in known:
                known.discard(user_id)
                self._count(user_id, -1)

    @property
    def _registry(self) -> str:
        return channel_of(self._epoch, "workers")

    def _key(self, worker: str) -> str:
        return channel_of(self._epoch, f"here:{worker}")

    @property
    def _kept_ms(self) -> int:
        return round(self._periods.kept * 1000)

    # -- to the readers here

    def _count(self, user_id: int, step: int) -> None:
        before = self._where.get(user_id, 0)
        if before + step:
            self._where[user_id] = before + step
        else:
            del self._where[user_id]
        if not before or not before + step:
            self._turn(user_id, not before)

    def _turn(self, user_id: int, online: bool) -> None:
        """Somebody is online from now on, or no longer; who turns twice before anybody is told, has not turned."""
        merge(self._turned, {user_id: online})
        if self._telling is None or self._telling.done():
            self._telling = self._spawn(self._tell())

    async def _tell(self) -> None:
        while self._turned and not self._closing:
            await asyncio.sleep(self._periods.batch)
            turned, self._turned = list(self._turned.items()), {}
            for start in range(0, len(turned), AT_ONCE):
                some = dict(turned[start : start + AT_ONCE])
                try:
                    await self._tell_threads(some)
                    await self._tell_friends(some)
                except Exception as error:  # the database is away; whatever it is, it is told later
                    log.event("presence.untold", level="warning", reason=type(error).__name__)
                    for user_id, online in some.items():
                        self._turn(user_id, online)
                    await asyncio.sleep(RETRY_SECONDS)

    async def _tell_threads(self, turned: dict[int, bool]) -> None:
        followed = self._hub.followed()
        if not followed:
            return
        for row in await concerned(self._db, thread_ids=followed, user_ids=list(turned)):
            thread_id = row["thread_id"]
            some = {user_id: turned[user_id] for user_id in row["user_ids"]}
            if thread_id in self._views:
                self._views[thread_id].members.update(some)
            self._tell_later(thread_id, some)

    def _tell_later(self, thread_id: int, some: dict[int, bool]) -> None:
        """With the next round of its readers, put together with what happens until then."""
        if thread_id in self._waiting:
            merge(self._waiting[thread_id], some)
        else:
            self._waiting[thread_id] = some
            asyncio.get_running_loop().call_later(self._hub.due(thread_id), self._tell_thread, thread_id)

    def _tell_thread(self, thread_id: int) -> None:
        if some := self._waiting.pop(thread_id):
            data = event(thread_id, *parted(some, some))
            self._hub.told(thread_id, "presence", str(next(self._numbers)), data)

    async def _tell_friends(self, turned: dict[int, bool]) -> None:
        if self.for_user is None or not self._here:
            return
        for row in await friends_among(self._db, user_ids=list(turned), other_ids=list(self._here)):
            self.for_user(row["other_id"], *parted(row["user_ids"], turned))


def merge(turned: dict[int, bool], some: dict[int, bool]) -> None:
    """What happened since; who turned back has not turned."""
    for user_id, online in some.items():
        if turned.pop(user_id, online) == online:
            turned[user_id] = online


def parted(user_ids: Iterable[int], turned: dict[int, bool]) -> tuple[list[int], list[int]]:
    """Who came, and who went."""
    parts: tuple[list[int], list[int]] = ([], [])
    for user_id in user_ids:
        parts[not turned[user_id]].append(user_id)
    return parts


def event(thread_id: int, online: list[int], offline: list[int]) -> bytes:
    """The event of a thread stream."""
    return orjson.dumps({"threadId": thread_id, "online": online, "offline": offline})


async def joining(ctx: Any, user_id: int, thread_id: int) -> list[tuple[str, bytes]]:
    """What is told to whoever begins to follow a thread (stream.current)."""
    if not ctx.settings.presence:
        return []
    online = await ctx.presence.of_thread(thread_id, reader_id=user_id)
    return [("presence", event(thread_id, online, []))]


@answers({200: shapes.ThreadPresence})
async def get_presence(request: Request, thread_id: int) -> HTTPResponse:
    """Which members of a thread are there, and who types: at most 1,000 each."""
    ctx, user_id = request.app.ctx, request.ctx.user_id
    if not await sees(ctx.db, user_id=user_id, thread_id=thread_id):
        raise NotFound()
    online = await ctx.presence.of_thread(thread_id, reader_id=user_id)
    types = await ctx.typists.of(thread_id, reader_id=user_id)
    return json_bytes(orjson.dumps({"online": online, "typing": types}))
