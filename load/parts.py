"""The parts of the benchmark: each measures one row of the issue's table, or two, and says so in words."""

import asyncio
import itertools
import json
import random
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from load import baseline, guarded, inbox, live, pgbench, stage
from load.fanout import Fanout, fanout, text_of
from load.figures import Figure, percentile, spread
from load.http_client import Address, Api, Connection, Drive, drive, request_bytes
from load.procs import Cpu, memory_kb, tree
from load.stage import Stage
from load.streams import Stream, Streams
from server.base.db import blocks

CAST = ("alice", "bob", "charlie")
LONG = 223_000
ROUNDS = 3  # of each side in turn: a slow stretch of the machine then hits both


@dataclass(frozen=True)
class Plan:
    """How long and how much; `quick` is for trying the benchmark itself, its figures say little."""

    seconds: int = 4  # of each round of pages and sends
    fanout_seconds: float = 15
    subscribers: int = 500
    idle_streams: int = 5_000
    crowd: int = 2_000
    stalled: int = 100
    pass_by_mb: int = 100
    contacts: int = inbox.CONTACTS
    messages: int = inbox.MESSAGES


QUICK = Plan(
    seconds=1,
    fanout_seconds=3,
    subscribers=100,
    idle_streams=300,
    crowd=100,
    stalled=20,
    pass_by_mb=10,
    contacts=2_000,
    messages=60_000,
)


@dataclass(frozen=True)
class Long:
    """The long thread that pages are read from."""

    thread_id: int
    last_seq: int
    what: str


def signed_in(on: Stage) -> list[Api]:
    """alice, bob and charlie with fresh tokens."""
    url = on.start_server()
    return [Api(url).login(name) for name in CAST]


def user_id(api: Api) -> int:
    return int(api.call("GET", "/api/me")["user"]["id"])


def group(owner: Api, others: list[Api], title: str) -> int:
    """The id of a new group of these people."""
    body = {"title": title, "kind": "group", "memberIds": [user_id(one) for one in others]}
    return int(owner.call("POST", "/api/threads", body)["thread"]["id"])


def long_thread(on: Stage, reader: Api) -> Long:
    """The imported channel; where its logs are not, 223,000 messages made in SQL. The reader is a member."""
    if stage.LOGS.is_dir():
        on.import_logs()
        title = "SELECT id FROM threads WHERE kind = 'channel' AND title = 'ubuntu'"
        thread_id = int(on.sql(lambda db: db.fetchval(title)))
        reader.call("POST", f"/api/threads/{thread_id}/join", {})
        what = "the imported channel"
    else:
        body = {"title": "A long one", "kind": "channel"}
        thread_id = int(reader.call("POST", "/api/threads", body)["thread"]["id"])
        on.sql(lambda db: _lengthen(db, thread_id, user_id(reader)))
        what = "a made-up channel"
    on.sql(lambda db: db.execute("VACUUM (ANALYZE) messages"))
    last_seq = int(reader.call("GET", f"/api/threads/{thread_id}")["thread"]["lastSeq"])
    return Long(thread_id, last_seq, f"{what}, {last_seq:,} messages")


async def _lengthen(db: "asyncpg.Connection[asyncpg.Record]", thread_id: int, author_id: int) -> None:
    async with db.transaction():
        await db.execute(
            """
            INSERT INTO messages (thread_id, seq, rev, author_id, text, created_at)
            SELECT $1, n, h.last_rev + n, $2, repeat(md5(n::text) || ' ', 1 + (n % 5)::int),
                now() - ($3 - n) * interval '1 second'
            FROM thread_heads h, generate_series(1, $3::bigint) n WHERE h.thread_id = $1 ORDER BY n""",
            thread_id,
            author_id,
            LONG,
        )
        await db.execute(
            """
            UPDATE thread_heads SET last_seq = $2, last_rev = last_rev + $2, log_floor = last_rev + $2,
                message_count = $2, last_message_at = now() WHERE thread_id = $1""",
            thread_id,
            LONG,
        )


def only(result: Drive, status: int) -> list[str]:
    """What went wrong: any other status."""
    return [f"{count} answers with {code}" for code, count in result.statuses.items() if code != status]


def throughput(
    name: str,
    reach: float,
    on: Stage,
    http: Callable[[], Drive],
    bench: Callable[[], pgbench.Result],
    *,
    status: int,
    what: str,
) -> Figure:
    """HTTP against pgbench, in turn. The figure is the ratio of the medians; the raw copy has every round."""
    drives, results, faults = [], [], list[str]()
    http_cpu, bench_cpu = dict[str, float](), dict[str, float]()
    for _ in range(ROUNDS):
        cpu = Cpu(on.pids())
        results.append(bench())
        bench_cpu = _plus(bench_cpu, cpu.used())
        cpu = Cpu(on.pids())
        drives.append(http())
        http_cpu = _plus(http_cpu, cpu.used())
        faults += only(drives[-1], status)
    ours = percentile([one.per_second for one in drives], 0.5)
    theirs = percentile([one.per_second for one in results], 0.5)
    latencies = [latency for one in drives for latency in one.latencies_ms]
    done = sum(len(one.latencies_ms) for one in drives)
    per = {key: value / done * 1e6 for key, value in http_cpu.items()}
    spent = " ".join(f"{key} {value:.0f}" for key, value in per.items())
    return Figure(
        name,
        f"{ours:,.0f}/s = {ours / theirs:.3f} x pgbench {theirs:,.0f}/s",
        f">= {reach}",
        ours / theirs >= reach and not faults,
        "; ".join(
            [
                *faults[:2],
                f"p50 {percentile(latencies, 0.5):.1f} p99 {percentile(latencies, 0.99):.1f} ms",
                f"cpu us/request: {spent}",
                what,
            ]
        ),
        {
            "ratio": ours / theirs,
            "http_per_second": [one.per_second for one in drives],
            "pgbench_per_second": [one.per_second for one in results],
            "http_cpu_s": http_cpu,
            "pgbench_cpu_s": bench_cpu,
            "faults": faults,
        },
    )


def _plus(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {key: round(one.get(key, 0) + value, 2) for key, value in other.items()}


def pages(on: Stage, plan: Plan) -> list[Figure]:
    """Pages of 50, ascending, at random cursors of the long thread, 16 connections."""
    reader = signed_in(on)[0]
    long = long_thread(on, reader)
    chance = random.Random(1)
    path = f"/api/threads/{long.thread_id}/messages"
    cursors = list[str]()
    for _ in range(300):
        around = reader.call("GET", f"{path}?around={chance.randint(1, long.last_seq - 100)}&limit=50")
        cursors += [around["nextCursor"]] if around["nextCursor"] else []
    wire = itertools.cycle(
        request_bytes("GET", f"{path}?order=asc&limit=50&cursor={cursor}", token=reader.token)
        for cursor in cursors
    )
    block = blocks("messages")["page_after"]
    script = pgbench.script(block.text, block.params, {"after": f"random(1, {long.last_seq - 100})"})
    constants = {"user_id": user_id(reader), "thread_id": long.thread_id, "size": 50, "direction": 1}
    return [
        throughput(
            "pages/s over HTTP, 16 connections",
            0.22,
            on,
            lambda: drive(reader.address, wire.__next__, connections=16, seconds=plan.seconds),
            lambda: pgbench.run(on.dsn, script, constants, clients=8, seconds=plan.seconds),
            status=200,
            what=long.what,
        )
    ]


def sends(on: Stage, plan: Plan) -> list[Figure]:
    """Sends with client ids over 10 threads, 16 connections; pgbench sends into 10 threads of its own."""
    cast = signed_in(on)
    ours, theirs = (
        [group(cast[0], cast[1:], f"Sends {side} {number}") for number in range(10)]
        for side in ("http", "pgbench")
    )
    text = text_of(0)
    chance, count = random.Random(2), itertools.count()
    heads = [
        request_bytes(
            "POST", f"/api/threads/{thread}/messages", token=one.token, body=b"\0" * len(send_body(text, 0))
        ).rstrip(b"\0")
        for thread in ours
        for one in cast
    ]

    def request() -> bytes:
        return chance.choice(heads) + send_body(text, next(count))

    block = blocks("messages")["send"]
    sets = {
        "_pick": "random(0, 9)",
        "_who": "random(0, 2)",
        "thread_id": pgbench.choice(theirs),
        "user_id": pgbench.choice([user_id(one) for one in cast], "_who"),
        "client_id": "random(1, 1000000000000000)",
    }
    script = pgbench.script(block.text, block.params, sets)
    constants = {"text": text, "reply_to": None, "body_hash": "\\x" + "ab" * 32, "handles": "{}"}
    figure = throughput(
        "sends/s over HTTP, 10 threads, 16 connections",
        0.55,
        on,
        lambda: drive(cast[0].address, request, connections=16, seconds=plan.seconds),
        lambda: pgbench.run(on.dsn, script, constants, clients=8, seconds=plan.seconds),
        status=201,
        what="with clientId",
    )
    return [figure]


def send_body(text: str, number: int) -> bytes:
    """A send whose length does not depend on the number."""
    return b'{"text":"%b","clientId":"bench-%012d"}' % (text.encode(), number)


def latency(on: Stage, plan: Plan) -> list[Figure]:
    """Send -> event with 1 and with many subscribers of one thread.

    In turn with two floors of the machine, so that a noisy minute hits all three: a bare broadcaster
    without a database, and the send statement without a server.
    """
    figures = []
    for subscribers, per_second, reach_ms in ((1, 20.0, 4.0), (plan.subscribers, 10.0, 15.0)):
        cast = signed_in(on)
        thread, beside = (group(cast[0], cast[1:], f"Fan-out to {subscribers}{of}") for of in ("", ", alone"))
        listen = request_bytes("GET", f"/api/threads/{thread}/stream", token=cast[0].token)
        real, bare, alone = Fanout(), Fanout(), list[float]()
        used = dict[str, float]()
        process, address = baseline.start()
        try:
            for turn in range(ROUNDS):
                post = partial(
                    post_bytes,
                    path=f"/api/threads/{thread}/messages",
                    token=cast[0].token,
                    first=turn * 10**6,
                )
                measure = partial(
                    fanout,
                    post=post,
                    subscribers=subscribers,
                    per_second=per_second,
                    seconds=plan.fanout_seconds / ROUNDS,
                )
                bare.add(measure(address, request_bytes("GET", "/")))
                alone += on.sql(
                    partial(
                        bare_sends,
                        thread_id=beside,
                        author_id=user_id(cast[0]),
                        first=turn * 10**6,
                        per_second=per_second,
                        seconds=plan.fanout_seconds / ROUNDS,
                    )
                )
                cpu = Cpu(on.pids())
                real.add(measure(cast[0].address, listen))
                used = _plus(used, cpu.used())
        finally:
            stage.end(process)
        p99, bare_p99, alone_p99 = (
            percentile(one, 0.99) for one in (real.latencies_ms, bare.latencies_ms, alone)
        )
        figures += [
            Figure(
                f"send -> event, {subscribers} subscriber{'s' * (subscribers > 1)}, {per_second:.0f} sends/s",
                spread(real.latencies_ms),
                f"p99 <= {reach_ms:g} ms",
                p99 <= reach_ms and not real.faults,
                "; ".join(
                    [
                        *real.faults[:2],
                        f"p99 = {p99 / (bare_p99 + alone_p99):.1f} x the sum of both below",
                        f"{len(real.latencies_ms):,} events",
                        f"answer p99 {percentile(real.posts_ms, 0.99):.1f} ms",
                        Cpu({}).note(used),
                    ]
                ),
                {"p99_ms": p99, "ratio": p99 / (bare_p99 + alone_p99), "faults": real.faults, "cpu_s": used},
            ),
            Figure(
                "  a bare uvloop broadcaster, in turn",
                spread(bare.latencies_ms),
                note="; ".join(bare.faults[:2]),
                raw={"p99_ms": bare_p99, "faults": bare.faults},
            ),
            Figure("  the committed send statement alone, in turn", spread(alone), raw={"p99_ms": alone_p99}),
        ]
    return figures


def post_bytes(text: str, number: int, *, path: str, token: str | None, first: int) -> bytes:
    """A send whose client id is `first` and its number."""
    return request_bytes("POST", path, token=token, body=send_body(text, first + number))


async def bare_sends(
    db: "asyncpg.Connection[asyncpg.Record]",
    *,
    thread_id: int,
    author_id: int,
    first: int,
    per_second: float,
    seconds: float,
) -> list[float]:
    """Milliseconds of the committed `send` statement alone, on one connection, at the same pace."""
    block = blocks("messages")["send"]
    statement, found = await db.prepare(block.text), []
    due = time.monotonic()
    for number in range(10 + int(per_second * seconds)):
        args: dict[str, Any] = {
            "user_id": author_id,
            "thread_id": thread_id,
            "text": text_of(number),
            "reply_to": None,
            "client_id": f"bare-{first + number}",
            "body_hash": bytes(32),
            "handles": [],
        }
        begun = time.monotonic_ns()
        row = await statement.fetchrow(*[args[name] for name in block.params])
        found.append((time.monotonic_ns() - begun) / 1e6)
        if row is None or not row["sent"]:
            raise RuntimeError("the statement sent nothing")
        due += 1 / per_second
        await asyncio.sleep(max(due - time.monotonic(), 0))  # the pace, as of the sends over HTTP
    return found[10:]


def workers(on: Stage) -> list[int]:
    """The processes below the supervisor."""
    return tree(on.pids()["server"])[1:]


def stalled(on: Stage, plan: Plan) -> list[Figure]:
    """100 sockets that never read while 100 MB of events pass by; five others get every event.

    The first fifth of the bytes fills the sockets' own buffers; from there on memory must stay flat.
    Afterwards one of the stalled reads on, and must find every event in order.
    """
    cast = signed_in(on)
    thread = group(cast[0], cast[1:], "Stalled")
    listen = request_bytes("GET", f"/api/threads/{thread}/stream", token=cast[1].token)
    text = "Ж" * 10_000  # 20 KB in UTF-8, and as an event
    total = plan.pass_by_mb * 1_000_000 // 20_200
    streams, faults = Streams(), list[str]()
    senders: list[Connection] = []
    stuck: list[Stream] = []
    try:
        stuck = [
            streams.add(Stream(cast[0].address, listen, receive_buffer_bytes=4096))
            for _ in range(plan.stalled)
        ]
        streams.until_ready(stuck)
        for one in stuck:
            streams.forget(one)
        healthy = [streams.add(Stream(cast[0].address, listen)) for _ in range(5)]
        streams.until_ready(healthy)
        pids = workers(on)
        memory = [memory_kb(pids)]
        seen, sent, passed = [0] * len(healthy), 0, 0
        senders = [Connection(cast[0].address) for _ in range(4)]
        idle_senders = list(senders)
        by_fd = {one.socket.fileno(): one for one in senders}
        for fd in by_fd:
            streams.epoll.register(fd, select.EPOLLIN)
        cpu, end = Cpu(on.pids()), time.monotonic() + 120
        while min(seen) < total and time.monotonic() < end:
            # At most 100 events ahead of the slowest healthy one: it is the stalled who are to fall behind.
            while idle_senders and sent < total and sent < min(seen) + 100:
                body = send_body(text, sent)
                path = f"/api/threads/{thread}/messages"
                idle_senders.pop().send(request_bytes("POST", path, token=cast[0].token, body=body))
                sent += 1
            for fd in streams.poll(0.5):
                if by_fd[fd].receive():
                    if by_fd[fd].status != 201:
                        faults.append(f"a send got {by_fd[fd].status}")
                    idle_senders.append(by_fd[fd])
            for index, stream in enumerate(healthy):
                for _, event in stream.take():
                    if event.kind == "message":
                        seen[index] += 1
                        if event.seq != seen[index]:
                            faults.append(f"a healthy reader got seq {event.seq} where {seen[index]} was due")
            if min(seen) * 5 // total > passed:
                passed += 1
                memory.append(memory_kb(pids))
        used = cpu.used()
        if min(seen) < total:
            faults.append(f"a healthy reader got {min(seen)} of {total} events in 120 s")
        path = f"/api/threads/{thread}/stream"
        faults += _catch_up(streams, stuck[0], cast[1].address, path, cast[1].token or "", total)
    finally:
        for sender in senders:
            sender.close()
        for stream in stuck:
            stream.close()
        streams.close()
    flat = (memory[-1] - memory[1]) / 1024 if len(memory) > 2 else float("inf")
    return [
        Figure(
            f"memory, {plan.stalled} stalled readers, {plan.pass_by_mb} MB pass by",
            f"{flat:+.1f} MB while the last 80 % pass",
            "<= +8 MB",  # noise of allocators; a queue for each reader would be gigabytes
            flat <= 8 and not faults,
            "; ".join(
                [
                    *faults[:2],
                    "MB at each fifth: " + " ".join(f"{kb / 1024:.0f}" for kb in memory),
                    f"5 others and one that reads on got all {total:,}" if not faults else "",
                    cpu.note(used),
                ]
            ),
            {"memory_kb": memory, "events": total, "faults": faults, "cpu_s": used},
        )
    ]


def _catch_up(
    streams: Streams, stream: Stream, address: Address, path: str, token: str, total: int
) -> list[str]:
    """A stalled reader reads on: faults unless each event comes once and in order within 60 s.

    A server may have hung up on it; then it comes back with its Last-Event-ID, as a browser does.
    """
    streams.add(stream)
    seen, end = 0, time.monotonic() + 60
    while seen < total and time.monotonic() < end:
        streams.poll(0.5)
        for _, event in stream.take():
            if event.kind == "message":
                seen += 1
                if event.seq != seen:
                    return [f"a stalled reader got seq {event.seq} where {seen} was due"]
        if stream.closed:
            headers = {"Last-Event-ID": stream.last_id or ""}
            stream = streams.add(Stream(address, request_bytes("GET", path, token=token, headers=headers)))
    return [f"a stalled reader got {seen} of {total} events"] if seen < total else []


def buffers(on: Stage, plan: Plan) -> list[Figure]:
    """Pages of 8 KB that Postgres touches for the first, middle and last page of 50 of the long thread."""
    reader = signed_in(on)[0]
    long = long_thread(on, reader)
    figures = []
    for name, position in (("page_after", "after"), ("page_before", "before")):
        block = blocks("messages")[name]
        shift = 0 if position == "after" else 51
        places = {"first": shift, "middle": long.last_seq // 2 + shift, "last": long.last_seq - 50 + shift}
        args = {"user_id": user_id(reader), "thread_id": long.thread_id, "size": 50, "direction": 1}
        calls = [[{**args, position: place}[one] for one in block.params] for place in places.values()]
        touched = on.sql(partial(_touched, text=block.text, calls=calls))
        middle = touched[1]
        figures.append(
            Figure(
                f"buffers of {name}, 50 messages",
                ", ".join(f"{where} {count}" for where, count in zip(places, touched, strict=True)),
                "+- 10 %",
                all(abs(count - middle) <= 0.1 * middle for count in touched),
                long.what,
                {"touched": touched},
            )
        )
    return figures


async def _touched(db: "asyncpg.Connection[asyncpg.Record]", text: str, calls: list[list[Any]]) -> list[int]:
    """Shared buffers hit or read by each call, by its second run: the first one also sets hint bits."""
    counts = []
    for args in calls:
        for _ in range(2):
            plan = json.loads(await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *args))[0][
                "Plan"
            ]
        counts.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return counts


def seed(on: Stage, plan: Plan) -> list[Figure]:
    """`server seed` as a whole command on a migrated, empty database."""
    seconds = on.seed()
    if seconds is None:
        raise RuntimeError("the database was seeded before it could be timed")
    longest, all_of_them = on.sql(
        lambda db: db.fetchrow("SELECT max(last_seq), sum(last_seq)::bigint FROM thread_heads")
    )
    return [
        Figure(
            "bobbin seed, the whole command",
            f"{seconds:.2f} s",
            "<= 1 s",
            seconds <= 1 and longest >= 20_000,
            f"{all_of_them:,} messages, the longest thread {longest:,}",
            {"seconds": seconds},
        )
    ]


def imports(on: Stage, plan: Plan) -> list[Figure]:
    """`server import irc` of the real logs as a whole command."""
    if not stage.LOGS.is_dir():
        return [Figure("import of the real logs", "no logs here", ">= 40,000/s", None, str(stage.LOGS))]
    seconds = on.import_logs()
    if seconds is None:
        raise RuntimeError("the logs were imported before it could be timed")
    count = on.sql(
        lambda db: db.fetchval(
            "SELECT last_seq FROM thread_heads JOIN threads ON id = thread_id WHERE title = 'ubuntu'"
        )
    )
    return [
        Figure(
            "import of the real logs, the whole command",
            f"{count / seconds:,.0f} messages/s",
            ">= 40,000/s",
            count / seconds >= 40_000,
            f"{count:,} messages in {seconds:.1f} s",
            {"seconds": seconds, "messages": count},
        )
    ]


def start(on: Stage, plan: Plan) -> list[Figure]:
    """`make run` in a fresh clone until it answers, then once more in the same clone."""
    folder = Path(tempfile.mkdtemp(prefix="bobbin-start-"))
    folder.chmod(0o755)
    clone = folder / "checkout"
    port = stage.free_port()
    environment = {**stage.clean_environment(), "PORT": str(port), "BOBBIN_DATA_DIR": str(folder / "data")}
    seconds, notes = list[float](), list[str]()
    try:
        run = ["git", "clone", "-q", "--no-hardlinks", str(stage.ROOT), str(clone)]
        subprocess.run(run, check=True, timeout=60)
        # The premise: the wheels are in pip's cache (or its find-links) already.
        warm = ["python3", "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder / "wheels"), "-r"]
        subprocess.run(
            [*warm, str(clone / "locks/requirements.lock")], check=True, timeout=300, capture_output=True
        )
        for _ in range(2):
            with (folder / "run.log").open("ab") as log:
                process = subprocess.Popen(
                    ["make", "run"],
                    cwd=clone,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            cpu = Cpu({"make and all below": process.pid})
            try:
                seconds.append(stage.await_answer(f"http://127.0.0.1:{port}", process, 120))
                notes.append(cpu.note())
            except RuntimeError as error:
                raise RuntimeError(f"{error}\n{(folder / 'run.log').read_text()[-2000:]}") from None
            finally:
                stage.end(process, group=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [
        Figure(f"make run, {what}", f"{took:.1f} s", f"<= {reach} s", took <= reach, note, {"seconds": took})
        for what, took, reach, note in zip(
            ("from nothing to answering", "a warm start"), seconds, (15, 3), notes, strict=True
        )
    ]


PARTS: dict[str, Callable[[Stage, Plan], list[Figure]]] = {  # in this order: seed and import are timed first
    "seed": seed,
    "import": imports,
    "buffers": buffers,
    "pages": pages,
    "sends": sends,
    "fanout": latency,
    "idle": lambda on, plan: live.idle(on, plan.idle_streams, plan.seconds * 3),
    "crowd": lambda on, plan: live.fan_out(on, plan.crowd, plan.seconds * 2),
    "reconnect": lambda on, plan: live.reconnect(on, plan.crowd),
    "merged": lambda on, plan: live.merged(on, plan.seconds * 2),
    "presence": lambda on, plan: live.presence(on, plan.crowd, plan.seconds * 2),
    "stalled": stalled,
    "access": lambda on, plan: guarded.access(on, plan.seconds / 2),
    "logins": lambda on, plan: guarded.logins(on, plan.seconds),
    "inbox": lambda on, plan: inbox.inbox(
        plan.contacts, plan.messages, plan.seconds / 2
    ),  # on a stage of its own
    "start": start,
}
