"""bobbin verify: writers, readers and faults, then what was sent is held against what was told.

The people are server/ops/crowd.py, the judgement is server/ops/evidence.py, a server of one's own server/ops/stage.py.
"""

import argparse
import asyncio
import contextlib
import math
import random
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.base.settings import Settings
from server.client import Away, Client, Follow, Refused, Socket, connections
from server.ops.crowd import (
    ACTS,
    FeedReader,
    LogReader,
    Manners,
    Pages,
    Reader,
    Thread,
    Threads,
    Writer,
    leaf,
    text_of,
)
from server.ops.evidence import FeedTold, Findings, Sends, Tally, Told, shown
from server.ops.stage import Stage, StageError

CLIENT_FAULTS = ("drop", "pause")
SERVER_FAULTS = ("worker", "valkey", "restart", "stop")  # only of a server that is ours
OPEN_SECONDS = 20.0  # until all readers read
FINISH_SECONDS = 60.0  # for the last answers to the writers
PEOPLE = 100  # at most: registering has a brake
SEND_RATE = 15.0  # a second, of one person: below the brake of a server that is not ours
THREAD_STREAM, SOCKET, FEED, SOCKET_FEED = (
    "thread stream",
    "WebSocket",
    "user stream",
    "user stream (WebSocket)",
)
READERS = 3  # people who read; each may have several readers
PAGE = 100


class CannotRun(Exception):
    """Why nothing could be proved, as a sentence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bobbin verify`."""
    parser.description = (
        "Prove that nothing is lost, told twice or out of order. Without a URL a server of its own is started on a "
        "temporary folder, and ended. On another one throwaway accounts are registered (verify-…@verify.invalid) and "
        "stay; their threads are deleted. Exit status: 0 the promise was kept, 1 it was broken, 2 it could not be run."
    )
    parser.add_argument("url", nargs="?", help="a running server, as https://chat.example.org")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the writers write (30)")
    parser.add_argument("--writers", type=int, default=4, help="people who write (4)")
    parser.add_argument("--readers", type=int, default=16, help="streams, dealt out to the transports (16)")
    parser.add_argument("--threads", type=int, default=3, help="that they write to (3)")
    parser.add_argument("--rate", type=float, default=40.0, help="acts a second of all writers together (40)")
    parser.add_argument(
        "--faults",
        help=f"comma between them: {','.join(CLIENT_FAULTS + SERVER_FAULTS)}; or none. The last four only where the "
        "server is its own (default: all that are possible)",
    )
    parser.add_argument("--random-seed", type=int, help="to do the same again, as far as chance goes")
    parser.add_argument("--json", action="store_true", help="the verdict for programs")


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    seconds: float = 30.0
    least: int = 10  # messages, however slow the machine is
    writers: int = 4
    readers: int = 16
    threads: int = 3
    rate: float = 40.0
    faults: tuple[str, ...] = CLIENT_FAULTS
    seed: int = 0
    acts: Mapping[str, int] = field(default_factory=lambda: ACTS)  # of the writers, and how often each
    settle_s: float = 30.0  # for the last events to the readers
    first_s: float | None = None  # the first pause of clients that come back; None: as the server proposes

    def refuse(self, *, ours: bool) -> None:
        """Raises CannotRun when it makes no sense."""
        unknown = set(self.faults) - {*CLIENT_FAULTS, *SERVER_FAULTS}
        if unknown:
            raise CannotRun(f"There is no fault {', '.join(sorted(unknown))}.")
        if not ours and (own := set(self.faults) & set(SERVER_FAULTS)):
            raise CannotRun(
                f"Only a server of its own can be hurt: leave out {', '.join(sorted(own))}, or the URL."
            )
        if min(self.writers, self.threads) < 1 or self.readers < 1 or self.seconds <= 0 or self.rate <= 0:
            raise CannotRun("It takes a writer, a reader, a thread, some time and a rate, at least.")
        if self.writers + READERS > PEOPLE:
            raise CannotRun(f"At most {PEOPLE - READERS} writers: registering has a brake.")
        if not ours and self.rate / self.writers > SEND_RATE:
            least = math.ceil(self.rate / SEND_RATE)
            raise CannotRun(
                f"At {self.rate:g} a second the server's brakes would be met: take {least} writers."
            )


@dataclass
class Verdict:
    """What came out."""

    url: str
    plan: Plan
    findings: Findings
    sends: Sends
    tallies: dict[str, Tally]
    missing: list[str]  # transports that the server does not have
    manners: Manners
    faults: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        return not self.findings.counts.total()

    @property
    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.kept,
            "url": self.url,
            "seed": self.plan.seed,
            "seconds": round(self.seconds, 1),
            "faults": dict(self.manners.done) | self.faults,
            "sends": self.sends.facts,
            "transports": {name: tally.facts for name, tally in self.tallies.items()},
            "missing": self.missing,
            "findings": dict(self.findings.counts),
            "examples": self.findings.examples,
        }

    def __str__(self) -> str:
        """For people."""
        sends, hurt = self.sends.facts, self.facts["faults"]
        lines = [
            f"{sends['sent']:,} messages sent, {sends['repeats']:,} sent again, {sends['edits']:,} edits, "
            f"{sends['deletions']:,} deletions. Faults: "
            + (", ".join(f"{count} x {name}" for name, count in hurt.items()) or "none"),
            "",
        ]
        columns = ("events", "lost", "duplicated", "reordered", "late", "stale", "resyncs")
        times = ("p50Ms", "p95Ms", "p99Ms")
        rows = [["", "readers", *columns, "p50 ms", "p95 ms", "p99 ms"]]
        sides = {"sends": sends | {"events": sends["acknowledged"], "stale": sends["wrong"]}}
        for name, facts in (sides | {name: tally.facts for name, tally in self.tallies.items()}).items():
            counts = [f"{facts[column]:,}" if column in facts else "" for column in ("readers", *columns)]
            rows.append(
                [name, *counts, *["-" if facts[time] is None else f"{facts[time]:g}" for time in times]]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *others in rows:
            aligned = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *aligned]))
        lines.append("")
        lines += [f"The server has no {name}: not tested." for name in self.missing]
        lines += self.findings.examples
        lines.append(
            "The promise was kept."
            if self.kept
            else f"THE PROMISE WAS BROKEN: {', '.join(f'{n} {kind}' for kind, n in self.findings.counts.items())}."
            f" Again with --random-seed {self.plan.seed}."
        )
        return "\n".join(lines)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """The exit code. The settings of this place are not asked: a server of its own is a fresh one."""
    try:
        verdict = asyncio.run(_run(args))
    except (CannotRun, StageError) as error:
        print(error, file=sys.stderr)
        return 2
    print(orjson.dumps(verdict.facts, option=orjson.OPT_INDENT_2).decode() if args.json else verdict)
    return 0 if verdict.kept else 1


async def _run(args: argparse.Namespace) -> Verdict:
    ours = args.url is None
    possible = CLIENT_FAULTS + (SERVER_FAULTS if ours else ())
    wanted = (
        possible if args.faults is None else () if args.faults == "none" else tuple(args.faults.split(","))
    )
    plan = Plan(
        seconds=args.seconds,
        writers=args.writers,
        readers=args.readers,
        threads=args.threads,
        rate=args.rate,
        faults=tuple(dict.fromkeys(wanted)),
        seed=secrets.randbelow(2**32) if args.random_seed is None else args.random_seed,
    )
    plan.refuse(ours=ours)
    if not ours:
        _say(f"{plan.writers + READERS} throwaway accounts are being registered at {args.url}.")
        return await prove(args.url, plan)
    with Stage() as stage:
        _say("A server of its own is being started on a temporary folder.")
        await stage.start()
        return await prove(stage.url, plan, stage=stage)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


async def prove(url: str, plan: Plan, *, stage: Stage | None = None) -> Verdict:
    """The whole of it, against a running server. Raises CannotRun."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(connections())
        trial = Trial(url, plan, stage, lambda: Client(url, first_s=plan.first_s, http=http))
        try:
            await trial.prepare()
            stack.push_async_callback(trial.leave)
            return await trial.run()
        except (Refused, Away) as error:
            raise CannotRun(f"{url} could not be tested: {error}") from error


class Trial:
    """One run: people and threads of its own, writers, readers, faults, verdict."""

    def __init__(self, url: str, plan: Plan, stage: Stage | None, client: Callable[[], Client]) -> None:
        self._url, self._plan, self._stage, self._client = url, plan, stage, client
        self._name = f"verify-{secrets.token_hex(4)}"
        self._chance = random.Random(plan.seed)
        self._people: list[Client] = []
        self._threads: list[Thread] = []
        self._readers: list[Reader] = []
        self._tasks: list[asyncio.Task[None]] = []
        findings = Findings()
        self._manners = Manners("drop" in plan.faults, "pause" in plan.faults)
        self._verdict = Verdict(url, plan, findings, Sends(findings), {}, [], self._manners)

    # -- before

    async def prepare(self) -> None:
        """Register people and make threads."""
        for number in range(self._plan.writers + READERS):
            person = self._client()
            await person.register(
                email=f"{self._name}-{number}@verify.invalid",
                name=f"Verify {number}",
                password=secrets.token_urlsafe(),
                username=f"{self._name}-{number}",
            )
            self._people.append(person)
        others = [person.user["id"] for person in self._people[1:]]
        for number in range(self._plan.threads):
            body = {"kind": "group", "title": f"{self._name} {number}", "memberIds": others}
            thread = (await self._people[0].ask("POST", "/api/threads", body)).data["thread"]
            self._threads.append(Thread(thread["id"], thread["streamCursor"]))
        transports = await self._transports()
        for number in range(self._plan.readers):
            self._readers.append(self._reader(number, transports[number % len(transports)]))

    async def _transports(self) -> list[str]:
        """What the server has."""
        found, person = [THREAD_STREAM], self._people[0]
        socket, feed = person.socket(), person.feed()
        for name, stream, opening in ((SOCKET, socket, socket.open), (FEED, feed, feed.open)):
            try:
                await opening()
            except Refused as error:
                if error.passing:
                    raise
                self._verdict.missing.append(name)
            else:
                found.append(name)
            finally:
                await stream.drop()
        return [*found, SOCKET_FEED] if {SOCKET, FEED} <= set(found) else found

    def _reader(self, number: int, transport: str) -> Reader:
        """Of each transport one that behaves, then one that doesn't, and so on."""
        round_ = sum(reader.tally.name == transport for reader in self._readers)
        name, person = f"reader {number}", self._reading(number)
        tally, ledger, threads = self._tally(transport), self._verdict.sends.ledger, self._threads
        manners = self._manners if round_ % 2 else Manners()
        rest = (tally, manners, random.Random(self._chance.random()))
        stream: Follow | Socket
        stream = socket = person.socket(feed=transport == SOCKET_FEED)
        socket.cursors |= {one.id: one.cursor for one in threads}
        if transport in (FEED, SOCKET_FEED):
            by_id = {one.id: one for one in threads}
            told = FeedTold(tally, name, by_id, ledger, pauses=manners.pauses)
            stream = socket if transport == SOCKET_FEED else person.feed()
            return FeedReader(name, stream, *rest, told=told, threads=by_id)
        if transport == THREAD_STREAM:
            threads = [threads[round_ // 2 % len(threads)]]
            stream = person.follow(threads[0].id, since=threads[0].cursor)
        logs = [Told(tally, name, one.id, one.cursor, ledger) for one in threads]
        return LogReader(name, stream, *rest, told=logs)

    def _reading(self, number: int) -> Client:
        """Who reads by this reader."""
        return self._people[self._plan.writers + number % READERS]

    def _tally(self, name: str) -> Tally:
        return self._verdict.tallies.setdefault(name, Tally(name, self._verdict.findings))

    # -- meanwhile

    async def run(self) -> Verdict:
        """Write, read, hurt; then judge."""
        began = time.monotonic()
        over = asyncio.Event()
        try:
            for reader in self._readers:
                self._start(reader.run())
            if not await self._until(lambda: all(reader.begun for reader in self._readers), OPEN_SECONDS):
                raise CannotRun(f"Not all streams of {self._url} could be opened.")
            writers = [self._start(work) for work in (*self._writers(over), *self._leafers(over))]
            hurting = self._start(self._hurt())
            await self._until(lambda: hurting.done() and hurting.exception() is not None, self._plan.seconds)
            ledger = self._verdict.sends.ledger
            await self._until(lambda: len(ledger) >= self._plan.least, FINISH_SECONDS)
            over.set()
            await hurting  # the last fault is recovered from
            _, late = await asyncio.wait(writers, timeout=FINISH_SECONDS)
            for writer in set(writers) - late:
                writer.result()
            if late:
                self._verdict.sends.found(
                    "unanswered", f"{len(late)} writers had no answer in {FINISH_SECONDS:g} s"
                )
            await self._judge()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for stream in [reader.stream for reader in self._readers]:
                await stream.drop()
        self._verdict.seconds = time.monotonic() - began
        return self._verdict

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    async def _until(self, true: Callable[[], bool], limit_s: float) -> bool:
        """Whether it was so within the limit. A reader that fails, by our own fault, ends everything."""
        end = time.monotonic() + limit_s
        while not true():
            for task in self._tasks[: len(self._readers)]:
                if task.done():
                    task.result()
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
        return True

    def _writers(self, over: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        found = []
        for number in range(self._plan.writers):
            person, socket = self._people[number], None
            if SOCKET in self._verdict.tallies:
                socket = person.socket()
                self._start(attend(socket))
            name, chance = f"{self._name}-w{number}", random.Random(self._chance.random())
            writer = Writer(
                name, person, socket, self._threads, self._verdict.sends, chance, acts=self._plan.acts
            )
            found.append(writer.work(self._plan.writers / self._plan.rate, over))
        return found

    def _leafers(self, over: asyncio.Event) -> list[Coroutine[Any, Any, None]]:
        people = self._people[self._plan.writers :]
        return [leaf(one, self._threads, random.Random(self._chance.random()), over) for one in people]

    async def _hurt(self) -> None:
        """One fault of the server after the other, spread over the time there is."""
        faults = [name for name in SERVER_FAULTS if name in self._plan.faults]
        if self._stage is None or not faults:
            return
        pause_s = self._plan.seconds / (len(faults) + 1)
        began = time.monotonic()
        for number, name in enumerate(faults, 1):
            await asyncio.sleep(max(0, began + number * pause_s - time.monotonic()))
            await getattr(self._stage, name)()
            self._verdict.faults[name] = self._verdict.faults.get(name, 0) + 1

    # -- after

    async def _judge(self) -> None:
        """When all is written: wait for the readers, then compare with what is there."""
        mine = [await self._fresh(self._reading(number)) for number in range(READERS)]
        readers = [(reader, mine[number % READERS]) for number, reader in enumerate(self._readers)]
        await self._until(
            lambda: all(reader.level(threads) for reader, threads in readers), self._plan.settle_s
        )
        pages: Pages = {}
        sends = self._verdict.sends
        for thread in self._threads:
            messages = await self._messages(thread)
            pages[thread.id] = {message["seq"]: shown(message) for message in messages}
            sends.judge(mine[0][thread.id], messages, thread.mine, text_of)
        for reader, threads in readers:
            reader.judge(threads, pages)
        if self._stage is not None:
            for cause in self._stage.faults:
                sends.found("wrong", f"the server answered with 500: {cause}")

    async def _fresh(self, person: Client) -> Threads:
        """The threads of this run, as the list gives them to somebody."""
        found, cursor = list[dict[str, Any]](), ""
        while True:
            page = (await person.insist("GET", f"/api/threads?limit={PAGE}{cursor}")).data
            found += page["threads"]
            if page["nextCursor"] is None:
                return {thread["id"]: thread for thread in found}
            cursor = f"&cursor={page['nextCursor']}"

    async def _messages(self, thread: Thread) -> list[dict[str, Any]]:
        """All pages, from the first message on."""
        found, cursor = list[dict[str, Any]](), ""
        while True:
            answer = await self._people[-1].insist("GET", f"{thread.path}/messages?limit={PAGE}{cursor}")
            found += answer.data["items"]
            if answer.data["nextCursor"] is None:
                return found
            cursor = f"&cursor={answer.data['nextCursor']}"

    async def leave(self) -> None:
        """Delete the threads and sign out; where the server has gone, it has gone."""
        for thread in self._threads:
            with contextlib.suppress(Refused, Away):
                await self._people[0].ask("DELETE", thread.path)
        for person in self._people:
            with contextlib.suppress(Refused, Away):
                await person.ask("POST", "/api/auth/logout")


async def attend(socket: Socket) -> None:
    """Hear the answers to what is sent by it."""
    async with socket:
        async for _ in socket:
            pass
