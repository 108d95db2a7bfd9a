"""bobbin createuser: an account from the command line. The first admin is made so, and so is the way back in.

Statements of users.sql, admin.sql and sessions.sql; what is done is audited, by nobody.
"""

import argparse
import asyncio
import getpass
import secrets
import sys
from typing import Any

import asyncpg
import msgspec
import orjson

from server import admin, audit, sessions, users
from server.base.db import Db
from server.base.errors import CONSTRAINTS, Problem
from server.base.http import faults_of
from server.base.passwords import Passwords
from server.base.settings import Settings
from server.ops.embedded import database

MADE_BYTES = 15  # of chance in a password that is made: 20 characters


class Refused(Exception):
    """Why nothing was done, as a sentence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bobbin createuser`."""
    parser.description = (
        "Make an account, or change one that is there. The password is asked for; where nobody can be asked, one is "
        "made and printed."
    )
    parser.add_argument("--email", required=True)
    parser.add_argument("--name", help="how others see them")
    parser.add_argument("--username", help="the @handle (made from the name)")
    parser.add_argument("--role", choices=("admin", "agent", "member"), help="for the whole server (member)")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument(
        "--existing",
        action="store_true",
        help="give the account with this email another --role, or a new password where none is given; "
        "its sessions end",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """0 when it is done, 1 when it is refused."""
    try:
        if not args.existing and not args.name:
            raise Refused("A new account needs a --name (or --existing, to change one that is there).")
        if args.existing and (args.name or args.username):
            raise Refused("With --existing only --role and the password can be changed.")
        password, made = _password(args)
        with database(settings) as url:
            print(asyncio.run(_run(url, args, password)))
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    if made:
        print(f"Password: {password}")
    return 0


def _password(args: argparse.Namespace) -> tuple[str | None, bool]:
    """The password to set, and whether it was made here; None when only the role is to be changed."""
    if args.password_stdin:
        return sys.stdin.readline(1000).rstrip("\r\n"), False
    if args.existing and args.role:
        return None, False
    if not sys.stdin.isatty():
        return secrets.token_urlsafe(MADE_BYTES), True
    password = getpass.getpass()
    if getpass.getpass("Again: ") != password:
        raise Refused("These are not the same.")
    return password, False


async def _run(url: str, args: argparse.Namespace, password: str | None) -> str:
    # No cache of statements: it gains nothing here, and none is what PgBouncer needs.
    conn = await asyncpg.connect(
        url,
        statement_cache_size=0,
        server_settings={"application_name": "bobbin createuser", "timezone": "UTC"},
    )
    try:
        if args.existing:
            return await _change(conn, args, password)
        return await _create(conn, args, password or "")
    except asyncpg.UniqueViolationError as error:
        raise Refused(CONSTRAINTS[error.constraint_name or ""][1]) from None
    except Problem as problem:
        raise Refused(problem.sentence) from None
    finally:
        await conn.close()


async def _create(conn: asyncpg.Connection, args: argparse.Namespace, password: str) -> str:
    given = {"email": args.email, "name": args.name, "username": args.username, "password": password}
    body = _checked(sessions.Registration, **given)
    role, password_hash = args.role or "member", await _hash(password)
    names = [body.username] if body.username else users.handles(body.name)
    for username in names:
        try:
            async with conn.transaction():
                user_id = await users.create(
                    conn,
                    email=body.email,
                    username=username,
                    name=body.name,
                    password_hash=password_hash,
                    role=role,
                )
                await _note(conn, "user.created", user_id, role=role)
            return f"Made {username}, {role}, with the id {user_id}."
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "users_username_key" or body.username:
                raise
    raise Refused("Choose a --username: those made from the name are taken.")


async def _change(conn: asyncpg.Connection, args: argparse.Namespace, password: str | None) -> str:
    if password is not None:
        _checked(admin.Password, new=password)
    password_hash = None if password is None else await _hash(password)
    async with conn.transaction():
        user_id = await admin.by_email(conn, email=args.email)
        account = None if user_id is None else await admin.held(conn, user_id=user_id, by_id=None)
        if user_id is None or account is None:
            raise Refused("There is no account with this email.")
        if not account.active:
            raise Refused("This account has been deactivated: make another, or have an admin bring it back.")
        admin.keep_an_admin(account, role=args.role, active=None)
        if args.role not in (None, account.role):
            await admin.alter(conn, account, user_id, name=None, role=args.role, active=None)
            await _note(conn, "user.role", user_id, was=account.role, to=args.role)
        if password_hash is not None:
            await admin.set_password(conn, user_id=user_id, password_hash=password_hash)
            await _note(conn, "password.set", user_id)
        await sessions.end_others(conn, user_id=user_id, session_id=0)
    return f"{account.name} is {args.role or account.role}; all sessions of theirs have ended."


def _checked(kind: Any, **given: str | None) -> Any:
    """The same rules as over HTTP."""
    body = msgspec.convert(given, kind)
    if faults := faults_of(body):
        names = {name: "password" if name == "new" else name for name in faults}
        raise Refused("\n".join(f"The {names[name]} {fault}." for name, fault in faults.items()))
    return body


async def _hash(password: str) -> str:
    passwords = Passwords(braked=False)
    try:
        return await passwords.hash(password)
    finally:
        passwords.close()


async def _note(db: Db, act: str, user_id: int, **details: str) -> None:
    await audit.note(
        db,
        act=act,
        actor_id=None,
        subject_id=user_id,
        thread_id=None,
        address=None,
        request_id=None,
        details=orjson.dumps(details | {"by": "createuser"}).decode(),
    )
