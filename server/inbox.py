"""The inbox: conversations with contacts, for the staff, and what gateways hand in. SQL: db/queries/inbox.sql."""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal

import asyncpg
import orjson
from msgspec import UNSET, Meta, UnsetType
from pypika import CustomFunction, Field, Order, Parameter, PostgreSQLQuery, Table
from sanic import Request
from sanic.response import HTTPResponse

from server import contacts, grams, messages, phone, search, shapes
from server.base import log
from server.base.db import Db, query
from server.base.errors import (
    AWAY,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unauthorized,
    Unavailable,
)
from server.base.http import TOP, Body, Query, answers, json_bytes, length, whole

LABELS, LABEL = 20, 50  # of one conversation; characters of one
COUNTED = 10_000  # conversations that a filtered list looks at, some 20 ms
UNREAD_LOOKS = 2000  # with unread=true, for which more is looked up of each; the same time
FOUND = 1000  # conversations that a search tells of for certain
WAKE_SECONDS = 1.0
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)

Status = Literal["open", "snoozed", "closed"]


@query
async def latest(db: Db, *, user_id: int, skip: int, size: int) -> asyncpg.Record | None: ...


@query
async def latest_of(
    db: Db, *, user_id: int, status: str | None, skip: int, size: int
) -> asyncpg.Record | None: ...


@query
async def told(db: Db, *, user_id: int, thread_ids: Sequence[int]) -> str | None: ...


@query
async def reader(db: Db, *, user_id: int) -> asyncpg.Record | None: ...


@query
async def named(db: Db, *, search: str, digits: str | None) -> list[asyncpg.Record]: ...


@query
async def threads(  # contact threads; the others: server/threads.py
    db: Db,
    *,
    user_id: int,
    search: str | None,
    unread: bool,
    archived: bool,
    before_at: datetime,
    before_id: int,
    looks: int,
    size: int,
) -> asyncpg.Record: ...


@query
async def change(
    db: Db,
    *,
    thread_id: int,
    given: list[str],
    status: str | None,
    snoozed_until: datetime | None,
    assignee_id: int | None,
    labels: list[str],
) -> asyncpg.Record | None: ...


@query
async def wake(db: Db) -> list[asyncpg.Record]: ...


@query
async def thread_of(db: Db, *, contact_id: int) -> asyncpg.Record | None: ...


@query
async def by_phone(db: Db, *, phone_number: str) -> asyncpg.Record | None: ...


@query
async def handed_in(db: Db, *, user_id: int, external_id: str, body_hash: bytes) -> asyncpg.Record | None: ...


@query
async def hand_in(
    db: Db, *, user_id: int, external_id: str, thread_id: int, seq: int, body_hash: bytes
) -> str: ...


Page = Annotated[int, whole(1, 10**9)]
PageSize = Annotated[int, whole(1, 100)]


class ConversationQuery(Query):
    page: Page = 1
    pageSize: PageSize = 50
    searchValue: Annotated[str, length(0, 1000)] | None = None
    status: Status | None = None
    assigneeId: Annotated[str, length(1, 20, pattern="me|none|[1-9][0-9]{0,18}")] | None = None
    label: Annotated[str, length(1, LABEL)] | None = None
    unread: bool = False


Labels = Annotated[  # bounded by _labels
    list[Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": LABEL})]],
    Meta(extra_json_schema={"maxItems": LABELS}),
]


class ConversationChange(Body):
    """What is given is changed."""

    status: Status | UnsetType = UNSET
    snoozedUntil: Annotated[datetime, Meta(tz=True)] | None = None  # with snoozed
    assigneeId: Annotated[int, whole()] | UnsetType | None = UNSET
    labels: Labels | UnsetType = UNSET


class PageQuery(Query):
    page: Page = 1
    pageSize: PageSize = 50


class Inbound(Body):
    phoneNumber: contacts.Number
    text: Annotated[str, length(1, messages.TEXT)]
    name: contacts.Name | None = None
    externalId: Annotated[str, length(1, 255, trim=False)] | None = None


# ---- the list ----------------------------------------------------------------------------------


@answers({200: shapes.ConversationPage})
async def list_conversations(request: Request, query: ConversationQuery) -> HTTPResponse:
    """Contact threads in which something has been said, latest first. A page beyond the end is empty.

    searchValue: any part of the name or phone number, or of any message's text, as it stands, ignoring case and quotes
    around it. One character is looked for in names and numbers alone. Of several words with quotes inside, what stands
    between the quotes must be in one message. assigneeId: an id, me, or none. All filters hold together.

    total is exact without a search and with no filter but status. Else a list looks at the latest 10,000 conversations
    that have the label, or else the assignee, or else the status (2,000 with unread=true), and a search tells of 1,000:
    where there are more, totalExact is false.
    """
    ctx, me, skip = request.app.ctx, request.ctx.user_id, (query.page - 1) * query.pageSize
    if query.searchValue or query.assigneeId or query.label or query.unread:
        return await _filtered(request, query, skip)
    if query.status is None:
        row = await latest(ctx.reads, user_id=me, skip=skip, size=query.pageSize)
    else:
        row = await latest_of(ctx.reads, user_id=me, status=query.status, skip=skip, size=query.pageSize)
    staff(row and row["role"])
    assert row is not None
    shown, told = row["conversations"] or b"", pagination(query.page, query.pageSize, row["total"])
    return json_bytes(b'{"conversations":[%b],%b}' % (shown, told.encode()))


list_conversations.admits = True  # type: ignore[attr-defined]  # its statement asks for the role: a question less


def staff(role: str | None) -> None:
    """Let in agents and admins. Raises Unauthorized for nobody (None), Forbidden for members."""
    if role is None:
        raise Unauthorized()
    if role == "member":
        raise Forbidden("This is for agents and admins.")


def pagination(page: int, size: int, total: int, *, exact: bool = True) -> str:
    """The member of this name, of an answer."""
    return (
        f'"pagination":{{"page":{page},"pageSize":{size},"total":{total},"totalPages":{-(-total // size)},'
        f'"totalExact":{str(exact).lower()}}}'
    )


Assigned = Literal["any", "one", "nobody"]


@dataclass(frozen=True)
class Filters:
    """Which filters there are: what makes a statement."""

    found: bool = False  # a search, and these are all that it has found
    among: bool = False  # a search that found too many: names are looked at one by one
    status: bool = False
    assigned: Assigned = "any"
    label: bool = False
    unread: bool = False


def newest(rows: Any) -> Any:
    """In the order of the list."""
    return rows.orderby(Field("last_at"), order=Order.desc).orderby(Field("thread_id"), order=Order.desc)


array = CustomFunction("ARRAY", ["rows"])


@cache
def listing(on: Filters) -> tuple[str, tuple[str, ...]]:
    """The statement for a page of conversations with these filters, and the names of its values in their order.

    The one place of dynamic SQL here, for its caller chooses the filters. The index of one of them is walked in the
    order of the list, for so many conversations; the others are compared there. It answers thread_ids (the page), total
    (those that all filters let through) and looked (at so many).
    """
    names: list[str] = []

    def given(name: str, kind: str) -> Any:
        if name not in names:
            names.append(name)
        return Parameter(f"${names.index(name) + 1}::{kind}")

    def one_of(ids: Any) -> Any:
        return CustomFunction("ANY", ["ids"])(ids)

    columns = {
        "labels": on.label and on.found,
        "assignee_id": on.assigned == "nobody" or (on.assigned == "one" and (on.found or on.label)),
        "status": on.status and (on.found or on.label or on.assigned == "one"),
        "contact_id": on.among,
    }
    looks = (UNREAD_LOOKS if on.unread else COUNTED) + 1  # one more tells whether there are more
    rows, tagged, n = Table("conversations"), Table("conversation_labels"), Table("n")
    walk = PostgreSQLQuery.from_(rows).where(rows.last_at.isnotnull())
    rest: list[Any] = []
    if on.found:
        walk = walk.where(rows.thread_id == one_of(given("ids", "bigint[]")))
    if on.label and on == Filters(label=True):  # the index tells all
        walk = PostgreSQLQuery.from_(tagged).where(tagged.label == given("label", "text"))
    elif on.label and not on.found:
        labelled = PostgreSQLQuery.from_(tagged).select(tagged.thread_id)
        labelled = newest(labelled.where(tagged.label == given("label", "text"))).limit(looks)
        walk = walk.where(rows.thread_id == one_of(array(labelled)))
    elif on.label:
        rest.append(given("label", "text") == one_of(n.labels))
    if on.assigned == "one":
        mine = given("assignee_id", "bigint")
        if on.found or on.label:
            rest.append(n.assignee_id == mine)
        else:
            walk = walk.where(rows.assignee_id == mine)
    elif on.assigned == "nobody":
        rest.append(n.assignee_id.isnull())
    if on.status:
        status = given("status", "text")
        if on.found or on.label or on.assigned == "one":
            rest.append(n.status == status)
        else:
            walk = walk.where(rows.status == status)
    if on.among:
        c = Table("contacts").as_("c")
        text = CustomFunction("contact_text", ["name", "phone_number", "email"])(c.name, c.phone_number, None)
        at, fold = CustomFunction("strpos", ["text", "part"]), CustomFunction("contact_fold", ["said"])
        named = at(text, fold(given("search", "text"))) > 0
        named |= at(c.phone_number, given("digits", "text")) > 0
        # As a value, not as EXISTS: for that a plan may read all contacts.
        like = CustomFunction("coalesce", ["is", "else"])(
            PostgreSQLQuery.from_(c).select(named).where(c.id == n.contact_id), False
        )
        rest.append((n.thread_id == one_of(given("ids", "bigint[]"))) | (like == True))  # noqa: E712
    if on.unread:
        row = f"conversation_unread(n::conversations, {given('user_id', 'bigint')}, {given('since', 'timestamptz')})"
        rest.append(Parameter(f"(SELECT r.unread FROM {row} r)") > 0)
    # No more of a row than is compared: 10,000 whole ones do not fit into memory. Without any the index alone is read.
    wanted = ["thread_id", "last_at", *(name for name, compared in columns.items() if compared)]
    walk = newest(walk.select(*([rows.star] if on.unread else map(Field, wanted)))).limit(looks)
    fitting = PostgreSQLQuery.from_(Table("looked").as_("n")).select(n.thread_id, n.last_at)
    for condition in rest:
        fitting = fitting.where(condition)
    f, looked = Table("fitting"), Table("looked")
    page = newest(PostgreSQLQuery.from_(f).select(f.thread_id))
    page = page.limit(given("size", "bigint")).offset(given("skip", "bigint"))
    count = CustomFunction("count", ["all"])(Parameter("*"))
    statement = (
        PostgreSQLQuery.with_(walk, "looked")
        .with_(fitting, "fitting")
        .select(
            array(page).as_("thread_ids"),
            PostgreSQLQuery.from_(f).select(count).as_("total"),
            PostgreSQLQuery.from_(looked).select(count).as_("looked"),
        )
    )
    return f"/* inbox.listing */ {statement}", tuple(names)


async def _filtered(request: Request, query: ConversationQuery, skip: int) -> HTTPResponse:
    ctx, me = request.app.ctx, request.ctx.user_id
    asking = await reader(ctx.reads, user_id=me)
    staff(asking and asking["role"])
    assert asking is not None
    looks = UNREAD_LOOKS if query.unread else COUNTED
    values: dict[str, Any] = {
        "user_id": me, "since": asking["since"], "status": query.status, "label": query.label,
        "size": query.pageSize, "skip": skip,
    }  # fmt: skip
    assigned: Assigned = "any"
    if query.assigneeId == "none":
        assigned = "nobody"
    elif query.assigneeId is not None:
        values["assignee_id"] = me if query.assigneeId == "me" else int(query.assigneeId)
        assigned = "one"
        if values["assignee_id"] > TOP:
            raise BadRequest("assigneeId must be an id, me or none.", code="bad_parameter")
    all_named, all_said, needle = True, True, (query.searchValue or "").strip()
    if len(needle) > 2 and needle[0] == needle[-1] == '"' and needle[1:-1].strip():
        needle = needle[1:-1]
    if needle:
        values["ids"], all_named, all_said = await _matching(ctx, needle)
        values |= {"search": needle, "digits": phone.part(needle)}
    sql, names = listing(
        Filters(
            found=bool(needle) and all_named,
            among=not all_named,
            status=query.status is not None,
            assigned=assigned,
            label=query.label is not None,
            unread=query.unread,
        )
    )
    given = [values[name] for name in names]

    async def work(conn: asyncpg.Connection) -> tuple[asyncpg.Record, str | None]:
        row = await conn.fetchrow(sql, *given)
        return row, await told(conn, user_id=me, thread_ids=row["thread_ids"])

    row, shown = await ctx.reads.reading(work)
    total = min(row["total"], COUNTED)
    exact = all_named and all_said and row["looked"] <= looks and (not needle or total <= FOUND)
    return json_bytes(
        f'{{"conversations":[{shown or ""}],{pagination(query.page, query.pageSize, total, exact=exact)}}}'
    )


async def _matching(ctx: Any, needle: str) -> tuple[list[int], bool, bool]:
    """Contact threads with a needle in the name, the number or a message; whether that is all names, and all messages.

    Of names that too many have it tells none. Of a single character, which most have, it tells nothing.
    """
    if len(needle.strip()) < 2:
        return [], False, False
    q, whole = _phrase(needle)
    said, all_said = await search.threads_with(ctx, q, FOUND + 1) if q else ([], False)
    all_said = all_said and whole
    rows = await named(ctx.reads, search=needle, digits=phone.part(needle))
    if len(rows) > FOUND:
        return said, False, all_said
    return list({*said, *(row["thread_id"] for row in rows)}), True, all_said


def _phrase(needle: str) -> tuple[str, bool]:
    """A needle as q of a search, and whether that finds just what has the needle; "" when q can't say it.

    A phrase of q has no quotes inside. What has them must have what is between them: that may be more.
    """
    if '"' not in needle:
        return f'"{needle}"', True
    if len(needle.split()) == 1:
        return needle, True  # a word may have them
    between = sorted((part for part in needle.split('"') if part.strip()), key=len, reverse=True)[
        : grams.PARTS
    ]
    if not between or len(between[0].strip()) < grams.LEAST:
        return "", False
    return " ".join(f'"{part}"' for part in between), False


# ---- one conversation --------------------------------------------------------------------------


@answers({200: shapes.ConversationAnswer})
async def get_conversation(request: Request, conversation_id: int) -> HTTPResponse:
    """A conversation; its id is that of the thread."""
    return await _shown(request, request.app.ctx.reads, conversation_id)


@answers({200: shapes.ConversationAnswer})
async def patch_conversation(
    request: Request, conversation_id: int, body: ConversationChange
) -> HTTPResponse:
    """Change what is given of a conversation: streams of the thread tell thread_updated, if anything is another then.

    snoozed needs snoozedUntil, a time to come, at which it opens by itself; whatever the contact
    writes opens it too. assigneeId is one of the staff, or null; whoever has left the staff stays what they were until
    somebody gives it to another, and the same value again changes nothing. labels is the whole list; they are trimmed,
    and each is kept once.
    """
    ctx = request.app.ctx
    labels = _labels(body.labels) if body.labels is not UNSET else []
    until = _until(body)
    given = [name for name in ("status", "assigneeId", "labels") if getattr(body, name) is not UNSET]

    async def work() -> asyncpg.Record | None:
        row = await change(
            ctx.db,
            thread_id=conversation_id,
            given=given,
            status=body.status if body.status is not UNSET else None,
            snoozed_until=until,
            assignee_id=body.assigneeId if body.assigneeId is not UNSET else None,
            labels=labels,
        )
        if row is not None and row["rev"] is not None:
            ctx.bus.ring(conversation_id, row["rev"])
        return row

    row = await ctx.tasks.finish(work())
    if row is None:
        raise NotFound()
    if not row["assignable"]:
        raise Invalid({"assigneeId": "must be an agent or admin"})
    return await _shown(request, ctx.db, conversation_id)


async def _shown(request: Request, db: Db, thread_id: int) -> HTTPResponse:
    found = await told(db, user_id=request.ctx.user_id, thread_ids=[thread_id])
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"conversation":{found}}}')


def _until(body: ConversationChange) -> datetime | None:
    """When a conversation that is to be snoozed opens. Raises Invalid."""
    if body.status != "snoozed":
        if body.snoozedUntil is not None:
            raise Invalid({"snoozedUntil": "goes with the status snoozed"})
        return None
    if body.snoozedUntil is None:
        raise Invalid({"snoozedUntil": "is required"})
    with contextlib.suppress(OverflowError):
        until = body.snoozedUntil.astimezone(UTC)
        if datetime.now(UTC) < until < FOREVER:
            return until
    raise Invalid({"snoozedUntil": "must be a time to come, before the year 9999"})


def _labels(given: list[str]) -> list[str]:
    """Labels as they are kept: trimmed, each once, in order. Raises Invalid."""
    labels = sorted({label.strip() for label in given[:1000]})
    if len(given) > LABELS:
        raise Invalid({"labels": f"must have at most {LABELS} items"})
    if any("\x00" in label for label in labels):
        raise Invalid({"labels": "must not contain NUL characters"})
    if not all(1 <= len(label) <= LABEL for label in labels):
        raise Invalid({"labels": f"each must have 1 to {LABEL} characters"})
    return labels


class Alarm:
    """Wakes snoozed conversations: each worker looks once a second, and takes those that no other has."""

    def __init__(self, db: Db, ring: Any) -> None:
        self._db, self._ring = db, ring
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background, for as long as the worker lives."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Stop. What has just been woken and not rung for is found by the readers' poll."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(WAKE_SECONDS)
            try:
                while rows := await wake(self._db):
                    for row in rows:
                        self._ring(row["thread_id"], row["rev"])
                told = ""
            except Exception as error:  # whatever it is: the next look may do better
                reason = type(error).__name__
                if reason != told:  # each try says it again
                    log.event(
                        "inbox.asleep",
                        level="warning" if isinstance(error, AWAY) else "error",
                        reason=reason,
                    )
                told = reason


# ---- the messages of a contact -----------------------------------------------------------------


@answers({200: shapes.ContactMessagePage})
async def list_contact_messages(request: Request, contact_id: int, query: PageQuery) -> HTTPResponse:
    """The messages of a contact, newest first. Any page costs the same; archived messages are not counted."""
    reads, size = request.app.ctx.reads, query.pageSize
    door = await thread_of(reads, contact_id=contact_id)
    if door is None:
        raise NotFound()
    total = door["last_seq"] - door["archived_seq"]
    skip = min((query.page - 1) * size, door["last_seq"])
    row = await messages.page_before(
        reads,
        user_id=request.ctx.user_id,
        thread_id=door["thread_id"],
        before=door["last_seq"] - skip + 1,
        size=size,
        direction=-1,
    )
    if row is None:
        raise NotFound()  # gone since, or of the staff no more
    return json_bytes(f'{{"messages":[{row["items"]}],{pagination(query.page, size, total)}}}')


@answers(
    {201: shapes.MessageAnswer, 200: shapes.MessageAnswer},
    {403: "blocked", 409: "message_archived", 422: "client_id_reused message_archived"},
)
async def post_contact_message(request: Request, contact_id: int, body: messages.NewMessage) -> HTTPResponse:
    """Write to a contact: a send in their thread, and all that holds of one (POST /api/threads/{id}/messages)."""
    door = await thread_of(request.app.ctx.db, contact_id=contact_id)
    if door is None:
        raise NotFound()
    return await messages.post_message(request, door["thread_id"], body)


# ---- what comes in -----------------------------------------------------------------------------


@answers(
    {201: shapes.InboundAnswer, 200: shapes.InboundAnswer},
    {409: "contact_gone message_archived", 422: "client_id_reused"},
)
async def post_inbound(request: Request, body: Inbound) -> HTTPResponse:
    """A contact wrote, says a gateway. Somebody new is made a contact (created), under the name given or the number.

    A name given later takes the place of one that is only the number. With an externalId it may be repeated for ever:
    200 and the message as it now is when the caller has handed it in before, 422 when that was another number or text,
    409 when the contact is gone since, or the message archived: it was taken in all the same.
    A conversation that was closed or snoozed is open again. Of a contact a gateway is told no more than this.
    """
    ctx, me = request.app.ctx, request.ctx.user_id
    try:
        number = phone.normal(body.phoneNumber, country_code=ctx.settings.phone_country_code)
    except ValueError as error:
        raise Invalid({"phoneNumber": str(error)}) from None
    found = await ctx.tasks.finish(_take_in(ctx, me, number, body))
    created = str(found.created).lower()
    return json_bytes(
        f'{{"message":{found.message},"contact":{found.contact},"created":{created}}}',
        status=201 if found.new else 200,
    )


@dataclass(frozen=True)
class Taken:
    """A message that has come in, as JSON, and its contact."""

    message: str
    contact: str
    created: bool = False  # the contact was new
    new: bool = True  # and so was the message


async def _take_in(ctx: Any, user_id: int, number: str, body: Inbound) -> Taken:
    """Runs to its end although the gateway may be gone."""
    once: dict[str, Any] = {
        "user_id": user_id,
        "external_id": body.externalId,
        "body_hash": hashlib.sha256(orjson.dumps([number, body.text])).digest(),
    }
    for _ in range(5):  # when somebody else is faster, or a contact goes away meanwhile, it begins anew
        if body.externalId is not None and (known := await handed_in(ctx.db, **once)) is not None:
            if not known["same"]:
                raise Invalid(
                    {"externalId": "belongs to a message with another number or text"},
                    sentence="This externalId has been used for another message.",
                    code="client_id_reused",
                )
            if known["gone"]:
                raise Conflict(
                    "This message was handed in, and its contact is gone since.", code="contact_gone"
                )
            if known["message"] is None:
                raise Conflict(
                    "This message was handed in, and archived since.",
                    code="message_archived",
                    details={"seq": known["seq"]},
                )
            told = _contact(known, name=known["name"], phone_number=known["phone_number"])
            return Taken(known["message"], told, new=False)
        there = await by_phone(ctx.db, phone_number=number)
        try:
            # In a thread that is there they would wait for its head anyway.
            turn = ctx.turns.of(there["thread_id"]) if there is not None else contextlib.nullcontext()
            async with turn:
                taken = await _write(ctx, there, number, body, once)
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "inbound_ids_pkey":
                raise
            taken = None
        if taken is not None:
            return taken
    raise Unavailable("Too much happens to this contact at once; try again in a moment.")


def _contact(row: asyncpg.Record, *, name: str, phone_number: str | None) -> str:
    """What a gateway is told of a contact: nothing that only the staff knows."""
    return orjson.dumps(
        {"id": row["id"], "threadId": row["thread_id"], "name": name, "phoneNumber": phone_number}
    ).decode()


async def _write(
    ctx: Any, there: asyncpg.Record | None, number: str, body: Inbound, once: dict[str, Any]
) -> Taken | None:
    """In one transaction: the contact, the message and its id. None when it must begin anew.

    Another name comes before, by itself: it holds the contact and wants the head, which whoever sends holds in the end.
    """
    renamed = None
    if there is not None and body.name is not None and there["name"] == number != body.name:
        renamed = await contacts.change(
            ctx.db, contact_id=there["id"], given=["name"], name=body.name,
            phone_number=None, email=None, external_id=None, notes=None,
        )  # fmt: skip
        if renamed is None:
            return None
        if renamed["rev"] is not None:
            ctx.bus.ring(there["thread_id"], renamed["rev"])
    async with ctx.db.acquire() as conn, conn.transaction():
        contact = there
        if contact is None:
            contact = await contacts.create(
                conn, name=body.name or number, phone_number=number, email=None, external_id=None, notes=""
            )
            if contact is None:
                return None
        name = there["name"] if there is not None and renamed is None else body.name or number
        thread_id = contact["thread_id"]
        row = await messages.send(
            conn,
            user_id=contact["id"],
            thread_id=thread_id,
            text=body.text,
            reply_to=None,
            client_id=None,
            body_hash=once["body_hash"],
            handles=messages.handles_of(body.text),
        )
        if row is None or not row["sent"]:
            return None  # deleted since
        if body.externalId is not None:
            await hand_in(conn, **once, thread_id=thread_id, seq=row["seq"])
    messages.ring(ctx, contact["id"], thread_id, row)
    told = _contact(contact, name=name, phone_number=number)
    return Taken(row["message"], told, created=there is None)
