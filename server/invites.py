"""Links by which people come into a group or channel. SQL: db/queries/invites.sql.

A link is told once, to whoever makes it: stored is the hash of its token, and no log has it (log lines name routes,
not addresses).
"""

from typing import Annotated

import asyncpg
import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, members, shapes, threads
from server.base.access import digest, secret_token
from server.base.db import Db, query
from server.base.errors import Conflict, Forbidden, NotFound
from server.base.front import origin_of
from server.base.http import Body, answers, empty, json_bytes, whole

DAY = 86400  # seconds


@query
async def make(
    db: Db, *, thread_id: int, user_id: int, token_hash: bytes, seconds: int, max_uses: int | None
) -> str | None: ...


@query
async def list(db: Db, *, user_id: int, thread_id: int) -> asyncpg.Record | None: ...


@query
async def revoke(db: Db, *, thread_id: int, invite_id: int) -> int | None: ...


@query
async def leads_to(db: Db, *, token_hash: bytes) -> int | None: ...


@query
async def take(db: Db, *, user_id: int, token_hash: bytes) -> int | None: ...


class InviteTerms(Body):
    optional = True
    expiresIn: Annotated[int, whole(60, 30 * DAY)] | None = None  # seconds
    maxUses: Annotated[int, whole(1, 1000)] | None = None  # null: no bound


@answers(
    {201: shapes.NewInviteAnswer}, {403: "forbidden", 409: "direct_thread contact_thread too_many_invites"}
)
async def post_invite(request: Request, thread_id: int, body: InviteTerms) -> HTTPResponse:
    """A link into a group or channel: admins and moderators.

    It lives for expiresIn seconds (a week) and lets in maxUses people (null: any number). token and url are told
    this once only. A thread has at most a hundred living ones.
    """
    token, token_hash = secret_token()
    made: str | None = None

    async def work(db: Db, held: members.Held) -> None:
        nonlocal made
        _may_invite(held.kind, held.role)
        made = await make(
            db,
            thread_id=thread_id,
            user_id=request.ctx.user_id,
            token_hash=token_hash,
            seconds=body.expiresIn or 7 * DAY,
            max_uses=body.maxUses,
        )
        if made is None:
            raise Conflict("Revoke some invites first: there are a hundred.", code="too_many_invites")
        await audit.record(db, request, "invite.made", thread_id=thread_id, inviteId=orjson.loads(made)["id"])

    await members.act(request, thread_id, work)
    assert made is not None
    url = orjson.dumps(f"{origin_of(request)}/invite/{token}").decode()
    return json_bytes(f'{{"invite":{{"token":"{token}","url":{url},{made[1:]}}}', status=201)


def _may_invite(kind: str, role: str | None) -> None:
    members.no_direct(kind)
    if kind == "contact":
        raise members.contact_thread()
    if role == "member":
        raise Forbidden()


@answers({200: shapes.InviteList}, {403: "forbidden", 409: "direct_thread contact_thread"})
async def list_invites(request: Request, thread_id: int) -> HTTPResponse:
    """The living invites of a thread, newest first: admins and moderators. Their tokens are not told again."""
    row = await list(request.app.ctx.db, user_id=request.ctx.user_id, thread_id=thread_id)
    if row is None:
        raise NotFound()
    _may_invite(row["kind"], row["role"])
    return json_bytes(f'{{"invites":{row["invites"]}}}')


@answers({204: None}, {403: "forbidden", 409: "direct_thread contact_thread"})
async def delete_invite(request: Request, thread_id: int, invite_id: int) -> HTTPResponse:
    """Revoke an invite: admins and moderators. Who came in by it stays."""

    async def work(db: Db, held: members.Held) -> None:
        _may_invite(held.kind, held.role)
        if await revoke(db, thread_id=thread_id, invite_id=invite_id) is None:
            raise NotFound()
        await audit.record(db, request, "invite.revoked", thread_id=thread_id, inviteId=invite_id)

    await members.act(request, thread_id, work)
    return empty()


@answers({200: shapes.ThreadAnswer})
async def post_accept(request: Request, token: str) -> HTTPResponse:
    """Come in by a link; for whoever is in already it takes no use.

    404 when it is unknown, expired, revoked or used up, and for somebody who was removed after it was made.
    """
    db, me, token_hash = request.app.ctx.db, request.ctx.user_id, digest(token)
    thread_id = await leads_to(db, token_hash=token_hash)
    if thread_id is None:
        raise NotFound()

    async def work(db: Db, held: members.Held) -> int | None:
        if held.role is not None:
            return None
        invite_id = await take(db, user_id=me, token_hash=token_hash)
        if invite_id is None:
            return None
        await audit.record(
            db, request, "invite.accepted", subject_id=me, thread_id=thread_id, inviteId=invite_id
        )
        return await members.come_in(db, thread_id, me)

    await members.act_once(request, thread_id, work)
    found = await threads.get(db, user_id=me, thread_id=thread_id)
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"thread":{found}}}')
