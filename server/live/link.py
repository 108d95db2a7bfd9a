"""One WebSocket connection after its upgrade: frames in, one at a time; events out, by whoever reads for it.

The framing is that of the library `websockets`; what is read and written when is up to us. Nothing is read
while the last frame is not yet answered, and nothing is answered while the client does not read: so neither
what it sends nor what it is sent can pile up here.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import State
from websockets.server import ServerProtocol

from server.base.errors import BadRequest, UpgradeRequired
from server.base.front import Pairs
from server.base.limits import KIB
from server.live.outlet import RETRY_MS, STALLED_SECONDS
from server.live.wire import WS, Wire

MESSAGE_BYTES = 256 * KIB  # from a client: the longest text there is, each character escaped at worst
HELD_BYTES = 16 * KIB  # of what has come and is not yet looked at; above it nothing more is read
SLICE_BYTES = 4 * KIB  # looked at at once: of the smallest frames as many as take 5 ms
# Frames of any kind, the parts of a message and pings too: who sends more is read more slowly.
FRAMES, FRAMES_PER_SECOND = 1000, 100
# Whoever has been silent is asked, and gone when they don't answer: known before presence has to know it.
PING_SECONDS, PONG_SECONDS = 20.0, 12.0
UNFINISHED_SECONDS = 30.0  # in which a message that has begun is to be there
CLOSE_SECONDS = 2.0  # that the other side has to say goodbye too
BROKEN_SECONDS = 0.2  # the same where its goodbye would not be understood
PING = b"\x89\x00"
SAYING = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
NORMAL = (1000, "")
RESTART = 1012  # clients come back, and elsewhere
NOT_UTF8, UNFINISHED = (1007, "not UTF-8"), (1008, "a message was begun and not finished")
SESSION_ENDED = (4401, "session_ended")  # the application's range; 401 of HTTP
QUIET = logging.getLogger("bobbin.websocket")


class Gone(Exception):
    """The connection is closed, or about to be."""


def accepted(headers: list[tuple[str, str]], version: str) -> tuple[ServerProtocol, list[tuple[str, str]]]:
    """The parser of a new connection, and the headers of the answer, to a good handshake.

    Raises UpgradeRequired or BadRequest. No extension and no subprotocol is agreed on.
    """
    parser = ServerProtocol(state=State.OPEN, max_size=MESSAGE_BYTES, logger=QUIET)
    answer = parser.accept(Handshake("/", Headers(headers), protocol=f"HTTP/{version}"))
    if answer.status_code == 426:
        raise UpgradeRequired()
    if isinstance(parser.handshake_exc, InvalidHandshake) or answer.status_code != 101:
        raise BadRequest("This is not a WebSocket handshake of version 13.", code="bad_handshake")
    return parser, list(answer.headers.raw_items())


class Link:
    """The server's end. An Outlet (see live/outlet.py) that several readers share."""

    __slots__ = ("_begun_at", "_brakes", "_closing", "_events", "_full_at", "_in_pieces", "_incoming", "_parser",
                 "_paused", "_paused_at", "_pinged_at", "_protocol", "_turn", "_waiter", "heard_at",
                 "written_at")  # fmt: skip
    wire: Wire = WS

    def __init__(self, protocol: Any, parser: ServerProtocol, *, braked: bool) -> None:
        """protocol: the worker's Connection. braked: whether a flood of frames is."""
        self.heard_at = self.written_at = time.monotonic()
        self._protocol, self._parser, self._brakes = protocol, parser, braked
        self._incoming = bytearray()
        self._events: deque[Frame] = deque()
        self._paused = False
        self._begun_at: float | None = None  # when a message began that is not finished
        self._in_pieces = False  # whether pieces of it are there
        self._pinged_at = self._paused_at = self._full_at = 0.0  # full: when the bucket of frames will be
        self._closing: tuple[int, str] | None = None  # how it is to be closed
        self._waiter: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()

    def open(self, headers: list[tuple[str, str]], outer: Pairs) -> None:
        """Answer the handshake."""
        lines = [b"HTTP/1.1 101 Switching Protocols"]
        lines += [b"%b: %b" % (name.encode(), value.encode()) for name, value in headers]
        lines += [b"%b: %b" % pair for pair in outer]
        self._protocol.transport.write(b"\r\n".join([*lines, b"", b""]))
        early, self._protocol.recv_buffer = bytes(self._protocol.recv_buffer), bytearray()
        self._protocol.link = self
        self._protocol.transport.resume_reading()
        if early:
            self.data_received(early)

    # -- what the protocol and the worker call

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        self._incoming += data
        if len(self._incoming) > HELD_BYTES and not self._paused:
            self._paused, self._paused_at = True, self.heard_at
            self._protocol.transport.pause_reading()
        self._wake()

    def beat(self, now: float) -> None:
        """Once a second: ask whether a silent client is there, and cut off one that is not, or does not read.

        Whoever has said half of something for long is sent away: half-sent messages are memory.
        """
        if self._begun_at is not None and not self._incoming and now - self._begun_at > UNFINISHED_SECONDS:
            self.leave(*UNFINISHED)
        if not self._protocol._can_write.is_set():
            if now - self.written_at > STALLED_SECONDS:
                self.abort()
        elif not self._paused:  # else it is us who don't listen
            silent = now - self.heard_at
            if silent > PING_SECONDS + PONG_SECONDS:
                self.abort()
            elif silent > PING_SECONDS and self._pinged_at < self.heard_at and self.take(PING, now):
                self._pinged_at = now

    def leave(self, code: int, reason: str) -> None:
        """Close when the message that is being answered has its answer."""
        self._closing = self._closing or (code, reason)
        self._wake()

    def cut(self) -> None:
        """The session is over: say so if that goes at once, else break off."""
        if self.writable():
            self.leave(*SESSION_ENDED)
            self._parser.send_close(*SESSION_ENDED)
            for data in self._parser.data_to_send():
                self._protocol.transport.write(data)
        else:
            self.abort()

    # -- an outlet

    @property
    def _alive(self) -> bool:
        transport = self._protocol.transport  # None once Sanic has aborted it
        return transport is not None and not transport.is_closing()

    def writable(self) -> bool:
        return self._parser.state is State.OPEN and self._protocol._can_write.is_set() and self._alive

    def take(self, chunk: bytes, now: float) -> bool:
        if not self.writable():
            return False
        self._protocol.transport.write(chunk)
        self.written_at = now
        return True

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._turn:
            await self._drained()
            yield

    async def send(self, frames: bytes) -> None:
        """Raises Gone."""
        await self._drained()
        self._protocol.transport.write(frames)
        self.written_at = time.monotonic()

    async def _drained(self) -> None:
        await self._protocol._can_write.wait()
        if self._parser.state is not State.OPEN or not self._alive:
            raise Gone

    def abort(self) -> None:
        self._protocol.abort()
        self._wake()

    # -- messages

    async def receive(self) -> bytes | None:
        """The next message; None when the connection is closed, or is to be. Answer it before the next one."""
        parts: list[bytes] = []
        binary = False
        while self._closing is None and self._alive:
            if not self._events:
                if self._parser.state is not State.OPEN:
                    break
                await self._more()
                continue
            if await self._braked():
                continue
            frame = self._events.popleft()
            if frame.opcode in SAYING:
                binary = binary or frame.opcode is Opcode.BINARY
                parts.append(bytes(frame.data))
                if not frame.fin:
                    continue
                message = b"".join(parts)
                if binary or _is_utf8(message):
                    return message
                self._parser.fail(*NOT_UTF8)
        return None

    async def finish(self) -> None:
        """Say goodbye, and hear theirs: closed at once, they might not hear ours."""
        try:
            broken = self._parser.eof_sent and self._parser.close_rcvd is None
            async with asyncio.timeout(BROKEN_SECONDS if broken else CLOSE_SECONDS):
                if self._parser.state is State.OPEN:
                    self._parser.send_close(*(self._closing or NORMAL))
                await self._flush()
                while self._alive and self._parser.close_rcvd is None:
                    await self._more()
                    self._events.clear()
        except TimeoutError:
            if not self._protocol._can_write.is_set():
                self.abort()

    async def _more(self) -> None:
        """Look at some of what has come, or wait for it."""
        if not self._incoming:
            if self._paused and self._alive:
                self._paused = False
                self.heard_at = time.monotonic()
                if self._begun_at is not None:
                    self._begun_at += self.heard_at - self._paused_at  # it was us who did not listen
                self._protocol.transport.resume_reading()
            await self._wait()
            return
        self._parser.receive_data(self._incoming[:SLICE_BYTES])
        del self._incoming[:SLICE_BYTES]
        came = [event for event in self._parser.events_received() if isinstance(event, Frame)]
        self._events.extend(came)
        self._watch(came)
        await self._flush()
        if self._incoming:
            await asyncio.sleep(0)  # others may have waited for a while

    def _watch(self, came: list[Frame]) -> None:
        """Since when a message is unfinished, after these frames."""
        for frame in came:
            if frame.opcode in SAYING:
                self._in_pieces = not frame.fin
            if not self._in_pieces:
                self._begun_at = None
        if self._begun_at is None and (self._in_pieces or _within(self._parser)):
            self._begun_at = self.heard_at

    async def _flush(self) -> None:
        """Write what the framing asks for, pongs and goodbyes, as soon as the client reads."""
        for data in self._parser.data_to_send():
            await self._protocol._can_write.wait()
            if data and self._alive:  # nothing stands for the end: whoever has called us closes
                self._protocol.transport.write(data)
                self.written_at = time.monotonic()

    async def _braked(self) -> bool:
        """Take a token of the bucket of frames, or wait for it; true when it is to end meanwhile."""
        if not self._brakes:
            return False
        self._full_at = max(self._full_at, time.monotonic()) + 1 / FRAMES_PER_SECOND
        while (wait := self._full_at - FRAMES / FRAMES_PER_SECOND - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wait()
            if self._closing is not None or not self._alive:
                return True
        return False

    async def _wait(self) -> None:
        """Until something has come, or is to end."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _within(parser: ServerProtocol) -> bool:
    """Whether a part of a frame has come: between frames the parser waits for any byte or the end, else for so many."""
    waits: Any = parser.parser
    while waits.gi_yieldfrom is not None:
        waits = waits.gi_yieldfrom
    return bool(waits.__name__ != "at_eof")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class Links:
    """All WebSocket connections of this worker."""

    def __init__(self) -> None:
        self.closing = False
        self._open: set[Link] = set()
        self._left = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def hold(self, link: Link) -> Iterator[None]:
        """As long as it is open."""
        if self._beating is None:
            self._beating = asyncio.ensure_future(self._beat())
        self._open.add(link)
        try:
            yield
        finally:
            self._open.discard(link)
            self._left.set()

    async def close(self, seconds: float) -> None:
        """Send everybody away, to come back elsewhere; after so many seconds without waiting for them."""
        self.closing = True
        for link in self._open:
            # Not all at once: those who are sent away come back over some seconds.
            link.leave(RESTART, f"retry in {random.randint(RETRY_MS // 2, RETRY_MS * 2)} ms")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    self._left.clear()
                    await self._left.wait()
        for link in self._open:
            link.abort()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for link in list(self._open):
                link.beat(now)
