"""A bare broadcaster to measure the machine with: what 500 sockets cost when nothing else is done.

`python -m load.baseline FD` serves one inherited listening socket. GET opens a stream, POST writes one
event of the real server's size to all of them from one uvloop process: no database, no Redis, no
rights, no other worker. Its latency in the same run says how noisy the machine was.
"""

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import cast

import uvloop

from server.ops.embedded import die_with_parent

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
MESSAGE = (
    b'event: message\nid: 0123456789abcdef.%d\ndata: {"threadId":1,"seq":%d,"rev":%d,'
    b'"author":{"id":1,"name":"Alice","kind":"user"},%b,"createdAt":"2026-01-01T00:00:00.000000Z","files":[],"reactions":[]}\n\n'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Broadcast(asyncio.Protocol):
    """One connection: a stream after GET, a sender after POST."""

    streams: set[asyncio.Transport] = set()  # noqa: RUF012  # shared on purpose: all connections of the process
    seq = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = cast(asyncio.Transport, transport), b""  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self.streams.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        if head.startswith(b"GET"):
            self.data = b""
            ready = b'event: ready\nid: 0\ndata: {"cursor":"0","lastSeq":%d}\n\n' % Broadcast.seq
            self.transport.write(HEAD + chunk(ready))
            self.streams.add(self.transport)
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self.data = b""
        Broadcast.seq += 1
        event = chunk(MESSAGE % (Broadcast.seq, Broadcast.seq, Broadcast.seq, body[1:-1]))
        for transport in self.streams:
            transport.write(event)
        self.transport.write(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}")


def start() -> tuple[subprocess.Popen[bytes], tuple[str, int]]:
    """The broadcaster in a process of its own, and where it listens. Connections queue until it accepts."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        process = subprocess.Popen(
            [sys.executable, "-m", "load.baseline", str(listening.fileno())],
            pass_fds=[listening.fileno()],
            cwd=Path(__file__).parents[1],
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        return process, listening.getsockname()


async def serve(fd: int) -> None:
    """Until the process is ended."""
    server = await asyncio.get_running_loop().create_server(
        Broadcast, sock=socket.socket(fileno=fd), backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
