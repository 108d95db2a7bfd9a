"""One web worker: a single-process Sanic on the socket that the supervisor bound."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys

import uvloop
from sanic import Sanic

from server.base.settings import load

BACKLOG = 2048  # Sanic calls listen() again, on the shared socket, with a default of 100
LAST_RESORT_S = 15  # the supervisor kills before this; it is for a worker whose supervisor is gone


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
