"""A client of the API that comes back by itself: requests, streams, and sends that are repeated until they are in.

What tests, load scripts and `bobbin verify` use. It imports nothing of the server: copy it, with httpx and websockets.

    async with Client("https://chat.example.org") as client:
        await client.login(username="ada", password="…")
        await client.send(7, "Hello")
        async with client.follow(7, since=cursor) as events:
            async for event in events:
                ...

Nothing in it grows: what nobody takes stays in the socket, and whoever sends waits for the answer.
"""

import asyncio
import contextlib
import itertools
import json
import random
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0  # pauses between tries
ANSWER_SECONDS = 20.0  # for the answer to a request
SILENCE_SECONDS = 40.0  # a stream says something every 15 s; one that is silent for so long is dead
HERE = ("localhost", "127.0.0.1", "[::1]")
CLOSE_SECONDS = 2.0  # for the goodbyes of a WebSocket


class Refused(Exception):
    """The server said no. `passing`: the same may be asked again later. status: 0 for a frame of a WebSocket."""

    def __init__(self, status: int, code: str, message: str, retry_s: float | None = None) -> None:
        super().__init__(f"{status or 'frame'} {code}: {message}")
        self.status, self.code, self.retry_s = status, code, retry_s
        self.passing = status == 429 or status >= 500 or code == "internal_error" or retry_s is not None


class Away(Exception):
    """There was no answer, or the stream broke off. What was asked may have been done."""

    retry_s: float | None = None
    passing = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A success. status: 0 over a WebSocket. seconds: that it took; tries: how often it was asked until then."""

    status: int
    data: Any
    seconds: float
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One event. id: the cursor of whoever has read up to it; None where nothing durable is told."""

    kind: str
    data: Any
    id: str | None = None


class Pace:
    """Pauses between tries: each twice as long, with jitter, for many clients come back at once."""

    def __init__(self, first_s: float | None = None) -> None:
        """first_s: instead of what the server proposes (`retry:`)."""
        self._fixed, self._first_s, self._tries = first_s is not None, first_s or FIRST_SECONDS, 0

    def propose(self, retry_ms: int) -> None:
        """What the server would like the first pause to be."""
        if not self._fixed:
            self._first_s = min(retry_ms / 1000, LONGEST_SECONDS)

    def well(self) -> None:
        """It worked: the next pause is a first one."""
        self._tries = 0

    def next_s(self, at_least: float | None = None) -> float:
        """Seconds before the next try. at_least: Retry-After."""
        top = min(LONGEST_SECONDS, self._first_s * 2**self._tries)
        self._tries = min(self._tries + 1, 10)
        return max(at_least or 0.0, random.uniform(top / 2, top))

    async def pause(self, error: "Refused | Away") -> None:
        """Wait, if the same may be asked again; else raise what was the matter."""
        if not error.passing:
            raise error
        await asyncio.sleep(self.next_s(error.retry_s))


class Parser:
    """text/event-stream, piece by piece. Lines end at \\n or \\r\\n, and nowhere else."""

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._rest = b""

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are whole up to here."""
        whole = (self._rest + piece).replace(b"\r\n", b"\n")
        *blocks, self._rest = whole.split(b"\n\n")
        return [event for block in blocks if (event := self._event(block)) is not None]

    def _event(self, block: bytes) -> Event | None:
        kind, data, id_ = "message", list[bytes](), None
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value.decode()
            elif name == b"id":
                id_ = value.decode()
            elif name == b"retry" and value.isdigit():
                self.retry_ms = int(value)
        return Event(kind, json.loads(b"\n".join(data)), id_) if data else None


class Client:
    """One person of one server."""

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        first_s: float | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """token: an API key, or nothing, and then register or log in. first_s: the first pause between tries.
        http: another client's, to share its connections."""
        self.url, self.token, self.first_s = url.rstrip("/"), token, first_s
        self.user: dict[str, Any] = {}
        self._refresh_token = ""
        self._credentials: dict[str, str] = {}
        self._renewing = asyncio.Lock()
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._own = http is None
        self.http = http or connections()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections."""
        if self._own:
            await self.http.aclose()

    # -- who one is

    async def register(self, *, email: str, name: str, password: str, **more: str) -> None:
        """A new account, signed in."""
        await self._sign_in("register", {"email": email, "name": name, "password": password, **more})
        self._credentials = {"email": email, "password": password}

    async def login(self, **credentials: str) -> None:
        """With password, and email or username. They are kept until the end of the client: see renew."""
        await self._sign_in("login", credentials)
        self._credentials = credentials

    async def _sign_in(self, how: str, body: dict[str, str]) -> None:
        answer = await self.once("POST", f"/api/auth/{how}", body)
        self.user, self.token = answer.data["user"], answer.data["accessToken"]
        self._refresh_token = answer.data["refreshToken"]

    async def renew(self, spent: str) -> None:
        """Another token for one that is over; once, however many ask for it.

        A refresh token is good once: when the answer was lost, the next one is refused. Then the password helps.
        """
        async with self._renewing:
            if self.token != spent:
                return
            try:
                await self._sign_in("refresh", {"refreshToken": self._refresh_token})
            except Refused as error:
                if error.passing or not self._credentials:
                    raise
                await self._sign_in("login", self._credentials)

    @property
    def renewable(self) -> bool:
        """Whether there is a way to another token."""
        return bool(self._refresh_token)

    @property
    def headers(self) -> dict[str, str]:
        """What says who asks."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    # -- requests

    async def once(self, method: str, path: str, body: Any = None) -> Answer:
        """One request, whatever becomes of it. Raises Refused and Away."""
        began = time.monotonic()
        try:
            answer = await self.http.request(
                method, self.url + path, headers=self.headers, **({} if body is None else {"json": body})
            )
        except httpx.TransportError as error:
            raise Away(f"{type(error).__name__}: {error}") from error
        if not answer.is_success:
            raise refusal(answer.status_code, answer.headers, answer.content)
        data = json.loads(answer.content) if answer.content else None
        return Answer(answer.status_code, data, time.monotonic() - began)

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request; with a new token once more, when the old one is over."""
        token = self.token
        try:
            return await self.once(method, path, body)
        except Refused as error:
            if error.status != 401 or not self.renewable:
                raise
        await self.renew(token)
        return await self.once(method, path, body)

    async def insist(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask until there is an answer: for what may be done twice. Raises Refused for good."""
        return await until_answered(lambda: self.ask(method, path, body), Pace(self.first_s))

    async def send(self, thread_id: int, text: str, *, client_id: str | None = None, **more: Any) -> Answer:
        """Send once, whatever happens on the way: repeated under its client id until it is acknowledged.

        Sends to one thread go one after the other, in the order in which they were called.
        """
        body = {"text": text, "clientId": client_id or uuid.uuid4().hex, **more}
        async with self.turn(thread_id):
            return await self.insist("POST", f"/api/threads/{thread_id}/messages", body)

    def turn(self, thread_id: int) -> asyncio.Lock:
        """Who sends to a thread holds it, first come, first served."""
        return self._turns.setdefault(thread_id, asyncio.Lock())

    # -- streams

    def follow(self, thread_id: int, *, since: str | None = None) -> "Follow":
        """The events of a thread, from a cursor on, or from now on."""
        return Follow(self, f"/api/threads/{thread_id}/stream", since)

    def feed(self, *, since: str | None = None) -> "Follow":
        """The user stream: what happens in all my threads."""
        return Follow(self, "/api/stream", since)

    def socket(self, *, feed: bool = False, since: str | None = None) -> "Socket":
        """A WebSocket, for many threads and for sending. feed: the user stream too, from a cursor on or from now on."""
        return Socket(self, feed=feed, since=since)


async def until_answered(ask: Callable[[], Awaitable[Answer]], pace: Pace) -> Answer:
    """Ask again and again."""
    tries = 0
    while True:
        tries += 1
        try:
            return replace(await ask(), tries=tries)
        except (Refused, Away) as error:
            await pace.pause(error)


def connections() -> httpx.AsyncClient:
    """No cookies, for tokens say who asks; one for each stream; and no proxy between us and this machine."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(ANSWER_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        mounts={f"all://{host}": None for host in HERE},
    )


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """What an error says; something between us and the server may speak otherwise."""
    try:
        said = json.loads(body)
        code, message = str(said["code"]), str(said["error"])
    except (ValueError, KeyError, TypeError):
        code, message = "unknown", body[:200].decode(errors="replace")
    after = headers.get("retry-after", "")
    return Refused(status, code, message, float(after) if re.fullmatch("[0-9]+", after) else None)


class Follow:
    """A stream that goes on over any number of connections, each from `cursor` on.

    `cursor` is the id of the last event that was handed out with one. Leave the loop and enter it again, now or
    after a restart of your program: nothing is skipped. Events are handed out as they come, `ready` and `resync`
    too (then fetch afresh). Raises Refused when the stream is over for good: left, removed, deleted, signed out.
    """

    def __init__(self, client: Client, path: str, since: str | None) -> None:
        self.cursor, self.connections = since, 0
        self._client, self._path = client, path
        self._pace = Pace(client.first_s)
        self._waiting: deque[Event] = deque()
        self._answer: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._parser = Parser()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            try:
                await self._read()
            except (Refused, Away) as error:
                await self._pace.pause(error)
        event = self._waiting.popleft()
        self.cursor = event.id or self.cursor
        return event

    async def open(self) -> None:
        """Connect now, once. Raises Refused and Away."""
        try:
            await self._connect()
        except httpx.TransportError as error:
            raise Away(f"{type(error).__name__}: {error}") from error

    async def drop(self) -> None:
        """Hang up. What was not handed out comes again with the next connection."""
        answer, self._answer, self._pieces = self._answer, None, None
        self._waiting.clear()
        self._parser = Parser()
        if answer is not None:
            await answer.aclose()

    async def _read(self) -> None:
        """The next events there are, on a new connection if need be."""
        try:
            if self._pieces is None:
                await self._connect()
            assert self._pieces is not None
            piece = await anext(self._pieces, b"")
        except httpx.TransportError as error:
            await self.drop()
            raise Away(f"{type(error).__name__}: {error}") from error
        except BaseException:
            await self.drop()
            raise
        if not piece:
            await self.drop()
            raise Away("the stream has ended")
        self._waiting.extend(self._parser.feed(piece))
        if self._parser.retry_ms is not None:
            self._pace.propose(self._parser.retry_ms)
        if self._waiting:
            self._pace.well()

    async def _connect(self) -> None:
        client, token = self._client, self._client.token
        headers = client.headers | ({"Last-Event-ID": self.cursor} if self.cursor else {})
        times = httpx.Timeout(ANSWER_SECONDS, read=SILENCE_SECONDS)
        request = client.http.build_request("GET", client.url + self._path, headers=headers, timeout=times)
        self._answer = await client.http.send(request, stream=True)
        if not self._answer.is_success:
            answer = self._answer
            error = refusal(answer.status_code, answer.headers, await answer.aread())
            await self.drop()
            if error.status != 401 or not client.renewable:
                raise error
            await client.renew(token)
            raise Away("the token was over")
        self.connections += 1
        self._pieces = self._answer.aiter_bytes()


class Socket:
    """A WebSocket that goes on, as Follow does: threads are joined again where one stood, and sends repeated.

    Whoever iterates reads for all: sends are answered while somebody does, and only then. `cursors` are the joined
    threads, each with the id of the last event of it that was handed out; `cursor` is that of the user stream.
    """

    def __init__(self, client: Client, *, feed: bool, since: str | None) -> None:
        self.cursors: dict[int, str | None] = {}
        self.cursor, self.connections = since, 0
        self._feed = feed
        self._client = client
        self._pace = Pace(client.first_s)
        self._connection: ClientConnection | None = None
        self._up = asyncio.Event()  # connected, or over
        self._over: Refused | None = None
        self._refs = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}  # by ref

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()
        await self.drop()

    async def open(self) -> None:
        """Connect now, once. Raises Refused and Away."""
        await self._connect()

    # -- reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            try:
                event = await self._read()
            except (Refused, Away) as error:
                if isinstance(error, Refused) and not error.passing:
                    self._over = error
                    self._up.set()
                await self._pace.pause(error)
            else:
                if event is not None:
                    return event

    async def drop(self) -> None:
        """Hang up without a word. What was not handed out comes again with the next connection."""
        connection, self._connection = self._connection, None
        self._up.clear()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(Away("the connection is gone"))
        if connection is not None:
            connection.transport.abort()
            await connection.wait_closed()

    async def _read(self) -> Event | None:
        """The next frame, on a new connection if need be; None when it was an answer."""
        connection = self._connection or await self._connect()
        try:
            frame = json.loads(await connection.recv())
        except ConnectionClosed as error:
            await self.drop()
            if error.rcvd is not None and (said := re.fullmatch(r"retry in (\d+) ms", error.rcvd.reason)):
                self._pace.propose(int(said[1]))
            raise Away(str(error)) from error
        self._pace.well()
        event = Event(frame["event"], frame["data"], frame.get("id"))
        match frame.get("ref"):
            case int(ref):
                self._answered(ref, event)
                return None
            case str(ref):
                return await self._entered(int(ref), event)
        thread_id = event.data.get("threadId")
        if event.kind == "left":
            self.cursors.pop(thread_id, None)
        elif event.id is not None and thread_id is None:
            self.cursor = event.id
        elif event.id is not None and thread_id in self.cursors:
            self.cursors[thread_id] = event.id
        return event

    async def _connect(self) -> ClientConnection:
        client, token = self._client, self._client.token
        query = ""
        if not self._feed:
            query = "?feed=off"
        elif self.cursor:
            query = f"?lastEventId={self.cursor}"
        try:
            connection = await connect(
                f"ws{client.url.removeprefix('http')}/api/ws{query}",
                additional_headers=client.headers,
                compression=None,
                open_timeout=ANSWER_SECONDS,
                close_timeout=CLOSE_SECONDS,
                ping_timeout=SILENCE_SECONDS,
                proxy=None if httpx.URL(client.url).host in HERE else True,
            )
            self._connection = connection
            for thread_id, since in self.cursors.items():
                await self._join(connection, thread_id, since)
        except InvalidStatus as error:
            answer = error.response
            refused = refusal(answer.status_code, answer.headers, bytes(answer.body or b""))
            if refused.status != 401 or not client.renewable:
                raise refused from error
            await client.renew(token)
            raise Away("the token was over") from error
        except (OSError, TimeoutError, WebSocketException) as error:
            await self.drop()
            raise Away(f"{type(error).__name__}: {error}") from error
        self.connections += 1
        self._up.set()
        return connection

    async def _join(self, connection: ClientConnection, thread_id: int, since: str | None) -> None:
        data = {"threadId": thread_id} | ({"since": since} if since else {})
        await connection.send(json.dumps({"event": "join", "data": data, "ref": str(thread_id)}))

    async def _entered(self, thread_id: int, event: Event) -> Event | None:
        """The answer to a join: `joined` follows it. Where one may not be, it is as if one had left."""
        if event.kind != "error":
            return None
        error = frame_refusal(event)
        if error.passing:
            await self.drop()
            raise error
        self.cursors.pop(thread_id, None)
        return Event("left", {"threadId": thread_id, "reason": error.code})

    # -- asking

    async def join(self, thread_id: int, *, since: str | None = None) -> None:
        """Follow a thread, from a cursor on, or from now on. What comes of it is told: `joined`, or `left`."""
        self.cursors[thread_id] = since
        if self._connection is not None:
            with contextlib.suppress(ConnectionClosed):  # then it is joined with the next connection
                await self._join(self._connection, thread_id, since)

    async def leave(self, thread_id: int) -> None:
        """No longer."""
        del self.cursors[thread_id]
        await self.ask("leave", {"threadId": thread_id})

    async def send(self, thread_id: int, text: str, *, client_id: str | None = None, **more: Any) -> Answer:
        """As Client.send, and in one queue with it."""
        body = {"threadId": thread_id, "text": text, "clientId": client_id or uuid.uuid4().hex, **more}
        async with self._client.turn(thread_id):
            return await until_answered(lambda: self.ask("send", body), Pace(self._client.first_s))

    async def ask(self, event: str, data: Any) -> Answer:
        """One frame and its answer. Raises Refused and Away."""
        await self._up.wait()
        if self._over is not None:
            raise self._over
        if self._connection is None:
            raise Away("the connection is gone")
        ref, answer = next(self._refs), asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda it: it.cancelled() or it.exception())  # who asked may be gone by then
        self._asked[ref] = answer
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._connection.send(json.dumps({"event": event, "data": data, "ref": ref}))
                return Answer(0, await answer, time.monotonic() - began)
        except (ConnectionClosed, TimeoutError) as error:
            raise Away(f"{type(error).__name__}: {error}") from error
        finally:
            del self._asked[ref]

    def _answered(self, ref: int, event: Event) -> None:
        waiting = self._asked.get(ref)
        if waiting is None or waiting.done():
            return  # who asked has given up
        if event.kind == "error":
            waiting.set_exception(frame_refusal(event))
        else:
            waiting.set_result(event.data)


def frame_refusal(event: Event) -> Refused:
    """What the answer `error` to a frame says."""
    return Refused(0, event.data["code"], event.data["message"], event.data.get("retryAfter"))
