"""A real server on a real Postgres and Valkey, once for each xdist worker; people and threads anew for each test."""

import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from server.base.access import Tokens
from server.base.db import open_pool
from server.ops.embedded import Postgres, Valkey, remove
from server.ops.migrate import migrate
from server.routes import Route
from tests.client import NUMBERS, Api, Person
from tests.ops.process import Bobbin
from tests.staff import Contact, contact, says

PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "main")  # each has databases of its own
SECRET = "a secret for tests, long enough to be one"


@dataclass(frozen=True)
class Backing:
    """The servers behind the server."""

    database_url: str  # of a superuser, with any database
    redis_url: str

    def url(self, database: str) -> str:
        url = urlsplit(self.database_url)
        return f"{url.scheme}://{url.netloc}/{quote(database)}?{url.query}"

    async def drop(self, database: str) -> None:
        """Remove what an earlier run may have left."""
        conn = await asyncpg.connect(self.url("postgres"))
        try:
            await conn.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        finally:
            await conn.close()


@pytest.fixture(scope="session")
def backing() -> Iterator[Backing]:
    """A Postgres and a Valkey for the tests of this process; commits need not survive a power cut.

    BOBBIN_TEST_DATABASE_URL (a superuser's) and BOBBIN_TEST_REDIS_URL name others, for one run at a time.
    """
    folder = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    folder.chmod(0o711)
    postgres, valkey = Postgres(folder / "data", durable=False), Valkey(folder / "data")
    database_url, redis_url = (os.environ.get(f"BOBBIN_TEST_{name}_URL") for name in ("DATABASE", "REDIS"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(remove, folder / "data")
        if not database_url:
            database_url = stack.enter_context(postgres).url()
        if not redis_url:
            redis_url = stack.enter_context(valkey).url()
        yield Backing(database_url, redis_url)


@pytest.fixture(scope="session")
async def template(backing: Backing) -> str:
    """The name of a migrated, empty database to copy."""
    await backing.drop(name := f"template_bobbin_{PROCESS}")
    await migrate(backing.url(name))
    return name


@pytest.fixture(scope="module")
async def db_url(backing: Backing, template: str) -> AsyncIterator[str]:
    """A fresh, migrated database for the tests of one module."""
    await backing.drop(name := f"fresh_{PROCESS}_{next(NUMBERS)}")
    conn = await asyncpg.connect(backing.url("postgres"))
    try:
        await conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield backing.url(name)
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await conn.close()


@pytest.fixture(scope="session")
async def served(backing: Backing) -> str:
    """The URL of the server's own database, which the server makes."""
    await backing.drop(name := f"bobbin_test_{PROCESS}")
    return backing.url(name)


@pytest.fixture(scope="session")
def server(backing: Backing, served: str) -> Iterator[Bobbin]:
    """`python -m server serve` with two workers."""
    folder = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    bobbin = Bobbin(
        folder,
        DATABASE_URL=served,
        REDIS_URL=backing.redis_url,
        JWT_SECRET=SECRET,
        BOBBIN_RATE_LIMITS="off",
        BOBBIN_DB_POOL="6",
    )
    try:
        bobbin.wait_for("Bobbin is at")
        yield bobbin
        assert bobbin.process.poll() is None, bobbin.said()[-4000:]
        os.kill(bobbin.pid, signal.SIGTERM)
        assert bobbin.process.wait(15) == 0, bobbin.said()[-4000:]  # the shutdown is tested on every run
        problems = [event for event in bobbin.events("problem") if event["level"] == "error"]
        assert not problems, problems[:3]  # whatever a client did: no answer was our fault
    finally:
        bobbin.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def apart(backing: Backing, **environ: str) -> AsyncIterator[tuple[Bobbin, str]]:
    """A server of one's own, and its empty database, for what others should not meet."""
    await backing.drop(name := f"apart_{PROCESS}_{next(NUMBERS)}")
    settings = {"REDIS_URL": backing.redis_url, "BOBBIN_RATE_LIMITS": "off", "BOBBIN_DB_POOL": "5"} | environ
    with tempfile.TemporaryDirectory(prefix="bobbin-test-") as folder:
        bobbin = Bobbin(Path(folder), DATABASE_URL=backing.url(name), JWT_SECRET=SECRET, **settings)
        try:
            yield bobbin.ready(), backing.url(name)
            assert bobbin.stop() == 0
            problems = [event for event in bobbin.events("problem") if event["level"] == "error"]
            assert not problems, problems[:3]
        finally:
            bobbin.close()
    await backing.drop(name)


@pytest.fixture(scope="session")
def address(server: Bobbin) -> str:
    """Where the server answers."""
    found = re.search(r"Bobbin is at (http://\S+)", server.said())
    assert found
    return found[1]


@pytest.fixture(scope="session")
async def api(address: str) -> AsyncIterator[Api]:
    """Requests to the server."""
    client = Api(address)
    yield client
    await client.close()


@pytest.fixture(scope="session")
async def db(server: Bobbin, served: str) -> AsyncIterator[asyncpg.Pool]:
    """The server's own database, to look at and to arrange what no request can."""
    pool = await open_pool(served, size=4, statement_cache=100)
    yield pool
    await pool.close()


Maker = Callable[[str], Awaitable[Person]]


@pytest.fixture
def people(db: asyncpg.Pool) -> Maker:
    """Make somebody, signed in: await people("ada"). Faster than to register, where that isn't the point."""
    tokens = Tokens(SECRET)

    async def make(name: str) -> Person:
        handle = f"{name}{next(NUMBERS)}_{os.getpid()}"
        row = await db.fetchrow(
            """WITH person AS (
                   INSERT INTO users (name, username, email) VALUES ($1, $2, $2 || '@example.com') RETURNING id)
               INSERT INTO sessions (user_id, refresh_hash, expires_at)
               SELECT id, sha256($2::bytea), now() + interval '7 days' FROM person RETURNING id, user_id""",
            name,
            handle,
        )
        token = tokens.issue(user_id=row["user_id"], session_id=row["id"])
        return Person(row["user_id"], name, token, row["id"])

    return make


NOBODY = Contact(1, 1)


@dataclass(frozen=True)
class Cast:
    """ada (admin) and ben are in team, a group; mallory is in nothing. carla, a contact, has written once."""

    ada: Person
    ben: Person
    mallory: Person
    team: int
    carla: Contact = NOBODY


@pytest.fixture
async def cast(api: Api, people: Maker, db: asyncpg.Pool) -> Cast:
    """A cast of one's own for each test."""
    ada, ben, mallory = [await people(name) for name in ("ada", "ben", "mallory")]
    carla = await contact(db)
    await says(db, carla, "Hello?")
    return Cast(ada, ben, mallory, await api.thread(ada, ben), carla)


@pytest.fixture
async def root(people: Maker, db: asyncpg.Pool) -> Person:
    """An admin of the server."""
    person = await people("root")
    await db.execute("UPDATE users SET role = 'admin' WHERE id = $1", person.id)
    return person


async def key_of(api: Api, root: Person, kind: str, **more: Any) -> Person:
    """A bot, or a host application, as its key lets it in. Its session_id is the id of the key."""
    reply = await api.post("/api/admin/keys", {"kind": kind, "name": f"A {kind}", **more}, as_=root)
    assert reply.status == 201, reply.body
    key = reply.json["key"]
    return Person(key["userId"], key["name"], reply.json["secret"], key["id"])


Asker = Callable[[Route], Awaitable[Person]]


@pytest.fixture
def asker(api: Api, cast: Cast, root: Person) -> Asker:
    """Who may call a route: ada, an admin of the server, or a host application, which has a guest "1"."""

    async def find(route: Route) -> Person:
        if route.access in ("STAFF", "GATEWAY", "ADMIN"):
            return root
        if route.access != "HOST":
            return cast.ada
        host = await key_of(api, root, "host")
        reply = await api.post("/api/host/tokens", {"externalId": "1", "name": "Guest"}, as_=host)
        assert reply.status == 200, reply.body
        return host

    return find
