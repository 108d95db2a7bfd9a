"""One web worker: a single-process Sanic on the socket that the supervisor bound."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import uvloop
from sanic import Request, Sanic
from sanic.http import Stage
from sanic.server import HttpProtocol

from server.base.settings import load
from server.live.link import Link

BACKLOG = 2048  # Sanic calls listen() again, on the shared socket, with a default of 100
IDLE_S = 0.3  # a leaving worker's last look at its idle connections
LAST_RESORT_S = 15  # the supervisor kills before this; it is for a worker whose supervisor is gone


class Connection(HttpProtocol):
    """A client's connection, which is not closed under a request that is on its way.

    A worker that leaves answers with `Connection: close`, and an idle connection is closed only some
    time after the listening socket: who uses theirs steadily loses no request in a rolling restart.
    """

    __slots__ = ("link",)
    all: ClassVar[set["Connection"]] = set()
    leaving: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.link: Link | None = None  # once it is a WebSocket
        Connection.all = self.connections
        if Connection.leaving:
            self.answer_once()

    def answer_once(self) -> None:
        """Close after the answer to the next request, or to the one that is being answered."""
        handler: Callable[[Request], Awaitable[None]] = self.request_handler
        if self.http is not None and self.http.stage is Stage.HANDLER:  # its header is not yet written
            self.http.keep_alive = False

        async def last(request: Request) -> None:
            stream: Any = request.stream
            if stream is not None:
                stream.keep_alive = False
            await handler(request)

        self.request_handler = last

    def data_received(self, data: bytes) -> None:
        if self.link is None:
            super().data_received(data)
        else:
            self.link.data_received(data)

    def close_if_idle(self) -> bool:
        self.loop.call_later(IDLE_S, super().close_if_idle)
        return False


def run(listen_fd: int, status_fd: int) -> int:
    """Serve until SIGTERM, or until the supervisor at the other end of `status_fd` is gone.

    Writes "ready" to `status_fd` once requests are answered."""
    from server.app import create_app

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each stream is a descriptor
    listener, status = socket.socket(fileno=listen_fd), socket.socket(fileno=status_fd)
    status.setblocking(False)
    app = create_app(load(os.environ))
    leaving = False

    def leave() -> None:
        nonlocal leaving
        if leaving:  # SIGTERM and the end of the supervisor often come together; Sanic stands only one
            return
        leaving = True
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LAST_RESORT_S)
        Connection.leaving = True
        for connection in Connection.all:
            connection.answer_once()
        app.stop(terminate=False)

    async def ready(_: object) -> None:
        loop = asyncio.get_running_loop()
        # Python 3.12 and later cannot shut down cleanly without it (FACTS 0.5).
        assert isinstance(loop, uvloop.Loop), "Bobbin needs uvloop"
        loop.add_signal_handler(signal.SIGTERM, leave)
        loop.add_signal_handler(signal.SIGINT, leave)
        loop.add_reader(status.fileno(), told)
        with contextlib.suppress(OSError):
            status.send(b"ready\n")

    def told() -> None:
        with contextlib.suppress(BlockingIOError):
            if not status.recv(64):  # the supervisor's end is closed
                asyncio.get_running_loop().remove_reader(status.fileno())
                leave()

    async def deaf(_: object) -> None:
        # Sanic has just put back the default handlers: a second SIGTERM would cut the drain.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    # Both are registered last: `ready` runs after all of the app's own listeners, and `deaf`, as
    # shutdown goes in reverse, before them.
    app.register_listener(ready, "after_server_start")
    app.register_listener(deaf, "before_server_stop")
    app.prepare(
        sock=listener,
        protocol=Connection,
        backlog=BACKLOG,
        single_process=True,
        access_log=False,
        motd=False,
        register_sys_signals=False,
    )
    Sanic.serve_single(primary=app)
    return 0 if leaving else 1


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2])))
