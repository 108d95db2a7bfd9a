"""API keys of bots and host applications, and the guests that a host vouches for. SQL: db/queries/keys.sql.

A host application signs its own people in: with its key it asks for an access token for one of them, by its own id of
that person. The account is made on the way; nobody but this host reaches it by that id.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar
from urllib.parse import unquote

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, sessions, shapes, users
from server.base.access import ACCESS_SECONDS, secret_token
from server.base.db import Db, query
from server.base.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from server.base.http import TOP, Body, Query, answers, empty, json_bytes, length, whole

R = TypeVar("R")


@query
async def make_bot(db: Db, *, username: str, name: str) -> int: ...


@query
async def hold_bot(db: Db, *, user_id: int) -> int | None: ...


@query
async def make(
    db: Db, *, user_id: int, kind: str, name: str, key_hash: bytes, created_by: int
) -> asyncpg.Record: ...


@query
async def page(db: Db, *, before_id: int, size: int) -> asyncpg.Record: ...


@query
async def revoke(db: Db, *, key_id: int) -> asyncpg.Record | None: ...


@query
async def forget(db: Db, *, user_id: int) -> str: ...


@query
async def end_guests(db: Db, *, key_ids: list[int]) -> list[asyncpg.Record]: ...


@query
async def hold_guest(db: Db, *, external_id: str) -> asyncpg.Record | None: ...


@query
async def make_guest(db: Db, *, external_id: str, username: str, name: str) -> int | None: ...


@query
async def rename_guest(db: Db, *, user_id: int, name: str) -> str: ...


@query
async def guest(db: Db, *, user_id: int) -> str: ...


@query
async def hold_key(db: Db, *, key_id: int) -> int | None: ...


@query
async def renew(db: Db, *, key_id: int, user_id: int, device: str, seconds: int) -> int | None: ...


@query
async def open_guest(db: Db, *, key_id: int, user_id: int, device: str, seconds: int) -> int: ...


class KeyQuery(Query):
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


class NewKey(Body):
    kind: Literal["bot", "host"]
    name: Annotated[str, length(1, 100)]
    username: Annotated[str, length(2, 32, pattern=users.USERNAME)] | None = None
    userId: Annotated[int, whole()] | None = None


class Guest(Body):
    externalId: Annotated[str, length(1, 128, trim=False)]
    name: Annotated[str, length(1, 100)]
    username: Annotated[str, length(2, 32, pattern=users.USERNAME)] | None = None
    device: Annotated[str, length(0, 64)] = ""


# ---- keys --------------------------------------------------------------------------------------


@answers({201: shapes.NewKeyAnswer}, {409: "username_taken"})
async def post_key(request: Request, body: NewKey) -> HTTPResponse:
    """A new API key, with a new bot (username: its handle, made from the name if not given), or for the bot userId.

    The secret is told this once. A key of kind host is for POST /api/host/tokens and nothing else.
    """
    if body.userId is not None and body.username is not None:
        raise Invalid({"username": "is for a new bot: leave it out with userId"})
    secret, key_hash = secret_token(sessions.KEY_PREFIX)

    async def work(username: str) -> asyncpg.Record:
        async with request.app.ctx.db.acquire() as conn, conn.transaction():
            return await _make(conn, request, body, username, key_hash)

    names = [body.username] if body.username else users.handles(body.name)
    made = await _first_free(names, lambda name: request.app.ctx.tasks.finish(work(name)))
    return json_bytes(f'{{"key":{made["key"]},"secret":"{secret}"}}', status=201)


async def _make(db: Db, request: Request, body: NewKey, username: str, key_hash: bytes) -> asyncpg.Record:
    if body.userId is None:
        bot_id = await make_bot(db, username=username, name=body.name)
        await audit.record(db, request, "user.created", subject_id=bot_id, kind="bot")
    elif await hold_bot(db, user_id=body.userId) is not None:
        bot_id = body.userId
    else:
        raise Invalid({"userId": "there is no such bot"})
    made = await make(
        db,
        user_id=bot_id,
        kind=body.kind,
        name=body.name,
        key_hash=key_hash,
        created_by=request.ctx.user_id,
    )
    await audit.record(
        db, request, "key.made", subject_id=bot_id, keyId=made["session_id"], kind=body.kind, name=body.name
    )
    return made


async def _first_free(names: list[str], work: Callable[[str], Awaitable[R]]) -> R:
    """The result of work with the first of these usernames that nobody has. Raises Conflict when all are taken."""
    for name in names:
        try:
            return await work(name)
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "users_username_key":
                raise
    raise Conflict("This username is taken.", code="username_taken")


@answers({200: shapes.KeyPage}, {400: "bad_cursor"})
async def list_keys(request: Request, query: KeyQuery) -> HTTPResponse:
    """The living keys, newest first. lastUsedAt is to the hour; null: never."""
    ctx, before_id = request.app.ctx, TOP
    if query.cursor is not None:
        (before_id,) = ctx.cursors.open("admin:keys", query.cursor, count=1)
    row = await page(ctx.db, before_id=before_id, size=query.limit)
    following = f'"{ctx.cursors.seal("admin:keys", row["last_id"])}"' if row["more"] else "null"
    return json_bytes(f'{{"keys":{row["keys"]},"nextCursor":{following}}}')


@answers({204: None})
async def delete_key(request: Request, key_id: int) -> HTTPResponse:
    """Revoke a key: within a second it opens nothing, and its streams end. So do the guests of a host's key."""
    ctx = request.app.ctx

    async def work() -> None:
        async with ctx.db.acquire() as conn, conn.transaction():
            gone = await revoke(conn, key_id=key_id)
            if gone is None:
                raise NotFound()
            guests = [row["id"] for row in await end_guests(conn, key_ids=[key_id])]
            await audit.record(
                conn,
                request,
                "key.revoked",
                subject_id=gone["user_id"],
                keyId=key_id,
                kind=gone["kind"],
                name=gone["name"],
            )
        sessions.over(ctx, key_id, *guests)

    await ctx.tasks.finish(work())
    return empty()


# ---- guests ------------------------------------------------------------------------------------


def _external_id(request: Request, given: str) -> str:
    """How users.external_id has it: each host has ids of its own."""
    return f"host:{request.ctx.user_id}:{given}"


@answers({200: shapes.GuestAnswer}, {403: "deactivated", 409: "username_taken"})
async def post_host_token(request: Request, body: Guest) -> HTTPResponse:
    """An access token for a person of the host application, by the host's own id of them.

    The account is made when it isn't there yet: with this username, or one like it if that is taken, or one made from
    the name. Its name follows the host's. The token is good for 15 minutes, and so is the session of this person on
    this device; asking again moves its end forward, and streams live on as long as the host keeps asking.
    """
    ctx = request.app.ctx
    names = users.handles(body.username or body.name)
    if body.username:
        names[0] = body.username
    # A name may be taken by whoever makes the same person at this moment: the next try then finds them.
    token, user = await _first_free(names, lambda name: ctx.tasks.finish(_mint(request, body, name)))
    return json_bytes(f'{{"user":{user},"accessToken":"{token}","expiresIn":{ACCESS_SECONDS}}}')


async def _mint(request: Request, body: Guest, username: str) -> tuple[str, str]:
    ctx = request.app.ctx
    external_id, key_id = _external_id(request, body.externalId), request.ctx.session_id
    async with ctx.db.acquire() as conn, conn.transaction():
        row = await hold_guest(conn, external_id=external_id)
        if row is None:
            made = await make_guest(conn, external_id=external_id, username=username, name=body.name)
            if made is not None:
                await audit.record(conn, request, "host.user.made", subject_id=made, keyId=key_id)
            row = await hold_guest(conn, external_id=external_id)
        assert row is not None
        if row["deactivated"]:
            raise Forbidden("This account has been deactivated.", code="deactivated")
        if await hold_key(conn, key_id=key_id) is None:
            raise Unauthorized("This session has ended.", code="session_ended")
        if row["name"] != body.name:
            await rename_guest(conn, user_id=row["id"], name=body.name)
        place = {"key_id": key_id, "user_id": row["id"], "device": body.device, "seconds": ACCESS_SECONDS}
        session_id = await renew(conn, **place)
        if session_id is None:
            session_id = await open_guest(conn, **place)
            await audit.record(
                conn, request, "session.opened", subject_id=row["id"], sessionId=session_id, keyId=key_id
            )
        user = await guest(conn, user_id=row["id"])
    return ctx.tokens.issue(user_id=row["id"], session_id=session_id), user


@answers({204: None})
async def delete_host_sessions(request: Request, external_id: str) -> HTTPResponse:
    """End the sessions of a person of the host application, on all devices. 404 for whom it has never asked a token."""
    ctx = request.app.ctx
    try:
        given = unquote(external_id, errors="strict")
    except UnicodeDecodeError:
        raise NotFound() from None
    if "\0" in given:
        raise NotFound()

    async def work() -> None:
        async with ctx.db.acquire() as conn, conn.transaction():
            row = await hold_guest(conn, external_id=_external_id(request, given))
            if row is None:
                raise NotFound()
            ended = [r["id"] for r in await sessions.end_others(conn, user_id=row["id"], session_id=0)]
            await audit.record(conn, request, "session.ended", subject_id=row["id"], count=len(ended))
        sessions.over(ctx, *ended)

    await ctx.tasks.finish(work())
    return empty()
