"""What following costs: parts `idle`, `crowd`, `reconnect`, `merged` and `presence` of the benchmark."""

import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from load.fanout import NUMBER, Fanout, fanout, text_of
from load.figures import Figure, percentile, spread
from load.http_client import Address, Api, Connection, address_of, request_bytes
from load.procs import Cpu, memory_kb, tree
from load.stage import Stage
from load.streams import Stream, Streams
from server.base.access import Tokens

WRITERS = 16
BEHIND = 200  # messages
FLAPS_PER_S, TYPERS_PER_S = 20, 100  # of 2,000: each comes and goes every 100 s, and types every 20 s
SIGN_UP = 500  # people made at once, in a transaction that does not hold up the horizon


@dataclass(frozen=True)
class Crowd:
    """A channel and so many members of it, each with a token."""

    address: Address
    thread_id: int
    tokens: list[str]

    @property
    def path(self) -> str:
        return f"/api/threads/{self.thread_id}"

    def listen(self, number: int, *, since: str | None = None) -> bytes:
        """The request of a member's thread stream."""
        headers = {"Last-Event-ID": since} if since else {}
        token = self.tokens[number % len(self.tokens)]
        return request_bytes("GET", f"{self.path}/stream", token=token, headers=headers)

    def follow_all(self, number: int) -> bytes:
        """That of their user stream."""
        return request_bytes("GET", "/api/stream", token=self.tokens[number % len(self.tokens)])

    def post(self, text: str, number: int, *, first: int = 0) -> bytes:
        """A send of the first member."""
        body = b'{"text":"%b","clientId":"live-%012d"}' % (text.encode(), first + number)
        return request_bytes("POST", f"{self.path}/messages", token=self.tokens[0], body=body)


def crowd(on: Stage, many: int) -> Crowd:
    """A new channel with so many people in it. They are made in SQL: to register them would take a minute."""
    address = address_of(on.start_server())
    founder = Api(on.url).login("alice")
    body = {"kind": "channel", "title": f"A crowd of {many}"}
    thread_id = int(founder.call("POST", "/api/threads", body)["thread"]["id"])
    tokens = Tokens(on.secret)
    made: list[str] = []
    for first in range(0, many, SIGN_UP):
        rows = on.sql(partial(_join, thread_id=thread_id, many=min(SIGN_UP, many - first)))
        made += [tokens.issue(user_id=row["user_id"], session_id=row["id"], seconds=3600) for row in rows]
    on.sql(lambda db: db.execute("ANALYZE memberships, users, sessions"))
    return Crowd(address, thread_id, made)


async def _join(
    db: "asyncpg.Connection[asyncpg.Record]", *, thread_id: int, many: int
) -> list[asyncpg.Record]:
    found: list[asyncpg.Record] = await db.fetch(
        """
        WITH head AS (
            UPDATE thread_heads
            SET last_rev = last_rev + $2, member_count = member_count + $2, last_xid = pg_current_xact_id()
            WHERE thread_id = $1 RETURNING last_rev - $2 AS before, last_seq
        ), person AS (
            INSERT INTO users (name) SELECT 'One of many ' || n FROM generate_series(1, $2) n RETURNING id
        ), place AS (
            SELECT id, before + row_number() OVER (ORDER BY id) AS rev, last_seq FROM person, head
        ), span AS (
            INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq)
            SELECT $1, id, rev, last_seq, last_seq FROM place
        ), change AS (
            INSERT INTO changes (thread_id, rev, kind, user_id, act) SELECT $1, rev, 'member', id, 'joined' FROM place
        )
        INSERT INTO sessions (user_id, refresh_hash, expires_at)
        SELECT id, sha256(id::text::bytea), now() + interval '1 day' FROM place
        RETURNING id, user_id""",
        thread_id,
        many,
    )
    return found


@contextmanager
def many_files() -> Iterator[None]:
    """Each stream is a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened(streams: Streams, address: Address, requests: list[bytes]) -> list[Stream]:
    """Streams that are ready, opened fifty at a time."""
    found: list[Stream] = []
    for first in range(0, len(requests), 50):
        some = [streams.add(Stream(address, request)) for request in requests[first : first + 50]]
        streams.until_ready(some)
        found += some
    return found


# ---- idle --------------------------------------------------------------------------------------


def idle(on: Stage, many: int, seconds: float) -> list[Figure]:
    """Memory and CPU of streams that only listen: half of them thread streams, half user streams."""
    gathered = crowd(on, many // 2)
    streams = Streams()
    requests = [
        request
        for number in range(many // 2)
        for request in (gathered.listen(number), gathered.follow_all(number))
    ]
    try:
        with many_files():
            opened(
                streams, gathered.address, requests[:20]
            )  # what is built once is not the price of a stream
            pids = tree(on.pids()["server"])[1:]
            before = {kind: memory_kb(pids, kind) for kind in ("Pss", "Rss")}
            opening = Cpu(on.pids())
            opened(streams, gathered.address, requests[20:])
            cost = opening.used()
            settle(streams, 3)  # what presence has to tell of them is told
            after = {kind: memory_kb(pids, kind) for kind in ("Pss", "Rss")}
            cpu = Cpu(on.pids())
            settle(streams, seconds)
            used = cpu.used()
            alive = len(streams.by_fd)
    finally:
        streams.close()
    each = {kind: (after[kind] - before[kind]) / (len(requests) - 20) for kind in before}
    share = used["server"] / seconds * 100
    note = "" if alive == len(requests) else f"{len(requests) - alive} streams ended; "
    return [
        Figure(
            f"memory per idle stream, {len(requests):,} streams",
            f"{each['Pss']:.1f} KB (PSS), {each['Rss']:.1f} KB (RSS)",
            "<= 16 KB",
            each["Pss"] <= 16 and not note,
            f"{note}half of them user streams; {before['Pss'] / 1024:.0f} -> {after['Pss'] / 1024:.0f} MB; "
            f"server cpu {cost['server'] / len(requests) * 1000:.2f} ms per stream opened",
            {"each_kb": each, "before_kb": before, "after_kb": after},
        ),
        Figure(
            "  CPU of the same while nothing happens",
            f"{share:.2f} % of a core",
            "< 2 %",
            share < 2,
            f"over {seconds:.0f} s; {Cpu({}).note(used)}",
            {"cpu_s": used, "seconds": seconds},
        ),
    ]


def settle(streams: Streams, seconds: float) -> None:
    """Read what comes and let it go, for so long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        streams.poll(left)
        for stream in streams.by_fd.values():
            stream.pieces.clear()


# ---- a thread with 2,000 subscribers ---------------------------------------------------------------


@dataclass
class Burst:
    """What a closed loop of sends gave to all subscribers together."""

    seconds: float = 0.0  # from the first send to the last event of the last subscriber
    deliveries: int = 0
    faults: list[str] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.deliveries / self.seconds if self.seconds else 0.0


def burst(
    on: Stage, gathered: Crowd, listening: list[Stream], streams: Streams, *, sends: int, first: int
) -> Burst:
    """So many sends over WRITERS connections as fast as they are answered, and every event of them taken in."""
    result, connections = Burst(), [Connection(gathered.address) for _ in range(WRITERS)]
    by_fd = {one.socket.fileno(): one for one in connections}
    for fd in by_fd:
        streams.epoll.register(fd, select.EPOLLIN)
    answered = sent = 0
    cpu, begun = Cpu(on.pids()), time.monotonic()
    try:
        for one in connections:
            one.send(gathered.post(text_of(sent), sent, first=first))
            sent += 1
        while answered < sends:
            if time.monotonic() - begun > 60:
                raise TimeoutError(f"{sends - answered} sends had no answer after 60 s")
            for fd in streams.poll(1):
                if by_fd[fd].receive():
                    answered += 1
                    if by_fd[fd].status != 201:
                        result.faults.append(f"a send got {by_fd[fd].status}")
                    if sent < sends:
                        by_fd[fd].send(gathered.post(text_of(sent), sent, first=first))
                        sent += 1
        last = drained(streams, listening, sends, result)
        result.cpu_s = cpu.used()
        result.seconds = last - begun
        result.deliveries = sends * len(listening)
    finally:
        for one in connections:
            streams.epoll.unregister(one.socket.fileno())
            one.close()
    return result


def drained(streams: Streams, listening: list[Stream], wanted: int, result: Burst) -> float:
    """When the last of the wanted messages came to the last stream (monotonic seconds): all are read, then parsed."""
    quiet_s, end = 1.0, time.monotonic() + 30
    while time.monotonic() < end:
        before = sum(len(stream.pieces) for stream in listening)
        streams.poll(quiet_s)
        if sum(len(stream.pieces) for stream in listening) == before:
            break
    last_ns = 0
    for stream in listening:
        seen = 0
        for stamp, event in stream.take():
            if event.kind == "message":
                seen += 1
                last_ns = max(last_ns, stamp)
        if seen != wanted:
            result.faults.append(f"a subscriber got {seen} of {wanted} messages")
    return last_ns / 1e9


def fan_out(on: Stage, subscribers: int, seconds: float) -> list[Figure]:
    """Deliveries per second in bursts, CPU per delivery in bursts and one at a time, latency at half the rate."""
    gathered = crowd(on, subscribers)
    requests = [gathered.listen(number) for number in range(subscribers)]
    figures, streams = [], Streams()
    with many_files():
        try:
            listening = opened(streams, gathered.address, requests)
            settle(streams, 2)
            rounds = [
                burst(on, gathered, listening, streams, sends=sends, first=number * 10**6)
                for number, sends in enumerate((50, 400, 400, 400))
            ][1:]  # the first is to warm up
        finally:
            streams.close()
        best = percentile([one.per_second for one in rounds], 0.5)
        each = [one.cpu_s["server"] / one.deliveries * 1e6 for one in rounds]
        faults = [fault for one in rounds for fault in one.faults]
        figures += [
            Figure(
                f"fan-out, {subscribers:,} subscribers of one thread, sends as fast as answered",
                f"{best:,.0f} deliveries/s",
                ">= 80,000/s",
                best >= 80_000 and not faults,
                "; ".join(
                    [
                        *faults[:2],
                        "rounds: " + " ".join(f"{one.per_second:,.0f}" for one in rounds),
                        *(Cpu({}).note(one.cpu_s) for one in rounds[:1]),
                    ]
                ),
                {"per_second": [one.per_second for one in rounds], "faults": faults},
            ),
            Figure(
                "  server CPU per delivery in bursts",
                f"{percentile(each, 0.5):.2f} us",
                "<= 6 us",
                percentile(each, 0.5) <= 6,
                "sends, Postgres's answers and all else of the server included",
                {"us": each},
            ),
        ]
        for per_second, name in ((2.0, "one at a time"), (40_000 / subscribers, "at 40,000 deliveries/s")):
            cpu = Cpu(on.pids())
            spent: Fanout = fanout(
                gathered.address,
                gathered.listen(0),
                partial(gathered.post, first=int(per_second * 10**7)),
                subscribers=subscribers,
                per_second=per_second,
                seconds=seconds,
                warm_up=2,
                on_ready=cpu.restart,
            )
            used = cpu.used()
            count = 3 + int(per_second * seconds)
            cost = used["server"] / (count * subscribers) * 1e6
            single = per_second == 2.0
            p99 = percentile(spent.latencies_ms, 0.99)
            figures.append(
                Figure(
                    f"  {name}",
                    f"{cost:.1f} us of server CPU per delivery" if single else spread(spent.latencies_ms),
                    "<= 18 us" if single else "p99 <= 150 ms",
                    (cost <= 18 if single else p99 <= 150) and not spent.faults,
                    "; ".join([*spent.faults[:2], f"p99 {p99:.1f} ms, {cost:.1f} us", Cpu({}).note(used)]),
                    {"us": cost, "p99_ms": p99, "faults": spent.faults, "cpu_s": used},
                )
            )
    return figures


# ---- after a rolling restart --------------------------------------------------------------------------


def reconnect(on: Stage, many: int) -> list[Figure]:
    """All come back at once, each so many messages behind, while somebody sends."""
    gathered = crowd(on, many)
    requests = [gathered.listen(number) for number in range(many)]
    faults, posts_ms = list[str](), list[float]()
    with many_files():
        streams = Streams()
        try:
            cursors = [_ready_at(stream) for stream in opened(streams, gathered.address, requests)]
        finally:
            streams.close()
        assert on.server is not None
        before = set(tree(on.server.pid)[1:])
        os.kill(on.server.pid, signal.SIGHUP)
        _await_change(on.server.pid, before)
        sender = Api(on.url, gathered.tokens[0])
        for number in range(BEHIND):
            sender.call("POST", f"{gathered.path}/messages", {"text": text_of(number)})
        cpu, begun = Cpu(on.pids()), time.monotonic()
        streams, connection = Streams(), Connection(gathered.address)
        try:
            back = []
            for number, cursor in enumerate(cursors):
                back.append(streams.add(Stream(gathered.address, gathered.listen(number, since=cursor))))
                if number % 100 == 0:
                    streams.poll(0)
            streams.epoll.register(connection.socket.fileno(), select.EPOLLIN)
            seen = [0] * many
            whole_at = 0.0
            sent, asked = 0, False
            while not whole_at and time.monotonic() - begun < 60:
                if not asked:
                    connection.send(gathered.post(text_of(BEHIND + sent), sent, first=9 * 10**9))
                    sent, asked = sent + 1, True
                for _ in streams.poll(0.05):
                    if connection.receive():
                        posts_ms.append((time.monotonic_ns() - connection.started_ns) / 1e6)
                        asked = False
                        if connection.status != 201:
                            faults.append(f"a send got {connection.status}")
                for index, stream in enumerate(back):
                    for _, event in stream.take() if stream.pieces else ():
                        if event.kind == "message":
                            seen[index] += 1
                            if event.seq != seen[index]:
                                faults.append(f"seq {event.seq} where {seen[index]} was due")
                        elif event.kind == "resync":
                            faults.append("a resync")
                if min(seen) >= BEHIND:
                    whole_at = time.monotonic() - begun
            used = cpu.used()
        finally:
            streams.close()
            connection.close()
    if not whole_at:
        faults.append(f"{sum(one < BEHIND for one in seen)} were not whole after 60 s")
    return [
        Figure(
            f"{many:,} reconnect at once after a rolling restart, {BEHIND} messages behind",
            f"all whole after {whole_at:.2f} s",
            "<= 5 s",
            0 < whole_at <= 5 and not faults,
            "; ".join(
                [
                    *faults[:2],
                    f"{len(posts_ms)} sends answered meanwhile, {spread(posts_ms) if posts_ms else ''}",
                    Cpu({}).note(used),
                ]
            ),
            {"seconds": whole_at, "posts_ms": posts_ms, "faults": faults, "cpu_s": used},
        )
    ]


def _ready_at(stream: Stream) -> str:
    """The cursor of its last event."""
    if stream.last_id is None:
        raise RuntimeError("a stream that is ready has no id")
    return stream.last_id


def _await_change(supervisor: int, before: set[int]) -> None:
    """Until none of the old workers is left and as many new ones are there."""
    end = time.monotonic() + 60
    while True:
        now = set(tree(supervisor)[1:])
        if not now & before and len(now) == len(before):
            return
        if time.monotonic() > end:
            raise TimeoutError("the rolling restart did not end within 60 s")
        time.sleep(0.02)


# ---- the user stream -------------------------------------------------------------------------------------


def merged(on: Stage, seconds: float) -> list[Figure]:
    """Send -> `thread` event on the user stream of somebody who is in all threads, under 16 writers."""
    address = address_of(on.start_server())
    cast = [Api(on.url).login(name) for name in ("alice", "bob", "charlie")]
    members = [int(one.call("GET", "/api/me")["user"]["id"]) for one in cast]
    threads = [
        int(
            cast[0].call(
                "POST", "/api/threads", {"title": f"Merged {n}", "kind": "group", "memberIds": members[1:]}
            )["thread"]["id"]
        )
        for n in range(10)
    ]
    streams, faults = Streams(), list[str]()
    sent_ns: list[int] = []
    told: dict[int, int] = {}
    cpu = Cpu(on.pids())
    try:
        (listener,) = opened(streams, address, [request_bytes("GET", "/api/stream", token=cast[2].token)])
        connections = [Connection(address) for _ in range(WRITERS)]
        by_fd = {one.socket.fileno(): one for one in connections}
        for fd in by_fd:
            streams.epoll.register(fd, select.EPOLLIN)

        def send(one: Connection) -> None:
            number = len(sent_ns)
            body = b'{"text":"%b","clientId":"merged-%d-%012d"}' % (
                text_of(number).encode(),
                time.time_ns(),
                number,
            )
            path = f"/api/threads/{threads[number % 10]}/messages"
            one.send(request_bytes("POST", path, token=cast[number % 2].token, body=body))
            sent_ns.append(one.started_ns)

        end = time.monotonic() + seconds
        for one in connections:
            send(one)
        waiting = len(connections)
        while waiting or (len(told) < len(sent_ns) and time.monotonic() < end + 10):
            for fd in streams.poll(0.2):
                if by_fd[fd].receive():
                    if by_fd[fd].status != 201:
                        faults.append(f"a send got {by_fd[fd].status}")
                    if time.monotonic() < end:
                        send(by_fd[fd])
                    else:
                        waiting -= 1
            if not waiting:  # parsed when the sends are over: the clock of each is its piece's stamp
                for stamp, event in listener.take():
                    found = (
                        NUMBER.search(event.data.partition(b'"message":')[2])
                        if event.kind == "thread"
                        else None
                    )
                    if found and int(found[1]) in told:
                        faults.append(f"message {int(found[1])} was told twice")
                    elif found:
                        told[int(found[1])] = stamp
        used = cpu.used()
        for one in connections:
            one.close()
    finally:
        streams.close()
    if len(told) < len(sent_ns):
        faults.append(f"{len(sent_ns) - len(told)} of {len(sent_ns)} messages were never told")
    latencies = [(stamp - sent_ns[number]) / 1e6 for number, stamp in told.items() if number >= WRITERS]
    p99 = percentile(latencies, 0.99) if latencies else float("inf")
    return [
        Figure(
            f"user stream under {WRITERS} writers, send -> thread event",
            spread(latencies) if latencies else "nothing was told",
            "p99 <= 100 ms",
            p99 <= 100 and not faults,
            "; ".join(
                [*faults[:2], f"{len(sent_ns) / seconds:,.0f} sends/s in a closed loop", Cpu({}).note(used)]
            ),
            {"p99_ms": p99, "faults": faults, "cpu_s": used},
        )
    ]


# ---- presence and typing -----------------------------------------------------------------------------------


def presence(on: Stage, many: int, seconds: float) -> list[Figure]:
    """The same coming, going and typing of 2,000 people in one thread with both switched on, and off."""
    used: dict[str, list[float]] = {"on": [], "off": []}
    notes: list[str] = []
    for turn in range(2):
        for state in ("on", "off") if turn % 2 == 0 else ("off", "on"):
            on.stop_server()
            on.settings = {"BOBBIN_PRESENCE": state, "BOBBIN_TYPING": state}
            gathered = crowd(on, many)
            cpu_s, heard = _restless(on, gathered, seconds)
            used[state].append(cpu_s / seconds * 100)
            notes.append(f"{state}: {cpu_s / seconds * 100:.1f} %, {heard:,} bytes/s heard")
    on.stop_server()
    on.settings = {}
    price = sum(used["on"]) / len(used["on"]) - sum(used["off"]) / len(used["off"])
    return [
        Figure(
            f"presence and typing for {many:,} people in one thread",
            f"{price:.1f} % of a core",
            "<= 10 %",
            price <= 10,
            f"{FLAPS_PER_S} come and go, {TYPERS_PER_S} type each second; the difference of: {'; '.join(notes)}",
            {"percent": used},
        )
    ]


def _restless(on: Stage, gathered: Crowd, seconds: float) -> tuple[float, int]:
    """CPU seconds of the server, and bytes per second heard by all, while people come, go and type."""
    many, streams = len(gathered.tokens), Streams()
    with many_files():
        try:
            here = opened(streams, gathered.address, [gathered.listen(number) for number in range(many)])
            settle(streams, 3)
            typers = [Connection(gathered.address) for _ in range(4)]
            free = {one.socket.fileno(): one for one in typers}
            by_fd = dict(free)
            for fd in by_fd:
                streams.epoll.register(fd, select.EPOLLIN)
            cpu, begun = Cpu(on.pids()), time.monotonic()
            heard = flaps = typed = 0
            while (passed := time.monotonic() - begun) < seconds:
                if flaps < passed * FLAPS_PER_S:
                    index = flaps * 7 % many
                    if not here[index].closed:
                        streams.forget(here[index])
                        here[index].close()
                    here[index] = streams.add(Stream(gathered.address, gathered.listen(index)))
                    flaps += 1
                if typed < passed * TYPERS_PER_S and free:
                    _, one = free.popitem()
                    token = gathered.tokens[typed * 11 % many]
                    one.send(
                        request_bytes(
                            "POST", f"{gathered.path}/typing", token=token, body=b'{"isTyping":true}'
                        )
                    )
                    typed += 1
                for fd in streams.poll(0.005):
                    if by_fd[fd].receive():
                        if by_fd[fd].status != 204:
                            raise RuntimeError(f"typing got {by_fd[fd].status}: {by_fd[fd].body[-200:]!r}")
                        free[fd] = by_fd[fd]
                for stream in streams.by_fd.values():
                    if stream.pieces:
                        heard += sum(len(piece) for _, piece in stream.pieces)
                        stream.pieces.clear()
            used = cpu.used()["server"]
            for one in typers:
                one.close()
        finally:
            streams.close()
    return used, int(heard / seconds)
