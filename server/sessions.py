"""Signing in, staying signed in, and no longer. SQL: db/queries/sessions.sql."""

import time
from typing import Annotated, Any, TypeVar

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, shapes, users
from server.base.access import (
    ACCESS_SECONDS,
    CACHED_TOKENS,
    Access,
    Caller,
    digest,
    same,
    secret_token,
)
from server.base.db import Db, query
from server.base.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from server.base.front import address_of, by_tls, same_site
from server.base.http import Body, answers, empty, json_bytes, length

REFRESH_DAYS = 7
TICKET_SECONDS = 60
ALIVE_SECONDS = 30.0  # how long a worker trusts what it looked up; what ends meanwhile it is told
COOKIE_SECONDS = 400 * 86400  # as long as browsers keep one: the session ends it, not the cookie
SAFE = {"GET", "HEAD", "OPTIONS"}
KEY_PREFIX = "bbk_"  # what every API key begins with: by it a leaked one is told from other secrets
K = TypeVar("K", int, bytes)


@query
async def by_email(db: Db, *, email: str) -> asyncpg.Record | None: ...


@query
async def by_username(db: Db, *, username: str) -> asyncpg.Record | None: ...


@query
async def open(  # the block's name; nothing here opens a file
    db: Db,
    *,
    user_id: int,
    password_hash: str,
    refresh_hash: bytes,
    days: int,
    address: str | None,
    user_agent: str | None,
) -> asyncpg.Record | None: ...


@query
async def rotate(
    db: Db, *, old_hash: bytes, new_hash: bytes, days: int, address: str | None, user_agent: str | None
) -> asyncpg.Record | None: ...


@query
async def reused(db: Db, *, hash: bytes) -> asyncpg.Record | None: ...


@query
async def end_one(db: Db, *, user_id: int, session_id: int) -> int | None: ...


@query
async def end_others(db: Db, *, user_id: int, session_id: int) -> list[asyncpg.Record]: ...


@query
async def devices(db: Db, *, user_id: int, session_id: int) -> str: ...


@query
async def alive(db: Db, *, session_id: int) -> asyncpg.Record | None: ...


@query
async def touch(db: Db, *, session_id: int, days: int) -> str: ...


@query
async def by_key(db: Db, *, hash: bytes) -> asyncpg.Record | None: ...


@query
async def note_use(db: Db, *, session_id: int) -> str: ...


@query
async def make_ticket(db: Db, *, hash: bytes, session_id: int, seconds: int) -> str: ...


@query
async def redeem(db: Db, *, hash: bytes) -> asyncpg.Record | None: ...


class Registration(Body):
    email: Annotated[str, length(3, 254, pattern=users.EMAIL)]
    name: Annotated[str, length(1, 100)]
    password: Annotated[str, length(8, 256, trim=False)]
    username: Annotated[str, length(2, 32, pattern=users.USERNAME)] | None = None


class Login(Body):
    password: Annotated[str, length(1, 256, trim=False)]
    email: Annotated[str, length(1, 254)] | None = None
    username: Annotated[str, length(1, 64)] | None = None


class Refresh(Body):
    refreshToken: Annotated[str, length(1, 256)]


class NewPassword(Body):
    current: Annotated[str, length(1, 256, trim=False)]
    new: Annotated[str, length(8, 256, trim=False)]


# ---- who is asking -----------------------------------------------------------------------------


class SignIns:
    """Tells who makes a request. What it has looked up it remembers for a moment; what ended, it is told."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._alive: dict[int, tuple[Caller, float]] = {}  # sessions of cookies, until when they are trusted
        self._keys: dict[bytes, tuple[Caller, float]] = {}  # API keys, by their hash: the same

    async def caller(self, request: Request, access: Access) -> Caller:
        """The caller of a request whose route wants one. Raises Unauthorized, or Forbidden for a forged write."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            caller = await self._bearer(request, token.strip())
        elif access == "STREAM" and (given := request.args.get("token")):
            caller = await (self._bearer if "." in given else self._ticket)(request, given)
        elif not scheme and (cookie := request.cookies.get(cookie_name(request, "session"))):
            caller = await self._cookie(request, cookie)
        else:
            raise Unauthorized()
        if self._ctx.endings.over(caller.session_id):
            raise Unauthorized("This session has ended.", code="session_ended")
        return caller

    async def _bearer(self, request: Request, token: str) -> Caller:
        if token.startswith(KEY_PREFIX):
            return await self._key(request, digest(token))
        caller: Caller = self._ctx.tokens.caller(token)
        return caller

    async def _key(self, request: Request, hash_: bytes) -> Caller:
        caller, until = self._keys.get(hash_, (None, 0.0))
        if caller is None or until < time.monotonic():
            self._keys.pop(hash_, None)
            self._ctx.limits.refuses(
                request, "refused"
            )  # whoever tries one after the other does not get to ask
            row = await by_key(self._ctx.db, hash=hash_)
            if row is None:
                raise Unauthorized()
            if row["stale"]:
                await note_use(self._ctx.db, session_id=row["session_id"])
            caller = Caller(row["user_id"], row["session_id"], row["kind"])
            _remember(self._keys, hash_, caller)
        return caller

    async def _ticket(self, request: Request, ticket: str) -> Caller:
        self._ctx.limits.refuses(request, "refused")
        row = await redeem(self._ctx.db, hash=digest(ticket))
        if row is None:
            raise Unauthorized()
        return Caller(row["user_id"], row["session_id"], "bot" if row["kind"] == "key" else "user")

    async def _cookie(self, request: Request, cookie: str) -> Caller:
        session_id = self._ctx.tokens.cookie_session(cookie)
        if session_id is None:
            raise Unauthorized()
        caller, until = self._alive.get(session_id, (None, 0.0))
        if caller is None or until < time.monotonic():
            self._ctx.limits.refuses(request, "refused")
            self._alive.pop(session_id, None)
            row = await alive(self._ctx.db, session_id=session_id)
            if row is None:
                raise Unauthorized("This session has ended.", code="session_ended")
            if row["stale"]:
                await touch(self._ctx.db, session_id=session_id, days=REFRESH_DAYS)
            caller = Caller(row["user_id"], session_id)
            _remember(self._alive, session_id, caller)
        if request.method not in SAFE:
            self._unforged(request, session_id)
        elif "upgrade" in request.headers and not ("origin" in request.headers and same_site(request)):
            # A WebSocket writes too, and a browser opens one for any page, with our cookies. It says which.
            raise Forbidden(
                "With the session cookie a WebSocket is for pages of ours.", code="foreign_origin"
            )
        return caller

    def _unforged(self, request: Request, session_id: int) -> None:
        """A browser sends its cookies with whatever page asks it to: a write must show that ours asked."""
        given = request.headers.get("x-csrf-token", "")
        if not same_site(request) or not same(given, self._ctx.tokens.csrf(session_id)):
            raise Forbidden(
                "A write with the session cookie needs the header X-CSRF-Token, with the value of the csrf cookie.",
                code="csrf",
            )


def _remember(found: dict[K, tuple[Caller, float]], key: K, caller: Caller) -> None:
    """For half a minute, and the newest only."""
    if len(found) >= CACHED_TOKENS:
        found.pop(next(iter(found)))
    found[key] = caller, time.monotonic() + ALIVE_SECONDS


def cookie_name(request: Request, what: str) -> str:
    """Over TLS a name that no other host and no plain connection can set."""
    return f"{'__Host-' if by_tls(request) else ''}bobbin_{what}"


def _set_cookies(request: Request, response: HTTPResponse, session_id: int | None) -> None:
    """Give the session's cookies to a browser, or take them away (None)."""
    tokens, tls = request.app.ctx.tokens, by_tls(request)
    values = {
        "session": tokens.cookie(session_id=session_id) if session_id is not None else "",
        "csrf": tokens.csrf(session_id) if session_id is not None else "",
    }
    for what, value in values.items():
        response.add_cookie(
            cookie_name(request, what),
            value,
            path="/",
            max_age=COOKIE_SECONDS if session_id is not None else 0,
            secure=tls,
            httponly=what == "session",
            samesite="Lax",
        )


# ---- in ----------------------------------------------------------------------------------------


@answers({201: shapes.SignedIn}, {409: "email_taken username_taken"})
async def post_register(request: Request, body: Registration) -> HTTPResponse:
    """A new account, signed in at once.

    Without a username one is made from the name. The answer sets the session's cookies too.
    """
    ctx = request.app.ctx
    password_hash = await ctx.passwords.hash(body.password)
    names = [body.username] if body.username else users.handles(body.name)
    for username in names:
        try:
            signed_in = await ctx.tasks.finish(_register(request, body, username, password_hash))
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "users_username_key" and not body.username:
                continue  # one that we made up: the next
            raise
        return _signed_in(request, *signed_in, status=201)
    raise Conflict("Choose a username: those made from your name are taken.", code="username_taken")


async def _register(
    request: Request, body: Registration, username: str, password_hash: str
) -> tuple[asyncpg.Record, str]:
    async with request.app.ctx.db.acquire() as conn, conn.transaction():
        user_id = await users.create(
            conn,
            email=body.email,
            username=username,
            name=body.name,
            password_hash=password_hash,
            role="member",
        )
        signed_in = await _open(conn, request, user_id, password_hash)
        await audit.record(conn, request, "user.registered", actor_id=user_id, subject_id=user_id)
    assert signed_in is not None
    return signed_in


async def _open(
    db: Db, request: Request, user_id: int, password_hash: str
) -> tuple[asyncpg.Record, str] | None:
    """A new session and its refresh token, or None when the account has changed meanwhile."""
    refresh_token, refresh_hash = secret_token()
    row = await open(
        db,
        user_id=user_id,
        password_hash=password_hash,
        refresh_hash=refresh_hash,
        days=REFRESH_DAYS,
        address=address_of(request),
        user_agent=_user_agent(request),
    )
    return None if row is None else (row, refresh_token)


def _user_agent(request: Request) -> str | None:
    said = request.headers.get("user-agent", "").encode("utf-8", "replace").decode()
    return said.replace("\0", "")[:200] or None


@answers({200: shapes.SignedIn}, {401: "wrong_credentials", 403: "deactivated"})
async def post_login(request: Request, body: Login) -> HTTPResponse:
    """Sign in with email or username: give one of them.

    An unknown name and a wrong password get the same answer, after the same time. Who guesses is braked, by account
    and by address. The answer sets the session's cookies too.
    """
    if (body.email is None) == (body.username is None):
        raise Invalid({"email": "give either email or username"})
    ctx = request.app.ctx
    if body.email is not None:
        found = await by_email(ctx.db, email=body.email)
    else:
        found = await by_username(ctx.db, username=body.username or "")
    account = users.brake_of(found["id"]) if found else f"name {body.email or body.username}"
    async with ctx.limits.guess(address_of(request), account) as guess:
        if not await ctx.passwords.match(body.password, found and found["password_hash"]) or found is None:
            await audit.record(
                ctx.db,
                request,
                "login.failed",
                subject_id=found and found["id"],
                by="email" if body.email else "username",
            )
            raise Unauthorized("The name or the password is wrong.", code="wrong_credentials")
        await guess.right()
    if found["deactivated"]:
        raise Forbidden("This account has been deactivated.", code="deactivated")
    signed_in = await ctx.tasks.finish(_login(request, found))
    if signed_in is None:  # another password, or none, since it was compared
        raise Unauthorized("The name or the password is wrong.", code="wrong_credentials")
    return _signed_in(request, *signed_in, status=200)


async def _login(request: Request, found: asyncpg.Record) -> tuple[asyncpg.Record, str] | None:
    async with request.app.ctx.db.acquire() as conn, conn.transaction():
        signed_in = await _open(conn, request, found["id"], found["password_hash"])
        if signed_in is not None:
            session_id = signed_in[0]["session_id"]
            await audit.record(
                conn,
                request,
                "session.opened",
                actor_id=found["id"],
                subject_id=found["id"],
                sessionId=session_id,
            )
    return signed_in


def _signed_in(request: Request, row: asyncpg.Record, refresh_token: str, *, status: int) -> HTTPResponse:
    token = request.app.ctx.tokens.issue(user_id=row["user_id"], session_id=row["session_id"])
    response = json_bytes(
        f'{{"user":{row["account"]},"accessToken":"{token}","refreshToken":"{refresh_token}"'
        f',"expiresIn":{ACCESS_SECONDS}}}',
        status=status,
    )
    if same_site(request):  # else a page elsewhere could sign somebody in to an account of its own
        _set_cookies(request, response, row["session_id"])
    return response


@answers({200: shapes.SignedIn}, {401: "refresh_refused"})
async def post_refresh(request: Request, body: Refresh) -> HTTPResponse:
    """A new access token, and a new refresh token: the old one is spent.

    A spent one that is presented again ends its session, whoever holds the newest one: one of the two is a thief.
    """
    ctx = request.app.ctx
    row, refresh_token = await ctx.tasks.finish(_rotate(request, body.refreshToken))
    if row is None:
        raise Unauthorized("This refresh token is spent, too old or none of ours.", code="refresh_refused")
    return _signed_in(request, row, refresh_token, status=200)


async def _rotate(request: Request, given: str) -> tuple[asyncpg.Record | None, str]:
    ctx = request.app.ctx
    refresh_token, new_hash = secret_token()
    row = await rotate(
        ctx.db,
        old_hash=digest(given),
        new_hash=new_hash,
        days=REFRESH_DAYS,
        address=address_of(request),
        user_agent=_user_agent(request),
    )
    if row is None:
        async with ctx.db.acquire() as conn, conn.transaction():
            again = await reused(conn, hash=digest(given))
            if again is not None:
                await audit.record(
                    conn,
                    request,
                    "session.reused",
                    subject_id=again["user_id"],
                    sessionId=again["session_id"],
                )
        if again is not None:
            over(ctx, again["session_id"])
    return row, refresh_token


# ---- out ---------------------------------------------------------------------------------------


def over(ctx: Any, *session_ids: int) -> None:
    """After the commit: these sessions have ended, here and on every other worker."""
    ctx.endings.end(*session_ids)
    ctx.bus.ring_ended(session_ids)


@answers({204: None})
async def post_logout(request: Request) -> HTTPResponse:
    """End the session of the presented token or cookie: its refresh token and its streams end with it."""
    await request.app.ctx.tasks.finish(_end_one(request, request.ctx.session_id))
    response = empty()
    _set_cookies(request, response, None)
    return response


async def _end_one(request: Request, session_id: int) -> int | None:
    ctx, me = request.app.ctx, request.ctx.user_id
    async with ctx.db.acquire() as conn, conn.transaction():
        ended = await end_one(conn, user_id=me, session_id=session_id)
        if ended is not None:
            await audit.record(conn, request, "session.ended", subject_id=me, sessionId=session_id)
    if ended is not None:
        over(ctx, session_id)
    return ended


@answers({200: shapes.SessionList})
async def list_sessions(request: Request) -> HTTPResponse:
    """Where I am signed in, latest first: the newest hundred."""
    found = await devices(request.app.ctx.db, user_id=request.ctx.user_id, session_id=request.ctx.session_id)
    return json_bytes(f'{{"sessions":{found}}}')


@answers({204: None})
async def delete_session(request: Request, session_id: int) -> HTTPResponse:
    """Sign out one of my devices; its streams end within a second."""
    if await request.app.ctx.tasks.finish(_end_one(request, session_id)) is None:
        raise NotFound()
    return empty()


@answers({204: None}, {403: "wrong_password", 409: "conflict"})
async def post_password(request: Request, body: NewPassword) -> HTTPResponse:
    """Another password. All my other sessions end."""
    ctx, me = request.app.ctx, request.ctx.user_id
    stored = await users.right_password(request, body.current)
    new_hash = await ctx.passwords.hash(body.new)

    async def work() -> bool:
        async with ctx.db.acquire() as conn, conn.transaction():
            if await users.set_password(conn, user_id=me, old_hash=stored, new_hash=new_hash) is None:
                return False
            ended = await end_others(conn, user_id=me, session_id=request.ctx.session_id)
            await audit.record(conn, request, "password.changed", subject_id=me)
        over(ctx, *(row["id"] for row in ended))
        return True

    if not await ctx.tasks.finish(work()):
        raise Conflict("The password was changed by somebody else at the same time.")
    return empty()


@answers({200: shapes.Ticket})
async def post_stream_token(request: Request) -> HTTPResponse:
    """A ticket for `?token=` of one stream, for clients that can't set headers: good once, for a minute."""
    ticket, hash_ = secret_token()
    await make_ticket(
        request.app.ctx.db, hash=hash_, session_id=request.ctx.session_id, seconds=TICKET_SECONDS
    )
    return json_bytes(f'{{"token":"{ticket}","expiresIn":{TICKET_SECONDS}}}')
