"""Accounts and sign-ins. SQL: db/queries/users.sql."""

import asyncio
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

import argon2
import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server.base.access import ACCESS_SECONDS
from server.base.db import Db, query
from server.base.errors import Conflict, Invalid, Unauthorized, Unavailable
from server.base.http import Body, json_bytes, length, read

REFRESH_DAYS = 7
USERNAME = r"\w[\w.-]{1,31}"
T = TypeVar("T")


@query
async def register(
    db: Db, *, email: str, username: str, name: str, password_hash: str, refresh_hash: bytes, days: int
) -> asyncpg.Record: ...


@query
async def by_email(db: Db, *, email: str) -> asyncpg.Record | None: ...


@query
async def by_username(db: Db, *, username: str) -> asyncpg.Record | None: ...


@query
async def open_session(db: Db, *, user_id: int, refresh_hash: bytes, days: int) -> asyncpg.Record: ...


@query
async def account(db: Db, *, user_id: int) -> str | None: ...


class Registration(Body):
    email: Annotated[str, length(3, 254, pattern=r"[^@\s]+@[^@\s]+")]
    name: Annotated[str, length(1, 100)]
    password: Annotated[str, length(8, 256, trim=False)]
    username: Annotated[str, length(2, 32, pattern=USERNAME)] | None = None


class Login(Body):
    password: Annotated[str, length(1, 256, trim=False)]
    email: Annotated[str, length(1, 254)] | None = None
    username: Annotated[str, length(1, 64)] | None = None


class Passwords:
    """argon2id off the event loop, two at a time: each takes some 30 ms and 19 MiB.

    braked: refuse (503) when so many wait that a client would give up first.
    """

    WAITING = 100

    def __init__(self, *, braked: bool) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="password")
        # Compared with when there is no such account, so that it takes as long as a wrong password.
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._braked = braked
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """What is stored."""
        return await self._run(lambda: self._hasher.hash(password))

    async def match(self, password: str, stored: str | None) -> bool:
        """Whether this is the password. With None it takes as long, and is not."""

        def compare() -> bool:
            try:
                return self._hasher.verify(stored or self._nobody, password) and stored is not None
            except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
                return False

        return await self._run(compare)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._braked and self._waiting >= self.WAITING:
            raise Unavailable("Too many people are signing in; try again in a moment.", code="busy")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """No more of it."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def post_register(request: Request) -> HTTPResponse:
    """A new account, signed in at once.

    Body: email, name (1 to 100), password (8 to 256), username? (2 to 32; made from the name if not given).
    201 {"user", "accessToken", "refreshToken", "expiresIn"}; 409 email_taken, username_taken; 422.
    """
    body = read(request, Registration)
    ctx = request.app.ctx
    password_hash = await ctx.passwords.hash(body.password)
    names = [body.username] if body.username else handles(body.name)
    for username in names:
        refresh_token, refresh_hash = _refresh_token()
        try:
            row = await ctx.tasks.finish(
                register(
                    ctx.db,
                    email=body.email,
                    username=username,
                    name=body.name,
                    password_hash=password_hash,
                    refresh_hash=refresh_hash,
                    days=REFRESH_DAYS,
                )
            )
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "users_username_key" and not body.username:
                continue  # one that we made up: the next
            raise
        return _signed_in(request, row, refresh_token, status=201)
    raise Conflict("Choose a username: those made from your name are taken.", code="username_taken")


async def post_login(request: Request) -> HTTPResponse:
    """Sign in with email or username.

    Body: password, and either email or username.
    200 {"user", "accessToken", "refreshToken", "expiresIn"}; 401 wrong_credentials, the same and
    after the same time for an unknown name and a wrong password; 422 when neither or both are given.
    """
    body = read(request, Login)
    if (body.email is None) == (body.username is None):
        raise Invalid({"email": "give either email or username"})
    ctx = request.app.ctx
    if body.email is not None:
        found = await by_email(ctx.db, email=body.email)
    else:
        found = await by_username(ctx.db, username=body.username or "")
    if not await ctx.passwords.match(body.password, found and found["password_hash"]) or found is None:
        raise Unauthorized("The name or the password is wrong.", code="wrong_credentials")
    refresh_token, refresh_hash = _refresh_token()
    row = await open_session(ctx.db, user_id=found["id"], refresh_hash=refresh_hash, days=REFRESH_DAYS)
    return _signed_in(request, row, refresh_token, status=200)


async def get_me(request: Request) -> HTTPResponse:
    """Who am I.

    200 {"user": {"id", "email", "username", "name", "role", "settings": {"readReceipts"}}}; 401.
    """
    found = await account(request.app.ctx.db, user_id=request.ctx.user_id)
    if found is None:
        raise Unauthorized()
    return json_bytes(f'{{"user":{found}}}')


def handles(name: str) -> list[str]:
    """Usernames to try for a name: the plain one, then some with digits."""
    plain = re.sub(r"[^\w]+", ".", unicodedata.normalize("NFKC", name).lower()).strip("._")[:27].strip("._")
    if len(plain) < 2:
        plain = f"user.{plain}".rstrip(".")
    return [plain] + [f"{plain}{secrets.randbelow(10**digits):0{digits}}" for digits in (2, 3, 4, 5, 5, 5)]


def _refresh_token() -> tuple[str, bytes]:
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).digest()


def _signed_in(request: Request, row: asyncpg.Record, refresh_token: str, *, status: int) -> HTTPResponse:
    token = request.app.ctx.tokens.issue(user_id=row["user_id"], session_id=row["session_id"])
    return json_bytes(
        f'{{"user":{row["account"]},"accessToken":"{token}","refreshToken":"{refresh_token}"'
        f',"expiresIn":{ACCESS_SECONDS}}}',
        status=status,
    )
