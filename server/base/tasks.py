"""Work that must be finished although the client who asked for it is gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from server.base import log

R = TypeVar("R")


class Tasks:
    """Sanic cancels a handler when its client disconnects, also between a commit and its doorbell.

    What runs here is cancelled by nobody; the server waits for it before it stops.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, R]) -> R:
        """The result of work, which goes on even if the caller of this is cancelled."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

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
