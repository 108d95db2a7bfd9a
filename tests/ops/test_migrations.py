"""Migrations: there and back, many at once, and what is said when they can't."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from server.ops.embedded import Postgres
from server.ops.migrate import (
    MIGRATIONS,
    SCHEMA,
    MigrationError,
    connect,
    database_warnings,
    dbmate_url,
    dump,
    migrate,
    rollback,
    where,
)

NUMBER = len(list(MIGRATIONS.glob("*.sql")))


@pytest.fixture(scope="module")
def postgres(kept_folder: Path) -> Iterator[Postgres]:
    with Postgres(kept_folder, durable=False) as server:
        yield server


@pytest.fixture
async def url(postgres: Postgres) -> AsyncIterator[str]:
    """Of a database that does not exist yet, its name one that needs care."""
    name = f"bobbin {secrets.token_hex(4)}"
    yield postgres.url(name)
    conn = await connect(postgres.url("postgres"))
    await conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await conn.close()


async def applied(url: str) -> int:
    conn = await connect(url)
    try:
        return int(await conn.fetchval("SELECT count(*) FROM schema_migrations"))
    finally:
        await conn.close()


async def test_up_down_and_up_again_come_to_the_same_schema(url: str) -> None:
    await migrate(url)
    first = await asyncio.to_thread(dump, url)
    for left in reversed(range(NUMBER)):
        await rollback(url)
        assert await applied(url) == left
    empty = await asyncio.to_thread(dump, url)
    assert "CREATE TABLE public.schema_migrations" in empty
    assert empty.count("CREATE TABLE") == 1
    assert "CREATE FUNCTION" not in empty
    assert "CREATE VIEW" not in empty
    await migrate(url)
    assert await asyncio.to_thread(dump, url) == first


async def test_what_was_ended_does_not_come_back_by_going_down(url: str) -> None:
    """Before 20261121000001 a session had no end but its expiry."""
    await migrate(url)
    conn = await asyncpg.connect(url)
    await conn.execute(
        """INSERT INTO users (id, name, deactivated_at) VALUES (1, 'in', NULL), (2, 'out', now());
           INSERT INTO sessions (user_id, refresh_hash, expires_at, ended_at, ended_xid) VALUES
               (1, '\\x01', now() + interval '1 day', NULL, NULL),
               (1, '\\x02', now() + interval '1 day', now(), pg_current_xact_id()),
               (2, '\\x03', now() + interval '1 day', NULL, NULL)"""
    )
    while await conn.fetchval("SELECT max(version) FROM schema_migrations") >= "20261121000001":
        await rollback(url)
    assert [row[0] for row in await conn.fetch("SELECT refresh_hash FROM sessions")] == [b"\x01"]
    await conn.close()


async def test_the_kept_schema_is_what_the_migrations_make(url: str) -> None:
    await migrate(url)
    assert SCHEMA.read_text() == await asyncio.to_thread(dump, url), "run `make generate`"


async def test_several_servers_migrate_at_once(url: str) -> None:
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert await applied(url) == NUMBER


async def test_a_role_that_may_not_create_finds_nothing_to_do(postgres: Postgres, url: str) -> None:
    await migrate(url)
    conn = await connect(url)
    await conn.execute("CREATE ROLE limited LOGIN; GRANT SELECT ON schema_migrations TO limited")
    limited = url.replace("postgres@", "limited@")
    try:
        await migrate(limited)
        await conn.execute("DELETE FROM schema_migrations")
        with pytest.raises(MigrationError, match=r"(?s)dbmate says:.*permission denied for schema public"):
            await migrate(limited)
        await conn.execute("REVOKE ALL ON schema_migrations FROM limited")
        with pytest.raises(MigrationError, match="cannot be read: permission denied"):
            await migrate(limited)
    finally:
        await conn.execute("DROP OWNED BY limited; DROP ROLE limited")
        await conn.close()


async def test_an_index_built_concurrently_does_not_deadlock_with_the_waiting(
    url: str, tmp_path: Path
) -> None:
    table = "-- migrate:up\nCREATE TABLE t (n int);\n-- migrate:down\nDROP TABLE t;\n"
    index = (
        "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS t_n ON t (n);\n"
        "-- migrate:down\nDROP INDEX t_n;\n"
    )
    (tmp_path / "20260101000001_table.sql").write_text(table)
    (tmp_path / "20260101000002_index.sql").write_text(index)
    await asyncio.gather(*(migrate(url, migrations=tmp_path) for _ in range(3)))
    assert await applied(url) == 2


async def test_a_failed_migration_is_told_in_dbmates_words_and_leaves_nothing(
    url: str, tmp_path: Path
) -> None:
    broken = "-- migrate:up\nCREATE TABLE half (n int);\nSELECT nonsense;\n-- migrate:down\n"
    (tmp_path / "20260101000001_broken.sql").write_text(broken)
    with pytest.raises(MigrationError, match=r"(?s)failed; dbmate says:.*nonsense"):
        await migrate(url, migrations=tmp_path)
    conn = await connect(url)
    assert await conn.fetchval("SELECT to_regclass('half')") is None
    await conn.close()


async def test_a_cancelled_migration_is_rolled_back_and_the_next_one_works(url: str, tmp_path: Path) -> None:
    slow = "-- migrate:up\nCREATE TABLE half (n int);\nSELECT pg_sleep(60);\n-- migrate:down\n"
    (tmp_path / "20260101000001_slow.sql").write_text(slow)
    conn = await connect(url)
    task = asyncio.create_task(migrate(url, migrations=tmp_path))
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active'"
    async with asyncio.timeout(20):
        while await conn.fetchval(running) < 2:  # the question itself is one
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await conn.fetchval(running) == 1
        assert await conn.fetchval("SELECT to_regclass('half')") is None
        await conn.close()
        await migrate(url)
    assert await applied(url) == NUMBER


async def test_a_database_that_is_away_is_waited_for_and_then_told_without_its_password() -> None:
    with pytest.raises(MigrationError, match=r"db at 127\.0\.0\.1:1 did not answer for 1 s") as told:
        await connect("postgres://user:hush@127.0.0.1:1/db", wait_s=1)
    assert "hush" not in str(told.value)


async def test_a_url_that_makes_no_sense_is_told_at_once() -> None:
    with pytest.raises(MigrationError, match="DATABASE_URL cannot be used"):
        await connect("postgres://user@host/db?sslmode=perhaps")
    with pytest.raises(MigrationError, match="sslrootcert=/none: No such file"):
        await connect("postgres://user@host/db?sslmode=verify-full&sslrootcert=/none")


async def test_a_parameter_that_nobody_knows_is_told_at_once(url: str) -> None:
    await migrate(url)
    with pytest.raises(MigrationError, match='refuses us: unrecognized configuration parameter "frob"'):
        await connect(f"{url}&frob=1")


async def test_who_is_refused_is_told_at_once(postgres: Postgres, url: str) -> None:
    with pytest.raises(MigrationError, match="refuses us"):
        await connect(url.replace("postgres@", "stranger@"))


async def test_a_locale_that_breaks_search_is_warned_about(postgres: Postgres, url: str) -> None:
    await migrate(url)
    assert not [line for line in await database_warnings(url) if "locale" in line]
    conn = await connect(postgres.url("postgres"))
    await conn.execute(
        "CREATE DATABASE blind TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER libc LOCALE 'C'"
    )
    await conn.close()
    await migrate(postgres.url("blind"))
    warning, *_ = await database_warnings(postgres.url("blind"))
    assert "ASCII letters only" in warning


async def test_settings_that_break_a_promise_are_warned_about(url: str) -> None:
    await migrate(url)
    fsync, commit = await database_warnings(url)  # the Postgres of tests is not durable
    assert "fsync is off" in fsync
    assert "synchronous_commit is off" in commit
    conn = await connect(url)
    name = await conn.fetchval("SELECT quote_ident(current_database())")
    await conn.execute(f"ALTER DATABASE {name} SET synchronous_commit = local")
    assert await database_warnings(url) == [fsync]
    await conn.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    _, isolation = await database_warnings(url)
    assert "default_transaction_isolation is repeatable read" in isolation
    await conn.close()


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("postgresql://u:p%40@h:5433/d", "postgres://u:p%40@h:5433/d?sslmode=prefer&application_name=me"),
        ("postgres://u:^|@h/d", "postgres://u:%5E%7C@h/d?sslmode=prefer&application_name=me"),
        ("postgres://u@h/d?sslmode=require", "postgres://u@h/d?sslmode=require&application_name=me"),
        (
            "postgres://postgres@/d?host=/a%20b",
            "postgres://postgres@/d?host=%2Fa%20b&sslmode=disable&application_name=me",
        ),
    ],
)
def test_dbmate_gets_the_ssl_mode_that_asyncpg_would_take(
    given: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert dbmate_url(given, "me") == made


def test_a_database_is_named_without_its_password() -> None:
    assert where("postgres://user:hush@host:1/db") == "db at host:1"
    assert where("postgres://user@/db?host=/run/pg") == "db at /run/pg"
    assert where("postgres://user:hush@one:1,two:2/db") == "db at one:1,two:2"


async def test_a_database_is_made_once_by_many(url: str) -> None:
    for conn in await asyncio.gather(*(connect(url) for _ in range(4))):
        assert isinstance(conn, asyncpg.Connection)
        await conn.close()
