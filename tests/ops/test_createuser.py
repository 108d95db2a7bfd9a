"""bobbin createuser: the first admin, and the way back in."""

import argparse
import asyncio
import io
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from argon2 import PasswordHasher

from server.base.settings import load
from server.ops import createuser
from tests.client import NUMBERS
from tests.ops.process import Bobbin
from tests.ops.test_cli import run as bobbin_command

Command = Callable[..., tuple[int, str, str]]
Rows = Callable[..., list[asyncpg.Record]]


class Terminal(io.StringIO):
    """A standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def command(db_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run it with these words: exit code, output, errors. typed: what is typed at prompts; piped: standard input."""
    monkeypatch.setattr(createuser, "database", lambda settings: nullcontext(settings.database_url))

    def run(*words: str, piped: str = "", typed: tuple[str, ...] = ()) -> tuple[int, str, str]:
        parser, left = argparse.ArgumentParser(), list(typed)
        createuser.add_arguments(parser)
        monkeypatch.setattr("sys.stdin", Terminal() if typed else io.StringIO(piped))
        monkeypatch.setattr("getpass.getpass", lambda prompt="": left.pop(0))
        code = createuser.run(
            parser.parse_args(words), load({"DATABASE_URL": db_url, "JWT_SECRET": "x" * 32})
        )
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def rows(db_url: str) -> Rows:
    """What a statement answers, asked from outside of any event loop."""

    async def fetch(text: str, values: tuple[Any, ...]) -> list[asyncpg.Record]:
        conn = await asyncpg.connect(db_url)
        try:
            return list(await conn.fetch(text, *values))
        finally:
            await conn.close()

    return lambda text, *values: asyncio.run(fetch(text, values))


def fresh() -> str:
    return f"a{next(NUMBERS)}@example.org"


def account(rows: Rows, email: str) -> Any:
    return rows("SELECT * FROM users WHERE lower(email) = lower($1)", email)[0]


def opens(rows: Rows, email: str, password: str) -> bool:
    return PasswordHasher().verify(account(rows, email)["password_hash"], password)


def test_the_first_admin_is_made_and_noted(command: Command, rows: Rows) -> None:
    email = fresh()
    words = ("--role", "admin", "--email", f" {email} ", "--name", "Ada Lovelace", "--password-stdin")
    code, out, err = command(*words, piped="correct horse\n")
    ada = account(rows, email)
    assert (code, err) == (0, "") and f"id {ada['id']}" in out and "correct horse" not in out
    assert (ada["role"], ada["name"], ada["username"]) == ("admin", "Ada Lovelace", "ada.lovelace")
    assert opens(rows, email, "correct horse")
    (entry,) = rows("SELECT * FROM audit WHERE subject_id = $1", ada["id"])
    assert (entry["act"], entry["actor_id"]) == ("user.created", None)
    assert "correct" not in entry["details"]


def test_a_password_is_asked_for_twice_or_made(command: Command, rows: Rows) -> None:
    asked, made = fresh(), fresh()
    code, out, _ = command("--email", asked, "--name", "Asked", typed=("typed password", "typed password"))
    assert code == 0 and "typed" not in out and opens(rows, asked, "typed password")
    assert account(rows, asked)["role"] == "member"
    code, out, _ = command("--email", made, "--name", "Made", "--username", "Made.Up")
    password = re.search(r"^Password: (\S{20,})$", out, re.M)
    assert code == 0 and password and opens(rows, made, password[1])
    assert account(rows, made)["username"] == "Made.Up"
    code, _, err = command("--email", fresh(), "--name", "Unsure", typed=("one password", "another one"))
    assert (code, err) == (1, "These are not the same.\n")


@pytest.mark.parametrize(
    ("words", "piped", "said"),
    [
        (("--email", "nobody", "--name", "N"), "12345678", "The email must match"),
        (("--email", "a@b.c", "--name", " "), "12345678", "The name must not be empty."),
        (("--email", "a@b.c", "--name", "N"), "1234567", "The password must have at least 8 characters."),
        (("--email", "a@b.c", "--name", "N"), "x" * 257, "The password must have at most 256 characters."),
        (("--email", "a@b.c", "--name", "N", "--username", "@x"), "12345678", "The username must match"),
        (("--email", "a@b.c"), "12345678", "A new account needs a --name"),
        (("--email", "a@b.c", "--existing"), "12345678", "There is no account with this email."),
        (("--email", "a@b.c", "--existing", "--name", "N"), "12345678", "With --existing only"),
        (("--email", "taken@example.org", "--existing"), "1234567", "The password must have at least 8"),
        (
            ("--email", "TAKEN@example.org", "--name", "N"),
            "12345678",
            "There is an account with this email already.",
        ),
        (("--email", "a@b.c", "--name", "N", "--username", "TAKEN"), "12345678", "This username is taken."),
    ],
)
def test_what_is_refused_is_told_in_a_sentence(
    command: Command, rows: Rows, words: tuple[str, ...], piped: str, said: str
) -> None:
    rows(
        "INSERT INTO users (name, email, username) VALUES ('T', 'taken@example.org', 'taken') ON CONFLICT DO NOTHING"
    )
    before = rows("SELECT count(*) FROM users")
    code, out, err = command(*words, "--password-stdin", piped=piped)
    assert (code, out) == (1, "") and err.startswith(said) and "Traceback" not in err
    assert rows("SELECT count(*) FROM users") == before


def test_a_taken_handle_is_no_hindrance_when_it_is_made_from_the_name(command: Command, rows: Rows) -> None:
    emails = [fresh(), fresh()]
    for email in emails:
        assert command("--email", email, "--name", "Same Name")[0] == 0
    assert len({account(rows, email)["username"] for email in emails}) == 2


def test_an_existing_account_gets_a_role_or_a_password_and_its_sessions_end(
    command: Command, rows: Rows
) -> None:
    email = fresh()
    command("--email", email, "--name", "Ada", "--password-stdin", piped="the old one")
    user_id = account(rows, email)["id"]

    def session() -> None:
        rows(
            "INSERT INTO sessions (user_id, refresh_hash, expires_at) VALUES ($1, $2, now() + interval '1 day')",
            user_id, str(next(NUMBERS)).encode(),
        )  # fmt: skip

    def ended() -> Any:
        query = "SELECT count(*) FROM sessions WHERE user_id = $1 AND ended_xid IS NULL"
        return rows(query, user_id)[0][0] == 0

    session()
    code, out, _ = command("--email", email.upper(), "--existing", "--role", "admin")
    assert code == 0 and "Ada is admin" in out and "Password" not in out and ended()
    assert account(rows, email)["role"] == "admin" and opens(rows, email, "the old one")
    session()
    assert not ended()
    assert command("--email", email, "--existing", "--password-stdin", piped="the new one")[0] == 0
    assert ended() and opens(rows, email, "the new one") and account(rows, email)["role"] == "admin"
    acts = rows("SELECT act, actor_id FROM audit WHERE subject_id = $1 ORDER BY id", user_id)
    assert [tuple(row) for row in acts] == [
        ("user.created", None),
        ("user.role", None),
        ("password.set", None),
    ]


def test_the_last_admin_and_who_is_deactivated_are_left_as_they_are(command: Command, rows: Rows) -> None:
    email, gone = fresh(), fresh()
    for one in (email, gone):
        command("--email", one, "--name", "Ada", "--role", "admin")
    rows("UPDATE users SET role = 'member' WHERE role = 'admin' AND email NOT IN ($1, $2)", email, gone)
    rows("UPDATE users SET deactivated_at = now() WHERE email = $1", gone)
    code, _, err = command("--email", email, "--existing", "--role", "member")
    assert code == 1 and "this is the last one" in err and account(rows, email)["role"] == "admin"
    code, _, err = command("--email", gone, "--existing", "--role", "admin")
    assert code == 1 and err.startswith("This account has been deactivated")


def test_it_works_beside_a_running_server_on_its_embedded_database(
    bobbin: Callable[..., Bobbin], folder: Path
) -> None:
    words = ("createuser", "--email", "root@example.org", "--name", "Root", "--role", "admin")
    made = bobbin_command(folder / "data", *words)
    assert (made.returncode, made.stderr) == (0, "")
    again = bobbin_command(folder / "data", *words)
    assert (again.returncode, again.stderr) == (1, "There is an account with this email already.\n")
    server = bobbin(folder / "data").ready()
    login = {"email": "root@example.org", "password": made.stdout.split("Password: ")[1].strip()}
    with httpx.Client(base_url=server.url, timeout=10, trust_env=False) as client:
        token = client.post("/api/auth/login", json=login).json()["accessToken"]
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/api/admin/users", headers=headers).status_code == 200
        changed = bobbin_command(folder / "data", "createuser", "--email", "root@example.org", "--existing")
        assert changed.returncode == 0, changed.stderr
        login["password"] = changed.stdout.split("Password: ")[1].strip()
        assert client.post("/api/auth/login", json=login).status_code == 200
        client.cookies.clear()
        while client.get("/api/admin/users", headers=headers).status_code == 200:
            pass
        assert client.get("/api/admin/users", headers=headers).status_code == 401
    assert server.stop() == 0
