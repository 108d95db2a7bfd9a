"""One WebSocket connection by itself: who is silent, who does not read, who sends too much."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from server.live import link
from server.live.link import HELD_BYTES, PING, Gone, Link
from server.live.outlet import STALLED_SECONDS
from server.live.wire import WS, text_frame


class Line:
    """The worker's connection and its transport."""

    def __init__(self) -> None:
        self.got = bytearray()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.transport: Line | None = self
        self.reading = True

    def write(self, data: bytes) -> None:
        self.got += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.transport = None
        self._can_write.set()


def linked(*, braked: bool = True) -> tuple[Link, Line]:
    line = Line()
    return Link(line, ServerProtocol(state=State.OPEN, max_size=link.MESSAGE_BYTES), braked=braked), line


def text(said: bytes) -> bytes:
    return Frame(Opcode.TEXT, said).serialize(mask=True)


def told(got: bytes | bytearray) -> list[Frame]:
    """What a client makes of it."""
    client = ClientProtocol(parse_uri("ws://x/"), state=State.OPEN, max_size=None)
    client.receive_data(bytes(got))
    return [event for event in client.events_received() if isinstance(event, Frame)]


@given(st.integers(0, 200) | st.sampled_from((125, 126, 127, 65_535, 65_536, 300_000)))
def test_a_frame_is_a_whole_message_of_any_length(size: int) -> None:
    (frame,) = told(text_frame(b"x" * size))
    assert (frame.opcode, frame.fin, len(frame.data)) == (Opcode.TEXT, True, size)


def test_an_event_is_json_with_its_id_if_it_has_one() -> None:
    frames = (
        WS.event("message", "e.7.1", b'{"a":1}')
        + WS.event("pong", None, b"{}")
        + WS.answer("ack", b"{}", "x")
    )
    assert [bytes(one.data) for one in told(frames)] == [
        b'{"event":"message","id":"e.7.1","data":{"a":1}}',
        b'{"event":"pong","data":{}}',
        b'{"event":"ack","ref":"x","data":{}}',
    ]


async def test_whoever_is_silent_is_asked_and_cut_off_when_they_do_not_answer() -> None:
    here, line = linked()
    now = here.heard_at
    here.beat(now + link.PING_SECONDS - 0.01)  # not a sum that rounds either way
    assert not line.got
    for second in range(1, int(link.PONG_SECONDS)):
        here.beat(now + link.PING_SECONDS + second)
    assert bytes(line.got) == PING and line.transport is not None  # asked once
    here.data_received(Frame(Opcode.PONG, b"").serialize(mask=True))
    here.beat(here.heard_at + link.PING_SECONDS)
    assert line.transport is not None
    here.beat(here.heard_at + link.PING_SECONDS + link.PONG_SECONDS + 1)
    assert line.transport is None
    # A person is known to be gone in time for presence.
    assert link.PING_SECONDS + link.PONG_SECONDS + 2 <= 45


async def test_whoever_does_not_read_is_cut_off_later_and_not_asked() -> None:
    here, line = linked()
    line._can_write.clear()
    here.beat(here.written_at + STALLED_SECONDS - 0.01)
    assert line.transport is not None and not line.got and not here.take(b"x", 0.0)
    here.beat(here.written_at + STALLED_SECONDS + 1)
    assert line.transport is None


async def test_nothing_is_read_before_the_last_message_is_answered() -> None:
    here, line = linked()
    here.data_received(text(b"one") + text(b"x" * 200) * 200)
    assert not line.reading
    assert await here.receive() == b"one"
    for _ in range(200):
        assert len(here._events) <= link.SLICE_BYTES // 6
        assert await here.receive() == b"x" * 200
    waiting = asyncio.ensure_future(here.receive())
    await asyncio.sleep(0)
    assert line.reading
    here.data_received(text(b"two"))
    assert await waiting == b"two"


async def test_pongs_wait_until_they_are_read_and_so_does_what_comes_next() -> None:
    here, line = linked()
    line._can_write.clear()
    for _ in range(200):
        if line.reading:
            here.data_received(Frame(Opcode.PING, b"x" * 100).serialize(mask=True))
    here.data_received(text(b"after"))
    waiting = asyncio.ensure_future(here.receive())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not line.got and not waiting.done()
    assert len(here._incoming) <= HELD_BYTES + 400
    line._can_write.set()
    assert await waiting == b"after"
    assert len(told(line.got)) > 100


async def test_many_frames_are_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "FRAMES", 10)
    here, _ = linked()
    free, _ = linked(braked=False)
    took = []
    for one in (here, free):
        one.data_received(text(b"{}") * 30)
        began = time.monotonic()
        for _ in range(30):
            await one.receive()
        took.append(time.monotonic() - began)
    assert took[0] >= 20 / link.FRAMES_PER_SECOND > took[1]
    here._full_at = time.monotonic() + 3600
    here.data_received(text(b"{}"))
    waiting = asyncio.ensure_future(here.receive())
    await asyncio.sleep(0)
    here.leave(1012, "")
    assert await waiting is None  # it does not hold up the end


async def test_readers_take_turns_and_are_told_when_it_is_over() -> None:
    here, line = linked()
    order: list[int] = []

    async def reader(number: int) -> None:
        async with here.turn():
            await asyncio.sleep(0)
            order.append(number)
            await here.send(b"x")

    await asyncio.gather(*(reader(number) for number in range(5)))
    assert order == list(range(5))
    line._can_write.clear()
    waiting = [asyncio.ensure_future(reader(number)) for number in range(5)]
    await asyncio.sleep(0)
    here.cut()  # the session is over; nothing more is written
    assert all(isinstance(one, Gone) for one in await asyncio.gather(*waiting, return_exceptions=True))
    assert bytes(line.got) == b"x" * 5


async def test_after_its_goodbye_nothing_is_written() -> None:
    here, line = linked()
    here.cut()
    (goodbye,) = told(line.got)
    assert goodbye.opcode is Opcode.CLOSE and goodbye.data[:2] == (4401).to_bytes(2)
    size = len(line.got)
    assert not here.take(b"x", 0.0)
    with pytest.raises(Gone):
        await here.send(b"x")
    assert await here.receive() is None
    here.data_received(Frame(Opcode.CLOSE, goodbye.data).serialize(mask=True))
    await here.finish()
    assert len(line.got) == size


async def test_a_message_that_is_begun_and_not_finished_ends_it() -> None:
    half = text(b"x" * 200)[:-1]
    piece = Frame(Opcode.TEXT, b"x", fin=False).serialize(mask=True)
    ping = Frame(Opcode.PING, b"").serialize(mask=True)
    for begun, then in ((half[:1], b""), (half, b""), (piece, ping), (text(b"one") + half[:5], half[5:])):
        here, _ = linked()
        here.data_received(begun)
        began = here.heard_at
        waiting = asyncio.ensure_future(here.receive())
        for _ in range(3):
            await asyncio.sleep(0)
        if waiting.done():
            assert await waiting == b"one"
            waiting = asyncio.ensure_future(here.receive())
        here.data_received(then)
        await asyncio.sleep(0)
        here.beat(began + link.UNFINISHED_SECONDS - 0.1)
        assert here._closing is None and not waiting.done()
        here.beat(here.heard_at + link.UNFINISHED_SECONDS + 0.1)
        assert here._closing == link.UNFINISHED
        assert await waiting is None


async def test_a_message_that_is_finished_ends_nothing_and_the_next_has_its_own_time() -> None:
    here, _ = linked()
    first, second = text(b"one"), text(b"two")

    async def comes(data: bytes) -> list[bytes | None]:
        here.data_received(data)
        waiting = asyncio.ensure_future(here.receive())
        await asyncio.sleep(0.01)
        if waiting.done():
            return [await waiting]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return []

    assert await comes(first[:3]) == []
    began = here._begun_at
    assert began == here.heard_at
    assert await comes(first[3:] + second[:3]) == [b"one"]
    assert here._begun_at == here.heard_at and here.heard_at > began
    assert await comes(second[3:]) == [b"two"]
    assert here._begun_at is None
    here.beat(began + link.UNFINISHED_SECONDS + 0.1)
    assert here._closing is None


async def test_time_in_which_we_do_not_listen_is_not_the_clients() -> None:
    here, line = linked()
    here.data_received(text(b"one") + text(b"x" * 20_000)[:HELD_BYTES])
    assert not line.reading
    here.heard_at -= 3600  # answering the last one took so long
    here._paused_at = here.heard_at
    assert await here.receive() == b"one"
    waiting = asyncio.ensure_future(here.receive())
    for _ in range(20):
        await asyncio.sleep(0)
    assert line.reading and here._begun_at is not None
    here.beat(time.monotonic() + 1)
    assert here._closing is None
    waiting.cancel()


async def test_after_what_is_no_frame_nobody_waits_for_a_goodbye() -> None:
    here, _ = linked()
    here.data_received(b"\x81\x02{}")
    assert await here.receive() is None
    began = time.monotonic()
    await here.finish()
    assert time.monotonic() - began < link.CLOSE_SECONDS / 2
