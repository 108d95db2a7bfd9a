"""bobbin seed: the demo town, in one transaction, by COPY. Its people and words: server/ops/town.py.
SQL: db/queries/bulk.sql. With --contacts an inbox at size as well: server/ops/masses.py.

The same --random-seed and --until give the same people, threads, texts and times; only the salts of
the passwords differ.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from random import Random
from typing import TextIO

import asyncpg
from argon2 import PasswordHasher

from server.base.settings import Settings
from server.ops import bulk, masses
from server.ops.embedded import EmbeddedError, database
from server.ops.migrate import MigrationError
from server.ops.slices import Plan
from server.ops.town import CUSTOMERS, MORE, PASSWORD, PEOPLE, PLACES, TOPICS, WORDS, Person, Place, Topic

SEED = 1
BLANK = re.compile(r"\{(\w+)\}")
LONG_CHARS = 1_500  # of the few long messages, about
HOURS = (
    (10.5, 1.3),
    (15.0, 1.8),
    (19.5, 1.0),
)  # when people write: middle and spread of morning, afternoon, evening
SCRIPTS = (("katya", re.compile("[а-я]")), ("jiro", re.compile("[\u3040-\u30ff\u4e00-\u9fff]")))
ANSWER = "> "  # before what the town hall writes to a contact
SIGN_IN = f"Sign in as {', '.join(person.username for person in PEOPLE if person.signs_in)} with {PASSWORD}."
TAIL = 30  # messages at the end of a thread in which somebody is away: that is what they have not read


@dataclass(frozen=True, slots=True)
class Said:
    when: datetime
    username: str
    text: str
    reply_to: int | None


@dataclass(frozen=True, slots=True)
class Talk:
    """A thread as it will be: what is said in it, and how far each of its people has read."""

    place: Place
    people: tuple[str, ...]
    begun: datetime
    said: list[Said]
    read: dict[str, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    done: bool  # False: nothing was added
    refused: bool  # somebody else has a name that the town needs
    sentence: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--random-seed", type=int, default=SEED, metavar="N", help=f"another town ({SEED})")
    parser.add_argument(
        "--until",
        type=date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="the day before which the town falls silent (today, UTC)",
    )

    parser.add_argument(
        "--contacts",
        type=_count(1, 10_000_000),
        metavar="N",
        help="not the town alone but an inbox at size: so many contacts, a fifth of whom write four fifths",
    )
    parser.add_argument(
        "--messages", type=_count(1, 1_000_000_000), metavar="N", help="of these contacts (50 of each)"
    )


def _count(low: int, high: int) -> Callable[[str], int]:
    """A whole number within these, for argparse."""

    def number(word: str) -> int:
        value = int(word)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {low:,} to {high:,}")
        return value

    return number


def run(args: argparse.Namespace, settings: Settings) -> int:
    """0 when the town is there, 1 when it could not be planted, 2 when there is no database."""
    if args.messages and not args.contacts:
        print("--messages needs --contacts.", file=sys.stderr)
        return 2
    until = midnight(args.until)
    if until > datetime.now(UTC):
        print(
            f"--until {args.until} is in the future: its messages would stand before all new ones.",
            file=sys.stderr,
        )
        return 2
    try:
        with database(settings) as url:
            if args.contacts:
                plan = Plan(args.contacts, args.messages or 50 * args.contacts, args.random_seed, until)
                outcome = asyncio.run(seed_masses(url, plan, out=sys.stderr))
            else:
                outcome = asyncio.run(seed(url, random_seed=args.random_seed, until=until))
    except (EmbeddedError, MigrationError, masses.CannotSeed) as error:
        print(error, file=sys.stderr)
        return 2
    print(outcome.sentence, file=sys.stderr if outcome.refused else sys.stdout)
    return 1 if outcome.refused else 0


def midnight(day: date | None) -> datetime:
    return datetime.combine(day or datetime.now(UTC).date(), clock(), UTC)


async def seed_demo(database_url: str) -> str | None:
    """For the supervisor in demo mode: a sentence about what was planted, or why it was not; None when
    the town was there already."""
    outcome = await seed(database_url)
    return outcome.sentence if outcome.done or outcome.refused else None


async def seed(database_url: str, *, random_seed: int = SEED, until: datetime | None = None) -> Outcome:
    """Plant the town where it isn't there yet; all of it or nothing."""
    started = time.monotonic()
    conn = await connect(database_url)
    try:
        async with conn.transaction():
            await bulk.lock_town(conn)
            there = await already(conn)
            if there is not None:
                return there
            messages = await build(conn, random_seed, until or midnight(None))
        await bulk.analyze(conn)
    finally:
        await conn.close()
    return Outcome(
        True,
        False,
        f"Planted the demo town: {len(PEOPLE)} people, {len(PLACES)} threads, {messages:,} messages, "
        f"{len(CUSTOMERS)} contacts in {time.monotonic() - started:.2f} s. {SIGN_IN}",
    )


async def connect(database_url: str) -> asyncpg.Connection:
    # No cache of statements: it gains nothing here, and none is what PgBouncer needs.
    return await asyncpg.connect(
        database_url,
        statement_cache_size=0,
        server_settings={"application_name": "bobbin seed", "timezone": "UTC"},
    )


async def seed_masses(database_url: str, plan: Plan, *, out: TextIO | None = None) -> Outcome:
    """The town, where it isn't there yet, and an inbox at size; all of it or nothing. out: for the progress."""
    conn, report = await connect(database_url), masses.Report()
    try:
        with masses.Progress(plan.messages, out) as progress:
            async with masses.whole(conn):
                await bulk.lock_town(conn)
                built = await already(conn)
                if built is not None and built.refused:
                    return built
                there = await masses.there(conn)
                if there["masses"]:
                    return Outcome(
                        False,
                        False,
                        f"There are {there['masses']:,} seeded contacts already. Nothing was added.",
                    )
                if there["strangers"]:
                    return Outcome(
                        False,
                        True,
                        f"This database has contacts of its own ({there['strangers']:,}). Nothing was added; "
                        "use another one for it.",
                    )

                async def people(conn: asyncpg.Connection) -> None:
                    if built is None:
                        await build(conn, plan.random_seed, plan.until)

                await masses.plant(conn, plan, people=people, progress=progress, report=report)
            await masses.settle(conn, report)
    finally:
        await conn.close()
    return Outcome(True, False, f"{report.sentence}\n{SIGN_IN}")


async def already(conn: asyncpg.Connection) -> Outcome | None:
    """Why nothing is to be done; None when the ground is free."""
    ours = await bulk.known_people(conn, external_ids=[f"demo:{p.username}" for p in PEOPLE])
    if ours:
        there = await bulk.town(conn, user_ids=[row["id"] for row in ours])
        return Outcome(
            False,
            False,
            f"The demo town is there already: its {len(ours)} people have begun {there['threads']:,} threads "
            f"with {there['messages']:,} messages. Nothing was added.",
        )
    taken = await bulk.taken_names(
        conn,
        handles=[p.username for p in PEOPLE],
        emails=[email for p in PEOPLE if (email := address(p)) is not None],
    )
    if taken:
        names = ", ".join(row["username"] or row["email"] for row in taken)
        return Outcome(
            False,
            True,
            f"The demo town needs names that other accounts have ({names}). Nothing was added; "
            "use another database for it.",
        )
    return None


def address(person: Person) -> str | None:
    return f"{person.username}@example.com" if person.signs_in else None


def password_hash(person: Person) -> str | None:
    if not person.signs_in:
        return None
    return PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(PASSWORD)


async def build(conn: asyncpg.Connection, random_seed: int, until: datetime) -> int:
    """The town, in the caller's transaction. How many messages it has in its threads."""
    hashing = asyncio.gather(*(asyncio.to_thread(password_hash, person) for person in PEOPLE))
    talks = await asyncio.to_thread(town, random_seed, until)
    ids = await plant(conn, talks, await hashing)
    await plant_customers(conn, ids, Random(f"{random_seed} customers"), until)
    return sum(len(talk.said) for talk in talks)


async def plant(conn: asyncpg.Connection, talks: Sequence[Talk], hashes: list[str | None]) -> dict[str, int]:
    """The people and their threads; who is who."""
    rows = await bulk.make_townspeople(
        conn,
        external_ids=[f"demo:{p.username}" for p in PEOPLE],
        usernames=[p.username for p in PEOPLE],
        names=[p.name for p in PEOPLE],
        emails=[address(p) for p in PEOPLE],
        roles=[p.role for p in PEOPLE],
        password_hashes=hashes,
        created_at=min(talk.begun for talk in talks),
    )
    ids = {row["external_id"].removeprefix("demo:"): int(row["id"]) for row in rows}
    for talk in talks:
        await plant_talk(conn, talk, ids)
    return ids


async def plant_customers(
    conn: asyncpg.Connection, ids: dict[str, int], chance: Random, until: datetime
) -> None:
    """The contacts, each with what was said to and fro. Who has answered has read up to there."""
    place = await masses.reserve(conn, size=len(CUSTOMERS))
    tables: dict[str, list[tuple[object, ...]]] = {table: [] for table in masses.COLUMNS}
    placed: list[tuple[object, ...]] = []
    for number, one in enumerate(CUSTOMERS):
        contact, thread, agent = (
            place["low_user"] + number,
            place["low_thread"] + number,
            ids[one.assignee or "bob"],
        )
        times = [until - timedelta(hours=one.hours)]
        while len(times) < len(one.lines):
            times.insert(0, times[0] - timedelta(seconds=round(chance.lognormvariate(5.5, 1.2), 3)))
        answered = [line.startswith(ANSWER) for line in one.lines]
        count, begun = len(one.lines), times[0]
        own, theirs = (
            max((n for n, is_theirs in enumerate(answered, 1) if is_theirs == of), default=0) for of in (0, 1)
        )
        tables["users"].append((contact, "contact", one.name, begun, begun))
        tables["threads"].append((thread, "contact", one.name, begun))
        tables["contacts"].append(
            (
                contact,
                thread,
                one.name,
                one.phone_number,
                one.email,
                f"demo-{number + 1}",
                one.notes,
                begun,
                begun,
            )
        )
        tables["thread_heads"].append((thread, count, count, count, times[-1]))
        wakes = until + timedelta(days=7) if one.status == "snoozed" else None
        placed.append(
            (
                thread,
                contact,
                one.name,
                one.phone_number,
                begun,
                times[-1],
                count,
                one.status,
                wakes,
                one.assignee and ids[one.assignee],
                sorted(one.labels),
            )
        )
        tables["memberships"].append(
            (thread, contact, 0, 0, begun, "member", own, own, times[own - 1], own, times[own - 1])
        )
        if theirs:
            seen = times[theirs - 1]
            tables["memberships"].append(
                (thread, agent, 0, 0, begun, "moderator", theirs, theirs, seen, theirs, seen)
            )
        for seq, line in enumerate(one.lines, 1):
            author = agent if answered[seq - 1] else contact
            tables["messages"].append((thread, seq, seq, author, line.removeprefix(ANSWER), times[seq - 1]))
            tables["changes"].append((thread, seq, "message", seq))
    for table, rows in tables.items():
        await conn.copy_records_to_table(table, records=rows, columns=masses.COLUMNS[table])
    await masses.show_all(conn, placed)


async def plant_talk(conn: asyncpg.Connection, talk: Talk, ids: dict[str, int]) -> None:
    """One thread: its people join (revs 1 to n), then all is said."""
    place, joined = talk.place, len(talk.people)
    thread_id = await bulk.make_thread(
        conn, kind=place.kind, title=place.title, created_by=ids[talk.people[0]], created_at=talk.begun
    )
    if place.kind == "direct":
        low, high = sorted(ids[name] for name in talk.people)
        await bulk.pair(conn, low_user_id=low, high_user_id=high, thread_id=thread_id)
    roles = ["member" if i or place.kind == "direct" else "admin" for i in range(joined)]
    await bulk.copy_members(
        conn,
        [
            (thread_id, ids[name], i + 1, 0, talk.begun, roles[i], talk.read[name])
            for i, name in enumerate(talk.people)
        ],
    )
    await bulk.copy_messages(
        conn,
        [
            (thread_id, seq, joined + seq, ids[said.username], said.reply_to, None, said.text, said.when)
            for seq, said in enumerate(talk.said, start=1)
        ],
    )
    count = len(talk.said)
    await bulk.advance_head(
        conn,
        thread_id=thread_id,
        last_seq=count,
        last_rev=joined + count,
        added=count,
        last_at=talk.said[-1].when,
    )


def town(random_seed: int, until: datetime) -> list[Talk]:
    """All threads. Each draws from its own stream of chance, so that a change in one leaves the others."""
    return [talk(place, Random(f"{random_seed} {n}"), until) for n, place in enumerate(PLACES)]


def talk(place: Place, chance: Random, until: datetime) -> Talk:
    people = place.people or tuple(person.username for person in PEOPLE)
    loud = {person.username: person.talk for person in PEOPLE if person.username in people}
    away = chance.choice([p.username for p in PEOPLE if p.signs_in and p.username in people])
    tail = min(chance.randint(3, TAIL), place.messages // 10)
    topic = TOPICS[place.topic]
    begin = until - timedelta(days=place.days)
    said: list[Said] = []
    when = begin
    for start, size in bursts(place, chance, until):
        when = max(when, start)
        absent = away if len(said) + size > place.messages - tail else None
        for line in burst(topic, {n: w for n, w in loud.items() if n != absent}, size, chance):
            # Who answers reads first, and writes the longer the more there is to say.
            pause = chance.lognormvariate(3.0, 0.9) + len(line.text) * chance.uniform(0.05, 0.25)
            when = min(when + timedelta(seconds=round(pause, 3)), until)
            answered = None if line.answers is None else len(said) + 1 - line.answers
            said.append(Said(when, line.username, line.text, answered))
    last = {line.username: seq for seq, line in enumerate(said, start=1)}
    read = {
        name: max(
            last.get(name, 0), len(said) - (0 if chance.random() < 0.5 else chance.randint(0, 4 * TAIL))
        )
        for name in people
    }
    read[away] = max(last.get(away, 0), len(said) - tail)
    return Talk(place, people, begin - timedelta(hours=1), said, read)


def bursts(place: Place, chance: Random, until: datetime) -> list[tuple[datetime, int]]:
    """When people come together, and how many messages they write; in order, all of the place's messages."""
    sizes: list[int] = []
    left = place.messages
    while left:
        sizes.append(min(left, 1 + int(chance.lognormvariate(1.6, 0.8))))
        left -= sizes[-1]
    starts: list[datetime] = []
    while len(starts) < len(sizes):
        day = until - timedelta(days=chance.randint(1, place.days))
        if day.weekday() >= 5 and chance.random() < 0.5:
            continue  # half as much at weekends
        middle, spread = chance.choice(HOURS)
        hour = min(max(chance.gauss(middle, spread), 6.5), 22.5)
        starts.append(day + timedelta(seconds=round(hour * 3600, 3)))
    return list(zip(sorted(starts), sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Line:
    username: str
    text: str
    answers: int | None = None  # how many lines back the question is, where the answer quotes it


def burst(topic: Topic, loud: dict[str, float], size: int, chance: Random) -> list[Line]:
    """Some people for some minutes: questions and their answers, remarks in between."""
    here = list(dict.fromkeys(chance.choices(list(loud), list(loud.values()), k=5)))
    lines: list[Line] = []
    while len(lines) < size:
        if chance.random() < 0.55 or size - len(lines) < 2:
            remark = sentence(chance.choice(topic.said), chance)
            native = next((name for name, script in SCRIPTS if name in loud and script.search(remark)), None)
            lines.append(Line(native or chance.choice(here), remark))
            continue
        asked, answers = chance.choice(topic.asked)
        asker = chance.choice(here)
        lines.append(Line(asker, sentence(asked, chance)))
        others = [name for name in here if name != asker] or [name for name in loud if name != asker] or here
        question = len(lines) - 1
        replies = chance.sample(answers, min(len(answers), chance.choice((1, 1, 2, 3)), size - len(lines)))
        for reply in replies:
            back = len(lines) - question if chance.random() < 0.3 else None
            fresh = [name for name in others if name != lines[-1].username] or others
            lines.append(Line(chance.choice(fresh), sentence(reply, chance), back))
        if len(lines) < size and chance.random() < 0.3:
            lines.append(
                Line(
                    asker, chance.choice(("Thanks!", "Thank you 🙏", "Ah, good to know.", "Спасибо!", "ok!"))
                )
            )
    return lines


def sentence(form: str, chance: Random) -> str:
    """A form with its blanks filled, now and then followed by more; lengths are about log-normal."""
    said = filled(form, chance)
    if (luck := chance.random()) > 0.3:
        return said
    if luck < 0.004:
        while len(said) < LONG_CHARS * chance.uniform(0.4, 1.6):
            said += " " + filled(chance.choice(MORE), chance)
        return said
    for _ in range(int(chance.lognormvariate(0.3, 0.7))):
        said += " " + filled(chance.choice(MORE), chance)
    return said


def filled(form: str, chance: Random) -> str:
    said = BLANK.sub(lambda blank: chance.choice(WORDS[blank[1]]), form)
    return said[0].upper() + said[1:]
