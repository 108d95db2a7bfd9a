"""The accounts of the server, for its admins. SQL: db/queries/admin.sql; the list of accounts is made here."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import asyncpg
from pypika import CustomFunction, Order, PostgreSQLQuery, Table
from pypika.queries import QueryBuilder
from pypika.terms import Parameter
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, keys, members, sessions, shapes
from server.base import log
from server.base.db import Db, query
from server.base.errors import Conflict, Forbidden, NotFound
from server.base.http import Body, Query, answers, empty, json_bytes, length, whole
from server.live.bus import STAFF

Role = Literal["admin", "agent", "member"]

LOOKED_AT = 30_000  # accounts, for one page: some 20 ms
THREADS_AT_ONCE = 500  # of somebody who is out


@query
async def get(db: Db, *, user_id: int) -> str | None: ...


@query
async def by_email(db: Db, *, email: str) -> int | None: ...


@query
async def hold(db: Db, *, user_id: int) -> list[asyncpg.Record]: ...


@query
async def change(db: Db, *, user_id: int, name: str | None, role: str | None, active: bool | None) -> str: ...


@query
async def leave_inbox(db: Db, *, user_id: int) -> int: ...


@query
async def set_password(db: Db, *, user_id: int, password_hash: str) -> str: ...


@query
async def places(db: Db, *, user_id: int, after_id: int, size: int) -> list[asyncpg.Record]: ...


@query
async def heir(db: Db, *, thread_id: int, user_id: int) -> int | None: ...


class UserQuery(Query):
    search: Annotated[str, length(0, 100)] | None = None
    role: Role | None = None
    active: bool | None = None
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


class Change(Body):
    role: Role | None = None
    active: bool | None = None
    name: Annotated[str, length(1, 100)] | None = None


class Password(Body):
    new: Annotated[str, length(8, 256, trim=False)]


# ---- the list ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """A page of accounts by id: the statement, and the one that tells where looking ends, with their values.

    An index leads to the deactivated, or to the admins or agents; what else is asked for is compared on the way,
    over LOOKED_AT accounts at most.
    """

    page: str
    looked_to: str | None  # None: the index leads to nothing but what is asked for
    values: tuple[Any, ...]


def listing(
    *, search: str | None, role: Role | None, active: bool | None, after_id: int, size: int
) -> Listing:
    """The one place of dynamic SQL here: its caller chooses the filters. One row more than size is asked for."""
    users, sessions_, u = Table("users"), Table("sessions"), Table("u")
    walk = PostgreSQLQuery.from_(users).where(users.id > Parameter("$1")).orderby(users.id)
    walk = walk.where(users.kind != "contact")  # an index leads past them
    by_role = role is not None and role != "member" and active is not False
    if active is False:
        walk = walk.where(users.deactivated_at.isnotnull())
    elif by_role:
        walk = walk.where(users.role == role)
    seen = PostgreSQLQuery.from_(sessions_).select(sessions_.last_used_at)
    seen = seen.where(sessions_.user_id == u.id).orderby(sessions_.last_used_at, order=Order.desc).limit(1)
    page: QueryBuilder = PostgreSQLQuery.from_(walk.select(users.star).limit(LOOKED_AT).as_("u"))
    page = page.select(
        u.id, CustomFunction("managed_json", ["u", "seen_at"])(Parameter("u::users"), seen).as_("user")
    )
    page = page.orderby(u.id).limit(Parameter("$2"))  # type: ignore[arg-type]  # written as it is
    values: list[Any] = [after_id, size + 1]
    filters = 0
    if role is not None and not by_role:
        page, filters = page.where(u.role == role), filters + 1
    if active is True:
        page, filters = page.where(u.deactivated_at.isnull()), filters + 1
    if search:
        values.append(search)
        words = CustomFunction("concat_ws", ["between", "name", "username", "email"])
        lower, position = CustomFunction("lower", ["text"]), CustomFunction("strpos", ["text", "part"])
        text = lower(words("\n", u.name, u.username, u.email))
        page, filters = page.where(position(text, lower(Parameter("$3"))) > 0), filters + 1
    looked_to = walk.select(users.id).offset(LOOKED_AT - 1).limit(1)
    return Listing(
        f"/* admin.listing */ {page}",
        f"/* admin.looked_to */ {looked_to}" if filters else None,
        tuple(values),
    )


async def accounts(
    db: Any, *, search: str | None, role: Role | None, active: bool | None, after_id: int, size: int
) -> tuple[list[str], int | None]:
    """A page of accounts as JSON, and the id to go on from: None at the end."""
    asked = listing(search=search, role=role, active=active, after_id=after_id, size=size)
    async with db.acquire() as conn:
        rows = await conn.fetch(asked.page, *asked.values)
        if len(rows) > size:
            following = rows[size - 1]["id"]
        else:
            following = asked.looked_to and await conn.fetchval(asked.looked_to, after_id)
    return [row["user"] for row in rows[:size]], following


@answers({200: shapes.ManagedUserPage}, {400: "bad_cursor"})
async def list_users(request: Request, query: UserQuery) -> HTTPResponse:
    """The accounts, by id.

    search: any part of the name, username or email, ignoring case. A page looks at 30,000 accounts at most: it may
    hold fewer than asked, even none, and still have a nextCursor.
    """
    ctx, after_id = request.app.ctx, 0
    purpose = f"admin:users:{query.role}:{query.active}:{query.search}"
    if query.cursor is not None:
        (after_id,) = ctx.cursors.open(purpose, query.cursor, count=1)
    found, following = await accounts(
        ctx.db,
        search=query.search,
        role=query.role,
        active=query.active,
        after_id=after_id,
        size=query.limit,
    )
    cursor = f'"{ctx.cursors.seal(purpose, following)}"' if following is not None else "null"
    return json_bytes(f'{{"users":[{",".join(found)}],"nextCursor":{cursor}}}')


# ---- one ---------------------------------------------------------------------------------------


@answers({200: shapes.ManagedUserAnswer})
async def get_user(request: Request, user_id: int) -> HTTPResponse:
    """An account. lastSeenAt is when it was last signed in or renewed, or its key was used, to the hour."""
    found = await get(request.app.ctx.db, user_id=user_id)
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"user":{found}}}')


@dataclass(frozen=True)
class Held:
    """The account to be changed, as it stays until the commit."""

    name: str
    role: str
    active: bool
    person: bool  # signs in by themselves: no bot, and no guest of a host
    last_admin: bool  # of the active ones


async def held(db: Db, *, user_id: int, by_id: int | None) -> Held | None:
    """Lock an account for a change by by_id (None: the command line). None when there is none.

    Raises Forbidden when whoever asks is no admin any more: two who demote each other don't both succeed.
    """
    rows = {row["id"]: row for row in await hold(db, user_id=user_id)}
    admins = {row["id"] for row in rows.values() if row["role"] == "admin" and row["active"]}
    if by_id is not None and by_id not in admins:
        raise Forbidden("This is for admins of the server.")
    row = rows.get(user_id)
    if row is None:
        return None
    return Held(row["name"], row["role"], row["active"], row["person"], admins == {user_id})


def keep_an_admin(account: Held, *, role: str | None, active: bool | None) -> None:
    """Raises Conflict when this change leaves the server without an active admin."""
    if account.last_admin and (role not in (None, "admin") or active is False):
        raise Conflict("Make somebody else admin first: this is the last one.", code="last_admin")


@answers({200: shapes.ManagedUserAnswer}, {409: "last_admin not_a_person"})
async def patch_user(request: Request, user_id: int, body: Change) -> HTTPResponse:
    """Change what is given of an account.

    With active false they are out of everything within a second: sessions, streams and keys end, and so do the
    guests of a host. Their threads of which nobody else is an active admin get another one: the longest-standing
    moderator, else member. With active true they may sign in again. Bots and guests of hosts can't be admin.
    Whoever ceases to be agent or admin no longer sees the contact threads, and what they had read there is forgotten.
    What is assigned to them stays so, until somebody gives it to another (GET /api/conversations?assigneeId= lists it).
    """
    ctx = request.app.ctx
    found = await ctx.tasks.finish(_change(request, user_id, body))
    if body.active is False:
        ctx.tasks.begin(_hand_over_all(request, user_id))
    return json_bytes(f'{{"user":{found}}}')


async def _change(request: Request, user_id: int, body: Change) -> str:
    ctx = request.app.ctx
    async with ctx.db.acquire() as conn, conn.transaction():
        before = await held(conn, user_id=user_id, by_id=request.ctx.user_id)
        if before is None:
            raise NotFound()
        keep_an_admin(before, role=body.role, active=body.active)
        found = await alter(conn, before, user_id, name=body.name, role=body.role, active=body.active)
        ended: list[int] = []
        if body.active is False:
            ended = await sign_out(conn, user_id=user_id)
        if body.name not in (None, before.name):
            await audit.record(conn, request, "user.renamed", subject_id=user_id, to=body.name)
        if body.role not in (None, before.role):
            await audit.record(conn, request, "user.role", subject_id=user_id, was=before.role, to=body.role)
        if body.active not in (None, before.active):
            act = "user.activated" if body.active else "user.deactivated"
            await audit.record(conn, request, act, subject_id=user_id)
    sessions.over(ctx, *ended)
    if body.role is not None or body.active is not None:
        ctx.bus.post(STAFF, str(user_id))
        ctx.bus.changed()
    return found


async def alter(
    db: Db, account: Held, user_id: int, *, name: str | None, role: str | None, active: bool | None
) -> str:
    """Change what is given of an account that is held: as it now is. Whoever leaves the staff leaves the inbox."""
    found = await change(db, user_id=user_id, name=name, role=role, active=active)
    if role == "member" or active is False:
        await leave_inbox(db, user_id=user_id)
    return found


async def sign_out(db: Db, *, user_id: int) -> list[int]:
    """End all sessions of an account that is held, its keys, and the guests of those. The ids, for sessions.over."""
    await keys.forget(db, user_id=user_id)
    ended = [row["id"] for row in await sessions.end_others(db, user_id=user_id, session_id=0)]
    return ended + [row["id"] for row in await keys.end_guests(db, key_ids=ended)]


@answers({204: None}, {409: "not_a_person"})
async def post_user_password(request: Request, user_id: int, body: Password) -> HTTPResponse:
    """Another password for a person. All their sessions end."""
    ctx = request.app.ctx
    password_hash = await ctx.passwords.hash(body.new)

    async def work() -> None:
        async with ctx.db.acquire() as conn, conn.transaction():
            account = await held(conn, user_id=user_id, by_id=request.ctx.user_id)
            if account is None:
                raise NotFound()
            if not account.person:
                raise Conflict("Bots, and the guests of a host, have no password.", code="not_a_person")
            await set_password(conn, user_id=user_id, password_hash=password_hash)
            ended = await sessions.end_others(conn, user_id=user_id, session_id=0)
            await audit.record(conn, request, "password.set", subject_id=user_id)
        sessions.over(ctx, *(row["id"] for row in ended))

    await ctx.tasks.finish(work())
    return empty()


# ---- what they leave behind --------------------------------------------------------------------


async def _hand_over_all(request: Request, user_id: int) -> None:
    """The threads of somebody who is out get another admin, where they were the only one.

    Cut off, it is done by the next PATCH that deactivates them; brought back meanwhile, they keep the rest.
    """
    db, after_id = request.app.ctx.db, 0
    try:
        while rows := await places(db, user_id=user_id, after_id=after_id, size=THREADS_AT_ONCE):
            for row in rows:
                while row["presides"] and not await _hand_over(request, row["thread_id"], user_id):
                    pass
            after_id = rows[-1]["thread_id"]
    except Exception as error:
        log.event("handover.broken", level="error", subject=user_id, reason=type(error).__name__)


async def _hand_over(request: Request, thread_id: int, user_id: int) -> bool:
    """False when the heir has gone meanwhile: there may be another."""
    ctx = request.app.ctx
    async with ctx.db.acquire() as conn, conn.transaction():
        if not await _alone(conn, thread_id, user_id):
            return True
    async with ctx.db.acquire() as conn, conn.transaction():
        heir_id = await heir(conn, thread_id=thread_id, user_id=user_id)
        if heir_id is None:
            return True
        held = await members.hold_members(conn, thread_id=thread_id, user_ids=(user_id, heir_id))
        if not await _alone(conn, thread_id, user_id):
            return True
        if heir_id not in {row["user_id"] for row in held}:
            return False
        rev = await members.set_role(conn, thread_id=thread_id, member_id=heir_id, role="admin")
        await audit.record(
            conn, request, "member.role", subject_id=heir_id, thread_id=thread_id, role="admin"
        )
    if rev is not None:
        ctx.bus.ring(thread_id, rev)
    return True


async def _alone(db: Db, thread_id: int, user_id: int) -> bool:
    """Whether a living thread has no active admin but this one; its head is held, so that nobody leaves meanwhile."""
    if await members.hold_head(db, thread_id=thread_id) is None:
        return False
    return not (await members.succession(db, thread_id=thread_id, member_id=user_id))["admins"]
