"""Contact threads and the staff: seen without membership, entered by the first act, lost with the role."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from server.ops import bulk
from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.staff import Contact, contact, hire, rows, says


@pytest.fixture
async def carla(db: asyncpg.Pool, cast: Cast) -> Contact:
    """A contact, who has written twice."""
    carla = await contact(db)
    await says(db, carla, "Hello?", "Anybody there?")
    return carla


@pytest.fixture
async def agent(api: Api, people: Maker, root: Person, carla: Contact) -> Person:
    """Of the staff, since just now."""
    return await hire(api, root, await people("agent"))


Act = Callable[[Api, Contact, Person], Awaitable[Reply]]


def act(method: str, path: str, body: Any = None) -> Act:
    async def run(api: Api, one: Contact, person: Person) -> Reply:
        more = {} if body is None else {"json": body}
        return await api.ask(method, f"{one.url}{path}", as_=person, **more)

    return run


ACTS = {
    "send": (act("POST", "/messages", {"text": "Yes."}), 201),
    "edit": (
        act("PATCH", "/messages/1", {"text": "No."}),
        403,
    ),  # of the contact's words: entered, and refused
    "delete": (act("DELETE", "/messages/1"), 204),
    "react": (act("PUT", "/messages/1/reactions/%F0%9F%91%8D"), 204),
    "take back": (act("DELETE", "/messages/1/reactions/%F0%9F%91%8D"), 204),
    "pin": (act("PUT", "/messages/1/pin"), 204),
    "unpin": (act("DELETE", "/messages/1/pin"), 204),
    "read": (act("POST", "/read", {"seq": 2}), 200),
    "delivered": (act("POST", "/delivered", {"seq": 2}), 200),
    "unread": (act("POST", "/unread", {"seq": 1}), 200),
    "settings": (act("PATCH", "/me", {"muted": True}), 200),
    "typing": (act("POST", "/typing", {"isTyping": True}), 204),
}


@pytest.mark.parametrize("name", ACTS)
async def test_the_first_act_of_the_staff_enters_and_others_find_nothing(
    api: Api, db: asyncpg.Pool, cast: Cast, agent: Person, carla: Contact, name: str
) -> None:
    run, status = ACTS[name]
    assert await rows(db, carla) == {carla.id}
    done, refused = await run(api, carla, agent), await run(api, carla, cast.mallory)
    assert (done.status, refused.status) == (status, 404), done.body
    assert await rows(db, carla) == {carla.id, agent.id}
    assert (await run(api, carla, agent)).status == status  # with the row


READS = (
    "",
    "/messages",
    "/messages/2",
    "/pins",
    "/members",
    "/messages/2/receipts",
    "/presence",
    "/messages/2/edits",
)


@pytest.mark.parametrize("path", READS)
async def test_a_read_makes_nobody_a_member(
    api: Api, db: asyncpg.Pool, cast: Cast, agent: Person, carla: Contact, path: str
) -> None:
    seen, refused = [await api.get(carla.url + path, as_=one) for one in (agent, cast.ben)]
    assert (seen.status, refused.status) == (200, 404), seen.body
    assert await rows(db, carla) == {carla.id}


@pytest.mark.parametrize("call", [
    ("PATCH", "", {"title": "Renamed"}),
    ("DELETE", "", None),
    ("POST", "/join", None),
    ("POST", "/leave", None),
    ("POST", "/invites", {}),
    ("GET", "/invites", None),
    ("DELETE", "/invites/1", None),
    ("POST", "/members", "mallory"),
    ("PATCH", "/members/{ben}", {"role": "member"}),
    ("DELETE", "/members/{ben}", None),
], ids=lambda call: f"{call[0]} {call[1]}")  # fmt: skip
@pytest.mark.parametrize("entered", [False, True])
async def test_nobody_is_let_into_a_contact_thread_or_out_of_it(
    api: Api, db: asyncpg.Pool, cast: Cast, agent: Person, carla: Contact, call: Any, entered: bool
) -> None:
    method, path, body = call
    if entered:
        await api.say(carla.thread, agent, "I am here.")
    before = await rows(db, carla)
    if body == "mallory":
        body = {"userId": cast.mallory.id}
    run = act(method, path.format(ben=cast.ben.id), body)
    refused, unknown = await run(api, carla, agent), await run(api, carla, cast.ben)
    assert (refused.status, refused.json["code"]) == (409, "contact_thread")
    assert (unknown.status, unknown.json["code"]) == (404, "not_found")
    assert await rows(db, carla) == before
    thread = (await api.get(carla.url, as_=agent)).json["thread"]
    assert (thread["title"], thread["memberCount"]) == ("Carla", 0)


async def test_a_contact_is_no_account(
    api: Api, db: asyncpg.Pool, cast: Cast, root: Person, agent: Person, carla: Contact
) -> None:
    """Not found, listed, changed, blocked, invited or written to as a person is."""
    name = f"Carla {carla.id}"
    await db.execute("UPDATE users SET name = $2 WHERE id = $1", carla.id, name)
    found = await api.get(f"/api/users?search={name}", as_=agent)
    assert found.json["users"] == []
    for question in (f"search={name}", f"search={name}&active=false", f"search={name}&role=member"):
        listed = await api.get(f"/api/admin/users?{question}", as_=root)
        assert listed.json == {"users": [], "nextCursor": None}
    account = f"/api/admin/users/{carla.id}"
    for reply in (
        await api.get(account, as_=root),
        await api.patch(account, {"active": True}, as_=root),
        await api.patch(account, {"role": "admin"}, as_=root),
        await api.post(f"{account}/password", {"new": "correct horse battery"}, as_=root),
        await api.ask("PUT", f"/api/me/blocks/{carla.id}", as_=agent),
    ):
        assert (reply.status, reply.json["code"]) == (404, "not_found"), reply.body
    direct = await api.post("/api/threads", {"kind": "direct", "memberIds": [carla.id]}, as_=agent)
    group = await api.post("/api/threads", {"title": "Us", "memberIds": [carla.id]}, as_=agent)
    added = await api.post(f"/api/threads/{cast.team}/members", {"userId": carla.id}, as_=cast.ada)
    assert [reply.status for reply in (direct, group, added)] == [422] * 3


async def test_members_are_those_of_the_staff_who_have_done_something(
    api: Api, db: asyncpg.Pool, agent: Person, root: Person, carla: Contact
) -> None:
    assert (await api.get(f"{carla.url}/members", as_=agent)).json == {"members": [], "nextCursor": None}
    await api.say(carla.thread, root, "I am.")
    await api.say(carla.thread, agent, "So am I.")
    first = (await api.get(f"{carla.url}/members?limit=1", as_=agent)).json
    rest = (await api.get(f"{carla.url}/members?cursor={first['nextCursor']}", as_=agent)).json
    told = [(one["userId"], one["role"]) for one in first["members"] + rest["members"]]
    assert told == sorted([(root.id, "moderator"), (agent.id, "moderator")]) and rest["nextCursor"] is None
    changes = await db.fetch("SELECT kind FROM changes WHERE thread_id = $1", carla.thread)
    assert {row["kind"] for row in changes} == {"message"}


async def test_the_status_of_a_reply_is_how_far_the_contact_has_come(
    api: Api, db: asyncpg.Pool, agent: Person, root: Person, carla: Contact
) -> None:
    said = await api.say(carla.thread, agent, "Yes?")
    message = f"{carla.url}/messages/{said['seq']}"
    await api.post(f"{carla.url}/read", {"seq": said["seq"]}, as_=root)
    assert (await api.get(message, as_=agent)).json["message"]["status"] == "sent"
    await db.execute(
        "UPDATE memberships SET delivered_seq = 3, delivered_at = now() WHERE thread_id = $1 AND user_id = $2",
        carla.thread,
        carla.id,
    )
    assert (await api.get(message, as_=agent)).json["message"]["status"] == "delivered"
    people = [one["userId"] for one in (await api.get(f"{message}/receipts", as_=agent)).json["delivered"]]
    assert people == sorted([carla.id, root.id])


async def test_whoever_loses_the_role_is_out_at_once_and_their_cursors_are_forgotten(
    api: Api, db: asyncpg.Pool, cast: Cast, agent: Person, root: Person, carla: Contact
) -> None:
    await api.post(f"/api/threads/{cast.team}/members", {"userId": agent.id}, as_=cast.ada)
    await api.say(carla.thread, agent, "I am here.")
    await hire(api, root, agent, "admin")  # still of the staff
    assert await rows(db, carla) == {carla.id, agent.id}
    await hire(api, root, agent, "member")
    assert await rows(db, carla) == {carla.id}
    for run, _ in ACTS.values():
        assert (await run(api, carla, agent)).status == 404
    for path in READS:
        assert (await api.get(carla.url + path, as_=agent)).status == 404
    assert await rows(db, carla) == {carla.id}
    assert (await api.get(f"/api/threads/{cast.team}", as_=agent)).status == 200  # of which they are a member
    await says(db, carla, "Where are you?")
    await hire(api, root, agent)
    thread = (await api.get(carla.url, as_=agent)).json["thread"]
    assert (thread["unreadCount"], thread["lastReadSeq"], thread["role"]) == (0, 4, "moderator")
    await says(db, carla, "There!")
    assert (await api.get(carla.url, as_=agent)).json["thread"]["unreadCount"] == 1


async def test_deactivation_is_the_end_of_it_too(
    api: Api, db: asyncpg.Pool, agent: Person, root: Person, carla: Contact
) -> None:
    await api.say(carla.thread, agent, "I am here.")
    reply = await api.patch(f"/api/admin/users/{agent.id}", {"active": False}, as_=root)
    assert reply.status == 200 and await rows(db, carla) == {carla.id}
    await says(db, carla, "Where are you?")
    assert (await api.patch(f"/api/admin/users/{agent.id}", {"active": True}, as_=root)).status == 200
    kept = await db.fetchrow(
        "SELECT role, staff_since > created_at AS later FROM users WHERE id = $1", agent.id
    )
    assert dict(kept) == {"role": "agent", "later": True}


async def test_entering_and_losing_the_role_at_once_leave_no_membership_behind(
    api: Api, db: asyncpg.Pool, agent: Person, root: Person
) -> None:
    """However they meet: the one who comes later finds what the other has done."""
    some = [await contact(db) for _ in range(12)]
    for one in some:
        await says(db, one, "Hello?")
    for _ in range(3):
        await hire(api, root, agent)
        sends = [api.post(f"{one.url}/messages", {"text": "Yes"}, as_=agent) for one in some]
        demotion = hire(api, root, agent, "member")
        replies = await asyncio.gather(*sends[:6], demotion, *sends[6:])
        assert {reply.status for reply in replies if isinstance(reply, Reply)} <= {201, 404}
        left = await db.fetchval(
            "SELECT count(*) FROM memberships WHERE user_id = $1 AND thread_id = ANY($2::bigint[])",
            agent.id,
            [one.thread for one in some],
        )
        assert left == 0


async def test_two_devices_that_enter_at_once_are_both_in(
    api: Api, db: asyncpg.Pool, agent: Person, carla: Contact
) -> None:
    sends = [api.post(f"{carla.url}/messages", {"text": f"{n}"}, as_=agent) for n in range(8)]
    marks = [api.post(f"{carla.url}/read", {"seq": 2}, as_=agent) for _ in range(8)]
    replies = await asyncio.gather(*sends, *marks)
    assert [reply.status for reply in replies] == [201] * 8 + [200] * 8
    assert await rows(db, carla) == {carla.id, agent.id}


async def test_an_account_that_is_made_agent_has_read_what_was_there_and_not_what_comes(
    api: Api, db: asyncpg.Pool, people: Maker, root: Person, carla: Contact
) -> None:
    newcomer = await people("newcomer")
    assert (await api.get(carla.url, as_=newcomer)).status == 404
    await hire(api, root, newcomer)
    later = await contact(db, "Later")
    await says(db, later, "one", "two")
    await says(db, carla, "three")
    told = [(await api.get(one.url, as_=newcomer)).json["thread"] for one in (carla, later)]
    assert [(one["unreadCount"], one["firstUnreadSeq"], one["lastReadSeq"]) for one in told] == [
        (1, 3, 2),
        (2, 1, 0),
    ]
    sent = await api.post(f"{carla.url}/delivered", {"seq": 3}, as_=newcomer)  # enters with these cursors
    assert (sent.json["unreadCount"], sent.json["lastReadSeq"]) == (1, 2)


async def test_import_leads_into_no_contact_thread(db: asyncpg.Pool, carla: Contact) -> None:
    assert await bulk.living_channel(db, thread_id=carla.thread) is None
