"""Contacts: the people outside who write to the team. SQL: db/queries/contacts.sql. As CSV: contacts_csv.py."""

from collections.abc import Sequence
from typing import Annotated

import asyncpg
from msgspec import UNSET, UnsetType
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, phone, shapes, users
from server.base.db import Db, query
from server.base.errors import Conflict, Invalid, NotFound
from server.base.http import Body, Query, answers, empty, json_bytes, length, whole

FOUND = 1000  # contacts that a search tells of and counts; see contacts.sql
# When more are found: contacts by name that are looked through for the page, some 5 ms; and such that are then sorted,
# at most some 70 ms.
LOOKS, MOST = 3000, 30_000

Texts = Sequence[str | None]


@query
async def create(
    db: Db, *, name: str, phone_number: str | None, email: str | None, external_id: str | None, notes: str
) -> asyncpg.Record | None: ...


@query
async def get(db: Db, *, contact_id: int) -> str | None: ...


@query
async def page(db: Db, *, skip: int, size: int) -> asyncpg.Record: ...


@query
async def search(
    db: Db, *, search: str, digits: str | None, looks: int, most: int, skip: int, size: int
) -> asyncpg.Record: ...


@query
async def search_letter(
    db: Db, *, search: str, digits: str | None, looks: int, most: int, skip: int, size: int
) -> asyncpg.Record: ...


@query
async def change(
    db: Db,
    *,
    contact_id: int,
    given: list[str],
    name: str | None,
    phone_number: str | None,
    email: str | None,
    external_id: str | None,
    notes: str | None,
) -> asyncpg.Record | None: ...


@query
async def remove(db: Db, *, contact_id: int) -> asyncpg.Record | None: ...


@query
async def hold_imports(db: Db) -> str: ...


@query
async def matches(
    db: Db, *, names: Texts, phone_numbers: Texts, emails: Texts, external_ids: Texts
) -> list[asyncpg.Record]: ...


@query
async def create_many(
    db: Db, *, names: Texts, phone_numbers: Texts, emails: Texts, external_ids: Texts, notes: Texts
) -> list[asyncpg.Record]: ...


@query
async def change_many(
    db: Db,
    *,
    contact_ids: Sequence[int],
    names: Texts,
    phone_numbers: Texts,
    emails: Texts,
    external_ids: Texts,
    notes: Texts,
) -> list[asyncpg.Record]: ...


@query
async def after(db: Db, *, after_id: int, size: int) -> list[asyncpg.Record]: ...


Name = Annotated[str, length(1, 255)]
Number = Annotated[str, length(1, 64)]  # as somebody writes it; see phone.py
Email = Annotated[str, length(3, 254, pattern=users.EMAIL)]
ExternalId = Annotated[str, length(1, 255)]
Notes = Annotated[str, length(0, 10_000)]


class ContactQuery(Query):
    page: Annotated[int, whole(1, 10**9)] = 1
    pageSize: Annotated[int, whole(1, 100)] = 50
    search: Annotated[str, length(0, 100)] | None = None


class NewContact(Body):
    name: Name | None = None  # without one the phone number
    phoneNumber: Number | None = None
    email: Email | None = None
    externalId: ExternalId | None = None
    notes: Notes = ""


class ContactChange(Body):
    """What is null is taken away."""

    name: Name | UnsetType = UNSET
    phoneNumber: Number | UnsetType | None = UNSET
    email: Email | UnsetType | None = UNSET
    externalId: ExternalId | UnsetType | None = UNSET
    notes: Notes | UnsetType = UNSET


@answers({200: shapes.ContactPage})
async def list_contacts(request: Request, query: ContactQuery) -> HTTPResponse:
    """Contacts by name, ignoring case; any page costs about the same.

    search: any part of the name, phone number or email, ignoring case; of a phone number also as people write it, as
    "0151 23". It tells of the first 1,000 at most: total is then 1,000, and totalExact false.
    """
    db, needle = request.app.ctx.reads, query.search or ""
    skip, size = (query.page - 1) * query.pageSize, query.pageSize
    if needle:
        asked = search if len(needle) > 1 else search_letter
        row = await asked(
            db,
            search=needle,
            digits=phone.part(needle),
            looks=LOOKS,
            most=MOST,
            skip=min(skip, FOUND),
            size=max(0, min(size, FOUND - skip)),
        )
    else:
        row = await page(db, skip=skip, size=size)
    pages = -(-row["total"] // size)
    return json_bytes(
        f'{{"contacts":{row["contacts"]},"pagination":{{"page":{query.page},"pageSize":{size},"total":{row["total"]}'
        f',"totalPages":{pages},"totalExact":{str(row["exact"]).lower()}}}}}'
    )


@answers({201: shapes.ContactAnswer}, {409: "phone_taken external_id_taken"})
async def post_contact(request: Request, body: NewContact) -> HTTPResponse:
    """A new contact, and a thread with it. It has a name or a phone number, or both.

    The phone number may be written as people do: 00 for +, and with spaces, dashes, dots, slashes and brackets. It is
    kept in E.164, as +4915112345678. One with a single leading zero is taken where the server knows its country
    (BOBBIN_PHONE_COUNTRY_CODE).
    """
    number = _number(request, body.phoneNumber)
    name = body.name or number
    if name is None:
        raise Invalid({"name": "give a name or a phoneNumber"})
    ctx = request.app.ctx
    made = await ctx.tasks.finish(
        create(
            ctx.db,
            name=name,
            phone_number=number,
            email=body.email,
            external_id=body.externalId,
            notes=body.notes,
        )
    )
    if made is None:
        raise Conflict("There is a contact with this phone number already.", code="phone_taken")
    return json_bytes(f'{{"contact":{made["contact"]}}}', status=201)


@answers({200: shapes.ContactAnswer})
async def get_contact(request: Request, contact_id: int) -> HTTPResponse:
    """A contact."""
    found = await get(request.app.ctx.reads, contact_id=contact_id)
    if found is None:
        raise NotFound()
    return json_bytes(f'{{"contact":{found}}}')


@answers({200: shapes.ContactAnswer}, {409: "phone_taken external_id_taken"})
async def patch_contact(request: Request, contact_id: int, body: ContactChange) -> HTTPResponse:
    """Change what is given of a contact; null takes it away. Its thread has the new name at once."""
    ctx = request.app.ctx
    given = {field: value for field in body.__struct_fields__ if (value := getattr(body, field)) is not UNSET}
    number = _number(request, given.get("phoneNumber"))

    async def work() -> asyncpg.Record:
        row = await change(
            ctx.db,
            contact_id=contact_id,
            given=list(given),
            name=given.get("name"),
            phone_number=number,
            email=given.get("email"),
            external_id=given.get("externalId"),
            notes=given.get("notes"),
        )
        if row is None:
            raise NotFound()
        if row["rev"] is not None:
            ctx.bus.ring(row["thread_id"], row["rev"])
        return row

    row = await ctx.tasks.finish(work())
    return json_bytes(f'{{"contact":{row["contact"]}}}')


@answers({204: None})
async def delete_contact(request: Request, contact_id: int) -> HTTPResponse:
    """Delete a contact, and its thread for everybody: streams of it end. Its phone number is free again."""
    ctx = request.app.ctx

    async def work() -> None:
        async with ctx.db.acquire() as conn, conn.transaction():
            row = await remove(conn, contact_id=contact_id)
            if row is None:
                raise NotFound()
            await audit.record(
                conn, request, "contact.deleted", subject_id=contact_id, thread_id=row["thread_id"]
            )
        ctx.bus.ring(row["thread_id"], row["rev"])

    await ctx.tasks.finish(work())
    return empty()


def _number(request: Request, given: str | None) -> str | None:
    """A phone number in E.164. Raises Invalid."""
    if given is None:
        return None
    try:
        return phone.normal(given, country_code=request.app.ctx.settings.phone_country_code)
    except ValueError as fault:
        raise Invalid({"phoneNumber": str(fault)}) from None
