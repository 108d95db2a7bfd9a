"""What is acknowledged stays, and every reader is told all of it once and in order, whatever dies meanwhile.

Each test has a server of its own, as a user starts it: private Postgres and Valkey, two workers.
"""

import asyncio
import os
import shutil
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from server import messages
from server.live.hub import POLL_SECONDS
from server.ops.embedded import Postgres, remove
from tests.client import NUMBERS, Api, Person
from tests.conftest import SECRET, Backing, Cast
from tests.live.crowd import Crowd, register, so
from tests.live.wire import wire
from tests.ops.process import Bobbin, alive, family

Start = Callable[[], Bobbin]


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """One data folder for the module: a warm start is quick, and what one test leaves behind the next must stand."""
    path = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    path.chmod(0o711)
    yield path / "data"
    remove(path / "data")
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def start(data_dir: Path) -> Iterator[Start]:
    """Start the server on that folder, or return the one that runs."""
    started: list[Bobbin] = []

    def run() -> Bobbin:
        if not started or started[-1].process.poll() is not None:
            started.append(Bobbin(data_dir, BOBBIN_RATE_LIMITS="off", BOBBIN_DB_POOL="5"))
        return started[-1].ready()

    yield run
    if started[-1].process.poll() is None:
        assert started[-1].stop() == 0
    for server in started:
        problems = [event for event in server.events("problem") if event["level"] == "error"]
        assert not problems, problems[:3]  # an outage is a 503 to a client, never a 500
        assert "Traceback" not in server.said(), server.said()[-6000:]
        server.close()


@pytest.fixture
async def crowd(start: Start) -> AsyncIterator[Crowd]:
    """Four writers and six readers of a new thread, at work."""
    server = start()
    number = next(NUMBERS)
    ada, ben = await register(server.url, f"ada{number}", f"ben{number}")
    api = Api(server.url)
    thread_id = await api.thread(ada, ben)
    await api.close()
    async with Crowd(server, thread_id, [ada, ben], writers=4, readers=6) as crowd:
        await crowd.more(20)
        yield crowd


async def test_valkey_is_killed(crowd: Crowd, start: Start) -> None:
    server = start()
    back = len(server.events("valkey.back"))
    (pid,) = server.pids("valkey-server")
    os.kill(pid, signal.SIGKILL)
    await crowd.more(30)
    await so(lambda: len(server.events("valkey.back")) > back, "Valkey is back")
    await crowd.more(30)
    assert all(max(writer.waits) < 5 for writer in crowd.writers)  # nobody waited for it
    await crowd.prove()


async def test_valkey_falls_silent(crowd: Crowd, start: Start) -> None:
    """It hangs without closing anything; sends go on, and streams are no later than the poll."""
    server = start()
    lost = len(server.events("bus.lost"))
    (pid,) = server.pids("valkey-server")
    os.kill(pid, signal.SIGSTOP)
    try:
        before = crowd.acknowledged
        await crowd.more(30)
        await so(lambda: len(server.events("bus.lost")) >= lost + 2, "both workers have noticed")
        await crowd.more(30)
    finally:
        os.kill(pid, signal.SIGCONT)
    await crowd.more(30)
    await crowd.prove()
    acknowledged = {m["rev"]: m["at"] for writer in crowd.writers for m in writer.acknowledged.values()}
    late = [frame.at - acknowledged[frame.rev] for reader in crowd.readers for frame in reader.told]
    assert len(acknowledged) > before + 60
    assert max(late) < POLL_SECONDS + 2  # the poll's second, and a busy machine
    assert max(wait for writer in crowd.writers for wait in writer.waits) < 2


async def test_postgres_is_killed(crowd: Crowd, start: Start) -> None:
    server = start()
    back = len(server.events("postgres.back"))
    (pid,) = (pid for pid, line in family(server.pid).items() if "bin/postgres -D" in line)
    os.kill(pid, signal.SIGKILL)
    await so(lambda: len(server.events("postgres.back")) > back, "Postgres is back")
    await crowd.more(30)
    assert all(reader.streams == 1 for reader in crowd.readers)  # streams outlive it
    await crowd.prove()


async def test_a_backend_of_postgres_is_killed(crowd: Crowd, start: Start, data_dir: Path) -> None:
    """Postgres then ends every session and recovers."""
    backend = await asyncpg.connect(Postgres(data_dir).url())
    try:
        pid = await backend.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'bobbin%' AND datname = current_database()"
        )
        os.kill(pid, signal.SIGKILL)
        await crowd.more(30)
    finally:
        backend.terminate()
    await crowd.prove()


async def test_each_worker_is_killed(crowd: Crowd, start: Start) -> None:
    server = start()
    for pid in server.pids("server worker"):
        ready = len(server.events("worker.ready"))
        os.kill(pid, signal.SIGKILL)
        await crowd.more(20)
        await so(lambda r=ready: len(server.events("worker.ready")) > r, "a new one")  # type: ignore[misc]
        await crowd.more(20)
    assert sum(reader.streams for reader in crowd.readers) >= 2 * len(crowd.readers)
    await crowd.prove()


async def test_a_rolling_restart(crowd: Crowd, start: Start) -> None:
    server = start()
    before = server.pids("server worker")
    server.signal(signal.SIGHUP)
    await so(lambda: not set(before) & set(server.pids("server worker")), "all workers are new")
    await crowd.more(30)
    assert all(reader.streams >= 2 for reader in crowd.readers)  # each was sent away, and came back
    await crowd.prove()


async def test_the_server_is_stopped_and_started_again(crowd: Crowd, start: Start) -> None:
    server = start()
    server.signal(signal.SIGTERM)
    everyone = family(server.pid)
    assert await asyncio.to_thread(server.process.wait, 20) == 0
    await so(lambda: not any(map(alive, everyone)), "all of it ended")
    crowd.url = (await asyncio.to_thread(start)).url
    await crowd.more(30)
    await crowd.prove()


async def test_the_server_is_killed_and_started_again(crowd: Crowd, start: Start) -> None:
    server = start()
    everyone = family(server.pid)
    assert len(everyone) > 8
    server.signal(signal.SIGKILL)
    await asyncio.to_thread(server.process.wait, 20)
    await so(lambda: not any(map(alive, everyone)), "nothing of it is left running")
    crowd.url = (await asyncio.to_thread(start)).url
    await crowd.more(30)
    await crowd.prove()


# -- clients that go, doorbells that are lost: on the session's server


@dataclass(frozen=True)
class Post:
    """A send by hand, to be left before its answer."""

    address: str
    thread_id: int
    who: Person
    client_id: str

    @property
    def body(self) -> bytes:
        return b'{"text":"%b","clientId":"%b"}' % (self.client_id.encode(), self.client_id.encode())

    async def write(self) -> socket.socket:
        """On a connection of its own: the request is on its way."""
        line = httpx.URL(self.address)
        sock = socket.create_connection((line.host, line.port))
        head = f"POST /api/threads/{self.thread_id}/messages HTTP/1.1\r\nHost: x\r\n"
        head += f"Authorization: Bearer {self.who.token}\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body)
        return sock


def vanish(sock: socket.socket) -> None:
    """Without reading anything: the server's end gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def gone(server: Bobbin) -> int:
    """How many sends have lost their client."""
    return sum(
        event["status"] == 499 and event["route"] == "/api/threads/<thread_id:id>/messages"
        for event in server.events("request")
    )


async def test_a_client_that_goes_between_commit_and_doorbell_has_sent(
    api: Api, cast: Cast, server: Bobbin, address: str, db: asyncpg.Pool
) -> None:
    """The handler is cancelled while Postgres works; the message is there, and its doorbell rings."""
    late = []
    async with wire(address, cast.team, cast.ben) as stream:
        await stream.next()
        for number in range(7):
            post = Post(address, cast.team, cast.ada, f"gone-{number}")
            before = gone(server)
            async with db.acquire() as conn:
                async with conn.transaction():
                    await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
                    sock = await post.write()
                    await waiting(db)
                    vanish(sock)
                    await so(lambda b=before: gone(server) > b, "the handler is cancelled")  # type: ignore[misc]
                began = asyncio.get_running_loop().time()
            frame = await stream.next()
            assert frame is not None
            assert frame.json["text"] == post.client_id
            late.append(frame.at - began)
            assert (await api.post(path(cast), content_of(post), as_=cast.ada)).status == 200  # it is known
    assert statistics.median(late) < POLL_SECONDS / 4  # by the doorbell, not by the poll


def path(cast: Cast) -> str:
    return f"/api/threads/{cast.team}/messages"


def content_of(post: Post) -> dict[str, str]:
    return {"text": post.client_id, "clientId": post.client_id}


async def waiting(db: asyncpg.Pool) -> None:
    """Until a statement waits for a lock."""
    async with asyncio.timeout(10):
        while not await db.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.005)


async def test_a_client_that_goes_at_any_moment_has_sent_all_of_it_or_nothing(
    api: Api, cast: Cast, address: str
) -> None:
    async with wire(address, cast.team, cast.ben) as stream:
        await stream.next()
        posts = [Post(address, cast.team, cast.ada, f"any-{number}") for number in range(60)]
        for number, post in enumerate(posts):
            sock = await post.write()
            await asyncio.sleep(number % 6 / 2000)  # 0 to 2.5 ms, about what a send takes
            vanish(sock)
        answers = [await api.post(path(cast), content_of(post), as_=cast.ada) for post in posts]
        assert {answer.status for answer in answers} <= {200, 201}
        assert {answer.status for answer in answers} & {200}  # some were sent before their client went
        told = await stream.until(max(answer.json["message"]["rev"] for answer in answers))
    assert sorted(frame.json["clientId"] for frame in told) == sorted(post.client_id for post in posts)
    assert {frame.rev: frame.json for frame in told} == {
        answer.json["message"]["rev"]: answer.json["message"] for answer in answers
    }


async def test_what_nobody_rang_for_is_told_by_the_poll(cast: Cast, address: str, db: asyncpg.Pool) -> None:
    """As when a worker dies between the commit and the doorbell."""
    async with wire(address, cast.team, cast.ben) as stream:
        await stream.next()
        for number in range(2):
            row = await messages.send(
                db,
                user_id=cast.ada.id,
                thread_id=cast.team,
                text=f"silent {number}",
                reply_to=None,
                client_id=None,
                body_hash=b"",
                handles=[],
            )
            assert row is not None
            frame = await stream.next(limit=POLL_SECONDS + 4)
            assert frame is not None
            assert (frame.rev, frame.data) == (row["rev"], row["message"].encode())


async def test_without_redis_it_starts_says_so_and_serves(backing: Backing, template: str) -> None:
    await backing.drop("bobbin_without_redis")
    folder = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    bobbin = Bobbin(
        folder,
        DATABASE_URL=backing.url("bobbin_without_redis"),
        REDIS_URL="redis://127.0.0.1:1/0",
        JWT_SECRET=SECRET,
        BOBBIN_RATE_LIMITS="off",
        BOBBIN_DB_POOL="4",
    )
    try:
        await asyncio.to_thread(bobbin.ready)
        api = Api(bobbin.url)
        probe = await api.get("/readyz")
        assert (probe.status, probe.json["status"], probe.json["redis"]) == (200, "degraded", "away")
        ada, ben = await register(bobbin.url, "ada", "ben")
        thread_id = await api.thread(ada, ben)
        await api.close()
        async with Crowd(bobbin, thread_id, [ada, ben], writers=2, readers=4) as crowd:
            await crowd.more(40)
            began = time.monotonic()
            await crowd.more(40)
            assert time.monotonic() - began < 20
            await crowd.prove()
        assert bobbin.stop() == 0
        assert "Traceback" not in bobbin.said()
    finally:
        bobbin.close()
        shutil.rmtree(folder, ignore_errors=True)
