"""Contacts from a CSV file, and as one: what is wrong in which line, and nothing else is."""

import asyncio
import csv
import io
import itertools
from collections.abc import Iterable
from typing import Any

import asyncpg
import httpx
import pytest

from server import contacts
from server.base.errors import Invalid
from server.contacts_csv import ENTRY_BYTES, MOST_LINES, Entry, Lines, Sheet, entries
from tests.client import Api, Person
from tests.conftest import Cast
from tests.rules import ok, raw, refused

URL = "/api/contacts"
NUMBERS = itertools.count(20_000_000)


def number() -> str:
    """A phone number that nobody has."""
    return f"+4941{next(NUMBERS)}"


def rows_of(text: str, delimiter: str = ",") -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def file_of(rows: Iterable[Iterable[str]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


async def taken(api: Api, root: Person, file: bytes | str) -> Any:
    """The report of an import."""
    content = file.encode() if isinstance(file, str) else file
    return ok(
        await api.post(f"{URL}/import", as_=root, content=content, headers={"Content-Type": "text/csv"})
    )


async def exported(api: Api, root: Person) -> list[list[str]]:
    reply = await api.get(f"{URL}/export", as_=root)
    assert (
        reply.status == 200 and reply.headers["content-disposition"] == 'attachment; filename="contacts.csv"'
    )
    return rows_of(reply.body.decode())


def counts(report: Any) -> tuple[int, int, int, int]:
    return report["created"], report["updated"], report["unchanged"], report["errorCount"]


async def named(db: asyncpg.Pool, mark: str) -> list[tuple[Any, ...]]:
    """The contacts whose name has this in it."""
    rows = await db.fetch(
        "SELECT name, phone_number, email, external_id, notes FROM contacts"
        " WHERE strpos(name, $1) > 0 AND deleted_at IS NULL ORDER BY id",
        mark,
    )
    return [tuple(row) for row in rows]


async def test_what_a_file_says_is_made_then_changed_then_nothing(
    api: Api, root: Person, db: asyncpg.Pool
) -> None:
    mark, one, two = f"m{next(NUMBERS)}", number(), number()
    file = (
        "\ufeffName,Phone number,E_MAIL,external-id,notes\r\n"
        f'Änne {mark},{one},a@example.org,crm:{one},"She said ""call"",\r\nthen left."\r\n'
        f"{mark} Ben,00{two[1:3]} {two[3:]},,,\n"
        f"{mark} 王,,w@example.org,,\r\n"
    )
    assert counts(await taken(api, root, file)) == (3, 0, 0, 0)
    first = [
        (f"Änne {mark}", one, "a@example.org", f"crm:{one}", 'She said "call",\r\nthen left.'),
        (f"{mark} Ben", two, None, None, ""),
        (f"{mark} 王", None, "w@example.org", None, ""),
    ]
    assert await named(db, mark) == first
    assert counts(await taken(api, root, file)) == (0, 0, 3, 0)
    third = f"externalId,phone,name,notes\ncrm:{one},,,\n,{two},Benno {mark},New.\n"  # empty: it stays
    assert counts(await taken(api, root, third)) == (0, 1, 1, 0)
    assert await named(db, mark) == [first[0], (f"Benno {mark}", two, None, None, "New."), first[2]]
    row = await db.fetchrow(
        "SELECT u.name, t.title FROM contacts c JOIN users u ON u.id = c.id JOIN threads t ON t.id = c.thread_id"
        " WHERE c.phone_number = $1",
        two,
    )
    assert tuple(row) == (f"Benno {mark}", f"Benno {mark}")
    fourth = f"phone,externalId\n{two},crm:{two}\n"
    assert counts(await taken(api, root, fourth)) == (0, 1, 0, 0)
    assert counts(await taken(api, root, f"externalId,phone\ncrm:{two},{(three := number())}\n")) == (
        0,
        1,
        0,
        0,
    )
    assert (await named(db, mark))[1][1:4] == (three, None, f"crm:{two}")


async def test_each_fault_is_told_with_its_line_and_the_rest_is_taken(
    api: Api, root: Person, db: asyncpg.Pool
) -> None:
    mark, one, two = f"m{next(NUMBERS)}", number(), number()
    lines = [
        "name,phone,email,externalId,notes,shoe size,shoe size",
        f"{mark} a,{one},,,,43,44",
        f"{mark} b,{one},,,,,",  # 3: the number is in line 2
        f"{mark} c,0151 2345,,,,,",
        f"{mark} d,,nobody,,,,",
        f"{mark} e,,",
        f"{mark} f,,,,,,,",
        f'{mark} "g",{two},,,"two\nlines",,',  # 8 and 9
        f'"{mark} h"x,,,,,,',
        "",
        ",,x@example.org,,,,",
        ",,,nobody's,,,",
        f"{'x' * 256},ada,x,,{'n' * 10_001},,",
        f"{mark} i,,,,,,",
        f"{mark.upper()} I,,,,,,",  # 15: the same again
        f"{mark} \x00,,,,,,",
    ]
    file = "\n".join(lines).encode() + f'\n{mark} \xff,,,,,,\n{mark} j,,,,,,\n{mark} k,"'.encode("latin-1")
    report = await taken(api, root, file)
    told = [(one["line"], one["column"]) for one in report["errors"]]
    assert told == [
        (3, "phoneNumber"), (4, "phoneNumber"), (5, "email"), (6, None), (7, None), (10, None), (12, None),
        (14, "name"), (14, "email"), (14, "notes"), (14, "phoneNumber"), (16, "name"), (17, "name"), (18, None),
        (20, None), (13, "externalId"),
    ]  # fmt: skip
    said = {(one["line"], one["column"]): one["error"] for one in report["errors"]}
    assert said[3, "phoneNumber"] == "is in line 2 already"
    assert "country code" in said[4, "phoneNumber"]
    assert said[6, None] == "has 3 columns instead of 7" and said[7, None] == "has 8 columns instead of 7"
    assert said[10, None] == "has something between a closing quote and the end of the value"
    assert said[18, None] == "is not UTF-8" and said[20, None] == "has a quote that is not closed"
    assert said[16, "name"] == "is in line 15 already"
    assert report["errorCount"] == 13 and report["created"] == 4
    assert report["ignoredColumns"] == ["shoe size", "shoe size"]
    assert [row[0].removeprefix(mark) for row in await named(db, mark)] == [" a", ' "g"', " i", " j"]


async def test_whom_a_line_means_must_be_clear(api: Api, root: Person, db: asyncpg.Pool) -> None:
    mark, one, two = f"m{next(NUMBERS)}", number(), number()
    file = f"name,phone,externalId\n{mark} a,{one},crm:{one}\n{mark} b,{two},crm:{two}\n{mark} c,,\n"
    assert counts(await taken(api, root, file)) == (3, 0, 0, 0)
    before = await named(db, mark)
    report = await taken(
        api, root,
        f"name,phone,externalId\n{mark} x,{two},crm:{one}\n{mark} x,{one},crm:new{one}\n{mark} c,,\n",
    )  # fmt: skip
    assert [(fault["line"], fault["column"]) for fault in report["errors"]] == [
        (2, "phoneNumber"),
        (3, "externalId"),
    ]
    assert counts(report) == (0, 0, 1, 2) and await named(db, mark) == before
    report = await taken(api, root, f"phone,externalId,notes\n{one},,first\n,crm:{one},second\n")
    assert [(fault["line"], fault["error"]) for fault in report["errors"]] == [
        (3, "is about the same contact as line 2")
    ]
    assert [row[4] for row in await named(db, mark)] == ["first", "", ""]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", "empty"), (b"\r\n\r\n", "empty"), (b"\xef\xbb\xbf", "empty"), (b"shoe size\n43\n", "one of the columns"),
        ("name\nÄnne\n".encode("utf-16"), "UTF-16"), ("näme".encode("latin-1"), "not UTF-8"), (b"email\n", "one of"),
        (b"phone,phoneNumber\n1,2\n", "once"), (b"name,Name\n1,2\n", "once"), (b'"name\nAda', "quote"),
        (b"\x00", "one of"), (b"PK\x03\x04\xff\x00" * 100, "not UTF-8"), (b"{}", "one of"),
        (b"name" + b"," * 200_000, "too long"),
    ],
)  # fmt: skip
async def test_what_is_no_list_of_contacts_is_refused_whole(
    api: Api, root: Person, file: bytes, said: str
) -> None:
    reply = await api.post(
        f"{URL}/import", as_=root, content=file, headers={"Content-Type": "text/csv; charset=utf-8"}
    )
    body = refused(reply, 422, "invalid")
    assert said in body["details"]["file"] and body["error"].startswith("The file must")


async def test_only_a_csv_file_of_some_size_and_of_the_staff_is_read(
    api: Api, root: Person, cast: Cast
) -> None:
    url, csv_type = f"{URL}/import", {"Content-Type": "text/csv"}
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}):
        refused(await api.post(url, as_=root, content=b"name\nX\n", headers=headers), 415, "unsupported_type")
    large = b"name\n" + b"x" * 11 * 1024 * 1024
    refused(await api.post(url, as_=root, content=large, headers=csv_type), 413, "too_large")
    reply = await api.post(url, as_=cast.mallory, content=large, headers=csv_type)
    refused(reply, 403, "forbidden")
    assert reply.headers["connection"] == "close", "what was not read is not taken for another request"
    reply = await api.post(url, as_=cast.mallory, headers=csv_type)
    refused(reply, 403, "forbidden")
    assert reply.headers["connection"] == "keep-alive"
    refused(await api.post(url, content=large, headers=csv_type), 401, "unauthorized")
    refused(await api.get(f"{URL}/export", as_=cast.mallory), 403, "forbidden")

    async def pieces() -> Any:
        for _ in range(11):
            yield b"name\n" + b"x" * 1024 * 1024

    refused(await api.post(url, as_=root, content=pieces(), headers=csv_type), 413, "too_large")
    start = f"POST {url} HTTP/1.1\r\nContent-Type: text/csv\r\nAuthorization: Bearer {root.token}\r\n"
    reply = await raw(
        api,
        f"{start}Expect: 100-continue\r\nContent-Length: 7\r\nConnection: close\r\n\r\nname\nX\n".encode(),
    )
    assert reply.status in (100, 200)
    ok(await api.get(URL, as_=root))


async def test_a_file_of_several_batches_is_taken_whole(api: Api, root: Person, db: asyncpg.Pool) -> None:
    mark = f"m{next(NUMBERS)}"
    rows = [(f"{mark} {n}", number(), f"crm:{mark}:{n}") for n in range(2500)]
    file = file_of(
        [("name", "phone", "externalId"), *rows, rows[7], (rows[8][0], "", ""), ("", rows[9][1], "")]
    )
    report = await taken(api, root, file)
    assert counts(report) == (2501, 0, 0, 2)  # one has a name alone: nobody knows it is the eighth
    assert [fault["line"] for fault in report["errors"]] == [2502, 2504]
    assert counts(await taken(api, root, file)) == (0, 0, 2501, 2)
    changed = [
        (f"{mark} new {n}" if n % 2 else name, phone, other) for n, (name, phone, other) in enumerate(rows)
    ]
    assert counts(await taken(api, root, file_of([("name", "phone", "externalId"), *changed]))) == (
        0,
        1250,
        1250,
        0,
    )
    assert (
        await db.fetchval(
            "SELECT count(*) FROM contacts c JOIN threads t ON t.id = c.thread_id"
            " JOIN thread_heads h ON h.thread_id = t.id WHERE strpos(c.name, $1) > 0 AND c.name = t.title"
            " AND h.last_rev = (strpos(c.name, 'new') > 0)::int",
            mark,
        )
        == 2501
    )
    total = ok(await api.get(URL, as_=root))["pagination"]["total"]
    assert total == await db.fetchval("SELECT count(*) FROM contacts WHERE deleted_at IS NULL")


async def test_imports_that_meet_make_each_contact_once(api: Api, root: Person, db: asyncpg.Pool) -> None:
    mark = f"m{next(NUMBERS)}"
    rows = [
        (f"{mark} {n}", number() if n % 3 else "", f"crm:{mark}:{n}" if n % 2 else "") for n in range(300)
    ]
    file = file_of([("name", "phone", "externalId"), *rows])
    posts = [
        api.post(URL, {"name": name, "phoneNumber": phone}, as_=root)
        for name, phone, _ in rows[1:200:7]
        if phone
    ]
    found = await asyncio.gather(*(taken(api, root, file) for _ in range(4)), *posts)
    reports, replies = found[:4], found[4:]
    assert {reply.status for reply in replies} <= {201, 409}
    assert all(sum(counts(report)) == 300 for report in reports)
    assert [row[1] for row in await named(db, mark) if row[1]].__len__() == 200
    by_one = sum(reply.status == 201 for reply in replies)
    assert sum(report["created"] for report in reports) + by_one == len(await named(db, mark)) == 300


async def test_a_name_from_a_file_is_told_to_whoever_follows_the_thread(api: Api, root: Person) -> None:
    phone = number()
    contact = ok(await api.post(URL, {"phoneNumber": phone}, as_=root), 201)["contact"]
    async with api.stream(contact["threadId"], root) as stream:
        assert counts(await taken(api, root, f"phone,name\n{phone},Carla\n")) == (0, 1, 0, 0)
        assert (await stream.next()).name == "thread_updated"
    shown = ok(await api.get(f"/api/threads/{contact['threadId']}", as_=root))["thread"]
    assert shown["title"] == "Carla"


async def test_what_is_given_out_is_taken_back_unchanged(api: Api, root: Person, db: asyncpg.Pool) -> None:
    mark = f"m{next(NUMBERS)}"
    people = [
        {"name": f"=HYPERLINK(\"http://x/{mark}\")", "notes": "-1+1\n'=2"}, {"name": f"'{mark}"}, {"name": f"'={mark}"},
        {"name": f"''@{mark}", "email": "+a@example.org", "externalId": f"@{mark}"}, {"name": f"+{mark}", "notes": '"'},
        {"name": f"\uff1d{mark}", "phoneNumber": number()}, {"name": f"{mark}; a, b\tc", "notes": "two\r\nlines"},
        {"name": f"Änne 王 🧵 {mark}", "externalId": f"x{mark}", "phoneNumber": number()},
    ]  # fmt: skip
    for body in people:
        ok(await api.post(URL, body, as_=root), 201)
    before = await named(db, mark)
    assert len(before) == len(people)
    head, *rows = await exported(api, root)
    assert head == ["name", "phoneNumber", "email", "externalId", "notes"]
    mine = [row for row in rows if mark in row[0]]
    assert len(mine) == len(people)
    for row in mine:
        for cell in (row[0], *row[2:]):
            assert cell == "" or cell[0] not in "=+-@\t\r\uff1d\uff0b\uff0d\uff20"
    for delimiter in ",;\t":
        assert counts(await taken(api, root, file_of([head, *mine], delimiter))) == (0, 0, len(people), 0)
    await db.execute("UPDATE contacts SET deleted_at = now() WHERE strpos(name, $1) > 0", mark)
    assert counts(await taken(api, root, file_of([head, *mine]))) == (len(people), 0, 0, 0)
    assert await named(db, mark) == before
    await db.execute("UPDATE contacts SET deleted_at = now() WHERE strpos(name, $1) > 0", mark)
    assert not [row for row in await exported(api, root) if mark in row[0]]


async def test_a_large_export_is_whole(api: Api, root: Person, db: asyncpg.Pool) -> None:
    mark = f"m{next(NUMBERS)}"
    names = [f"{mark} {n}" for n in range(3000)]
    none = dict.fromkeys(("phone_numbers", "emails", "external_ids"), [None] * 3000)
    await contacts.create_many(db, names=names, notes=["ä" * 100] * 3000, **none)
    reply = await api.get(f"{URL}/export", as_=root)
    assert reply.headers["transfer-encoding"] == "chunked" and reply.headers["cache-control"] == "no-store"
    assert "x-request-id" in reply.headers
    assert [row[0] for row in rows_of(reply.body.decode()) if mark in row[0]] == names
    head = await api.ask("HEAD", f"{URL}/export", as_=root)
    assert (head.status, head.body) == (200, b"")
    reader, writer = await asyncio.open_connection(*api.base.removeprefix("http://").split(":"))
    for _ in range(2):  # the connection is in step
        request = f"HEAD {URL}/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {root.token}\r\n\r\n"
        writer.write(request.encode())
        async with asyncio.timeout(30):
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert answer.startswith(b"http/1.1 200 ") and b"content-type: text/csv" in answer
        assert b"content-length" not in answer and b"connection: close" not in answer
    writer.close()
    ok(await api.get(URL, as_=root))
    await db.execute("UPDATE contacts SET deleted_at = now() WHERE strpos(name, $1) > 0", mark)


async def test_whoever_takes_in_and_gives_out_is_in_the_audit_log(api: Api, root: Person) -> None:
    await taken(api, root, f"phone\n{number()}\nada\n")
    await exported(api, root)
    found = ok(await api.get(f"/api/admin/audit?act=contacts.&userId={root.id}", as_=root))["entries"]
    assert [entry["act"] for entry in found] == ["contacts.exported", "contacts.imported", "contacts.import"]
    assert found[1]["details"] == {"created": 1, "updated": 0, "unchanged": 0, "errors": 1}


async def test_an_import_whose_client_has_gone_is_finished(api: Api, root: Person, db: asyncpg.Pool) -> None:
    mark = f"m{next(NUMBERS)}"
    file = file_of([("name", "phone"), *((f"{mark} {n}", number()) for n in range(3000))])
    async with httpx.AsyncClient(base_url=api.base, trust_env=False) as client:
        headers = {"Content-Type": "text/csv", "Authorization": f"Bearer {root.token}"}
        asked = asyncio.create_task(client.post(f"{URL}/import", content=file, headers=headers))
        while not await named(db, mark):
            await asyncio.sleep(0.005)
        asked.cancel()
    async with asyncio.timeout(30):
        while len(await named(db, mark)) < 3000:
            await asyncio.sleep(0.01)


# ---- reading -----------------------------------------------------------------------------------


def read(body: bytes, delimiter: str = ",") -> list[Entry]:
    return list(entries(Lines(body), delimiter))


def test_a_line_that_cannot_be_read_costs_no_other() -> None:
    assert read(b'a,b\n"c\n d",e\n') == [Entry(1, ["a", "b"]), Entry(2, ["c\n d", "e"])]
    assert read(b'a\n"b\nc\nd\n') == [
        Entry(1, ["a"]), Entry(2, [], "has a quote that is not closed"), Entry(3, ["c"]), Entry(4, ["d"]),
    ]  # fmt: skip
    assert [entry.line for entry in read(b"a\rb\rc") if entry.fault is None] == [1, 2, 3]
    long = b'"' + b"x\n" * ENTRY_BYTES + b"y"
    found = read(long)
    assert found[0] == Entry(1, [], "is too long, or a quote is not closed")
    assert found[1:3] == [Entry(2, ["x"]), Entry(3, ["x"])] and len(found) == ENTRY_BYTES + 1
    assert read(b"x" * (ENTRY_BYTES + 1) + b"\ny") == [
        Entry(1, [], "is too long, or a quote is not closed"), Entry(2, ["y"])
    ]  # fmt: skip
    assert read(b"") == [] == read(b"\n\r\n,,\n")


def test_whatever_stands_in_it_a_file_is_read_to_its_end_once() -> None:
    for pattern in (
        b'"\n',
        b'","\n',
        b'a,"b\n',
        b'"a"\n"',
        b'""\n',
        b'"\r\n,"',
        b"\xff\n",
        b"\r\n\r",
        b'\x00"\n',
    ):
        lines = [entry.line for entry in read(b"name\n" + pattern * 3000)]
        assert lines == sorted(set(lines)) and lines[-1] <= 12_002


def test_columns_go_by_many_names() -> None:
    for head, fields in (
        (b"name,phone", ["name", "phoneNumber"]),
        (b' NAME ;"Phone Number"; External ID\r', ["name", "phoneNumber", "externalId"]),
        (b"phone_number\tE-Mail\tnotes", ["phoneNumber", "email", "notes"]),
        (b'"name","x, y",phoneNumber', ["name", None, "phoneNumber"]),
    ):
        assert Sheet(head + b"\n").fields == fields
    with pytest.raises(Invalid):
        Sheet(b"phone number of somebody\n")


async def test_beyond_so_many_lines_nothing_is_taken(api: Api, root: Person, db: asyncpg.Pool) -> None:
    """All of these are refused, so that it takes little time."""
    report = await taken(api, root, b"name,phone\n" + b"x,y\n" * (MOST_LINES + 5))
    assert counts(report) == (0, 0, 0, MOST_LINES + 1) and len(report["errors"]) == 100
