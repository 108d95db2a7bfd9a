"""Which sessions are over, as every worker knows it within a second. SQL: db/queries/endings.sql.

An access token is good for fifteen minutes, and nobody asks the database about it. What ended since is
kept here instead: told by the worker that ended it (by Redis), and looked up several times a second,
which holds without Redis. A session that ends takes its streams with it.
"""

import asyncio
import contextlib
import time
from typing import Protocol

import asyncpg

from server.base import log
from server.base.access import ACCESS_SECONDS
from server.base.db import Db, query

LOOK_SECONDS = 0.4
ALIVE_SECONDS = 30.0  # between two looks for sessions that merely expired, and have streams here
KEPT_SECONDS = ACCESS_SECONDS + 300.0  # no token outlives that
ASKED_AT_ONCE = 1000


@query
async def since(db: Db, *, horizon: str, minutes: int) -> asyncpg.Record: ...


@query
async def dead(db: Db, *, session_ids: list[int]) -> list[asyncpg.Record]: ...


class Closable(Protocol):
    """What lives as long as a session: a stream."""

    def cut(self) -> None:
        """End now: nothing more is for whoever reads it."""


class Endings:
    """The sessions that are over, and what is open for those that are not."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._over: dict[int, float] = {}  # session: when it may be forgotten
        self._open: dict[int, set[Closable]] = {}
        self._horizon = "0"
        self._tasks: list[asyncio.Task[None]] = []

    def over(self, session_id: int) -> bool:
        """Whether this session has ended."""
        return session_id in self._over

    def end(self, *session_ids: int) -> None:
        """These are over: whatever is open for them is cut."""
        for session_id in session_ids:
            if session_id not in self._over:
                self._over[session_id] = time.monotonic() + KEPT_SECONDS
            for stream in list(self._open.get(session_id, ())):
                stream.cut()

    def heard(self, payload: bytes) -> None:
        """Another worker says so: ids with blanks between them."""
        with contextlib.suppress(ValueError):
            self.end(*(int(word) for word in payload.split()))

    def watch(self, session_id: int, stream: Closable) -> bool:
        """Cut this stream when the session ends. False when it has ended already."""
        if session_id in self._over:
            return False
        self._open.setdefault(session_id, set()).add(stream)
        return True

    def unwatch(self, session_id: int, stream: Closable) -> None:
        """The stream has ended by itself."""
        open_ = self._open.get(session_id)
        if open_ is not None:
            open_.discard(stream)
            if not open_:
                del self._open[session_id]

    async def begin(self) -> None:
        """Learn what has ended of late, then look again for as long as the worker lives.

        Raises what the database raises, and may be called again."""
        await self._look()
        if self._tasks:
            return
        self._tasks = [asyncio.ensure_future(self._looking()), asyncio.ensure_future(self._counting())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self) -> None:
        row = await since(self._db, horizon=self._horizon, minutes=round(KEPT_SECONDS / 60))
        self._horizon = row["horizon"]
        self.end(*(row["ids"] or ()))

    async def _looking(self) -> None:
        blind = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
                blind = False
            except Exception as error:  # nobody must stay in because of it: the next look asks again
                if not blind:
                    log.event("endings.blind", level="warning", reason=type(error).__name__)
                blind = True

    async def _counting(self) -> None:
        """Forget what no token is left of, and end what has expired under an open stream."""
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            now = time.monotonic()
            for session_id in [one for one, until in self._over.items() if until < now]:
                if session_id not in self._open:
                    del self._over[session_id]
            held = list(self._open)
            with contextlib.suppress(Exception):  # the next look asks again
                for start in range(0, len(held), ASKED_AT_ONCE):
                    rows = await dead(self._db, session_ids=held[start : start + ASKED_AT_ONCE])
                    self.end(*(row["id"] for row in rows))
