"""What every reader of a stream is, whatever it follows: parked until there is news, woken, sent away."""

import asyncio

from server.live.outlet import Outlet


class Reader:
    """Parked: it waits for news and nothing is half-written, so that others may write to its outlet for it."""

    __slots__ = ("_ending", "_waiter", "outlet", "parked")

    def __init__(self, outlet: Outlet) -> None:
        self.outlet, self.parked = outlet, False
        self._ending = False
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Look again: there is news, or the end."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """End as soon as possible; the client is to come back."""
        self._ending = True
        self.wake()

    def cut(self) -> None:
        """The session is over. Parked, it can say goodbye; held up by a slow reader, it is broken off."""
        if self.parked:
            self.parked = False  # nobody writes anything more
            self.close()
        else:
            self._ending = True
            self.outlet.abort()

    async def _park(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        self.parked = True
        try:
            await self._waiter
        finally:
            self.parked, self._waiter = False, None
