"""Who is in a thread, and over which spans. SQL: db/queries/members.sql."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn, TypeVar

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, blocks, shapes, users
from server.base.db import Db, query
from server.base.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from server.base.http import Body, Query, answers, empty, json_bytes, whole

Role = Literal["admin", "moderator", "member"]
T = TypeVar("T")


@query
async def list(  # the block's name; nothing here needs the builtin
    db: Db, *, user_id: int, thread_id: int, after_id: int, size: int
) -> asyncpg.Record | None: ...


@query
async def hold_members(
    db: Db, *, thread_id: int, user_ids: tuple[int, ...]
) -> tuple[asyncpg.Record, ...]: ...


@query
async def hold_head(db: Db, *, thread_id: int) -> str | None: ...


@query
async def succession(db: Db, *, thread_id: int, member_id: int) -> asyncpg.Record: ...


@query
async def open_span(db: Db, *, thread_id: int, member_id: int, role: str, by_id: int) -> int | None: ...


@query
async def close_span(db: Db, *, thread_id: int, member_id: int, act: str) -> int | None: ...


@query
async def set_role(db: Db, *, thread_id: int, member_id: int, role: str) -> int | None: ...


@query
async def enter(db: Db, *, user_id: int, thread_id: int) -> bool | None: ...


@query
async def settle(
    db: Db, *, user_id: int, thread_id: int, muted: bool | None, archived: bool | None, notify: str | None
) -> int | None: ...


async def inside(
    db: Db,
    user_id: int,
    thread_id: int,
    act: Callable[[], Awaitable[T | None]],
    *,
    entered: Callable[[], None] | None = None,
) -> T | None:
    """What somebody does in a thread; None: they are not in it, or there is nothing to do it to.

    Of the staff anybody may act in a contact thread, and their first act makes them a member. So it is tried as for
    everybody, and again when that has opened the door: other threads pay nothing for it. entered() is called then.
    """
    done = await act()
    if done is None and await enter(db, user_id=user_id, thread_id=thread_id):
        done = await act()
        if done is not None and entered is not None:
            entered()
    return done


class MemberQuery(Query):
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


class NewMember(Body):
    userId: Annotated[int, whole()]
    role: Role = "member"


class NewRole(Body):
    role: Role


class Leaving(Body):
    optional = True
    successor: Annotated[int, whole()] | None = None  # a member, who becomes admin


@dataclass(frozen=True)
class Held:
    """What an act may count on until it commits: the rows behind it are locked."""

    kind: str  # of the thread
    role: str | None  # of the one who acts; None: not in
    member_role: str | None  # of the one acted upon; None: not in


async def act(
    request: Request,
    thread_id: int,
    work: Callable[[Db, Held], Awaitable[int | None]],
    *,
    member_id: int | None = None,
    adding: bool = False,
    outsider: bool = False,
) -> int | None:
    """Run work in a transaction that holds the two people's memberships and the head of the thread.

    adding holds the one acted upon too, so that they are not blocking or deactivated meanwhile. work answers
    the rev of its change, or None when nothing has changed; the doorbell is rung after the commit. NotFound for
    a thread that isn't there or that the caller is not in (unless outsider), Conflict for a contact thread.
    """
    ctx, me = request.app.ctx, request.ctx.user_id
    people = (me,) if member_id in (None, me) else (me, member_id)

    async def run() -> int | None:
        async with ctx.db.acquire() as conn, conn.transaction():
            if adding and member_id is not None:
                await users.hold(conn, user_ids=(member_id,))
            roles = {
                row["user_id"]: row["role"]
                for row in await hold_members(conn, thread_id=thread_id, user_ids=people)
            }
            kind = await hold_head(conn, thread_id=thread_id)
            if kind == "contact":
                await refuse_contact(conn, me)
            if kind is None or (me not in roles and not outsider):
                raise NotFound()
            rev = await work(conn, Held(kind, roles.get(me), roles.get(member_id or me)))
        if rev is not None:
            ctx.bus.ring(thread_id, rev)
        return rev

    done: int | None = await ctx.tasks.finish(run())
    return done


@answers({200: shapes.MemberPage}, {400: "bad_cursor"})
async def list_members(request: Request, thread_id: int, query: MemberQuery) -> HTTPResponse:
    """The people in a thread, by user id."""
    ctx, purpose, after_id = request.app.ctx, f"members:{thread_id}", 0
    if query.cursor is not None:
        (after_id,) = ctx.cursors.open(purpose, query.cursor, count=1)
    row = await list(
        ctx.reads,
        user_id=request.ctx.user_id,
        thread_id=thread_id,
        after_id=after_id,
        size=query.limit,
    )
    if row is None:
        raise NotFound()
    following = f'"{ctx.cursors.seal(purpose, row["last_id"])}"' if row["more"] else "null"
    return json_bytes(f'{{"members":{row["members"]},"nextCursor":{following}}}')


@answers(
    {201: shapes.MemberAnswer}, {403: "forbidden blocked", 409: "already_member direct_thread contact_thread"}
)
async def post_member(request: Request, thread_id: int, body: NewMember) -> HTTPResponse:
    """Add somebody: admins and moderators; a role above member only by an admin. Not whoever has blocked the caller."""
    me = request.ctx.user_id

    async def work(db: Db, held: Held) -> int | None:
        no_direct(held.kind)
        if held.role == "member" or (held.role != "admin" and body.role != "member"):
            raise Forbidden()
        rev = await open_span(db, thread_id=thread_id, member_id=body.userId, role=body.role, by_id=me)
        if rev is None:
            await blocks.refuse(db, user_ids=(body.userId,), blocked_id=me)
            raise Invalid({"userId": "there is no such person"})
        await audit.record(
            db, request, "member.added", subject_id=body.userId, thread_id=thread_id, role=body.role
        )
        return rev

    await act(request, thread_id, work, member_id=body.userId, adding=True)
    return json_bytes(f'{{"userId":{body.userId},"role":"{body.role}"}}', status=201)


@answers({200: shapes.MemberAnswer}, {403: "forbidden", 409: "direct_thread contact_thread last_admin"})
async def patch_member(request: Request, thread_id: int, member_id: int, body: NewRole) -> HTTPResponse:
    """Another role: admins. The last admin stays one while others are there."""
    role = body.role

    async def work(db: Db, held: Held) -> int | None:
        no_direct(held.kind)
        if held.role != "admin":
            raise Forbidden()
        if held.member_role is None:
            raise NotFound()
        if held.member_role == "admin" and role != "admin":
            await _keep_an_admin(db, thread_id, member_id)
        rev = await set_role(db, thread_id=thread_id, member_id=member_id, role=role)
        if rev is not None:
            await audit.record(
                db, request, "member.role", subject_id=member_id, thread_id=thread_id, role=role
            )
        return rev

    await act(request, thread_id, work, member_id=member_id)
    return json_bytes(f'{{"userId":{member_id},"role":"{role}"}}')


@answers({204: None}, {403: "forbidden", 409: "direct_thread contact_thread last_admin"})
async def delete_member(request: Request, thread_id: int, member_id: int) -> HTTPResponse:
    """Remove somebody (admins and moderators; an admin only by an admin), or oneself: that is leaving."""
    if member_id == request.ctx.user_id:
        return await post_leave(request, thread_id, Leaving())

    async def work(db: Db, held: Held) -> int | None:
        no_direct(held.kind)
        if held.role == "member" or (held.role != "admin" and held.member_role == "admin"):
            raise Forbidden()
        if held.member_role is None:
            raise NotFound()
        await audit.record(db, request, "member.removed", subject_id=member_id, thread_id=thread_id)
        return await close_span(db, thread_id=thread_id, member_id=member_id, act="removed")

    await act(request, thread_id, work, member_id=member_id)
    return empty()


@answers({200: shapes.Joined}, {409: "contact_thread"})
async def post_join(request: Request, thread_id: int) -> HTTPResponse:
    """Join a channel; whoever is in already stays as they are. 404 for what is no channel."""
    me = request.ctx.user_id
    role = "member"

    async def work(db: Db, held: Held) -> int | None:
        nonlocal role
        if held.kind != "channel":
            raise NotFound()
        if held.role is not None:
            role = held.role
            return None
        return await come_in(db, thread_id, me)

    await act_once(request, thread_id, work)
    return json_bytes(f'{{"threadId":{thread_id},"role":"{role}"}}')


async def come_in(db: Db, thread_id: int, user_id: int) -> int:
    """Somebody lets themself in, as member. The rev of the change."""
    rev = await open_span(db, thread_id=thread_id, member_id=user_id, role="member", by_id=user_id)
    if rev is None:
        raise Unauthorized()  # deactivated since the request was let through
    return rev


async def act_once(
    request: Request, thread_id: int, work: Callable[[Db, Held], Awaitable[int | None]]
) -> None:
    """act for somebody who may not be in yet; when they come in twice at once, the other time counts."""
    try:
        await act(request, thread_id, work, outsider=True)
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "memberships_open":
            raise


@answers({204: None}, {403: "forbidden", 409: "direct_thread contact_thread last_admin"})
async def post_leave(request: Request, thread_id: int, body: Leaving) -> HTTPResponse:
    """Leave: the span ends here, and so do one's streams of the thread.

    The last admin can't while others are there, unless they name a successor, who becomes admin with it.
    """
    me = request.ctx.user_id

    async def work(db: Db, held: Held) -> int | None:
        no_direct(held.kind)
        if body.successor is not None:
            await _succeed(request, db, held, thread_id, body.successor)
        if held.role == "admin":
            await _keep_an_admin(db, thread_id, me)
        return await close_span(db, thread_id=thread_id, member_id=me, act="left")

    await act(request, thread_id, work, member_id=body.successor)
    return empty()


async def _succeed(request: Request, db: Db, held: Held, thread_id: int, member_id: int) -> None:
    if held.role != "admin":
        raise Forbidden()
    if held.member_role is None or member_id == request.ctx.user_id:
        raise Invalid({"successor": "must be somebody else in this thread"})
    if await set_role(db, thread_id=thread_id, member_id=member_id, role="admin") is not None:
        await audit.record(
            db, request, "member.role", subject_id=member_id, thread_id=thread_id, role="admin"
        )


def no_direct(kind: str) -> None:
    """For what can't be done to a direct thread. Raises Conflict."""
    if kind == "direct":
        raise Conflict("A direct thread has exactly two people.", code="direct_thread")


def contact_thread() -> Conflict:
    return Conflict(
        "A contact thread is the contact's and the staff's: nobody else comes in, and its title is their name.",
        code="contact_thread",
    )


async def refuse_contact(db: Db, user_id: int) -> NoReturn:
    """What can't be done to a contact thread. Raises Conflict; NotFound for whoever is not of the staff."""
    if await users.role(db, user_id=user_id) in (None, "member"):
        raise NotFound()
    raise contact_thread()


async def _keep_an_admin(db: Db, thread_id: int, member_id: int) -> None:
    after = await succession(db, thread_id=thread_id, member_id=member_id)
    if after["others"] and not after["admins"]:
        raise Conflict("Make somebody else admin first: this is the last one.", code="last_admin")
