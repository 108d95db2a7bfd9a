"""Send -> event: one thread, many subscribers, a steady trickle of messages, every event accounted for."""

import gc
import re
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from load.http_client import Address, Connection
from load.streams import Stream, Streams

NUMBER = re.compile(rb'"text":"bench (\d+)')


def text_of(number: int) -> str:
    """The text that carries the number of a send into its event; about as long as chat messages are."""
    return f"bench {number:06d} and some words, so that it is as long as people write"


@dataclass
class Fanout:
    """What came of it. `faults` are in words; a run with one has no valid latency."""

    latencies_ms: list[float] = field(default_factory=list)  # one for each event of each subscriber
    posts_ms: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Fanout") -> None:
        self.latencies_ms += other.latencies_ms
        self.posts_ms += other.posts_ms
        self.faults += other.faults


def fanout(
    address: Address,
    stream_request: bytes,
    post: Callable[[str, int], bytes],
    *,
    subscribers: int,
    per_second: float,
    seconds: float,
    warm_up: int = 10,
    on_ready: Callable[[], None] = lambda: None,
) -> Fanout:
    """Sends `per_second` for `seconds` on an even clock, whether or not the answers have come.

    post(text, number) gives the request. Latency runs from just before the request is written to the
    moment the last bytes of the event were read, both by CLOCK_MONOTONIC of this one process; what
    the reader itself adds is in it (about 4 us for each subscriber served before). The first
    `warm_up` sends and the very last one (it only marks the end) are not counted. on_ready is called when
    all listen, before the first send.
    """
    result, streams = Fanout(), Streams()
    senders: dict[int, Connection] = {}
    idle: list[Connection] = []
    gc.collect()
    gc.disable()
    try:
        listening = []
        for first in range(0, subscribers, 50):
            batch = [
                streams.add(Stream(address, stream_request)) for _ in range(min(50, subscribers - first))
            ]
            last_seqs = [
                int(event.data.partition(b'"lastSeq":')[2].rstrip(b"}").partition(b",")[0])
                for event in streams.until_ready(batch)
            ]
            listening += list(zip(batch, last_seqs, strict=True))
        on_ready()
        total = warm_up + int(per_second * seconds) + 1
        sent_ns: list[int] = []
        interval_ns = int(1e9 / per_second)
        due = time.monotonic_ns()
        end = due + interval_ns * total + 20_000_000_000
        while len(sent_ns) < total or len(idle) < len(senders):
            now = time.monotonic_ns()
            if now > end:
                raise TimeoutError(f"{len(senders) - len(idle)} sends had no answer after 20 s")
            if now >= due and len(sent_ns) < total:
                if not idle:
                    connection = Connection(address)
                    senders[connection.socket.fileno()] = connection
                    streams.epoll.register(connection.socket.fileno(), select.EPOLLIN)
                    idle.append(connection)
                connection = idle.pop()
                connection.send(post(text_of(len(sent_ns)), len(sent_ns)))
                sent_ns.append(connection.started_ns)
                due += interval_ns
            wait_s = (due - time.monotonic_ns()) / 1e9 if len(sent_ns) < total else 0.2
            for fd in streams.poll(max(wait_s, 0)):
                connection = senders[fd]
                if connection.receive():
                    result.posts_ms.append((time.monotonic_ns() - connection.started_ns) / 1e6)
                    if connection.status != 201:
                        result.faults.append(f"a send got {connection.status}: {connection.body[-200:]!r}")
                    idle.append(connection)
        _account(result, streams, listening, sent_ns, warm_up)
    finally:
        gc.enable()
        for connection in senders.values():
            connection.socket.close()
        streams.close()
    return result


def _account(
    result: Fanout, streams: Streams, listening: list[tuple[Stream, int]], sent_ns: list[int], warm_up: int
) -> None:
    """Parses what was kept, waits up to 10 s for what is missing, and checks seq by seq."""
    total, end = len(sent_ns), time.monotonic() + 10
    seen = [0] * len(listening)
    while True:
        for index, (stream, last_seq) in enumerate(listening):
            for stamp, event in stream.take():
                if event.kind != "message":
                    continue
                seen[index] += 1
                if event.seq != last_seq + seen[index] or event.id is None:
                    result.faults.append(
                        f"seq {event.seq} (id {event.id}) where {last_seq + seen[index]} was due"
                    )
                found = NUMBER.search(event.data)
                number = int(found[1]) if found else -1
                if warm_up <= number < total - 1:
                    result.latencies_ms.append((stamp - sent_ns[number]) / 1e6)
        if all(count >= total for count in seen) or time.monotonic() > end:
            break
        streams.poll(0.2)
    missing = sum(total - count for count in seen)
    if missing:
        result.faults.append(f"{missing} of {total * len(listening)} events never came")
