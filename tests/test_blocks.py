"""Blocks: whom one does not want to hear from can't write to one, nor put one into a thread, also in a race."""

import asyncio

import asyncpg
import pytest

from server import users
from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused, waits_for_a_lock


async def block(api: Api, who: Person, other: Person) -> Reply:
    return await api.ask("PUT", f"/api/me/blocks/{other.id}", as_=who)


async def unblock(api: Api, who: Person, other: Person) -> Reply:
    return await api.delete(f"/api/me/blocks/{other.id}", as_=who)


async def test_a_block_is_there_until_it_is_lifted(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    ada, mallory, url = cast.ada, cast.mallory, f"/api/me/blocks/{cast.mallory.id}"
    refused(await api.get(url, as_=ada), 404, "not_found")
    ok(await unblock(api, ada, mallory), 204)
    for _ in "12":
        ok(await block(api, ada, mallory), 204)
    found = ok(await api.get(url, as_=ada))["block"]
    username = await db.fetchval("SELECT username FROM users WHERE id = $1", mallory.id)
    assert found == {"userId": mallory.id, "name": "mallory", "username": username, "at": found["at"]}
    assert ok(await api.get("/api/me/blocks", as_=ada)) == {"blocks": [found], "nextCursor": None}
    for nobody_of_hers in (mallory, cast.ben):  # it is ada's alone
        assert ok(await api.get("/api/me/blocks", as_=nobody_of_hers))["blocks"] == []
    refused(await api.get(f"/api/me/blocks/{ada.id}", as_=mallory), 404)
    for _ in "12":
        ok(await unblock(api, ada, mallory), 204)
    refused(await api.get(url, as_=ada), 404)
    acts = await db.fetch("SELECT act, subject_id FROM audit WHERE actor_id = $1 ORDER BY id", ada.id)
    assert [tuple(act) for act in acts] == [("user.blocked", mallory.id), ("user.unblocked", mallory.id)]


async def test_nobody_blocks_themself_or_nobody(api: Api, cast: Cast) -> None:
    refused(await block(api, cast.ada, cast.ada), 422, "invalid")
    nobody = Person(10**15, "nobody", "")
    refused(await block(api, cast.ada, nobody), 404, "not_found")
    refused(await unblock(api, cast.ada, nobody), 404, "not_found")
    refused(await api.get("/api/me/blocks"), 401)


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_the_pages_of_blocks_hold_each_once(api: Api, cast: Cast, people: Maker, limit: int) -> None:
    crowd = [await people(f"b{number}") for number in range(5)]
    for person in crowd:
        ok(await block(api, cast.ada, person), 204)
    walked, cursor = [], ""
    while cursor is not None:
        page = ok(
            await api.get(f"/api/me/blocks?limit={limit}{cursor and f'&cursor={cursor}'}", as_=cast.ada)
        )
        walked += [one["userId"] for one in page["blocks"]]
        cursor = page["nextCursor"]
    assert walked == sorted(person.id for person in crowd)
    first = ok(await api.get("/api/me/blocks?limit=1", as_=cast.ada))["nextCursor"]
    for bad in (f"{first}x", "x", ""):
        refused(await api.get(f"/api/me/blocks?cursor={bad}", as_=cast.ada), 400, "bad_cursor")
    refused(await api.get(f"/api/me/blocks?cursor={first}", as_=cast.ben), 400, "bad_cursor")
    refused(await api.get("/api/me/blocks?limit=101", as_=cast.ada), 422)


async def test_whom_i_block_reads_in_our_direct_thread_and_writes_no_more(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    ada, mallory = cast.ada, cast.mallory
    thread_id = await api.thread(ada, mallory, kind="direct")
    url = f"/api/threads/{thread_id}"
    body = {"text": "before", "clientId": "k"}
    sent = ok(await api.post(f"{url}/messages", body, as_=mallory), 201)["message"]
    ok(await block(api, ada, mallory), 204)
    for refusal in (
        await api.post(f"{url}/messages", {"text": "after"}, as_=mallory),
        await api.post(f"{url}/messages", {"text": "after", "clientId": "new", "replyTo": 1}, as_=mallory),
        await api.post(f"{url}/messages", {"text": "after", "replyTo": 99}, as_=mallory),
        await api.patch(f"{url}/messages/1", {"text": "before"}, as_=mallory),
        await api.patch(f"{url}/messages/1", {"text": "worse"}, as_=mallory),
    ):
        refused(refusal, 403, "blocked")
    # A retry is answered as ever, and so is one with another body.
    assert ok(await api.post(f"{url}/messages", body, as_=mallory))["message"]["seq"] == sent["seq"]
    refused(await api.post(f"{url}/messages", body | {"text": "x"}, as_=mallory), 422, "client_id_reused")
    assert ok(await api.get(f"{url}/messages", as_=mallory))["items"][0]["text"] == "before"
    said = await api.say(thread_id, ada, "I still may")
    assert said["seq"] == 2
    assert ok(await api.get(url, as_=mallory))["thread"]["lastMessage"]["text"] == "I still may"
    refused(await api.patch(f"{url}/messages/2", {"text": "yours"}, as_=mallory), 403, "forbidden")
    refused(await api.patch(f"{url}/messages/9", {"text": "?"}, as_=mallory), 404)
    ok(await api.delete(f"{url}/messages/1", as_=mallory), 204)
    ok(await unblock(api, ada, mallory), 204)
    await api.say(thread_id, mallory, "sorry")
    assert await dense(db, thread_id) == 3


async def test_each_blocks_for_themself(api: Api, cast: Cast) -> None:
    ada, ben = cast.ada, cast.ben
    thread_id = await api.thread(ada, ben, kind="direct")
    url = f"/api/threads/{thread_id}/messages"
    ok(await block(api, ada, ben), 204)
    ok(await block(api, ben, ada), 204)
    for who in (ada, ben):
        refused(await api.post(url, {"text": "?"}, as_=who), 403, "blocked")
    ok(await unblock(api, ada, ben), 204)
    refused(await api.post(url, {"text": "?"}, as_=ada), 403, "blocked")
    await api.say(thread_id, ben, "you may not answer")
    await api.say(cast.team, ada, "in a group")  # a block says nothing there
    await api.say(cast.team, ben, "as ever")


async def test_whom_i_block_puts_me_into_no_thread(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    ada, ben, mallory, eve = cast.ada, cast.ben, cast.mallory, await people("eve")
    ok(await block(api, ada, mallory), 204)
    own = await api.thread(mallory, ben)
    threads = await db.fetchval("SELECT count(*) FROM threads")
    for body in (
        {"kind": "direct", "memberIds": [ada.id]},
        {"kind": "group", "title": "Come", "memberIds": [ada.id, ben.id]},
        {"kind": "channel", "title": "Come", "memberIds": [ada.id]},
    ):
        refused(await api.post("/api/threads", body, as_=mallory), 403, "blocked")
    assert await db.fetchval("SELECT count(*) FROM threads") == threads, "nothing is made"
    for role in ("member", "admin"):
        addition = {"userId": ada.id, "role": role}
        refused(await api.post(f"/api/threads/{own}/members", addition, as_=mallory), 403, "blocked")
    refused(await api.post("/api/threads", {"title": "All", "memberIds": [10**15, ben.id]}, as_=mallory), 422)
    # Others may, and ada may put mallory where she likes.
    ok(await api.patch(f"/api/threads/{own}/members/{ben.id}", {"role": "moderator"}, as_=mallory))
    ok(await api.post(f"/api/threads/{own}/members", {"userId": ada.id}, as_=ben), 201)
    await api.thread(ada, mallory, eve)
    ok(await unblock(api, ada, mallory), 204)
    await api.thread(mallory, ada)


async def test_a_direct_thread_that_is_there_is_still_found(api: Api, cast: Cast) -> None:
    body = {"kind": "direct", "memberIds": [cast.ada.id]}
    there = ok(await api.post("/api/threads", body, as_=cast.mallory), 201)["thread"]
    ok(await block(api, cast.ada, cast.mallory), 204)
    assert ok(await api.post("/api/threads", body, as_=cast.mallory))["thread"]["id"] == there["id"]


async def test_whom_i_blocked_before_i_wrote_to_them_does_not_write_back(api: Api, cast: Cast) -> None:
    ok(await block(api, cast.ada, cast.mallory), 204)
    thread_id = await api.thread(cast.ada, cast.mallory, kind="direct")
    await api.say(thread_id, cast.ada, "listen")
    url = f"/api/threads/{thread_id}/messages"
    refused(await api.post(url, {"text": "no"}, as_=cast.mallory), 403, "blocked")
    ok(await unblock(api, cast.ada, cast.mallory), 204)
    await api.say(thread_id, cast.mallory, "yes")


# ---- all at once


async def test_once_a_block_is_answered_nothing_more_gets_through(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    thread_id = await api.thread(cast.ada, cast.mallory, kind="direct")
    url = f"/api/threads/{thread_id}"
    for turn in range(10):
        racing = [
            asyncio.create_task(api.post(f"{url}/messages", {"text": f"{turn} {n}"}, as_=cast.mallory))
            for n in range(8)
        ]
        ok(await block(api, cast.ada, cast.mallory), 204)
        last = ok(await api.get(url, as_=cast.ada))["thread"]["lastSeq"]
        statuses = [reply.status for reply in await asyncio.gather(*racing)]
        assert set(statuses) <= {201, 403}
        assert ok(await api.get(url, as_=cast.ada))["thread"]["lastSeq"] == last, statuses
        ok(await unblock(api, cast.ada, cast.mallory), 204)
    await dense(db, thread_id)


async def test_a_send_or_edit_that_waits_while_its_author_is_blocked_is_refused(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    thread_id = await api.thread(cast.ada, cast.mallory, kind="direct")
    url = f"/api/threads/{thread_id}/messages"
    await api.say(thread_id, cast.mallory, "before")
    for name, request in (
        ("messages.send", api.post(url, {"text": "?"}, as_=cast.mallory)),
        ("messages.edit", api.patch(f"{url}/1", {"text": "?"}, as_=cast.mallory)),
    ):
        async with db.acquire() as conn, conn.transaction():
            # As blocks.silence does it, and not committed yet.
            await conn.execute(
                "UPDATE memberships SET blocked = true WHERE thread_id = $1 AND user_id = $2",
                thread_id,
                cast.mallory.id,
            )
            waiting = asyncio.create_task(request)
            await waits_for_a_lock(db, name)
        refused(await waiting, 403, "blocked")
        await db.execute("UPDATE memberships SET blocked = false WHERE thread_id = $1", thread_id)
    assert await dense(db, thread_id) == 1
    assert ok(await api.get(f"{url}/1", as_=cast.ada))["message"]["text"] == "before"


async def test_a_block_waits_for_a_send_that_has_begun(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    thread_id = await api.thread(cast.ada, cast.mallory, kind="direct")
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", thread_id)
        url = f"/api/threads/{thread_id}/messages"
        send = asyncio.create_task(api.post(url, {"text": "first"}, as_=cast.mallory))
        await waits_for_a_lock(db, "messages.send")
        blocking = asyncio.create_task(block(api, cast.ada, cast.mallory))
        await waits_for_a_lock(db, "blocks.silence")
        assert not blocking.done()
    ok(await send, 201)
    ok(await blocking, 204)


@pytest.mark.parametrize("way", ["direct", "back", "group", "add"])
async def test_a_block_and_a_new_thread_at_once_come_one_after_the_other(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool, way: str
) -> None:
    ada, mallory = cast.ada, cast.mallory
    own = await api.thread(mallory)
    direct = {"kind": "direct", "memberIds": [mallory.id if way == "back" else ada.id]}
    path, body, who = {
        "direct": ("/api/threads", direct, mallory),
        "back": ("/api/threads", direct, ada),
        "group": ("/api/threads", {"title": "Come", "memberIds": [ada.id]}, mallory),
        "add": (f"/api/threads/{own}/members", {"userId": ada.id}, mallory),
    }[way]
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", ada.id)
        blocking = asyncio.create_task(block(api, ada, mallory))
        await waits_for_a_lock(db, "blocks.hold")
        making = asyncio.create_task(api.post(path, body, as_=who))
        await waits_for_a_lock(db, "users.hold")
    made = await making
    ok(await blocking, 204)
    if way == "back":
        url = f"/api/threads/{ok(made, 201)['thread']['id']}/messages"
        refused(await api.post(url, {"text": "?"}, as_=mallory), 403, "blocked")
    else:
        refused(made, 403, "blocked")


async def test_a_new_thread_that_has_begun_is_made_before_the_block(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    async with db.acquire() as conn, conn.transaction():
        await users.hold(conn, user_ids=[cast.ada.id, cast.mallory.id])  # as one that is being made
        blocking = asyncio.create_task(block(api, cast.ada, cast.mallory))
        await waits_for_a_lock(db, "blocks.hold")
        assert not blocking.done()
    ok(await blocking, 204)
