"""The supervisor: one listening socket, N single-process web workers, and the embedded servers.

It replaces Sanic's worker manager, which leaves a dead worker dead and can hang at a signal (FACTS
0.1 to 0.4). One thread, one loop: signals, the workers' status sockets and deadlines.
"""

import asyncio
import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, TypeVar

from server.base import log
from server.base.log import Level
from server.base.settings import Settings, SettingsError, environment, with_secret
from server.ops.embedded import EmbeddedError, Postgres, Valkey, die_with_parent, make_folder
from server.ops.migrate import MigrationError, database_warnings, migrate

ROOT = Path(__file__).parents[2]
BACKLOG = 2048  # connections that wait while all workers are being replaced
SPARE_CONNECTIONS = 30  # of the embedded Postgres, for rolling restarts' overlap, commands and psql
DRAIN_S = 9.5  # then what is left is killed, so that SIGTERM to exit stays about 10 s
SAME_S = 0.5  # two requests to end that come closer together are one
READY_S = 60  # a worker that is not ready by then is killed
QUICK_S = 10  # a worker that lives shorter died quickly
BACKOFF_S = (0.1, 5.0)  # first and longest pause before a dead one is started again
GIVE_UP = 5  # quick deaths in a row before a server that never was ready gives up
WORKER = ("server", "worker")  # the command of a worker, after python -m
RELOAD_S = 0.5  # between two looks at the source files, with --reload

T = TypeVar("T")


class StartError(Exception):
    """Why the server cannot start, as a sentence."""


class _Stopped(BaseException):
    """A signal asked for the end while the server was starting."""


def event(name: str, *, level: Level = "info", **facts: object) -> None:
    """As in the log; a reader of the log that has gone away stops nothing."""
    with contextlib.suppress(OSError):
        log.event(name, level=level, **facts)


def say(sentence: object, *, to: TextIO | None = None) -> None:
    """A line for people."""
    with contextlib.suppress(OSError):
        print(sentence, file=to or sys.stderr, flush=True)


def _terminal() -> bool:
    """Whether there is a terminal whose end would be told to us by SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def listen(host: str, port: int) -> socket.socket:
    """The listening socket that all workers share. Raises StartError with the reason."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and socket.has_dualstack_ipv6():
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            # Accepted connections inherit these. A peer that vanished is noticed by the probes of a silent
            # connection within a minute, and of a busy one after two, as one that stopped reading is
            # (outlet.STALLED_SECONDS). A slow reader is noticed in our buffers, not after megabytes in the kernel's.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            options = {"TCP_USER_TIMEOUT": 120_000, "TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
            for name, value in {**options, "TCP_NOTSENT_LOWAT": 128 * 1024}.items():
                if hasattr(socket, name):
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except socket.gaierror as error:
        raise StartError(f"HOST={host} is not an address of this machine: {error.strerror}.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"Port {port} on {host} is in use by another program: stop it, or set PORT to another one."
            ) from error
        raise StartError(f"Cannot listen on {host}, port {port}: {error.strerror}.") from error
    return listener


@dataclass(eq=False)
class Worker:
    """One process. `ready_at` and `leaving_at` are on the monotonic clock; None: not yet."""

    process: subprocess.Popen[bytes]
    status: socket.socket
    started_at: float = field(default_factory=time.monotonic)
    ready_at: float | None = None
    leaving_at: float | None = None


@dataclass(eq=False)
class Slot:
    """The place of one worker: who serves in it, who is about to take over, and its recent deaths."""

    worker: Worker | None = None
    successor: Worker | None = None
    quick_deaths: int = 0
    start_at: float = 0


@dataclass(eq=False)
class Kept:
    """An embedded server that is started again when it dies."""

    server: Postgres | Valkey
    deaths: int = 0
    died_at: float | None = None
    start_at: float = 0
    started_at: float = 0


def _pause(deaths: int) -> float:
    first, longest = BACKOFF_S
    return float(min(longest, first * 2 ** min(deaths, 10)))


class Supervisor:
    """`run()` once, from the main thread."""

    def __init__(self, settings: Settings, *, reload: bool = False) -> None:
        self.settings = settings
        self.reload = reload
        self.kept: list[Kept] = []
        self.slots: list[Slot] = []
        self.leaving: list[Worker] = []  # told to end, not yet gone
        self.starting: Worker | None = None  # answers until the first worker is ready
        self.rolling: deque[Slot] = deque()  # slots still to be replaced
        self.listener: socket.socket | None = None
        self.environ: dict[str, str] = {}
        self.was_ready = False
        self.stopping_at: float | None = None
        self.code = 0
        self._restarts = 0  # SIGHUPs not yet looked at
        self._terminal = _terminal()
        self._ends = 0  # signals that asked for the end
        self._asked_at = 0.0  # when the last of them came
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._wake, self._woken = socket.socketpair()
        self._seen: dict[Path, int] = {}
        self._look_at: float = 0

    # Signals --------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake the loop

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # SIGHUP asks for new workers, unless it says that the terminal we ran in is gone.
        if number == signal.SIGHUP and not (self._terminal and not _terminal()):
            self._restarts += 1
            return
        # Sent to a whole process group it comes twice, from the sender and through make: that is one.
        now = time.monotonic()
        if self._ends and now - self._asked_at < SAME_S:
            return
        self._ends, self._asked_at = self._ends + 1, now
        if self._task is not None:
            loop, task = self._task
            loop.call_soon_threadsafe(task.cancel)

    def _check(self) -> None:
        if self._ends:
            raise _Stopped

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that the signals of the end cancel."""

        async def main() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._task = (asyncio.get_running_loop(), task)
            try:
                if self._ends:
                    raise asyncio.CancelledError
                return await work
            finally:
                self._task = None

        try:
            return asyncio.run(main())
        except asyncio.CancelledError:
            work.close()
            raise _Stopped from None

    # From the start to the end ------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to end. 0: ended as told; 1: could not start, with the reason printed."""
        log.set_level(self.settings.log_level)
        self._listen_to_signals()
        try:
            self._start()
            self._serve()
        except _Stopped:
            event("supervisor.stopped_while_starting")
        except (StartError, SettingsError, EmbeddedError, MigrationError) as error:
            say(error)
            self.code = 1
        finally:
            self._end()
        return self.code

    def _start(self) -> None:
        make_folder(self.settings.data_dir)
        self.settings = with_secret(self.settings)
        self.listener = listen(self.settings.host, self.settings.port)
        self.settings = replace(self.settings, port=self.listener.getsockname()[1])
        self.starting = self._spawn("server.ops.starting")
        database_url, redis_url = self.settings.database_url, self.settings.redis_url
        if not database_url:
            connections = (self.settings.workers + 1) * (self.settings.db_pool_size + 2) + SPARE_CONNECTIONS
            postgres = Postgres(self.settings.data_dir, connections=connections)
            self._keep(postgres)
            database_url = postgres.url()
        if not redis_url:
            valkey = Valkey(self.settings.data_dir)
            self._keep(valkey)
            redis_url = valkey.url()
        self.settings = replace(self.settings, database_url=database_url, redis_url=redis_url)
        self._await(migrate(database_url))
        self._check()
        for warning in self._await(database_warnings(database_url)):
            say(warning)
        if self.settings.demo:
            from server.ops.seed import seed_demo

            self._await(seed_demo(database_url))
        self._check()
        self.environ = self._environment()
        self.slots = [Slot() for _ in range(self.settings.workers)]
        self._restarts = 0  # before there is a worker SIGHUP asks for nothing

    def _keep(self, server: Postgres | Valkey) -> None:
        self.kept.append(Kept(server))
        server.start(self._check)
        self.kept[-1].started_at = time.monotonic()

    def _environment(self) -> dict[str, str]:
        environ = {**os.environ, **environment(self.settings)}
        if any(isinstance(kept.server, Postgres) for kept in self.kept):
            for name in [name for name in environ if name.startswith("PG")]:
                del environ[name]  # meant for another Postgres
        path = [str(ROOT), *filter(None, [environ.get("PYTHONPATH", "")])]
        return environ | {"PYTHONPATH": os.pathsep.join(path)}

    def _serve(self) -> None:
        while self.stopping_at is None or self._workers():
            self._wait()
            now = time.monotonic()
            if self._ends and self.stopping_at is None:
                self._drain(now)
            if self.stopping_at is not None and (self._ends > 1 or now > self.stopping_at + DRAIN_S):
                self._kill_all()
            self._hear(now)
            self._reap(now)
            self._mind_kept(now)
            if self.stopping_at is None:
                self._take_signals()
                self._fill(now)
                self._roll(now)
            self._hurry(now)

    def _end(self) -> None:
        self._started()
        if self.listener is not None:
            self.listener.close()
        for worker in self._workers():  # only when something unforeseen was raised
            worker.process.kill()
            worker.process.wait()
        for kept in reversed(self.kept):
            kept.server.stop(hurry=lambda: self._ends > 1)
        if self.code == 0 and self._ends > 1:
            self.code = 130
        if self.was_ready:
            event("supervisor.ended", code=self.code)
        signal.set_wakeup_fd(-1)

    # The loop's parts -----------------------------------------------------------------------------

    def _workers(self) -> list[Worker]:
        placed = [worker for slot in self.slots for worker in (slot.worker, slot.successor) if worker]
        return placed + self.leaving

    def _wait(self) -> None:
        """Until a signal, a word from a worker, or the next thing that is due (at most a second)."""
        now = time.monotonic()
        due = [slot.start_at for slot in self.slots if slot.worker is None]
        due += [kept.start_at for kept in self.kept if kept.died_at is not None]
        if self.reload:
            due.append(self._look_at)
        if self.stopping_at is not None:
            due = [self.stopping_at + DRAIN_S]
        timeout = min([1.0, *(max(0.01, at - now) for at in due)])
        reading: list[Any] = [self._wake, *(worker.status for worker in self._workers())]
        ready, _, _ = select.select(reading, [], [], timeout)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)

    def _take_signals(self) -> None:
        asked, self._restarts = self._restarts > 0, 0
        if self.reload and time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + RELOAD_S
            asked = self._changed() or asked
        if asked:
            # Asked again while rolling: the ones already replaced are replaced once more.
            self.rolling = deque([*self.rolling, *(slot for slot in self.slots if slot not in self.rolling)])
            event("supervisor.rolling_restart")

    def _changed(self) -> bool:
        """Whether a source file has changed since the last look."""
        files = [*(ROOT / "server").rglob("*.py"), *(ROOT / "db" / "queries").glob("*.sql")]
        seen = {}
        for file in files:
            try:
                seen[file] = file.stat().st_mtime_ns
            except FileNotFoundError:  # an editor is just replacing it
                continue
        before, self._seen = self._seen, seen
        return bool(before) and before != seen

    def _spawn(self, *words: str) -> Worker:
        """A process on the listening socket: a worker, or who answers until the first one is ready."""
        assert self.listener is not None
        ours, theirs = socket.socketpair()
        fds = (self.listener.fileno(), theirs.fileno())
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", *(words or WORKER), *map(str, fds)],
                stdin=subprocess.DEVNULL,
                env=self.environ or self._environment(),
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C in the terminal comes through us, once
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        if not words:
            event("worker.started", pid=process.pid)
        return Worker(process, ours)

    def _hear(self, now: float) -> None:
        for worker in self._workers():
            try:
                word = worker.status.recv(64)
            except (BlockingIOError, ConnectionResetError):
                continue
            if word and worker.ready_at is None:
                worker.ready_at = now
                event("worker.ready", pid=worker.process.pid, ms=round((now - worker.started_at) * 1000))
                if worker.leaving_at is not None:
                    worker.process.terminate()  # the first one may have come before it could hear it
                elif not self.was_ready:
                    self.was_ready = True
                    self._started()
                    self._greet()

    def _started(self) -> None:
        """Whoever answered in place of the workers is no longer needed."""
        if self.starting is not None:
            self.starting.process.terminate()
            try:
                self.starting.process.wait(3)  # for the answers under way
            except subprocess.TimeoutExpired:
                self.starting.process.kill()
                self.starting.process.wait()
            self.starting.status.close()
            self.starting = None

    def _greet(self) -> None:
        assert self.listener is not None
        host, port = self.listener.getsockname()[:2]
        wide = host in ("0.0.0.0", "::")
        address = f"http://{'localhost' if wide else f'[{host}]' if ':' in host else host}:{port}"
        say(
            f"Bobbin is at {address}{' and on all interfaces' if wide else ''}"
            f"  (data in {self.settings.data_dir}, stop with Ctrl-C)",
            to=sys.stdout,
        )
        if self.settings.demo:
            say("Demo users: alice, bob, charlie; the password of each is password123", to=sys.stdout)

    def _reap(self, now: float) -> None:
        for worker in self._workers():
            code = worker.process.poll()
            if code is None:
                continue
            worker.status.close()
            expected = worker.leaving_at is not None
            level: Level = "info" if expected else "error"
            event("worker.ended", level=level, pid=worker.process.pid, code=code, expected=expected)
            if worker in self.leaving:
                self.leaving.remove(worker)
                continue
            slot = next(slot for slot in self.slots if worker in (slot.worker, slot.successor))
            if worker is slot.successor:
                slot.successor = None
                self._abandon_roll()
                continue
            slot.worker = None
            if now - worker.started_at < QUICK_S or worker.ready_at is None:
                slot.quick_deaths += 1
            else:
                slot.quick_deaths = 0
            if not self.was_ready and slot.quick_deaths >= GIVE_UP:
                say(
                    f"The web workers end right after their start ({GIVE_UP} times in a row); "
                    "the reason is in the lines above."
                )
                self.code = 1
                self._drain(now)
                continue
            slot.start_at = now + _pause(slot.quick_deaths)
            if slot.quick_deaths >= GIVE_UP:
                pause = _pause(slot.quick_deaths)
                event("worker.keeps_ending", level="error", deaths=slot.quick_deaths, next_start_s=pause)

    def _fill(self, now: float) -> None:
        for slot in self.slots:
            if slot.worker is None and slot.successor is not None:
                slot.worker, slot.successor = slot.successor, None  # the old one died before its time
                self.rolling.remove(slot)
            if slot.worker is None and now >= slot.start_at:
                slot.worker = self._spawn()

    def _roll(self, now: float) -> None:
        """One step of a rolling restart: a slot at a time, the old one leaves when the new one serves,
        and the next slot begins when the old one is gone."""
        if not self.rolling or self.leaving:
            return
        slot = self.rolling[0]
        if slot.worker is None or slot.worker.ready_at is None:
            # A dead one is being started anyway, with the new code; wait until that is settled.
            if slot.worker is None:
                self.rolling.popleft()
        elif slot.successor is None:
            slot.successor = self._spawn()
        elif slot.successor.ready_at is not None:
            old, slot.worker, slot.successor = slot.worker, slot.successor, None
            self.rolling.popleft()
            self._dismiss(old, now)

    def _abandon_roll(self) -> None:
        if self.stopping_at is None:
            self.rolling.clear()
            reason = "the new worker did not start; the old ones serve on"
            event("supervisor.rolling_restart_abandoned", level="warning", reason=reason)

    def _dismiss(self, worker: Worker, now: float) -> None:
        worker.leaving_at = now
        self.leaving.append(worker)
        worker.process.terminate()

    def _hurry(self, now: float) -> None:
        """Kill whoever is late: with leaving, or with getting ready."""
        for worker in self._workers():
            late_start = worker.ready_at is None and now > worker.started_at + READY_S
            late_end = worker.leaving_at is not None and now > worker.leaving_at + DRAIN_S
            if (late_start or late_end) and worker.process.poll() is None:
                reason = "late end" if late_end else "late start"
                event("worker.killed", level="warning", pid=worker.process.pid, reason=reason)
                worker.process.kill()

    def _drain(self, now: float) -> None:
        self.stopping_at = now
        event("supervisor.draining", workers=len(self._workers()))
        if self.listener is not None:
            self.listener.close()  # refused, once the workers have closed theirs too
            self.listener = None
        for slot in self.slots:
            for worker in (slot.worker, slot.successor):
                if worker is not None:
                    self._dismiss(worker, now)
            slot.worker = slot.successor = None
        self.rolling.clear()

    def _kill_all(self) -> None:
        for worker in self._workers():
            if worker.process.poll() is None:
                event("worker.killed", level="warning", pid=worker.process.pid, reason="end of the drain")
                worker.process.kill()

    def _mind_kept(self, now: float) -> None:
        """Start an embedded server that died again. While draining too: requests are being answered."""
        for kept in self.kept:
            name = kept.server.name.lower()
            if kept.died_at is None:
                if not kept.server.dead():
                    continue
                kept.died_at = now
                kept.deaths = kept.deaths + 1 if now < kept.started_at + QUICK_S else 0
                kept.start_at = now + (_pause(kept.deaths) if kept.deaths else 0)
                event(f"{name}.died", level="error", last_words=kept.server.last_words())
            if kept.server.dead() and now >= kept.start_at:
                if kept.started_at > kept.died_at:  # the restart died too
                    kept.deaths += 1
                kept.start_at = now + _pause(kept.deaths)
                kept.started_at = now
                try:
                    kept.server.spawn()
                except (OSError, EmbeddedError) as error:
                    event(f"{name}.not_started", level="error", error=str(error))
            elif not kept.server.dead() and kept.server.ready():
                event(f"{name}.back", ms=round((now - kept.died_at) * 1000))
                kept.died_at, kept.started_at = None, now


def serve(settings: Settings, *, reload: bool = False, notes: Sequence[str] = ()) -> int:
    """Run the server until it is told to end; the exit code. `notes` are printed first."""
    for note in notes:
        say(note)
    return Supervisor(settings, reload=reload).run()
