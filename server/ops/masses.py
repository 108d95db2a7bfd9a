"""bobbin seed --contacts N --messages M: an inbox at size. SQL: db/queries/masses.sql.

One transaction: whatever ends it, nothing is left, and the next run begins anew. While some processes make the
messages (server/ops/slices.py), this one hands them to Postgres by COPY. In a database in which nobody has said
anything the tables are emptied in the same transaction: then the rows are frozen as they come, and the indexes are
built when all are there. Who uses the server meanwhile waits. In any other database the indexes stay, and nobody waits.
"""

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self, TextIO, TypeAlias

import asyncpg
import orjson
from tqdm import tqdm

from server import grams
from server.base.db import ROOT, Db, query
from server.ops import slices
from server.ops.embedded import die_with_parent
from server.ops.slices import EPOCH_2000, Plan, Said, Slice, micros
from server.ops.vocabulary import LABELS, LANGUAGES, NOTES

Rows: TypeAlias = list[asyncpg.Record]
Planted: TypeAlias = Callable[[asyncpg.Connection], Awaitable[None]]

PRODUCERS = 2
CHUNK_BYTES = 512 * 1024  # of COPY data in one message
PIPE_BYTES = 2**20  # the most that Linux gives to anybody
AGENTS = ("Nadia Rahimi", "Tom Sandgren", "Priya Menon", "Marek Dvořák", "Amina Diallo", "Kenji Mori")
FOUND_BY = ("search_blocks", "search_grams", "search_late")
LARGE = ("messages", "changes", *FOUND_BY)  # whose indexes are built at the end
SLOW = ("contacts_by_part",)  # an index that is, too
MOST_BEFORE = 200_000  # messages of others that are found by search together with these
MEMORY = "512MB"  # of Postgres, to build an index
LINE_S = 5.0  # between two lines of progress, where there is no terminal
SNOOZED, OPEN, RECENT = 0.03, 0.10, timedelta(days=21)  # of the older ones; of the recent ones most are open
ASSIGNED, LABELLED, DELIVERED, MAILED, NOTED = 0.6, 0.3, 0.7, 0.6, 0.1


# Of each table that a new contact has rows in, in the order of who refers to whom.
COLUMNS: dict[str, tuple[str, ...]] = {
    "users": ("id", "kind", "name", "created_at", "deactivated_at"),
    "threads": ("id", "kind", "title", "created_at"),
    "contacts": (
        *(
            "id",
            "thread_id",
            "name",
            "phone_number",
            "email",
            "external_id",
            "notes",
            "created_at",
            "updated_at",
        ),
    ),
    "thread_heads": ("thread_id", "last_seq", "last_rev", "message_count", "last_message_at"),
    "memberships": (
        *("thread_id", "user_id", "joined_rev", "joined_seq", "joined_at", "role", "read_seq"),
        *("seen_seq", "seen_at", "delivered_seq", "delivered_at"),
    ),
    "messages": slices.MESSAGE,
    "changes": slices.CHANGED,
}
PLACED = (  # of conversations: their messages must be there before them (show)
    *("thread_id", "contact_id", "name", "phone_number", "created_at", "last_at", "last_seq"),
    *("status", "snoozed_until", "assignee_id", "labels"),
)
TABLES = (*COLUMNS, "conversations")
SHOWN = 2_000  # conversations at once


@query
async def there(db: Db) -> asyncpg.Record: ...
@query
async def staff(db: Db) -> Rows: ...
@query
async def make_agents(db: Db, *, external_ids: list[str], names: list[str], created_at: datetime) -> Rows: ...
@query
async def reserve(db: Db, *, size: int) -> asyncpg.Record: ...
@query
async def indexes(db: Db, *, names: Sequence[str], others: Sequence[str]) -> Rows: ...
@query
async def hold_search(db: Db) -> str: ...
@query
async def said(db: Db, *, size: int) -> Rows: ...
@query
async def seen(db: Db) -> asyncpg.Record: ...
@query
async def show(db: Db, *, lines: list[str]) -> str: ...
@query
async def move_search(db: Db, *, place: str) -> str: ...
@query
async def sizes(db: Db, *, names: Sequence[str]) -> Rows: ...


class CannotSeed(Exception):
    """Why there will be no masses, as a sentence. Nothing was added."""


@dataclass
class Report:
    """What was done, and how long each part of it took."""

    contacts: int = 0
    messages: int = 0
    conversations: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # bytes of each table, and of its indexes
    megabytes: int = 0  # of this process and of those it has started, at most

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0) + time.monotonic() - begun

    @property
    def sentence(self) -> str:
        total = sum(self.seconds.values())
        lines = [
            f"Planted {self.contacts:,} contacts with {self.messages:,} messages in {total:.1f} s "
            f"({self.messages / max(total, 0.001):,.0f}/s), with at most {self.megabytes} MB of memory in Python.",
            "  " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.seconds.items()),
        ]
        lines += [
            f"  {name:<20} {bytes_ / 2**20:8,.1f} MB, of it indexes {of_indexes / 2**20:,.1f}"
            for name, (bytes_, of_indexes) in self.sizes.items()
        ]
        return "\n".join(lines)


class Progress:
    """A bar with rate and time left; where there is no terminal, a line now and then."""

    def __init__(self, total: int, out: TextIO | None) -> None:
        self._total, self._out, self._done = total, out, 0
        self._begun = self._told = time.monotonic()
        shows = out is not None and out.isatty()
        self._bar: tqdm[Any] = tqdm(
            total=total, unit=" messages", unit_scale=True, file=out, disable=not shows
        )
        self._plain = out is not None and not shows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._plain and (now - self._told >= LINE_S or self._done == self._total):
            self._told = now
            rate = self._done / max(now - self._begun, 0.001)
            self.say(
                f"{self._done:,} of {self._total:,} messages, {rate:,.0f}/s, "
                f"{(self._total - self._done) / rate:.0f} s left"
            )

    def say(self, line: str) -> None:
        if self._out is not None:
            tqdm.write(line, file=self._out)
            self._out.flush()


class Producer:
    """A process that makes every `of`th slice."""

    def __init__(self, plan: Plan, part: int, of: int, before: Sequence[Said]) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "server.ops.slices"],
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(slices.dumped(plan, part, of, before))
        self._process.stdin.close()
        slices.widen(self._process.stdout.fileno(), PIPE_BYTES)
        self._next: asyncio.Task[Slice] | None = None
        self._ahead()

    def _ahead(self) -> None:
        self._next = asyncio.create_task(asyncio.to_thread(self._read))

    def _read(self) -> Slice:
        assert self._process.stdout is not None
        return slices.read(self._process.stdout)

    async def slice(self) -> Slice:
        """The next one; the one after it is read meanwhile."""
        assert self._next is not None
        try:
            found = await self._next
        except EOFError:
            raise CannotSeed(f"A process that makes messages ended with {self._process.wait()}.") from None
        self._ahead()
        return found

    async def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._next is not None:
            with contextlib.suppress(EOFError):
                await self._next
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.asynccontextmanager
async def whole(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction. Whatever ends it early closes the connection: in the middle of a COPY nothing else can be said."""
    transaction = conn.transaction()
    await transaction.start()
    try:
        yield
    except BaseException:
        conn.terminate()
        raise
    await transaction.commit()


async def plant(
    conn: asyncpg.Connection, plan: Plan, *, people: Planted, progress: Progress, report: Report
) -> None:
    """All of it, in the caller's transaction. people: whatever must be there before the contacts."""
    fresh = (await there(conn))["empty"]
    made: list[str] = []
    await hold_search(conn)
    with report.timed("making room"):
        if fresh:
            made = await _emptied(conn)
        else:
            await conn.execute("; ".join(f"DELETE FROM {table}" for table in reversed(FOUND_BY)))
    with report.timed("people"):
        await people(conn)
        plan = await _placed(conn, plan)
        before = [tuple(row) for row in await said(conn, size=MOST_BEFORE + 1)]
        if len(before) > MOST_BEFORE:
            raise CannotSeed(
                f"There are more than {MOST_BEFORE:,} messages here. Use another database for it."
            )
        place = await seen(conn)
    with report.timed("messages"):
        inbox = await _messages(conn, plan, before, freeze=fresh, progress=progress)
    with report.timed("contacts"):
        await inbox.copy(conn)
    for statement in made:
        progress.say(statement.partition(" USING")[0])
        with report.timed("index of search" if "search_grams_found" in statement else "other indexes"):
            await conn.execute(statement)
    with report.timed("conversations"):
        await show_all(conn, Tables(inbox).placed())
    await move_search(conn, place=place["place"])
    report.contacts, report.messages = plan.contacts, plan.messages
    report.conversations = sum(seq > 0 for seq in inbox.seqs)


async def settle(conn: asyncpg.Connection, report: Report) -> None:
    """After the commit: tell the planner, look what it has come to."""
    with report.timed("analysis"):
        await conn.execute(f"VACUUM (ANALYZE) {', '.join(TABLES)}, tallies, search_blocks, search_late")
        # Whose statistics are those of an expression, millions of lexemes: half a minute, and nobody plans by them.
        await conn.execute("VACUUM search_grams")
    for row in await sizes(conn, names=[*TABLES, *FOUND_BY[:2]]):
        report.sizes[row["name"]] = (row["bytes"], row["of_indexes"])
    report.megabytes = memory_mb()


async def _emptied(conn: asyncpg.Connection) -> list[str]:
    """Take what is large from its indexes: the statements that make them again.

    Not blocks of masses.sql: none of this can be prepared.
    """
    rows = await indexes(conn, names=LARGE, others=SLOW)
    await conn.execute(f"TRUNCATE {', '.join(LARGE)}")
    for row in rows:
        await conn.execute(row["take"])
    await conn.execute(f"SET LOCAL maintenance_work_mem = '{MEMORY}'")
    await conn.execute("SET LOCAL max_parallel_maintenance_workers = 2")
    # Most of search_grams lies apart from its rows: by these alone it is thought too small for several.
    await conn.execute("SET LOCAL min_parallel_table_scan_size = 0")
    return [row["make"] for row in rows]


async def _placed(conn: asyncpg.Connection, plan: Plan) -> Plan:
    """The plan with the ids of those who are in it."""
    agents = [row["id"] for row in await staff(conn)]
    rows = await make_agents(
        conn,
        external_ids=[f"seed:agent:{n}" for n in range(1, len(AGENTS) + 1)],
        names=list(AGENTS),
        created_at=plan.begin - timedelta(days=1),
    )
    agents += [row["id"] for row in sorted(rows, key=lambda row: str(row["external_id"]))]
    while True:
        ids = await reserve(conn, size=plan.contacts)
        wide = plan.contacts - 1
        if ids["high_user"] - ids["low_user"] == wide and ids["high_thread"] - ids["low_thread"] == wide:
            return replace(plan, users=ids["low_user"], threads=ids["low_thread"], agents=tuple(agents))


async def _messages(
    conn: asyncpg.Connection, plan: Plan, before: Sequence[Said], *, freeze: bool, progress: Progress
) -> "Inbox":
    """By COPY, slice by slice in the order of time. What they leave behind in the inbox."""
    inbox = Inbox(plan)
    producers = [Producer(plan, part, PRODUCERS, before) for part in range(PRODUCERS)]
    try:
        done = number = 0
        while done < plan.messages:
            one = await producers[number % PRODUCERS].slice()
            await _copy(conn, "messages", slices.MESSAGE, one.rows, freeze=freeze)
            await _copy(conn, "changes", slices.CHANGED, one.changes, freeze=freeze)
            await _copy(conn, "search_blocks", grams.BLOCK_COLUMNS, one.blocks, freeze=freeze)
            await _copy(conn, "search_grams", grams.GRAM_COLUMNS, one.grams, freeze=freeze)
            inbox.hear(one.heard)
            progress.add(one.messages)
            done += one.messages
            number += 1
    finally:
        for producer in producers:
            await producer.close()
    return inbox


async def _copy(
    conn: asyncpg.Connection, table: str, columns: Sequence[str], data: bytes, *, freeze: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), CHUNK_BYTES):
            yield data[at : at + CHUNK_BYTES]

    await conn.copy_to_table(table, source=chunks(), columns=list(columns), format="binary", freeze=freeze)


async def show_all(conn: asyncpg.Connection, rows: Iterable[tuple[object, ...]]) -> None:
    """Conversations into the inbox, by PLACED; their messages are there, and an index of them."""
    lines = (orjson.dumps(dict(zip(PLACED, row, strict=True))).decode() for row in rows)
    while some := list(itertools.islice(lines, SHOWN)):
        await show(conn, lines=some)


class Inbox:
    """What is known of each contact when all is said, as arrays: there may be millions of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        count = plan.contacts
        self.seqs = array("I", bytes(4 * count))
        self.own, self.first_agent, self.second_agent = (array("I", bytes(4 * count)) for _ in range(3))
        self.since, self.last = (array("q", bytes(8 * count)) for _ in range(2))  # micros, 0: never

    def hear(self, heard: "array[int]") -> None:
        """Of a slice; they come in order."""
        told = iter(heard)
        for contact, since, last, own, first_agent, second_agent in zip(*[told] * 6, strict=True):
            self.since[contact] = self.since[contact] or since
            self.last[contact] = last
            self.own[contact] = own or self.own[contact]
            self.first_agent[contact] = first_agent or self.first_agent[contact]
            self.second_agent[contact] = second_agent or self.second_agent[contact]
            self.seqs[contact] = max(self.seqs[contact], own, first_agent, second_agent)

    async def copy(self, conn: asyncpg.Connection) -> None:
        """The contacts, their threads, and who has read how far."""
        for table, rows in Tables(self).all():
            await conn.copy_records_to_table(table, records=rows, columns=COLUMNS[table])


class Tables:
    """The rows of each table, made when they are asked for, a contact at a time and always the same."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox, self._plan = inbox, inbox.plan
        self._languages = self._plan.languages()
        self._recent = micros(self._plan.until - RECENT)

    def all(self) -> Iterator[tuple[str, Iterator[tuple[object, ...]]]]:
        """In the order of COLUMNS."""
        everyone = range(self._plan.contacts)
        yield "users", map(self.users, everyone)
        yield "threads", map(self.threads, everyone)
        yield "contacts", map(self.contacts, everyone)
        yield "thread_heads", map(self.heads, everyone)
        yield "memberships", self.memberships()

    def placed(self) -> Iterator[tuple[object, ...]]:
        """The conversations, by PLACED."""
        return map(self.conversations, range(self._plan.contacts))

    def _created(self, contact: int) -> datetime:
        since = self._inbox.since[contact]
        return moment(since) if since else self._plan.begin + timedelta(seconds=contact)

    def _name(self, contact: int) -> tuple[str, str]:
        """Given and family name."""
        language = LANGUAGES[self._languages[contact]]
        at = contact * 7_368_787 >> 3
        family, given = divmod(at, len(language.given))
        return language.given[given], language.family[family % len(language.family)]

    def name(self, contact: int) -> str:
        language, (given, family) = LANGUAGES[self._languages[contact]], self._name(contact)
        return language.joint.join((family, given) if language.family_first else (given, family))

    def users(self, contact: int) -> tuple[object, ...]:
        created = self._created(contact)
        return self._plan.users + contact, "contact", self.name(contact), created, created

    def threads(self, contact: int) -> tuple[object, ...]:
        return self._plan.threads + contact, "contact", self.name(contact), self._created(contact)

    def _phone(self, contact: int) -> str:
        code, digits = LANGUAGES[self._languages[contact]].dial
        # Each number once: the factor has no divisor in common with a power of ten.
        return f"+{code}7{contact * 7_654_321 % 10 ** (digits - 1):0{digits - 1}}"

    def contacts(self, contact: int) -> tuple[object, ...]:
        plan, created = self._plan, self._created(contact)
        chance = plan.chance("contact", contact)
        given, family = (part.lower() for part in self._name(contact))
        email = (
            f"{given}.{family}{contact}@example.com"
            if (given + family).isascii()
            else f"c{contact}@example.net"
        )
        return (
            *(plan.users + contact, plan.threads + contact, self.name(contact), self._phone(contact)),
            *(email if chance.random() < MAILED else None, f"seed-{contact + 1:07}"),
            *(chance.choice(NOTES) if chance.random() < NOTED else "", created, created),
        )

    def heads(self, contact: int) -> tuple[object, ...]:
        seq = self._inbox.seqs[contact]
        return self._plan.threads + contact, seq, seq, seq, self._last(contact)

    def _last(self, contact: int) -> datetime | None:
        last = self._inbox.last[contact]
        return moment(last) if last else None

    def _status(self, contact: int) -> str:
        share = (contact * 2_246_822_519 & 0xFFFFFFFF) / 2**32
        if share < SNOOZED:
            return "snoozed"
        recent = self._inbox.last[contact] > self._recent
        return "open" if share < (1 - OPEN if recent else OPEN) else "closed"

    def conversations(self, contact: int) -> tuple[object, ...]:
        plan, status, last = self._plan, self._status(contact), self._last(contact)
        chance = contact * 3_266_489_917 & 0xFFFFFFFF
        return (
            *(plan.threads + contact, plan.users + contact, self.name(contact), self._phone(contact)),
            *(self._created(contact), last, self._inbox.seqs[contact], status),
            plan.until + timedelta(hours=chance % 1_400 + 1) if status == "snoozed" else None,
            plan.agents_of(contact)[0] if chance < ASSIGNED * 2**32 else None,
            self._labels(contact),
        )

    def _labels(self, contact: int) -> list[str]:
        chance = self._plan.chance("labels", contact)
        if chance.random() >= LABELLED:
            return []
        shares = [1 / rank for rank in range(1, len(LABELS) + 1)]
        return sorted(set(chance.choices(LABELS, shares, k=chance.choice((1, 1, 2, 3)))))

    def memberships(self) -> Iterator[tuple[object, ...]]:
        """Of the contact, who has read up to what they wrote; and of who has answered."""
        inbox, plan, chance = self._inbox, self._plan, self._plan.chance("memberships")
        for contact in range(plan.contacts):
            thread, created, last, seq = (
                *(plan.threads + contact, self._created(contact), self._last(contact)),
                inbox.seqs[contact],
            )
            own = inbox.own[contact]
            come = seq if chance.random() < DELIVERED else own
            yield (
                *(thread, plan.users + contact, 0, 0, created, "member", own),
                *(own, last if own else None, come, last if come else None),
            )
            done = self._status(contact) == "closed"
            for agent, wrote in zip(
                plan.agents_of(contact),
                (inbox.first_agent[contact], inbox.second_agent[contact]),
                strict=True,
            ):
                if wrote:
                    read = seq if done else wrote
                    yield thread, agent, 0, 0, created, "moderator", read, read, last, read, last


def moment(micros_since_2000: int) -> datetime:
    return EPOCH_2000 + timedelta(microseconds=micros_since_2000)


def memory_mb() -> int:
    """At most, of this process and of those that it has started: the largest of them, counted for each."""
    own, others = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    kilobytes = own + PRODUCERS * others
    return kilobytes // (1024 if sys.platform == "linux" else 1024 * 1024)
