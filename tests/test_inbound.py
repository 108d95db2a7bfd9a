"""What gateways hand in: once for each external id, one contact for each number, whoever asks at the same time."""

import asyncio
from typing import Any

import asyncpg
import pytest
import redis.asyncio as redis

from tests.client import LIMIT_SECONDS, NUMBERS, Api, Person
from tests.conftest import Backing, Cast, key_of
from tests.rules import dense, ok, refused, waits_for_a_lock

INBOUND = "/api/inbound"


@pytest.fixture
async def bot(api: Api, root: Person) -> Person:
    """The account of a gateway."""
    return await key_of(api, root, "bot")


def number() -> str:
    return f"+491609{next(NUMBERS):06}"


def said(phone_number: str, text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"phoneNumber": phone_number, "text": text, **more}


async def of(db: asyncpg.Pool, phone_number: str) -> asyncpg.Record:
    """The contacts of a number, and what they have said."""
    return await db.fetchrow(
        """SELECT count(DISTINCT c.id) AS contacts, min(c.thread_id) AS thread, count(m.seq) AS messages
           FROM contacts c LEFT JOIN messages m USING (thread_id) WHERE phone_number = $1""",
        phone_number,
    )


async def test_a_message_makes_its_contact_and_is_told_at_once(
    api: Api, bot: Person, root: Person, db: asyncpg.Pool
) -> None:
    phone_number = number()
    async with api.feed(root) as feed:
        written = said(
            f"{phone_number[:3]} (0){phone_number[3:6]}/{phone_number[6:]}", " Hello ", name="Carla"
        )
        made = ok(await api.post(INBOUND, written, as_=bot), 201)
        contact, message = made["contact"], made["message"]
        assert made["created"] is True
        assert (contact["name"], contact["phoneNumber"]) == ("Carla", phone_number)
        assert message["author"] == {"id": contact["id"], "name": "Carla", "kind": "contact"}
        assert (message["seq"], message["text"], message["threadId"]) == (1, "Hello", contact["threadId"])
        while (news := await feed.next()).name != "thread" or news.data["id"] != contact["threadId"]:
            pass
        assert (news.data["unreadCount"], news.data["lastMessage"]["text"]) == (1, "Hello")
    listed = ok(await api.get("/api/conversations?pageSize=1", as_=root))["conversations"][0]
    assert (listed["id"], listed["content"], listed["unreadCount"]) == (contact["threadId"], "Hello", 1)
    async with api.stream(contact["threadId"], root) as stream:
        second = ok(await api.post(INBOUND, said(phone_number, "Anybody there?"), as_=bot), 201)
        assert second["created"] is False and second["contact"]["id"] == contact["id"]
        event = await stream.next()
        assert (event.name, event.data) == ("message", second["message"])
    assert await dense(db, contact["threadId"]) == 2
    refused(await api.post(f"/api/threads/{contact['threadId']}/messages", {"text": "x"}, as_=bot), 404)


async def test_an_external_id_is_taken_once_however_many_hand_it_in(
    api: Api, bot: Person, root: Person, db: asyncpg.Pool
) -> None:
    for known in (False, True):
        phone_number = number()
        if known:
            ok(await api.post(INBOUND, said(phone_number), as_=bot), 201)
        body = said(phone_number, "Once", externalId=f"sms {phone_number}")
        replies = await asyncio.gather(*(api.post(INBOUND, body, as_=bot) for _ in range(20)))
        assert sorted(reply.status for reply in replies) == [200] * 19 + [201]
        found = [ok(reply, reply.status) for reply in replies]
        assert {(one["message"]["seq"], one["contact"]["id"]) for one in found} == {
            (1 + known, found[0]["contact"]["id"])
        }
        assert [one["created"] for one in found].count(True) == (0 if known else 1)
        row = await of(db, phone_number)
        assert (row["contacts"], row["messages"]) == (1, 1 + known)
        for other in (said(phone_number, "Twice"), said(number(), "Once")):
            reply = await api.post(INBOUND, {**other, "externalId": body["externalId"]}, as_=bot)
            assert "externalId" in refused(reply, 422, "client_id_reused")["details"]
        again = ok(await api.post(INBOUND, body | {"name": "Whatever", "text": " Once "}, as_=bot), 200)
        assert again["message"]["seq"] == 1 + known and again["created"] is False
        # Ids are those of the account that hands in.
        assert (await api.post(INBOUND, body, as_=root)).status == 201
        assert await dense(db, row["thread"]) == 2 + known


async def test_a_repetition_tells_the_message_as_it_now_is(
    api: Api, bot: Person, root: Person, db: asyncpg.Pool
) -> None:
    phone_number = number()
    body = said(phone_number, "First", externalId="a", name="Ann")
    made = ok(await api.post(INBOUND, body | {"externalId": phone_number}, as_=bot), 201)
    thread = made["contact"]["threadId"]
    ok(await api.delete(f"/api/threads/{thread}/messages/1", as_=root), 204)
    again = ok(await api.post(INBOUND, body | {"externalId": phone_number}, as_=bot))
    assert again["message"]["text"] == "" and again["message"]["deletedAt"]
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE thread_heads SET archived_seq = 1 WHERE thread_id = $1", thread)
        await conn.execute("UPDATE conversations SET archived_seq = 1 WHERE thread_id = $1", thread)
        await conn.execute("DELETE FROM messages WHERE thread_id = $1", thread)
    gone = refused(
        await api.post(INBOUND, body | {"externalId": phone_number}, as_=bot), 409, "message_archived"
    )
    assert gone["details"] == {"seq": 1} and "First" not in str(gone)
    listed = ok(await api.get(f"/api/conversations/{thread}", as_=root))["conversation"]
    assert (listed["content"], listed["author"]["kind"], listed["unreadCount"]) == ("", "contact", 0)


async def test_one_new_number_is_one_contact_whoever_is_first(
    api: Api, bot: Person, root: Person, db: asyncpg.Pool
) -> None:
    phone_number = number()
    replies = await asyncio.gather(
        *(api.post(INBOUND, said(phone_number, f"{n}"), as_=(bot, root)[n % 2]) for n in range(20))
    )
    found = [ok(reply, 201) for reply in replies]
    assert len({one["contact"]["id"] for one in found}) == 1
    assert [one["created"] for one in found].count(True) == 1
    assert sorted(one["message"]["seq"] for one in found) == list(range(1, 21))
    row = await of(db, phone_number)
    assert (row["contacts"], row["messages"]) == (1, 20)
    assert await dense(db, row["thread"]) == 20
    assert (
        ok(await api.get(f"/api/conversations/{row['thread']}", as_=root))["conversation"]["unreadCount"]
        == 20
    )


async def test_a_name_takes_the_place_of_a_number_and_of_no_name(api: Api, bot: Person, root: Person) -> None:
    phone_number = number()

    async def name(**more: Any) -> tuple[str, str]:
        found = ok(await api.post(INBOUND, said(phone_number, **more), as_=bot), 201)
        thread = ok(await api.get(f"/api/threads/{found['contact']['threadId']}", as_=root))["thread"]
        assert thread["title"] == found["contact"]["name"]
        return found["contact"]["name"], found["message"]["author"]["name"]

    assert await name() == (phone_number, phone_number)
    thread = ok(await api.get("/api/conversations?pageSize=1", as_=root))["conversations"][0]["id"]
    async with api.stream(thread, root) as stream:
        assert await name(name=" Carla ") == ("Carla", "Carla")
        renamed, message = await stream.take(2)
        assert (renamed.name, renamed.data["title"]) == ("thread_updated", "Carla")
        assert (message.name, message.data["author"]["name"]) == ("message", "Carla")
    assert await name(name="Somebody else") == ("Carla", "Carla")
    assert await name() == ("Carla", "Carla")


async def test_whoever_renames_a_contact_waits_for_no_sender_with_the_head_in_hand(
    api: Api, bot: Person, db: asyncpg.Pool
) -> None:
    phone_number = number()
    thread = ok(await api.post(INBOUND, said(phone_number), as_=bot), 201)["contact"]["threadId"]
    async with db.acquire() as conn, conn.transaction():
        # As a send by another worker does: first the membership, then the head.
        await conn.execute("SELECT FROM memberships WHERE thread_id = $1 FOR NO KEY UPDATE", thread)
        second = asyncio.ensure_future(api.post(INBOUND, said(phone_number, name="Carla"), as_=bot))
        await waits_for_a_lock(db, "messages.send")
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE NOWAIT", thread)
    found = ok(await second, 201)
    assert (found["contact"]["name"], found["message"]["seq"]) == ("Carla", 2)


async def test_a_contact_that_is_gone_is_another_one_when_the_number_writes_again(
    api: Api, bot: Person, root: Person
) -> None:
    phone_number = number()
    once = said(phone_number, "Once", externalId=f"gone {phone_number}")
    first = ok(await api.post(INBOUND, once, as_=bot), 201)
    ok(await api.delete(f"/api/contacts/{first['contact']['id']}", as_=root), 204)
    again = refused(await api.post(INBOUND, once, as_=bot), 409, "contact_gone")
    assert "Once" not in str(again) and phone_number not in str(again)
    refused(await api.post(INBOUND, once | {"text": "Twice"}, as_=bot), 422, "client_id_reused")
    second = ok(await api.post(INBOUND, said(phone_number), as_=bot), 201)
    assert second["created"] and second["contact"]["id"] != first["contact"]["id"]
    assert second["message"]["seq"] == 1


async def test_a_gateway_learns_of_a_contact_only_what_it_handed_in(
    api: Api, bot: Person, root: Person
) -> None:
    phone_number = number()
    known = {"email": "secret@example.org", "externalId": f"crm {phone_number}", "notes": "Owes us money."}
    made = ok(await api.post("/api/contacts", {"phoneNumber": phone_number, **known}, as_=root), 201)[
        "contact"
    ]
    body = said(phone_number, externalId=f"sms {phone_number}")
    wanted = {
        "id": made["id"], "threadId": made["threadId"], "name": phone_number, "phoneNumber": phone_number
    }  # fmt: skip
    assert ok(await api.post(INBOUND, body, as_=bot), 201)["contact"] == wanted
    wanted["name"] = "Carla"
    assert ok(await api.post(INBOUND, said(phone_number, name="Carla"), as_=bot), 201)["contact"] == wanted
    for _ in range(2):
        again = ok(await api.post(INBOUND, body, as_=bot))
        assert again["contact"] == wanted and again["message"]["seq"] == 1
        ok(await api.patch(f"/api/contacts/{made['id']}", {"phoneNumber": None, "notes": "x"}, as_=root))
        wanted["phoneNumber"] = None


async def test_what_cannot_be_taken_in_is_refused_and_leaves_nothing(
    api: Api, cast: Cast, bot: Person, db: asyncpg.Pool
) -> None:
    phone_number = number()
    for field, body in (
        ("text", said(phone_number, " ")),
        ("text", said(phone_number, "x" * 10_001)),
        ("text", said(phone_number, "a\x00b")),
        ("text", {"phoneNumber": phone_number}),
        ("phoneNumber", {"text": "x"}),
        ("phoneNumber", said("0160 1234567")),  # of which country?
        ("phoneNumber", said("somebody")),
        ("phoneNumber", said("+1")),
        ("phoneNumber", said("+4916\x00012345")),
        ("name", said(phone_number, name="a\x00b")),
        ("name", said(phone_number, name="x" * 256)),
        ("externalId", said(phone_number, externalId="")),
        ("externalId", said(phone_number, externalId="x" * 256)),
        ("externalId", said(phone_number, externalId="a\x00b")),
    ):
        assert field in refused(await api.post(INBOUND, body, as_=bot), 422)["details"], body
    refused(await api.post(INBOUND, said(phone_number, "x" * 300_000), as_=bot), 413)
    refused(
        await api.post(
            INBOUND, as_=bot, content=b'{"phoneNumber":"+4916012345","text":"\\ud800"}',
            headers={"Content-Type": "application/json"},
        ),
        400,
    )  # fmt: skip
    refused(await api.post(INBOUND, said(phone_number)), 401)
    refused(await api.post(INBOUND, said(phone_number), as_=cast.ada), 403)
    assert (await of(db, phone_number))["contacts"] == 0
    longest = said(phone_number, "ß" * 10_000, name="n" * 255, externalId="e" * 255)
    assert len(ok(await api.post(INBOUND, longest, as_=bot), 201)["message"]["text"]) == 10_000


async def test_a_mention_by_a_contact_reaches_the_staff(api: Api, bot: Person, root: Person) -> None:
    handle = ok(await api.get("/api/me", as_=root))["user"]["username"]
    made = ok(await api.post(INBOUND, said(number(), f"Is @{handle} there?"), as_=bot), 201)
    assert made["message"]["mentions"] == [root.id]


async def test_what_is_said_and_changed_rings_at_once(
    api: Api, backing: Backing, bot: Person, root: Person
) -> None:
    """Without it streams would tell of it all the same, at their next poll."""
    thread = ok(await api.post(INBOUND, said(phone_number := number()), as_=bot), 201)["contact"]["threadId"]
    client = redis.Redis.from_url(backing.redis_url)
    async with client.pubsub() as pubsub:
        await pubsub.psubscribe(f"bobbin:*:{thread}")

        async def rung() -> bytes:
            async with asyncio.timeout(LIMIT_SECONDS):
                while True:
                    heard = await pubsub.get_message(timeout=1.0)
                    if (
                        heard is not None
                        and heard["type"] == "pmessage"
                        and not heard["data"].startswith(b"~")
                    ):
                        return bytes(heard["data"])

        ok(await api.post(INBOUND, said(phone_number, "Ring", name="Carla"), as_=bot), 201)
        assert await rung() == b"2", "the name"
        assert b'"text":"Ring"' in await rung()
        ok(await api.patch(f"/api/conversations/{thread}", {"status": "closed"}, as_=root))
        assert await rung() == b"4"
    await client.aclose()
