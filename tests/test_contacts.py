"""Contacts: made, found, changed, deleted; by the staff alone."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from server import contacts
from server.phone import part
from tests.client import Api, Person
from tests.conftest import Backing, Cast, apart
from tests.rules import ok, refused

URL = "/api/contacts"
NUMBERS = itertools.count(10_000_000)


def number() -> str:
    """A phone number that nobody has."""
    return f"+4940{next(NUMBERS)}"


async def made(api: Api, root: Person, **fields: Any) -> Any:
    """A new contact."""
    return ok(await api.post(URL, {"name": "Carla"} | fields, as_=root), 201)["contact"]


@pytest.fixture
async def agent(cast: Cast, db: asyncpg.Pool) -> Person:
    """ben works the inbox."""
    await db.execute("UPDATE users SET role = 'agent' WHERE id = $1", cast.ben.id)
    return cast.ben


async def test_a_contact_is_made_with_a_thread_and_found_by_the_staff_alone(
    api: Api, cast: Cast, agent: Person
) -> None:
    given = {"name": " Carla ", "phoneNumber": number(), "email": "c@example.org", "notes": "Calls back.\n"}
    contact = await made(api, agent, **given, externalId=f"crm:{given['phoneNumber']}")
    told = {"name": "Carla", "notes": "Calls back.", "externalId": f"crm:{given['phoneNumber']}"}
    assert {field: contact[field] for field in (given | told)} == given | told
    assert ok(await api.get(f"{URL}/{contact['id']}", as_=agent))["contact"] == contact
    thread = ok(await api.get(f"/api/threads/{contact['threadId']}", as_=agent))["thread"]
    assert (thread["kind"], thread["title"], thread["lastSeq"]) == ("contact", "Carla", 0)
    assert (
        thread["contact"]["id"] == contact["id"] and thread["contact"]["phoneNumber"] == given["phoneNumber"]
    )
    for reply in (
        await api.get(f"{URL}/{contact['id']}", as_=cast.mallory),
        await api.post(URL, {"name": "Carla"}, as_=cast.mallory),
        await api.patch(f"{URL}/{contact['id']}", {"name": "Mine"}, as_=cast.mallory),
        await api.delete(f"{URL}/{contact['id']}", as_=cast.mallory),
        await api.get(f"{URL}?search=Carla", as_=cast.mallory),
    ):
        refused(reply, 403, "forbidden")
    refused(await api.get(f"/api/threads/{contact['threadId']}", as_=cast.mallory), 404)
    refused(await api.get(f"{URL}/{cast.ada.id}", as_=agent), 404)  # a user is no contact
    refused(await api.get(f"{URL}/{2**62}", as_=agent), 404)


async def test_a_contact_is_no_account(api: Api, cast: Cast, root: Person) -> None:
    contact = await made(api, root, name="Unfindable", email="unfindable@example.org")
    assert ok(await api.get("/api/users?search=Unfindable", as_=cast.ada))["users"] == []
    signing_in = await api.post(
        "/api/auth/login", {"email": "unfindable@example.org", "password": "password"}
    )
    refused(signing_in, 401)
    refused(await api.get(f"/api/admin/users/{contact['id']}", as_=root), 404)
    body = {"kind": "direct", "memberIds": [contact["id"]]}
    refused(await api.post("/api/threads", body, as_=cast.ada), 422)
    reply = await api.post(f"/api/threads/{cast.team}/members", {"userId": contact["id"]}, as_=cast.ada)
    refused(reply, 422 if reply.status == 422 else 404)


async def test_a_phone_number_is_known_however_it_is_written_and_one_contacts_alone(
    api: Api, root: Person
) -> None:
    digits = number()[3:]
    contact = await made(api, root, phoneNumber=f"0049 (0){digits[:3]} / {digits[3:]}")
    assert contact["phoneNumber"] == f"+49{digits}"
    refused(await api.post(URL, {"phoneNumber": f"+49-{digits}"}, as_=root), 409, "phone_taken")
    other = await made(api, root, externalId=f"x{digits}")
    assert other["phoneNumber"] is None
    for body in ({"phoneNumber": f"+49{digits}"}, {"phoneNumber": f"+49{digits}", "name": "New"}):
        refused(await api.patch(f"{URL}/{other['id']}", body, as_=root), 409, "phone_taken")
    assert ok(await api.get(f"{URL}/{other['id']}", as_=root))["contact"] == other
    refused(
        await api.post(URL, {"name": "X", "externalId": f"x{digits}"}, as_=root), 409, "external_id_taken"
    )
    refused(
        await api.patch(f"{URL}/{contact['id']}", {"externalId": f"x{digits}"}, as_=root),
        409,
        "external_id_taken",
    )


async def test_without_a_name_the_number_is_it_and_without_both_there_is_none(api: Api, root: Person) -> None:
    phone = number()
    contact = ok(await api.post(URL, {"phoneNumber": phone}, as_=root), 201)["contact"]
    assert (contact["name"], contact["phoneNumber"], contact["notes"]) == (phone, phone, "")
    for body, field in (
        ({}, "name"), ({"email": "a@b"}, "name"), ({"name": " "}, "name"), ({"name": "x" * 256}, "name"),
        ({"phoneNumber": "0151 123"}, "phoneNumber"), ({"phoneNumber": "ada"}, "phoneNumber"),
        ({"name": "X", "phoneNumber": ""}, "phoneNumber"), ({"phoneNumber": "+" + "1" * 64}, "phoneNumber"),
        ({"name": "X", "email": "nobody"}, "email"), ({"name": "X", "externalId": "x" * 256}, "externalId"),
        ({"name": "X", "notes": "x" * 10_001}, "notes"),
    ):  # fmt: skip
        details = refused(await api.post(URL, body, as_=root), 422, "invalid")["details"]
        assert set(details) == {field}, body
        assert body != {"phoneNumber": "0151 123"} or "country code" in details[field]
    refused(await api.patch(f"{URL}/{contact['id']}", {"name": None}, as_=root), 400, "wrong_type")
    refused(await api.patch(f"{URL}/{contact['id']}", {"phoneNumber": "12"}, as_=root), 422)


async def test_of_many_who_make_one_number_at_once_one_does(api: Api, root: Person) -> None:
    for _ in range(3):
        body = {"phoneNumber": number()}
        replies = await asyncio.gather(*(api.post(URL, body, as_=root) for _ in range(8)))
        assert sorted(reply.status for reply in replies) == [201] + [409] * 7
        found = ok(await api.get(URL, as_=root, params={"search": body["phoneNumber"]}))
        assert [one["phoneNumber"] for one in found["contacts"]] == [body["phoneNumber"]]


async def test_a_change_changes_what_is_given_and_null_takes_it_away(api: Api, root: Person) -> None:
    phone = number()
    contact = await made(api, root, phoneNumber=phone, email="c@example.org", externalId=phone, notes="Old.")
    url = f"{URL}/{contact['id']}"
    same = ok(await api.patch(url, {"name": "Carla", "notes": "Old."}, as_=root))["contact"]
    assert same == contact == ok(await api.patch(url, {}, as_=root))["contact"], "nor is it touched"
    changed = ok(await api.patch(url, {"email": None, "notes": "New."}, as_=root))["contact"]
    assert changed["updatedAt"] > contact["updatedAt"]
    assert changed == contact | {"email": None, "notes": "New.", "updatedAt": changed["updatedAt"]}
    bare = ok(await api.patch(url, {"phoneNumber": None, "externalId": None}, as_=root))["contact"]
    assert (bare["phoneNumber"], bare["externalId"], bare["notes"]) == (None, None, "New.")
    await made(api, root, phoneNumber=phone, externalId=phone)  # both are free again
    refused(await api.patch(f"{URL}/{2**62}", {"name": "X"}, as_=root), 404)


async def test_another_name_is_one_change_of_the_thread_and_told_at_once(
    api: Api, root: Person, db: asyncpg.Pool
) -> None:
    contact = await made(api, root)
    thread, url = contact["threadId"], f"{URL}/{contact['id']}"
    async with api.stream(thread, root) as stream:
        ok(await api.patch(url, {"name": "Karla"}, as_=root))
        changed = await stream.next()
        assert changed.name == "thread_updated" and changed.id is not None
        ok(await api.patch(url, {"notes": "Nothing that a thread shows."}, as_=root))
        ok(await api.patch(url, {"name": "Karla"}, as_=root))
        ok(await api.patch(url, {"phoneNumber": (phone := number())}, as_=root))
        again = await stream.next()
        assert again.name == "thread_updated" and again.id is not None
        assert int(again.id.rpartition(".")[2]) == int(changed.id.rpartition(".")[2]) + 1
    shown = ok(await api.get(f"/api/threads/{thread}", as_=root))["thread"]
    assert (shown["title"], shown["contact"]["phoneNumber"]) == ("Karla", phone)
    assert await db.fetchval("SELECT name FROM users WHERE id = $1", contact["id"]) == "Karla"


async def test_the_thread_of_a_contact_has_no_other_name_and_no_other_end(api: Api, root: Person) -> None:
    contact = await made(api, root)
    url = f"/api/threads/{contact['threadId']}"
    await api.say(contact["threadId"], root, "hello")  # and so root is in it
    refused(await api.patch(url, {"title": "Another"}, as_=root), 409, "contact_thread")
    refused(await api.delete(url, as_=root), 409, "contact_thread")
    assert ok(await api.get(url, as_=root))["thread"]["title"] == contact["name"]


async def test_changes_that_meet_lose_nothing(api: Api, root: Person, db: asyncpg.Pool) -> None:
    contact = await made(api, root)
    url = f"{URL}/{contact['id']}"
    replies = await asyncio.gather(
        *(api.patch(url, {"name": f"Name {n}"}, as_=root) for n in range(6)),
        *(api.patch(url, {"notes": f"Note {n}"}, as_=root) for n in range(6)),
    )
    assert {reply.status for reply in replies} == {200}
    last = ok(await api.get(url, as_=root))["contact"]
    names = await db.fetchrow(
        """SELECT c.name, u.name, t.title, h.last_rev, (SELECT count(*) FROM changes WHERE thread_id = t.id)
           FROM contacts c JOIN users u ON u.id = c.id JOIN threads t ON t.id = c.thread_id
           JOIN thread_heads h ON h.thread_id = t.id WHERE c.id = $1""",
        contact["id"],
    )
    assert set(names[:3]) == {last["name"]} and names[3] == names[4] == 6
    assert last["notes"].startswith("Note")


async def test_a_deleted_contact_is_gone_with_its_thread_and_its_number_is_free(
    api: Api, root: Person, agent: Person
) -> None:
    phone = number()
    contact = await made(api, agent, phoneNumber=phone, externalId=phone)
    url, thread = f"{URL}/{contact['id']}", contact["threadId"]
    await api.say(thread, agent, "hello")
    before = ok(await api.get(f"{URL}?pageSize=1", as_=agent))["pagination"]["total"]
    async with api.stream(thread, agent) as stream:
        replies = await asyncio.gather(*(api.delete(url, as_=agent) for _ in range(4)))
        assert sorted(reply.status for reply in replies) == [204, 404, 404, 404]
        assert [event.name for event in await stream.end()] == ["thread_deleted"]
    assert ok(await api.get(f"{URL}?pageSize=1", as_=agent))["pagination"]["total"] == before - 1
    for reply in (
        await api.get(url, as_=agent),
        await api.patch(url, {"name": "Back"}, as_=agent),
        await api.get(f"/api/threads/{thread}", as_=agent),
        await api.post(f"/api/threads/{thread}/messages", {"text": "there?"}, as_=agent),
    ):
        refused(reply, 404, "not_found")
    assert ok(await api.get(URL, as_=agent, params={"search": phone}))["contacts"] == []
    again = await made(api, agent, phoneNumber=phone, externalId=phone)
    assert again["threadId"] != thread
    (entry,) = ok(await api.get(f"/api/admin/audit?act=contact.deleted&userId={agent.id}", as_=root))[
        "entries"
    ]
    assert (entry["actorId"], entry["subjectId"], entry["threadId"]) == (agent.id, contact["id"], thread)


# ---- the list ----------------------------------------------------------------------------------


async def everybody(db: asyncpg.Pool) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await db.fetch(
        "SELECT *, lower(concat_ws(chr(10), name, coalesce(phone_number, ''), coalesce(email, ''))) AS text"
        " FROM contacts WHERE deleted_at IS NULL ORDER BY lower(name), id"
    )
    return rows


async def test_pages_are_everybody_by_name_once_from_both_ends(
    api: Api, root: Person, db: asyncpg.Pool
) -> None:
    for name in ("anna", "Anna", "ANNA", "Zoë", "zoe", "李", "%", "'", "\\"):
        await made(api, root, name=name)
    gone = await made(api, root, name="Annabel")
    ok(await api.delete(f"{URL}/{gone['id']}", as_=root), 204)
    wanted = [row["id"] for row in await everybody(db)]
    for size in (2, 7, 100) if len(wanted) < 300 else (100,):  # other tests leave some
        seen: list[int] = []
        for page in range(1, -(-len(wanted) // size) + 2):
            found = ok(await api.get(f"{URL}?page={page}&pageSize={size}", as_=root))
            seen += [one["id"] for one in found["contacts"]]
            assert found["pagination"] == {
                "page": page, "pageSize": size, "total": len(wanted), "totalPages": -(-len(wanted) // size),
                "totalExact": True,
            }  # fmt: skip
        assert seen == wanted
    for query in ("page=1000000000&pageSize=100", "page=99999"):
        assert ok(await api.get(f"{URL}?{query}", as_=root))["contacts"] == []
    for query in ("page=0", "page=-1", "pageSize=0", "pageSize=101", f"page={10**10}", f"search={'x' * 101}"):
        refused(await api.get(f"{URL}?{query}", as_=root), 422)
    refused(await api.get(f"{URL}?page=one", as_=root), 400)


async def test_a_sigma_is_a_sigma_wherever_it_stands(api: Api, root: Person) -> None:
    mark = f"q{next(NUMBERS)}"
    wanted = {
        (await made(api, root, name=name))["id"]
        for name in (f"{mark} ΣΊΣΥΦΟΣ", f"{mark} Σίσυφος Β", f"{mark} ΣΊΣΥΦΟΣΑΣ")
    }
    other = (await made(api, root, name=f"{mark} Σίβυλλα"))["id"]
    for needle in ("ΣΊΣΥΦΟΣ", "σίσυφος", "Σίσυφοσ"):
        found = ok(await api.get(URL, as_=root, params={"search": f"{mark} {needle}"}))["contacts"]
        assert {one["id"] for one in found} == wanted, needle
    for needle in ("ς", "Σ", "ος", "ΟΣ"):
        found = ok(await api.get(URL, as_=root, params={"search": needle, "pageSize": 100}))["contacts"]
        assert {one["id"] for one in found if one["name"].startswith(mark)} - {other} == wanted, needle


async def test_a_needle_is_found_wherever_it_stands_and_taken_as_it_is(api: Api, root: Person) -> None:
    mark = f"q{next(NUMBERS)}q"
    phone = number()
    carla = await made(
        api, root, name=f"Carla {mark} O'Neil \\ 100%_x", phoneNumber=phone, email=f"c.{mark}@example.org"
    )
    wang = await made(api, root, name=f"王小明 {mark} ÄÖ 🧵")

    async def found(needle: str) -> list[int]:
        reply = ok(await api.get(URL, as_=root, params={"search": needle}))
        assert reply["pagination"]["total"] == len(reply["contacts"]) and reply["pagination"]["totalExact"]
        return [one["id"] for one in reply["contacts"] if one["id"] in (carla["id"], wang["id"])]

    assert await found(mark) == [carla["id"], wang["id"]] == await found(mark.upper())
    for needle in (
        f"{mark} O'N", "o'neil \\", "\\ 100%_X", f"c.{mark}@E", f"{mark}@example.org", phone, phone[3:], phone[1:],
        f"{phone[:3]} {phone[3:6]}-{phone[6:]}", f"00{phone[1:]}", f"0{phone[3:]}", f"0{phone[3:5]}/{phone[5:]}",
        f"{phone[:3]} (0){phone[3:]}",
    ):  # fmt: skip
        assert await found(needle) == [carla["id"]], needle
    for needle in ("王小明", "小明", f"明 {mark}", f"{mark} äö", "ö 🧵", "🧵"):
        assert await found(needle) == [wang["id"]], needle
    for needle in (
        f"{mark}%", f"{mark}_", f"%{mark}", f"{mark} o''neil", f"{mark} & carla", f"'{mark}'", f"{mark}:*",
        f"c.{mark}@example.com", f"{mark}{mark}", f"{phone}0", f"{mark} \\\\", "äöx🧵",
    ):  # fmt: skip
        assert await found(needle) == [], needle


async def test_a_search_equals_a_look_at_everybody(api: Api, root: Person, db: asyncpg.Pool) -> None:
    dice = random.Random(5)
    letters = "aabbÄäññ'\\%_: 1é李🧵"
    for _ in range(60):
        name = "".join(dice.choices(letters, k=dice.randint(1, 8))).strip() or "a"
        email = "".join(dice.choices("ab.ä", k=4)) + "@ab.ä" if dice.random() < 0.4 else None
        await made(api, root, name=name, email=email, phoneNumber=number() if dice.random() < 0.3 else None)
    people = await everybody(db)
    hits = 0
    for _ in range(120):
        needle = "".join(dice.choices(letters, k=dice.randint(1, 4))).strip()
        if not needle:
            continue
        reply = ok(await api.get(URL, as_=root, params={"search": needle, "pageSize": 100}))
        low, digits = needle.lower(), part(needle)
        wanted = [
            row["id"]
            for row in people
            if low in row["text"] or (digits is not None and digits in (row["phone_number"] or ""))
        ]
        assert reply["pagination"]["total"] == min(len(wanted), 1000), needle
        assert reply["pagination"]["totalExact"] == (len(wanted) <= 1000), needle
        assert [one["id"] for one in reply["contacts"]] == wanted[:100], needle
        hits += len(wanted)
    assert hits > 100, "or it would show nothing"


@pytest.fixture
async def crowd(api: Api, root: Person, db: asyncpg.Pool) -> AsyncIterator[str]:
    """1,300 contacts who have "crowd" in common: half of them stand at the end."""
    mark = f"crowd{next(NUMBERS)}"
    names = [("\ua66e " if n % 2 else "") + f"{mark} {n:04}" for n in range(1300)]
    none = dict.fromkeys(("phone_numbers", "emails", "external_ids"), [None] * 1300)
    ids = await contacts.create_many(db, names=names, notes=[""] * 1300, **none)
    yield mark
    await db.execute(
        "UPDATE contacts SET deleted_at = now() WHERE id = ANY($1::bigint[])", [row["id"] for row in ids]
    )


async def test_of_what_very_many_have_the_first_thousand_are_told(
    api: Api, root: Person, db: asyncpg.Pool, crowd: str
) -> None:
    wanted = [row["id"] for row in await everybody(db) if crowd in row["text"]]
    seen: list[int] = []
    for page in range(1, 13):
        found = ok(await api.get(URL, as_=root, params={"search": crowd, "page": page, "pageSize": 90}))
        assert found["pagination"]["total"] == 1000 and not found["pagination"]["totalExact"]
        assert found["pagination"]["totalPages"] == 12
        seen += [one["id"] for one in found["contacts"]]
    assert seen == wanted[:1000]
    found = ok(await api.get(URL, as_=root, params={"search": crowd, "page": 13, "pageSize": 90}))
    assert found["contacts"] == []
    for looks in (0, 10, 5000):  # whether the page is found among the first by name, or sorted
        row = await contacts.search(db, search=crowd, digits=None, looks=looks, most=5000, skip=40, size=3)
        assert [f'"id":{one},' in row["contacts"] for one in wanted[40:43]] == [True] * 3
        row = await contacts.search_letter(
            db, search="\ua66e", digits=None, looks=looks, most=5000, skip=0, size=1
        )
        assert (row["total"], row["exact"]) == (650, True)
        row = await contacts.search_letter(
            db, search="w", digits=None, looks=looks, most=5000, skip=999, size=1
        )
        assert (row["total"], row["exact"]) == (1000, False) and crowd in row["contacts"]


async def test_what_is_counted_is_what_is_there(api: Api, root: Person, db: asyncpg.Pool) -> None:
    await made(api, root)
    total = ok(await api.get(URL, as_=root))["pagination"]["total"]
    assert total == await db.fetchval("SELECT count(*) FROM contacts WHERE deleted_at IS NULL") > 0


async def test_where_the_country_is_told_its_numbers_are_taken(backing: Backing) -> None:
    async with apart(backing, BOBBIN_PHONE_COUNTRY_CODE="49") as (server, database_url):
        conn = await asyncpg.connect(database_url)
        api = Api(server.url)
        try:
            body = {"email": "root@example.org", "name": "Root", "password": "a long password"}
            signed_in = ok(await api.post("/api/auth/register", body), 201)
            await conn.execute("UPDATE users SET role = 'admin'")
            root = Person(signed_in["user"]["id"], "root", signed_in["accessToken"])
            contact = ok(await api.post(URL, {"phoneNumber": "(0151) 1234-5678"}, as_=root), 201)["contact"]
            assert contact["phoneNumber"] == "+4915112345678"
            file = b"phone\r\n0151 12345679\r\n"
            headers = {"Content-Type": "text/csv"}
            assert (
                ok(await api.post(f"{URL}/import", as_=root, content=file, headers=headers))["created"] == 1
            )
            found = ok(await api.get(URL, as_=root, params={"search": "0151 12345679"}))["contacts"]
            assert [one["phoneNumber"] for one in found] == ["+4915112345679"]
        finally:
            await api.close()
            await conn.close()
