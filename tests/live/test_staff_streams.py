"""Contact threads as the staff follows them: without membership, from the role on and up to its end."""

import asyncio
import contextlib
from typing import Any

import asyncpg
import pytest

from server import admin
from server.live import merged
from server.live.merged import Merged
from tests.client import Api, Feed, Person
from tests.conftest import Backing, Cast, apart
from tests.live import test_merged
from tests.live.crowd import register
from tests.live.desk import Desk
from tests.live.talk import talk
from tests.live.test_merged import Listener, person
from tests.live.wire import so
from tests.staff import Contact, contact, hire, rows, says

tail = test_merged.tail  # a fixture


async def employ(db: Any, user_id: int, role: str = "agent") -> None:
    """Another role, by the server's own statements, of which nobody is told."""
    async with db.acquire() as conn, conn.transaction():
        account = await admin.held(conn, user_id=user_id, by_id=None)
        assert account is not None
        await admin.alter(conn, account, user_id, name=None, role=role, active=None)


# ---- the thread stream -------------------------------------------------------------------------


@pytest.fixture
async def inbox(desk: Desk) -> Contact:
    """The desk is that of a contact, whom ada and ben answer."""
    for one in (desk.ada, desk.ben):
        await employ(desk.db, one)
    carla = await contact(desk.db)
    desk.thread_id, desk.head = carla.thread, 0
    return carla


async def test_what_comes_after_a_demotion_is_told_to_nobody_it_has_put_out(
    desk: Desk, inbox: Contact, patient: None
) -> None:
    """No doorbell tells of the demotion, and each message brings its text along."""
    ada, ben = await desk.reader(desk.ada), await desk.reader(desk.ben)
    await desk.say("before")
    desk.ring()
    await desk.settled(ada, ben)
    await employ(desk.db, desk.ben, "member")
    await desk.say("after")
    desk.ring()
    await desk.settled(ada)
    async with asyncio.timeout(20):
        await ben.task
    assert (ada.revs, ben.revs) == ([1, 2], [1])


async def test_nor_what_is_so_at_the_moment(desk: Desk, inbox: Contact, patient: None) -> None:
    ada, ben = await desk.reader(desk.ada), await desk.reader(desk.ben)
    await desk.say("before")
    desk.ring()
    await desk.settled(ada, ben)
    await employ(desk.db, desk.ben, "member")
    desk.hub.told(desk.thread_id, "typing", "1", b'{"threadId":1,"userId":1,"isTyping":true}')
    await so(lambda: any(frame.event == "typing" for frame in ada.told), "ada is told")
    assert not any(frame.event == "typing" for frame in ben.told)


async def test_the_poll_ends_the_stream_though_nothing_happens_there(
    desk: Desk, inbox: Contact, eager: None
) -> None:
    ada, ben = await desk.reader(desk.ada), await desk.reader(desk.ben)
    await employ(desk.db, desk.ben, "member")
    async with asyncio.timeout(20):
        await ben.task
    await desk.say("after")
    desk.ring()
    await desk.settled(ada)
    assert ben.revs == []


async def test_a_hint_ends_it_at_once(desk: Desk, inbox: Contact, patient: None) -> None:
    ben = await desk.reader(desk.ben)
    await employ(desk.db, desk.ben, "member")
    desk.hub.turned(b"%d" % desk.ben)
    async with asyncio.timeout(20):
        await ben.task


async def test_a_reader_who_is_behind_is_told_nothing_after_the_demotion(
    desk: Desk, inbox: Contact, patient: None
) -> None:
    ada, ben = await desk.reader(desk.ada), await desk.reader(desk.ben)
    ben.line.stop()
    for _ in range(30):
        await desk.say("x" * 9000)
    desk.ring()
    await employ(desk.db, desk.ben, "member")
    await desk.say("after")
    desk.ring()
    ben.line.go()
    async with asyncio.timeout(20):
        await ben.task
    await desk.settled(ada)
    assert 31 not in ben.revs and ben.revs == [*range(1, len(ben.revs) + 1)]


async def test_a_burst_is_asked_for_once_and_told_to_all_who_are_in(
    desk: Desk, inbox: Contact, patient: None
) -> None:
    readers = [await desk.reader(one) for one in (desk.ada, desk.ben, desk.ada, desk.ben)]
    for number in range(40):
        await desk.say(f"{number}")
    desk.ring()
    await desk.settled(*readers)
    assert all(reader.revs == [*range(1, 41)] for reader in readers)


async def test_opening_a_stream_enters_and_outsiders_find_nothing(
    api: Api, db: asyncpg.Pool, cast: Cast, root: Person
) -> None:
    carla = await contact(db)
    await says(db, carla, "Hello?")
    ada = await hire(api, root, cast.ada)
    async with api.stream(carla.thread, ada) as stream:
        assert await rows(db, carla) == {carla.id, ada.id}
        assert stream.ready.data["lastSeq"] == 1
        said = await api.say(carla.thread, root, "Yes")
        assert [event.data["text"] for event in await stream.until(said["rev"])] == ["Yes"]
        await says(db, carla, "No doorbell rings for this.")
        assert (await stream.next()).data["author"]["kind"] == "contact"
        cursor = stream.cursor
    await api.say(carla.thread, root, "Meanwhile")
    async with api.stream(carla.thread, ada, since=cursor) as stream:
        assert (await stream.next()).data["text"] == "Meanwhile"
    assert (await api.get(f"{carla.url}/stream", as_=cast.mallory)).status == 404
    assert await rows(db, carla) == {carla.id, ada.id, root.id}


async def test_a_socket_is_told_that_it_was_put_out(
    api: Api, db: asyncpg.Pool, cast: Cast, root: Person, address: str
) -> None:
    carla = await contact(db)
    await says(db, carla, "Hello?")
    ben = await hire(api, root, cast.ben)
    async with talk(address, ben) as line, talk(address, root) as other:
        await line.join(carla.thread)
        await other.join(carla.thread)
        await line.done("read", threadId=carla.thread, seq=1)
        await line.done("typing", threadId=carla.thread, isTyping=True)
        sent = await line.done("send", threadId=carla.thread, text="Yes")
        assert (await line.next()).rev == sent["message"]["rev"]
        await hire(api, root, ben, "member")
        await api.say(carla.thread, root, "after")
        told = await line.next()
        assert (told.event, told.data) == ("left", {"threadId": carla.thread, "reason": "removed"})
        await line.refused("not_found", "join", threadId=carla.thread)
        await line.refused("not_found", "send", threadId=carla.thread, text="Hm")
        assert [one.rev for one in await other.until(sent["message"]["rev"] + 1)] == [2, 3]


async def test_the_staff_sees_who_of_them_is_there_and_types_and_how_far_they_have_come(
    api: Api, db: asyncpg.Pool, cast: Cast, root: Person
) -> None:
    carla = await contact(db)
    await says(db, carla, "Hello?")
    ada, ben = await hire(api, root, cast.ada), await hire(api, root, cast.ben)
    async with api.stream(carla.thread, ada) as mine, api.feed(ben), api.stream(carla.thread, ben):
        while ben.id not in (await mine.told("presence"))["online"]:
            pass
        await api.post(f"{carla.url}/typing", {"isTyping": True}, as_=ben)
        assert (await mine.told("typing"))["userId"] == ben.id
        await api.post(f"{carla.url}/read", {"seq": 1}, as_=ben)
        while (receipt := await mine.told("receipt"))["userId"] != ben.id:
            pass
        assert receipt["readSeq"] == 1
        seen = (await api.get(f"{carla.url}/presence", as_=root)).json
        assert carla.id not in seen["online"] and set(seen["online"]) <= {ada.id, ben.id}


async def test_without_redis_a_demotion_ends_streams_within_a_moment(backing: Backing) -> None:
    async with apart(backing, REDIS_URL="redis://127.0.0.1:1") as (server, database_url):
        root, ben = await register(server.url, "root", "ben")
        db = await asyncpg.create_pool(database_url, min_size=1, max_size=2)
        api = Api(server.url)
        try:
            await db.execute("UPDATE users SET role = 'admin' WHERE id = $1", root.id)
            carla = await contact(db)
            await hire(api, root, ben)
            async with contextlib.AsyncExitStack() as stack:
                theirs = [await stack.enter_async_context(api.stream(carla.thread, ben)) for _ in range(6)]
                await says(db, carla, "before")
                assert [(await stream.next()).data["text"] for stream in theirs] == ["before"] * 6
                await hire(api, root, ben, "member")
                await says(db, carla, "after")
                assert [await stream.end() for stream in theirs] == [[]] * 6
        finally:
            await db.close()
            await api.close()


# ---- the user stream ---------------------------------------------------------------------------


async def thread_of(feed: Feed, one: Contact) -> Any:
    """The next event that is about this thread."""
    while (event := await feed.next()).data["id"] != one.thread:
        pass
    return event.data


async def test_agents_are_told_of_new_contacts_and_of_all_that_happens_there(
    api: Api, db: asyncpg.Pool, cast: Cast, root: Person
) -> None:
    ada = await hire(api, root, cast.ada)
    async with api.feed(ada) as agents, api.feed(cast.mallory) as others:
        carla = await contact(db, "A new one")
        await says(db, carla, "Hello?")
        told = await thread_of(agents, carla)
        assert (told["kind"], told["title"], told["unreadCount"]) == ("contact", "A new one", 1)
        assert (told["contact"]["id"], told["message"]["text"]) == (carla.id, "Hello?")
        assert await rows(db, carla) == {carla.id}  # being told makes nobody a member
        await api.say(carla.thread, root, "Yes?")
        assert (await thread_of(agents, carla))["unreadCount"] == 2
        await api.post(f"{carla.url}/read", {"seq": 2}, as_=ada)  # on another device
        assert (await thread_of(agents, carla))["unreadCount"] == 0
        await api.thread(cast.mallory, cast.ben)
        assert (await others.next()).data["kind"] == "group"
        assert all(event.data.get("kind") != "contact" for event in others.seen)


async def test_an_open_feed_follows_the_role(api: Api, db: asyncpg.Pool, cast: Cast, root: Person) -> None:
    carla = await contact(db)
    await says(db, carla, "Hello?")
    async with api.feed(cast.ben) as feed:
        await hire(api, root, cast.ben)
        assert (await feed.next()).name == "resync"
        await says(db, carla, "now you see it")
        assert (await thread_of(feed, carla))["unreadCount"] == 1
        await hire(api, root, cast.ben, "member")
        assert (await feed.next()).name == "resync"
        await says(db, carla, "now you don't")
        group = await api.thread(cast.ben, cast.ada)
        assert (await feed.next()).data["id"] == group
        cursor = feed.cursor
    await says(db, carla, "nor this")
    async with api.feed(cast.ben, since=cursor) as feed:
        group = await api.thread(cast.ben, cast.ada)
        assert (await feed.next()).data["id"] == group


async def test_whoever_comes_back_is_told_of_the_contacts_that_wrote_meanwhile(
    api: Api, db: asyncpg.Pool, cast: Cast, root: Person
) -> None:
    ada = await hire(api, root, cast.ada)
    some = [await contact(db, f"Contact {number}") for number in range(60)]
    for one in some:
        await says(db, one, "before")
    await api.say(some[7].thread, ada, "entered")
    async with api.feed(ada) as feed:
        cursor = feed.ready.id
    changed = some[5:58]  # more than a page
    for one in changed:
        await says(db, one, "after")
    await api.say(cast.team, cast.ben, "after")
    async with api.feed(ada, since=cursor) as feed:
        told = [await feed.next() for _ in range(len(changed) + 1)]
        assert {event.data["id"] for event in told} == {one.thread for one in changed} | {cast.team}
        assert all(event.data["lastMessage"]["text"] == "after" for event in told)
        assert [event.id for event in told[:-1]] == [None] * len(changed) and told[-1].id
        await says(db, some[0], "goes on")
        assert (await feed.next()).data["id"] == some[0].thread


async def test_a_cursor_from_before_another_role_gets_a_resync(api: Api, cast: Cast, root: Person) -> None:
    async with api.feed(cast.ben) as feed:
        cursor = feed.ready.id
    await hire(api, root, cast.ben)
    await hire(api, root, cast.ben, "admin")  # changes nothing for the inbox
    async with api.feed(cast.ben, since=cursor) as feed:
        event = await feed.next()
        assert event.name == "resync"
        cursor = event.data["cursor"]
    await hire(api, root, cast.ben)
    async with api.feed(cast.ben, since=cursor) as feed:
        await api.say(cast.team, cast.ada, "goes on")
        assert (await feed.next()).data["id"] == cast.team


@pytest.mark.parametrize("bound", ["INBOX_CHANGES", "INBOX_THREADS"])
async def test_of_too_much_it_is_said_so(
    pool: asyncpg.Pool, tail: Merged, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(merged, bound, 5)
    ada = await person(pool)
    await employ(pool, ada)
    some = [await contact(pool) for _ in range(6)]
    listener = Listener(tail, ada)
    await listener.come()
    await listener.go()
    await so(lambda: tail._place is None, "nobody looks")  # so whoever comes reads by themselves
    for one in some[:5]:
        await says(pool, one, "few enough")
    await listener.come()
    await so(lambda: len(listener.paper.told) == 5, "five are told")
    await listener.go()
    await so(lambda: tail._place is None, "nobody looks")
    for one in some:
        await says(pool, one, "one too many")
    await listener.come()
    await so(lambda: bool(listener.paper.told), "something is told")
    (frame,) = listener.paper.told
    assert (frame.event, frame.json["cursor"]) == ("resync", frame.id)
    listener.paper.got.clear()
    await says(pool, some[3], "goes on")
    await so(lambda: bool(listener.paper.told), "and goes on")
    assert listener.paper.told[0].json["id"] == some[3].thread
    await listener.go()


async def test_a_look_is_bounded_by_the_staff_who_are_here(
    pool: asyncpg.Pool, tail: Merged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound each finds by itself what concerns it."""
    ada, ben = [await person(pool) for _ in range(2)]
    await employ(pool, ada)
    await employ(pool, ben)
    some = [await contact(pool) for _ in range(4)]
    listeners = [Listener(tail, one) for one in (ada, ben)]
    for listener in listeners:
        await listener.come()
    monkeypatch.setattr(merged, "PAIRS", 7)  # of the eight
    async with pool.acquire() as conn, conn.transaction():
        for one in some:
            await says(conn, one, "Hello?")
    for listener in listeners:
        await so(lambda one=listener: len(one.paper.told) == 4, "all four are told")  # type: ignore[misc]
        assert {frame.json["id"] for frame in listener.paper.told} == {one.thread for one in some}
        await listener.go()


async def test_a_contact_that_is_removed_is_told_as_deleted(pool: asyncpg.Pool, tail: Merged) -> None:
    """Also to those of the staff who never entered."""
    ada = await person(pool)
    await employ(pool, ada)
    carla = await contact(pool)
    listener = Listener(tail, ada)
    await listener.come()
    await pool.execute(
        """WITH head AS (
               UPDATE thread_heads SET last_rev = last_rev + 1, last_xid = pg_current_xact_id(), deleted_at = now()
               WHERE thread_id = $1 RETURNING last_rev)
           INSERT INTO changes (thread_id, rev, kind) SELECT $1, last_rev, 'thread_deleted' FROM head""",
        carla.thread,
    )
    await so(lambda: bool(listener.paper.told), "it is told")
    assert listener.paper.told[0].json == {"id": carla.thread, "role": None, "act": "deleted"}
    await listener.go()
