"""Reads from a replica that has what anybody can have seen, and else from the primary. SQL: db/queries/replica.sql.

Before a read the primary is asked how far its WAL goes: what anybody has seen, or been told is there, was committed
before that. One question under way serves all who came before it was sent, and none who came later. When the replica
has replayed that far, or does so within some milliseconds, the read goes there, and else to the primary, which is also
asked again whatever fails on the replica. So an answer is never older than the request.

What a replica has replayed counts as long as it is the same server, not started anew (it may then be back at an earlier
place), nor another one behind the same name. For that the connection that asks how far it is holds a lock on it, and
each connection for reads sees that lock when it is opened: so both live in the same life of the same server. When the
one that asks is lost, all are dropped.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import asyncpg

from server.base import log
from server.base.db import Connections, Db, open_pool, query
from server.base.errors import Problem

WAIT_SECONDS = 0.01  # that a read waits for the replica
PATIENCE_SECONDS = 0.1  # without a read for which it was there in time: then it is left alone
ALONE_SECONDS = 0.25  # between two looks whether it is there again
BEHIND_SECONDS = 1.0  # left alone so long, it is worth a line in the log
BEAT_SECONDS = 1.0  # between two questions whether it is a replica still
ANSWER_SECONDS = 2.0  # for one of these questions, of the primary too: longer, and the connection is lost
RETRY_SECONDS = 1.0  # between two tries to connect
PAUSE_SECONDS = 0.001  # between two questions how far it is

State = Literal["ok", "behind", "away", "refused"]
T = TypeVar("T")


@query
async def written(db: Db) -> asyncpg.Record: ...


@query
async def replayed(db: Db) -> int | None: ...


@query
async def identity(db: Db) -> asyncpg.Record: ...


@query
async def mark(db: Db, *, key: int) -> bool: ...


@query
async def unmarked(db: Db, *, key: int) -> bool: ...


@query
async def flush(db: Db) -> int: ...


class Refused(Exception):
    """A server that must not be read from; its text is why, in a word."""


class Another(Exception):
    """A connection leads to another server than before, or into another life of it."""


class Asked:
    """A question that many have at once: one under way serves all who came before it was sent."""

    def __init__(self, ask: Callable[[], Awaitable[int | None]]) -> None:
        self._ask = ask
        self._waiting: list[asyncio.Future[int | None]] = []
        self._asking: asyncio.Task[None] | None = None

    async def answer(self) -> int | None:
        """None: there is none."""
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._run())
        found: int | None = await mine
        return found

    async def _run(self) -> None:
        served: list[asyncio.Future[int | None]] = []
        try:
            while self._waiting:
                served, self._waiting = self._waiting, []
                _tell(served, await self._ask())
        finally:
            self._asking = None
            _tell(served + self._waiting, None)
            self._waiting = []


def _tell(waiting: list[asyncio.Future[int | None]], found: int | None) -> None:
    for one in waiting:
        if not one.done():  # its request may have been given up
            one.set_result(found)


class Line:
    """A primary and its replica, in one life of both."""

    def __init__(
        self, asking: asyncpg.Connection, telling: asyncpg.Connection, pool: Connections, *, timeline: int
    ) -> None:
        self.asking = asking  # the primary
        self.telling = telling  # the replica; it holds the mark
        self.pool = pool  # of connections to the replica
        self.alone = False  # it was not there in time; nobody waits for it
        self.lost = asyncio.Event()
        self.hint = asyncio.Event()  # it is left alone, or lost
        self.refused = ""  # why, in a word
        self.written = Asked(self._written)
        self.looked = Asked(self._look)
        self._one_at_a_time = asyncio.Lock()  # on the connection to the primary
        self._timeline = timeline
        self._replayed = 0
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []
        self._following: asyncio.Task[None] | None = None
        self._missing_since: float | None = None
        for conn in (asking, telling):
            conn.add_termination_listener(self.lose)

    def lose(self, _: object = None) -> None:
        """It can't be used any more."""
        self.lost.set()
        self.hint.set()

    async def _written(self) -> int | None:
        with contextlib.suppress(Exception):
            async with self._one_at_a_time:
                row = await written(self.asking)
            if row["timeline"] == self._timeline:
                place: int = row["place"]
                return place
            # Another server is the primary now, where the same place may mean something else.
        self.lose()
        return None

    async def flush(self) -> None:
        """Have the primary flush what it has written."""
        async with self._one_at_a_time:
            await flush(self.asking)

    async def _look(self) -> int | None:
        """How far the replica is: tells those who wait for it."""
        try:
            found = await replayed(self.telling)
        except Exception:
            self.lose()
            return None
        if found is None:
            self.refused = "primary"
            self.lose()
            return None
        self._replayed = found
        still = []
        for target, waiting in self._waiting:
            if target > found:
                still.append((target, waiting))
            elif not waiting.done():
                waiting.set_result(True)
        self._waiting = still
        return found

    async def there(self) -> bool:
        """Whether the replica has what anybody can have seen until now, or gets it in time."""
        target = await self.written.answer()
        if target is None or self.lost.is_set():
            return False
        if target <= self._replayed or await self._reached(target):
            self._missing_since = None
            return True
        now = asyncio.get_running_loop().time()
        if self._missing_since is None:
            self._missing_since = now
        elif now - self._missing_since > PATIENCE_SECONDS and not self.alone:
            self.alone = True
            self.hint.set()
        return False

    async def _reached(self, target: int) -> bool:
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        self._waiting.append((target, mine))
        late = loop.call_later(WAIT_SECONDS, _too_late, mine)
        if self._following is None:
            self._following = asyncio.ensure_future(self._follow())
        try:
            found: bool = await mine
        finally:
            late.cancel()
        return found

    async def _follow(self) -> None:
        """Look, as long as somebody waits."""
        try:
            while self._waiting and not self.lost.is_set():
                await self.looked.answer()
                if self._waiting:
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._following = None
            for _, waiting in self._waiting:
                _too_late(waiting)
            self._waiting = []

    def drop(self) -> None:
        """Close all connections at once; reads under way fail, and are asked again of the primary."""
        self.lose()
        self.asking.terminate()
        self.telling.terminate()
        self.pool.terminate()


def _too_late(waiting: asyncio.Future[bool]) -> None:
    if not waiting.done():
        waiting.set_result(False)


class Replica:
    """Where reads go. It stands in for Connections in whatever only reads."""

    def __init__(
        self, primary: Connections, *, primary_url: str, url: str, size: int, statement_cache: int
    ) -> None:
        self.state: State = "away"
        self._primary = primary
        self._primary_url, self._url = primary_url, url
        self._size, self._statement_cache = size, statement_cache
        self._line: Line | None = None
        self._said: tuple[State, str] = ("away", "")
        self._failed_at = -1.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for the replica, as long as the worker lives."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Read from the primary alone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def fetchval(self, text: str, *values: Any) -> Any:
        """As of a connection. So are the next two."""
        return await self.reading(lambda conn: conn.fetchval(text, *values))

    async def fetchrow(self, text: str, *values: Any) -> Any:
        return await self.reading(lambda conn: conn.fetchrow(text, *values))

    async def fetch(self, text: str, *values: Any) -> Any:
        return await self.reading(lambda conn: conn.fetch(text, *values))

    async def reading(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Questions on one connection, which write nothing. What fails on the replica is asked of the primary."""
        line = self._line
        if line is not None and not line.alone and await line.there():
            try:
                return await line.pool.reading(work)
            except Problem:
                raise
            except Exception as error:
                if isinstance(error, Another):
                    line.lose()
                self._failed(error)
        return await self._primary.reading(work)

    def _failed(self, error: Exception) -> None:
        """Once a second: when a replica ends, many reads fail."""
        now = asyncio.get_running_loop().time()
        if now - self._failed_at >= 1:
            self._failed_at = now
            code = getattr(error, "sqlstate", None)
            log.event("replica.failed", level="warning", reason=type(error).__name__, sqlstate=code)

    def _say(self, state: State, reason: str = "") -> None:
        self.state = state
        if (state, reason) != self._said:
            self._said = (state, reason)
            name = "replica.back" if state == "ok" else f"replica.{state}"
            facts = {"reason": reason} if reason else {}
            log.event(name, level="info" if state == "ok" else "warning", **facts)

    async def _run(self) -> None:
        while True:
            line = None
            try:
                line = await self._connect()
                self._line = line
                self._say("ok")
                await self._watch(line)
                self._say("away", "lost")
            except Another:
                self._say("refused", "another")
            except Refused as refused:
                self._say("refused", str(refused))
            except asyncpg.InvalidAuthorizationSpecificationError:
                self._say("refused", "credentials")
            except Exception as error:
                self._say("away", type(error).__name__)
            finally:
                self._line = None
                if line is not None:
                    line.drop()
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self) -> Line:
        """Raises Refused, or what connecting raises."""
        opened: list[asyncpg.Connection | Connections] = []
        try:
            opened.append(asking := await self._single(self._primary_url))
            opened.append(telling := await self._single(self._url))
            primary, replica = await identity(asking), await identity(telling)
            _check(primary, replica)
            # A pool in between may give each question another session, or another server.
            if replica["pid"] != telling.get_server_pid():
                raise Refused("pooled")
            key = secrets.randbits(62)
            await mark(telling, key=key)
            opened.append(pool := await self._pool(key))
            pool.give_back(await pool.take())
            line = Line(asking, telling, pool, timeline=primary["timeline"])
        except BaseException:
            for one in opened:
                one.terminate()
            raise
        return line

    async def _single(self, url: str) -> asyncpg.Connection:
        return await asyncpg.connect(
            url,
            timeout=5,
            command_timeout=ANSWER_SECONDS,
            statement_cache_size=self._statement_cache,
            server_settings={"application_name": "bobbin replica", "timezone": "UTC"},
        )

    async def _pool(self, key: int) -> Connections:
        async def begin(conn: asyncpg.Connection) -> None:
            if await unmarked(conn, key=key):
                raise Another
            await conn.execute("SET default_transaction_read_only = on")

        pool = await open_pool(
            self._url,
            size=self._size,
            statement_cache=self._statement_cache,
            name="bobbin reads",
            begin=begin,
        )
        return Connections(pool)

    async def _watch(self, line: Line) -> None:
        """See that it stays a replica, and whether it is there in time; until it is lost."""
        loop, left_at = asyncio.get_running_loop(), None
        while not line.lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALONE_SECONDS if line.alone else BEAT_SECONDS):
                    await line.hint.wait()
            line.hint.clear()
            if await line.looked.answer() is None:
                break
            if await line.there():
                line.alone, left_at = False, None
                self._say("ok")
            elif line.alone and left_at is None:
                left_at = loop.time()
                await line.flush()
            elif left_at is not None and loop.time() - left_at > BEHIND_SECONDS:
                self._say("behind")
        if line.refused:
            raise Refused(line.refused)


def _check(primary: asyncpg.Record, replica: asyncpg.Record) -> None:
    """Raises Refused for what is no replica of this primary."""
    if not replica["recovering"] or primary["recovering"]:
        raise Refused("primary")
    for what in ("cluster", "database", "epoch", "timeline"):
        if primary[what] != replica[what]:
            raise Refused(what)
