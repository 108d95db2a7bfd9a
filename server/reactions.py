"""What people answer a message with, in a sign. SQL: db/queries/reactions.sql."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import blocks, messages
from server.base.db import Db, query
from server.base.emoji import spelled
from server.base.errors import Conflict, Invalid, NotFound
from server.base.http import answers, empty

LENGTH = 32  # characters; the longest emoji of today has ten
KINDS = 20  # of one message
SHORT_NAME = re.compile(":[a-z0-9_+-]+:")  # in small letters: one name has one spelling


@query
async def add(
    db: Db, *, user_id: int, thread_id: int, seq: int, emoji: str, most_kinds: int
) -> asyncpg.Record | None: ...


@query
async def take(db: Db, *, user_id: int, thread_id: int, seq: int, emoji: str) -> asyncpg.Record | None: ...


def emoji_of(place: str) -> str:
    """The emoji of an address, where it is percent-encoded UTF-8, in its one spelling. Raises Invalid for all else."""
    try:
        said = unquote(place, errors="strict")
    except UnicodeDecodeError:
        said = ""
    found = said if SHORT_NAME.fullmatch(said) else spelled(said)
    if found is None or len(found) > LENGTH:
        raise Invalid({"emoji": f"must be an emoji or a :short_name:, of at most {LENGTH} characters"})
    return found


@answers(
    {204: None},
    {403: "blocked", 404: "message_archived", 409: "message_deleted too_many_reactions", 422: "invalid"},
)
async def put_reaction(request: Request, thread_id: int, seq: int, emoji: str) -> HTTPResponse:
    """React to a message with an emoji or a :short_name: in small letters; again is 204 too.

    One person may have several. 409 when there are reactions of 20 kinds already and this were another.
    """
    ctx, me, said = request.app.ctx, request.ctx.user_id, emoji_of(emoji)
    work = partial(add, ctx.db, user_id=me, thread_id=thread_id, seq=seq, emoji=said, most_kinds=KINDS)
    row = await ctx.tasks.finish(_change(ctx, me, thread_id, work))
    if row is None:
        raise await messages.missing(request, thread_id, seq)
    if row["blocked"]:
        raise blocks.refused()
    if row["deleted"]:
        raise messages.deleted()
    if row["full"]:
        raise Conflict(f"This message has reactions of {KINDS} kinds.", code="too_many_reactions")
    if row["gone"]:
        raise NotFound()
    return empty()


@answers({204: None}, {404: "message_archived", 422: "invalid"})
async def delete_reaction(request: Request, thread_id: int, seq: int, emoji: str) -> HTTPResponse:
    """Take a reaction of mine back; 204 also when there is none (any more), as of a deleted message."""
    ctx, me, said = request.app.ctx, request.ctx.user_id, emoji_of(emoji)
    work = partial(take, ctx.db, user_id=me, thread_id=thread_id, seq=seq, emoji=said)
    if await ctx.tasks.finish(_change(ctx, me, thread_id, work)) is None:
        raise await messages.missing(request, thread_id, seq)
    return empty()


async def _change(
    ctx: Any, user_id: int, thread_id: int, work: Callable[[], Awaitable[asyncpg.Record | None]]
) -> asyncpg.Record | None:
    async with ctx.turns.of(
        thread_id
    ):  # many react at once, mostly to one message: they would wait for its row
        return await messages.change(ctx, user_id, thread_id, work)
