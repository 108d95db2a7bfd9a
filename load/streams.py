"""SSE on raw sockets: what costs a listener little enough to follow 2,000 streams beside the server.

While the clock matters a piece of bytes is only stamped and kept; `Stream.take` parses afterwards.
"""

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from load.http_client import Address, header_end
from load.sse_client import Dechunk, Event, Parser


class Stream:
    """One listening socket. Pieces are kept as (CLOCK_MONOTONIC ns, bytes) until taken."""

    def __init__(self, address: Address, request: bytes, *, receive_buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes is not None:  # before connecting, or the window is already offered
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.connect(address)
        self.socket.sendall(request)
        self.pieces: list[tuple[int, bytes]] = []
        self.closed = False
        self.last_id: str | None = None
        self._head = b""
        self._chunked: bool | None = None  # None: the head has not come yet
        self._dechunk, self._parser = Dechunk(), Parser()

    def take(self) -> Iterator[tuple[int, Event]]:
        """Each event that has come whole since the last call, with the stamp of the piece that ended it.

        RuntimeError when the answer was not 200.
        """
        pieces, self.pieces = self.pieces, []
        for stamp, piece in pieces:
            body = self._body(piece)
            for event in self._parser.feed(body) if body else ():
                self.last_id = event.id or self.last_id
                yield stamp, event

    def _body(self, piece: bytes) -> bytes:
        if self._chunked is None:
            self._head += piece
            end = header_end(self._head)
            if end < 0:
                return b""
            head, piece = self._head[:end].lower(), self._head[end:]
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"the stream was refused: {self._head[:300]!r}")
            self._chunked = b"transfer-encoding: chunked" in head
        return self._dechunk.feed(piece) if self._chunked else piece

    def close(self) -> None:
        self.closed = True
        self.socket.close()


@dataclass
class Streams:
    """Many streams behind one epoll."""

    epoll: select.epoll = field(default_factory=select.epoll)
    by_fd: dict[int, Stream] = field(default_factory=dict)

    def add(self, stream: Stream) -> Stream:
        stream.socket.setblocking(False)
        self.by_fd[stream.socket.fileno()] = stream
        self.epoll.register(stream.socket.fileno(), select.EPOLLIN)
        return stream

    def forget(self, stream: Stream) -> None:
        """Reads it no more, and leaves its socket open: a stalled reader."""
        self.epoll.unregister(stream.socket.fileno())
        del self.by_fd[stream.socket.fileno()]

    def poll(self, timeout_s: float) -> list[int]:
        """Waits for bytes and keeps them, stamped. Returns the ready descriptors that are no stream."""
        strangers = []
        for fd, _ in self.epoll.poll(timeout_s, 4096):
            stream = self.by_fd.get(fd)
            if stream is None:
                strangers.append(fd)
                continue
            try:
                piece = stream.socket.recv(16_384)
            except BlockingIOError:
                continue
            except OSError:
                piece = b""
            if piece:
                stream.pieces.append((time.monotonic_ns(), piece))
            else:
                self.forget(stream)
                stream.close()
        return strangers

    def until_ready(self, streams: list[Stream], timeout_s: float = 20) -> list[Event]:
        """Reads until each of these has had its `ready` event; TimeoutError otherwise."""
        end, found = time.monotonic() + timeout_s, dict[int, Event]()
        while len(found) < len(streams):
            if time.monotonic() > end:
                raise TimeoutError(f"{len(streams) - len(found)} of {len(streams)} streams never got ready")
            self.poll(0.2)
            for index, stream in enumerate(streams):
                for _, event in stream.take() if index not in found else ():
                    if event.kind == "ready":
                        found[index] = event
                if stream.closed:
                    raise RuntimeError("the server closed a stream before it was ready")
        return [found[index] for index in range(len(streams))]

    def close(self) -> None:
        for stream in list(self.by_fd.values()):
            stream.close()
        self.epoll.close()
