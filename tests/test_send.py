"""Promises 1 to 3: a send is durable before it is answered, happens once, and leaves the log dense."""

import asyncio
import itertools
import socket
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
import pytest

from server import members, messages
from server.messages import NewMessage, body_hash
from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused, waits_for_a_lock


async def seqs(api: Api, thread_id: int, who: Person) -> list[int]:
    """All that a thread holds for somebody, in the order of the log."""
    page = ok(await api.get(f"/api/threads/{thread_id}/messages?limit=100", as_=who))
    assert page["nextCursor"] is None
    return [message["seq"] for message in page["items"]]


def vanish(api: Api, thread_id: int, who: Person, body: dict[str, Any]) -> socket.socket:
    """Begin a send on a connection of one's own, to be closed before the answer."""
    address, content = urlsplit(api.base), orjson.dumps(body)
    conn = socket.create_connection((address.hostname or "", address.port or 0))
    conn.sendall(
        f"POST /api/threads/{thread_id}/messages HTTP/1.1\r\nHost: bobbin\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {who.token}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    return conn


# ---- 1. durable before 2xx


async def test_the_pool_of_the_server_leaves_synchronous_commit_on(db: asyncpg.Pool) -> None:
    role_or_database = await db.fetchval("SELECT count(*) FROM pg_db_role_setting")
    source = await db.fetchval("SELECT source FROM pg_settings WHERE name = 'synchronous_commit'")
    assert role_or_database == 0
    assert source not in ("client", "session"), "open_pool must not weaken a commit"


async def test_a_send_is_answered_after_its_commit_and_not_before(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    async with db.acquire() as conn:
        held = conn.transaction()
        await held.start()
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
        send = asyncio.create_task(
            api.post(f"/api/threads/{cast.team}/messages", {"text": "now"}, as_=cast.ada)
        )
        await waits_for_a_lock(db, "messages.send")
        assert not send.done()
        assert await seqs(api, cast.team, cast.ben) == []
        await held.rollback()
    message = ok(await send, 201)["message"]
    assert await db.fetchval("SELECT text FROM messages WHERE thread_id = $1 AND seq = 1", cast.team) == "now"
    assert message["seq"] == 1


async def test_a_sender_who_vanishes_while_it_commits_has_sent_once(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    body = {"text": "I must go", "clientId": "gone"}
    async with api.stream(cast.team, cast.ben) as stream, db.acquire() as conn:
        held = conn.transaction()
        await held.start()
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
        sender = vanish(api, cast.team, cast.ada, body)
        await waits_for_a_lock(db, "messages.send")
        sender.close()
        await held.rollback()
        told = await stream.next()  # the doorbell rings although nobody waits for the answer
    assert (told.name, told.data["text"]) == ("message", "I must go")
    retry = await api.post(f"/api/threads/{cast.team}/messages", body, as_=cast.ada)
    assert ok(retry, 200)["message"]["seq"] == told.data["seq"] == 1
    assert await seqs(api, cast.team, cast.ben) == [1]


async def test_a_send_whose_database_connection_dies_is_503_and_its_retry_sends_once(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    body = {"text": "again, if need be", "clientId": "once"}
    async with db.acquire() as conn:
        held = conn.transaction()
        await held.start()
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
        send = asyncio.create_task(api.post(f"/api/threads/{cast.team}/messages", body, as_=cast.ada))
        pid = await waits_for_a_lock(db, "messages.send")
        assert await db.fetchval("SELECT pg_terminate_backend($1)", pid)
        answer = await send
        await held.rollback()
    assert answer.status == 503 and answer.json["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) >= 1
    assert "terminat" not in answer.body.decode()
    assert [
        (await api.post(f"/api/threads/{cast.team}/messages", body, as_=cast.ada)).status for _ in "12"
    ] == [201, 200]
    assert await dense(db, cast.team) == 1


async def test_a_send_that_waits_while_its_author_is_removed_finds_no_thread(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    async with db.acquire() as conn, conn.transaction():
        await members.hold_members(conn, thread_id=cast.team, user_ids=(cast.ben.id,))
        await members.hold_head(conn, thread_id=cast.team)
        send = asyncio.create_task(
            api.post(f"/api/threads/{cast.team}/messages", {"text": "?"}, as_=cast.ben)
        )
        await waits_for_a_lock(db, "messages.send")
        assert await members.close_span(conn, thread_id=cast.team, member_id=cast.ben.id, act="removed")
    refused(await send, 404, "not_found")
    assert await dense(db, cast.team) == 0


async def test_a_send_that_waits_while_its_thread_is_deleted_finds_no_thread(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    async with db.acquire() as conn, conn.transaction():
        await members.hold_head(conn, thread_id=cast.team)
        send = asyncio.create_task(
            api.post(f"/api/threads/{cast.team}/messages", {"text": "?"}, as_=cast.ben)
        )
        await waits_for_a_lock(db, "messages.send")
        await conn.execute("UPDATE thread_heads SET deleted_at = now() WHERE thread_id = $1", cast.team)
    refused(await send, 404, "not_found")
    assert await dense(db, cast.team) == 0


# ---- 2. once


async def test_of_twenty_racing_sends_with_one_client_id_exactly_one_makes_the_message(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    url, body = f"/api/threads/{cast.team}/messages", {"text": "just once", "clientId": "a1"}

    async def race() -> list[Reply]:
        return await asyncio.gather(*(api.post(url, body, as_=cast.ada) for _ in range(20)))

    async with db.acquire() as conn:
        held = conn.transaction()
        await held.start()
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
        racing = asyncio.create_task(race())
        await waits_for_a_lock(db, "messages.send")
        await held.rollback()
    first = await racing
    assert sorted(reply.status for reply in first) == [200] * 19 + [201]
    assert {(reply.json["message"]["seq"], reply.json["message"]["text"]) for reply in first} == {
        (1, "just once")
    }
    assert {reply.json["message"]["clientId"] for reply in first} == {"a1"}
    assert await dense(db, cast.team) == 1

    ok(await api.patch(f"{url}/1", {"text": "edited since"}, as_=cast.ada))
    after_edit = await race()
    assert {(reply.status, reply.json["message"]["text"]) for reply in after_edit} == {(200, "edited since")}
    assert all("editedAt" in reply.json["message"] for reply in after_edit)

    ok(await api.delete(f"{url}/1", as_=cast.ada), 204)
    after_delete = await race()
    assert {(reply.status, reply.json["message"]["text"]) for reply in after_delete} == {(200, "")}
    assert all("deletedAt" in reply.json["message"] for reply in after_delete)
    assert await dense(db, cast.team) == 1


async def test_a_duplicate_that_races_on_another_worker_gets_the_message_of_the_other(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    """The other worker is a connection of our own that runs the same block, so that both surely wait."""
    body = messages.NewMessage(text="just once", clientId="b1")
    async with db.acquire() as holder, db.acquire() as other:
        held = holder.transaction()
        await held.start()
        await holder.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
        theirs = asyncio.create_task(
            messages.send(
                other,
                user_id=cast.ada.id,
                thread_id=cast.team,
                text="just once",
                reply_to=None,
                client_id="b1",
                body_hash=messages.body_hash(body),
                handles=[],
            )
        )
        await waits_for_a_lock(db, "messages.send")
        ours = asyncio.create_task(
            api.post(
                f"/api/threads/{cast.team}/messages", {"text": "just once", "clientId": "b1"}, as_=cast.ada
            )
        )
        await waits_for_a_lock(db, "messages.send", count=2)  # neither can have seen the other's client id
        await held.rollback()
    made, repeated = await theirs, await ours
    assert made is not None and made["sent"]
    assert ok(repeated)["message"]["seq"] == made["seq"] == 1
    assert await dense(db, cast.team) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": "hello", "replyTo": 1}, 200),
        ({"text": " \t hello\n", "replyTo": 1}, 200),  # stored, and compared, trimmed
        ({"text": "hello", "replyTo": 1, "fileIds": []}, 200),
        ({"text": "Hello", "replyTo": 1}, 422),
        ({"text": "hello"}, 422),
        ({"text": "hello", "replyTo": 2}, 422),
        ({"text": "hello", "replyTo": 99}, 422),
    ],
)
async def test_a_client_id_stands_for_one_body(
    api: Api, cast: Cast, body: dict[str, Any], status: int
) -> None:
    await api.say(cast.team, cast.ben, "one")
    await api.say(cast.team, cast.ben, "two")
    sent = await api.say(cast.team, cast.ada, "hello", replyTo=1, clientId="k")
    again = await api.post(f"/api/threads/{cast.team}/messages", body | {"clientId": "k"}, as_=cast.ada)
    if status == 200:
        assert ok(again)["message"] == sent
    else:
        assert set(refused(again, 422, "client_id_reused")["details"]) == {"clientId"}
    assert await seqs(api, cast.team, cast.ben) == [1, 2, 3]


async def test_the_body_as_first_sent_counts_not_the_text_as_edited(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}/messages"
    await api.say(cast.team, cast.ada, "first", clientId="k")
    ok(await api.patch(f"{url}/1", {"text": "second"}, as_=cast.ada))
    assert (
        ok(await api.post(url, {"text": "first", "clientId": "k"}, as_=cast.ada))["message"]["text"]
        == "second"
    )
    refused(await api.post(url, {"text": "second", "clientId": "k"}, as_=cast.ada), 422, "client_id_reused")


async def test_the_header_idempotency_key_is_the_client_id(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}/messages"

    async def post(body: dict[str, Any], **headers: Any) -> Reply:
        return await api.post(url, body, as_=cast.ada, headers=headers)

    by_header = {"Idempotency-Key": "from-header"}
    assert ok(await post({"text": "x"}, **by_header), 201)["message"]["clientId"] == "from-header"
    assert ok(await post({"text": "x"}, **by_header))["message"]["seq"] == 1
    assert ok(await post({"text": "x", "clientId": "from-header"}))["message"]["seq"] == 1
    assert ok(await post({"text": "x", "clientId": "from-header"}, **by_header))["message"]["seq"] == 1
    assert "clientId" in refused(await post({"text": "x", "clientId": "other"}, **by_header), 422)["details"]
    refused(await post({"text": "x"}, **{"Idempotency-Key": "k" * 129}), 422)
    assert await seqs(api, cast.team, cast.ada) == [1]


async def test_a_client_id_has_1_to_128_characters(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}/messages"
    for good in ("x", "k" * 128, "\U0001f9f5" * 128, "with blanks ", "null"):
        body = {"text": "good", "clientId": good}
        assert ok(await api.post(url, body, as_=cast.ada), 201)["message"]["clientId"] == good
        ok(await api.post(url, body, as_=cast.ada), 200)
    for bad in ("", "k" * 129, "a\0b"):
        assert set(
            refused(await api.post(url, {"text": "bad", "clientId": bad}, as_=cast.ada), 422)["details"]
        ) == {"clientId"}
    refused(await api.post(url, {"text": "bad", "clientId": 7}, as_=cast.ada), 400, "wrong_type")


async def test_a_client_id_belongs_to_one_author_in_one_thread(api: Api, cast: Cast) -> None:
    other = await api.thread(cast.ada, cast.ben)
    for thread_id, who in itertools.product((cast.team, other), (cast.ada, cast.ben)):
        body = {"text": f"{who.name} in {thread_id}", "clientId": "same"}
        ok(await api.post(f"/api/threads/{thread_id}/messages", body, as_=who), 201)
        ok(await api.post(f"/api/threads/{thread_id}/messages", body, as_=who), 200)
    assert await seqs(api, cast.team, cast.ada) == await seqs(api, other, cast.ada) == [1, 2]


async def test_without_a_client_id_the_same_text_is_sent_twice(api: Api, cast: Cast) -> None:
    assert [(await api.say(cast.team, cast.ada, "yes"))["seq"] for _ in "12"] == [1, 2]
    assert "clientId" not in (await api.say(cast.team, cast.ada, "yes"))


async def test_a_former_members_retry_finds_nothing_until_they_come_back(api: Api, cast: Cast) -> None:
    url, body = f"/api/threads/{cast.team}/messages", {"text": "mine", "clientId": "k"}
    ok(await api.post(url, body, as_=cast.ben), 201)
    ok(await api.delete(f"/api/threads/{cast.team}/members/{cast.ben.id}", as_=cast.ada), 204)
    refused(await api.post(url, body, as_=cast.ben), 404, "not_found")
    refused(
        await api.post(url, body | {"text": "other"}, as_=cast.ben), 404, "not_found"
    )  # not even whether it was used
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": cast.ben.id}, as_=cast.ada), 201)
    assert ok(await api.post(url, body, as_=cast.ben), 200)["message"]["seq"] == 1
    refused(await api.post(url, body | {"text": "other"}, as_=cast.ben), 422, "client_id_reused")


# ---- 3. dense


async def test_the_log_is_dense_in_every_snapshot_while_sixteen_write_and_some_fail(
    api: Api, people: Maker, db: asyncpg.Pool
) -> None:
    crowd = [await people(f"p{number}") for number in range(16)]
    thread_id = await api.thread(crowd[0], *crowd[1:])
    url = f"/api/threads/{thread_id}/messages"
    done = asyncio.Event()

    async def write(number: int, who: Person) -> list[int]:
        statuses = []
        for turn in range(9):
            body: dict[str, Any] = {"text": f"{number}.{turn}", "clientId": f"{turn}"}
            if number % 4 == 0:  # races itself: one of the two is rolled back by the constraint
                replies = await asyncio.gather(*(api.post(url, body, as_=who) for _ in "12"))
            elif number % 4 == 1 and turn % 3 == 1:  # refused inside the statement
                replies = [await api.post(url, body | {"replyTo": 10**9}, as_=who)]
            else:
                replies = [await api.post(url, body, as_=who)]
            if number % 4 == 2 and turn % 3 == 2:
                seq = replies[0].json["message"]["seq"]
                replies.append(await api.patch(f"{url}/{seq}", {"text": "better"}, as_=who))
                replies.append(await api.delete(f"{url}/{seq}", as_=who))
            statuses += [reply.status for reply in replies]
        return statuses

    async def roll_back() -> int:
        count = 0
        while not done.is_set():
            async with db.acquire() as conn:
                lost = conn.transaction()
                await lost.start()
                row = await messages.send(
                    conn, user_id=crowd[15].id, thread_id=thread_id, text="lost", reply_to=None,
                    client_id=f"lost {count}", body_hash=body_hash(NewMessage(text="lost")), handles=[],
                )  # fmt: skip
                assert row is not None and row["sent"]
                await lost.rollback()
            count += 1
        return count

    async def look() -> list[int]:
        seen = []
        while not done.is_set():
            seen.append(await dense(db, thread_id))
        return seen

    async def writers() -> list[list[int]]:
        try:
            return await asyncio.gather(*(write(number, who) for number, who in enumerate(crowd)))
        finally:
            done.set()

    statuses, lost, seen = await asyncio.gather(writers(), roll_back(), look())
    counts = [status for one in statuses for status in one]
    assert {status: counts.count(status) for status in set(counts)} == {
        201: 16 * 9 - 4 * 3,
        200: 4 * 9 + 4 * 3,  # the losers of races, and edits
        422: 4 * 3,
        204: 4 * 3,
    }
    assert lost > 3 and len(set(seen)) > 3, "nothing was seen of the race"
    assert await dense(db, thread_id) == 16 * 9 - 4 * 3
    assert (
        await db.fetchval("SELECT count(*) FROM messages WHERE thread_id = $1 AND text = 'lost'", thread_id)
        == 0
    )


async def test_time_does_not_go_back_when_the_clock_does(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    await api.say(cast.team, cast.ada, "from a clock that is fast")
    fast = "UPDATE {} = now() + interval '1 hour' WHERE thread_id = $1"
    await db.execute(fast.format("thread_heads SET last_message_at"), cast.team)
    await db.execute(fast.format("messages SET created_at"), cast.team)
    await db.execute(
        "UPDATE thread_heads h SET last_message_at = m.created_at FROM messages m "
        "WHERE m.thread_id = $1 AND h.thread_id = $1", cast.team,
    )  # fmt: skip
    await api.say(cast.team, cast.ben, "from one that is right")
    page = ok(await api.get(f"/api/threads/{cast.team}/messages", as_=cast.ada))["items"]
    assert page[0]["createdAt"] <= page[1]["createdAt"]
    await dense(db, cast.team)
