"""The command line as a person meets it."""

import signal
import subprocess
import sys
from pathlib import Path

from server.base.settings import SETTINGS, env_example, markdown
from server.ops.embedded import POINTER, Postgres
from server.ops.migrate import MIGRATIONS, SCHEMA
from tests.ops.process import environment, until


def run(data_dir: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *words],
        env=environment(data_dir, **environ),
        capture_output=True,
        text=True,
        timeout=50,
        cwd="/",
    )


def test_help_names_every_command(folder: Path) -> None:
    done = run(folder / "data", "--help")
    assert done.returncode == 0
    for command in (
        "serve",
        "migrate",
        "seed",
        "import",
        "createuser",
        "verify",
        "archive",
        "explain",
        "settings",
        "routes",
    ):
        assert f"    {command}" in done.stdout
    assert "worker" not in done.stdout.replace("the workers", "")
    assert not (folder / "data").exists()


def test_an_unknown_command_is_refused_with_the_known_ones(folder: Path) -> None:
    done = run(folder / "data", "frobnicate")
    assert done.returncode == 2
    assert "'migrate'" in done.stderr or "migrate" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_listed_without_their_secrets(folder: Path) -> None:
    done = run(folder / "data", "settings", JWT_SECRET="hush" * 8, BOBBIN_WORKER="1")
    assert done.returncode == 0
    assert all(row.name in done.stdout for row in SETTINGS)
    assert "hush" not in done.stdout
    assert "did you mean BOBBIN_WORKERS?" in done.stderr


def test_settings_are_printed_for_the_readme_and_the_example(folder: Path) -> None:
    assert run(folder / "data", "settings", "--markdown").stdout == markdown()
    assert run(folder / "data", "settings", "--env").stdout == env_example()


def test_faults_of_settings_are_sentences(folder: Path) -> None:
    for words in ((), ("serve",), ("migrate",), ("settings",)):
        done = run(folder / "data", *words, PORT="http", BOBBIN_DEMO="perhaps")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            "PORT must be a whole number from 0 to 65535.",
            "BOBBIN_DEMO must be on or off.",
        ]


def test_a_missing_secret_stops_the_start(folder: Path) -> None:
    done = run(folder / "data", DATABASE_URL="postgres://127.0.0.1:1/db")
    assert done.returncode == 1
    assert done.stderr.startswith("JWT_SECRET is missing")


def test_a_command_that_does_not_serve_wants_no_secret(folder: Path) -> None:
    refused = {"DATABASE_URL": "postgres://u:hush@127.0.0.1:1/d?sslmode=verify-full&sslrootcert=/none"}
    for words in (("migrate",), ("seed",), ("import", "irc", __file__, "--channel", "x"), ("explain",)):
        done = run(folder / "data", *words, **refused)
        assert done.returncode != 0
        assert done.stderr == "DATABASE_URL cannot be used: sslrootcert=/none: No such file or directory.\n"
    for words in (("routes",), ("settings",)):
        assert run(folder / "data", *words, **refused).returncode == 0
    assert "JWT_SECRET is missing" in run(folder / "data", "settings", **refused).stderr


def test_migrate_starts_the_embedded_database_for_its_time(folder: Path) -> None:
    number = len(list(MIGRATIONS.glob("*.sql")))
    for _ in range(2):
        done = run(folder / "data", "migrate")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"all {number} migration" in done.stdout
    assert not Postgres(folder / "data").locked()
    assert not (folder / "data" / POINTER).exists()
    dumped = run(folder / "data", "migrate", "--dump", "-")
    assert dumped.stdout == SCHEMA.read_text(), "run `make generate`"
    assert run(folder / "data", "migrate", "--down").returncode == 0


def test_sigterm_during_a_command_stops_what_it_started(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "server", "migrate"],
        env=environment(folder / "data"),
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        until(lambda: list((folder / "data").glob("postgres.new-*")), "initdb runs")
        command.send_signal(signal.SIGTERM)
        assert command.wait(20) == 143
        assert command.stderr is not None
        assert "Traceback" not in command.stderr.read()
    assert not Postgres(folder / "data").locked()
    assert run(folder / "data", "migrate").returncode == 0


def test_sigterm_beside_a_fork_is_not_lost() -> None:
    """Python drops what a signal handler raises there: six in a hundred commands went on as if nothing were."""
    told = """
import os, signal, subprocess, sys, time
from server.__main__ import _end_on_sigterm
_end_on_sigterm()
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    subprocess.run(["true"], preexec_fn=lambda: None)
    time.sleep(20)
finally:
    print("cleared up")
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleared up\n", "")


def test_routes_are_listed(folder: Path) -> None:
    done = run(folder / "data", "routes")
    assert done.returncode == 0
    assert "/livez" in done.stdout
