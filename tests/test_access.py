"""Who may call what: each row of ROUTES, for everybody there is.

ada is the admin of the team, ben a member of it. Whoever asks is one more: see WHO. Each cell of the table has
people and a thread of its own, so that it asks the very route, and succeeds where it may.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from server.base.access import digest
from server.routes import ROUTES, Route
from tests.client import Api, Person
from tests.conftest import Cast
from tests.rules import asked_of, ok, url_of
from tests.staff import contact, says
from tests.test_hostile import BODIES
from tests.test_routes import minted

# Of a row's group; a bot is a member of it, and so is `staff`, an admin of the server. A host is an application's key.
WHO = ("outsider", "member", "moderator", "admin", "removed", "bot", "staff", "host")
# These are let in nowhere: 401 wherever one must be signed in.
NOBODY = ("anonymous", "expired", "ended", "deactivated")

T = "/api/threads/<thread_id:id>"
MINE = "200 200 200 200 200 200 200 403"  # what everybody has of their own
READS = "404 200 200 200 404 200 200 403"  # whoever is in
ACTS = READS.replace("200", "204")
STAFF = "403 403 403 403 403 403 200 403"

WANTED = {
    "GET /livez": "200 200 200 200 200 200 200 200",
    "GET /readyz": "200 200 200 200 200 200 200 200",
    "GET /healthz": "200 200 200 200 200 200 200 200",
    "GET /openapi.json": "200 200 200 200 200 200 200 200",
    "GET /docs": "200 200 200 200 200 200 200 200",
    "POST /api/auth/register": "201 201 201 201 201 201 201 201",
    "POST /api/auth/login": "401 401 401 401 401 401 401 401",  # with another's password
    "POST /api/auth/refresh": "401 401 401 401 401 401 401 401",
    "POST /api/auth/logout": "204 204 204 204 204 403 204 403",
    "GET /api/auth/sessions": "200 200 200 200 200 403 200 403",
    "DELETE /api/auth/sessions/<session_id:id>": "404 404 404 404 404 403 404 403",  # ada's
    "POST /api/auth/stream-token": MINE,
    "GET /api/me": MINE,
    "PATCH /api/me": MINE,
    "POST /api/me/password": "403 403 403 403 403 403 403 403",  # with a wrong one
    "GET /api/me/blocks": MINE,
    "GET /api/me/blocks/<other_id:id>": "404 404 404 404 404 404 404 403",
    "PUT /api/me/blocks/<other_id:id>": "204 204 204 204 204 204 204 403",
    "DELETE /api/me/blocks/<other_id:id>": "204 204 204 204 204 204 204 403",
    "GET /api/users": MINE,
    "GET /api/channels": MINE,
    "GET /api/search": MINE,
    "GET /api/threads": MINE,
    "POST /api/threads": "201 201 201 201 201 201 201 403",
    "GET /api/admin/users": STAFF,
    "GET /api/admin/users/<user_id:id>": STAFF,
    "PATCH /api/admin/users/<user_id:id>": STAFF,
    "POST /api/admin/users/<user_id:id>/password": STAFF.replace("200", "204"),
    "GET /api/admin/keys": STAFF,
    "POST /api/admin/keys": STAFF.replace("200", "201"),
    "DELETE /api/admin/keys/<key_id:id>": STAFF.replace("200", "204"),
    "GET /api/admin/audit": STAFF,
    "POST /api/host/tokens": "403 403 403 403 403 403 403 200",
    "DELETE /api/host/users/<external_id:str>/sessions": "403 403 403 403 403 403 403 204",
    "GET /api/contacts/<contact_id:id>/messages": STAFF,
    "POST /api/contacts/<contact_id:id>/messages": STAFF.replace("200", "201"),
    "GET /api/conversations": STAFF,
    "GET /api/conversations/<conversation_id:id>": STAFF,
    "PATCH /api/conversations/<conversation_id:id>": STAFF,
    "POST /api/inbound": "403 403 403 403 403 201 201 403",
    "GET /api/contacts": STAFF,
    "POST /api/contacts": STAFF.replace("200", "201"),
    "GET /api/contacts/export": STAFF,
    "POST /api/contacts/import": STAFF,
    "GET /api/contacts/<contact_id:id>": STAFF,
    "PATCH /api/contacts/<contact_id:id>": STAFF,
    "DELETE /api/contacts/<contact_id:id>": STAFF.replace("200", "204"),
    f"GET {T}": READS,
    f"PATCH {T}": "404 403 200 200 404 403 403 403",
    f"DELETE {T}": "404 403 403 204 404 403 403 403",
    f"PATCH {T}/me": READS,
    f"GET {T}/invites": "404 403 200 200 404 403 403 403",
    f"POST {T}/invites": "404 403 201 201 404 403 403 403",
    f"DELETE {T}/invites/<invite_id:id>": "404 403 204 204 404 403 403 403",
    "POST /api/invites/<token:str>/accept": "200 200 200 200 404 200 200 403",
    f"POST {T}/join": "404 404 404 404 404 404 404 403",  # a group
    f"POST {T}/leave": "404 204 204 204 404 204 204 403",
    f"GET {T}/members": READS,
    f"POST {T}/members": "404 403 201 201 404 403 403 403",
    f"PATCH {T}/members/<member_id:id>": "404 403 403 200 404 403 403 403",
    f"DELETE {T}/members/<member_id:id>": "404 403 204 204 404 403 403 403",
    f"GET {T}/messages": READS,
    f"POST {T}/messages": "404 201 201 201 404 201 201 403",
    f"GET {T}/messages/<seq:id>": READS,
    f"PATCH {T}/messages/<seq:id>": "404 403 403 403 404 403 403 403",  # ada's message
    f"DELETE {T}/messages/<seq:id>": "404 403 204 204 404 403 403 403",
    f"GET {T}/messages/<seq:id>/edits": "404 403 200 200 404 403 403 403",  # of ada's message
    f"PUT {T}/messages/<seq:id>/reactions/<emoji:str>": ACTS,
    f"DELETE {T}/messages/<seq:id>/reactions/<emoji:str>": ACTS,
    f"PUT {T}/messages/<seq:id>/pin": ACTS,
    f"DELETE {T}/messages/<seq:id>/pin": ACTS,
    f"GET {T}/pins": READS,
    f"GET {T}/presence": READS,
    f"POST {T}/typing": "404 204 204 204 404 204 204 403",
    f"GET {T}/messages/<seq:id>/receipts": READS,
    f"POST {T}/read": READS,
    f"POST {T}/delivered": READS,
    f"POST {T}/unread": READS,
    f"GET {T}/stream": READS,
    "GET /api/stream": MINE,
    "GET /api/ws": "426 426 426 426 426 426 426 403",  # without a handshake
}
ADDED = {"member": "member", "moderator": "moderator", "admin": "admin", "removed": "member", "bot": "member"}
ADDED["staff"] = "member"


@pytest.fixture
async def staff(people: Callable[[str], Awaitable[Person]], db: asyncpg.Pool) -> Person:
    """An admin of the server."""
    person = await people("staff")
    await db.execute("UPDATE users SET role = 'admin' WHERE id = $1", person.id)
    return person


async def key(api: Api, staff: Person, kind: str) -> Person:
    """A bot, or a host application, by its key."""
    made = ok(await api.post("/api/admin/keys", {"kind": kind, "name": "Keyed"}, as_=staff), 201)
    return Person(made["key"]["userId"], "keyed", made["secret"], made["key"]["id"])


@pytest.fixture
def stage(
    api: Api, people: Callable[[str], Awaitable[Person]], db: asyncpg.Pool, staff: Person
) -> Callable[[str], Awaitable[tuple[Cast, Person, dict[str, Any]]]]:
    """A cast with somebody who is `who` there, and what the places of paths lead to."""

    async def arrange(who: str) -> tuple[Cast, Person, dict[str, Any]]:
        ada, ben, mallory = [await people(name) for name in ("ada", "ben", "mallory")]
        carla = await contact(db)
        await says(db, carla, "Hello?")
        cast = Cast(ada, ben, mallory, await api.thread(ada, ben), carla)
        invite = ok(await api.post(f"/api/threads/{cast.team}/invites", {}, as_=ada), 201)["invite"]
        if who in ("bot", "host"):
            actor = await key(api, staff, who)
        else:
            actor = await people(who)
        if who == "staff":
            await db.execute("UPDATE users SET role = 'admin' WHERE id = $1", actor.id)
        if who in ADDED:
            role = {"userId": actor.id, "role": ADDED[who]}
            ok(await api.post(f"/api/threads/{cast.team}/members", role, as_=ada), 201)
        await api.say(cast.team, ada, "first")  # in the sight of whoever is in
        if who == "removed":
            ok(await api.delete(f"/api/threads/{cast.team}/members/{actor.id}", as_=ada), 204)
        places = {"invite_id": invite["id"], "token": invite["token"], "user_id": mallory.id}
        if who == "staff":
            places["key_id"] = (await key(api, staff, "bot")).session_id
        if who == "host":
            told = {"externalId": "guest", "name": "Guest"}
            ok(await api.post("/api/host/tokens", told, as_=actor))
            places["external_id"] = "guest"
        return cast, actor, places

    return arrange


async def asked(api: Api, route: Route, cast: Cast, actor: Person | None, places: dict[str, Any]) -> int:
    """The status of a good request of this route."""
    url = url_of(route, cast, **places) + asked_of(route)
    if route.access == "STREAM":  # it would not end
        headers = {"Authorization": f"Bearer {actor.token}"} if actor else {}
        async with api._client.stream("GET", url, headers=headers) as answer:
            return answer.status_code
    more: dict[str, Any] = (
        {"json": BODIES[route.name](cast)} if route.body is not None and not route.body.optional else {}
    )
    if route.media is not None:
        more = {"content": b"name\r\nCarla\r\n", "headers": {"Content-Type": route.media}}
    return (await api.ask(route.method, url, as_=actor, **more)).status


def test_every_route_is_in_the_table() -> None:
    assert set(WANTED) == {route.name for route in ROUTES}
    assert all(len(row.split()) == len(WHO) for row in WANTED.values())


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_a_route_answers_each_as_the_table_says(api: Api, stage: Any, route: Route) -> None:
    async def cell(who: str) -> str:
        cast, actor, places = await stage(who)
        return f"{who} {await asked(api, route, cast, actor, places)}"

    found = await asyncio.gather(*(cell(who) for who in WHO))
    assert found == [f"{who} {status}" for who, status in zip(WHO, WANTED[route.name].split(), strict=True)]


@pytest.fixture
async def nobodies(
    api: Api, people: Callable[[str], Awaitable[Person]], staff: Person
) -> dict[str, Person | None]:
    """Those who are let in nowhere."""
    late, ended, gone = [await people(name) for name in ("late", "ended", "gone")]
    expired = minted(late.id, sid=late.session_id, exp=int(time.time()) - 1)
    ok(await api.post("/api/auth/logout", as_=ended), 204)
    ok(await api.patch(f"/api/admin/users/{gone.id}", {"active": False}, as_=staff), 200)
    return {"anonymous": None, "expired": replace(late, token=expired), "ended": ended, "deactivated": gone}


@pytest.mark.parametrize("route", [r for r in ROUTES if r.access != "OPEN"], ids=lambda route: route.name)
async def test_a_route_is_closed_to_nobodies(
    api: Api, cast: Cast, nobodies: dict[str, Person | None], route: Route
) -> None:
    assert tuple(nobodies) == NOBODY
    for who, actor in nobodies.items():
        async with asyncio.timeout(10):  # another worker knows within the second
            while (status := await asked(api, route, cast, actor, {})) != 401:
                assert who in ("ended", "deactivated"), (who, status)


async def test_keys_and_people_show_themselves_in_no_other_way(
    api: Api, cast: Cast, staff: Person, db: asyncpg.Pool
) -> None:
    """A secret opens by its own header only; what is stored of it opens nothing."""
    bot = await key(api, staff, "bot")
    stored = await db.fetchval("SELECT encode($1, 'hex')", digest(bot.token))
    for token in (stored, bot.token[:-1], bot.token + "x", bot.token.upper(), bot.token.removeprefix("bbk_")):
        reply = await api.get("/api/me", headers={"Authorization": f"Bearer {token}"})
        assert reply.status == 401, token
    assert (await api.get("/api/me", as_=bot)).status == 200
    assert (await api.get(f"/api/threads/{cast.team}/stream?token={bot.token}")).status == 401
