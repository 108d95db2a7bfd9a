"""A real server on a real Postgres and Valkey, once for each xdist worker; people and threads anew for each test."""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from server.base.access import Tokens
from server.base.db import open_pool
from server.ops.embedded import Postgres, Valkey, remove
from server.ops.migrate import migrate
from tests.client import NUMBERS, Api, Person
from tests.ops.process import Bobbin

SECRET = "a secret for tests, long enough to be one"


@dataclass(frozen=True)
class Backing:
    """The servers behind the server."""

    postgres: Postgres
    valkey: Valkey

    def url(self, database: str) -> str:
        return self.postgres.url(database)


@pytest.fixture(scope="session")
def backing() -> Iterator[Backing]:
    """A Postgres and a Valkey for the tests of this process; commits need not survive a power cut."""
    folder = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    folder.chmod(0o711)
    postgres, valkey = Postgres(folder / "data", durable=False), Valkey(folder / "data")
    try:
        postgres.start()
        valkey.start()
        yield Backing(postgres, valkey)
    finally:
        valkey.stop()
        postgres.stop()
        remove(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def template(backing: Backing) -> str:
    """The name of a migrated, empty database to copy."""
    await migrate(backing.url("template_bobbin"))
    return "template_bobbin"


@pytest.fixture(scope="module")
async def db_url(backing: Backing, template: str) -> AsyncIterator[str]:
    """A fresh, migrated database for the tests of one module."""
    name = f"fresh_{next(NUMBERS)}"
    conn = await asyncpg.connect(backing.url("postgres"))
    try:
        await conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield backing.url(name)
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await conn.close()


@pytest.fixture(scope="session")
def server(backing: Backing) -> Iterator[Bobbin]:
    """`python -m server serve` with two workers."""
    folder = Path(tempfile.mkdtemp(prefix="bobbin-test-"))
    bobbin = Bobbin(
        folder,
        DATABASE_URL=backing.url("bobbin_test"),
        REDIS_URL=backing.valkey.url(),
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
async def db(server: Bobbin, backing: Backing) -> AsyncIterator[asyncpg.Pool]:
    """The server's own database, to look at and to arrange what no request can."""
    pool = await open_pool(backing.url("bobbin_test"), size=4, statement_cache=100)
    yield pool
    await pool.close()


Maker = Callable[[str], Awaitable[Person]]


@pytest.fixture
def people(db: asyncpg.Pool) -> Maker:
    """Make somebody, signed in: await people("ada"). Faster than to register, where that isn't the point."""
    tokens = Tokens(SECRET)

    async def make(name: str) -> Person:
        handle = f"{name}{next(NUMBERS)}_{os.getpid()}"
        user_id = await db.fetchval(
            "INSERT INTO users (name, username, email) VALUES ($1, $2, $2 || '@example.com') RETURNING id",
            name,
            handle,
        )
        return Person(user_id, name, tokens.issue(user_id=user_id, session_id=1))

    return make


@dataclass(frozen=True)
class Cast:
    """ada (admin) and ben are in team, a group; mallory is in nothing."""

    ada: Person
    ben: Person
    mallory: Person
    team: int


@pytest.fixture
async def cast(api: Api, people: Maker) -> Cast:
    """A cast of one's own for each test."""
    ada, ben, mallory = [await people(name) for name in ("ada", "ben", "mallory")]
    return Cast(ada, ben, mallory, await api.thread(ada, ben))
