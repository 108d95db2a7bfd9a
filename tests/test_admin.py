"""The accounts of the server: who may see and change them, what a deactivation ends, and who takes over."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from server import admin, members
from server.ops.explain import fill
from tests.client import NUMBERS, Api, Person
from tests.conftest import Cast, Maker, key_of
from tests.rules import dense, ok, refused, until, waits_for_a_lock
from tests.test_queries import GROWING, nodes

PASSWORD = "correct horse battery"
WITHIN_SECONDS = 1.0  # every worker knows of an end by then


async def registered(api: Api, name: str) -> tuple[Person, dict[str, Any]]:
    """Somebody with a password, signed in, and what was answered."""
    handle = f"{name}{next(NUMBERS)}"
    body = {"email": f"{handle}@example.org", "name": name, "username": handle, "password": PASSWORD}
    signed_in = ok(await api.post("/api/auth/register", body), 201)
    return Person(signed_in["user"]["id"], name, signed_in["accessToken"]), signed_in


async def managed(api: Api, root: Person, who: Person) -> Any:
    return ok(await api.get(f"/api/admin/users/{who.id}", as_=root))["user"]


async def set_out(api: Api, root: Person, who: Person, *, active: bool = False) -> Any:
    return ok(await api.patch(f"/api/admin/users/{who.id}", {"active": active}, as_=root))["user"]


@contextlib.asynccontextmanager
async def shut_out(api: Api, *people: Person) -> AsyncIterator[None]:
    """Whoever is let in by every worker before is let in by none a second after: asked over many connections."""
    clients = [Api(api.base) for _ in range(8)]

    async def refused_soon(client: Api, who: Person, since: float) -> None:
        while (status := (await client.get("/api/me", as_=who)).status) == 200:
            assert time.monotonic() - since < WITHIN_SECONDS
        assert status == 401

    try:
        for client, who in itertools.product(clients, people):
            ok(await client.get("/api/me", as_=who))
        yield
        since = time.monotonic()
        await asyncio.gather(*(refused_soon(c, who, since) for c, who in itertools.product(clients, people)))
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def out(api: Api, who: Person) -> None:
    """Wait until a worker refuses them."""

    async def is_refused() -> bool:
        return (await api.get("/api/me", as_=who)).status == 401

    await until(is_refused, "out")


# ---- who may


@pytest.mark.parametrize(("role", "status"), [("member", 403), ("agent", 403), ("admin", 200)])
async def test_admins_see_and_change_accounts_and_nobody_else(
    api: Api, cast: Cast, db: asyncpg.Pool, role: str, status: int
) -> None:
    await db.execute("UPDATE users SET role = $1 WHERE id = $2", role, cast.ada.id)
    ben = f"/api/admin/users/{cast.ben.id}"
    for path in ("/api/admin/users", ben, "/api/admin/keys", "/api/admin/audit"):
        assert (await api.get(path, as_=cast.ada)).status == status
        refused(await api.get(path), 401)
    assert (await api.patch(ben, {"name": "Benjamin"}, as_=cast.ada)).status == status
    name = await db.fetchval("SELECT name FROM users WHERE id = $1", cast.ben.id)
    assert name == ("Benjamin" if status == 200 else "ben")


async def test_neither_bots_nor_hosts_administer(api: Api, cast: Cast, root: Person) -> None:
    for kind, code in (("bot", "forbidden"), ("host", "wrong_key")):
        key = await key_of(api, root, kind)
        refused(await api.get("/api/admin/users", as_=key), 403, code)
        refused(await api.patch(f"/api/admin/users/{cast.ben.id}", {"role": "agent"}, as_=key), 403, code)


async def test_a_role_is_asked_anew_for_each_call(api: Api, cast: Cast, root: Person) -> None:
    refused(await api.get("/api/admin/users", as_=cast.ada), 403)
    ok(await api.patch(f"/api/admin/users/{cast.ada.id}", {"role": "admin"}, as_=root))
    ok(await api.get("/api/admin/users", as_=cast.ada))
    ok(await api.patch(f"/api/admin/users/{cast.ada.id}", {"role": "agent"}, as_=root))
    refused(await api.get("/api/admin/users", as_=cast.ada), 403, "forbidden")


# ---- the list


async def test_an_account_is_seen_whole(api: Api, root: Person) -> None:
    grace, signed_in = await registered(api, "Grace")
    user = await managed(api, root, grace)
    assert user == {
        "id": grace.id, "email": signed_in["user"]["email"], "username": signed_in["user"]["username"],
        "name": "Grace", "kind": "user", "role": "member", "active": True,
        "createdAt": user["createdAt"], "lastSeenAt": user["createdAt"],
    }  # fmt: skip
    refused(await api.get(f"/api/admin/users/{10**12}", as_=root), 404)


async def test_accounts_are_found_by_any_part_of_a_name_role_and_state(
    api: Api, db: asyncpg.Pool, root: Person
) -> None:
    mark = f"q{next(NUMBERS)}q"
    rows = await db.fetch(
        """INSERT INTO users (name, username, email, role, deactivated_at)
           VALUES ('Zoë ' || $1::text, $1 || '.one', NULL, 'agent', NULL), ('Two', $1 || 'TWO', NULL, 'member', now()),
                  ('Three', NULL, $1 || '%_@example.org', 'member', NULL), ('Four', NULL, NULL, 'agent', NULL)
           RETURNING id""",
        mark,
    )
    one, two, three, four = [row["id"] for row in rows]

    async def found(**asked: str) -> list[int]:
        page = ok(await api.get("/api/admin/users", as_=root, params=asked))
        assert page["nextCursor"] is None
        return [user["id"] for user in page["users"]]

    assert await found(search=mark.upper()) == [one, two, three]
    assert await found(search=f"zOË {mark}") == [one]
    assert await found(search=f"{mark}%_") == [three]
    assert await found(search=f"{mark}_") == []
    assert await found(search=f"{mark} {mark}") == [], "no match across two of the names"
    assert await found(search=mark, role="agent") == [one]
    assert await found(search=mark, role="member") == [two, three]
    assert await found(search=mark, active="false") == [two]
    assert await found(search=mark, active="true") == [one, three]
    assert await found(search=mark, active="false", role="agent") == []
    assert four in await found(role="agent", limit="100") and two in await found(active="false", limit="100")


async def test_pages_of_accounts_hold_each_once(api: Api, people: Maker, root: Person) -> None:
    mark = f"paged{next(NUMBERS)}"
    made = [(await people(mark)).id for _ in range(7)]
    seen, cursor = [], ""
    while True:
        page = ok(await api.get(f"/api/admin/users?search={mark}&limit=3{cursor}", as_=root))
        seen.append([user["id"] for user in page["users"]])
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert seen == [made[:3], made[3:6], made[6:]]
    refused(await api.get(f"/api/admin/users?search=other{cursor}", as_=root), 400, "bad_cursor")


async def test_a_page_looks_at_so_many_accounts_and_then_goes_on(
    db: asyncpg.Pool, people: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "LOOKED_AT", 4)
    mark = f"rare{next(NUMBERS)}"
    after_id: int | None = (await people("before")).id
    for _ in range(9):
        await people("common")
    rare = await people(mark)
    pages = []
    while after_id is not None:
        found, after_id = await admin.accounts(
            db, search=mark, role=None, active=None, after_id=after_id, size=50
        )
        pages.append(len(found))
    assert pages[:2] == [0, 0] and sum(pages) == 1 and len(pages) == 3
    assert str(rare.id) in found[0]


@pytest.fixture(scope="module")
async def town(db_url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(db_url, server_settings={"random_page_cost": "1.1", "jit": "off"})
    await fill(conn)
    yield conn
    await conn.close()


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("active", [None, True, False])
@pytest.mark.parametrize("role", [None, "admin", "agent", "member"])
@pytest.mark.parametrize("search", [None, "erson 49"])
async def test_each_combination_of_filters_is_prepared_and_walks_an_index(
    town: asyncpg.Connection, search: str | None, role: Any, active: bool | None, mode: str
) -> None:
    asked = admin.listing(search=search, role=role, active=active, after_id=0, size=50)
    wanted = (
        "users_deactivated"
        if active is False
        else "users_staff"
        if role in ("admin", "agent")
        else "users_people"
    )
    assert (asked.looked_to is None) == (
        search is None and active is not True and (role is None or wanted == "users_staff")
    )
    for text in filter(None, (asked.page, asked.looked_to)):
        values = asked.values if text is asked.page else asked.values[:1]
        assert len((await town.prepare(text)).get_parameters()) == len(values)
        given = ", ".join("'" + str(value) + "'" for value in values)
        types = ", ".join(["bigint", "bigint", "text"][: len(values)])
        async with town.transaction():
            await town.execute(f"SET LOCAL plan_cache_mode = {mode}")
            await town.execute(f"PREPARE asked ({types}) AS {text}")
            said = await town.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked({given})")
            await town.execute("DEALLOCATE asked")
        found = list(nodes(json.loads(said)[0]["Plan"]))
        assert not {n["Relation Name"] for n in found if n["Node Type"] == "Seq Scan"} & GROWING
        assert wanted in {node.get("Index Name") for node in found}
    assert len(await town.fetch(asked.page, *asked.values)) <= 51


# ---- changes


async def test_a_change_changes_what_is_given(api: Api, cast: Cast, root: Person) -> None:
    url = f"/api/admin/users/{cast.ben.id}"
    before = await managed(api, root, cast.ben)
    assert ok(await api.patch(url, {}, as_=root))["user"] == before
    assert ok(await api.patch(url, {"name": " Benny "}, as_=root))["user"] == before | {"name": "Benny"}
    changed = ok(await api.patch(url, {"role": "agent"}, as_=root))["user"]
    assert changed == before | {"name": "Benny", "role": "agent"} == await managed(api, root, cast.ben)
    assert ok(await api.get("/api/me", as_=cast.ben))["user"]["role"] == "agent"
    refused(await api.patch(f"/api/admin/users/{10**12}", {"name": "x"}, as_=root), 404)
    refused(await api.patch(url, {"name": " "}, as_=root), 422)
    refused(await api.patch(url, {"role": "king"}, as_=root), 422)
    acts = ok(await api.get(f"/api/admin/audit?userId={cast.ben.id}&act=user.", as_=root))["entries"]
    assert [(entry["act"], entry["details"]) for entry in acts] == [
        ("user.role", {"was": "member", "to": "agent"}), ("user.renamed", {"to": "Benny"}),
    ]  # fmt: skip
    assert all(entry["actorId"] == root.id for entry in acts)


async def test_neither_a_bot_nor_a_guest_becomes_admin(api: Api, root: Person) -> None:
    bot, host = await key_of(api, root, "bot"), await key_of(api, root, "host")
    guest = ok(await api.post("/api/host/tokens", {"externalId": "1", "name": "Guest"}, as_=host))["user"][
        "id"
    ]
    for user_id in (bot.id, host.id, guest):
        url = f"/api/admin/users/{user_id}"
        refused(await api.patch(url, {"role": "admin"}, as_=root), 409, "not_a_person")
        refused(await api.post(f"{url}/password", {"new": "12345678"}, as_=root), 409, "not_a_person")
        assert ok(await api.patch(url, {"role": "agent"}, as_=root))["user"]["role"] == "agent"


async def only(db: asyncpg.Pool, *admins: Person) -> None:
    """These are the admins of the server, and nobody else."""
    await db.execute("UPDATE users SET role = 'member' WHERE role = 'admin'")
    await db.execute("UPDATE users SET role = 'admin' WHERE id = ANY($1)", [one.id for one in admins])


async def test_the_last_active_admin_stays_admin(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    await only(db, cast.ada, cast.ben)
    ok(await api.patch(f"/api/admin/users/{cast.ben.id}", {"active": False}, as_=cast.ada))
    url = f"/api/admin/users/{cast.ada.id}"
    for change in ({"role": "member"}, {"role": "agent"}, {"active": False}, {"active": False, "name": "x"}):
        refused(await api.patch(url, change, as_=cast.ada), 409, "last_admin")
    assert ok(await api.patch(url, {"role": "admin", "active": True, "name": "Ada"}, as_=cast.ada))
    ok(await api.patch(f"/api/admin/users/{cast.mallory.id}", {"role": "admin"}, as_=cast.ada))
    assert ok(await api.patch(url, {"role": "member"}, as_=cast.ada))["user"]["role"] == "member"


@pytest.mark.parametrize("change", [{"role": "member"}, {"active": False}])
async def test_of_two_admins_who_put_each_other_out_one_remains(
    api: Api, people: Maker, db: asyncpg.Pool, change: dict[str, Any]
) -> None:
    for others in ([], [await people("third")]):
        one, two = await people("one"), await people("two")
        await only(db, one, two, *others)
        for _ in range(3):
            replies = await asyncio.gather(
                api.patch(f"/api/admin/users/{two.id}", change, as_=one),
                api.patch(f"/api/admin/users/{one.id}", change, as_=two),
            )
            assert sorted(reply.status for reply in replies)[0] == 200
            assert sum(reply.status == 200 for reply in replies) == 1, (
                "the one that came second is no admin any more"
            )
            assert next(r.status for r in replies if r.status != 200) in (401, 403, 409)
            left = await db.fetchval(
                "SELECT count(*) FROM users WHERE role = 'admin' AND deactivated_at IS NULL"
            )
            assert left == 1 + len(others)
            one, two = await people("one"), await people("two")
            await only(db, one, two, *others)


# ---- out


async def test_who_is_deactivated_is_out_of_everything_within_a_second(
    api: Api, cast: Cast, root: Person
) -> None:
    grace, signed_in = await registered(api, "Grace")
    team = await api.thread(grace, cast.ben)
    login = {"email": signed_in["user"]["email"], "password": PASSWORD}
    ok(await api.post("/api/auth/login", login))
    ticket = ok(await api.post("/api/auth/stream-token", as_=grace))["token"]
    bot = await key_of(api, root, "bot")
    streams = contextlib.AsyncExitStack()
    async with streams:
        open_ = [await streams.enter_async_context(api.stream(team, grace)) for _ in range(6)]
        async with shut_out(api, grace, bot):
            assert (await set_out(api, root, grace))["active"] is False
            await set_out(api, root, bot)
        async with asyncio.timeout(WITHIN_SECONDS):
            for stream in open_:
                await stream.end()
    refused(await api.post("/api/auth/refresh", {"refreshToken": signed_in["refreshToken"]}), 401)
    refused(await api.get(f"/api/threads/{team}/stream?token={ticket}"), 401)
    refused(await api.post("/api/auth/login", login), 403, "deactivated")
    refused(await api.post("/api/auth/login", login | {"password": "wrong"}), 401, "wrong_credentials")
    assert bot.session_id not in {
        key["id"] for key in ok(await api.get("/api/admin/keys?limit=100", as_=root))["keys"]
    }
    assert (await set_out(api, root, grace, active=True))["active"] is True
    back = ok(await api.post("/api/auth/login", login))
    ok(await api.get("/api/me", as_=Person(grace.id, "Grace", back["accessToken"])))
    refused(await api.get("/api/me", as_=grace), 401, "session_ended")
    refused(await api.post("/api/auth/refresh", {"refreshToken": signed_in["refreshToken"]}), 401)


async def test_a_sign_in_that_races_a_deactivation_is_refused_or_ended(api: Api, root: Person) -> None:
    for _ in range(3):
        grace, signed_in = await registered(api, "Grace")
        login = {"email": signed_in["user"]["email"], "password": PASSWORD}
        refresh = {"refreshToken": signed_in["refreshToken"]}
        replies = await asyncio.gather(
            *(api.post("/api/auth/login", login) for _ in range(4)),
            api.post("/api/auth/refresh", refresh),
            set_out(api, root, grace),
        )
        opened = [reply.json for reply in replies[:-1] if reply.status == 200]
        assert all(reply.status in (200, 401, 403) for reply in replies[:-1])
        for one in opened:
            who = Person(grace.id, "Grace", one["accessToken"])
            await out(api, who)
            refused(await api.post("/api/auth/refresh", {"refreshToken": one["refreshToken"]}), 401)


async def test_a_new_password_ends_all_sessions(api: Api, cast: Cast, root: Person) -> None:
    grace, signed_in = await registered(api, "Grace")
    login = {"email": signed_in["user"]["email"], "password": PASSWORD}
    url = f"/api/admin/users/{grace.id}/password"
    refused(await api.post(url, {"new": "1234567"}, as_=root), 422)
    refused(await api.post(f"/api/admin/users/{10**12}/password", {"new": "12345678"}, as_=root), 404)
    async with shut_out(api, grace):
        ok(await api.post(url, {"new": "another password"}, as_=root), 204)
    refused(await api.post("/api/auth/refresh", {"refreshToken": signed_in["refreshToken"]}), 401)
    refused(await api.post("/api/auth/login", login), 401, "wrong_credentials")
    ok(await api.post("/api/auth/login", login | {"password": "another password"}))
    (entry, *_) = ok(await api.get(f"/api/admin/audit?userId={grace.id}&act=password.set", as_=root))[
        "entries"
    ]
    assert (entry["actorId"], entry["subjectId"], entry["details"]) == (root.id, grace.id, {})


# ---- what they leave behind


async def roles(api: Api, thread_id: int, as_: Person) -> dict[int, str]:
    page = ok(await api.get(f"/api/threads/{thread_id}/members?limit=100", as_=as_))
    return {member["userId"]: member["role"] for member in page["members"]}


async def admin_soon(api: Api, thread_id: int, who: Person) -> None:
    async def so() -> bool:
        return (await roles(api, thread_id, who)).get(who.id) == "admin"

    await until(so, "the new admin")


async def test_a_thread_whose_only_admin_is_deactivated_gets_another(
    api: Api, people: Maker, root: Person, db: asyncpg.Pool
) -> None:
    ada, old, gone, mod, other = [await people(name) for name in ("ada", "old", "gone", "mod", "other")]
    team, channel = await api.thread(ada, old, gone, mod, other), await api.thread(ada, old, other)
    shared, alone = await api.thread(ada, old, other), await api.thread(ada)
    for who in (gone, mod):
        ok(await api.patch(f"/api/threads/{team}/members/{who.id}", {"role": "moderator"}, as_=ada))
    ok(await api.patch(f"/api/threads/{shared}/members/{other.id}", {"role": "admin"}, as_=ada))
    direct = await api.thread(ada, old, kind="direct")
    await set_out(api, root, gone)
    async with api.stream(team, mod) as stream:
        await set_out(api, root, ada)
        change = await stream.next()
        assert (change.name, change.data["act"], change.data["userId"], change.data["role"]) == (
            "member", "role", mod.id, "admin",
        )  # fmt: skip
    await admin_soon(api, channel, old)
    assert (await roles(api, team, mod))[old.id] == "member"
    assert (await roles(api, shared, other))[old.id] == "member"
    assert set((await roles(api, direct, old)).values()) == {"member"}
    for thread_id in (team, channel, shared, alone):
        await dense(db, thread_id)
    ok(await api.delete(f"/api/threads/{team}/members/{other.id}", as_=mod), 204)
    (entry,) = ok(await api.get(f"/api/admin/audit?userId={mod.id}&act=member.role&limit=1", as_=root))[
        "entries"
    ]
    assert (entry["threadId"], entry["subjectId"]) == (team, mod.id)


async def test_a_hand_over_that_was_cut_off_is_done_by_the_next_deactivation(
    api: Api, cast: Cast, root: Person, db: asyncpg.Pool
) -> None:
    await db.execute("UPDATE users SET deactivated_at = now() WHERE id = $1", cast.ada.id)
    assert (await roles(api, cast.team, cast.ben))[cast.ben.id] == "member"
    await set_out(api, root, cast.ada)
    await admin_soon(api, cast.team, cast.ben)
    acts = ok(await api.get(f"/api/admin/audit?userId={cast.ada.id}&act=user.", as_=root))["entries"]
    assert acts == [], "they were out already"


Trio = tuple[Person, Person, Person, int]


@pytest.fixture
async def trio(api: Api, people: Maker) -> Trio:
    """ada, the admin of a team, ben who was there before carol, and the team."""
    ada, ben, carol = [await people(name) for name in ("ada", "ben", "carol")]
    return ada, ben, carol, await api.thread(ada, ben, carol)


async def test_an_heir_who_is_just_being_deactivated_is_passed_over(
    api: Api, trio: Trio, root: Person, db: asyncpg.Pool
) -> None:
    ada, ben, carol, team = trio
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE users SET deactivated_at = now() WHERE id = $1", ben.id)
        await set_out(api, root, ada)
        await waits_for_a_lock(db, "admin.heir")
    await admin_soon(api, team, carol)
    await dense(db, team)


async def test_of_those_who_are_deactivated_at_once_none_keeps_a_thread(
    api: Api, people: Maker, root: Person, db: asyncpg.Pool
) -> None:
    everybody = [await people(f"p{n}") for n in range(5)]
    team = await api.thread(*everybody)
    await asyncio.gather(*(set_out(api, root, who) for who in everybody[:-1]))
    await admin_soon(api, team, everybody[-1])
    await dense(db, team)


async def test_an_heir_who_is_just_leaving_is_passed_over(
    api: Api, trio: Trio, root: Person, db: asyncpg.Pool
) -> None:
    ada, ben, carol, team = trio
    async with db.acquire() as conn, conn.transaction():
        await members.hold_members(conn, thread_id=team, user_ids=(ben.id,))
        await set_out(api, root, ada)
        await waits_for_a_lock(db, "members.hold_members")
        await members.close_span(conn, thread_id=team, member_id=ben.id, act="left")
    await admin_soon(api, team, carol)
    await dense(db, team)


async def test_an_admin_who_is_just_leaving_does_not_count(
    api: Api, trio: Trio, root: Person, db: asyncpg.Pool
) -> None:
    ada, ben, carol, team = trio
    ok(await api.patch(f"/api/threads/{team}/members/{ben.id}", {"role": "admin"}, as_=ada))
    async with db.acquire() as conn, conn.transaction():
        await members.hold_members(conn, thread_id=team, user_ids=(ben.id,))
        await members.hold_head(conn, thread_id=team)
        await members.close_span(conn, thread_id=team, member_id=ben.id, act="left")
        await set_out(api, root, ada)
        await waits_for_a_lock(db, "members.hold_head")
    await admin_soon(api, team, carol)
    await dense(db, team)


async def test_a_deactivated_admin_does_not_count_when_the_last_active_one_leaves(
    api: Api, cast: Cast, root: Person
) -> None:
    team = await api.thread(cast.ada, cast.ben, cast.mallory)
    ok(await api.patch(f"/api/threads/{team}/members/{cast.ben.id}", {"role": "admin"}, as_=cast.ada))
    await set_out(api, root, cast.ada)
    refused(await api.post(f"/api/threads/{team}/leave", as_=cast.ben), 409, "last_admin")
    await set_out(api, root, cast.mallory)
    ok(await api.post(f"/api/threads/{team}/leave", as_=cast.ben), 204)  # nobody is left who could come in
