"""The inbox at size: the part `inbox`, all figures of the issue in one run, on a stage of its own with 2 GB of buffers.

Seeds, asks over HTTP, and writes the plan of each statement that was asked for on the way, as auto_explain saw it with
its real values, to load/out/.
"""

import contextlib
import itertools
import os
import random
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import asyncpg

from load.figures import OUT, Figure, percentile, spread
from load.http_client import Api, Drive, drive, paced, request_bytes
from load.procs import Cpu
from load.stage import Stage
from server.ops.slices import BUSIEST, Voice
from server.ops.vocabulary import LANGUAGES

CONTACTS, MESSAGES = 100_000, 5_000_000  # what the reaches are for: with fewer a figure is only told
SEED_S, SEED_MB = 180, 300
CONNECTIONS = 16
DEEP = 1_000
PAGE = 50
SENDERS_INTO = 400  # contacts
ROUNDS = 3
LONG = 20_000  # messages of the longest thread of the demo town
PAIRS = 8  # of with and without, side by side: a slow stretch of the machine then hits both
LAG_S = 2.0
SETTINGS = {
    "shared_buffers": "2GB",
    "shared_preload_libraries": "pg_stat_statements,auto_explain",
    "effective_cache_size": "3GB",
}
EXPLAINED = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_parameter_max_length": "200",
}
BESIDE = (
    "sessions.",
    "indexer.",
    "merged.",
    "replica.",
    "endings.",
    "inbox.wake",
)  # not of the question itself
SAID = re.compile(r"Query Text: /\* (\S+) \*/")
TOUCHED = re.compile(r"Buffers: shared((?: (?:hit|read|dirtied|written)=\d+)+)")


@dataclass
class Inbox:
    """The seeded server, and who asks."""

    on: Stage
    seconds: float  # of each measurement
    full: bool  # whether it is of the size that the reaches are for
    staff: Api = field(init=False)
    plans: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.staff = Api(self.on.start_server()).login("alice")

    def figure(self, name: str, measured: str, reach: str, holds: bool, note: str = "", **raw: Any) -> Figure:
        return Figure(name, measured, reach, holds if self.full else None, note, raw)

    def get(self, path: str) -> bytes:
        return request_bytes("GET", path, token=self.staff.token)

    def ask(self, requests: Callable[[], bytes], *, connections: int) -> Drive:
        """In a closed loop. RuntimeError when any answer is not 200."""
        for seconds in (self.seconds, 10 * self.seconds):  # longer where one takes so long
            found = drive(self.staff.address, requests, connections=connections, seconds=seconds)
            if len(found.latencies_ms) >= 20:
                break
        if set(found.statuses) != {200}:
            raise RuntimeError(f"answers of {dict(found.statuses)}")
        return found

    def touches(self, title: str, path: str) -> dict[str, int]:
        """Shared buffers of each statement of a GET, the second time; its plans are kept."""
        self.staff.call("GET", path)
        with explained(self.on) as told:
            self.staff.call("GET", path)
        counts: dict[str, int] = {}
        plans = []
        for entry in told():
            name = SAID.search(entry)
            if name and not name[1].startswith(BESIDE):
                counts[name[1]] = counts.get(name[1], 0) + touched(entry)
                plans.append(entry)
        self.plans.append(
            "\n\n".join([f"## {title}", f"GET {path}", *(f"```\n{plan}\n```" for plan in plans)])
        )
        return counts

    def told(self, title: str, path: str) -> str:
        """The same in words."""
        return "buffers: " + ", ".join(f"{name} {count}" for name, count in self.touches(title, path).items())


def touched(plan: str) -> int:
    """Shared buffers, hit or read, of a plan's top node."""
    found = TOUCHED.search(plan)
    return sum(int(count) for count in re.findall(r"(?:hit|read)=(\d+)", found[1])) if found else 0


@contextlib.contextmanager
def explained(on: Stage) -> Iterator[Callable[[], list[str]]]:
    """All statements meanwhile are told to the log, with plan and buffers: a function that gives them."""
    assert on.postgres is not None
    path = on.postgres.log

    async def switch(db: "asyncpg.Connection[asyncpg.Record]", to: str) -> None:
        for name, value in EXPLAINED.items():
            await db.execute(
                f"ALTER SYSTEM SET {name} = '{value}'" if to == "on" else f"ALTER SYSTEM RESET {name}"
            )
        await db.execute("SELECT pg_reload_conf()")

    on.sql(partial(switch, to="on"))
    time.sleep(0.3)  # until every session has seen it: there is no way to ask
    at = path.stat().st_size
    found: list[str] = []
    try:
        yield lambda: found
    finally:
        with path.open("rb") as log:
            log.seek(at)
            text = log.read().decode(errors="replace")
        entries = re.split(r"(?m)^(?=\d{4}-\d\d-\d\d )", text)
        found += [entry.rstrip().replace("\n\t", "\n") for entry in entries if "Query Text:" in entry]
        on.sql(partial(switch, to="off"))


def inbox(contacts: int, messages: int, seconds: float) -> list[Figure]:
    """The whole table. seconds: of each measurement."""
    with Stage(postgres=SETTINGS) as on:
        on.migrate()
        figures = [seeded(on, contacts, messages)]
        on.seeded = True
        on.sql(lambda db: db.execute("CHECKPOINT"))
        room = Inbox(on, seconds, messages >= MESSAGES and contacts >= CONTACTS)
        parts: list[Callable[[Inbox], list[Figure]]] = [
            conversations,
            stale,
            of_a_contact,
            searches,
            buffers,  # before the sends, which lay what they write apart from the rest
            sends,
        ]
        for part in parts:
            try:
                figures += part(room)
            except Exception as error:  # one line's failure must not hide the others
                figures.append(
                    Figure(part.__name__, f"failed: {str(error).splitlines()[0][:120]}", holds=False)
                )
        OUT.mkdir(exist_ok=True)
        path = OUT / f"inbox-plans-{datetime.now(UTC):%Y%m%d-%H%M%S}.md"
        path.write_text("\n\n\n".join(room.plans) + "\n")
        figures.append(Figure("plans, with buffers", os.path.relpath(path)))
    return figures


def seeded(on: Stage, contacts: int, messages: int) -> Figure:
    """`server seed --contacts --messages` as a whole command on a migrated, empty database."""
    asked = ("seed", "--contacts", str(contacts), "--messages", str(messages))
    seconds = on.command(*asked, timeout_s=900)
    memory = int(re.findall(r"at most (\d+) MB", on.said)[0])
    full = messages >= MESSAGES and contacts >= CONTACTS
    return Figure(
        f"bobbin seed, {contacts:,} contacts, {messages:,} messages, indexes and search",
        f"{seconds:.1f} s, {memory} MB in Python",
        f"<= {SEED_S} s, <= {SEED_MB} MB",
        seconds <= SEED_S and memory <= SEED_MB if full else None,
        on.said.splitlines()[1].strip() if on.said.count("\n") > 1 else "",
        {"seconds": seconds, "megabytes": memory, "said": on.said},
    )


def conversations(room: Inbox) -> list[Figure]:
    """The list, its first and a deep page: how many in a second at 16 connections, and how long one takes alone."""
    figures = []
    for page, per_second, p95_ms in ((1, 2_000, 5), (DEEP, 400, 15)):
        path = f"/api/conversations?page={page}&pageSize={PAGE}"
        if not room.staff.call("GET", path)["conversations"]:
            pages = room.staff.call("GET", path)["pagination"]["totalPages"]
            page, path = pages, f"/api/conversations?page={pages}&pageSize={PAGE}"
        wire = itertools.cycle([room.get(path)])
        alone = room.ask(wire.__next__, connections=1)
        cpu = Cpu(room.on.pids())
        many = room.ask(wire.__next__, connections=CONNECTIONS)
        p95 = percentile(alone.latencies_ms, 0.95)
        figures.append(
            room.figure(
                f"conversations, page {page:,}",
                f"{many.per_second:,.0f}/s; alone p95 {p95:.1f} ms",
                f">= {per_second:,}/s; <= {p95_ms} ms",
                many.per_second >= per_second and p95 <= p95_ms,
                f"alone {spread(alone.latencies_ms)}; 16 {spread(many.latencies_ms)}; {cpu.note(cpu.used())}; "
                f"{room.told(f'conversations, page {page}', path)}",
                per_second=many.per_second,
                p95_ms=p95,
            )
        )
    return figures


def some_contacts(room: Inbox, count: int) -> list[int]:
    async def ids(db: "asyncpg.Connection[asyncpg.Record]") -> list[int]:
        rows = await db.fetch(
            "SELECT id FROM contacts WHERE external_id LIKE 'seed-%' ORDER BY hashint8(id) LIMIT $1", count
        )
        return [row["id"] for row in rows]

    return room.on.sql(ids)


def stale(room: Inbox) -> list[Figure]:
    """A send, and the list asked for right after its answer, over another connection: is it on top?"""
    reader = Api(room.on.url, room.staff.token)
    contacts = some_contacts(room, 50)
    late, chance = 0, random.Random(3)
    tries = int(100 * room.seconds)
    for number in range(tries):
        contact, text = chance.choice(contacts), f"is it there {number}"
        room.staff.call("POST", f"/api/contacts/{contact}/messages", {"text": text})
        top = reader.call("GET", "/api/conversations?pageSize=1")["conversations"][0]
        late += (top["contactId"], top["content"]) != (contact, text)
    return [
        Figure("conversations, stale after a send", f"{late} of {tries}", "0", late == 0, raw={"late": late})
    ]


def busiest(room: Inbox) -> tuple[int, int, int]:
    """Contact, thread and last seq of the one who has written most."""

    async def one(db: "asyncpg.Connection[asyncpg.Record]") -> Any:
        return await db.fetchrow(
            """SELECT c.id, c.thread_id, h.last_seq FROM thread_heads h JOIN contacts c USING (thread_id)
               ORDER BY h.last_seq DESC LIMIT 1"""
        )

    row = room.on.sql(one)
    return row["id"], row["thread_id"], row["last_seq"]


def of_a_contact(room: Inbox) -> list[Figure]:
    """The messages of the contact who has most of them, first and last page."""
    contact, _, last_seq = busiest(room)
    figures = []
    for name, page in (("first", 1), ("deepest", -(-last_seq // PAGE))):
        path = f"/api/contacts/{contact}/messages?page={page}&pageSize={PAGE}"
        wire = itertools.cycle([room.get(path)])
        alone = room.ask(wire.__next__, connections=1)
        many = room.ask(wire.__next__, connections=CONNECTIONS)
        p95 = percentile(alone.latencies_ms, 0.95)
        figures.append(
            room.figure(
                f"messages of a contact with {last_seq:,}, {name} page",
                f"p95 {p95:.1f} ms; {many.per_second:,.0f}/s",
                "<= 5 ms",
                p95 <= 5,
                f"alone {spread(alone.latencies_ms)}; {room.told(f'messages of a contact, {name} page', path)}",
                p95_ms=p95,
                per_second=many.per_second,
            )
        )
    return figures


def needles(room: Inbox) -> dict[str, list[str]]:
    """What people look for, of each kind some."""

    async def codes(db: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
        rows = await db.fetch(
            r"""SELECT substring(text FROM '\d{6}') AS code FROM messages TABLESAMPLE SYSTEM (2)
                WHERE text ~ '\d{6}' LIMIT 100"""
        )
        return [row["code"] for row in rows]

    english, german = Voice(LANGUAGES[0]).words, Voice(LANGUAGES[1]).words
    chance = random.Random(4)
    return {
        "rare": room.on.sql(codes),
        "middling": [word for word in [*english[120:400], *german[120:400]] if len(word) >= 5],
        "common": [word for word in [*english[:40], *german[:40]] if len(word) >= 3],
        "2 letters": ["qu", "ch", "zw", "ow", "ft", "ий", "ές", "üh", "ąż", "lj", "vy", "kf"],
        "no hit": ["".join(chance.choices("bcdfghjklmnpqrstvwxz", k=9)) for _ in range(100)],
        "CJK": ["订单", "发票", "明天", "注文", "荷物", "ありがとう", "钥匙", "胡桃木", "蛇口", "请问什么"],
    }


def searches(room: Inbox) -> list[Figure]:
    """Each kind of needle by one connection, and all of them in turn by 16."""
    figures, mixed = [], []
    for kind, words in needles(room).items():
        paths = [f"/api/search?q={quote(word)}" for word in words]
        random.Random(5).shuffle(paths)
        mixed += paths[:10]
        found = [len(room.staff.call("GET", path)["results"]) for path in paths[:5]]
        alone = room.ask(map(room.get, itertools.cycle(paths)).__next__, connections=1)
        p95, reach = percentile(alone.latencies_ms, 0.95), 100 if kind == "2 letters" else 50
        figures.append(
            room.figure(
                f"search, {kind}",
                f"p95 {p95:.1f} ms",
                f"<= {reach} ms",
                p95 <= reach and (any(found) != (kind == "no hit")),
                f"{len(words)} needles; {spread(alone.latencies_ms)}; hits of the first page {found}; "
                f"{room.told(f'search, {kind}', paths[0])}",
                p95_ms=p95,
            )
        )
    random.Random(6).shuffle(mixed)
    cpu = Cpu(room.on.pids())
    many = room.ask(map(room.get, itertools.cycle(mixed)).__next__, connections=CONNECTIONS)
    figures.append(
        room.figure(
            "search, all of these, 16 connections",
            f"{many.per_second:,.0f}/s",
            ">= 100/s",
            many.per_second >= 100,
            f"{spread(many.latencies_ms)}; {cpu.note(cpu.used())}",
            per_second=many.per_second,
        )
    )
    return figures


@contextlib.contextmanager
def unindexed(on: Stage) -> Iterator[None]:
    """Meanwhile no worker indexes anything: another session holds what the indexer must hold."""
    assert on.postgres is not None
    command = [str(on.postgres.bin / "psql"), "-X", "-q", "-d", on.dsn]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert holder.stdin is not None
    holder.stdin.write("BEGIN; SELECT FROM search_place FOR UPDATE;\n")
    holder.stdin.flush()
    try:
        until(
            on,
            "SELECT count(*) = 0 FROM (SELECT FROM search_place FOR UPDATE SKIP LOCKED) free",
            "hold the indexer",
        )
        yield
    finally:
        holder.stdin.close()
        holder.wait(10)


def until(on: Stage, question: str, what: str, limit_s: float = 60) -> None:
    """Ask until it is true."""
    end = time.monotonic() + limit_s
    while not on.sql(lambda db: db.fetchval(question)):
        if time.monotonic() > end:
            raise RuntimeError(f"it took more than {limit_s} s to {what}")
        time.sleep(0.05)


def found_after(api: Api, contact: int, word: str, limit_s: float = 60) -> float:
    """Seconds from the answer to a send until search knows it."""
    api.call("POST", f"/api/contacts/{contact}/messages", {"text": f"look for {word}"})
    begun = time.monotonic()
    while not api.call("GET", f"/api/search?q={word}")["results"]:
        if time.monotonic() - begun > limit_s:
            raise RuntimeError(f"search does not find what was sent {limit_s} s ago")
        time.sleep(0.02)
    return time.monotonic() - begun


def sends(room: Inbox) -> list[Figure]:
    """Answers to contacts with the indexer at work and without it, in turn: as fast as they go, and at half of that."""
    contacts, chance = some_contacts(room, SENDERS_INTO), random.Random(7)
    numbers = itertools.count()
    words = Voice(LANGUAGES[0]).words

    def send() -> bytes:
        text = " ".join(chance.choices(words, k=10))
        body = b'{"text":"%b","clientId":"bench-%d"}' % (text.encode(), next(numbers))
        return request_bytes(
            "POST", f"/api/contacts/{chance.choice(contacts)}/messages", token=room.staff.token, body=body
        )

    behind = list[float]()  # seconds, after each round

    def caught_up() -> None:
        behind.append(found_after(room.staff, contacts[0], f"mark{time.monotonic_ns()}"))

    measured: dict[str, list[Drive]] = {"off, most": [], "on, most": [], "off, half": [], "on, half": []}
    rates = list[float]()
    go = partial(drive, room.staff.address, send, connections=CONNECTIONS, seconds=room.seconds)
    go()  # the first send of somebody in a thread makes them a member
    for _ in range(ROUNDS):
        with unindexed(room.on):
            measured["off, most"].append(go())
        caught_up()
        measured["on, most"].append(go())
        caught_up()
    off, on = (
        statistics.median(one.per_second for one in measured[f"{side}, most"]) for side in ("off", "on")
    )
    gently = partial(paced, room.staff.address, send, connections=4 * CONNECTIONS, seconds=2 * room.seconds)
    for _ in range(PAIRS):
        with unindexed(room.on):
            rates.append(go(seconds=room.seconds).per_second / 2)  # half of what the machine can do just now
            measured["off, half"].append(gently(per_second=rates[-1]))
        caught_up()
        measured["on, half"].append(gently(per_second=rates[-1]))
        caught_up()
    rate = statistics.median(rates)
    lags = lag(room, contacts[0], partial(gently, per_second=rate, seconds=8 * room.seconds))
    wrong = {code for ones in measured.values() for one in ones for code in one.statuses} - {201}
    if wrong:
        raise RuntimeError(f"sends were answered with {wrong}")
    half = {
        side: [ms for one in measured[f"{side}, half"] for ms in one.latencies_ms] for side in ("off", "on")
    }
    times = {
        share: statistics.median(
            percentile(on.latencies_ms, share) / percentile(off.latencies_ms, share)
            for on, off in zip(measured["on, half"], measured["off, half"], strict=True)
        )
        for share in (0.95, 0.99)
    }
    return [
        room.figure(
            "sends to contacts with search on, as many as go",
            f"{on:,.0f}/s = {on / off:.2f} x {off:,.0f}/s without",
            ">= 0.75",
            on / off >= 0.75,
            f"medians of {ROUNDS} rounds in turn",
            rounds={name: [one.per_second for one in ones] for name, ones in measured.items()},
        ),
        room.figure(
            f"sends to contacts with search on, {rate:,.0f}/s",
            f"p95 {times[0.95]:.2f} x as long as without",
            "<= 1.20",
            times[0.95] <= 1.2,
            f"medians of {PAIRS} pairs side by side; p99 {times[0.99]:.2f} x; all: on {spread(half['on'])}; "
            f"off {spread(half['off'])}",
            times=times,
            rates=rates,
        ),
        room.figure(
            "  until search finds a send, at that rate",
            spread([1_000 * one for one in lags]),
            f"max <= {LAG_S:g} s",
            max(lags) <= LAG_S,
            f"{len(lags)} markers; after the rounds before it took {', '.join(f'{one:.1f}' for one in behind)} s",
            lags=lags,
            behind=behind,
        ),
    ]


def lag(room: Inbox, contact: int, load: Callable[[], Drive]) -> list[float]:
    """While there is that load: seconds until marked sends are found."""
    lags: list[float] = []
    over = threading.Event()
    prober = Api(room.on.url, room.staff.token)

    def probe() -> None:
        while not over.is_set():
            lags.append(found_after(prober, contact, f"probe{time.monotonic_ns()}"))
            over.wait(0.2)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        load()
    finally:
        over.set()
        thread.join()
    return lags


def buffers(room: Inbox) -> list[Figure]:
    """Pages of 8 KB that a page of a long thread touches here, where there is nothing else, and where there are as many
    people who have said next to nothing. An index of more rows has more levels: each lookup touches one or two more."""
    _, _, length = busiest(room)
    counts: dict[str, dict[str, list[int]]] = {"here": touched_by_pages(room, "here")}
    for where, contacts, messages in (
        ("alone", 1, min(length, BUSIEST)),
        ("people", room_size(room), room_size(room)),
    ):
        with Stage(postgres=SETTINGS) as other:
            other.migrate()
            other.command("seed", "--contacts", str(contacts), "--messages", str(messages), timeout_s=300)
            other.seeded = True
            counts[where] = touched_by_pages(Inbox(other, room.seconds, room.full), where)
    figures = []
    for what, against, words in (
        ("town", "alone", "an empty database"),
        ("town", "people", "the same people without the messages"),
        ("contact", "alone", "an empty database"),
    ):
        here, there = counts["here"][what], counts[against][what]
        apart = max(abs(one / other - 1) for one, other in zip(here, there, strict=True))
        name = {
            "town": f"page of a thread of {LONG:,}",
            "contact": f"messages of a contact with {length:,}",
        }[what]
        figures.append(
            room.figure(
                f"buffers, {name}: last, middle, first; in {words}",
                f"{here}; {there}",
                "+- 10 %",
                apart <= 0.1,
                f"{apart:.1%} apart at most, {max(one - other for one, other in zip(here, there, strict=True))} pages",
                counts=counts,
            )
        )
    return figures


def room_size(room: Inbox) -> int:
    """How many contacts there are."""
    found: int = room.on.sql(lambda db: db.fetchval("SELECT count(*) FROM contacts"))
    return found


def touched_by_pages(room: Inbox, where: str) -> dict[str, list[int]]:
    """Of the long thread of the demo town, in which alice is, and of the contact who has written most."""
    contact, _, last = busiest(room)
    town = room.on.sql(
        lambda db: db.fetchval(
            """SELECT h.thread_id FROM thread_heads h JOIN threads t ON t.id = h.thread_id
               WHERE t.kind <> 'contact' AND h.last_seq = $1""",
            LONG,
        )
    )
    found: dict[str, list[int]] = {"town": [], "contact": []}
    for share in (1.0, 0.5, 0.0):
        seq = min(max(25, round(share * LONG)), LONG - 25)
        asked = f"/api/threads/{town}/messages?limit={PAGE}&around={seq}"
        found["town"].append(sum(room.touches(f"page of a thread, {where}, around {seq}", asked).values()))
        page = max(1, round((1 - share) * last / PAGE))
        asked = f"/api/contacts/{contact}/messages?pageSize={PAGE}&page={page}"
        found["contact"].append(
            sum(room.touches(f"messages of a contact, {where}, page {page}", asked).values())
        )
    return found
