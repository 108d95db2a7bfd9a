"""The pool, and the binding of Python signatures to the named blocks of db/queries/*.sql."""

import asyncio
import contextlib
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import asyncpg

ROOT = Path(__file__).parents[2]
QUERIES = ROOT / "db" / "queries"
ACQUIRE_SECONDS = 5.0  # how long a request waits for a free connection before it is told 503
COMMAND_SECONDS = 30.0

FETCH = {  # the word after the block's name, and the asyncpg method that runs it
    "json": "fetchval",  # one JSON text, or None when there is no row
    "value": "fetchval",  # one scalar, or None
    "one": "fetchrow",  # one Record, or None
    "many": "fetch",  # a list of Record
    "exec": "execute",  # the command tag
}
KEYS = ("params", "route", "cli", "live", "job", "plan", "locks")
BLOCK = re.compile(r"^-- name: (\w+) :(\w+)\n((?:--.*\n)*)((?:(?!-- name:).*\n)*)", re.M)
# A :name that is neither a cast, nor part of a word, nor inside a quoted literal (checked by stripping those).
PARAM = re.compile(r"'(?:[^']|'')*'|--[^\n]*|(?<![:\w]):([a-z_]+)")

Db: TypeAlias = "Connections | asyncpg.Pool | asyncpg.Connection"
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Block:
    """One statement of a .sql file, its :names turned into $1.. in the order of `params`."""

    name: str  # "messages.page_asc"
    where: str  # "db/queries/messages.sql:4"
    kind: str  # a key of FETCH
    params: tuple[str, ...]
    header: dict[str, tuple[str, ...]]  # the lines of each key of KEYS, as written
    text: str  # begins /* messages.page_asc */, so that server logs and pg_stat_statements name it


def used(body: str) -> set[str]:
    """The :names of a statement; those in quotes and comments don't count."""
    return {match[1] for match in PARAM.finditer(body) if match[1]}


@cache
def blocks(stem: str) -> dict[str, Block]:
    """The blocks of one file by name. Raises ValueError on a repeated name or undeclared :param."""
    path, found = QUERIES / f"{stem}.sql", dict[str, Block]()
    source = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(source):
        name, kind, head, body = match.groups()
        where = f"db/queries/{stem}.sql:{source.count(chr(10), 0, match.start()) + 1}"
        header = {key: tuple(_lines(head, key)) for key in KEYS if re.search(rf"^-- {key}:", head, re.M)}
        declared = re.sub(r"\([^)]*\)", "", " ".join(header.get("params", ())))
        params = tuple(re.findall(r"\w+", declared))
        if name in found or kind not in FETCH or set(params) != used(body):
            raise ValueError(
                f"{where}: {name} is repeated, of unknown kind, or its params {params} are not those used {used(body)}"
            )

        def number(m: re.Match[str], order: tuple[str, ...] = params) -> str:
            return f"${order.index(m[1]) + 1}" if m[1] else m[0]

        text = f"/* {stem}.{name} */ {PARAM.sub(number, body).strip()}"
        found[name] = Block(f"{stem}.{name}", where, kind, params, header, text)
    return found


def _lines(head: str, key: str) -> list[str]:
    """The values of one key, each with the indented lines that continue it."""
    return [
        re.sub(r"\n--\s+", " ", value).strip()
        for value in re.findall(rf"^-- {key}:(.*(?:\n-- {{4,}}.*)*)", head, re.M)
    ]


def all_blocks() -> list[Block]:
    """Every block of every file, in the order of reading."""
    return [block for path in sorted(QUERIES.glob("*.sql")) for block in blocks(path.stem).values()]


class Connections:
    """A pool whose connections stay at hand: who asks next takes the one that was used last.

    asyncpg's own way there and back costs as much as a small query, in tasks and turns of the loop. It
    is taken for new connections, for those that something went wrong with, and when somebody waits.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._at_hand: list[asyncpg.Connection] = []
        self._waiting = 0  # for a connection of the pool: one that comes back is theirs
        self._returning: set[asyncio.Future[None]] = set()

    async def take(self) -> asyncpg.Connection:
        """A connection to give back. Raises TimeoutError when all are busy for too long, or what connecting raises."""
        while self._at_hand:
            conn = self._at_hand.pop()
            # InterfaceError: the database closed it, and the pool has it back already.
            with contextlib.suppress(asyncpg.InterfaceError):
                if not conn.is_closed():
                    return conn
                self.give_up(conn)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=ACQUIRE_SECONDS)
        finally:
            self._waiting -= 1

    def give_back(self, conn: asyncpg.Connection) -> None:
        """One that is fit for the next question."""
        if self._waiting:
            self.give_up(conn)
        else:
            self._at_hand.append(conn)

    def give_up(self, conn: asyncpg.Connection) -> None:
        """One that may not be: the pool looks after it, in a task of its own."""
        returning = asyncio.ensure_future(self._pool.release(conn))
        self._returning.add(returning)
        returning.add_done_callback(self._returned)

    def _returned(self, done: "asyncio.Future[None]") -> None:
        self._returning.discard(done)
        if not done.cancelled():
            done.exception()  # the connection was lost: the pool makes another

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection for several questions, as in a transaction."""
        conn = await self.take()
        try:
            yield conn
        except BaseException:
            self.give_up(conn)
            raise
        self.give_back(conn)

    async def reading(self, work: Callable[[asyncpg.Connection], Awaitable[R]]) -> R:
        """Several questions that only read, on one connection; base/replica.py may ask them elsewhere."""
        conn = await self.take()
        try:
            answer = await work(conn)
        except BaseException:
            self.give_up(conn)
            raise
        self.give_back(conn)
        return answer

    async def close(self) -> None:
        """Close all; waits for those in use."""
        for conn in self._at_hand:
            self.give_up(conn)
        self._at_hand.clear()
        self._waiting = 1  # from now on nothing is kept
        await self._pool.close()

    def terminate(self) -> None:
        """Close all at once."""
        self._pool.terminate()


def query(fn: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Give `async def page(db, *, ...)` of server/messages.py the block `page` of messages.sql.

    The signature is the contract: when its names are not the block's params the import fails,
    naming both. The first argument is where it runs: the pool, or the caller's transaction.
    """
    block = blocks(fn.__module__.rpartition(".")[2])[fn.__name__]
    names = tuple(inspect.signature(fn).parameters)[1:]
    if set(names) != set(block.params):
        raise TypeError(f"{block.where} takes {block.params}, {fn.__qualname__} takes {names}")
    method, text, order = FETCH[block.kind], block.text, block.params

    async def run(db: Any, **args: Any) -> Any:
        values = [args[name] for name in order]
        if isinstance(db, asyncpg.Pool):
            async with db.acquire(timeout=ACQUIRE_SECONDS) as conn:
                return await getattr(conn, method)(text, *values)
        if not isinstance(db, Connections):
            return await getattr(db, method)(text, *values)
        conn = await db.take()
        try:
            answer = await getattr(conn, method)(text, *values)
        except BaseException:
            db.give_up(conn)
            raise
        db.give_back(conn)
        return answer

    run.__name__, run.__qualname__, run.__module__ = fn.__name__, fn.__qualname__, fn.__module__
    run.__doc__ = f"{fn.__doc__ or ''} ({block.where})"
    run.block = block  # type: ignore[attr-defined]  # read by tests/test_queries.py
    return cast("Callable[P, Coroutine[Any, Any, R]]", run)


async def _keep(_: asyncpg.Connection) -> None:
    """No reset when a connection goes back: it costs more than the query (FACTS 2).

    The price: only SET LOCAL, and neither LISTEN nor session locks on a pooled connection.
    """


async def _generic(conn: asyncpg.Connection) -> None:
    await conn.execute("SET plan_cache_mode = force_generic_plan")


async def open_pool(
    dsn: str,
    *,
    size: int,
    statement_cache: int,
    name: str = "bobbin",
    generic: bool = False,
    begin: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
) -> asyncpg.Pool:
    """At most `size` connections. Connects to none: a server may start before its database.

    statement_cache is the number of prepared statements a connection keeps; 0 for PgBouncer.
    generic: each is planned once, not five times for its values first. Not without that cache, where it would
    gain nothing, and PgBouncer would hand the setting on to others. begin: what to do with each that is new.
    """
    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        reset=_keep,
        init=_generic if generic and statement_cache else begin,
        statement_cache_size=statement_cache,
        command_timeout=COMMAND_SECONDS,
        max_inactive_connection_lifetime=0,
        server_settings={"application_name": name, "timezone": "UTC"},
    )
