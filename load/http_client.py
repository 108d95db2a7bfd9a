"""HTTP/1.1 for measuring: prebuilt request bytes over keep-alive sockets, one thread, one epoll.

An answer is read by its content-length and its status; nothing else is looked at. That costs about
a tenth of what a full client costs, and on two cores the generator's CPU is taken from the server.
"""

import gc
import http.client
import json
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Address = tuple[str, int]


def address_of(url: str) -> Address:
    """Host and port of http://host:port."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"not a plain http URL: {url}")
    return parts.hostname, parts.port or 80


def request_bytes(
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> bytes:
    """A whole request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def header_end(data: bytes) -> int:
    """Where the body begins, or -1 while the head is not whole."""
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1


def content_length(head: bytes) -> int:
    """The announced length of the body; a 204 has none. ValueError when none is announced."""
    if head.startswith(b"HTTP/1.1 204 "):
        return 0
    at = head.find(b"content-length:")
    if at < 0:
        at = head.lower().find(b"content-length:")
    if at < 0:
        raise ValueError(f"an answer without content-length: {head[:200]!r}")
    return int(head[at + 15 : head.find(b"\r\n", at)])


class Connection:
    """One keep-alive socket with at most one request under way."""

    __slots__ = ("body", "got", "need", "socket", "started_ns", "status")

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.started_ns = 0
        self.need, self.got, self.status = -1, 0, 0
        self.body = b""  # what has come so far; only a short answer is whole in it

    def close(self) -> None:
        self.socket.close()

    def send(self, request: bytes) -> None:
        """The clock starts before the first byte is written."""
        self.need, self.got, self.body = -1, 0, b""
        self.started_ns = time.monotonic_ns()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Reads what is there; True when the answer is whole. ConnectionError when the server hung up."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server closed a connection in the middle")
        self.got += len(data)
        if self.need < 0:
            self.body += data
            end = header_end(self.body)
            if end < 0:
                return False
            self.status = int(self.body[9:12])
            self.need = end + content_length(self.body[:end])
        return self.got >= self.need


@dataclass
class Drive:
    """What a closed loop of requests gave."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    received_bytes: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds if self.seconds else 0.0


def drive(address: Address, requests: Callable[[], bytes], *, connections: int, seconds: float) -> Drive:
    """Each connection sends the next request as soon as its answer is whole, for `seconds`.

    The first quarter second is not counted: connections and caches of the server warm up in it.
    """
    result, epoll = Drive(), select.epoll()
    open_now = {}
    gc.disable()
    try:
        for _ in range(connections):
            connection = Connection(address)
            open_now[connection.socket.fileno()] = connection
            epoll.register(connection.socket.fileno(), select.EPOLLIN)
            connection.send(requests())
        start = time.monotonic_ns() + 250_000_000
        end = start + int(seconds * 1e9)
        now = 0
        while now < end:
            ready = epoll.poll(5, 64)
            if not ready:
                raise TimeoutError("no answer within 5 s")
            for fd, _ in ready:
                connection = open_now[fd]
                if not connection.receive():
                    continue
                now = time.monotonic_ns()
                if start <= now < end:
                    result.latencies_ms.append((now - connection.started_ns) / 1e6)
                    result.statuses[connection.status] += 1
                    result.received_bytes += connection.got
                if now < end:
                    connection.send(requests())
        result.seconds = seconds
    finally:
        gc.enable()
        epoll.close()
        for connection in open_now.values():
            connection.socket.close()
    return result


def paced(
    address: Address, requests: Callable[[], bytes], *, per_second: float, connections: int, seconds: float
) -> Drive:
    """So many requests a second, whatever the answers do: an open loop.

    The clock of one that finds all connections busy starts when it was due. The first half second is not counted.
    """
    result, epoll = Drive(), select.epoll()
    by_fd = {one.socket.fileno(): one for one in (Connection(address) for _ in range(connections))}
    free = list(by_fd.values())
    for fd in by_fd:
        epoll.register(fd, select.EPOLLIN)
    gc.disable()
    try:
        begun = time.monotonic_ns()
        counted, total, sent = begun + 500_000_000, int((seconds + 0.5) * per_second), 0
        while sent < total or len(free) < connections:
            now = time.monotonic_ns()
            due = begun + int(sent / per_second * 1e9)
            while sent < total and due <= now and free:
                connection = free.pop()
                connection.send(requests())
                if now - due > 2_000_000:  # it waited for a connection, not for the loop
                    connection.started_ns = due
                sent += 1
                due = begun + int(sent / per_second * 1e9)
            wait = max(due - time.monotonic_ns(), 0) / 1e9 if sent < total and free else 5.0
            ready = epoll.poll(wait, 64)
            if not ready and wait == 5.0:
                raise TimeoutError("no answer within 5 s")
            for fd, _ in ready:
                connection = by_fd[fd]
                if connection.receive():
                    free.append(connection)
                    if connection.started_ns >= counted:
                        result.latencies_ms.append((time.monotonic_ns() - connection.started_ns) / 1e6)
                        result.statuses[connection.status] += 1
        result.seconds = seconds
    finally:
        gc.enable()
        epoll.close()
        for connection in by_fd.values():
            connection.close()
    return result


class Api:
    """Calls for preparing: one keep-alive connection, JSON in and out, one reconnect when it was dropped."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.address, self.token = address_of(url), token
        self._http = http.client.HTTPConnection(*self.address, timeout=60)

    def call(
        self, method: str, path: str, body: Any = None, *, expect: tuple[int, ...] = (200, 201, 204)
    ) -> Any:
        """The decoded answer; RuntimeError naming call, status and body when it is none of `expect`."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        payload = json.dumps(body) if body is not None else None
        try:
            self._http.request(method, path, payload, headers)
            answer = self._http.getresponse()
        except (http.client.HTTPException, ConnectionError):
            self._http.close()
            self._http.request(method, path, payload, headers)
            answer = self._http.getresponse()
        text = answer.read()
        if answer.status not in expect:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text else None

    def login(self, username: str, password: str = "password123") -> "Api":
        """Signs in and keeps the token (15 minutes)."""
        answer = self.call("POST", "/api/auth/login", {"username": username, "password": password})
        self.token = answer["accessToken"]
        return self
