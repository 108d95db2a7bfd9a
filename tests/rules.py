"""What holds of every refusal and of every log, whatever was asked."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx

from server.base.front import SECURITY
from server.base.http import required
from server.routes import Route
from tests.client import LIMIT_SECONDS, Api, Reply
from tests.conftest import Cast


def url_of(route: Route, cast: Cast, **places: Any) -> str:
    """The path of a route, filled in with what is there (set_up): the team, ben in it, its first message."""
    url = route.path
    ours = {
        "thread_id": cast.team,
        "member_id": cast.ben.id,
        "other_id": cast.mallory.id,
        "user_id": cast.mallory.id,
        "seq": 1,
        "session_id": cast.ada.session_id,
        "emoji": "%F0%9F%91%8D",
        "contact_id": cast.carla.id,
        "conversation_id": cast.carla.thread,
    }
    for name in route.places:
        url = re.sub(rf"<{name}:\w+>", str((ours | places).get(name, 1)), url)
    return url


def asked_of(route: Route) -> str:
    """The query string that a route must have."""
    wanted = required(route.query) if route.query is not None else ()
    return "".join(f"?{name}=word" for name in wanted)


async def set_up(api: Api, cast: Cast) -> None:
    """What url_of leads to: ada has said something, and has blocked mallory."""
    await api.say(cast.team, cast.ada, "first")
    ok(await api.ask("PUT", f"/api/me/blocks/{cast.mallory.id}", as_=cast.ada), 204)


def refused(reply: Reply, status: int, code: str | None = None) -> Any:
    """The body of an error of this status: it has the one shape of all errors."""
    assert reply.status == status, (reply.status, reply.body[:300])
    return an_error(reply, code)


def secured(reply: Reply) -> None:
    """It has all the headers that every answer has, each once; and nothing tells what serves."""
    for name, value in SECURITY.items():
        given = reply.headers.get_list(name)
        if name == "Content-Security-Policy" and reply.headers.get("content-type", "").startswith(
            "text/html"
        ):
            assert len(given) == 1 and given[0].startswith("default-src 'none'"), given
        else:
            assert given == [value], (name, given)
    assert "server" not in reply.headers


def an_error(reply: Reply, code: str | None = None) -> Any:
    """The same, of whatever status from 400 to 499."""
    assert 400 <= reply.status < 500, (reply.status, reply.body[:300])
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    secured(reply)
    body = reply.json
    assert set(body) - {"details"} == {"error", "code", "requestId"}, body
    assert isinstance(body["error"], str) and body["error"].endswith("."), body
    assert body["code"].replace("_", "").isalpha() and body["code"] == body["code"].lower(), body
    assert body["requestId"] == reply.headers["x-request-id"]
    assert isinstance(body.get("details", {}), dict)
    assert code is None or body["code"] == code, body
    for word in ("Traceback", "asyncpg", "sanic", "msgspec", "SELECT", "constraint", "/server/"):
        assert word not in reply.body.decode(), body  # nothing of the inside
    return body


def ok(reply: Reply, status: int = 200) -> Any:
    """The JSON of a success (None of a 204)."""
    assert reply.status == status, (reply.status, reply.body[:300])
    return reply.json if reply.body else None


async def dense(db: asyncpg.Pool, thread_id: int) -> int:
    """One snapshot of a thread: seqs and revs without gap, times that never fall. Its last seq.

    Of a thread that is archived in part, all this from the border on; and above it, what was before is accounted for.
    """
    row = await db.fetchrow(
        """
        SELECT h.last_seq, h.last_rev, h.message_count, h.last_message_at, h.archived_seq, h.log_floor,
            (SELECT coalesce(sum(a.living), 0) FROM archives a WHERE a.thread_id = h.thread_id) AS archived_living,
            (SELECT coalesce(sum(a.last_seq - a.first_seq + 1), 0) FROM archives a WHERE a.thread_id = h.thread_id)
                AS archived_count,
            (SELECT array_agg(seq ORDER BY seq) FROM messages WHERE thread_id = h.thread_id) AS seqs,
            (SELECT array_agg(created_at ORDER BY seq) FROM messages WHERE thread_id = h.thread_id) AS times,
            (SELECT count(*) FROM messages WHERE thread_id = h.thread_id AND deleted_at IS NULL) AS living,
            (SELECT array_agg(rev ORDER BY rev) FROM changes
             WHERE thread_id = h.thread_id AND rev > h.log_floor) AS revs,
            (SELECT array_agg(c.seq ORDER BY c.rev) FROM changes c
             WHERE c.thread_id = h.thread_id AND c.kind = 'message' AND c.rev > h.log_floor) AS told,
            (SELECT count(*) FROM messages m WHERE m.thread_id = h.thread_id AND m.rev > h.log_floor AND NOT EXISTS (
                SELECT FROM changes c WHERE c.thread_id = m.thread_id AND c.rev = m.rev AND c.seq = m.seq)) AS untold
        FROM thread_heads h WHERE h.thread_id = $1
        """,
        thread_id,
    )
    assert row is not None
    seqs, times, revs = row["seqs"] or [], row["times"] or [], row["revs"] or []
    assert seqs == list(range(row["archived_seq"] + 1, row["last_seq"] + 1))
    assert revs == list(range(row["log_floor"] + 1, row["last_rev"] + 1))
    told = row["told"] or []
    latest = seqs[len(seqs) - len(told) :] if row["log_floor"] else seqs
    assert told == latest, "a message was told out of order, twice or not at all"
    assert row["untold"] == 0, "the latest change of a message is not the change of its rev"
    assert times == sorted(times)
    assert row["last_message_at"] == (times[-1] if times else None)
    assert row["message_count"] == row["living"] + row["archived_living"]
    assert row["archived_count"] == row["archived_seq"]
    return int(row["last_seq"])


async def until(so: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Wait for something to be so, and return it."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not (found := await so()):
            await asyncio.sleep(0.005)
    assert found, what
    return found


async def waits_for_a_lock(db: asyncpg.Pool, block: str, *, count: int = 1) -> int:
    """Wait until so many statements of the server, as "messages.send", are held up by locks; a backend's pid."""
    pid = await until(
        lambda: db.fetchval(
            """SELECT min(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1 || '%'
               HAVING count(*) >= $2""",
            f"/* {block} */",
            count,
        ),
        f"{block} waits",
    )
    return int(pid)


async def raw(api: Api, sent: bytes) -> Reply:
    """The answer to these bytes on a connection of their own; status 0 when it is closed without one."""

    def talk() -> bytes:
        address = urlsplit(api.base)
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as conn:
            with contextlib.suppress(ConnectionError):  # refused before all of it was read
                conn.sendall(sent)
            heard = b""
            while b"\r\n\r\n" not in heard or b"100 Continue" in heard[:30]:
                heard = heard.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
                if not (piece := conn.recv(65536)):
                    break
                heard += piece
            head, _, body = heard.partition(b"\r\n\r\n")
            wanted = next(
                (int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")), 0
            )
            while len(body) < wanted and (piece := conn.recv(65536)):
                body += piece
        return head + b"\r\n\r\n" + body if heard else b""

    answer = await asyncio.to_thread(talk)
    if not answer:
        return Reply(0, httpx.Headers(), b"")
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = httpx.Headers(
        [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    )
    return Reply(int(first.split()[1]), headers, body)
