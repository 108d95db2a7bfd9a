"""A server of one's own on a temporary folder, and what can befall it. Everything is ended by its pid."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from server.ops.embedded import die_with_parent, remove

ROOT = Path(__file__).parents[2]
START_SECONDS, END_SECONDS = 60.0, 20.0
KEPT = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV")  # nothing else of the surroundings decides


class StageError(Exception):
    """Why there is no server, as a sentence."""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def family(pid: int) -> dict[int, str]:
    """The descendants of a process with their command lines."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found: dict[int, str] = {}
    ring = [pid]
    while ring:
        ring = [child for child, parent in parents.items() if parent in ring]
        for child in ring:
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


class Stage:
    """A context manager: the server runs inside it, with two workers, a Postgres and a Valkey of its own."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bobbin-verify-"))
        self._folder.chmod(0o711)  # as root, Postgres runs as another user, who must pass through
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])  # the same after a restart
        self._log = self._folder / "server.log"
        self._at, self._events = 0, Counter[str]()  # of the log: how far it is read, and what is in it
        self._server: subprocess.Popen[bytes] | None = None
        self.faults: list[str] = []  # that were the server's: answers of 500
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        server, self._server = self._server, None
        try:
            if server is not None and server.poll() is None:
                server.terminate()
                try:
                    server.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait()
        finally:
            remove(self._folder)

    async def start(self) -> None:
        """Until it serves. Raises StageError with its last words."""
        ready = self._count("worker.ready") + 2
        self._spawn()
        await self._until(lambda: self._count("worker.ready") >= ready, "did not start", START_SECONDS)

    def _spawn(self) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environ = {name: value for name, value in os.environ.items() if name in KEPT} | {"PYTHONPATH": path}
        environ |= {
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "BOBBIN_DATA_DIR": str(self._folder / "data"),
        }
        environ |= {"BOBBIN_WORKERS": "2", "BOBBIN_RATE_LIMITS": "off"}
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "server", "serve"],
                cwd="/",
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us
                preexec_fn=die_with_parent(signal.SIGTERM),
            )

    async def _until(self, true: Callable[[], Any], what: str, limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not true():
            if self._server is None or self._server.poll() is not None or time.monotonic() > end:
                raise StageError(
                    f"The server of our own {what}:\n{self._log.read_text(errors='replace')[-2000:]}"
                )
            await asyncio.sleep(0.02)

    def _count(self, event: str) -> int:
        """How often its log says so."""
        self._read()
        return self._events[event]

    def _read(self) -> None:
        """What the log has got since the last look."""
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._at)
            whole, _, _ = log.read().rpartition(b"\n")
        self._at += len(whole) + bool(whole)
        for line in whole.split(b"\n"):
            if line.startswith(b"{"):
                facts = orjson.loads(line)
                self._events[facts["event"]] += 1
                if facts["event"] == "problem" and facts["level"] == "error":
                    self.faults.append(str(facts.get("cause")))

    def _pids(self, words: str) -> list[int]:
        assert self._server is not None
        return sorted(pid for pid, line in family(self._server.pid).items() if words in line)

    # -- what can befall it; each returns when it has recovered

    async def worker(self) -> None:
        """One of its workers is killed."""
        ready = self._count("worker.ready")
        os.kill(self._pids("server worker")[0], signal.SIGKILL)
        await self._until(lambda: self._count("worker.ready") > ready, "has no new worker")

    async def valkey(self) -> None:
        """Its Valkey is killed."""
        back = self._count("valkey.back")
        os.kill(self._pids("valkey-server")[0], signal.SIGKILL)
        await self._until(lambda: self._count("valkey.back") > back, "has no new Valkey")

    async def restart(self) -> None:
        """A rolling restart."""
        assert self._server is not None
        before = set(self._pids("server worker"))
        self._server.send_signal(signal.SIGHUP)
        await self._until(lambda: not before & set(self._pids("server worker")), "was not restarted", 60)

    async def stop(self) -> None:
        """The whole of it is stopped, and started again."""
        assert self._server is not None
        everyone = family(self._server.pid)
        self._server.terminate()
        end = time.monotonic() + END_SECONDS
        while self._server.poll() is None or any(map(alive, everyone)):
            if time.monotonic() > end:
                raise StageError("The server of our own did not end.")
            await asyncio.sleep(0.02)
        await self.start()
