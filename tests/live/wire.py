"""A stream over a socket of one's own: it reads only when told to, and shows the very bytes."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.client import LIMIT_SECONDS, Person


@dataclass(frozen=True)
class Frame:
    """One event as it came."""

    id: str | None
    event: str
    data: bytes
    at: float = 0.0  # when it was read, in seconds of the loop

    @property
    def json(self) -> Any:
        return orjson.loads(self.data)

    @property
    def rev(self) -> int:
        assert self.id is not None, self
        return int(self.id.rpartition(".")[2])


def frames(text: bytes) -> list[Frame]:
    """The events of whole frames; comments and `retry:` are none. Lines end at \\n and nowhere else."""
    found = []
    for block in text.split(b"\n\n"):
        fields = dict[bytes, bytes]()
        for line in block.split(b"\n"):
            name, _, value = line.partition(b": ")
            assert name not in fields, block
            fields[name] = value
        if b"event" in fields:
            id_ = fields[b"id"].decode() if b"id" in fields else None
            found.append(Frame(id_, fields[b"event"].decode(), fields[b"data"]))
    return found


class Wire:
    """The client's end. `next` gives events one by one, None at the end of the stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: list[Frame] = []
        self._rest = b""
        self._size: int | None = None  # of the chunk being read
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw = bytearray()  # all that came, without HTTP's chunks

    @property
    def port(self) -> int:
        """Of this end: by it the server's end is found."""
        return int(self._writer.get_extra_info("sockname")[1])

    async def request(self, text: str) -> None:
        """Ask, and read the head of the answer."""
        self._writer.write(text.encode())
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines[1:]) if v}

    async def chunk(self) -> bytes:
        """The next piece of the body; nothing at its end, orderly or not."""
        try:
            if self._size is None:  # else a wait for the rest of it was given up
                self._size = int((await self._reader.readline()).strip() or b"0", 16)
            if not self._size:
                return b""
            piece = (await self._reader.readexactly(self._size + 2))[:-2]
        except (OSError, asyncio.IncompleteReadError):
            return b""
        self._size = None
        return piece

    async def next(self, *, limit: float = LIMIT_SECONDS) -> Frame | None:
        async with asyncio.timeout(limit):
            while not self._waiting:
                piece = await self.chunk()
                if not piece:
                    return None
                self.raw += piece
                whole, cut, self._rest = (self._rest + piece).rpartition(b"\n\n")
                now = asyncio.get_running_loop().time()
                # What is in no log comes when it comes: presence, typing.
                self._waiting = [
                    Frame(f.id, f.event, f.data, now) for f in frames(whole + cut) if f.id is not None
                ]
        return self._waiting.pop(0)

    async def until(self, rev: int) -> list[Frame]:
        """All events up to the one with this rev."""
        found: list[Frame] = []
        while not found or found[-1].rev < rev:
            frame = await self.next()
            assert frame is not None, f"ended before {rev}: {found[-3:]}"
            found.append(frame)
        return found

    async def rest(self) -> list[Frame]:
        """All events up to the end of the stream, which must come."""
        found: list[Frame] = []
        async with asyncio.timeout(LIMIT_SECONDS):
            while (frame := await self.next()) is not None:
                found.append(frame)
        return found

    def cut(self) -> None:
        """Go away without a word."""
        self._writer.transport.abort()


async def connected(base: str, receive_bytes: int | None) -> socket.socket:
    """A socket. With receive_bytes it takes in little while nobody reads."""
    place = urlsplit(base)
    sock = socket.socket()
    try:
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (place.hostname, place.port))
    except BaseException:
        sock.close()
        raise
    return sock


async def dial(base: str, *, receive_bytes: int | None = None) -> Wire:
    """A connection of such a socket."""
    sock = await connected(base, receive_bytes)
    return Wire(*await asyncio.open_connection(sock=sock, limit=receive_bytes or 2**16))


@contextlib.asynccontextmanager
async def wire(
    base: str,
    thread_id: int,
    who: Person | None,
    *,
    since: str | None = None,
    query: str = "",
    receive_bytes: int | None = None,
) -> AsyncIterator[Wire]:
    """Ask for the stream of a thread; the head of the answer is there."""
    line = await dial(base, receive_bytes=receive_bytes)
    head = [f"GET /api/threads/{thread_id}/stream{query} HTTP/1.1", f"Host: {urlsplit(base).netloc}"]
    if who is not None:
        head.append(f"Authorization: Bearer {who.token}")
    if since is not None:
        head.append(f"Last-Event-ID: {since}")
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            await line.request("\r\n".join([*head, "", ""]))
        yield line
    finally:
        line.cut()


async def so(true: Callable[[], bool], what: Callable[[], str] | str, limit: float = LIMIT_SECONDS) -> None:
    """Wait for something to be so."""
    try:
        async with asyncio.timeout(limit):
            while not true():
                await asyncio.sleep(0.005)
    except TimeoutError:
        said = what if isinstance(what, str) else what()
        raise AssertionError(f"not within {limit} s: {said}") from None


def worker_of(port: int, workers: Iterable[int]) -> int:
    """Which of these processes holds the server's end of a connection from this port."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2].endswith(f":{port:04X}"):
            end = f"socket:[{fields[9]}]"
            for pid in workers:
                for fd in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if str(fd.readlink()) == end:
                            return pid
    raise AssertionError(f"nobody holds the other end of {port}")
