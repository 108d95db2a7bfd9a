"""Pins: what members have put on the wall of a thread, the newest first, to whoever may see it."""

import asyncio
from typing import Any

import asyncpg
import pytest

from server import pins
from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused, waits_for_a_lock


async def pin(api: Api, thread_id: int, seq: int, who: Person) -> Reply:
    return await api.ask("PUT", f"/api/threads/{thread_id}/messages/{seq}/pin", as_=who)


async def unpin(api: Api, thread_id: int, seq: int, who: Person) -> Reply:
    return await api.delete(f"/api/threads/{thread_id}/messages/{seq}/pin", as_=who)


async def wall(api: Api, thread_id: int, who: Person, limit: int = 50) -> list[int]:
    """The seqs of what somebody sees pinned, page by page."""
    found, cursor = list[int](), ""
    while True:
        page = ok(await api.get(f"/api/threads/{thread_id}/pins?limit={limit}{cursor}", as_=who))
        assert len(page["items"]) <= limit
        found += [message["seq"] for message in page["items"]]
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


async def rev_of(api: Api, thread_id: int, who: Person) -> int:
    return int(ok(await api.get(f"/api/threads/{thread_id}", as_=who))["thread"]["lastRev"])


async def test_any_member_pins_and_takes_off_and_the_newest_pin_is_first(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    for n in range(4):
        await api.say(team, ada, f"message {n}")
    assert await wall(api, team, ben) == []
    for seq, who in ((2, ben), (4, ada), (1, ben)):
        ok(await pin(api, team, seq, who), 204)
    assert await wall(api, team, ada) == await wall(api, team, ben) == [1, 4, 2]
    ok(await unpin(api, team, 4, ben), 204)  # of ada's message, which she has pinned
    assert await wall(api, team, ada) == [1, 2]
    ok(await pin(api, team, 2, ada), 204)  # it is there already
    assert await wall(api, team, ada) == [1, 2]
    ok(await unpin(api, team, 2, ada), 204)
    ok(await pin(api, team, 2, ada), 204)
    assert await wall(api, team, ada) == [2, 1]
    await dense(db, team)


async def test_what_is_pinned_is_shown_as_its_reader_sees_it(api: Api, cast: Cast) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    await api.say(team, ben, "quoted")
    await api.say(team, ada, "an answer", replyTo=1)
    ok(await api.ask("PUT", f"/api/threads/{team}/messages/2/reactions/%F0%9F%91%8D", as_=ben), 204)
    ok(await pin(api, team, 2, ben), 204)
    for who in (ada, ben):
        (found,) = ok(await api.get(f"/api/threads/{team}/pins", as_=who))["items"]
        assert found == ok(await api.get(f"/api/threads/{team}/messages/2", as_=who))["message"]
        assert found["pinnedAt"] >= found["createdAt"]
        assert found["replyTo"]["text"] == "quoted"
        assert found["reactions"][0]["mine"] == (who == ben)
        assert ("status" in found) == (who == ada)


async def test_each_pin_is_one_change_and_the_same_again_is_none(api: Api, cast: Cast) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    said = await api.say(team, ada, "rules")
    rev = said["rev"]
    async with api.stream(team, ada) as stream:
        for put in (pin, unpin):
            for _ in "123":
                reply = await put(api, team, 1, ben)
                assert (reply.status, reply.body) == (204, b"")
            rev += 1
            assert await rev_of(api, team, ada) == rev
            (event,) = await stream.until(rev)
            pinned_at = {"pinnedAt": event.data["pinnedAt"]} if put is pin else {}
            assert (event.name, event.data) == ("message_updated", said | {"rev": rev} | pinned_at)
        await api.say(team, ada, "next")
        assert (await stream.next()).data["text"] == "next"


async def test_nobody_pins_or_sees_pinned_what_is_not_in_their_sight(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    team, ada, late = cast.team, cast.ada, await people("late")
    await api.say(team, ada, "before")
    await api.say(team, ada, "pinned before")
    ok(await pin(api, team, 2, ada), 204)
    ok(await api.post(f"/api/threads/{team}/members", {"userId": late.id}, as_=ada), 201)
    await api.say(team, ada, "after", replyTo=2)
    rev = await rev_of(api, team, ada)
    for put in (pin, unpin):
        for who, seq in ((cast.mallory, 1), (cast.mallory, 3), (late, 1), (late, 2), (late, 4), (ada, 4)):
            refused(await put(api, team, seq, who), 404, "not_found")
        refused(await put(api, 10**15, 1, ada), 404, "not_found")
    assert await rev_of(api, team, ada) == rev
    refused(await api.get(f"/api/threads/{team}/pins", as_=cast.mallory), 404, "not_found")
    assert await wall(api, team, late) == []
    ok(await pin(api, team, 3, late), 204)
    assert (await wall(api, team, late), await wall(api, team, ada)) == ([3], [3, 2])
    (found,) = ok(await api.get(f"/api/threads/{team}/pins", as_=late))["items"]
    assert found["replyTo"] == {"seq": 2}
    ok(await api.post(f"/api/threads/{team}/leave", as_=late), 204)
    refused(await api.get(f"/api/threads/{team}/pins", as_=late), 404, "not_found")
    refused(await unpin(api, team, 3, late), 404, "not_found")
    assert await wall(api, team, ada) == [3, 2]


async def test_a_deleted_message_is_pinned_no_more(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    for text in ("stays", "goes"):
        await api.say(team, ada, text)
    for seq in (1, 2):
        ok(await pin(api, team, seq, ben), 204)
    ok(await api.delete(f"/api/threads/{team}/messages/2", as_=ada), 204)
    assert await wall(api, team, ben) == [1]
    assert "pinnedAt" not in ok(await api.get(f"/api/threads/{team}/messages/2", as_=ben))["message"]
    rev = await rev_of(api, team, ada)
    refused(await pin(api, team, 2, ben), 409, "message_deleted")
    ok(await unpin(api, team, 2, ben), 204)
    assert await rev_of(api, team, ada) == rev
    assert await db.fetchval("SELECT count(*) FROM pins WHERE thread_id = $1", team) == 1


async def test_whom_somebody_has_blocked_pins_nothing_in_their_direct_thread(api: Api, cast: Cast) -> None:
    ada, mallory = cast.ada, cast.mallory
    thread_id = await api.thread(ada, mallory, kind="direct")
    for text in ("one", "two"):
        await api.say(thread_id, ada, text)
    ok(await pin(api, thread_id, 1, mallory), 204)
    ok(await api.ask("PUT", f"/api/me/blocks/{mallory.id}", as_=ada), 204)
    for put, seq in ((pin, 2), (pin, 1), (unpin, 1), (unpin, 2)):
        refused(await put(api, thread_id, seq, mallory), 403, "blocked")
    refused(await pin(api, thread_id, 3, mallory), 404, "not_found")
    assert await wall(api, thread_id, mallory) == [1]
    ok(await pin(api, thread_id, 2, ada), 204)
    ok(await unpin(api, thread_id, 1, ada), 204)
    assert await wall(api, thread_id, ada) == [2]


@pytest.mark.parametrize("limit", [1, 2, 5, 7])
async def test_the_pages_of_pins_hold_each_once(api: Api, cast: Cast, limit: int) -> None:
    team, ada = cast.team, cast.ada
    for n in range(5):
        await api.say(team, ada, f"message {n}")
        ok(await pin(api, team, n + 1, ada), 204)
    assert await wall(api, team, cast.ben, limit) == [5, 4, 3, 2, 1]
    first = ok(await api.get(f"/api/threads/{team}/pins?limit=2", as_=ada))["nextCursor"]
    await api.say(team, ada, "another")
    ok(await pin(api, team, 6, ada), 204)
    ok(await unpin(api, team, 3, ada), 204)  # where the page ends
    rest = ok(await api.get(f"/api/threads/{team}/pins?cursor={first}", as_=ada))
    assert ([m["seq"] for m in rest["items"]], rest["nextCursor"]) == ([2, 1], None)


async def test_what_a_page_of_pins_is_asked_for_is_checked(api: Api, cast: Cast) -> None:
    team, ada = cast.team, cast.ada
    other = await api.thread(ada)
    for n in range(2):
        for thread_id in (team, other):
            await api.say(thread_id, ada, "x")
            ok(await pin(api, thread_id, n + 1, ada), 204)
    url = f"/api/threads/{team}/pins"
    cursor = ok(await api.get(f"{url}?limit=1", as_=ada))["nextCursor"]
    theirs = ok(await api.get(f"/api/threads/{other}/pins?limit=1", as_=ada))["nextCursor"]
    page = ok(await api.get(f"/api/threads/{team}/messages?limit=1", as_=ada))["nextCursor"]
    for bad in ("", "x", f"{cursor}A", theirs, page):
        refused(await api.get(f"{url}?cursor={bad}", as_=ada), 400, "bad_cursor")
    for query, status in (("limit=0", 422), ("limit=101", 422), ("limit=x", 400), ("order=asc", 400)):
        refused(await api.get(f"{url}?{query}", as_=ada), status)


async def test_a_page_looks_at_so_many_pins_and_goes_on(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    """Of a long wall that the reader has come too late for, a page is short and leads on."""
    team, ada, late = cast.team, cast.ada, await people("late")
    await api.say(team, ada, "early")
    for n in range(7):
        await api.say(team, ada, f"pinned {n}")
    ok(await api.post(f"/api/threads/{team}/members", {"userId": late.id}, as_=ada), 201)
    await api.say(team, ada, "late 1")
    await api.say(team, ada, "late 2")
    for seq in (9, *range(2, 9), 10):
        ok(await pin(api, team, seq, ada), 204)

    async def page(before: int) -> Any:
        row = await pins.list(db, user_id=late.id, thread_id=team, before=before, looks=4, size=2)
        assert row is not None
        return [int(seq) for seq in _seqs(row["items"])], row["next_rev"]

    walked, before, sizes = list[int](), 2**62, []
    while before is not None:
        found, before = await page(before)
        walked += found
        sizes.append(len(found))
    assert walked == [10, 9]
    assert sizes == [1, 0, 1], "pages of four looks each"
    assert await wall(api, team, late) == [10, 9]


def _seqs(items: str) -> list[str]:
    return [part.partition(",")[0] for part in items.split('"seq":')[1:]]


# ---- all at once


async def test_a_message_that_many_pin_at_once_is_pinned_once(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    crowd = [await people(f"hand{n}") for n in range(8)]
    channel = await api.thread(cast.ada, kind="channel", title="Town square")
    for person in crowd:
        ok(await api.post(f"/api/threads/{channel}/join", as_=person))
    await api.say(channel, cast.ada, "rules")
    rev = await rev_of(api, channel, cast.ada)
    replies = await asyncio.gather(*(pin(api, channel, 1, person) for person in crowd))
    assert {reply.status for reply in replies} == {204}
    assert await rev_of(api, channel, cast.ada) == rev + 1
    for _ in range(5):
        await asyncio.gather(*((pin, unpin)[n % 2](api, channel, 1, who) for n, who in enumerate(crowd)))
        pinned = (
            "pinnedAt" in ok(await api.get(f"/api/threads/{channel}/messages/1", as_=cast.ada))["message"]
        )
        assert await wall(api, channel, cast.ada) == ([1] if pinned else [])
    ok(await unpin(api, channel, 1, cast.ada), 204)
    assert await wall(api, channel, cast.ada) == []
    ok(await pin(api, channel, 1, cast.ada), 204)
    assert await wall(api, channel, cast.ada) == [1]
    await dense(db, channel)


async def test_a_row_that_a_race_has_left_is_found_by_nobody_and_in_nobodys_way(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    """As when a pin is taken off by a statement that began before it was committed."""
    await api.say(cast.team, cast.ada, "x")
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE messages SET pinned_at = now() WHERE thread_id = $1", cast.team)
        await conn.execute("INSERT INTO pins VALUES ($1, 1, 90, $2)", cast.team, cast.ada.id)
        waiting = asyncio.create_task(unpin(api, cast.team, 1, cast.ben))
        await waits_for_a_lock(db, "pins.take")
    ok(await waiting, 204)
    assert await db.fetchval("SELECT count(*) FROM pins WHERE thread_id = $1", cast.team) == 1, "the premise"
    assert await wall(api, cast.team, cast.ada) == []
    ok(await pin(api, cast.team, 1, cast.ben), 204)
    assert await wall(api, cast.team, cast.ada) == [1]
    assert await db.fetchval("SELECT user_id FROM pins WHERE thread_id = $1", cast.team) == cast.ben.id


async def test_a_pin_that_waits_while_its_message_or_thread_goes_comes_to_nothing(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    await api.say(cast.team, cast.ada, "x")
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE thread_heads SET deleted_at = now() WHERE thread_id = $1", cast.team)
        waiting = asyncio.create_task(pin(api, cast.team, 1, cast.ben))
        await waits_for_a_lock(db, "pins.add")
    refused(await waiting, 404, "not_found")
    await db.execute("UPDATE thread_heads SET deleted_at = NULL WHERE thread_id = $1", cast.team)
    async with db.acquire() as conn, conn.transaction():
        await conn.execute(
            "UPDATE messages SET text = '', deleted_at = now() WHERE thread_id = $1", cast.team
        )
        waiting = asyncio.create_task(pin(api, cast.team, 1, cast.ben))
        await waits_for_a_lock(db, "pins.add")
    refused(await waiting, 409, "message_deleted")
    assert await db.fetchval("SELECT count(*) FROM pins WHERE thread_id = $1", cast.team) == 0
