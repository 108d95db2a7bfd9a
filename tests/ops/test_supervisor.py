"""The supervisor with real processes: what it survives, and what it leaves behind (nothing)."""

import asyncio
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx
import pytest

from server.ops.embedded import Postgres
from tests.ops.process import Bobbin, alive, environment, family, until

Start = Callable[..., Bobbin]


async def _ask(url: str, *statements: str) -> object:
    conn = await asyncpg.connect(url)
    try:
        for statement in statements:
            value = await conn.fetchval(statement)
    finally:
        await conn.close()
    return value


def test_it_answers_says_where_and_ends_in_good_order(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    assert server.answers()
    assert f"data in {kept_folder}" in server.said()
    assert len(server.pids("server worker")) == 2
    assert server.pids("bin/postgres")
    assert server.pids("valkey-server")
    assert server.stop() == 0
    assert "Traceback" not in server.said()
    assert server.events("worker.killed") == []
    assert not server.answers()


def test_a_start_that_takes_long_is_told_to_who_asks(bobbin: Start, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = f"postgres://nobody:hush@127.0.0.1:{port}/none"  # the database that is waited for
    server = bobbin(
        folder, DATABASE_URL=nowhere, JWT_SECRET="x" * 32, PORT=str(port + 1 if port < 65535 else 1024)
    )
    url = f"http://127.0.0.1:{port + 1 if port < 65535 else 1024}"
    server.wait_for("Waiting for the database")
    probe = httpx.get(f"{url}/readyz", timeout=20, trust_env=False)
    assert (probe.status_code, probe.json()["app"]) == (503, "starting")
    assert httpx.get(f"{url}/livez", timeout=5, trust_env=False).status_code == 200
    refused = httpx.post(f"{url}/api/auth/login", json={}, timeout=5, trust_env=False)
    assert (refused.status_code, refused.json()["code"]) == (503, "starting")
    assert server.stop() == 0 and "hush" not in server.said()


def test_ctrl_c_in_a_terminal_ends_it_in_good_order(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    os.killpg(server.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert server.end() == 0
    assert "Traceback" not in server.said()
    assert server.events("worker.killed") == []


def test_a_dead_worker_is_replaced(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    for ready in (3, 4):
        os.kill(server.pids("server worker")[0], signal.SIGKILL)
        server.count("worker.ready", ready)
    assert len(server.pids("server worker")) == 2
    assert server.answers()
    assert server.stop() == 0


def test_postgres_comes_back_on_the_same_socket_with_its_data(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    url = Postgres(kept_folder).url()
    asyncio.run(_ask(url, "CREATE TABLE IF NOT EXISTS kept (n int)", "INSERT INTO kept VALUES (1)"))
    for round_ in (1, 2):
        (postmaster,) = (pid for pid, line in family(server.pid).items() if "bin/postgres -D" in line)
        os.kill(postmaster, signal.SIGKILL)
        server.count("postgres.back", round_)
    assert asyncio.run(_ask(url, "SELECT count(*) > 0 FROM kept")) is True
    asyncio.run(_ask(url, "DROP TABLE kept"))
    assert server.answers()
    assert server.stop() == 0


def test_valkey_comes_back_on_the_same_socket(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    (pid,) = server.pids("valkey-server")
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.events("valkey.back"), "Valkey is back")
    assert server.pids("valkey-server") != [pid]
    assert server.answers()
    assert server.stop() == 0


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_works(
    bobbin: Start, kept_folder: Path
) -> None:
    server = bobbin(kept_folder).ready()
    everyone = family(server.pid)
    assert len(everyone) > 8
    server.signal(signal.SIGKILL)
    until(lambda: not any(map(alive, everyone)), "all ended with it")
    again = bobbin(kept_folder).ready()
    assert again.answers()
    assert again.stop() == 0


def test_everything_killed_at_once_starts_again(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    everyone = [server.pid, *family(server.pid)]
    for pid in everyone:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    again = bobbin(kept_folder).ready()
    assert again.answers()
    assert again.stop() == 0


def test_a_rolling_restart_replaces_every_worker_and_refuses_nobody(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    url, before, failed, done = server.url, server.pids("server worker"), [], threading.Event()

    def knock(steady: bool) -> None:
        headers = {} if steady else {"Connection": "close"}
        with httpx.Client(timeout=5, trust_env=False, headers=headers) as client:
            while not done.is_set():
                try:
                    client.get(f"{url}/livez").raise_for_status()
                except httpx.HTTPError as error:
                    failed.append(repr(error))

    clients = [threading.Thread(target=knock, args=[steady]) for steady in (True, True, False)]
    for client in clients:
        client.start()
    try:
        server.signal(signal.SIGHUP)
        until(lambda: not set(before) & set(server.pids("server worker")), "all workers are new")
        until(lambda: len(server.pids("server worker")) == 2, "and there are two")
    finally:
        done.set()
        for client in clients:
            client.join()
    assert failed == []
    assert len(server.events("worker.started")) == 4
    assert server.stop() == 0


def test_a_new_worker_that_does_not_start_leaves_the_old_ones_serving(
    bobbin: Start, kept_folder: Path
) -> None:
    server = bobbin(kept_folder).ready()
    before = server.pids("server worker")
    server.signal(signal.SIGHUP)
    third = until(lambda: server.events("worker.started")[2:], "a successor was started")[0]["pid"]
    os.kill(third, signal.SIGKILL)
    server.wait_for("rolling_restart_abandoned")
    assert server.pids("server worker") == before
    assert server.answers()
    assert server.stop() == 0


def test_a_stuck_worker_is_killed_by_a_second_ctrl_c(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    os.kill(server.pids("server worker")[0], signal.SIGSTOP)
    server.signal(signal.SIGINT)
    server.wait_for("supervisor.draining")
    began = time.monotonic()

    def gone() -> bool:  # one that comes right after the first is the same one, heard twice
        server.signal(signal.SIGINT)
        return not server.pids("server worker")

    until(gone, "the end of the workers of an impatient user")
    assert server.end() == 130
    assert time.monotonic() - began < 5


def test_a_stuck_worker_holds_up_the_end_for_ten_seconds_at_most(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).ready()
    os.kill(server.pids("server worker")[0], signal.SIGSTOP)
    began = time.monotonic()
    assert server.stop() == 0
    assert 9 < time.monotonic() - began < 12


@pytest.mark.parametrize(
    "moment", ["postgres.lock", "postgres.new-*", "postgres/postmaster.pid", "valkey.lock", "valkey/v.sock"]
)
def test_sigterm_while_it_starts_ends_it_and_the_next_start_works(
    bobbin: Start, folder: Path, moment: str
) -> None:
    server = bobbin(folder / "data")
    until(lambda: list((folder / "data").glob(moment)), moment)
    server.signal(signal.SIGHUP)  # asks for nothing yet, and must not end it
    server.signal(signal.SIGTERM)
    assert server.end() == 0
    assert "Traceback" not in server.said()
    again = bobbin(folder / "data").ready()
    assert again.answers()
    assert again.stop() == 0


def test_sigterm_while_workers_start_ends_it(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).wait_for("worker.started")
    server.signal(signal.SIGTERM)
    assert server.end() == 0


def test_sighup_while_workers_start_comes_out_with_two_workers(bobbin: Start, kept_folder: Path) -> None:
    server = bobbin(kept_folder).wait_for("worker.started")
    for _ in range(3):
        server.signal(signal.SIGHUP)
    server.ready()
    until(lambda: len(server.events("worker.ended")) >= 2, "the first two were replaced")
    until(lambda: len(server.pids("server worker")) == 2, "two serve")
    assert server.answers()
    assert server.stop() == 0


def test_workers_that_never_start_make_it_give_up(bobbin: Start, kept_folder: Path, folder: Path) -> None:
    (folder / "sitecustomize.py").write_text(
        "import os, sys\nif 'worker' in sys.orig_argv:\n    os.write(2, b'broken\\n')\n    os._exit(3)\n"
    )
    server = bobbin(kept_folder, PYTHONPATH=os.pathsep.join([str(folder), str(Path(__file__).parents[2])]))
    assert server.process.wait(30) == 1
    assert "The web workers end right after their start" in server.said()


def test_a_port_in_use_is_told_in_a_sentence(bobbin: Start, kept_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = bobbin(kept_folder, PORT=str(port))
        assert server.end() == 1
    assert server.said() == (
        f"Port {port} on 127.0.0.1 is in use by another program: stop it, or set PORT to another one.\n"
    )


def test_two_servers_run_beside_each_other_but_not_on_one_data_folder(
    bobbin: Start, kept_folder: Path, folder: Path
) -> None:
    first, second = bobbin(kept_folder), bobbin(folder / "with a space")
    assert first.ready().answers()
    assert second.ready().answers()
    assert first.url != second.url
    third = bobbin(kept_folder)
    assert third.end() == 1
    assert f"Another Bobbin (process {first.pid}) is running on {kept_folder}" in third.said()
    assert "Traceback" not in third.said()
    assert first.stop() == second.stop() == 0


def test_it_can_be_stopped_while_it_waits_for_a_database(bobbin: Start, folder: Path) -> None:
    away = {"DATABASE_URL": "postgres://u:hush@127.0.0.1:1/db", "JWT_SECRET": "x" * 32}
    server = bobbin(folder / "data", **away).wait_for("Waiting for the database db at 127.0.0.1:1")
    assert server.stop() == 0
    assert "hush" not in server.said()


def test_postgres_may_be_given_and_valkey_embedded(bobbin: Start, folder: Path) -> None:
    with Postgres(folder / "elsewhere", durable=False) as postgres:
        server = bobbin(folder / "data", DATABASE_URL=postgres.url(), JWT_SECRET="x" * 32).ready()
        assert server.answers()
        assert not server.pids("bin/postgres")
        assert server.stop() == 0
        assert postgres.ready()


def test_the_end_of_its_terminal_ends_it(folder: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "server"],
        env=environment(folder / "data"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as server:
        os.close(theirs)
        seen = b""
        while b"Bobbin is at" not in seen:
            seen += os.read(ours, 4096)
        everyone = family(server.pid)
        os.close(ours)
        server.wait(20)
    until(lambda: not any(map(alive, everyone)), "all ended with it", 10)


def test_a_reader_of_the_log_that_goes_away_stops_nothing(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "server"],
        env=environment(folder / "data"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, b"")
        url = next(line for line in lines if b"Bobbin is at" in line).decode().split()[3]
        server.stdout.close()
        worker = next(pid for pid, line in family(server.pid).items() if "server worker" in line)
        os.kill(worker, signal.SIGKILL)

        def workers() -> list[int]:
            return [pid for pid, line in family(server.pid).items() if "server worker" in line]

        until(lambda: len(workers()) == 2 and worker not in workers(), "it was replaced")
        assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200
        everyone = family(server.pid)
        server.terminate()
        server.wait(20)
    until(lambda: not any(map(alive, everyone)), "all ended with it", 10)
