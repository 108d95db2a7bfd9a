"""What people answer a message with, in a sign. SQL: db/queries/reactions.sql."""

import re
from collections.abc import Awaitable
from typing import Any
from urllib.parse import unquote

import asyncpg
from sanic import Request
from sanic.response import HTTPResponse

from server import blocks, messages
from server.base.db import Db, query
from server.base.errors import Conflict, Invalid, NotFound
from server.base.http import answers, empty

LENGTH = 32  # characters; the longest emoji of today has ten
KINDS = 20  # of one message
SHORT_NAME = r":[a-z0-9_+-]+:"  # in small letters: one name has one spelling

# Unicode's Extended_Pictographic (14.0): all emoji but keycaps, flags of two letters and skin tones by themselves, and
# the places that are kept for those to come.
PICTURES = (
    "\xa9\xae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-\u23fa\u24c2"
    "\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d"
    "\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf"
    "\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f"
    "\U0001f12f\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5"
    "\U0001f201-\U0001f20f\U0001f21a\U0001f22f\U0001f232-\U0001f23a\U0001f23c-\U0001f23f\U0001f249-\U0001f3fa"
    "\U0001f400-\U0001f53d\U0001f546-\U0001f64f\U0001f680-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff"
    "\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8ff"
    "\U0001f90c-\U0001f93a\U0001f93c-\U0001f945\U0001f947-\U0001faff\U0001fc00-\U0001fffd"
)
TONES = "\U0001f3fb-\U0001f3ff"
# As in UTS #51: a picture (in colour, with a skin tone, with the tags of a region), several of them joined, a flag of
# two letters, a keycap, a skin tone.
ONE = f"[{PICTURES}](?:\ufe0f?[{TONES}]|\ufe0f|[\U000e0020-\U000e007e]+\U000e007f)?"
EMOJI = re.compile(
    f"{ONE}(?:\u200d{ONE})*|[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|[{TONES}]|{SHORT_NAME}"
)


@query
async def add(
    db: Db, *, user_id: int, thread_id: int, seq: int, emoji: str, most_kinds: int
) -> asyncpg.Record | None: ...


@query
async def take(db: Db, *, user_id: int, thread_id: int, seq: int, emoji: str) -> asyncpg.Record | None: ...


def emoji_of(place: str) -> str:
    """The emoji of an address, where it is percent-encoded UTF-8. Raises Invalid for all that is none."""
    try:
        emoji = unquote(place, errors="strict")
    except UnicodeDecodeError:
        emoji = ""
    # What matches is in NFC: nothing in it composes.
    if len(emoji) > LENGTH or not EMOJI.fullmatch(emoji):
        raise Invalid({"emoji": f"must be an emoji or a :short_name:, of at most {LENGTH} characters"})
    return emoji


@answers({204: None}, {403: "blocked", 409: "message_deleted too_many_reactions", 422: "invalid"})
async def put_reaction(request: Request, thread_id: int, seq: int, emoji: str) -> HTTPResponse:
    """React to a message with an emoji or a :short_name: in small letters; again is 204 too.

    One person may have several. 409 when there are reactions of 20 kinds already and this were another.
    """
    ctx, said = request.app.ctx, emoji_of(emoji)
    work = add(
        ctx.db, user_id=request.ctx.user_id, thread_id=thread_id, seq=seq, emoji=said, most_kinds=KINDS
    )
    row = await ctx.tasks.finish(_change(ctx, thread_id, work))
    if row is None:
        raise NotFound()
    if row["blocked"]:
        raise blocks.refused()
    if row["deleted"]:
        raise messages.deleted()
    if row["full"]:
        raise Conflict(f"This message has reactions of {KINDS} kinds.", code="too_many_reactions")
    if row["gone"]:
        raise NotFound()
    return empty()


@answers({204: None}, {422: "invalid"})
async def delete_reaction(request: Request, thread_id: int, seq: int, emoji: str) -> HTTPResponse:
    """Take a reaction of mine back; 204 also when there is none (any more), as of a deleted message."""
    ctx, said = request.app.ctx, emoji_of(emoji)
    work = take(ctx.db, user_id=request.ctx.user_id, thread_id=thread_id, seq=seq, emoji=said)
    if await ctx.tasks.finish(_change(ctx, thread_id, work)) is None:
        raise NotFound()
    return empty()


async def _change(ctx: Any, thread_id: int, work: Awaitable[asyncpg.Record | None]) -> asyncpg.Record | None:
    async with ctx.turns.of(
        thread_id
    ):  # many react at once, mostly to one message: they would wait for its row
        return await messages.change(ctx, thread_id, work)
