"""What tests talk to a server with: a small cast, requests as one of them, and streams."""

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx
import orjson

from tests.conformity import conforms, event_conforms, user_event_conforms

LIMIT_SECONDS = 20.0  # how long a test waits for something that must come


S = TypeVar("S", bound="Stream")


@dataclass(frozen=True)
class Person:
    """Somebody signed in."""

    id: int
    name: str
    token: str
    session_id: int = 0


@dataclass(frozen=True)
class Event:
    """One event of a stream."""

    id: str | None
    name: str
    data: Any


@dataclass
class Reply:
    """An answer: status, headers and the JSON, if it is JSON."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Api:
    """Requests to one server as somebody."""

    def __init__(self, base: str) -> None:
        self.base = base
        nothing = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # who is signed in, is said each time
        self._client = httpx.AsyncClient(
            base_url=base, timeout=LIMIT_SECONDS, trust_env=False, verify=False, cookies=nothing
        )

    async def close(self) -> None:
        await self._client.aclose()

    aclose = close  # for contextlib.aclosing

    async def ask(self, method: str, path: str, *, as_: Person | None = None, **more: Any) -> Reply:
        """Any request; json=, content=, headers= as httpx takes them."""
        headers = dict(more.pop("headers", {}))
        if as_ is not None:
            headers["Authorization"] = f"Bearer {as_.token}"
        answer = await self._client.request(method, path, headers=headers, **more)
        content_type = answer.headers.get("content-type", "")
        conforms(method, path, answer.status_code, content_type, answer.content)
        return Reply(answer.status_code, answer.headers, answer.content)

    async def get(self, path: str, *, as_: Person | None = None, **more: Any) -> Reply:
        return await self.ask("GET", path, as_=as_, **more)

    async def post(self, path: str, body: Any = None, *, as_: Person | None = None, **more: Any) -> Reply:
        return await self.ask("POST", path, as_=as_, **({"json": body} if body is not None else {}), **more)

    async def patch(self, path: str, body: Any, *, as_: Person | None = None) -> Reply:
        return await self.ask("PATCH", path, as_=as_, json=body)

    async def delete(self, path: str, *, as_: Person | None = None) -> Reply:
        return await self.ask("DELETE", path, as_=as_)

    async def say(self, thread_id: int, who: Person, text: str, **more: Any) -> Any:
        """Send a message; the message."""
        reply = await self.post(f"/api/threads/{thread_id}/messages", {"text": text, **more}, as_=who)
        assert reply.status in (200, 201), reply.body
        return reply.json["message"]

    async def thread(self, founder: Person, *others: Person, kind: str = "group", title: str = "Team") -> int:
        """A new thread with these people; its id."""
        body = {"kind": kind, "memberIds": [person.id for person in others]}
        reply = await self.post(
            "/api/threads", body | ({} if kind == "direct" else {"title": title}), as_=founder
        )
        assert reply.status == 201, reply.body
        return int(reply.json["thread"]["id"])

    @contextlib.asynccontextmanager
    async def stream(
        self, thread_id: int, who: Person, *, since: str | None = None
    ) -> AsyncIterator["Stream"]:
        """Follow a thread; `since` is a Last-Event-ID. The first event, ready, is awaited already."""
        async with self._follow(Stream, f"/api/threads/{thread_id}/stream", who, since) as stream:
            yield stream

    @contextlib.asynccontextmanager
    async def feed(self, who: Person, *, since: str | None = None) -> AsyncIterator["Feed"]:
        """The same of the user stream."""
        async with self._follow(Feed, "/api/stream", who, since) as stream:
            yield stream

    @contextlib.asynccontextmanager
    async def _follow(self, kind: type[S], url: str, who: Person, since: str | None) -> AsyncIterator[S]:
        headers = {"Authorization": f"Bearer {who.token}"} | ({"Last-Event-ID": since} if since else {})
        async with self._client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            stream = kind(answer)
            reading = asyncio.create_task(stream.read())
            try:
                stream.ready = await stream.next()
                assert stream.ready.name == "ready"
                yield stream
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


@dataclass
class Stream:
    """The events of a stream as they come. Wait for them with `next` and `until`; never by sleeping.

    Those of the log, that is; what is so at the moment and in no log is waited for with `told`.
    """

    answer: httpx.Response
    ready: Event = Event(None, "", None)
    seen: list[Event] = field(default_factory=list)
    comments: int = 0
    retry_ms: int | None = None
    _queue: "asyncio.Queue[Event | None]" = field(default_factory=asyncio.Queue)
    _told: "defaultdict[str, asyncio.Queue[Any]]" = field(default_factory=lambda: defaultdict(asyncio.Queue))

    def conforms(self, name: str, data: str) -> None:
        event_conforms(name, data)

    async def read(self) -> None:
        """Parse until the end of the stream, which is None in the queue."""
        fields: dict[str, str] = {}
        try:
            async for line in self.answer.aiter_lines():
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                else:
                    if "retry" in fields:
                        self.retry_ms = int(fields["retry"])
                    if "event" in fields:
                        self.conforms(fields["event"], fields["data"])
                        event = Event(fields.get("id"), fields["event"], orjson.loads(fields["data"]))
                        if event.id is None and event.name != "thread":
                            self._told[event.name].put_nowait(event.data)
                        else:
                            self.seen.append(event)
                            self._queue.put_nowait(event)
                    fields = {}
        except httpx.HTTPError:
            pass  # the server is gone; what it had sent is here
        finally:
            self._queue.put_nowait(None)

    async def next(self, *, limit: float = LIMIT_SECONDS) -> Event:
        """The next event. Fails when the stream ends or nothing comes."""
        async with asyncio.timeout(limit):
            event = await self._queue.get()
        assert event is not None, "the stream has ended"
        return event

    async def told(self, name: str, *, limit: float = LIMIT_SECONDS) -> Any:
        """The data of the next event of this name that is in no log."""
        async with asyncio.timeout(limit):
            return await self._told[name].get()

    def untold(self, name: str) -> bool:
        """Whether nothing of this name has come that has not been waited for."""
        return self._told[name].empty()

    async def take(self, count: int) -> list[Event]:
        """The next events, so many."""
        return [await self.next() for _ in range(count)]

    async def until(self, rev: int) -> list[Event]:
        """All events up to the one with this rev in its id."""
        found: list[Event] = []
        while not found or found[-1].id is None or int(found[-1].id.rpartition(".")[2]) < rev:
            found.append(await self.next())
        return found

    async def end(self) -> list[Event]:
        """The rest, up to the end of the stream, which must come."""
        rest: list[Event] = []
        async with asyncio.timeout(LIMIT_SECONDS):
            while (event := await self._queue.get()) is not None:
                rest.append(event)
        return rest

    @property
    def cursor(self) -> str:
        """Where a client that comes back goes on: the last id."""
        return next(event.id for event in reversed(self.seen) if event.id is not None)


class Feed(Stream):
    """The user stream."""

    def conforms(self, name: str, data: str) -> None:
        user_event_conforms(name, data)


NUMBERS = itertools.count(1)
PASSWORD = "correct horse battery"


def somebody(**more: Any) -> dict[str, Any]:
    """A registration that succeeds."""
    number = next(NUMBERS)
    body = {"email": f"user{number}@example.org", "name": f"User {number}", "password": PASSWORD}
    return {key: value for key, value in (body | more).items() if value is not None}
