"""A proxy that changes what a server says, as a broken one would: events of streams, answers, whole requests."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson

from server.live.wire import text_frame

# What is told instead of one event of a stream: which stream ("path number"), and the event's bytes, as SSE or JSON.
Tell = Callable[[str, bytes], list[bytes]]
# What is answered instead: method and path, status and JSON.
Reply = Callable[[str, int, Any], tuple[int, Any]]
# The whole answer to a request that the server never sees: method and path, JSON; None: it sees it; b"": hang up.
Refuse = Callable[[str, Any], bytes | None]

TEXT = 0x81  # the first byte of a whole text frame
STREAMS = itertools.count(1)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


def answer(status: int, body: Any, **headers: str) -> bytes:
    """A whole HTTP answer."""
    data = orjson.dumps(body)
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(data)}\r\n\r\n".encode() + data


class Meddler:
    """`url` is where it stands. What is not given is passed on as it is."""

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.tell: Tell = lambda stream, event: [event]
        self.reply: Reply = lambda call, status, body: (status, body)
        self.refuse: Refuse = lambda call, body: None
        self.calls: list[str] = []
        self._place = urlsplit(upstream)
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client connects."""
        task = asyncio.ensure_future(self.serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, on one of the server."""
        theirs: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            ours, theirs = await asyncio.open_connection(self._place.hostname, self._place.port)
            self._writers.add(theirs)
            while await self._exchange(reader, writer, ours, theirs):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, theirs):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ours: asyncio.StreamReader,
        theirs: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer. False: that was the last one."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        body = await _body(reader, head)
        call = f"{method} {path}"
        self.calls.append(call)
        refusal = self.refuse(call, orjson.loads(body) if body else None)
        if refusal is not None:
            writer.write(refusal)
            await writer.drain()
            return bool(refusal)
        theirs.write(head + body)
        head = await ours.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status == 101:
            writer.write(head)
            await self._talk(path, reader, writer, ours, theirs)
            return False
        if b"transfer-encoding: chunked" in head.lower():
            writer.write(head)
            await self._stream(path, ours, writer)
            return False
        body = await _body(ours, head)
        if body.startswith(b"{"):
            status, changed = self.reply(call, status, orjson.loads(body))
            body = orjson.dumps(changed)
            head = re.sub(rb"^HTTP/1.1 \d+", b"HTTP/1.1 %d" % status, LENGTH.sub(b"", head))
            head = head[:-2] + b"Content-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await writer.drain()
        return True

    async def _stream(self, path: str, ours: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, rest = f"{path} {next(STREAMS)}", b""
        while size := int((await ours.readline()).strip() or b"0", 16):
            piece = (await ours.readexactly(size + 2))[:-2]
            *events, rest = (rest + piece).split(b"\n\n")
            told = b"".join(one + b"\n\n" for event in events for one in self._told(stream, event))
            if told:
                writer.write(b"%x\r\n%b\r\n" % (len(told), told))
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _talk(
        self,
        path: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ours: asyncio.StreamReader,
        theirs: asyncio.StreamWriter,
    ) -> None:
        """A WebSocket: what the client says is passed on, what the server says is meddled with."""
        saying = asyncio.ensure_future(_pass_on(reader, theirs))
        stream = f"{path} {next(STREAMS)}"
        try:
            while True:
                first, size = await ours.readexactly(2)
                if size > 125:
                    size = int.from_bytes(await ours.readexactly(2 if size == 126 else 8))
                payload = await ours.readexactly(size)
                if first == TEXT:
                    for told in self.tell(stream, payload) if b'"ref":' not in payload[:60] else [payload]:
                        writer.write(text_frame(told))
                else:
                    writer.write(bytes((first, size)) + payload)  # a close, a ping: short
                await writer.drain()
        finally:
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)

    def _told(self, stream: str, event: bytes) -> list[bytes]:
        return self.tell(stream, event) if b"event: " in event else [event]

    def cut(self) -> None:
        """Break all connections off."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """And be done with them."""
        self.cut()
        await asyncio.gather(*self._serving)


async def _pass_on(reader: asyncio.StreamReader, theirs: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65_536):
        theirs.write(piece)
        await theirs.drain()
    theirs.close()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    found = LENGTH.search(head)
    return await reader.readexactly(int(found[1])) if found else b""


@contextlib.asynccontextmanager
async def meddler(upstream: str) -> AsyncIterator[Meddler]:
    """One that stands before a server."""
    proxy = Meddler(upstream)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
