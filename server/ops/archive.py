"""bobbin archive: old messages go to compressed files, and come back. SQL: db/queries/archive.sql.

A file holds blocks, each a gzip member of its own (`zcat` shows all of them): a line that says which stretches of which
threads are in it, then a line for each row, {"table": row}, then a line with their number and SHA-256. A block is
on the disk before its messages leave the database, which they do in one short transaction. So after a crash they are
there or here, and what stands in a file without the database knowing of it is still in the database.
"""

import argparse
import asyncio
import contextlib
import gzip
import hashlib
import os
import re
import secrets
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import asyncpg
import orjson

from server.base import log
from server.base.db import Db, query
from server.base.http import TOP
from server.base.settings import Settings
from server.ops.embedded import database

FORMAT = 1
BATCH = 2000  # messages that leave in one transaction: some 50 ms, in which only they are locked
HEADS = 1000  # threads looked at in one statement
SWEPT = 2000  # rows that are swept up in one statement
LINES = 500  # rows that are read, written or put back at once
FILE_BYTES = 256 * 1024 * 1024  # of one file; then the next is begun
TRIES = 3  # to archive what somebody changes at the same moment
BACK_TRIES = 20  # to bring something back: nothing else could be done instead
WAIT_MS = 500  # for a lock: Postgres ends a deadlock after a second, at the cost of either side
RUN_SECONDS, FIRST_SECONDS = 3600.0, 300.0  # between two runs of a worker, and before the first
CLOSE_SECONDS = 2.0  # for the end of what is being written
SLACK = timedelta(days=1)  # a worker waits until a thread has messages of a day: fewer and larger stretches
AGES = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
R = TypeVar("R")


@query
async def try_archive(db: Db) -> bool: ...


@query
async def due(
    db: Db, *, after_id: int, up_to_id: int, moment: datetime, begun_before: datetime, size: int
) -> list[asyncpg.Record]: ...


@query
async def heads(db: Db, *, thread_ids: list[int]) -> list[asyncpg.Record]: ...


@query
async def messages(
    db: Db, *, thread_ids: list[int], lows: list[int], highs: list[int]
) -> list[asyncpg.Record]: ...


@query
async def reactions(
    db: Db, *, thread_ids: list[int], lows: list[int], highs: list[int]
) -> list[asyncpg.Record]: ...


@query
async def edits(
    db: Db, *, thread_ids: list[int], lows: list[int], highs: list[int]
) -> list[asyncpg.Record]: ...


@query
async def pins(
    db: Db, *, thread_ids: list[int], lows: list[int], highs: list[int]
) -> list[asyncpg.Record]: ...


@query
async def marks(db: Db, *, thread_ids: list[int], highs: list[int]) -> list[asyncpg.Record]: ...


@query
async def take(
    db: Db, *, thread_ids: list[int], lows: list[int], highs: list[int], revs: list[int]
) -> int: ...


@query
async def advance(
    db: Db,
    *,
    thread_ids: list[int],
    lows: list[int],
    highs: list[int],
    floors: list[int],
    livings: list[int],
    file: str,
    at_byte: int,
    digest: bytes,
) -> int: ...


@query
async def sweep_reactions(db: Db, *, thread_ids: list[int], size: int) -> str: ...


@query
async def sweep_edits(db: Db, *, thread_ids: list[int], size: int) -> str: ...


@query
async def sweep_marks(
    db: Db, *, thread_ids: list[int], user_ids: list[int], kinds: list[str], seqs: list[int]
) -> str: ...


@query
async def sweep_changes(db: Db, *, thread_ids: list[int], size: int) -> str: ...


@query
async def stretches(db: Db, *, files: list[str]) -> list[asyncpg.Record]: ...


@query
async def put_reactions(db: Db, *, lines: list[str]) -> str: ...


@query
async def put_edits(db: Db, *, lines: list[str]) -> str: ...


@query
async def put_pins(db: Db, *, lines: list[str]) -> str: ...


@query
async def put_marks(db: Db, *, lines: list[str]) -> str: ...


@query
async def put_messages(db: Db, *, lines: list[str]) -> int: ...


@query
async def retreat(db: Db, *, thread_ids: list[int], lows: list[int], highs: list[int]) -> int: ...


@query
async def files(db: Db) -> list[asyncpg.Record]: ...


class ArchiveError(Exception):
    """Why it cannot be done, as a sentence for the operator."""


class Changed(Exception):
    """Somebody has changed a message between the reading and the taking."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Messages of a thread with low < seq <= high."""

    thread_id: int
    low: int
    high: int

    @property
    def count(self) -> int:
        return self.high - self.low


@dataclass(slots=True)
class Outcome:
    """What a run has done, or would do."""

    messages: int = 0
    threads: set[int] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)  # threads in which somebody changed old messages all the time
    files: list[str] = field(default_factory=list)
    longest_ms: float = 0.0  # of the transactions in which messages left


Mark = tuple[int, int, str, int]  # thread, person, kind, seq


@dataclass(slots=True)
class Content:
    """What was read of some stretches, besides the lines."""

    revs: dict[int, int]
    floors: dict[int, int] = field(default_factory=dict)  # the latest change of a message, by thread
    living: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)


# ---- files ---------------------------------------------------------------------------------------------


class Shelf:
    """The file that is being written. Nothing is made before there is something to write."""

    def __init__(self, folder: Path, *, most_bytes: int = FILE_BYTES) -> None:
        self.folder, self.name = folder, ""
        self._most_bytes = most_bytes
        self._file: BinaryIO | None = None
        self._packed: gzip.GzipFile | None = None
        self._at = 0
        self._lines = 0
        self._digest = hashlib.sha256()

    def begin(self, head: dict[str, Any]) -> None:
        """A block. Raises OSError."""
        if self._file is not None and self._file.tell() >= self._most_bytes:
            self.close()
        if self._file is None:
            self._open()
        assert self._file is not None
        self._at, self._lines, self._digest = self._file.tell(), 0, hashlib.sha256()
        self._packed = gzip.GzipFile(filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0)
        self.write([orjson.dumps(head)])

    def _open(self) -> None:
        # What was said in private threads is in it.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = datetime.now(UTC)
        self.name = f"bobbin-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.ndjson.gz"
        made = os.open(self.folder / self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(made, "w+b")
        _sync(self.folder)

    def write(self, lines: Sequence[bytes]) -> None:
        assert self._packed is not None
        data = b"".join([line + b"\n" for line in lines])
        self._digest.update(data)
        self._lines += len(lines)
        self._packed.write(data)

    def end(self) -> tuple[str, int, bytes]:
        """The file, where the block begins in it, and its digest; now it is on the disk."""
        assert self._packed is not None and self._file is not None
        last = {"end": self._lines, "sha256": self._digest.hexdigest()}
        self._packed.write(orjson.dumps(last) + b"\n")
        self._packed.close()
        self._packed = None
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.name, self._at, self._digest.digest()

    def undo(self) -> None:
        """The block that was begun last is not to be there."""
        if self._file is not None:
            if self._packed is not None:
                self._packed.close()  # now, not whenever it is collected: it writes what it has in hand
                self._packed = None
            self._file.flush()
            self._file.truncate(self._at)
            self._file.seek(self._at)

    def close(self) -> None:
        """A file without a block goes."""
        if self._file is not None:
            empty = not self._file.tell()
            self._file.close()
            if empty:
                (self.folder / self.name).unlink()
        self._file = None


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def read_block(path: Path, at_byte: int, digest: bytes) -> Iterator[tuple[str, int, bytes]]:
    """The rows of a block: table, thread, JSON of the row. Raises ArchiveError where it is not what was written.

    Only its end tells whether it is whole: believe nothing before.
    """
    seen, lines = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            file.seek(at_byte)
            for line in gzip.GzipFile(fileobj=file, mode="rb"):
                if line.startswith(b'{"end":'):
                    if (
                        orjson.loads(line) != {"end": lines, "sha256": digest.hex()}
                        or seen.digest() != digest
                    ):
                        raise ArchiveError(f"{path} is not what was written: its block at {at_byte} differs.")
                    return
                seen.update(line)
                lines += 1
                if lines > 1:
                    table, _, row = line[2:].partition(b'":')
                    row = row.rstrip(b"\n")[:-1]
                    yield table.decode(), orjson.loads(row)["thread_id"], row
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: no JSON, no UTF-8
        raise ArchiveError(f"{path} cannot be read: {error}.") from error
    raise ArchiveError(f"{path} is not whole: its block at {at_byte} has no end.")


# ---- away ----------------------------------------------------------------------------------------------


async def archive(
    conn: asyncpg.Connection,
    shelf: Shelf,
    *,
    before: datetime,
    begun_before: datetime | None = None,
    thread_id: int | None = None,
    dry_run: bool = False,
    batch: int = BATCH,
    rest: float = 0.0,
    said: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Move what was said before a moment into files, from the bottom of each thread.

    Threads whose first message came after begun_before are left alone. rest: how long to pause after each transaction,
    as a multiple of it.
    """
    outcome = Outcome()
    group: list[Stretch] = []

    async def flush() -> None:
        if group:
            began = time.monotonic()
            await _away(conn, shelf, group, outcome)
            group.clear()
            said(outcome)
            await asyncio.sleep(rest * (time.monotonic() - began))

    async for found, low, border in _due(conn, before, begun_before or before, thread_id):
        if dry_run:
            outcome.messages += border - low
            outcome.threads.add(found)
            continue
        while low < border and found not in outcome.busy:
            high = min(border, low + batch - sum(one.count for one in group))
            group.append(Stretch(found, low, high))
            low = high
            if sum(one.count for one in group) >= batch:
                await flush()
    await flush()
    return outcome


async def _due(
    conn: asyncpg.Connection, before: datetime, begun_before: datetime, thread_id: int | None
) -> AsyncIterator[tuple[int, int, int]]:
    """Threads with something to archive: the border that is there and the one that is to be."""
    after_id, up_to_id = (0, TOP) if thread_id is None else (thread_id - 1, thread_id)
    rows: list[asyncpg.Record] | None = None
    while rows is None or len(rows) == HEADS:
        rows = await due(
            conn, after_id=after_id, up_to_id=up_to_id, moment=before, begun_before=begun_before, size=HEADS
        )
        for row in rows:
            after_id = row["thread_id"]
            if row["border"] is not None and row["border"] > row["archived_seq"]:
                yield after_id, row["archived_seq"], row["border"]


async def _away(conn: asyncpg.Connection, shelf: Shelf, group: Sequence[Stretch], outcome: Outcome) -> None:
    """One transaction's worth. What is changed at the same moment is tried again, in the end thread by thread."""
    for _ in range(TRIES):
        try:
            content = await _move(conn, shelf, group, outcome)
        except (Changed, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            continue
        outcome.messages += sum(one.count for one in group)
        outcome.threads.update(one.thread_id for one in group)
        if shelf.name not in outcome.files:
            outcome.files.append(shelf.name)
        await _sweep(conn, [one.thread_id for one in group], content.marks)
        return
    if len(group) == 1:
        outcome.busy.add(group[0].thread_id)  # the next run will find it
        return
    for one in group:
        await _away(conn, shelf, [one], outcome)


async def _move(
    conn: asyncpg.Connection, shelf: Shelf, group: Sequence[Stretch], outcome: Outcome
) -> Content:
    """Write a block, and take what is in it away. Raises Changed, ArchiveError, or what a lock raises."""
    try:
        content = await _write(conn, shelf, group)
        file, at_byte, digest = await _apart(shelf.end)
        began = time.monotonic()
        await _take(conn, group, content, file=file, at_byte=at_byte, digest=digest)
    except BaseException:
        shelf.undo()
        raise
    outcome.longest_ms = max(outcome.longest_ms, (time.monotonic() - began) * 1000)
    return content


async def _write(conn: asyncpg.Connection, shelf: Shelf, group: Sequence[Stretch]) -> Content:
    """The lines of a block, as one snapshot has them."""
    which = {
        "thread_ids": [one.thread_id for one in group],
        "lows": [one.low for one in group],
        "highs": [one.high for one in group],
    }
    parts = [{"thread": one.thread_id, "first": one.low + 1, "last": one.high} for one in group]
    await _apart(shelf.begin, {"bobbinArchive": FORMAT, "stretches": parts})
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        known = await heads(conn, thread_ids=which["thread_ids"])
        content = Content({row["thread_id"]: row["last_rev"] for row in known})
        async for rows in _pages(conn, messages, **which):
            for row in rows:
                at = row["thread_id"]
                content.floors[at] = max(content.floors.get(at, 0), row["rev"])
                content.living[at] = content.living.get(at, 0) + row["living"]
                content.counts[at] = content.counts.get(at, 0) + 1
            await _lines(shelf, rows)
        for asked in (reactions, edits, pins):
            async for rows in _pages(conn, asked, **which):
                await _lines(shelf, rows)
        async for rows in _pages(conn, marks, thread_ids=which["thread_ids"], highs=which["highs"]):
            content.marks += [(row["thread_id"], row["user_id"], row["kind"], row["seq"]) for row in rows]
            await _lines(shelf, rows)
    for one in group:
        if content.counts.get(one.thread_id) != one.count:
            raise ArchiveError(
                f"Thread {one.thread_id} has not all of its messages {one.low + 1} to {one.high}."
            )
    return content


async def _lines(shelf: Shelf, rows: Sequence[asyncpg.Record]) -> None:
    await _apart(shelf.write, [row["line"].encode() for row in rows])


async def _apart(work: Callable[..., R], *args: Any) -> R:
    """In a thread, for it may take long; whoever is cancelled waits for its end."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


async def _pages(conn: asyncpg.Connection, asked: Any, **args: Any) -> AsyncIterator[list[asyncpg.Record]]:
    """The rows of a query some at a time: a message may have a thousand earlier texts."""
    block = asked.block
    cursor = await conn.cursor(block.text, *[args[name] for name in block.params])
    while rows := await cursor.fetch(LINES):
        yield rows


async def _take(
    conn: asyncpg.Connection,
    group: Sequence[Stretch],
    content: Content,
    *,
    file: str,
    at_byte: int,
    digest: bytes,
) -> None:
    ids, lows, highs = (
        [one.thread_id for one in group],
        [one.low for one in group],
        [one.high for one in group],
    )
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = {WAIT_MS}")
        gone = await take(conn, thread_ids=ids, lows=lows, highs=highs, revs=[content.revs[i] for i in ids])
        if gone != sum(one.count for one in group):
            raise Changed
        moved = await advance(
            conn,
            thread_ids=ids,
            lows=lows,
            highs=highs,
            floors=[content.floors[i] for i in ids],
            livings=[content.living[i] for i in ids],
            file=file,
            at_byte=at_byte,
            digest=digest,
        )
        if moved != len(group):
            raise Changed


async def _sweep(conn: asyncpg.Connection, thread_ids: list[int], swept: Sequence[Mark]) -> None:
    """Take away what belongs to archived messages and nobody asks for. What a crash leaves, the next run finds."""
    for start in range(0, len(swept), SWEPT):
        ids, user_ids, kinds, seqs = zip(*swept[start : start + SWEPT], strict=True)
        await sweep_marks(
            conn, thread_ids=list(ids), user_ids=list(user_ids), kinds=list(kinds), seqs=list(seqs)
        )
    for sweep in (sweep_reactions, sweep_edits, sweep_changes):
        while int((await sweep(conn, thread_ids=thread_ids, size=SWEPT)).rpartition(" ")[2]) == SWEPT:
            pass


# ---- back ----------------------------------------------------------------------------------------------

PUT = {"reactions": put_reactions, "message_edits": put_edits, "pins": put_pins, "marks": put_marks}


async def restore(
    conn: asyncpg.Connection, paths: Sequence[Path], *, thread_id: int | None = None
) -> tuple[int, list[Stretch]]:
    """Bring back what is in these files, from the border of each thread downwards.

    How many messages, and which stretches have to wait for what lies above them in another file. Raises ArchiveError;
    what was brought back until then stays.
    """
    where = {path.name: path for path in paths}
    if lost := [str(path) for path in paths if not path.is_file()]:
        raise ArchiveError(f"There is no file {', '.join(lost)}.")
    rows = await stretches(conn, files=list(where))
    if not rows:
        raise ArchiveError(f"Nothing in {', '.join(sorted(where))} is missing in this database.")
    border = {row["thread_id"]: row["archived_seq"] for row in rows}
    blocks: dict[tuple[str, int, bytes], list[Stretch]] = {}
    for row in rows:
        if thread_id in (None, row["thread_id"]):
            found = Stretch(row["thread_id"], row["first_seq"] - 1, row["last_seq"])
            blocks.setdefault((row["file"], row["at_byte"], row["digest"]), []).append(found)
    back, before = 0, -1
    while back > before:  # the latest first; a clock that went back makes another round
        before = back
        for (file, at_byte, digest), parts in blocks.items():
            fit = [one for one in parts if border[one.thread_id] == one.high]
            if fit:
                await _back(conn, where[file], at_byte, digest, fit)
                for one in fit:
                    parts.remove(one)
                    border[one.thread_id] = one.low
                    back += one.count
    return back, [one for parts in blocks.values() for one in parts]


async def _back(
    conn: asyncpg.Connection, path: Path, at_byte: int, digest: bytes, parts: Sequence[Stretch]
) -> None:
    ids = {one.thread_id for one in parts}
    _check(path, at_byte, digest)
    said: list[str] = []
    waiting: dict[str, list[str]] = {name: [] for name in PUT}

    async def put(name: str) -> None:
        # Below the border, so seen by nobody until that moves.
        await PUT[name](conn, lines=waiting[name])
        waiting[name].clear()

    for table, thread_id, row in read_block(path, at_byte, digest):
        if thread_id not in ids:
            continue
        if table == "messages":
            said.append(row.decode())
            continue
        waiting[table].append(row.decode())
        if len(waiting[table]) >= LINES:
            await put(table)
    for name in PUT:
        await put(name)
    for _ in range(BACK_TRIES):
        try:
            async with conn.transaction():
                there = await put_messages(conn, lines=said)
                await conn.execute(f"SET LOCAL lock_timeout = {WAIT_MS}")
                moved = await retreat(
                    conn,
                    thread_ids=[one.thread_id for one in parts],
                    lows=[one.low for one in parts],
                    highs=[one.high for one in parts],
                )
                if there != sum(one.count for one in parts) or moved != len(parts):
                    raise ArchiveError(f"{path}: its block at {at_byte} does not fit this database.")
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            continue
    raise ArchiveError(f"{path}: too much happens in the threads of its block at {at_byte}; try again.")


def _check(path: Path, at_byte: int, digest: bytes) -> None:
    """Raises ArchiveError when a block is not whole, not the one that was written, or of a later version."""
    for table, _, _ in read_block(path, at_byte, digest):
        if table != "messages" and table not in PUT:
            raise ArchiveError(f"{path} holds rows of {table[:40]!r}: it is of a later version.")


# ---- by the server itself ------------------------------------------------------------------------------


class Retention:
    """In each worker: archives what is older than BOBBIN_RETENTION_DAYS, of all workers one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._settings.retention_days:
            self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """What has not been committed has not been."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)

    async def _run(self) -> None:
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                outcome = await tidy(self._settings)
            except (
                Exception
            ) as error:  # the disk is full, the database away: the next run begins where this one ended
                log.event("archive.failed", level="error", reason=f"{type(error).__name__}: {error}"[:500])
            else:
                if outcome is not None and (outcome.messages or outcome.busy):
                    log.event(
                        "archive.done",
                        messages=outcome.messages,
                        threads=len(outcome.threads),
                        busy=len(outcome.busy),
                        files=outcome.files,
                    )
            await asyncio.sleep(RUN_SECONDS)


async def tidy(settings: Settings) -> Outcome | None:
    """One run of it; None when another one is at work."""
    now = datetime.now(UTC)
    before = now - timedelta(days=settings.retention_days)
    async with _connected(settings.database_url) as conn:
        if not await try_archive(conn):
            return None
        shelf = Shelf(folder_of(settings))
        try:
            return await archive(conn, shelf, before=before, begun_before=before - SLACK, rest=1.0)
        finally:
            shelf.close()


def folder_of(settings: Settings) -> Path:
    """Where the files are, if nobody says otherwise."""
    return Path(settings.archive_dir) if settings.archive_dir else settings.data_dir / "archive"


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    # No cache of statements, which is what PgBouncer needs; and a lock of the session, which it does not like.
    conn = await asyncpg.connect(
        url,
        statement_cache_size=0,
        server_settings={"application_name": "bobbin archive", "timezone": "UTC"},
    )
    try:
        yield conn
    finally:
        await conn.close()


# ---- the command ---------------------------------------------------------------------------------------


def age(text: str) -> timedelta:
    """365d, 12h, 90m, 30s."""
    match = re.fullmatch(r"(\d{1,6})([dhms])", text)
    if match is None:
        raise argparse.ArgumentTypeError("say it as 365d, 12h, 90m or 30s")
    return timedelta(seconds=int(match[1]) * AGES[match[2]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bobbin archive`."""
    parser.description = (
        "Move old messages into compressed files, while the server runs. The latest message of each thread stays. "
        "Without --older-than it takes BOBBIN_RETENTION_DAYS."
    )
    parser.add_argument("--older-than", type=age, metavar="AGE", help="as 365d, 12h, 90m or 30s")
    parser.add_argument("--thread", type=int, metavar="ID", help="of this thread alone")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the files are (BOBBIN_ARCHIVE_DIR)")
    parser.add_argument("--dry-run", action="store_true", help="only say how much it would be")
    acts = parser.add_subparsers(dest="act", metavar="act")
    back = acts.add_parser(
        "restore", help="bring back what is in these files; the latest first, or all at once"
    )
    back.add_argument("file", nargs="+", help="a path, or a name in the folder")
    back.add_argument("--thread", type=int, metavar="ID", help="of this thread alone", dest="only")
    acts.add_parser("list", help="the files that hold what is not in the database")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """0 when it is done, 1 when it cannot be or some of it has to wait, 2 when it was asked wrongly."""
    older_than = args.older_than
    if older_than is None and settings.retention_days:
        older_than = timedelta(days=settings.retention_days)
    if args.act is None and older_than is None:
        print("Say how old: --older-than 365d, or BOBBIN_RETENTION_DAYS.", file=sys.stderr)
        return 2
    folder = args.dir or folder_of(settings)
    with database(settings) as url:
        try:
            if args.act == "list":
                return asyncio.run(_list(url, folder))
            if args.act == "restore":
                paths = [_path(name, folder) for name in args.file]
                return asyncio.run(_restore(url, paths, args.only or args.thread))
            before = datetime.now(UTC) - older_than
            return asyncio.run(_archive(url, folder, before, args.thread, dry_run=args.dry_run))
        except (ArchiveError, OSError) as error:
            print(error, file=sys.stderr)
            return 1


def _path(name: str, folder: Path) -> Path:
    given = Path(name)
    return given if given.exists() or given.name != name else folder / name


async def _alone(conn: asyncpg.Connection) -> None:
    if not await try_archive(conn):
        raise ArchiveError("Another bobbin archive is at work, or the server itself; try again in a while.")


async def _archive(url: str, folder: Path, before: datetime, thread_id: int | None, *, dry_run: bool) -> int:
    shelf, began = Shelf(folder), time.monotonic()

    def said(so_far: Outcome) -> None:
        if sys.stderr.isatty():
            rate = so_far.messages / (time.monotonic() - began)
            print(f"\r{so_far.messages:,} messages, {rate:,.0f}/s ", end="", file=sys.stderr, flush=True)

    async with _connected(url) as conn:
        if not dry_run:
            await _alone(conn)
        try:
            outcome = await archive(
                conn, shelf, before=before, thread_id=thread_id, dry_run=dry_run, said=said
            )
        finally:
            shelf.close()
    if sys.stderr.isatty() and outcome.messages:
        print(file=sys.stderr)
    done = "would be archived" if dry_run else "are archived"
    where = f", in {', '.join(str(folder / name) for name in outcome.files)}" if outcome.files else ""
    print(
        f"{outcome.messages:,} messages of {len(outcome.threads):,} threads {done}{where}. "
        f"{time.monotonic() - began:.1f} s; the longest transaction took {outcome.longest_ms:.0f} ms."
        if outcome.messages and not dry_run
        else f"{outcome.messages:,} messages of {len(outcome.threads):,} threads {done}."
    )
    if outcome.busy:
        some = ", ".join(str(one) for one in sorted(outcome.busy)[:10])
        print(f"Threads whose old messages are being changed were left for later: {some}.", file=sys.stderr)
    return 1 if outcome.busy else 0


async def _restore(url: str, paths: Sequence[Path], thread_id: int | None) -> int:
    began = time.monotonic()
    async with _connected(url) as conn:
        await _alone(conn)
        back, waiting = await restore(conn, paths, thread_id=thread_id)
    print(f"{back:,} messages are back. {time.monotonic() - began:.1f} s.")
    if waiting:
        some = ", ".join(f"{one.low + 1} to {one.high} of thread {one.thread_id}" for one in waiting[:5])
        others = " and others" if len(waiting) > 5 else ""
        print(f"Not {some}{others}: what lies above is in another file, which comes first.", file=sys.stderr)
    return 1 if waiting else 0


async def _list(url: str, folder: Path) -> int:
    async with _connected(url) as conn:
        rows = await files(conn)
    for row in rows:
        path = folder / row["file"]
        size = f"{path.stat().st_size:,} bytes" if path.exists() else "NOT IN THE FOLDER"
        print(
            f"{row['at']:%Y-%m-%d %H:%M}  {row['messages']:>12,} messages  {row['threads']:>8,} threads  {path}  {size}"
        )
    if not rows:
        print("Nothing is archived.")
    return 0
