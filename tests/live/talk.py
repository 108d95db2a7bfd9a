"""A WebSocket client for tests: what is said and what is told, each event held to its declared shape."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.client import LIMIT_SECONDS, Person
from tests.conformity import frame_conforms
from tests.live.wire import connected


@dataclass(frozen=True)
class Told:
    """One frame of the server."""

    event: str
    data: Any
    id: str | None = None
    ref: int | str | None = None

    @property
    def rev(self) -> int:
        assert self.id is not None, self
        return int(self.id.rpartition(".")[2])


class Talk:
    """The client's end. Wait for frames with `next` and `until`; what else came meanwhile stays in order."""

    def __init__(self, line: ClientConnection) -> None:
        self.line = line
        self._refs = itertools.count(1)
        self._aside: list[Told] = []  # came before an answer that was waited for
        self.moment: list[Told] = []  # what is so at the moment and in no log, as it came

    async def say(self, event: str, data: Any = None, ref: int | str | None = None) -> None:
        """Without waiting for an answer."""
        frame = {"event": event} | ({"data": data} if data is not None else {})
        await self.line.send(orjson.dumps(frame | ({"ref": ref} if ref is not None else {})).decode())

    async def _came(self, limit: float = LIMIT_SECONDS) -> Told:
        async with asyncio.timeout(limit):
            while True:
                told = Told(**frame_conforms(await self.line.recv()))
                if told.event not in ("presence", "typing", "receipt"):
                    return told
                self.moment.append(told)

    async def next(self, *, limit: float = LIMIT_SECONDS) -> Told:
        """The next frame that is no answer which was waited for."""
        return self._aside.pop(0) if self._aside else await self._came(limit)

    async def ask(self, event: str, **data: Any) -> Told:
        """Say it, and wait for the answer, of whatever kind."""
        ref = next(self._refs)
        await self.say(event, data, ref)
        while True:
            told = await self._came()
            if told.ref == ref:
                return told
            self._aside.append(told)

    async def done(self, event: str, **data: Any) -> Any:
        """The same, where it succeeds: the data of the ack."""
        told = await self.ask(event, **data)
        assert told.event == "ack", told
        return told.data

    async def refused(self, code: str, event: str, **data: Any) -> Any:
        """The same, where it is refused."""
        told = await self.ask(event, **data)
        assert (told.event, told.data["code"]) == ("error", code), told
        assert told.data["message"].endswith(".")
        return told.data

    async def join(self, thread_id: int, since: str | None = None) -> Told:
        """The event `joined`."""
        await self.done("join", threadId=thread_id, **({"since": since} if since is not None else {}))
        told = await self.next()
        assert (told.event, told.data["threadId"]) == ("joined", thread_id), told
        return told

    async def until(self, rev: int) -> list[Told]:
        """All events up to the one with this rev."""
        found: list[Told] = []
        while not found or found[-1].rev < rev:
            found.append(await self.next())
        return found

    async def closed(self, limit: float = LIMIT_SECONDS) -> tuple[int | None, str]:
        """The code and the reason with which the server closes; what it tells before is dropped."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(limit):
                while True:
                    await self.line.recv()
        rcvd = self.line.protocol.close_rcvd
        return (rcvd.code, rcvd.reason) if rcvd is not None else (None, "")

    def cut(self) -> None:
        """Go away without a word."""
        self.line.transport.abort()


@contextlib.asynccontextmanager
async def talk(
    base: str,
    who: Person | None,
    *,
    query: str = "?feed=off",
    receive_bytes: int | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Talk]:
    """A connection as somebody. With receive_bytes it takes in little while nobody reads."""
    sock = await connected(base, receive_bytes)
    shown = {"Authorization": f"Bearer {who.token}"} if who is not None else {}
    async with connect(
        f"ws{base.removeprefix('http')}/api/ws{query}", sock=sock, additional_headers=shown | (headers or {}),
        proxy=None, open_timeout=LIMIT_SECONDS, close_timeout=2, max_size=None,
        max_queue=4 if receive_bytes else None, ping_interval=None,
    ) as line:  # fmt: skip
        yield Talk(line)
