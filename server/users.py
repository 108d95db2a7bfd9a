"""Accounts. SQL: db/queries/users.sql."""

import re
import secrets
import unicodedata
from collections.abc import Sequence
from typing import Annotated

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, shapes
from server.base.db import Db, query
from server.base.errors import Forbidden, Invalid, Unauthorized
from server.base.front import address_of
from server.base.http import Body, Query, answers, json_bytes, length, whole

EMAIL = r"[^@\s]+@[^@\s]+"
USERNAME = r"\w[\w.-]{1,31}"


@query
async def create(
    db: Db, *, email: str, username: str, name: str, password_hash: str | None, role: str
) -> int: ...


@query
async def account(db: Db, *, user_id: int) -> str | None: ...


@query
async def edit(
    db: Db,
    *,
    user_id: int,
    name: str | None,
    username: str | None,
    email: str | None,
    read_receipts: bool | None,
) -> str | None: ...


@query
async def set_password(db: Db, *, user_id: int, old_hash: str, new_hash: str) -> int | None: ...


@query
async def hold(db: Db, *, user_ids: Sequence[int]) -> object: ...


@query
async def find(db: Db, *, search: str, part: str, size: int) -> str: ...


@query
async def role(db: Db, *, user_id: int) -> str | None: ...


@query
async def secret_of(db: Db, *, user_id: int) -> str | None: ...


class PeopleQuery(Query):
    search: Annotated[str, length(0, 100)] = ""
    limit: Annotated[int, whole(1, 50)] = 20


class NewSettings(msgspec.Struct):
    readReceipts: bool | None = None


class Profile(Body):
    name: Annotated[str, length(1, 100)] | None = None
    username: Annotated[str, length(2, 32, pattern=USERNAME)] | None = None
    email: Annotated[str, length(3, 254, pattern=EMAIL)] | None = None
    password: Annotated[str, length(1, 256, trim=False)] | None = None
    settings: NewSettings | None = None


@answers({200: shapes.UserAnswer})
async def get_me(request: Request) -> HTTPResponse:
    """Who am I."""
    found = await account(request.app.ctx.db, user_id=request.ctx.user_id)
    if found is None:
        raise Unauthorized()
    return json_bytes(f'{{"user":{found}}}')


@answers({200: shapes.UserAnswer}, {403: "wrong_password", 409: "email_taken username_taken"})
async def patch_me(request: Request, body: Profile) -> HTTPResponse:
    """Change what is given of my account. Another email needs the password too, for it is what one signs in with."""
    ctx, me = request.app.ctx, request.ctx.user_id
    if body.email is not None:
        if body.password is None:
            raise Invalid({"password": "is required to change the email"})
        await right_password(request, body.password)

    async def work() -> str | None:
        async with ctx.db.acquire() as conn, conn.transaction():
            found = await edit(
                conn,
                user_id=me,
                name=body.name,
                username=body.username,
                email=body.email,
                read_receipts=body.settings.readReceipts if body.settings else None,
            )
            if body.email is not None:
                await audit.record(conn, request, "email.changed", subject_id=me)
        return found

    found = await ctx.tasks.finish(work())
    if found is None:
        raise Unauthorized()
    return json_bytes(f'{{"user":{found}}}')


@answers({200: shapes.UserList})
async def search_users(request: Request, query: PeopleQuery) -> HTTPResponse:
    """Find people by name or username, ignoring case: what fits best first.

    Any part of a name is found by three letters and more, the beginning of one by fewer. Without a search: the first
    by name.
    """
    part = "%" + re.sub(r"([\\%_])", r"\\\1", query.search) + "%"
    found = await find(request.app.ctx.reads, search=query.search, part=part, size=query.limit)
    return json_bytes(f'{{"users":{found}}}')


async def right_password(request: Request, given: str) -> str:
    """The stored password of the caller, who has given the right one. Raises Forbidden; guessing is braked.

    The right one counts too: it is seldom asked for, and dear to compare.
    """
    ctx, me = request.app.ctx, request.ctx.user_id
    async with ctx.limits.guess(address_of(request), brake_of(me)):
        stored = await secret_of(ctx.db, user_id=me)
        if not await ctx.passwords.match(given, stored) or stored is None:
            raise Forbidden("The current password is wrong.", code="wrong_password")
    return stored


def brake_of(user_id: int) -> str:
    """How limits.guess is told of an account, however it was named."""
    return f"user {user_id}"


def handles(name: str) -> list[str]:
    """Usernames to try for a name: the plain one, then some with digits."""
    plain = re.sub(r"[^\w]+", ".", unicodedata.normalize("NFKC", name).lower()).strip("._")[:27].strip("._")
    if len(plain) < 2:
        plain = f"user.{plain}".rstrip(".")
    return [plain] + [f"{plain}{secrets.randbelow(10**digits):0{digits}}" for digits in (2, 3, 4, 5, 5, 5)]
