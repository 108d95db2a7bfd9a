"""Writers that repeat what was not acknowledged and readers that come back: the clients of the fault tests."""

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Self

import httpx
import orjson

from tests.client import Api, Person
from tests.live import wire
from tests.live.wire import Frame, dial
from tests.ops.process import Bobbin

LIMIT_SECONDS = 40.0  # for what must come although something was killed
so = partial(wire.so, limit=LIMIT_SECONDS)


async def register(url: str, *names: str) -> list[Person]:
    """People who sign up as anybody does."""
    api = Api(url)
    try:
        found = []
        for name in names:
            body = {"email": f"{name}@example.com", "name": name, "password": "password123", "username": name}
            reply = await api.post("/api/auth/register", body)
            assert reply.status == 201, reply.body
            found.append(Person(reply.json["user"]["id"], name, reply.json["accessToken"]))
        return found
    finally:
        await api.close()


@dataclass
class Writer:
    """Sends one message after the other; each until it is acknowledged."""

    name: str
    who: Person
    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)  # by client id
    waits: list[float] = field(default_factory=list)  # seconds, of the answers
    faults: list[str] = field(default_factory=list)  # answers other than 2xx and 503


@dataclass
class Follower:
    """Reads a thread, and comes back with the last id whenever its stream ends."""

    who: Person
    since: str
    told: list[Frame] = field(default_factory=list)
    streams: int = 0

    @property
    def rev(self) -> int:
        return int(self.since.rpartition(".")[2])


class Crowd:
    """Some writers and readers of one thread of one server, which may be killed and started again meanwhile."""

    def __init__(
        self, server: Bobbin, thread_id: int, people: list[Person], *, writers: int, readers: int
    ) -> None:
        self.url, self.thread_id = server.url, thread_id
        self.writers = [Writer(f"w{n}", people[n % len(people)]) for n in range(writers)]
        self.readers = [Follower(people[n % len(people)], "") for n in range(readers)]
        self.paused = False
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        start = (await self.thread())["streamCursor"]
        for reader in self.readers:
            reader.since = start
        self._start = self.readers[0].rev
        self._tasks = [asyncio.ensure_future(self._read(reader)) for reader in self.readers]
        self._tasks += [asyncio.ensure_future(self._write(writer)) for writer in self.writers]
        await so(lambda: all(reader.streams for reader in self.readers), "all read")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def thread(self) -> Any:
        api = Api(self.url)
        try:
            return (await api.get(f"/api/threads/{self.thread_id}", as_=self.readers[0].who)).json["thread"]
        finally:
            await api.close()

    @property
    def acknowledged(self) -> int:
        return sum(len(writer.acknowledged) for writer in self.writers)

    async def more(self, count: int) -> None:
        """Until so many more messages have been acknowledged and told to everybody: all works again."""
        wanted = self.acknowledged + count
        await so(lambda: self.acknowledged >= wanted, lambda: f"{self.acknowledged} of {wanted} acknowledged")
        rev = max(message["rev"] for writer in self.writers for message in writer.acknowledged.values())
        await so(
            lambda: all(reader.rev >= rev for reader in self.readers),
            lambda: f"{[reader.rev for reader in self.readers]} of {rev}",
        )

    async def _write(self, writer: Writer) -> None:
        loop = asyncio.get_running_loop()
        path = f"/api/threads/{self.thread_id}/messages"
        headers = {"Authorization": f"Bearer {writer.who.token}"}
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            for number in itertools.count(1):
                body = {"text": f"{writer.name} {number}", "clientId": f"{writer.name}-{number}"}
                while body["clientId"] not in writer.acknowledged:
                    if self._stop:
                        return
                    began = loop.time()
                    try:
                        answer = await client.post(self.url + path, json=body, headers=headers)
                    except httpx.HTTPError:
                        await asyncio.sleep(0.02)
                        continue
                    writer.waits.append(loop.time() - began)
                    if answer.is_success:
                        writer.acknowledged[body["clientId"]] = answer.json()["message"] | {"at": loop.time()}
                    else:
                        if answer.status_code != 503:
                            writer.faults.append(f"{answer.status_code} {answer.text}")
                        await asyncio.sleep(0.02)

    async def _read(self, reader: Follower) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                line = await dial(self.url)
                try:
                    head = f"GET /api/threads/{self.thread_id}/stream HTTP/1.1\r\nHost: x\r\nLast-Event-ID: "
                    await line.request(
                        f"{head}{reader.since}\r\nAuthorization: Bearer {reader.who.token}\r\n\r\n"
                    )
                    if line.status == 200:
                        reader.streams += 1
                        while (frame := await line.next(limit=LIMIT_SECONDS)) is not None:
                            if frame.event == "ready":
                                assert frame.id == reader.since
                            else:
                                reader.told.append(frame)
                            assert frame.id is not None
                            reader.since = frame.id
                finally:
                    line.cut()
            await asyncio.sleep(0.02)

    async def prove(self) -> None:
        """Nothing acknowledged is lost, nothing is there twice, and every reader was told all of it in order."""
        self._stop = True
        await asyncio.gather(*(task for task in self._tasks[len(self.readers) :]))
        thread = await self.thread()
        await so(
            lambda: all(reader.rev >= thread["lastRev"] for reader in self.readers),
            lambda: f"{[reader.rev for reader in self.readers]} of {thread['lastRev']}",
        )
        expected = list(range(self._start + 1, thread["lastRev"] + 1))
        assert len(expected) >= 20
        messages = await self.messages()
        assert [message["seq"] for message in messages] == list(range(1, thread["lastSeq"] + 1))
        times = [datetime.fromisoformat(message["createdAt"]) for message in messages]
        assert times == sorted(times)
        ids = [message["clientId"] for message in messages]
        assert len(set(ids)) == len(ids)
        by_id = {message["clientId"]: message for message in messages}
        for writer in self.writers:
            assert writer.faults == []
            for client_id, message in writer.acknowledged.items():
                there = by_id[client_id]
                assert (there["seq"], there["text"]) == (message["seq"], message["text"])
            # A writer's own messages stand in the order in which it sent them.
            mine = [number for name, _, number in (id_.partition("-") for id_ in ids) if name == writer.name]
            assert mine == sorted(mine, key=int)
        for reader in self.readers:
            assert [frame.rev for frame in reader.told] == expected
            assert {frame.event for frame in reader.told} == {"message"}
            assert [frame.json for frame in reader.told] == messages

    async def messages(self) -> list[dict[str, Any]]:
        """The whole thread by its pages, in shared form."""
        api, found, cursor = Api(self.url), list[dict[str, Any]](), ""
        try:
            while True:
                reply = await api.get(
                    f"/api/threads/{self.thread_id}/messages?limit=100{cursor}", as_=self.readers[0].who
                )
                page = orjson.loads(reply.body)
                found += [{k: v for k, v in item.items() if k != "status"} for item in page["items"]]
                if page["nextCursor"] is None:
                    return found
                cursor = f"&cursor={page['nextCursor']}"
        finally:
            await api.close()
