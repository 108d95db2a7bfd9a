"""What an edited message said before, who may know it, and what a quote shows of what it quotes."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.client import Api, Person
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused, waits_for_a_lock


async def edit(api: Api, thread_id: int, seq: int, who: Person, text: str) -> Any:
    url = f"/api/threads/{thread_id}/messages/{seq}"
    return ok(await api.patch(url, {"text": text}, as_=who))["message"]


async def edits(api: Api, thread_id: int, seq: int, who: Person, limit: int = 50) -> list[dict[str, str]]:
    """All earlier texts, page by page."""
    found, cursor = list[dict[str, str]](), ""
    while True:
        url = f"/api/threads/{thread_id}/messages/{seq}/edits?limit={limit}{cursor}"
        page = ok(await api.get(url, as_=who))
        assert len(page["edits"]) <= limit
        found += page["edits"]
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


async def test_what_a_message_said_before_is_told_with_when_it_was_written(api: Api, cast: Cast) -> None:
    team, ada = cast.team, cast.ada
    said = await api.say(team, ada, "one")
    assert await edits(api, team, 1, ada) == []
    second = await edit(api, team, 1, ada, "two")
    assert (await edit(api, team, 1, ada, " two "))["rev"] == second["rev"]  # the same is no edit
    third = await edit(api, team, 1, ada, "one")  # back again is one
    assert await edits(api, team, 1, ada) == [
        {"text": "one", "at": said["createdAt"]},
        {"text": "two", "at": second["editedAt"]},
    ]
    assert said["createdAt"] < second["editedAt"] < third["editedAt"]
    # What else happens to a message is no edit of it, and does not move the times.
    ok(await api.ask("PUT", f"/api/threads/{team}/messages/1/pin", as_=ada), 204)
    ok(await api.ask("PUT", f"/api/threads/{team}/messages/1/reactions/:x:", as_=ada), 204)
    assert len(await edits(api, team, 1, ada)) == 2
    await edit(api, team, 1, ada, "four")
    assert (await edits(api, team, 1, ada))[2:] == [{"text": "one", "at": third["editedAt"]}]


async def test_the_author_moderators_and_admins_may_know(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    cleo, late = await people("cleo"), await people("late")
    url = f"/api/threads/{team}"
    ok(await api.post(f"{url}/members", {"userId": cleo.id, "role": "moderator"}, as_=ada), 201)
    await api.say(team, ben, "rude")
    await edit(api, team, 1, ben, "polite")
    ok(await api.post(f"{url}/members", {"userId": late.id, "role": "admin"}, as_=ada), 201)
    await api.say(team, ada, "hm")
    await edit(api, team, 2, ada, "well")
    for who in (ada, ben, cleo):
        assert [one["text"] for one in await edits(api, team, 1, who)] == ["rude"]
    refused(await api.get(f"{url}/messages/2/edits", as_=ben), 403, "forbidden")
    assert [one["text"] for one in await edits(api, team, 2, late)] == ["hm"]
    for who, seq in ((late, 1), (cast.mallory, 1), (cast.mallory, 2), (ada, 3)):
        refused(await api.get(f"{url}/messages/{seq}/edits", as_=who), 404, "not_found")
    ok(await api.patch(f"{url}/members/{cleo.id}", {"role": "member"}, as_=ada))
    refused(await api.get(f"{url}/messages/1/edits", as_=cleo), 403, "forbidden")
    ok(await api.delete(f"{url}/members/{ben.id}", as_=ada), 204)
    refused(await api.get(f"{url}/messages/1/edits", as_=ben), 404, "not_found")


async def test_a_deleted_message_has_said_nothing(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    await api.say(team, ben, "secret 1")
    await edit(api, team, 1, ben, "secret 2")
    ok(await api.delete(f"/api/threads/{team}/messages/1", as_=ben), 204)
    for who in (ada, ben):
        assert await edits(api, team, 1, who) == []
    refused(
        await api.patch(f"/api/threads/{team}/messages/1", {"text": "x"}, as_=ben), 409, "message_deleted"
    )
    assert await db.fetchval("SELECT count(*) FROM message_edits WHERE thread_id = $1", team) == 0


@pytest.mark.parametrize("limit", [1, 2, 5, 7])
async def test_the_pages_of_edits_hold_each_once(api: Api, cast: Cast, limit: int) -> None:
    team, ada = cast.team, cast.ada
    await api.say(team, ada, "text 0")
    for n in range(1, 6):
        await edit(api, team, 1, ada, f"text {n}")
    assert [one["text"] for one in await edits(api, team, 1, ada, limit)] == [f"text {n}" for n in range(5)]


async def test_what_a_page_of_edits_is_asked_for_is_checked(api: Api, cast: Cast) -> None:
    team, ada = cast.team, cast.ada
    for seq in (1, 2):
        await api.say(team, ada, "x")
        for text in ("y", "z"):
            await edit(api, team, seq, ada, text)
    url = f"/api/threads/{team}/messages/1/edits"
    cursor = ok(await api.get(f"{url}?limit=1", as_=ada))["nextCursor"]
    other = ok(await api.get(f"/api/threads/{team}/messages/2/edits?limit=1", as_=ada))["nextCursor"]
    for bad in ("", "x", f"{cursor}A", other):
        refused(await api.get(f"{url}?cursor={bad}", as_=ada), 400, "bad_cursor")
    for query, status in (("limit=0", 422), ("limit=101", 422), ("limit=x", 400), ("order=asc", 400)):
        refused(await api.get(f"{url}?{query}", as_=ada), status)


async def test_the_latest_thousand_are_kept(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    team, ada = cast.team, cast.ada
    for _ in "12":
        await api.say(team, ada, "x")
    await db.execute(
        """INSERT INTO message_edits
           SELECT $1, seq, n - 2000, 'text ' || n, now() FROM generate_series(1, 2) seq, generate_series(1, 998) n""",
        team,
    )
    for n in range(1, 5):
        await edit(api, team, 1, ada, f"edit {n}")
    texts = [one["text"] for one in await edits_all(db, team, 1)]
    assert texts == [f"text {n}" for n in range(3, 999)] + ["x", "edit 1", "edit 2", "edit 3"]
    assert len(texts) == 1000
    assert len(await edits_all(db, team, 2)) == 998  # of another message


async def edits_all(db: asyncpg.Pool, thread_id: int, seq: int) -> list[asyncpg.Record]:
    """All that is stored."""
    return list(
        await db.fetch(
            "SELECT text FROM message_edits WHERE thread_id = $1 AND seq = $2 ORDER BY rev", thread_id, seq
        )
    )


async def test_of_edits_at_once_each_leaves_what_it_found(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    """One edit on each device: what one of them replaced is what the one before had written."""
    team, ada = cast.team, cast.ada
    await api.say(team, ada, "start")
    done = await asyncio.gather(*(edit(api, team, 1, ada, f"text {n}") for n in range(12)))
    in_order = sorted(done, key=lambda message: int(message["rev"]))
    told = await edits(api, team, 1, ada)
    assert [one["text"] for one in told] == ["start"] + [message["text"] for message in in_order[:-1]]
    assert [one["at"] for one in told[1:]] == [message["editedAt"] for message in in_order[:-1]]
    await dense(db, team)
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE messages SET text = 'the same' WHERE thread_id = $1", team)
        waiting = asyncio.create_task(edit(api, team, 1, ada, "the same"))
        await waits_for_a_lock(db, "messages.edit")
    await waiting
    assert await edits(api, team, 1, ada) == told  # nothing was replaced


# ---- quotes


async def quotes(api: Api, thread_id: int, seq: int, who: Person) -> list[Any]:
    """What a message shows of the quoted one, by whichever way it is read."""
    url = f"/api/threads/{thread_id}/messages"
    page = ok(await api.get(f"{url}?order=desc&limit=100", as_=who))["items"]
    return [
        ok(await api.get(f"{url}/{seq}", as_=who))["message"]["replyTo"],
        ok(await api.get(f"{url}?around={seq}&limit=1", as_=who))["items"][0]["replyTo"],
        *(message["replyTo"] for message in page if message["seq"] == seq),
    ]


async def test_a_quote_shows_the_quoted_message_as_it_now_is(api: Api, cast: Cast) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    long = "\U0001f9f5" * 300
    await api.say(team, ada, long)
    reply = await api.say(team, ben, "an answer", replyTo=1)
    head = {"seq": 1, "author": {"id": ada.id, "name": "ada", "kind": "user"}}
    assert reply["replyTo"] == head | {"text": long[:200]}  # characters, not bytes
    await edit(api, team, 1, ada, "short")
    ok(await api.ask("PUT", f"/api/threads/{team}/messages/1/pin", as_=ada), 204)
    ok(await api.ask("PUT", f"/api/threads/{team}/messages/1/reactions/:x:", as_=ben), 204)
    assert await quotes(api, team, 2, ben) == [head | {"text": "short"}] * 3  # and nothing else of it
    cursor = ok(await api.get(f"/api/threads/{team}", as_=ada))["thread"]["streamCursor"]
    before = f"{cursor.rpartition('.')[0]}.{reply['rev'] - 1}"
    async with api.stream(team, ada, since=before) as stream:
        told = (await stream.next()).data
        assert (told["seq"], told["replyTo"]) == (2, head | {"text": "short"})
    # The answer may change too, and still quotes.
    assert (await edit(api, team, 2, ben, "another answer"))["replyTo"] == head | {"text": "short"}
    ok(await api.delete(f"/api/threads/{team}/messages/1", as_=ada), 204)
    assert await quotes(api, team, 2, ben) == [{"seq": 1}] * 3
    body = {"text": "another answer", "replyTo": 1}
    assert ok(await api.post(f"/api/threads/{team}/messages", body, as_=ada), 201)["message"]["replyTo"] == {
        "seq": 1
    }
    ok(await api.delete(f"/api/threads/{team}/messages/2", as_=ben), 204)
    gone = ok(await api.get(f"/api/threads/{team}/messages/2", as_=ben))["message"]
    assert (gone["text"], gone["replyTo"]) == ("", {"seq": 1})


async def test_whoever_came_later_sees_of_an_earlier_quote_its_place_alone(
    api: Api, cast: Cast, people: Maker
) -> None:
    team, ada, late = cast.team, cast.ada, await people("late")
    await api.say(team, ada, "secret 1")
    ok(await api.post(f"/api/threads/{team}/members", {"userId": late.id}, as_=ada), 201)
    async with api.stream(team, late) as stream:
        said = await api.say(team, ada, "an answer", replyTo=1)
        assert said["replyTo"]["text"] == "secret 1"
        assert (await stream.next()).data["replyTo"] == {"seq": 1}
        assert await quotes(api, team, 2, late) == [{"seq": 1}] * 3
        # However often the quoted one, or the answer, changes.
        await edit(api, team, 1, ada, "secret 2")
        ok(await api.ask("PUT", f"/api/threads/{team}/messages/1/reactions/:x:", as_=ada), 204)
        ok(await api.ask("PUT", f"/api/threads/{team}/messages/2/pin", as_=late), 204)
        ok(await api.ask("PUT", f"/api/threads/{team}/messages/2/reactions/:x:", as_=late), 204)
        for _ in "12":
            event = await stream.next()
            assert (event.data["seq"], event.data["replyTo"]) == (2, {"seq": 1})
        assert b"secret" not in repr([event.data for event in stream.seen]).encode()
        body = {"text": "me too", "replyTo": 1}
        refused(await api.post(f"/api/threads/{team}/messages", body, as_=late), 422, "invalid")
