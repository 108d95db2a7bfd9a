"""The stage of a measurement: Postgres, Valkey and a server on a temporary folder, ended by pid."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import asyncpg

from load.http_client import Api
from server.ops import embedded

ROOT = Path(__file__).parents[1]
LOGS = ROOT.parent / "shared" / "data" / "irc"
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Ours without any setting of a server, or of another server of ours."""
    strangers = ("HOST", "PORT", "DATABASE_URL", "REDIS_URL", "JWT_SECRET", "VIRTUAL_ENV")
    return {
        k: v for k, v in os.environ.items() if k not in strangers and not k.startswith(("BOBBIN_", "MAKE"))
    }


def answers(url: str) -> bool:
    """Whether /readyz says 200."""
    try:
        Api(url).call("GET", "/readyz", expect=(200,))
    except (OSError, RuntimeError, ValueError):
        return False
    return True


def await_answer(url: str, process: subprocess.Popen[bytes], timeout_s: float) -> float:
    """Seconds from now until /readyz says 200. RuntimeError when the process ends or the time is over."""
    begun = time.monotonic()
    while not answers(url):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode} before it answered")
        if time.monotonic() - begun > timeout_s:
            raise RuntimeError(f"{url}/readyz does not answer after {timeout_s} s")
        time.sleep(0.02)  # the polling interval of the condition above, and the error of the figure
    return time.monotonic() - begun


def end(process: subprocess.Popen[bytes], *, group: bool = False, timeout_s: float = 20) -> None:
    """SIGTERM, to its whole session where it was started as one, and SIGKILL when that is ignored."""
    tell: Callable[[int], None] = (
        (lambda sign: os.killpg(process.pid, sign)) if group else (lambda sign: process.send_signal(sign))
    )
    if process.poll() is None:
        tell(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            tell(signal.SIGKILL)
            process.wait()


class Stage:
    """A context manager; nothing is started before it is asked for. postgres: settings of its own."""

    def __init__(self, postgres: Mapping[str, object] | None = None) -> None:
        self._postgres_settings = postgres
        self.folder = Path(tempfile.mkdtemp(prefix="bobbin-load-"))
        self.folder.chmod(0o711)  # as root, Postgres runs as another user, who must pass through
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.postgres: embedded.Postgres | None = None
        self.valkey: embedded.Valkey | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.secret = secrets.token_hex(32)
        self.settings: dict[str, str] = {}  # of the next server that is started, besides these
        self.migrated = self.seeded = self.imported = False
        self.said = ""  # by the last command

    def __enter__(self) -> "Stage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop_server()
        if self.valkey:
            self.valkey.stop()
        if self.postgres:
            self.postgres.stop()
        embedded.remove(self.folder)

    @property
    def dsn(self) -> str:
        """The database; Postgres and Valkey are started by the first who asks."""
        if self.postgres is None:
            self.postgres = embedded.Postgres(self.folder, settings=self._postgres_settings).start()
            self.valkey = embedded.Valkey(self.folder).start()
        return self.postgres.url()

    @property
    def environment(self) -> dict[str, str]:
        dsn = self.dsn
        assert self.valkey is not None
        return {
            **clean_environment(),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "DATABASE_URL": dsn,
            "REDIS_URL": self.valkey.url(),
            "BOBBIN_DATA_DIR": str(self.folder),
            "BOBBIN_RATE_LIMITS": "off",
            "JWT_SECRET": self.secret,
            **self.settings,
        }

    def command(self, *words: str, timeout_s: float = 120) -> float:
        """Runs `python -m server ...`: its seconds. RuntimeError with its last words when it fails."""
        environment = self.environment
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "server", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        seconds = time.monotonic() - begun
        if done.returncode:
            raise RuntimeError(f"server {' '.join(words)} ended with {done.returncode}: {done.stderr[-800:]}")
        self.said = done.stdout
        return seconds

    def start_server(self) -> str:
        """The server's URL, once it is ready; the demo town is in it."""
        if self.server is not None and self.server.poll() is not None:
            code, self.server = self.server.returncode, None
            raise RuntimeError(f"the server ended with {code} between two parts")
        if self.server is None:
            self.seed()
            log = (self.folder / "server.log").open("ab")
            self.server = subprocess.Popen(
                [sys.executable, "-m", "server", "serve"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=embedded.die_with_parent(signal.SIGTERM),
            )
            try:
                await_answer(self.url, self.server, 30)
            except RuntimeError as error:
                self.stop_server()
                raise RuntimeError(f"{error}\n{(self.folder / 'server.log').read_text()[-2000:]}") from None
        return self.url

    def stop_server(self) -> None:
        if self.server is not None:
            end(self.server)
            self.server = None

    def migrate(self) -> None:
        """Does nothing when it was done."""
        if not self.migrated:
            self.command("migrate")
            self.migrated = True

    def seed(self) -> float | None:
        """Migrates and seeds once: the seconds of the seed command, None when it was there already."""
        if self.seeded:
            return None
        self.migrate()
        seconds = self.command("seed")
        self.seeded = True
        return seconds

    def import_logs(self) -> float | None:
        """The seconds of the import of the real channel; None when it was there already."""
        if self.imported:
            return None
        self.migrate()
        seconds = self.command("import", "irc", str(LOGS), "--channel", "ubuntu", timeout_s=300)
        self.imported = True
        return seconds

    def sql(self, work: Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[T]]) -> T:
        """Runs work(connection) on a connection of its own."""

        async def run() -> T:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(run())

    def pids(self) -> dict[str, int]:
        """The roots of the process trees whose CPU is told apart."""
        if self.server is None or self.postgres is None or self.postgres.process is None:
            raise RuntimeError("the server is not running")
        return {"server": self.server.pid, "postgres": self.postgres.process.pid}
