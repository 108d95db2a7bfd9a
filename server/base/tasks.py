"""Work that must be finished although the client who asked for it is gone, and work that takes turns."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from server.base import log

R = TypeVar("R")


class Turns:
    """One at a time for each key, in the order of asking.

    For statements that would only wait for each other's row lock: waiting here costs no connection, and
    Postgres need not look again at what has changed meanwhile.
    """

    def __init__(self) -> None:
        self._waiting: dict[
            int, deque[asyncio.Future[None]]
        ] = {}  # a key is there while somebody has its turn

    @contextlib.asynccontextmanager
    async def of(self, key: int) -> AsyncIterator[None]:
        """The turn of this key."""
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque()
        else:
            mine = asyncio.get_running_loop().create_future()
            queue.append(mine)
            try:
                await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled():
                    self._next(key)  # it was given to somebody who had gone
                raise
        try:
            yield
        finally:
            self._next(key)

    def _next(self, key: int) -> None:
        queue = self._waiting[key]
        while queue:
            following = queue.popleft()
            if not following.done():
                following.set_result(None)
                return
        del self._waiting[key]


class Tasks:
    """Sanic cancels a handler when its client disconnects, also between a commit and its doorbell.

    What runs here is cancelled by nobody; the server waits for it before it stops.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, R]) -> "asyncio.Task[R]":
        """Work that need not be waited for."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def finish(self, work: Coroutine[Any, Any, R]) -> R:
        """The result of work, which goes on even if the caller of this is cancelled."""
        return await asyncio.shield(self.begin(work))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever still waits has raised it, nobody else can

    async def drain(self, seconds: float) -> None:
        """Wait for all of it, at most so long."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=seconds)
            if late:
                log.event("tasks.abandoned", level="error", count=len(late))
