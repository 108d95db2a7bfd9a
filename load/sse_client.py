"""What comes over an SSE stream, parsed piece by piece. For the streams of load/streams.py and for Locust."""

import re
from dataclasses import dataclass

SEQ = re.compile(rb'"seq":(\d+)')  # the first one: a quote's seq comes after the message's own


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is None when it carried none."""

    kind: str
    data: bytes
    id: str | None

    @property
    def seq(self) -> int:
        """The seq of a message event, without parsing its JSON."""
        found = SEQ.search(self.data)
        if found is None:
            raise ValueError(f"no seq in {self.data[:200]!r}")
        return int(found[1])


class Dechunk:
    """HTTP/1.1 chunked coding, piece by piece. `done` once the last chunk has come."""

    def __init__(self) -> None:
        self.rest = b""
        self.done = False

    def feed(self, piece: bytes) -> bytes:
        """The content that is complete up to here; a half chunk waits for its end."""
        data, at, out = self.rest + piece if self.rest else piece, 0, []
        while not self.done:
            line = data.find(b"\r\n", at)
            if line < 0:
                break
            size = int(data[at:line].partition(b";")[0], 16)
            end = line + 2 + size
            if len(data) < end + 2:
                break
            out.append(data[line + 2 : end])
            at, self.done = end + 2, size == 0
        self.rest = data[at:]
        return b"".join(out)


class Parser:
    """text/event-stream with LF or CRLF lines, piece by piece. Comments are dropped, `retry` is kept."""

    def __init__(self) -> None:
        self.rest = b""
        self.retry_ms: int | None = None

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are complete up to here."""
        # A CR at the very end may be half a line end: it waits for its LF.
        data = self.rest + piece
        held = b"\r" if data.endswith(b"\r") else b""
        blocks = data[: len(data) - len(held)].replace(b"\r\n", b"\n").split(b"\n\n")
        self.rest = blocks.pop() + held
        return [event for block in blocks if (event := self._event(block)) is not None]

    def _event(self, block: bytes) -> Event | None:
        kind, data, event_id = "message", [], None
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value.decode()
            elif name == b"id":
                event_id = value.decode()
            elif name == b"retry" and value.isdigit():
                self.retry_ms = int(value)
        return Event(kind, b"\n".join(data), event_id) if data else None
