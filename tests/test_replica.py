"""Reads from a streaming replica: taken there when it has what anybody can have seen, and right whatever it does.

The replica is real: a standby of a Postgres of its own, and a server with two workers on both.
"""

import ast
import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server import messages
from server.base import log
from server.base.db import ROOT, Connections, all_blocks, open_pool
from server.base.replica import Asked, Replica
from server.live import merged
from server.ops.embedded import Postgres, remove
from server.ops.migrate import migrate
from tests.client import NUMBERS, Api, Person
from tests.conftest import SECRET, Backing
from tests.live.crowd import register, so
from tests.ops.process import Bobbin, family
from tests.ops.standby import Standby

QUICK = {
    "fsync": "off",
    "shared_buffers": "32MB",
    "log_statement": "all",
}  # commits are flushed all the same, as replicas need it


@dataclass
class Pair:
    """A server, its primary and its replica."""

    bobbin: Bobbin
    primary: Postgres
    standby: Standby
    api: Api

    @contextlib.asynccontextmanager
    async def on(self, where: Postgres, database: str = "bobbin") -> AsyncIterator[asyncpg.Connection]:
        """A connection of a superuser."""
        conn = await asyncpg.connect(where.url(database))
        try:
            yield conn
        finally:
            await conn.close()

    def calls(self, where: Postgres, block: str) -> int:
        """How often a block of db/queries has been asked there, or all of those whose names begin so."""
        return len(re.findall(rf" execute \S+ /\* {re.escape(block)}", where.log.read_text(errors="replace")))

    async def do(self, where: Postgres, sql: str) -> None:
        async with self.on(where) as conn:
            await conn.execute(sql)

    def said(self, name: str) -> int:
        return len(self.bobbin.events(name))

    async def state(self) -> tuple[int, str, str]:
        """What one of the workers says of itself."""
        reply = await self.api.get("/readyz")
        return reply.status, reply.json["status"], reply.json["replica"]

    async def used(self) -> None:
        """Wait until both workers read from the replica."""

        async def often() -> bool:
            return all([await self.state() == (200, "ok", "ok") for _ in range(12)])

        await so_async(often, "the replica is read from")


async def so_async(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until it is so."""
    try:
        async with asyncio.timeout(30):
            while not await true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


async def reads_there(replica: Any) -> None:
    """Wait until a read is answered by the replica: on a busy machine it may not have come so far within 10 ms."""

    async def there() -> bool:
        return bool(await replica.fetchval(WHERE))

    await so_async(there, "the replica is read from")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for servers."""
    path = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    path.chmod(0o711)
    yield path
    for data_dir in path.iterdir():
        remove(data_dir)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
async def pair(folder: Path, backing: Backing) -> AsyncIterator[Pair]:
    primary = Postgres(folder / "primary", settings=QUICK)
    with primary, Standby(folder / "standby", primary, settings=QUICK) as standby:
        bobbin = Bobbin(
            folder / "server",
            DATABASE_URL=primary.url(),
            DATABASE_READ_URL=standby.url(),
            REDIS_URL=backing.redis_url,
            JWT_SECRET=SECRET,
            BOBBIN_RATE_LIMITS="off",
            BOBBIN_DB_POOL="4",
        ).ready()
        pair = Pair(bobbin, primary, standby, Api(bobbin.url))
        pair.api._client.headers["Connection"] = "close"  # each request to whichever worker takes it
        try:
            yield pair
            await pair.api.close()
            assert bobbin.stop() == 0
            problems = [event for event in bobbin.events("problem") if event["level"] == "error"]
            assert not problems, problems[:3]
            assert "Traceback" not in bobbin.said(), bobbin.said()[-4000:]
        finally:
            bobbin.close()


@dataclass(frozen=True)
class Cast:
    """ada (admin) and ben are in team; mallory is in nothing."""

    ada: Person
    ben: Person
    mallory: Person
    team: int


@pytest.fixture
async def cast(pair: Pair) -> Cast:
    """People of one's own, at a server that reads from its replica."""
    number = next(NUMBERS)
    names = [f"{name}{number}r" for name in ("ada", "ben", "mallory")]
    ada, ben, mallory = await register(pair.bobbin.url, *names)
    await pair.used()
    return Cast(ada, ben, mallory, await pair.api.thread(ada, ben))


async def texts(pair: Pair, thread_id: int, who: Person) -> list[str]:
    """Of the newest page."""
    reply = await pair.api.get(f"/api/threads/{thread_id}/messages?order=desc", as_=who)
    assert reply.status == 200, reply.body
    return [item["text"] for item in reply.json["items"]]


READS = {  # what is asked of the replica, and by which block
    "/api/threads": "threads.mine",
    "/api/threads/{}": "threads.get",
    "/api/channels": "threads.channels",
    "/api/threads/{}/messages": "messages.page_after",
    "/api/threads/{}/messages?order=desc": "messages.page_before",
    "/api/threads/{}/messages?around=2": "messages.window",
    "/api/threads/{}/messages?at=2026-01-01T00:00:00Z": "messages.seq_at",
    "/api/threads/{}/messages/1": "messages.get",
    "/api/threads/{}/messages/1/edits": "messages.edits",
    "/api/threads/{}/messages/1/receipts": "receipts.of_message",
    "/api/threads/{}/members": "members.list",
    "/api/threads/{}/pins": "pins.list",
    "/api/users?search=ada": "users.find",
}


@pytest.mark.parametrize("path", READS)
async def test_reads_go_to_the_replica(pair: Pair, cast: Cast, path: str) -> None:
    for n in range(3):
        await pair.api.say(cast.team, cast.ada, f"message {n}")
    block, failed = READS[path], pair.said("replica.failed")
    before = [pair.calls(where, block) for where in (pair.primary, pair.standby)]
    replies = [await pair.api.get(path.format(cast.team), as_=cast.ada) for _ in range(20)]
    after = [pair.calls(where, block) for where in (pair.primary, pair.standby)]
    assert {reply.status for reply in replies} == {200}
    assert sum(after) - sum(before) == 20
    assert after[1] - before[1] >= 15  # on a busy machine it may not be there in time
    assert pair.said("replica.failed") == failed  # it was fit to be asked there
    refused = await pair.api.get(path.format(cast.team), as_=cast.mallory)
    assert refused.status == (404 if "{}" in path else 200)


INBOX = {
    "/api/contacts": "contacts.page",
    "/api/contacts?search=gr": "contacts.search",
    "/api/contacts/{}": "contacts.get",
    "/api/contacts/{}/messages": "messages.page_before",
    "/api/conversations": "inbox.latest",
}


async def test_the_inbox_is_read_from_the_replica(pair: Pair, cast: Cast) -> None:
    await pair.do(pair.primary, f"UPDATE users SET role = 'agent' WHERE id = {cast.ada.id}")
    body = {"name": "Grace", "phoneNumber": f"+49151{next(NUMBERS):08}"}
    made = await pair.api.post("/api/contacts", body, as_=cast.ada)
    assert made.status == 201, made.body
    contact_id, failed = made.json["contact"]["id"], pair.said("replica.failed")
    said = await pair.api.post(f"/api/contacts/{contact_id}/messages", {"text": "hello"}, as_=cast.ada)
    assert said.status == 201
    for path, block in INBOX.items():
        before = [pair.calls(where, block) for where in (pair.primary, pair.standby)]
        for _ in range(5):
            reply = await pair.api.get(path.format(contact_id), as_=cast.ada)
            assert reply.status == 200, (path, reply.body)
            assert (b"hello" if "messages" in path else b"Grace") in reply.body
        after = [pair.calls(where, block) for where in (pair.primary, pair.standby)]
        assert after[1] > before[1], (path, before, after)
    assert pair.said("replica.failed") == failed


async def test_what_was_sent_is_on_the_next_page(pair: Pair, cast: Cast) -> None:
    """Whoever reads, and from whichever worker."""
    before = pair.calls(pair.standby, "messages.page")
    for n in range(100):
        await pair.api.say(cast.team, cast.ada, f"message {n}")
        found = await asyncio.gather(*(texts(pair, cast.team, who) for who in (cast.ada, cast.ben)))
        assert [page[0] for page in found] == [f"message {n}"] * 2
    assert pair.calls(pair.standby, "messages.page") > before + 50  # and the replica told most of it


LATE = {
    "paused": ("SELECT pg_wal_replay_pause()", "SELECT pg_wal_replay_resume()"),
    "lagging": (
        "ALTER SYSTEM SET recovery_min_apply_delay = '5s'",
        "ALTER SYSTEM RESET recovery_min_apply_delay",
    ),
}


@pytest.mark.parametrize("how", LATE)
async def test_a_replica_that_is_behind_is_not_read_from(pair: Pair, cast: Cast, how: str) -> None:
    behind, back = pair.said("replica.behind"), pair.said("replica.back")
    await pair.api.say(cast.team, cast.ada, "before")
    await texts(pair, cast.team, cast.ben)
    await pair.do(pair.standby, LATE[how][0])
    await pair.do(pair.standby, "SELECT pg_reload_conf()")
    try:
        for n in range(30):
            await pair.api.say(cast.team, cast.ada, f"message {n}")
            assert (await texts(pair, cast.team, cast.ben))[0] == f"message {n}"
            thread = (await pair.api.get(f"/api/threads/{cast.team}", as_=cast.ben)).json["thread"]
            assert (thread["lastSeq"], thread["unreadCount"]) == (n + 2, n + 2)

        async def known() -> bool:
            await pair.api.say(cast.team, cast.ada, "more")
            assert (await texts(pair, cast.team, cast.ben))[0] == "more"
            return pair.said("replica.behind") >= behind + 2

        await so_async(known, "both workers leave it alone")
        assert await pair.state() == (200, "degraded", "behind")
        async with pair.on(pair.standby) as conn:  # the premise: it really lacks the last one
            last = "SELECT last_seq FROM thread_heads WHERE thread_id = $1"
            there = await conn.fetchval(last, cast.team)
        async with pair.on(pair.primary) as conn:
            assert await conn.fetchval(last, cast.team) > there
        left_alone = pair.calls(pair.standby, "messages.page")
        await texts(pair, cast.team, cast.ben)
        assert pair.calls(pair.standby, "messages.page") == left_alone
    finally:
        await pair.do(pair.standby, LATE[how][1])
        await pair.do(pair.standby, "SELECT pg_reload_conf()")
    await pair.used()
    await so(
        lambda: pair.said("replica.back") >= back + 2,
        "both have said so: lines of a moment are written together",
    )
    before = pair.calls(pair.standby, "messages.page")
    for _ in range(10):
        await texts(pair, cast.team, cast.ben)
    assert pair.calls(pair.standby, "messages.page") > before


@pytest.mark.parametrize("paused", [False, True])
async def test_who_was_removed_reads_nothing_more(pair: Pair, cast: Cast, paused: bool) -> None:
    if paused:
        await pair.do(pair.standby, "SELECT pg_wal_replay_pause()")
    try:
        for n in range(10):
            assert (await pair.api.get(f"/api/threads/{cast.team}", as_=cast.ben)).status == 200
            gone = await pair.api.delete(f"/api/threads/{cast.team}/members/{cast.ben.id}", as_=cast.ada)
            assert gone.status == 204
            for path in ("", "/messages", "/members", "/pins"):
                reply = await pair.api.get(f"/api/threads/{cast.team}{path}", as_=cast.ben)
                assert reply.status == 404, (n, path)
            body = {"userId": cast.ben.id}
            reply = await pair.api.post(f"/api/threads/{cast.team}/members", body, as_=cast.ada)
            assert reply.status == 201
    finally:
        if paused:
            await pair.do(pair.standby, "SELECT pg_wal_replay_resume()")


async def reading_pids(pair: Pair) -> list[int]:
    """The processes of the replica that serve reads."""
    async with pair.on(pair.standby) as conn:
        rows = await conn.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'bobbin reads'")
    return [row["pid"] for row in rows]


async def test_a_replica_that_dies_under_a_read_is_not_noticed_by_who_reads(pair: Pair, cast: Cast) -> None:
    await pair.api.say(cast.team, cast.ada, "hello")
    back, failed = pair.said("replica.back"), pair.said("replica.failed")
    pids = await reading_pids(pair)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # what is asked of these is under way until they die
    try:
        asked = pair.calls(pair.primary, "replica.written")
        reads = [asyncio.ensure_future(texts(pair, cast.team, cast.ben)) for _ in range(8)]

        async def under_way() -> bool:
            return pair.calls(pair.primary, "replica.written") > asked and sum(
                read.done() for read in reads
            ) < len(reads)

        await so_async(under_way, "a read is under way")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)  # Postgres ends all its sessions then, and starts anew
    assert await asyncio.gather(*reads) == [["hello"]] * 8
    assert pair.said("replica.failed") > failed
    await so(lambda: pair.said("replica.back") >= back + 2, "both have found it again")
    before = pair.calls(pair.standby, "messages.page")
    await texts(pair, cast.team, cast.ben)
    await pair.used()
    for _ in range(10):
        await texts(pair, cast.team, cast.ben)
    assert pair.calls(pair.standby, "messages.page") > before


async def test_a_replica_that_hangs_is_left_and_found_again(pair: Pair, cast: Cast) -> None:
    await pair.api.say(cast.team, cast.ada, "hello")
    away, back = pair.said("replica.away"), pair.said("replica.back")
    assert pair.standby.process is not None
    pids = [pair.standby.process.pid, *family(pair.standby.process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        found = await asyncio.gather(*(texts(pair, cast.team, cast.ben) for _ in range(8)))
        assert found == [["hello"]] * 8
        await so(lambda: pair.said("replica.away") >= away + 2, "both have noticed")
        assert await pair.state() == (200, "degraded", "away")
        await pair.api.say(cast.team, cast.ada, "more")
        assert (await texts(pair, cast.team, cast.ben))[0] == "more"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await so(lambda: pair.said("replica.back") >= back + 2, "both have found it again")
    await pair.used()


async def test_a_replica_is_stopped_and_started(pair: Pair, cast: Cast) -> None:
    back = pair.said("replica.back")
    pair.standby.stop()
    try:
        await pair.api.say(cast.team, cast.ada, "hello")
        assert await texts(pair, cast.team, cast.ben) == ["hello"]
        assert await pair.state() == (200, "degraded", "away")
    finally:
        pair.standby.start()
    await so(lambda: pair.said("replica.back") >= back + 2, "both have found it again")
    await pair.used()
    assert await texts(pair, cast.team, cast.ben) == ["hello"]


async def test_nobody_reads_what_is_older_than_what_anybody_has_seen(pair: Pair, cast: Cast) -> None:
    """While the replica is paused, resumed, and loses its sessions."""
    seen, over, chance = 0, False, random.Random(5)
    before = [pair.calls(where, "messages.page") for where in (pair.primary, pair.standby)]

    async def write() -> None:
        nonlocal seen
        while not over:
            seen = max(seen, (await pair.api.say(cast.team, cast.ada, "more"))["seq"])

    async def read(who: Person) -> None:
        nonlocal seen
        while not over:
            known = seen
            reply = await pair.api.get(f"/api/threads/{cast.team}/messages?order=desc&limit=1", as_=who)
            found = max((item["seq"] for item in reply.json["items"]), default=0)
            assert found >= known
            seen = max(seen, found)

    async def disturb() -> None:
        nonlocal over
        try:
            for _ in range(12):
                await pair.do(pair.standby, "SELECT pg_wal_replay_pause()")
                await asyncio.sleep(chance.uniform(0, 0.2))
                await pair.do(pair.standby, "SELECT pg_wal_replay_resume()")
                await asyncio.sleep(chance.uniform(0, 0.4))
                if chance.random() < 0.3:
                    await pair.do(
                        pair.standby,
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name LIKE 'bobbin re%'",
                    )
        finally:
            over = True

    await asyncio.gather(write(), write(), read(cast.ada), read(cast.ben), read(cast.ben), disturb())
    after = [pair.calls(where, "messages.page") for where in (pair.primary, pair.standby)]
    assert seen > 20 and all(one > other for one, other in zip(after, before, strict=True))  # both were asked


async def test_a_page_of_threads_from_the_replica_leads_to_all_that_was_under_way(
    pair: Pair, cast: Cast
) -> None:
    """A standby's snapshot does not name open transactions; a user stream that went on from it would miss them."""
    other = await pair.api.thread(cast.ada, cast.ben)
    async with pair.on(pair.primary) as conn:
        sending = conn.transaction()
        await sending.start()
        await messages.send(
            conn,
            user_id=cast.ada.id,
            thread_id=other,
            text="late",
            reply_to=None,
            client_id=None,
            body_hash=b"0" * 32,
            handles=[],
        )
        await pair.api.say(cast.team, cast.ada, "early")
        async with pair.on(pair.standby) as there:

            async def lacks_it() -> bool:
                snapshot = await there.fetchval("SELECT pg_current_snapshot()::text")
                last = "SELECT last_seq FROM thread_heads WHERE thread_id = $1"
                return bool(await there.fetchval(last, cast.team) == 1 and snapshot.endswith(":"))

            await so_async(lacks_it, "the snapshot there names none")  # the premise
        before = pair.calls(pair.standby, "threads.mine")
        page = await pair.api.get("/api/threads", as_=cast.ben)
        assert pair.calls(pair.standby, "threads.mine") == before + 1
        await sending.commit()
    async with pair.api.feed(cast.ben, since=page.json["streamCursor"]) as feed:
        told = set()
        while other not in told:
            told.add((await feed.next()).data.get("id"))
    cursor = merged.position(page.json["streamCursor"], epoch=page.json["streamCursor"].split(".")[0])
    assert cursor is not None and not cursor.open and cursor.first == cursor.end


def test_what_is_asked_of_the_replica_writes_and_locks_nothing() -> None:
    texts, found = {block.name: block.text for block in all_blocks()}, set()
    for path in sorted((ROOT / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]).endswith("ctx.reads"):
                stem, _, name = ast.unparse(node.func).rpartition(".")
                found.add(f"{stem or path.stem}.{name}")
    found &= set(texts)  # the others are functions that ask several
    assert found >= set(READS.values()) - {"threads.get"}  # whose db is a parameter
    unfit = re.compile(r"\b(INSERT|UPDATE|DELETE|SHARE|nextval|pg_current_xact_id|\w*advisory\w*|tickets)\b")
    assert not [name for name in found if unfit.search(re.sub("--.*", "", texts[name]))]


def test_no_commit_of_ours_is_seen_before_it_is_flushed() -> None:
    """Else replica.written would be too early a place for it."""
    texts = [path.read_text() for kind in ("py", "sql") for path in ROOT.glob(f"[sd]*/**/*.{kind}")]
    assert len(texts) > 100
    assert not [text for text in texts if re.search(r"\bSET\s+(LOCAL\s+)?synchronous_commit", text, re.I)]


# A replica and one who reads from it, without a server ---------------------------------------------------


@contextlib.asynccontextmanager
async def reader(
    pair: Pair, *, url: str | None = None, primary_url: str | None = None, state: str = "ok"
) -> AsyncIterator[Replica]:
    """One that has come to this state."""
    primary_url = primary_url or pair.primary.url()
    primary = Connections(await open_pool(primary_url, size=3, statement_cache=10))
    replica = Replica(
        primary, primary_url=primary_url, url=url or pair.standby.url(), size=3, statement_cache=10
    )
    replica.start()
    try:
        await so(lambda: replica.state == state, f"{state}, not {replica.state}")
        yield replica
    finally:
        await replica.close()
        await primary.close()


WHERE = "SELECT pg_is_in_recovery()"  # true: the replica has answered


@pytest.fixture
async def probe(pair: Pair) -> str:
    """A table of one's own, on both servers."""
    name = f"probe{next(NUMBERS)}"
    await pair.do(pair.primary, f"CREATE TABLE {name} (x int)")
    return name


@pytest.fixture
def other(pair: Pair, folder: Path) -> Iterator[Standby]:
    """A second replica."""
    with Standby(folder / f"other{next(NUMBERS)}", pair.primary, settings=QUICK) as standby:
        yield standby


async def test_another_server_behind_the_same_name_is_not_read_from(
    pair: Pair, folder: Path, other: Standby, probe: str
) -> None:
    """How far the one is says nothing of the other: two replicas under one name, or one that was started anew."""
    way = folder / "way"
    way.mkdir()
    name = way / ".s.PGSQL.5432"
    name.symlink_to(pair.standby.socket)
    async with reader(pair, url=f"postgresql://postgres@/bobbin?host={way}&port=5432") as replica:
        await reads_there(replica)
        async with pair.on(other) as conn:

            async def knows() -> bool:
                return bool(await conn.fetchval("SELECT to_regclass($1) IS NOT NULL", probe))

            await so_async(knows, "the other one has the table")
        await pair.do(other, "SELECT pg_wal_replay_pause()")
        await pair.do(pair.primary, f"INSERT INTO {probe} VALUES (1)")
        gate, held = asyncio.Event(), asyncio.Event()

        async def hold(conn: asyncpg.Connection) -> None:
            held.set()
            await gate.wait()

        holding = asyncio.ensure_future(replica.reading(hold))  # the next read needs a new connection
        await held.wait()
        name.unlink()
        name.symlink_to(other.socket)
        count = f"SELECT count(*) FROM {probe}"
        assert await replica.fetchval(count) == 1
        async with pair.on(other) as conn:
            assert await conn.fetchval(count) == 0  # the premise
        gate.set()
        await holding


async def test_only_a_replica_of_this_primary_is_read_from(
    pair: Pair, folder: Path, other: Standby, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    """Not itself, nor another database; not one of another cluster, nor one that went another way since."""

    async def refused(reason: str, **urls: str) -> None:
        async with reader(pair, **urls, state="refused") as replica:
            assert await replica.fetchval("SELECT 1") == 1
            assert not await replica.fetchval(WHERE)
        log.flush()
        assert f'"event":"replica.refused","reason":"{reason}"'.encode() in capfdbinary.readouterr().out

    await refused("primary", url=pair.primary.url())
    await migrate(pair.primary.url("second"))
    async with pair.on(pair.primary) as conn:
        end = await conn.fetchval("SELECT pg_current_wal_flush_lsn()")
    async with pair.on(pair.standby) as conn:

        async def there() -> bool:
            return bool(await conn.fetchval("SELECT pg_last_wal_replay_lsn()") >= end)

        await so_async(there, "the second database is there too")
    await refused("database", url=pair.standby.url("second"))
    with Postgres(folder / "foreign", settings=QUICK) as foreign:
        await migrate(foreign.url())
        with Standby(folder / "foreign standby", foreign, settings=QUICK) as standby:
            await refused("cluster", url=standby.url())
    async with reader(pair, url=other.url()) as replica:
        await reads_there(replica)
        await pair.do(other, "SELECT pg_promote()")
        await so(lambda: replica.state == "refused", "it is noticed that it is no replica any more")
        assert await replica.fetchval("SELECT pg_backend_pid() > 0")
    log.flush()
    assert b'"event":"replica.refused","reason":"primary"' in capfdbinary.readouterr().out
    await refused("timeline", primary_url=other.url())
    monkeypatch.setattr(asyncpg.Connection, "get_server_pid", lambda conn: 1)
    await refused("pooled")


async def test_a_read_that_the_replay_cancels_is_asked_again_of_the_primary(pair: Pair, probe: str) -> None:
    await pair.do(pair.primary, f"INSERT INTO {probe} SELECT generate_series(1, 1000)")
    await pair.do(pair.standby, "ALTER SYSTEM SET max_standby_streaming_delay = 0")
    await pair.do(pair.standby, "SELECT pg_reload_conf()")
    asked: list[bool] = []

    async def work(conn: asyncpg.Connection) -> int:
        asked.append(await conn.fetchval(WHERE))
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            found = await conn.fetchval(f"SELECT count(*) FROM {probe}")
            if len(asked) == 1:
                await pair.do(pair.primary, f"DELETE FROM {probe} WHERE x <= 400")
                await pair.do(pair.primary, f"VACUUM {probe}")
                await conn.fetchval("SELECT pg_sleep(20)")
        return int(found)

    try:
        async with reader(pair) as replica:
            assert await replica.reading(work) == 600
            assert asked == [True, False]
    finally:
        await pair.do(pair.standby, "ALTER SYSTEM RESET max_standby_streaming_delay")
        await pair.do(pair.standby, "SELECT pg_reload_conf()")


async def test_what_can_only_be_done_on_the_primary_is_done_there(pair: Pair, probe: str) -> None:
    """Somebody has used the wrong word: it costs a question, and nothing breaks."""
    async with reader(pair) as replica:
        assert await replica.fetchval(WHERE)
        assert await replica.fetchval("SELECT pg_current_xact_id() IS NOT NULL")
        await replica.fetch(f"INSERT INTO {probe} VALUES (1)")
        assert await replica.fetchval(f"SELECT count(*) FROM {probe}") == 1


async def test_a_long_transaction_that_writes_keeps_nobody_from_the_replica(pair: Pair, probe: str) -> None:
    """What it writes is no commit: nobody can have seen it."""
    async with reader(pair) as replica, pair.on(pair.primary) as conn:
        writing = conn.transaction()
        await writing.start()
        there = list[bool]()
        while len(there) < 20 or (sum(there) < 5 and len(there) < 100):  # a busy machine may be late for some
            await conn.execute(f"INSERT INTO {probe} SELECT generate_series(1, 5000)")
            there.append(await replica.fetchval(WHERE))
        ahead = "SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn() > 100000"
        assert await conn.fetchval(ahead)  # the premise
        assert sum(there) >= 5, there  # it may lie torn where the flush ends
        await writing.rollback()


async def test_all_that_is_asked_at_once_disturbs_nothing(
    pair: Pair, probe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads, the waiting for the replica, and the look whether it still is one."""
    monkeypatch.setattr("server.base.replica.BEAT_SECONDS", 0.0)
    async with reader(pair) as replica:
        line, over = replica._line, False

        async def write() -> None:
            async with pair.on(pair.primary) as conn:
                while not over:
                    await conn.execute(f"INSERT INTO {probe} VALUES (1)")

        writing = asyncio.ensure_future(write())
        there = await asyncio.gather(*(replica.fetchval(WHERE) for _ in range(300)))
        for _ in range(100):
            there += await asyncio.gather(*(replica.fetchval(WHERE) for _ in range(4)))
        over = True
        await writing
        assert replica._line is line and line is not None
        assert sum(there) > 200, sum(there)


@pytest.mark.parametrize("commits", ["on", "off"])
async def test_a_commit_is_seen_whether_it_waits_for_the_disk_or_not(
    pair: Pair, probe: str, commits: str
) -> None:
    url = f"{pair.primary.url()}&synchronous_commit={commits}"
    async with reader(pair, primary_url=url) as replica:
        conn = await asyncpg.connect(url)
        try:
            assert await conn.fetchval("SHOW synchronous_commit") == commits
            for n in range(1, 101):
                await conn.execute(f"INSERT INTO {probe} VALUES (1)")
                assert await replica.fetchval(f"SELECT count(*) FROM {probe}") == n
        finally:
            await conn.close()


async def test_a_question_serves_those_who_came_before_it_and_none_who_came_later() -> None:
    sent, answers = 0, [asyncio.Event() for _ in range(4)]

    async def ask() -> int:
        nonlocal sent
        sent += 1
        number = sent
        await answers[number].wait()
        return number

    asked = Asked(ask)
    first = [asyncio.ensure_future(asked.answer()) for _ in range(3)]
    await so(lambda: sent == 1, "it is asked")
    later = [asyncio.ensure_future(asked.answer()) for _ in range(3)]
    await asyncio.sleep(0)
    later[0].cancel()
    answers[1].set()
    assert await asyncio.gather(*first) == [1, 1, 1]
    answers[2].set()
    assert await asyncio.gather(*later[1:]) == [2, 2]
    assert sent == 2
    answers[3].set()
    assert await asked.answer() == 3
