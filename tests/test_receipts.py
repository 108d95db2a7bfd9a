"""Receipts: how far people have come, what others are told of it, and the status of messages."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.client import Api, Person
from tests.conftest import Cast, Maker, key_of
from tests.rules import ok, refused, until, waits_for_a_lock

MOVES = ("read", "delivered", "unread")


async def move(api: Api, thread_id: int, who: Person, what: str, seq: int) -> dict[str, Any]:
    state: dict[str, Any] = ok(await api.post(f"/api/threads/{thread_id}/{what}", {"seq": seq}, as_=who))
    return state


async def receipts(api: Api, thread_id: int, seq: int, who: Person) -> tuple[list[int], list[int]]:
    """Whom a message has reached, and who has read it."""
    page = ok(await api.get(f"/api/threads/{thread_id}/messages/{seq}/receipts", as_=who))
    assert page["nextCursor"] is None
    return [one["userId"] for one in page["delivered"]], [one["userId"] for one in page["read"]]


async def hide(api: Api, who: Person, hidden: bool) -> None:
    ok(await api.patch("/api/me", {"settings": {"readReceipts": not hidden}}, as_=who))


async def row_of(db: asyncpg.Pool, thread_id: int, who: Person) -> dict[str, Any]:
    return dict(
        await db.fetchrow(
            "SELECT * FROM memberships WHERE thread_id = $1 AND user_id = $2 AND left_rev IS NULL",
            thread_id,
            who.id,
        )
    )


async def personal(db: asyncpg.Pool, thread_id: int) -> list[int]:
    """Whose other devices are to learn of something, in order."""
    rows = await db.fetch("SELECT user_id FROM personal_changes WHERE thread_id = $1 ORDER BY xid", thread_id)
    return [row["user_id"] for row in rows]


# ---- moving


async def test_read_and_delivered_move_forward_only(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    for number in range(5):
        await api.say(cast.team, cast.ada, f"message {number + 1}")
    state = await move(api, cast.team, cast.ben, "delivered", 4)
    assert state == {
        "threadId": cast.team, "lastReadSeq": 0, "deliveredSeq": 4, "unreadCount": 5, "mentionCount": 0,
        "firstUnreadSeq": 1,
    }  # fmt: skip
    assert await personal(db, cast.team) == [], "nothing that one's other devices show"
    state = await move(api, cast.team, cast.ben, "read", 3)
    assert (state["lastReadSeq"], state["deliveredSeq"], state["unreadCount"]) == (3, 4, 2)
    assert await personal(db, cast.team) == [cast.ben.id]
    before = await row_of(db, cast.team, cast.ben)
    for what, seq in (("read", 3), ("read", 1), ("read", 0), ("delivered", 4), ("delivered", 2)):
        assert await move(api, cast.team, cast.ben, what, seq) == state
    assert await row_of(db, cast.team, cast.ben) == before, "what moves nothing changes nothing"
    state = await move(api, cast.team, cast.ben, "read", 5)
    assert (state["lastReadSeq"], state["deliveredSeq"], state["unreadCount"]) == (5, 5, 0)
    after = await row_of(db, cast.team, cast.ben)
    assert (after["seen_seq"], after["delivered_seq"]) == (5, 5)
    assert int(after["changed_xid"]) > int(before["changed_xid"])
    state = await move(api, cast.team, cast.ben, "unread", 2)
    assert (state["lastReadSeq"], state["deliveredSeq"], state["unreadCount"]) == (1, 5, 4)
    again = await row_of(db, cast.team, cast.ben)
    assert (again["seen_seq"], again["seen_at"]) == (5, after["seen_at"]), "what others saw as read stays"
    assert await personal(db, cast.team) == [cast.ben.id] * 3
    assert await receipts(api, cast.team, 5, cast.ada) == ([cast.ben.id], [cast.ben.id])


async def test_a_place_is_one_of_the_thread_and_the_thread_one_s_own(
    api: Api, cast: Cast, root: Person
) -> None:
    await api.say(cast.team, cast.ada, "first")
    bot = await key_of(api, root, "bot")
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": bot.id}, as_=cast.ada), 201)
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": cast.mallory.id}, as_=cast.ada), 201)
    await api.say(cast.team, cast.ada, "second")
    for what in MOVES:
        url = f"/api/threads/{cast.team}/{what}"
        for seq in (3, 2**62, 2**63, -1, 10**30):
            assert "seq" in refused(await api.post(url, {"seq": seq}, as_=cast.ben), 422)["details"]
        refused(await api.post(url, {}, as_=cast.ben), 422)
        refused(await api.post(url, {"seq": "1"}, as_=cast.ben), 400)
        for who in (cast.ben, cast.mallory, bot):
            assert (await move(api, cast.team, who, what, 2))["threadId"] == cast.team
        refused(await api.post(f"/api/threads/{cast.team + 10**6}/{what}", {"seq": 1}, as_=cast.ben), 404)
    assert (await receipts(api, cast.team, 2, cast.ada))[1] == sorted([cast.ben.id, cast.mallory.id, bot.id])
    ok(await api.delete(f"/api/threads/{cast.team}/members/{cast.mallory.id}", as_=cast.ada), 204)
    for what in MOVES:
        refused(
            await api.post(f"/api/threads/{cast.team}/{what}", {"seq": 1}, as_=cast.mallory), 404, "not_found"
        )
    refused(await api.get(f"/api/threads/{cast.team}/messages/2/receipts", as_=cast.mallory), 404)
    ok(await api.delete(f"/api/threads/{cast.team}", as_=cast.ada), 204)
    for what in MOVES:
        refused(
            await api.post(f"/api/threads/{cast.team}/{what}", {"seq": 1}, as_=cast.ben), 404, "not_found"
        )


async def test_ten_reads_at_once_leave_the_furthest(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    for _ in range(10):
        await api.say(cast.team, cast.ada, "words")
    for first in (1, 6):
        order = [first + (step * 3) % 5 for step in range(5)] * 2
        moves = [move(api, cast.team, cast.ben, what, seq) for seq in order for what in ("read", "delivered")]
        states = await asyncio.gather(*moves)
        assert all(state["unreadCount"] == 10 - state["lastReadSeq"] for state in states)
        row = await row_of(db, cast.team, cast.ben)
        assert {row["read_seq"], row["seen_seq"], row["delivered_seq"]} == {first + 4}


async def test_a_read_that_waits_for_a_send_of_one_s_own_is_behind_it(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    for _ in range(3):
        await api.say(cast.team, cast.ada, "words")
    async with db.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
        sending = asyncio.create_task(api.say(cast.team, cast.ben, "mine"))
        await waits_for_a_lock(db, "messages.send")
        reading = asyncio.create_task(move(api, cast.team, cast.ben, "read", 2))
        await waits_for_a_lock(db, "receipts.reach")
        await transaction.rollback()
    assert (await sending)["seq"] == 4
    state = await reading
    assert (state["lastReadSeq"], state["deliveredSeq"], state["unreadCount"], state["firstUnreadSeq"]) == (
        4,
        4,
        0,
        None,
    )


# ---- the receipts of a message


async def test_receipts_name_who_was_there_and_not_the_author(api: Api, cast: Cast, people: Maker) -> None:
    eve, late = await people("eve"), await people("late")
    thread_id = await api.thread(cast.ada, cast.ben, eve)
    url = f"/api/threads/{thread_id}"
    await api.say(thread_id, cast.ada, "first")
    assert await receipts(api, thread_id, 1, cast.ada) == ([], [])
    await move(api, thread_id, eve, "read", 1)
    await move(api, thread_id, cast.ben, "delivered", 1)
    for who in (cast.ada, cast.ben, eve):
        assert await receipts(api, thread_id, 1, who) == ([cast.ben.id, eve.id], [eve.id])
    ok(await api.post(f"{url}/leave", as_=eve), 204)
    ok(await api.post(f"{url}/members", {"userId": late.id}, as_=cast.ada), 201)
    await api.say(thread_id, cast.ada, "second")
    await move(api, thread_id, late, "read", 2)
    assert await receipts(api, thread_id, 1, cast.ada) == ([cast.ben.id, eve.id], [eve.id]), "of that time"
    assert await receipts(api, thread_id, 2, cast.ada) == ([late.id], [late.id])
    refused(await api.get(f"{url}/messages/1/receipts", as_=late), 404, "not_found")  # before their time
    assert await receipts(api, thread_id, 2, late) == ([late.id], [late.id])
    for seq in (3, 2**62):
        refused(await api.get(f"{url}/messages/{seq}/receipts", as_=cast.ada), 404)
    for who in (cast.mallory, eve):
        refused(await api.get(f"{url}/messages/1/receipts", as_=who), 404)
    ok(await api.post(f"{url}/members", {"userId": eve.id}, as_=cast.ada), 201)
    await move(api, thread_id, eve, "read", 2)
    assert await receipts(api, thread_id, 2, cast.ada) == ([late.id], [late.id]), "not there when it came"
    assert await receipts(api, thread_id, 1, eve) == ([cast.ben.id, eve.id], [eve.id])


async def later(db: asyncpg.Pool, thread_id: int, seconds: float) -> None:
    """As if so much time had gone by."""
    gone = timedelta(seconds=seconds)
    for table, names in (
        ("memberships", ("seen_at", "delivered_at")), ("marks", ("at",)), ("messages", ("created_at",)),
    ):  # fmt: skip
        sets = ", ".join(f"{name} = {name} - $2::interval" for name in names)
        await db.execute(f"UPDATE {table} SET {sets} WHERE thread_id = $1", thread_id, gone)


async def marks(db: asyncpg.Pool, thread_id: int, who: Person) -> list[tuple[str, int]]:
    rows = await db.fetch(
        "SELECT kind, seq FROM marks WHERE thread_id = $1 AND user_id = $2 ORDER BY kind, seq",
        thread_id, who.id,
    )  # fmt: skip
    return [(row["kind"], row["seq"]) for row in rows]


async def times(api: Api, thread_id: int, seq: int, who: Person) -> list[datetime]:
    """When it was delivered to the others, and when they read it."""
    page = ok(await api.get(f"/api/threads/{thread_id}/messages/{seq}/receipts", as_=who))
    return [datetime.fromisoformat(one["at"]) for kind in ("delivered", "read") for one in page[kind]]


async def test_a_receipt_has_the_time_of_the_reading_and_never_one_before_the_message(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    for _ in range(3):
        await api.say(cast.team, cast.ada, "words")
    await move(api, cast.team, cast.ben, "delivered", 2)
    await move(api, cast.team, cast.ben, "delivered", 3)
    assert await marks(db, cast.team, cast.ben) == [], "moves within a second are one"
    await later(db, cast.team, 60)
    await move(api, cast.team, cast.ben, "read", 1)
    await later(db, cast.team, 60)
    await move(api, cast.team, cast.ben, "read", 3)
    assert await marks(db, cast.team, cast.ben) == [("read", 1)]
    delivered, read = await times(api, cast.team, 1, cast.ada)
    assert timedelta(seconds=59) < read - delivered < timedelta(seconds=61)
    delivered, read = await times(api, cast.team, 2, cast.ada)
    assert timedelta(seconds=119) < read - delivered < timedelta(seconds=121)
    assert await times(api, cast.team, 3, cast.ada) == [delivered, read]
    sent = await api.say(cast.team, cast.ada, "at once")
    await move(api, cast.team, cast.ben, "read", 4)  # within a second of the last: the time is that one's
    assert {datetime.fromisoformat(sent["createdAt"])} <= set(await times(api, cast.team, 4, cast.ada))
    assert min(await times(api, cast.team, 4, cast.ada)) >= datetime.fromisoformat(sent["createdAt"])
    assert await marks(db, cast.team, cast.ben) == [("delivered", 3), ("read", 1)]
    await later(db, cast.team, 60)
    await api.say(cast.team, cast.ben, "who answers has read")
    assert await marks(db, cast.team, cast.ben) == [
        ("delivered", 3),
        ("delivered", 4),
        ("read", 1),
        ("read", 4),
    ]
    assert (await times(api, cast.team, 2, cast.ada))[0] == delivered - timedelta(seconds=60), (
        "as it was told"
    )


async def test_what_is_delivered_by_being_read_is_marked_once(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    for _ in range(6):
        await api.say(team, ada, "words")
    await move(api, team, ben, "read", 1)
    await later(db, team, 60)
    await move(api, team, ben, "read", 2)
    assert await marks(db, team, ben) == [("read", 1)]
    await later(db, team, 60)
    await api.say(team, ben, "who answers has read")
    assert await marks(db, team, ben) == [("read", 1), ("read", 2)]
    await later(db, team, 60)
    await api.say(team, ada, "more")
    await move(api, team, ben, "delivered", 8)
    assert await marks(db, team, ben) == [("delivered", 7), ("read", 1), ("read", 2)]
    for seq, minutes in ((1, 3), (2, 2), (6, 1)):
        delivered, read = await times(api, team, seq, ada)
        age = datetime.now(UTC) - read
        assert delivered == read and timedelta() <= age - timedelta(minutes=minutes) < timedelta(seconds=30)
    await hide(api, ben, True)
    (alone,) = await times(api, team, 2, ada)
    assert timedelta(minutes=2) <= datetime.now(UTC) - alone, "reached by what they have read"


@pytest.mark.parametrize(("others", "lasting"), [(99, 1), (100, 60)])
async def test_in_a_large_thread_a_mark_lasts_a_minute(
    api: Api, cast: Cast, db: asyncpg.Pool, others: int, lasting: int
) -> None:
    thread_id, _ = await crowd(db, api, cast.ben, others - 1)
    ok(await api.post(f"/api/threads/{thread_id}/members", {"userId": cast.ada.id}, as_=cast.ben), 201)
    for _ in range(5):
        await api.say(thread_id, cast.ada, "words")
    for seq, seconds in ((1, 0), (2, lasting + 0.5), (3, lasting / 2)):
        await later(db, thread_id, seconds)
        await move(api, thread_id, cast.ben, "read", seq)
    assert await marks(db, thread_id, cast.ben) == [("read", 1)]
    await later(db, thread_id, lasting / 2)
    await api.say(thread_id, cast.ben, "sent")
    assert await marks(db, thread_id, cast.ben) == [("read", 1), ("read", 3)]


async def test_who_hides_what_they_read_has_it_delivered(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    ben = cast.ben
    for _ in range(4):
        await api.say(cast.team, cast.ada, "words")
    await move(api, cast.team, ben, "read", 1)
    assert await receipts(api, cast.team, 1, cast.ada) == ([ben.id], [ben.id])
    await hide(api, ben, True)
    assert await receipts(api, cast.team, 1, cast.ada) == ([ben.id], []), "what was read before, too"
    state = await move(api, cast.team, ben, "read", 3)
    assert (state["lastReadSeq"], state["deliveredSeq"]) == (3, 3)
    assert await receipts(api, cast.team, 3, cast.ada) == ([ben.id], [])
    assert await receipts(api, cast.team, 3, ben) == ([ben.id], []), "nor to themself"
    await hide(api, ben, False)
    assert await receipts(api, cast.team, 1, cast.ada) == ([ben.id], [ben.id])
    assert await receipts(api, cast.team, 3, cast.ada) == ([ben.id], []), "read while it was hidden"
    await hide(api, ben, True)
    await api.say(cast.team, ben, "I answer")
    await hide(api, ben, False)
    assert await receipts(api, cast.team, 4, cast.ada) == ([ben.id], [])
    await api.say(cast.team, cast.ada, "more")
    await move(api, cast.team, ben, "read", 6)
    assert await receipts(api, cast.team, 6, cast.ada) == ([ben.id], [ben.id])


async def crowd(db: asyncpg.Pool, api: Api, founder: Person, size: int) -> tuple[int, list[int]]:
    """A group of the founder and so many others; the ids of the others."""
    ids = await db.fetchval(
        """WITH person AS (INSERT INTO users (name) SELECT 'one of many' FROM generate_series(1, $1) RETURNING id)
           SELECT array_agg(id ORDER BY id) FROM person""",
        size,
    )
    body = {"title": "Crowd", "memberIds": ids}
    return ok(await api.post("/api/threads", body, as_=founder), 201)["thread"]["id"], ids


async def reported(
    db: asyncpg.Pool, thread_id: int, people: list[int], seq: int, *, seen: bool = True
) -> None:
    await db.execute(
        """UPDATE memberships
           SET delivered_seq = $3, delivered_at = now(), seen_seq = CASE WHEN $4 THEN $3 ELSE seen_seq END,
               seen_at = CASE WHEN $4 THEN now() ELSE seen_at END
           WHERE thread_id = $1 AND user_id = ANY($2::bigint[])""",
        thread_id, people, seq, seen,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [1, 3, 4, 100])
async def test_the_pages_of_receipts_hold_each_person_once(
    api: Api, cast: Cast, db: asyncpg.Pool, limit: int
) -> None:
    thread_id, others = await crowd(db, api, cast.ada, 12)
    await api.say(thread_id, cast.ada, "first")
    await reported(db, thread_id, others[2:10], 1)
    await reported(db, thread_id, others[4:6], 1, seen=False)
    url = f"/api/threads/{thread_id}/messages/1/receipts"
    walked: list[int] = []
    cursor, pages = "", 0
    while cursor is not None:
        page = ok(await api.get(f"{url}?limit={limit}{cursor and f'&cursor={cursor}'}", as_=cast.ada))
        walked += [one["userId"] for one in page["delivered"]]
        assert len(page["delivered"]) <= limit
        cursor, pages = page["nextCursor"], pages + 1
    assert walked == others[2:10]
    assert pages == -(-8 // limit)
    for limit in (0, 101):
        refused(await api.get(f"{url}?limit={limit}", as_=cast.ada), 422)
    await api.say(thread_id, cast.ada, "second")
    cursor = ok(await api.get(f"{url}?limit=2", as_=cast.ada))["nextCursor"]
    for foreign in (
        f"/api/threads/{thread_id}/messages/2/receipts",
        f"/api/threads/{cast.team}/messages/1/receipts",
    ):
        refused(await api.get(f"{foreign}?cursor={cursor}", as_=cast.ada), 400, "bad_cursor")
    refused(await api.get(f"{url}?cursor={cursor[:-2]}xx", as_=cast.ada), 400, "bad_cursor")


async def test_a_page_of_receipts_looks_at_so_many_spans_and_then_says_where_to_go_on(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    thread_id, others = await crowd(db, api, cast.ada, 900)
    await api.say(thread_id, cast.ada, "first")
    await reported(db, thread_id, others[-3:], 1)
    url = f"/api/threads/{thread_id}/messages/1/receipts"
    first = ok(await api.get(url, as_=cast.ada))
    assert first["delivered"] == [] and first["nextCursor"] is not None
    second = ok(await api.get(f"{url}?cursor={first['nextCursor']}", as_=cast.ada))
    assert [one["userId"] for one in second["read"]] == others[-3:] and second["nextCursor"] is None


# ---- status


async def statuses(api: Api, thread_id: int, who: Person, seq: int) -> str:
    """The status of one's own message, as all answers have it."""
    url = f"/api/threads/{thread_id}/messages"
    found = set()
    for query in ("?limit=100", "?order=desc&limit=100", f"?around={seq}", f"?around={seq}&limit=1"):
        page = ok(await api.get(f"{url}{query}", as_=who))
        found |= {one["status"] for one in page["items"] if one["seq"] == seq}
        assert all(("status" in one) == (one["author"]["id"] == who.id) for one in page["items"])
    ok(await api.ask("PUT", f"{url}/{seq}/pin", as_=who), 204)
    found |= {
        one["status"]
        for one in ok(await api.get(f"/api/threads/{thread_id}/pins", as_=who))["items"]
        if one["seq"] == seq
    }
    found.add(ok(await api.get(f"{url}/{seq}", as_=who))["message"]["status"])
    text = ok(await api.get(f"{url}/{seq}", as_=who))["message"]["text"]
    for edited in (text, f"{text}."):
        found.add(ok(await api.patch(f"{url}/{seq}", {"text": edited}, as_=who))["message"]["status"])
    (status,) = found
    return str(status)


async def test_a_message_is_delivered_and_read_when_everybody_else_says_so(
    api: Api, cast: Cast, people: Maker
) -> None:
    eve = await people("eve")
    thread_id = await api.thread(cast.ada, cast.ben, eve)
    await api.say(thread_id, cast.ada, "one")
    await api.say(thread_id, cast.ada, "two")

    async def both() -> tuple[str, str]:
        return await statuses(api, thread_id, cast.ada, 1), await statuses(api, thread_id, cast.ada, 2)

    assert await both() == ("sent", "sent")
    await move(api, thread_id, cast.ben, "read", 2)
    assert await both() == ("sent", "sent")
    await move(api, thread_id, eve, "delivered", 1)
    assert await both() == ("delivered", "sent")
    await move(api, thread_id, eve, "read", 1)
    assert await both() == ("read", "sent")
    await move(api, thread_id, eve, "delivered", 2)
    assert await both() == ("read", "delivered")
    await move(api, thread_id, eve, "unread", 1)
    assert await both() == ("read", "delivered")
    await api.say(thread_id, eve, "I answer")
    assert await both() == ("read", "read")
    page = ok(await api.get(f"/api/threads/{thread_id}/messages", as_=cast.ben))
    assert all("status" not in one for one in page["items"])
    await hide(api, eve, True)
    assert await both() == ("delivered", "delivered")


async def test_status_is_of_those_who_were_there_then(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    eve, late = await people("eve"), await people("late")
    thread_id = await api.thread(cast.ada, title="Alone")
    url = f"/api/threads/{thread_id}"
    await api.say(thread_id, cast.ada, "nobody hears")
    for who in (cast.ben, eve):
        ok(await api.post(f"{url}/members", {"userId": who.id}, as_=cast.ada), 201)
    await api.say(thread_id, cast.ada, "both hear")
    await move(api, thread_id, cast.ben, "read", 2)
    ok(await api.post(f"{url}/leave", as_=eve), 204)
    ok(await api.post(f"{url}/members", {"userId": late.id}, as_=cast.ada), 201)
    await api.say(thread_id, cast.ada, "ben and late hear")
    await move(api, thread_id, cast.ben, "read", 3)

    async def three() -> list[str]:
        return [await statuses(api, thread_id, cast.ada, seq) for seq in (1, 2, 3)]

    assert await three() == ["sent", "sent", "sent"], "eve has gone without a word"
    await move(api, thread_id, late, "read", 3)
    assert await three() == ["sent", "sent", "read"]
    ok(await api.post(f"{url}/members", {"userId": eve.id}, as_=cast.ada), 201)
    await move(api, thread_id, eve, "read", 2)  # of what she sees again
    assert await three() == ["sent", "sent", "read"]
    await move(api, thread_id, eve, "delivered", 3)
    assert await three() == ["sent", "delivered", "read"], "the best of her spans"
    await move(api, thread_id, eve, "read", 3)
    assert await three() == ["sent", "read", "read"]


@pytest.mark.parametrize(("others", "status"), [(99, "read"), (100, "sent")])
async def test_in_large_threads_a_message_stays_sent_and_nothing_is_told(
    api: Api, cast: Cast, db: asyncpg.Pool, others: int, status: str
) -> None:
    thread_id, ids = await crowd(db, api, cast.ada, others - 1)
    ok(await api.post(f"/api/threads/{thread_id}/members", {"userId": cast.ben.id}, as_=cast.ada), 201)
    await api.say(thread_id, cast.ada, "to all")
    await reported(db, thread_id, ids, 1)
    async with api.stream(thread_id, cast.ada) as stream:
        if status == "read":
            known = [(await stream.told("receipt"))["userId"] for _ in ids]
            assert known == ids
        await move(api, thread_id, cast.ben, "read", 1)
        assert await statuses(api, thread_id, cast.ada, 1) == status
        if status == "read":
            assert (await stream.told("receipt"))["userId"] == cast.ben.id
        else:
            await stream.next()  # the edit by which its status was asked for came after it
            assert stream.untold("receipt")


async def test_many_spans_leave_a_message_sent(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    await api.say(cast.team, cast.ada, "first")
    await move(api, cast.team, cast.ben, "read", 1)

    async def spans(low: int, high: int) -> None:
        await db.execute(
            """INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, left_rev, left_seq, left_at,
                   read_seq)
               SELECT $1, $2, 1000 + 2 * i, 1, 1001 + 2 * i, 1, now(), 1 FROM generate_series($3::int, $4) i""",
            cast.team, cast.mallory.id, low, high,
        )  # fmt: skip

    await spans(1, 299)
    assert await statuses(api, cast.team, cast.ada, 1) == "read"
    await spans(300, 300)
    assert await statuses(api, cast.team, cast.ada, 1) == "sent"


# ---- live


async def test_a_receipt_is_told_when_it_moves_and_to_whoever_joins(api: Api, cast: Cast) -> None:
    for _ in range(3):
        await api.say(cast.team, cast.ada, "words")
    async with api.stream(cast.team, cast.ada) as stream:
        await move(api, cast.team, cast.ben, "delivered", 2)
        told = await stream.told("receipt")
        assert (told["threadId"], told["userId"], told["deliveredSeq"], told["readSeq"]) == (
            cast.team,
            cast.ben.id,
            2,
            0,
        )
        await move(api, cast.team, cast.ben, "read", 1)
        told = await stream.told("receipt")
        assert (told["deliveredSeq"], told["readSeq"]) == (2, 1)
        await move(api, cast.team, cast.ben, "read", 1)
        await move(api, cast.team, cast.ben, "unread", 1)
        await hide(api, cast.ben, True)
        await move(api, cast.team, cast.ben, "read", 3)
        told = await stream.told("receipt")
        assert (told["deliveredSeq"], told["readSeq"]) == (3, None), "nothing in between"
    async with api.stream(cast.team, cast.ada) as stream:
        again = await stream.told("receipt")
        assert (again["userId"], again["deliveredSeq"], again["readSeq"]) == (cast.ben.id, 3, None)
        await hide(api, cast.ben, False)
    async with api.stream(cast.team, cast.ben) as stream:
        other = await stream.told("receipt")
        assert (other["userId"], other["readSeq"]) == (cast.ada.id, 3), "the others, not oneself"


async def test_who_answers_is_told_to_have_read(api: Api, cast: Cast) -> None:
    for _ in range(3):
        await api.say(cast.team, cast.ada, "words")
    async with api.stream(cast.team, cast.ada) as stream:
        for text in ("one", "two"):
            await api.say(cast.team, cast.ben, text)
        told = await stream.told("receipt")
        assert (told["userId"], told["deliveredSeq"], told["readSeq"]) == (cast.ben.id, 4, 4)
        await hide(api, cast.ben, True)
        await api.say(cast.team, cast.ada, "more")
        await api.say(cast.team, cast.ben, "three")
        mine, theirs = sorted(
            [await stream.told("receipt"), await stream.told("receipt")], key=lambda r: r["userId"]
        )
        assert (mine["userId"], mine["readSeq"]) == (cast.ada.id, 6)
        assert (theirs["deliveredSeq"], theirs["readSeq"]) == (7, None)


async def test_what_is_reported_takes_the_place_of_what_a_send_would_have_told(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    await api.say(cast.team, cast.ada, "words")

    async def both() -> bool:
        row = await row_of(db, cast.team, cast.ben)
        return bool(row["seen_seq"] == 3)

    async with api.stream(cast.team, cast.ada) as stream:
        await api.say(cast.team, cast.ben, "I answer")
        await api.say(cast.team, cast.ada, "and I")
        await move(api, cast.team, cast.ben, "read", 3)
        await until(both, "all is read")
        seen = [await stream.told("receipt")]
        while seen[-1]["userId"] != cast.ben.id or seen[-1]["readSeq"] != 3:
            seen.append(await stream.told("receipt"))
        assert seen[-1]["deliveredSeq"] == 3
