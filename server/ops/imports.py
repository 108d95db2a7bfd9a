"""bobbin import: logs of other systems become one channel, once. SQL: db/queries/bulk.sql.

A format is a function from paths to sources (server/ops/records.py) in the order of their times; all
else is the same for every format. The table imports keeps, per channel and file name, how many records
were read and their digest, written in the transaction of the messages: so a second run adds nothing,
one after a crash goes on where the last whole batch ended, and a file that has grown is continued.
"""

import argparse
import asyncio
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import asyncpg
from redis import RedisError
from redis.asyncio import Redis
from tqdm import tqdm

from server.base.settings import Settings
from server.live import bus, changes
from server.ops import bulk, irc
from server.ops.embedded import EmbeddedError, Valkey, database
from server.ops.migrate import MigrationError
from server.ops.records import Fault, LeftOut, Options, Record, Source

Format = Callable[[Sequence[Path], Options], list[Source]]
FORMATS: dict[str, Format] = {"irc": irc.sources}
SUFFIXES = (".txt", ".log")  # what is read inside a folder; a file that is named is read whatever its name
SHOWN_FAULTS = 20
LOCK_WAIT_S = 5.0  # the server may still be at the last batch of an import that was killed
TITLE_CHARS = (2, 255)

CHANGED = (
    "it differs from the {:,} records that were imported from it before; only lines at its end may be new"
)
OVERTAKEN = (
    "somebody wrote into the channel meanwhile, and older messages can't follow newer ones; "
    "import into a channel of its own that nobody uses yet"
)
GONE = "the channel was deleted meanwhile"

Told = Callable[[int, int], Awaitable[None]]


class CannotImport(Exception):
    """Why nothing could be imported, as a sentence for the operator."""


@dataclass(slots=True)
class Report:
    """What an import did, in the words of its last lines."""

    channel: str = ""
    thread_id: int = 0
    made: bool = False  # the channel
    forms: Counter[str] = field(default_factory=Counter)  # messages, actions, notices that were added
    left_out: Counter[str] = field(default_factory=Counter)  # by kind, over all lines read
    people: set[str] = field(default_factory=set)  # who said what was added
    joined: int = 0
    moved: int = 0
    files: int = 0  # with new messages
    known: int = 0  # with none
    unreadable: int = 0
    faults: list[Fault] = field(default_factory=list)  # the first SHOWN_FAULTS of them
    refused: list[str] = field(default_factory=list)  # a sentence per file
    seconds: float = 0.0

    @property
    def added(self) -> int:
        return sum(self.forms.values())

    def lines(self) -> list[str]:
        rate = f", {self.added / self.seconds:,.0f}/s" if self.added and self.seconds else ""
        notices = ", ".join(f"{kind} {n:,}" for kind, n in self.left_out.most_common())
        said = [
            f"{self.added:,} messages added to channel {self.channel} (thread {self.thread_id}"
            f"{', new' if self.made else ''}), {self.forms['action']:,} of them actions, "
            f"{self.forms['notice']:,} notices; by {len(self.people):,} people, {self.joined:,} of them new",
            f"{self.files:,} files read, {self.known:,} held nothing new, {len(self.refused):,} refused; "
            f"{self.seconds:.1f} s{rate}",
            f"left out: {self.left_out.total():,} server notices" + (f" ({notices})" if notices else ""),
            f"unreadable: {self.unreadable:,} lines",
        ]
        if self.moved:
            said.append(
                f"{self.moved:,} messages got a later time than written: time never falls in a channel"
            )
        return said


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=sorted(FORMATS))
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="files, and folders whose *.txt and *.log are read",
    )
    parser.add_argument("--channel", metavar="TITLE", help="the channel to fill; made if it isn't there")
    parser.add_argument("--thread", type=int, metavar="ID", help="the channel by its id instead")
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="where nicknames are the same person; the channel's title if not given",
    )
    parser.add_argument(
        "--date",
        type=date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="first day of files without a date in their name",
    )
    parser.add_argument(
        "--timezone", type=zone, default="UTC", metavar="ZONE", help="of the times in the files (UTC)"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write every unreadable line's place there"
    )


def zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"{name!r} is no time zone, such as Europe/Berlin") from error


def run(args: argparse.Namespace, settings: Settings) -> int:
    """0 when all is in, 1 when some files were refused, 2 when nothing could be done, 130 when stopped."""
    try:
        paths = files(args.paths, tell)
        options = Options(day=args.date, zone=args.timezone)
        with ExitStack() as stack:
            url = stack.enter_context(database(settings))
            faults = stack.enter_context(args.report.open("w", encoding="utf-8")) if args.report else None
            report = asyncio.run(_run(args, settings, url, paths, options, faults))
    except (CannotImport, EmbeddedError, MigrationError) as error:
        tell(str(error))
        return 2
    except OSError as error:
        tell(f"{error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        tell("Stopped. The same command goes on from here; nothing will be doubled.")
        return 130
    for fault in report.faults:
        tell(f"unreadable: {fault.file}:{fault.line}: {fault.reason}")
    if report.unreadable > len(report.faults):
        more = report.unreadable - len(report.faults)
        tell(f"and {more:,} more unreadable lines, all in {args.report or '--report FILE'}")
    for line in report.lines():
        print(line)
    for sentence in report.refused:
        tell(f"refused: {sentence}")
    return 1 if report.refused else 0


def tell(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


async def _run(
    args: argparse.Namespace,
    settings: Settings,
    url: str,
    paths: list[Path],
    options: Options,
    faults: TextIO | None,
) -> Report:
    redis = doorbell(settings)
    try:
        return await import_files(
            url,
            args.format,
            paths,
            channel=args.channel,
            thread_id=args.thread,
            network=args.network,
            options=options,
            committed=await ringer(redis, url) if redis else None,
            faults=faults,
            bar=sys.stderr,
        )
    finally:
        if redis is not None:
            await redis.aclose()


def doorbell(settings: Settings) -> Redis | None:
    """The Redis of the running server, if there is one."""
    if settings.redis_url:
        return Redis.from_url(settings.redis_url, socket_timeout=1, socket_connect_timeout=1)
    valkey = Valkey(settings.data_dir)
    return (
        Redis.from_url(valkey.url(), socket_timeout=1, socket_connect_timeout=1) if valkey.locked() else None
    )


async def ringer(redis: Redis, database_url: str) -> Told:
    """Tells a live server's readers that a thread has grown, user streams too, so that they look at each few batches.

    At best: without it they are a poll late.
    """
    conn = await asyncpg.connect(database_url, statement_cache_size=0)
    try:
        epoch = await changes.epoch(conn)
    finally:
        await conn.close()

    async def ring(thread_id: int, last_rev: int) -> None:
        with suppress(RedisError, OSError):
            async with redis.pipeline(transaction=False) as pipe:
                pipe.publish(bus.channel_of(epoch, thread_id), str(last_rev))
                pipe.publish(bus.channel_of(epoch, bus.CHANGED), "import")
                await pipe.execute()

    return ring


def files(paths: Sequence[Path], say: Callable[[str], None]) -> list[Path]:
    """The files of the given files and folders, each once. Raises CannotImport when one cannot be read
    or two have the same name, since names are how a second run knows them."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            for inside in sorted(path.iterdir()):
                if inside.suffix.lower() in SUFFIXES and inside.is_file():
                    found[inside] = None
                else:
                    say(f"skipped: {inside} (in a folder only *.txt and *.log are read)")
        elif path.is_file():
            found[path] = None
        elif path.exists():
            raise CannotImport(f"{path} is neither a file nor a folder.")
        else:
            raise CannotImport(f"There is no file or folder {path}.")
    names: dict[str, Path] = {}
    for path in found:
        if not os.access(path, os.R_OK):
            raise CannotImport(f"{path} may not be read.")
        other = names.setdefault(path.name, path)
        if not other.samefile(path):
            raise CannotImport(
                f"{other} and {path} have the same name; files are known by it, so rename one."
            )
    if not names:
        raise CannotImport("There is nothing to import in " + ", ".join(map(str, paths)) + ".")
    return list(names.values())


async def import_files(
    database_url: str,
    format_name: str,
    paths: Sequence[Path],
    *,
    options: Options,
    channel: str | None = None,
    thread_id: int | None = None,
    network: str | None = None,
    committed: Told | None = None,
    faults: TextIO | None = None,
    bar: TextIO | None = None,
    batch: int = bulk.BATCH,
) -> Report:
    """All of it; raises CannotImport when nothing could be begun.

    Every unreadable line is written to `faults`; `bar` is where progress is shown, if it is a terminal;
    `batch` is the number of messages of a transaction.
    """
    started = time.monotonic()
    try:
        sources = FORMATS[format_name](paths, options)
    except OSError as error:
        raise CannotImport(f"{error.filename} cannot be read: {error.strerror}.") from error
    # No cache of statements: it gains nothing here, and none is what PgBouncer needs.
    conn = await asyncpg.connect(
        database_url,
        statement_cache_size=0,
        server_settings={"application_name": "bobbin import", "timezone": "UTC"},
    )
    try:
        report = Report()
        begin = min((s.first for s in sources if s.first), default=datetime.now(UTC))
        await _channel(conn, report, channel, thread_id, begin)
        await _only_one(conn, report)
        tail = bulk.Tail(conn, report.thread_id, f"{format_name}:{network or report.channel}", committed)
        hidden = None if bar is not None and bar.isatty() else True
        total = sum(source.size_bytes for source in sources)
        shown: tqdm[Any] = tqdm(total=total, unit="B", unit_scale=True, file=bar, disable=hidden, leave=False)
        with shown:
            await _Import(tail, report, shown, batch, faults).run(sources)
        report.joined, report.moved = tail.joined, tail.moved
        if report.added > batch:
            await bulk.analyze(conn)
    finally:
        await conn.close()
    report.seconds = time.monotonic() - started
    return report


async def _channel(
    conn: asyncpg.Connection, report: Report, title: str | None, thread_id: int | None, begin: datetime
) -> None:
    """Find the channel, or make it."""
    if thread_id is not None:
        found = await bulk.living_channel(conn, thread_id=thread_id)
        if found is None:
            raise CannotImport(f"There is no channel with the id {thread_id}.")
        report.channel, report.thread_id = found, thread_id
        return
    title = (title or "").strip()
    if not TITLE_CHARS[0] <= len(title) <= TITLE_CHARS[1] or "\0" in title:
        raise CannotImport("--channel takes a title of 2 to 255 characters (or give --thread ID).")
    async with conn.transaction():
        await bulk.lock_title(conn, title=title)
        ids = [row["id"] for row in await bulk.channels_titled(conn, title=title)]
        if len(ids) > 1:
            which = ", ".join(map(str, ids))
            raise CannotImport(f"Several channels are called {title}: choose one by --thread ID, of {which}.")
        report.channel, report.made = title, not ids
        report.thread_id = (
            ids[0]
            if ids
            else await bulk.make_thread(conn, kind="channel", title=title, created_by=None, created_at=begin)
        )


async def _only_one(conn: asyncpg.Connection, report: Report) -> None:
    end = time.monotonic() + LOCK_WAIT_S
    while not await bulk.try_import(conn, thread_id=report.thread_id):
        if time.monotonic() > end:
            raise CannotImport(f"Another import into {report.channel} is running: try again when it is done.")
        await asyncio.sleep(0.1)


class _Refused(Exception):
    """The rest of this source is not taken, and why."""


@dataclass(frozen=True, slots=True)
class _Done:
    """The imports row of a source, as the last committed batch left it."""

    records: int
    digest: bytes


@dataclass(slots=True)
class _Import:
    """One run over all sources, in their order."""

    tail: bulk.Tail
    report: Report
    bar: "tqdm[Any]"
    batch: int
    faults: TextIO | None
    done: dict[str, _Done] = field(default_factory=dict)
    held_seq: int = 0  # of the channel's last message before this run,
    held: datetime | None = None  # and its time
    reached: datetime | None = None  # the latest time in the sources so far, of known records and new ones
    passed_bytes: int = 0  # of the sources before the one at hand
    waiting: list[Record] = field(default_factory=list)
    marks: dict[str, bulk.Mark] = field(default_factory=dict)

    async def run(self, sources: Sequence[Source]) -> None:
        conn, thread_id = self.tail.conn, self.tail.thread_id
        rows = await bulk.progress(conn, thread_id=thread_id)
        self.done = {row["source"]: _Done(row["records"], row["digest"]) for row in rows}
        async with conn.transaction():
            head = await bulk.lock_head(conn, thread_id=thread_id)
        if head is None:
            raise CannotImport(f"The channel {self.report.channel} was just deleted.")
        self.held_seq, self.held = head["last_seq"], head["last_at"]
        try:
            for source in sources:
                try:
                    new = await self._source(source)
                    self.report.files += new
                    self.report.known += not new
                except _Refused as refusal:
                    self.report.refused.append(f"{source.name}: {refusal}")
                self.passed_bytes += source.size_bytes
                self.bar.update(self.passed_bytes - self.bar.n)
            await self._flush()
        except bulk.Overtaken:
            self.report.refused.append(
                f"everything after the first {self.report.added:,} messages: {OVERTAKEN}"
            )
        except bulk.Gone:
            self.report.refused.append(f"everything after the first {self.report.added:,} messages: {GONE}")

    async def _source(self, source: Source) -> bool:
        """Compare what is known of a source, and take what follows; False when nothing does."""
        if source.note:
            tell(f"{source.name}: {source.note}")
        if source.last is not None and source.last > datetime.now(UTC):
            raise _Refused(
                f"it ends in the future, {source.last:%F %R} UTC; are --date and --timezone right?"
            )
        digest, records = hashlib.sha256(), 0
        known = self.done.get(source.name) or _Done(0, digest.digest())
        at_first = known.records
        for item in source.items(source):
            if isinstance(item, LeftOut):
                self.report.left_out[item.kind] += 1
                continue
            if isinstance(item, Fault):
                self._fault(item)
                continue
            if records == known.records:
                if digest.digest() != known.digest:
                    raise _Refused(CHANGED.format(known.records))
                self._may_follow(item)
            records += 1
            digest.update(f"{item.author}\0{item.form or ''}\0{item.text}\n".encode())
            if self.reached is None or item.when > self.reached:
                self.reached = item.when
            if records <= known.records:
                continue
            self.waiting.append(item)
            if len(self.waiting) == self.batch:
                self.marks[source.name] = bulk.Mark(source.name, known.records, records, digest.digest())
                await self._flush()
                self.bar.update(self.passed_bytes + source.read_bytes - self.bar.n)
                known = self.done[source.name]
        if records < known.records or (records == known.records and digest.digest() != known.digest):
            raise _Refused(CHANGED.format(known.records))
        if records > known.records:
            self.marks[source.name] = bulk.Mark(source.name, known.records, records, digest.digest())
        return records > at_first

    def _may_follow(self, record: Record) -> None:
        """Raises _Refused for a record that is older than what the channel already holds.

        Inside a run, overlapping files follow one another and the later one's times are moved up. So
        that a run goes on as it would have after it was killed, the same holds where the channel ends
        with what earlier sources brought in, and nothing else has been written since.
        """
        if self.held is None or self.waiting or self.tail.mine is not None:
            return
        if self.reached is not None and self.held <= self.reached:
            self.tail.mine = self.held_seq
        elif record.when < self.held:
            raise _Refused(
                f"its line {record.line} ({record.when:%F %R} UTC) is older than the channel's latest "
                f"message ({self.held:%F %R} UTC); time never falls in a channel, so import it into another"
            )

    def _fault(self, fault: Fault) -> None:
        self.report.unreadable += 1
        if len(self.report.faults) < SHOWN_FAULTS:
            self.report.faults.append(fault)
        if self.faults is not None:
            self.faults.write(f"{fault.file}:{fault.line}: {fault.reason}\n")

    async def _flush(self) -> None:
        """Write what is waiting, in one transaction with how far each source has come."""
        if not self.waiting:
            return
        await self.tail.append(self.waiting, list(self.marks.values()))
        self.done |= {mark.source: _Done(mark.records, mark.digest) for mark in self.marks.values()}
        self.report.forms.update(record.form or "message" for record in self.waiting)
        self.report.people.update(record.author.lower() for record in self.waiting)
        self.waiting, self.marks = [], {}
