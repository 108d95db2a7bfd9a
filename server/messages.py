"""Messages: the log of a thread. SQL: db/queries/messages.sql."""

import hashlib
import re
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

import asyncpg
import orjson
from msgspec import Meta
from sanic import Request
from sanic.response import HTTPResponse

from server import blocks, members, shapes
from server.base.db import Connections, Db, query
from server.base.errors import BadRequest, Conflict, Forbidden, Invalid, NotFound
from server.base.http import TOP, Body, Query, answers, empty, json_bytes, length, many, whole

TEXT = 10_000  # characters of a message
MENTIONS = 50  # of one message
# As users.USERNAME; a whole word, and none of an address: ada@example.org, @ada@example.org.
HANDLE = re.compile(r"(?<![\w@])@(\w[\w.-]{1,31}+)(?![\w@])")


@query
async def page_after(
    db: Db, *, user_id: int, thread_id: int, after: int, size: int, direction: int
) -> asyncpg.Record | None: ...


@query
async def page_before(
    db: Db, *, user_id: int, thread_id: int, before: int, size: int, direction: int
) -> asyncpg.Record | None: ...


@query
async def window(
    db: Db, *, user_id: int, thread_id: int, middle: int, size: int
) -> asyncpg.Record | None: ...


@query
async def seq_at(db: Db, *, user_id: int, thread_id: int, moment: datetime) -> int | None: ...


@query
async def get(db: Db, *, user_id: int, thread_id: int, seq: int) -> str | None: ...


@query
async def archived(db: Db, *, user_id: int, thread_id: int, seq: int) -> bool | None: ...


@query
async def send(
    db: Db,
    *,
    user_id: int,
    thread_id: int,
    text: str,
    reply_to: int | None,
    client_id: str | None,
    body_hash: bytes,
    handles: list[str],
) -> asyncpg.Record | None: ...


@query
async def replay(
    db: Db, *, user_id: int, thread_id: int, client_id: str | None, body_hash: bytes
) -> asyncpg.Record | None: ...


@query
async def edit(db: Db, *, user_id: int, thread_id: int, seq: int, text: str) -> asyncpg.Record | None: ...


@query
async def edits(
    db: Db, *, user_id: int, thread_id: int, seq: int, after_rev: int, size: int
) -> asyncpg.Record | None: ...


@query
async def remove(db: Db, *, user_id: int, thread_id: int, seq: int) -> asyncpg.Record | None: ...


@query
async def forget(db: Db, *, thread_id: int, seq: int) -> str: ...


class MessageQuery(Query):
    order: Literal["asc", "desc"] | None = None
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50
    around: Annotated[int, whole()] | None = None
    at: Annotated[datetime, Meta(tz=True)] | None = None


class NewMessage(Body):
    text: Annotated[str, length(0, TEXT)] = ""
    clientId: Annotated[str, length(1, 128, trim=False)] | None = None
    replyTo: Annotated[int, whole()] | None = None
    fileIds: Annotated[list[int], many(0, 20)] = []  # noqa: RUF012  # msgspec copies it


class NewText(Body):
    text: Annotated[str, length(1, TEXT)]


class EditQuery(Query):
    cursor: str | None = None
    limit: Annotated[int, whole(1, 100)] = 50


@answers({200: shapes.MessagePage}, {400: "bad_cursor"})
async def list_messages(request: Request, thread_id: int, query: MessageQuery) -> HTTPResponse:
    """A page of a thread; it costs the same at any depth.

    order is asc from the first message (the default) or desc from the newest; around (a seq) or at (a time) ask for
    the window around it instead, ascending. nextCursor goes on in the same order and is null at the end, prevCursor
    goes back; both keep their order. Messages before archivedBefore have been archived: a page begins after them, and
    so does the window around one of them.
    """
    if sum(one is not None for one in (query.cursor, query.around, query.at)) > 1:
        raise BadRequest("Give one of cursor, around and at.", code="bad_parameter")
    if query.around is not None or query.at is not None:
        return await _window(request, thread_id, query)
    order, onward, position = _position(request, thread_id, query)
    question = {
        "user_id": request.ctx.user_id,
        "thread_id": thread_id,
        "size": query.limit,
        "direction": 1 if order == "asc" else -1,
    }
    if onward == (order == "asc"):
        row = await page_after(request.app.ctx.reads, after=position, **question)
        return _page(request, thread_id, order, row, low=position + 1, high=position)
    row = await page_before(request.app.ctx.reads, before=position, **question)
    return _page(request, thread_id, order, row, low=position, high=position - 1)


async def _window(request: Request, thread_id: int, query: MessageQuery) -> HTTPResponse:
    who = {"user_id": request.ctx.user_id, "thread_id": thread_id}
    if query.order == "desc":
        raise BadRequest("A window is always ascending.", code="bad_parameter")
    middle = query.around
    if query.at is not None:
        middle = await seq_at(request.app.ctx.reads, **who, moment=query.at)
    if middle is None:
        raise NotFound()
    row = await window(request.app.ctx.reads, **who, middle=middle, size=query.limit)
    return _page(request, thread_id, "asc", row, low=1, high=0)


def _position(request: Request, thread_id: int, query: MessageQuery) -> tuple[str, bool, int]:
    """The order, whether the page goes on in it (or back), and the seq it starts from, exclusive."""
    order = query.order
    if query.cursor is None:
        return order or "asc", True, TOP if order == "desc" else 0
    for candidate in (order,) if order else ("asc", "desc"):
        try:
            onward, seq = request.app.ctx.cursors.open(
                f"messages:{candidate}:{thread_id}", query.cursor, count=2
            )
        except BadRequest:
            continue
        return candidate, bool(onward), seq
    raise BadRequest("This cursor is not one of ours for this thread and order.", code="bad_cursor")


def _page(
    request: Request, thread_id: int, order: str, row: asyncpg.Record | None, *, low: int, high: int
) -> HTTPResponse:
    """low and high are where an empty page stands: what is before low and after high lies beside it."""
    if row is None:
        raise NotFound()
    cursors, purpose = request.app.ctx.cursors, f"messages:{order}:{thread_id}"
    low, high = row["low"] or low, row["high"] or high
    older = row["first_seq"] is not None and row["first_seq"] < low
    newer = row["final_seq"] is not None and row["final_seq"] > high
    if order == "asc":
        onward, back = (high if newer else None), (low if older else None)
    else:
        onward, back = (low if older else None), (high if newer else None)
    following = "null" if onward is None else f'"{cursors.seal(purpose, 1, onward)}"'
    preceding = "null" if back is None else f'"{cursors.seal(purpose, 0, back)}"'
    border = f'"archivedBefore":{row["archived_seq"] + 1},' if row["archived_seq"] else ""
    return json_bytes(
        f'{{"items":[{row["items"]}],{border}"nextCursor":{following},"prevCursor":{preceding},'
        f'"streamCursor":"{request.app.ctx.epoch}.{thread_id}.{row["last_rev"]}"}}'
    )


@answers({200: shapes.MessageAnswer}, {404: "message_archived"})
async def get_message(request: Request, thread_id: int, seq: int) -> HTTPResponse:
    """One message."""
    found = await get(request.app.ctx.reads, user_id=request.ctx.user_id, thread_id=thread_id, seq=seq)
    if found is None:
        raise await missing(request, thread_id, seq)
    return json_bytes(f'{{"message":{found}}}')


@answers(
    {201: shapes.MessageAnswer, 200: shapes.MessageAnswer},
    {403: "blocked", 409: "message_archived", 422: "client_id_reused message_archived"},
)
async def post_message(request: Request, thread_id: int, body: NewMessage) -> HTTPResponse:
    """Send. With a clientId (or the header Idempotency-Key, the same thing) it may be repeated for ever.

    The text is trimmed. 200 and the message as it now is, when this clientId has been used for it; 422 when it was
    used for another body, 409 when that message has been archived since: it was sent, and details has its seq. 403 when
    the other one of a direct thread has blocked me.
    """
    ctx, me = request.app.ctx, request.ctx.user_id
    message, new = await deliver(ctx, me, thread_id, body, client_id=_client_id(request, body))
    return json_bytes(f'{{"message":{message}}}', status=201 if new else 200)


async def deliver(
    ctx: Any, user_id: int, thread_id: int, body: NewMessage, *, client_id: str | None
) -> tuple[str, bool]:
    """Send, over HTTP or a WebSocket: the message as JSON, and whether it is new or a repetition.

    Raises NotFound, Invalid, Forbidden for who is blocked, and Conflict when what was sent is archived.
    """
    if body.fileIds:
        raise Invalid({"fileIds": "there are no such files"})
    if not body.text:
        raise Invalid({"text": "must not be empty"})
    row = await ctx.tasks.finish(_send(ctx, user_id, thread_id, body, client_id))
    if row is not None and row["message"] is None and row["blocked"]:
        raise blocks.refused()
    if row is None or (row["message"] is None and row["quotable"] and row["known"] is None):
        raise NotFound()  # not in it; or the thread was deleted while this waited
    if row["message"] is None and row["known"] is None:
        if await archived(ctx.db, user_id=user_id, thread_id=thread_id, seq=body.replyTo or 0):
            raise Invalid({"replyTo": "has been archived"}, code="message_archived")
        raise Invalid({"replyTo": "there is no such message"})
    if not row["sent"] and not row["same"]:
        raise Invalid(
            {"clientId": "belongs to a message with another body"},
            sentence="This clientId has been used for another message.",
            code="client_id_reused",
        )
    if row["message"] is None:
        raise Conflict(
            "This message has been sent, and archived since.",
            code="message_archived",
            details={"seq": row["known"]},
        )
    return row["message"], row["sent"]


async def _send(
    ctx: Any, user_id: int, thread_id: int, body: NewMessage, client_id: str | None
) -> asyncpg.Record | None:
    """Commit, then ring. Runs to its end although the sender may be gone."""
    who: dict[str, Any] = {"user_id": user_id, "thread_id": thread_id, "client_id": client_id}
    who["body_hash"] = body_hash(body)
    try:
        async with ctx.turns.of(thread_id):  # they would wait for the head of the thread anyway
            row = await members.inside(
                ctx.db,
                user_id,
                thread_id,
                lambda: send(
                    ctx.db, **who, text=body.text, reply_to=body.replyTo, handles=handles_of(body.text)
                ),
            )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "client_ids_pkey":
            raise
        return await replay(ctx.db, **who)
    if row is not None and row["sent"]:
        ring(ctx, user_id, thread_id, row)
    return row


def ring(ctx: Any, author_id: int, thread_id: int, row: asyncpg.Record) -> None:
    """Tell of a message that is committed, by what `send` answered."""
    ctx.bus.ring_message(thread_id, row["rev"], row["seq"], row["reply_to"], row["message"], row["bare"])
    ctx.typists.stop(author_id, thread_id)
    if row["shown"] is not None:
        ctx.receipts.sent(thread_id, author_id, row["seq"], shown=row["shown"])


def _client_id(request: Request, body: NewMessage) -> str | None:
    header: str | None = request.headers.get("idempotency-key")
    if header is None:
        return body.clientId
    if not 1 <= len(header) <= 128 or not header.isprintable():
        raise Invalid({"clientId": "the header Idempotency-Key must have 1 to 128 characters"})
    if body.clientId not in (None, header):
        raise Invalid({"clientId": "differs from the header Idempotency-Key"})
    return header


def handles_of(text: str) -> list[str]:
    """Who may be meant by @handle in a text, as it is written there; whether they are members, the send finds."""
    found = dict[str, str]()  # ignoring case
    if "@" in text:
        text = unicodedata.normalize("NFC", text)  # as usernames are typed
        for match in HANDLE.finditer(text):
            if unicodedata.category(text[match.end() : match.end() + 1] or " ").startswith("M"):
                continue  # it goes on, in a way that no username can
            for said in (match[1], match[1].rstrip(".-")):  # a full stop after a name is mostly none of it
                if len(said) >= 2:
                    found.setdefault(said.lower(), said)
            if len(found) >= MENTIONS:
                break
    return list(found.values())[:MENTIONS]


def body_hash(body: NewMessage) -> bytes:
    """What makes two bodies the same for one client id: text (trimmed), replyTo and fileIds."""
    return hashlib.sha256(orjson.dumps([body.text, body.replyTo, body.fileIds])).digest()


@answers(
    {200: shapes.MessageAnswer},
    {403: "forbidden blocked", 404: "message_archived", 409: "message_deleted"},
)
async def patch_message(request: Request, thread_id: int, seq: int, body: NewText) -> HTTPResponse:
    """Edit: the author. The same text again changes nothing."""
    ctx, me = request.app.ctx, request.ctx.user_id
    work = partial(edit, ctx.db, user_id=me, thread_id=thread_id, seq=seq, text=body.text)
    row = await ctx.tasks.finish(change(ctx, me, thread_id, work))
    if row is None:
        raise await missing(request, thread_id, seq)
    if not row["own"]:
        raise Forbidden()
    if row["blocked"]:
        raise blocks.refused()
    if row["gone"]:
        raise NotFound()
    if row["deleted"]:
        raise deleted()
    return json_bytes(f'{{"message":{row["message"]}}}')


@answers({200: shapes.EditPage}, {400: "bad_cursor", 403: "forbidden", 404: "message_archived"})
async def list_edits(request: Request, thread_id: int, seq: int, query: EditQuery) -> HTTPResponse:
    """What a message has said before, the oldest first: the author, moderators and admins.

    at is when that was written. The latest 1,000 are kept, until the message is deleted.
    """
    ctx, purpose, after_rev = request.app.ctx, f"edits:{thread_id}:{seq}", 0
    if query.cursor is not None:
        (after_rev,) = ctx.cursors.open(purpose, query.cursor, count=1)
    who = {"user_id": request.ctx.user_id, "thread_id": thread_id, "seq": seq}
    row = await edits(ctx.reads, **who, after_rev=after_rev, size=query.limit)
    if row is None:
        raise await missing(request, thread_id, seq)
    if not row["allowed"]:
        raise Forbidden()
    following = f'"{ctx.cursors.seal(purpose, row["last_rev"])}"' if row["more"] else "null"
    return json_bytes(f'{{"edits":{row["edits"]},"nextCursor":{following}}}')


@answers({204: None}, {403: "forbidden", 404: "message_archived"})
async def delete_message(request: Request, thread_id: int, seq: int) -> HTTPResponse:
    """Delete: the author, moderators and admins. Its place and seq stay, its text is gone; again is 204 too."""
    ctx, me = request.app.ctx, request.ctx.user_id
    row = await ctx.tasks.finish(change(ctx, me, thread_id, partial(_remove, ctx.db, me, thread_id, seq)))
    if row is None or row["gone"]:
        raise await missing(request, thread_id, seq)
    if not row["allowed"]:
        raise Forbidden()
    return empty()


async def _remove(db: Connections, user_id: int, thread_id: int, seq: int) -> asyncpg.Record | None:
    async with db.acquire() as conn, conn.transaction():
        row = await remove(conn, user_id=user_id, thread_id=thread_id, seq=seq)
        if row is not None and row["rev"] is not None:
            await forget(conn, thread_id=thread_id, seq=seq)
    return row


async def missing(request: Request, thread_id: int, seq: int) -> NotFound:
    """What is told of a message that was not found: whether it has been archived, to who could see it."""
    who = {"user_id": request.ctx.user_id, "thread_id": thread_id}
    if await archived(request.app.ctx.db, **who, seq=seq):
        return NotFound("This message has been archived.", code="message_archived")
    return NotFound()


def deleted() -> Conflict:
    """What is told to whoever would change a message that is gone."""
    return Conflict("This message has been deleted.", code="message_deleted")


async def change(
    ctx: Any, user_id: int, thread_id: int, work: Callable[[], Awaitable[asyncpg.Record | None]]
) -> asyncpg.Record | None:
    """Commit what somebody does to a message, then ring, if anything has changed."""
    row = await members.inside(ctx.db, user_id, thread_id, work)
    if row is not None and row["rev"] is not None:
        ctx.bus.ring(thread_id, row["rev"])
    return row
