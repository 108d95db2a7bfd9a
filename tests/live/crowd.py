"""Writers that repeat what was not acknowledged and readers that come back: the clients of the fault tests."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Self

from server.client import Client, Event, connections
from server.ops.evidence import rev_of
from tests.client import Api, Person
from tests.live import wire
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
    client: Client
    acknowledged: dict[str, dict[str, Any]] = field(default_factory=dict)  # by client id
    waits: list[float] = field(default_factory=list)  # seconds, of the answers


@dataclass(frozen=True)
class Told:
    """A durable event, and when it came, in seconds of the loop."""

    event: Event
    at: float

    @property
    def rev(self) -> int:
        return rev_of(str(self.event.id))


@dataclass
class Reader:
    """Reads a thread, and comes back with the last id whenever its stream ends."""

    client: Client
    since: str = ""
    told: list[Told] = field(default_factory=list)
    streams: int = 0

    @property
    def rev(self) -> int:
        return rev_of(self.since)


@dataclass
class Listener:
    """Follows all threads of somebody, likewise."""

    client: Client
    since: str = ""
    state: dict[str, Any] = field(default_factory=dict)  # of the thread, as it was told last
    seqs: list[int] = field(default_factory=list)  # of the messages that were told

    def hear(self, thread: dict[str, Any]) -> None:
        assert thread["lastRev"] >= self.state.get("lastRev", 0), "older than before"
        message = thread.pop("message", None)
        self.state = thread
        if message is not None:
            self.seqs.append(message["seq"])


class Crowd:
    """Some writers and readers of one thread of one server, which may be killed and started again meanwhile."""

    def __init__(
        self, server: Bobbin, thread_id: int, people: list[Person], *, writers: int, readers: int
    ) -> None:
        self._http, self._clients = connections(), list[Client]()
        self._url, self.thread_id = server.url, thread_id
        self.writers = [Writer(f"w{n}", self._client(people[n % len(people)])) for n in range(writers)]
        self.readers = [Reader(self._client(people[n % len(people)])) for n in range(readers)]
        self.listeners = [Listener(self._client(person)) for person in people]
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    def _client(self, who: Person) -> Client:
        self._clients.append(Client(self._url, token=who.token, first_s=0.03, http=self._http))
        return self._clients[-1]

    @property
    def url(self) -> str:
        """Where the server is; after a restart elsewhere."""
        return self._url

    @url.setter
    def url(self, url: str) -> None:
        self._url = url
        for client in self._clients:
            client.url = url

    async def __aenter__(self) -> Self:
        start = (await self.thread())["streamCursor"]
        for reader in self.readers:
            reader.since = start
        self._start = self.readers[0].rev
        for listener in self.listeners:
            listener.since = (await listener.client.insist("GET", "/api/threads")).data["streamCursor"]
        self._tasks = [asyncio.ensure_future(self._read(reader)) for reader in self.readers]
        self._tasks += [asyncio.ensure_future(self._listen(listener)) for listener in self.listeners]
        self._tasks += [asyncio.ensure_future(self._write(writer)) for writer in self.writers]
        await so(lambda: all(reader.streams for reader in self.readers), "all read")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def thread(self) -> Any:
        return (await self.readers[0].client.insist("GET", f"/api/threads/{self.thread_id}")).data["thread"]

    @property
    def acknowledged(self) -> int:
        return sum(len(writer.acknowledged) for writer in self.writers)

    async def more(self, count: int) -> None:
        """Until so many more messages have been acknowledged and told to everybody: all works again."""
        wanted = self.acknowledged + count
        await self._so(
            lambda: self.acknowledged >= wanted, lambda: f"{self.acknowledged} of {wanted} acknowledged"
        )
        rev = max(message["rev"] for writer in self.writers for message in writer.acknowledged.values())
        await self._level(rev)

    async def _level(self, rev: int) -> None:
        await self._so(
            lambda: all(reader.rev >= rev for reader in self.readers),
            lambda: f"{[reader.rev for reader in self.readers]} of {rev}",
        )

    async def _so(self, true: Callable[[], bool], what: Callable[[], str]) -> None:
        """Wait for something, as long as all are at work: who was refused, or asserted something, has ended."""

        def looked() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return true()

        await so(looked, what)

    async def _write(self, writer: Writer) -> None:
        loop = asyncio.get_running_loop()
        for number in itertools.count(1):
            text, client_id = f"{writer.name} {number}", f"{writer.name}-{number}"
            answer = await writer.client.send(self.thread_id, text, client_id=client_id)
            writer.waits.append(answer.seconds)
            writer.acknowledged[client_id] = answer.data["message"] | {"at": loop.time()}
            if self._stop:
                return

    async def _read(self, reader: Reader) -> None:
        async with reader.client.follow(self.thread_id, since=reader.since) as events:
            async for event in events:
                reader.streams = events.connections
                if event.kind == "ready":
                    assert event.id == reader.since
                elif event.id is not None:
                    reader.told.append(Told(event, asyncio.get_running_loop().time()))
                    reader.since = event.id

    async def _listen(self, listener: Listener) -> None:
        async with listener.client.feed(since=listener.since) as events:
            async for event in events:
                assert event.kind != "resync", "nothing is missing"
                if event.kind == "thread":
                    listener.hear(event.data)

    async def prove(self) -> None:
        """Nothing acknowledged is lost, nothing is there twice, and every reader was told all of it in order."""
        self._stop = True
        await asyncio.gather(*self._tasks[len(self.readers) + len(self.listeners) :])
        thread = await self.thread()
        await self._level(thread["lastRev"])
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
            for client_id, message in writer.acknowledged.items():
                there = by_id[client_id]
                assert (there["seq"], there["text"]) == (message["seq"], message["text"])
            # A writer's own messages stand in the order in which it sent them.
            mine = [number for name, _, number in (id_.partition("-") for id_ in ids) if name == writer.name]
            assert mine == sorted(mine, key=int)
        for listener in self.listeners:
            await self._so(
                lambda one=listener: one.state.get("lastRev", 0) >= thread["lastRev"],  # type: ignore[misc]
                lambda one=listener: f"{one.state.get('lastRev')} of {thread['lastRev']}",  # type: ignore[misc]
            )
            path = f"/api/threads/{self.thread_id}"
            assert listener.state == (await listener.client.insist("GET", path)).data["thread"]
            assert listener.seqs == sorted(set(listener.seqs)), "told twice, or in another order"
        for reader in self.readers:
            assert [told.rev for told in reader.told] == expected
            assert {told.event.kind for told in reader.told} == {"message"}
            assert [told.event.data for told in reader.told] == messages

    async def messages(self) -> list[dict[str, Any]]:
        """The whole thread by its pages, in shared form."""
        found, cursor = list[dict[str, Any]](), ""
        while True:
            path = f"/api/threads/{self.thread_id}/messages?limit=100{cursor}"
            page = (await self.readers[0].client.insist("GET", path)).data
            found += [{k: v for k, v in item.items() if k != "status"} for item in page["items"]]
            if page["nextCursor"] is None:
                return found
            cursor = f"&cursor={page['nextCursor']}"
