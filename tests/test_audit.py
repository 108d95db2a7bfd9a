"""The audit log: read by admins, by whom and what; only ever added to."""

import asyncpg
import pytest

from tests.client import NUMBERS, Api, Person
from tests.conftest import Cast, Maker
from tests.rules import ok, refused


async def note(db: asyncpg.Pool, act: str, actor: Person | None, subject: Person | None) -> int:
    return int(
        await db.fetchval(
            """INSERT INTO audit (act, actor_id, subject_id, thread_id, address, request_id, details)
               VALUES ($1, $2, $3, 7, '203.0.113.7', 'x-1', '{"n": 1}') RETURNING id""",
            act,
            actor and actor.id,
            subject and subject.id,
        )
    )


async def ids(api: Api, root: Person, query: str) -> list[int]:
    """All that is found, through pages of two."""
    seen: list[int] = []
    cursor = ""
    while True:
        page = ok(await api.get(f"/api/admin/audit?{query}&limit=2{cursor}", as_=root))
        assert len(page["entries"]) <= 2
        seen += [entry["id"] for entry in page["entries"]]
        if page["nextCursor"] is None:
            return seen
        cursor = f"&cursor={page['nextCursor']}"


async def test_entries_are_found_by_person_and_act_newest_first(
    api: Api, cast: Cast, root: Person, db: asyncpg.Pool
) -> None:
    a, b = f"alpha{next(NUMBERS)}", f"beta{next(NUMBERS)}"
    ada, ben = cast.ada, cast.ben
    older = await note(db, "older.act", None, None)
    noted = [
        await note(db, f"{a}.one", ada, ada),
        await note(db, f"{a}.two", ada, ben),
        await note(db, f"{b}.one", ben, ada),
        await note(db, f"{a}.one", None, ben),
        await note(db, f"{a}.one", root, None),
        await note(db, f"{a}.two", ben, cast.mallory),
        await note(db, f"{a}x.one", ben, ben),
    ]

    async def found(query: str) -> list[int]:
        """As places in noted."""
        return [noted.index(one) for one in await ids(api, root, query)]

    assert await found(f"act={a}.one") == [4, 3, 0]
    assert await found(f"act={a}.") == [5, 4, 3, 1, 0]
    assert await found(f"act={a}") == []
    assert await found(f"act={b}.") == [2]
    assert await found(f"userId={ada.id}") == [2, 1, 0]
    assert await found(f"userId={ben.id}") == [6, 5, 3, 2, 1]
    assert await found(f"userId={ben.id}&act={a}.") == [5, 3, 1]
    assert await found(f"userId={ada.id}&act={a}.one") == [0]
    assert await found(f"userId={10**12}") == []
    newest = ok(await api.get("/api/admin/audit?limit=7", as_=root))
    assert [entry["id"] for entry in newest["entries"]] == noted[::-1]
    entry = newest["entries"][5]
    assert entry == {
        "id": noted[1], "at": entry["at"], "act": f"{a}.two", "actorId": ada.id, "subjectId": ben.id, "threadId": 7,
        "address": "203.0.113.7", "requestId": "x-1", "details": {"n": 1},
    }  # fmt: skip
    assert newest["nextCursor"] is not None
    rest = ok(await api.get(f"/api/admin/audit?limit=100&cursor={newest['nextCursor']}", as_=root))
    assert rest["entries"][0]["id"] == older


async def test_a_cursor_leads_on_in_its_own_list_only(
    api: Api, cast: Cast, root: Person, db: asyncpg.Pool
) -> None:
    for _ in range(3):
        await note(db, "some.act", cast.ada, None)
    url = f"/api/admin/audit?userId={cast.ada.id}&limit=1"
    cursor = ok(await api.get(url, as_=root))["nextCursor"]
    ok(await api.get(f"{url}&cursor={cursor}", as_=root))
    for other in ("/api/admin/audit?limit=1", f"{url}&act=some.", "/api/admin/keys?limit=1"):
        refused(await api.get(f"{other}&cursor={cursor}", as_=root), 400, "bad_cursor")
    refused(await api.get(f"{url}&cursor={cursor}x", as_=root), 400, "bad_cursor")


async def test_what_somebody_does_is_noted_with_its_request(api: Api, cast: Cast, root: Person) -> None:
    headers = {"X-Request-Id": "audited-1", "Authorization": f"Bearer {cast.ada.token}"}
    ok(await api.ask("DELETE", f"/api/auth/sessions/{cast.ada.session_id}", headers=headers), 204)
    (entry,) = ok(await api.get(f"/api/admin/audit?userId={cast.ada.id}&act=session.ended", as_=root))[
        "entries"
    ]
    assert (entry["actorId"], entry["subjectId"], entry["requestId"]) == (
        cast.ada.id,
        cast.ada.id,
        "audited-1",
    )
    assert (entry["details"], entry["address"]) == ({"sessionId": cast.ada.session_id}, "127.0.0.1")


async def test_admins_alone_read_it(api: Api, cast: Cast, people: Maker, root: Person) -> None:
    refused(await api.get("/api/admin/audit"), 401)
    refused(await api.get("/api/admin/audit", as_=cast.ada), 403, "forbidden")
    ok(await api.get("/api/admin/audit", as_=root))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET act = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE audit SET act = 'x' WHERE false",
    ],
)
async def test_no_entry_is_changed_or_removed(db: asyncpg.Pool, change: str) -> None:
    entry = await note(db, "kept.act", None, None)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await db.execute(change)
    assert await db.fetchval("SELECT act FROM audit WHERE id = $1", entry) == "kept.act"
