"""What surrounds the server: locks, Makefile, CI, container, and the commands that the prose names."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from server import __version__
from server.__main__ import MODULES, main
from server.base.db import blocks
from server.base.settings import SETTINGS, env_example, markdown
from server.ops import generate
from server.ops.embedded import remove
from server.routes import ROUTES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {"": "requirements.lock", "dev": "requirements-dev.lock", "load": "requirements-load.lock"}
PROSE = ("README.md", "SECURITY.md", "db/README.md", "docs/decisions.md", "CHANGELOG.md")
COMMANDS = {"serve", "migrate", "settings", "routes", *MODULES}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^(\S+)==([^\s;]+)", read(f"locks/{lock}"), re.M))


def fences(name: str) -> list[str]:
    """The shell examples of a document."""
    return re.findall(r"^```sh\n(.*?)^```", read(name), re.M | re.S)


# Locks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS.values())
def test_every_locked_package_has_hashes_and_none_an_address(lock: str) -> None:
    text = read(f"locks/{lock}")
    entries = re.split(r"^(?=\S)", text, flags=re.M)[1:]
    assert len(entries) > 20
    assert [
        e for e in entries if not re.fullmatch(r"\S+==.+ \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n)+", e)
    ] == []
    assert "://" not in text and "--" not in text.replace("--hash=", "")


@pytest.mark.parametrize("extra", LOCKS)
def test_locks_hold_what_pyproject_asks_for(extra: str) -> None:
    locked = pins(LOCKS[extra])
    asked = PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else [])
    wanted = {canonicalize_name(r.name): r.specifier for r in map(Requirement, asked)}
    assert {name for name, which in wanted.items() if not which.contains(locked.get(name, "0"))} == set()


def test_locks_agree_and_begin_with_what_the_server_needs() -> None:
    base, dev, load = (pins(lock) for lock in LOCKS.values())
    assert base.items() <= dev.items() and base.items() <= load.items()
    assert {name for name in dev.keys() & load.keys() if dev[name] != load[name]} == set()


# locks/install.py -----------------------------------------------------------------------------------


@pytest.fixture
def installer(tmp_path: Path) -> Any:
    """locks/install.py in a checkout of its own, with a space in its path; pip is left out."""
    folder = tmp_path / "a checkout" / "locks"
    folder.mkdir(parents=True)
    (folder / "install.py").write_text(read("locks/install.py"))
    (folder / "a.lock").write_text("one==1 \\\n    --hash=sha256:aa\n")
    (folder / "b.lock").write_text(
        "one==1 \\\n    --hash=sha256:aa\ntwo==2 ; x < '3' \\\n    --hash=sha256:bb\n"
    )
    spec = importlib.util.spec_from_file_location("installer", folder / "install.py")
    assert spec and spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.asked = []
    module.install = lambda entries: module.asked.append(sorted(entries))
    return module


def test_a_second_install_does_nothing_and_a_longer_lock_only_adds(installer: Any) -> None:
    for lock in ("a.lock", "a.lock", "b.lock", "b.lock", "a.lock"):
        installer.main(lock)
    assert installer.asked == [["one==1"], ["two==2 ; x < '3'"]]
    assert subprocess.run([installer.PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0


def test_a_moved_or_half_made_environment_is_made_anew(
    installer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    installer.main("a.lock")
    installer.PINS.write_text(installer.PINS.read_text().replace("a checkout", "elsewhere"))
    installer.main("a.lock")
    installer.PINS.unlink()
    installer.main("a.lock")
    installer.PYTHON.unlink()
    installer.main("a.lock")
    assert installer.asked == [["one==1"]] * 4
    assert capsys.readouterr().err.count("Setting up .venv") == 4


def test_a_failed_install_is_tried_again(installer: Any) -> None:
    stub, installer.install = installer.install, lambda _: sys.exit("no network")
    with pytest.raises(SystemExit, match="no network"):
        installer.main("a.lock")
    installer.install = stub
    installer.main("a.lock")
    assert installer.asked == [["one==1"]]


def test_installs_of_one_checkout_take_turns(installer: Any) -> None:
    inside, most = 0, 0

    def install(entries: dict[str, str]) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        installer.asked.append(sorted(entries))
        both.wait(0.2) if len(installer.asked) == 1 else both.set()
        inside -= 1

    both = threading.Event()
    installer.install = install
    runs = [threading.Thread(target=installer.main, args=("a.lock",)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert (most, installer.asked) == (1, [["one==1"]])


def test_a_python_without_ensurepip_says_what_to_install(
    installer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert installer.pip_wheel().name.startswith("pip-")
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match=rf"apt install python3\.{sys.version_info[1]}-venv"):
        installer.main("a.lock")


@pytest.mark.parametrize("lock", LOCKS.values())
def test_the_installer_sees_every_pin(installer: Any, lock: str) -> None:
    seen = {pin.partition("==")[0] for pin, _ in installer.ENTRY.findall(read(f"locks/{lock}"))}
    assert seen == pins(lock).keys()


# Makefile and CI -------------------------------------------------------------------------------------


def make(*words: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={sys.executable}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def targets() -> set[str]:
    found = re.search(r"^\.PHONY: (.+)$", read("Makefile"), re.M)
    assert found
    return set(found[1].split())


def test_help_has_a_line_for_each_target() -> None:
    listed = re.findall(r"^make (\w+) +\S.*$", make("help"), re.M)
    assert set(listed) == targets() and len(listed) == len(set(listed))
    assert make() == make("help")


def test_check_is_what_ci_runs() -> None:
    steps = make("-n", "check")
    for word in (
        "ruff check",
        "ruff format --check",
        "-m mypy",
        "generate --check",
        "coverage run -m pytest",
    ):
        assert word in steps
    workflow = read(".github/workflows/check.yml")
    assert re.findall(r"- run: (.+)", workflow) == ["make check"]
    assert '["3.11", "3.13"]' in workflow
    asked = set(re.findall(r"^make (.+?)(?: 2>&1.*)?$", read(".ci/run"), re.M))
    assert asked == set(re.findall(r"--no-print-directory (.+)$", read("Makefile"), re.M))


def test_verify_names_what_is_out_of_date_and_generate_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    (tmp_path / "db").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- settings -->\nold\n<!-- /settings -->\nafter\n")
    assert generate.main(["--check"]) == 1
    told = capsys.readouterr().out
    assert "-old\n" in told and "+CREATE TABLE public.messages (" in told and "make generate" in told
    assert not (tmp_path / ".env.example").exists()
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert readme == f"before\n<!-- settings -->\n{markdown()}<!-- /settings -->\nafter\n"


@pytest.mark.parametrize(
    ("closing", "code"),
    [("12 passed, 1 skipped in 3.21s", 0), ("===== 1 failed, 11 passed in 63.00s (0:01:03) =====", 2)],
)
def test_ci_ends_with_the_closing_line_of_pytest(tmp_path: Path, closing: str, code: int) -> None:
    fake = tmp_path / "make"
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = test ] || exit 0\necho "{closing}"\n'
        f"[ {code} = 0 ] && echo TOTAL 100%\nexit {code}\n"
    )
    fake.chmod(0o755)
    run = subprocess.run(
        ["bash", ROOT / ".ci/run"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (run.stdout.splitlines()[-1], run.returncode) == (closing, code)


# Container --------------------------------------------------------------------------------------------


def copied() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", read("Dockerfile"), re.M)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_image_copies_what_is_there_and_sent() -> None:
    sent = re.findall(r"^!(.+)$", read(".dockerignore"), re.M)
    assert "*" in read(".dockerignore").splitlines()
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    assert sorted(copied()) == sorted(sent)


def test_the_image_runs_a_command_that_is_there_on_a_python_that_will_do() -> None:
    text = read("Dockerfile")
    assert set(re.findall(r"^FROM python:(\S+)-slim", text, re.M)) == {"3.13"}
    assert PROJECT["requires-python"] == ">=3.11"
    assert re.search(r'^CMD \["bobbin", "serve"\]$', text, re.M)
    assert PROJECT["scripts"] == {"bobbin": f"{main.__module__}:{main.__name__}"}
    assert re.findall(r"^USER (\w+)$", text, re.M) == ["bobbin"]
    names = re.findall(r"(\w+)=", " ".join(re.findall(r"^ENV (.+)$", text, re.M)))
    assert set(names) - {"PATH", "PYTHONUNBUFFERED"} <= {row.name for row in SETTINGS}


def test_the_health_check_of_the_image_is_python_and_asks_a_route() -> None:
    check = re.search(r'CMD \["python", "-c", \\\n +"(.+)"\]$', read("Dockerfile"), re.M)
    assert check
    code = check[1].replace('\\"', '"')
    compile(code, "HEALTHCHECK", "exec")
    assert "/livez" in code and "/livez" in {route.path for route in ROUTES}


def test_compose_gives_settings_that_exist_and_asks_for_a_secret() -> None:
    text = read("docker-compose.yml")
    services = re.split(r"^  (?=\w+:$)", text.split("\nvolumes:")[0].split("services:\n")[1], flags=re.M)[1:]
    by_name = {service.partition(":")[0]: service for service in services}
    assert set(by_name) == {"api", "postgres", "valkey"}
    given = re.search(r"^    environment:\n((?:      .+\n)+)", by_name["api"], re.M)
    assert given
    names = set(re.findall(r"^ +(\w+):", given[1], re.M))
    assert {"JWT_SECRET", "DATABASE_URL", "REDIS_URL"} < names <= {row.name for row in SETTINGS}
    assert "JWT_SECRET: ${JWT_SECRET:?" in text
    assert set(re.findall(r"@(\w+):5432|redis://(\w+):", text)) == {("postgres", ""), ("", "valkey")}
    waited_for = re.findall(r"^      (\w+):\n        condition: service_healthy", by_name["api"], re.M)
    assert [name for name in waited_for if "healthcheck:" in by_name[name]] == ["postgres", "valkey"]
    mounted = set(re.findall(r"^      - (\w+):/", text, re.M))
    assert mounted == set(re.findall(r"^  (\w+):$", text.split("\nvolumes:\n")[1], re.M))


def test_one_port_everywhere() -> None:
    (port,) = (row.default for row in SETTINGS if row.name == "PORT")
    assert f"EXPOSE {port}\n" in read("Dockerfile") and f" PORT={port} " in read("Dockerfile")
    assert f'- "${{PORT:-{port}}}:{port}"' in read("docker-compose.yml")
    assert f"http://127.0.0.1:{port}" in read("README.md")


# Prose ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROSE)
def test_commands_and_files_that_the_prose_names_exist(name: str) -> None:
    text = read(name)
    named = re.findall(r"(?:`|^)(?:[A-Z_]+=\S+ )*make ([a-z]+)", text, re.M)
    assert set(named) <= targets()
    assert set(re.findall(r"(?:python -m server|`bobbin) (\w+)", text)) <= COMMANDS
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    paths = re.findall(r"`((?:server|db|docs|tests|load|locks)/[\w./-]+)`", text)
    assert [path for path in links + paths if not (ROOT / path).exists()] == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[str]:
    """The port of a server as `make run` starts it, on an empty data folder."""
    given = {
        "PORT": "0",
        "BOBBIN_DEMO": "1",
        "BOBBIN_DATA_DIR": str(tmp_path / "data"),
        "BOBBIN_WORKERS": "1",
    }
    command = [sys.executable, "-m", "server", "serve"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            assert server.stdout
            yield next(
                found[1] for line in server.stdout if (found := re.search(r"is at http://.+:(\d+)", line))
            )
        finally:
            server.terminate()
            server.wait(15)
            remove(tmp_path / "data")


def test_the_tour_of_the_readme_goes_as_written(demo: str) -> None:
    (tour,) = (fence for fence in fences("README.md") if "/auth/login" in fence)
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", tour],
        env={"PATH": os.environ["PATH"], "PORT": demo, "FOLLOW_S": "1"},
        capture_output=True,
        text=True,
    )
    me, first, again, page = run.stdout.splitlines()[:4]
    assert json.loads(me)["user"]["username"] == "alice"
    assert json.loads(first) == json.loads(again) and json.loads(first)["message"]["seq"] == 1
    items = json.loads(page)["items"]
    assert len(items) == 20 and items == sorted(items, key=lambda item: item["seq"], reverse=True)
    assert re.search(r'^id: (\S+)\nevent: ready\ndata: {"cursor":"\1","lastSeq":1}\n\n', run.stdout, re.M)
    assert run.returncode == 28, run.stderr  # curl: the time to follow was over


@pytest.mark.parametrize("name", PROSE)
def test_query_blocks_that_the_prose_names_exist(name: str) -> None:
    text = read(name)
    named = re.findall(r"(?:/\* |explain )(\w+)\.(\w+)", text) + re.findall(r"block (\w+) (\w+);", text)
    assert name != "db/README.md" or len(named) >= 3
    assert [f"{stem}.{block}" for stem, block in named if block not in blocks(stem)] == []
    quoted = re.search(r"^-- name: (\w+) .*\n((?:-- .*\n)+)", text, re.M)
    if quoted:
        header = set(read("db/queries/messages.sql").partition(f"-- name: {quoted[1]} ")[2].split("\n")[:9])
        assert [line for line in quoted[2].splitlines() if line not in header] == []


def test_the_settings_are_written_down() -> None:
    table = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", read("README.md"), re.S)
    assert table and table[1] == markdown()
    assert read(".env.example") == env_example()


def test_the_version_is_said_alike() -> None:
    assert PROJECT["version"] == __version__


def test_a_release_says_what_its_migrations_lock() -> None:
    changelog = read("CHANGELOG.md")
    releases = re.split(r"^## ", changelog, flags=re.M)[1:]
    assert [r for r in releases if not re.match(r".+\n\n(Migration|No migration)", r)] == []
    assert [p.stem for p in (ROOT / "db/migrations").glob("*.sql") if p.stem not in changelog] == []
