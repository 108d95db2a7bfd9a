"""What asking who somebody is, and how often they come, costs: the parts `access` and `logins`.

python -m load.guarded LISTENER_FD STATUS_FD USER_ID   (a worker that asks neither, for comparison)
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from typing import Any

import orjson

from load.figures import Figure, percentile
from load.http_client import Api, Connection, Drive, address_of, drive, request_bytes
from load.procs import cpu_seconds
from load.stage import ROOT, Stage
from server.ops import embedded

GUARDED = 0  # instead of a USER_ID: the worker asks as always
ROUNDS = 3  # of quiet and crowd in turn
SLICES = 8  # of each side in turn: a slow stretch of the machine then hits both
CONNECTIONS = 4
CROWD = 20  # people who log in at once
PROBES_PER_S = 200
REACH_RATIO, REACH_MS = 1.25, 5.0


def unguarded(user_id: int) -> None:
    """In this process every request is this person's, and none is too many; or, for GUARDED, all is as it
    is but that no bucket ever runs dry: one person here asks as often as hundreds do."""
    from server.base import limits
    from server.base.access import Caller
    from server.base.front import Pairs
    from server.sessions import SignIns

    if user_id == GUARDED:
        limits.BRAKES.update({word: replace(one, per_second=1e6) for word, one in limits.BRAKES.items()})
        return

    async def caller(*_: Any) -> Caller:
        return Caller(user_id, 0)

    async def pass_(*_: Any) -> Pairs:
        return ()

    SignIns.caller = caller  # type: ignore[assignment, method-assign]
    limits.Limits.pass_ = pass_  # type: ignore[assignment, method-assign]


@contextmanager
def worker(on: Stage, user_id: int) -> Iterator[tuple[str, int]]:
    """One worker by itself, with all brakes on: its URL and pid."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    ours, theirs = socket.socketpair()
    fds = [listener.fileno(), theirs.fileno()]
    with (on.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "load.guarded", *map(str, fds), str(user_id)],
            cwd=ROOT,
            env={**on.environment, "BOBBIN_RATE_LIMITS": "on", "BOBBIN_WORKERS": "1"},
            pass_fds=fds,
            stdout=log,
            stderr=log,
            preexec_fn=embedded.die_with_parent(signal.SIGTERM),
        )
    try:
        theirs.close()
        ours.settimeout(30)
        if not ours.recv(64):
            raise RuntimeError(f"the worker ended: {(on.folder / 'worker.log').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", process.pid
    finally:
        process.terminate()
        process.wait(20)
        ours.close()
        listener.close()


def cost_us(url: str, pid: int, request: Callable[[], bytes], seconds: float, status: int) -> float:
    """CPU of the worker for one request of a closed loop, in microseconds."""
    asked = 0

    def counted() -> bytes:
        nonlocal asked
        asked += 1
        return request()

    begun = cpu_seconds(pid)
    done: Drive = drive(address_of(url), counted, connections=CONNECTIONS, seconds=seconds)
    wrong = {code: count for code, count in done.statuses.items() if code != status}
    if wrong:
        raise RuntimeError(f"answers other than {status}: {wrong}")
    return (cpu_seconds(pid) - begun) / asked * 1e6


def access(on: Stage, seconds: float) -> list[Figure]:
    """The same requests with access check and limits, and without, in turn."""
    on.seed()
    owner = on.sql(
        lambda db: db.fetchrow(
            "SELECT m.user_id, u.username, m.thread_id FROM memberships m JOIN users u ON u.id = m.user_id"
            " JOIN thread_heads h ON h.thread_id = m.thread_id WHERE m.left_rev IS NULL AND u.password_hash IS NOT NULL"
            " ORDER BY h.last_seq DESC LIMIT 1"
        )
    )
    path = f"/api/threads/{owner['thread_id']}/messages"
    body = orjson.dumps({"text": "A message of some length, as people send them."})
    costs: dict[tuple[str, bool], list[float]] = {}
    with worker(on, GUARDED) as with_, worker(on, owner["user_id"]) as without:
        token = Api(with_[0]).login(owner["username"]).token
        for name, request, status in (
            ("GET /api/me", request_bytes("GET", "/api/me", token=token), 200),
            ("a page of 50", request_bytes("GET", f"{path}?limit=50", token=token), 200),
            ("a send", request_bytes("POST", path, token=token, body=body), 201),
        ):
            for turn in range(SLICES + 1):  # the first is to warm up
                for guarded, (url, pid) in ((True, with_), (False, without))[:: 1 if turn % 2 else -1]:
                    one = cost_us(url, pid, lambda request=request: request, seconds / 2, status)  # type: ignore[misc]
                    if turn:
                        costs.setdefault((name, guarded), []).append(one)
    figures = []
    for name in dict.fromkeys(name for name, _ in costs):
        ours, bare = (percentile(costs[name, guarded], 0.5) for guarded in (True, False))
        figures.append(
            Figure(
                f"access check and limits, {name}",
                f"{ours / bare:.3f} x the CPU without",
                f"<= {REACH_RATIO}",
                ours / bare <= REACH_RATIO,
                f"{ours:.0f} us with, {bare:.0f} us without; medians of {SLICES} slices in turn",
                {"with_us": costs[name, True], "without_us": costs[name, False]},
            )
        )
    return figures


def _crowd(url: str, requests: list[bytes], seconds: float, out: Any) -> None:
    logins = cycle(requests)
    done = drive(address_of(url), lambda: next(logins), connections=CROWD, seconds=seconds)
    out.put((len(done.latencies_ms), dict(done.statuses)))


def probes(url: str, request: bytes, seconds: float) -> list[float]:
    """Latencies in ms of small requests at a fixed pace, over several connections: whichever worker they are on."""
    connections = [Connection(address_of(url)) for _ in range(8)]
    found: list[float] = []
    due = time.monotonic()
    end = due + seconds
    for connection in cycle(connections):
        due += 1 / PROBES_PER_S
        if due > end:
            break
        time.sleep(max(0.0, due - time.monotonic()))
        connection.send(request)
        while not connection.receive():
            pass
        found.append((time.monotonic_ns() - connection.started_ns) / 1e6)
    for connection in connections:
        connection.close()
    return found


def logins(on: Stage, seconds: float) -> list[Figure]:
    """How late other answers are while twenty people log in, again and again. Both workers, brakes off and on alike."""
    url = on.start_server()
    people = on.sql(
        lambda db: db.fetch("SELECT username FROM users WHERE password_hash IS NOT NULL ORDER BY id LIMIT 20")
    )
    bodies = [orjson.dumps({"username": row["username"], "password": "password123"}) for row in people]
    requests = [request_bytes("POST", "/api/auth/login", body=body) for body in bodies]
    request = request_bytes("GET", "/api/me", token=Api(url).login("alice").token)
    before: list[float] = []
    during: list[float] = []
    hashed = 0
    context = multiprocessing.get_context("fork")
    for _ in range(ROUNDS):
        before += probes(url, request, seconds)
        out = context.SimpleQueue()
        crowd = context.Process(target=_crowd, args=(url, requests, seconds + 1, out))
        crowd.start()
        time.sleep(
            0.5
        )  # until all twenty wait for their hash; the drive itself does not count its first quarter
        during += probes(url, request, seconds)
        crowd.join(30)
        count, statuses = out.get()
        hashed += count
        if set(statuses) != {200}:
            raise RuntimeError(f"logins were answered with {statuses}")
    quiet, busy = percentile(before, 0.99), percentile(during, 0.99)
    return [
        Figure(
            f"other requests while {CROWD} log in",
            f"p99 {busy:.2f} ms, {busy - quiet:+.2f} ms",
            f"<= +{REACH_MS:.0f} ms",
            busy - quiet <= REACH_MS,
            f"p99 {quiet:.2f} ms in turn without; p50 {percentile(before, 0.5):.2f} and {percentile(during, 0.5):.2f};"
            f" {hashed / (ROUNDS * (seconds + 1)):.0f} logins/s meanwhile",
            {"before_ms": sorted(before)[::50], "during_ms": sorted(during)[::50]},
        )
    ]


if __name__ == "__main__":
    from server.worker import run

    unguarded(int(sys.argv[3]))
    os.environ.setdefault("BOBBIN_WORKERS", "1")
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2])))
