"""How an event becomes bytes: as Server-Sent Events, or as WebSocket frames. Made once, whoever reads them.

What goes from a server to a client is not masked, and no extension is ever agreed on: so the very bytes
of a WebSocket frame are shared too.
"""

from typing import Protocol

import orjson


class Wire(Protocol):
    """One way of writing events."""

    heartbeat: bytes  # packed; nothing where the connection has a beat of its own

    def event(self, name: str, id_: str | None, data: bytes) -> bytes:
        """One event. Its id is the cursor of whoever has read up to it; what is not in the log has none."""

    def pack(self, frames: bytes) -> bytes:
        """Events, one after the other, as they go to the transport."""


class Sse:
    """text/event-stream in HTTP chunks."""

    heartbeat = b"3\r\n:\n\n\r\n"

    def event(self, name: str, id_: str | None, data: bytes) -> bytes:
        if id_ is None:
            return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (id_.encode(), name.encode(), data)

    def pack(self, frames: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(frames), frames)


class Ws:
    """A text frame for each: {"event", "id"?, "data"}."""

    heartbeat = b""

    def event(self, name: str, id_: str | None, data: bytes) -> bytes:
        if id_ is None:
            return text_frame(b'{"event":"%b","data":%b}' % (name.encode(), data))
        return text_frame(b'{"event":"%b","id":"%b","data":%b}' % (name.encode(), id_.encode(), data))

    def answer(self, name: str, data: bytes, ref: int | str | None) -> bytes:
        """What is said to a frame of the client."""
        if ref is None:
            return self.event(name, None, data)
        return text_frame(b'{"event":"%b","ref":%b,"data":%b}' % (name.encode(), orjson.dumps(ref), data))

    def pack(self, frames: bytes) -> bytes:
        return frames


def text_frame(payload: bytes) -> bytes:
    """A whole WebSocket message as a server sends it."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 2**16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


SSE, WS = Sse(), Ws()
