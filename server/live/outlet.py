"""A socket that events are written to. Nothing ever queues up for it."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

from sanic import Request
from sanic.response import HTTPResponse

from server.live.wire import SSE, Wire

# How long a client may not read what is written to it, before it is cut off (it loses nothing: it comes
# back with its cursor). Every answer is much faster than that: a query is given half a minute at most.
STALLED_SECONDS = 120
RETRY_MS = 2000  # when a client that was cut off comes back


class Outlet(Protocol):
    """Several readers may share one (a WebSocket that follows several threads)."""

    wire: Wire
    written_at: float  # monotonic seconds of the last byte

    def writable(self) -> bool:
        """Whether the socket takes more now without anything piling up."""

    def take(self, chunk: bytes, now: float) -> bool:
        """Write packed frames at once, and say so; or not, if they would pile up. now is monotonic."""

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Wait until the socket takes more, and nobody else who reads for it is about to write."""

    async def send(self, frames: bytes) -> None:
        """Write frames, when the socket takes them."""

    def abort(self) -> None:
        """End the connection now, whatever is half-written."""


class SseOutlet:
    """The answer to a request for a stream.

    Sanic's own send is used whenever there may be a wait. The hub writes to the transport directly
    when the buffer is not full: that is half of the cost of a delivery.
    """

    __slots__ = ("_protocol", "_request", "_response", "written_at")
    wire: Wire = SSE

    def __init__(self, request: Request) -> None:
        self.written_at = time.monotonic()
        self._request = request
        self._protocol: Any = request.stream.protocol  # type: ignore[union-attr]
        self._response: HTTPResponse | None = None

    async def open(self, headers: dict[str, str]) -> None:
        """Begin the answer."""
        self._response = await self._request.respond(
            content_type="text/event-stream; charset=utf-8",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers},
        )

    def writable(self) -> bool:
        transport = self._protocol.transport  # None once Sanic has aborted it
        return transport is not None and self._protocol._can_write.is_set() and not transport.is_closing()

    def take(self, chunk: bytes, now: float) -> bool:
        if not self.writable():
            return False
        self._protocol.transport.write(chunk)
        self._protocol._time = self.written_at = now  # Sanic counts the silence of a connection from here
        return True

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        await self._protocol._can_write.wait()
        yield

    async def send(self, frames: bytes) -> None:
        response = self._response
        assert response is not None
        await response.send(frames)
        response.headers.clear()  # they have been sent: 3 KB of each stream
        self.written_at = time.monotonic()

    def abort(self) -> None:
        self._protocol.abort()
