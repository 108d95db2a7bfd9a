"""bobbin archive: what leaves comes back as it was, and who reads meanwhile is told the truth."""

import asyncio
import gzip
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
import pytest

from server.base.settings import load
from server.live import changes
from server.ops import archive
from server.ops.archive import ArchiveError, Outcome, Shelf, Stretch
from server.ops.migrate import MIGRATIONS
from tests.client import LIMIT_SECONDS, Api
from tests.conftest import Backing, Cast
from tests.live.talk import talk
from tests.live.wire import wire
from tests.ops.process import environment
from tests.rules import dense, ok, refused, until
from tests.staff import astray, contact, says

LONG_AGO = timedelta(days=400)
UP = quote("👍")


@pytest.fixture
async def conn(served: str, api: Api) -> AsyncIterator[asyncpg.Connection]:
    """As the command has it, to the server's own database."""
    async with archive._connected(served) as conn:
        yield conn


@pytest.fixture
async def archived(
    conn: asyncpg.Connection, cast: Cast, db: asyncpg.Pool, tmp_path: Path
) -> AsyncIterator["Archived"]:
    found = Archived(conn, db, cast.team, tmp_path / "files")
    yield found
    found.shelf.close()


class Archived:
    """The archive of one thread. (The others in this database are of other tests.)"""

    def __init__(self, conn: asyncpg.Connection, db: asyncpg.Pool, thread_id: int, folder: Path) -> None:
        self.conn, self.db, self.thread_id, self.folder = conn, db, thread_id, folder
        self.shelf = Shelf(folder)

    async def up_to(self, seq: int, **more: Any) -> Outcome:
        """Archive what came before the message after this one."""
        before = await self.db.fetchval(
            "SELECT created_at FROM messages WHERE thread_id = $1 AND seq = $2", self.thread_id, seq + 1
        )
        return await archive.archive(self.conn, self.shelf, before=before, thread_id=self.thread_id, **more)

    async def back(self, *names: str, **more: Any) -> tuple[int, list[Stretch]]:
        """Restore these files, or all."""
        paths = [self.folder / name for name in names] or sorted(self.folder.iterdir())
        return await archive.restore(self.conn, paths, **more)

    def next_file(self) -> None:
        self.shelf.close()
        self.shelf = Shelf(self.folder)

    async def border(self) -> int:
        found: int = await self.db.fetchval(
            "SELECT archived_seq FROM thread_heads WHERE thread_id = $1", self.thread_id
        )
        return found

    async def rows(self) -> dict[str, int]:
        """How many rows are left of the thread, by table."""
        tables = (
            "messages",
            "reactions",
            "pins",
            "mentions",
            "message_edits",
            "marks",
            "changes",
            "client_ids",
        )
        return {
            one: await self.db.fetchval(f"SELECT count(*) FROM {one} WHERE thread_id = $1", self.thread_id)
            for one in tables
        }


async def lively(api: Api, cast: Cast, db: asyncpg.Pool, count: int = 40, *, seed: int = 1) -> None:
    """A thread in which everything has happened that can, long ago."""
    chance, url = random.Random(seed), f"/api/threads/{cast.team}/messages"
    name = await db.fetchval("SELECT username FROM users WHERE id = $1", cast.ben.id)
    for seq in range(1, count + 1):
        who, other = (cast.ada, cast.ben) if chance.random() < 0.5 else (cast.ben, cast.ada)
        more: dict[str, Any] = {"clientId": f"c{seq}"} if chance.random() < 0.5 else {}
        if seq > 1 and chance.random() < 0.4:
            more["replyTo"] = chance.randrange(1, seq)
        text = chance.choice([f'№ {seq} \U0001f9f5 \u2028\t"\\ 日本語', f"@{name} look at {seq}", "x" * 3000])
        await api.say(cast.team, who, text, **more)
        at = f"{url}/{chance.randint(max(1, seq - 5), seq)}"
        act = chance.random()
        if act < 0.25:
            await api.ask("PUT", f"{at}/reactions/{UP}", as_=who)
            await api.ask("PUT", f"{at}/reactions/:yes:", as_=other)
        elif act < 0.4:
            await api.patch(f"{url}/{seq}", {"text": f"edited {seq}"}, as_=who)
        elif act < 0.5:
            await api.delete(at, as_=cast.ada)
        elif act < 0.6:
            await api.ask("PUT", f"{at}/pin", as_=other)
        elif act < 0.8:
            await api.post(f"/api/threads/{cast.team}/read", {"seq": seq}, as_=other)
            # As if it were a while ago: the next one leaves a mark.
            await db.execute(
                """UPDATE memberships
                   SET seen_at = seen_at - interval '1 day', delivered_at = delivered_at - interval '1 day'
                   WHERE thread_id = $1""",
                cast.team,
            )
    await db.execute(
        """WITH head AS (
               UPDATE thread_heads SET last_message_at = last_message_at - $2::interval WHERE thread_id = $1)
           UPDATE messages SET created_at = created_at - $2::interval WHERE thread_id = $1""",
        cast.team,
        LONG_AGO,
    )


async def everything(api: Api, cast: Cast) -> dict[str, bytes]:
    """All that ada and ben are told of the thread, byte for byte."""
    found = {}
    url = f"/api/threads/{cast.team}"
    for who in (cast.ada, cast.ben):
        asked = [f"{url}/messages?order={order}&limit=7" for order in ("asc", "desc")]
        asked += [url, f"{url}/pins", f"{url}/messages?around=9&limit=9"]
        last = ok(await api.get(url, as_=who))["thread"]["lastSeq"]
        for seq in range(1, last + 1):
            asked += [f"{url}/messages/{seq}{part}" for part in ("", "/receipts", "/edits")]
        while asked:
            reply = await api.get(path := asked.pop(), as_=who)
            found[f"{who.name} {path}"] = re.sub(rb'"requestId":"[^"]*"', b"", reply.body)
            if "order=" in path and reply.json["nextCursor"]:
                asked.append(f"{path.partition('&cursor')[0]}&cursor={reply.json['nextCursor']}")
    return found


async def walked(api: Api, cast: Cast, order: str = "asc", limit: int = 10) -> tuple[list[int], int | None]:
    """The seqs of all pages, and what the last one says of the archive."""
    url, seqs, cursor = f"/api/threads/{cast.team}/messages?order={order}&limit={limit}", list[int](), ""
    while True:
        page = ok(await api.get(url + cursor, as_=cast.ben))
        seqs += [one["seq"] for one in page["items"]]
        if page["nextCursor"] is None:
            return seqs, page.get("archivedBefore")
        cursor = f"&cursor={page['nextCursor']}"


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_what_leaves_in_whatever_pieces_comes_back_byte_for_byte(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived, seed: int
) -> None:
    chance = random.Random(seed)
    await lively(api, cast, db, 40, seed=seed)
    before, rows = await everything(api, cast), await archived.rows()
    assert all(rows.values()), rows  # else this shows little
    for _ in range(6):
        border = await archived.border()
        if border and chance.random() < 0.4:
            back, waiting = await archived.back()
            assert (back, waiting) == (border, [])
        elif border < 39:
            to = chance.randint(border + 1, 39)
            outcome = await archived.up_to(to, batch=chance.randint(1, 12))
            assert (outcome.messages, outcome.busy) == (to - border, set())
            if chance.random() < 0.5:
                archived.next_file()
        border = await archived.border()
        seqs, told = await walked(api, cast)
        assert seqs == list(range(border + 1, 41))
        assert await dense(db, cast.team) == 40
        assert told == (border + 1 if border else None)
        assert (await walked(api, cast, "desc"))[0] == seqs[::-1]
        thread = ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ben))["thread"]
        assert (thread["lastSeq"], thread.get("archivedBefore")) == (40, told)
    if await archived.border():
        await archived.back()
    after = await everything(api, cast)
    assert after == before
    assert (await archived.rows()) | {"changes": 0} == rows | {"changes": 0}
    assert not await db.fetchval("SELECT count(*) FROM archives WHERE thread_id = $1", cast.team)


async def test_what_is_archived_leaves_nothing_behind_but_that_it_was_sent(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived
) -> None:
    await lively(api, cast, db)
    ids = (await archived.rows())["client_ids"]
    # Somebody has read to the end: no mark at 39 or below is an open one.
    for who in (cast.ada, cast.ben):
        ok(await api.post(f"/api/threads/{cast.team}/read", {"seq": 40}, as_=who))
    floor = await db.fetchval("SELECT max(rev) FROM messages WHERE thread_id = $1 AND seq < 40", cast.team)
    outcome = await archived.up_to(39)
    assert (outcome.messages, outcome.threads, len(outcome.files)) == (39, {cast.team}, 1)
    rows = await archived.rows()
    assert (rows["messages"], rows["client_ids"]) == (1, ids)
    for table in ("reactions", "pins", "mentions", "message_edits", "marks"):
        assert not await db.fetchval(
            f"SELECT count(*) FROM {table} WHERE thread_id = $1 AND seq < 40", cast.team
        ), table
    head = await db.fetchrow("SELECT * FROM thread_heads WHERE thread_id = $1", cast.team)
    assert (head["archived_seq"], head["last_seq"], head["log_floor"]) == (39, 40, floor)
    assert not await db.fetchval(
        "SELECT count(*) FROM changes WHERE thread_id = $1 AND kind = 'message' AND seq < 40", cast.team
    )
    assert await db.fetchval(
        "SELECT count(*) FROM changes WHERE thread_id = $1 AND rev > $2", cast.team, floor
    ) == head["last_rev"] - floor  # fmt: skip
    file = archived.folder / outcome.files[0]
    assert (file.stat().st_mode & 0o777, archived.folder.stat().st_mode & 0o777) == (0o600, 0o700)
    first, *lines = gzip.decompress(file.read_bytes()).splitlines()
    assert orjson.loads(first) == {
        "bobbinArchive": 1,
        "stretches": [{"thread": cast.team, "first": 1, "last": 39}],
    }
    assert orjson.loads(lines[-1])["end"] == len(lines)
    # The latest message stays, however old: lists show it.
    assert (await archive.archive(
        archived.conn, archived.shelf, before=datetime.now(UTC), thread_id=cast.team
    )).messages == 0  # fmt: skip
    assert ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ben))["thread"]["lastMessage"]["seq"] == 40


async def test_an_archived_message_is_told_to_be_archived_to_who_could_see_it_alone(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived, people: Any
) -> None:
    for n in range(1, 7):
        await api.say(cast.team, cast.ada, f"message {n}")
    late = await people("late")
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": late.id}, as_=cast.ada), 201)
    await api.say(cast.team, cast.ada, "to all of you")
    await archived.up_to(5)
    url = f"/api/threads/{cast.team}/messages"
    asked: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("PATCH", "", {"text": "x"}),
        ("DELETE", "", None),
        ("GET", "/edits", None),
        ("GET", "/receipts", None),
        ("PUT", "/pin", None),
        ("DELETE", "/pin", None),
        ("PUT", f"/reactions/{UP}", None),
        ("DELETE", f"/reactions/{UP}", None),
    ]
    for method, part, body in asked:
        for who, seq, code in (
            (cast.ada, 5, "message_archived"),
            (cast.ada, 99, "not_found"),
            (late, 5, "not_found"),
            (cast.mallory, 5, "not_found"),
        ):
            more = {"json": body} if body else {}
            refused(await api.ask(method, f"{url}/{seq}{part}", as_=who, **more), 404, code)
    for who, code in ((cast.ada, "message_archived"), (late, "invalid")):
        refused(await api.post(url, {"text": "re", "replyTo": 5}, as_=who), 422, code)
    assert ok(await api.get(f"{url}/6", as_=cast.ada))["message"]["text"] == "message 6"


async def test_a_retry_of_what_is_archived_says_so_and_sends_nothing(
    api: Api, cast: Cast, archived: Archived
) -> None:
    url, sent = f"/api/threads/{cast.team}/messages", {"text": "once", "clientId": "a"}
    await api.say(cast.team, cast.ada, "zeroth")
    ok(await api.post(url, sent, as_=cast.ada), 201)
    ok(await api.post(url, {"text": "re", "replyTo": 1, "clientId": "b"}, as_=cast.ada), 201)
    await api.say(cast.team, cast.ada, "last")
    await archived.up_to(3)
    said = refused(await api.post(url, sent, as_=cast.ada), 409, "message_archived")
    assert said["details"] == {"seq": 2}
    said = refused(
        await api.post(url, {"text": "re", "replyTo": 1, "clientId": "b"}, as_=cast.ada),
        409,
        "message_archived",
    )
    assert said["details"] == {"seq": 3}
    refused(await api.post(url, sent | {"text": "twice"}, as_=cast.ada), 422, "client_id_reused")
    ok(await api.post(url, sent, as_=cast.ben), 201)  # his own
    assert (await walked(api, cast))[0] == [4, 5]
    async with talk(api.base, cast.ada) as line:
        await line.refused("message_archived", "send", threadId=cast.team, **sent)
    await archived.back()
    assert ok(await api.post(url, sent, as_=cast.ada))["message"]["seq"] == 2


async def test_pages_begin_at_the_border_whatever_place_is_asked_for(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived
) -> None:
    for n in range(1, 21):
        await api.say(cast.team, cast.ada, f"message {n}", **({"replyTo": n - 1} if n > 1 else {}))
    url = f"/api/threads/{cast.team}/messages"
    up, down = [ok(await api.get(f"{url}?order={way}&limit=5", as_=cast.ben)) for way in ("asc", "desc")]
    first_at = up["items"][0]["createdAt"]
    await archived.up_to(12)

    async def page(query: str) -> Any:
        found = ok(await api.get(f"{url}?{query}", as_=cast.ben))
        assert found["archivedBefore"] == 13
        seqs = [one["seq"] for one in found["items"]]
        return seqs, found["prevCursor"] is not None, found["nextCursor"] is not None, found

    # A cursor of before goes on at the border, and what lies between them is told.
    assert (await page(f"cursor={up['nextCursor']}&limit=3"))[:3] == ([13, 14, 15], False, True)
    *found, rest = await page(f"cursor={down['nextCursor']}&limit=5")
    assert found == [[15, 14, 13], True, False]
    back = await page(f"cursor={rest['prevCursor']}&limit=5")
    assert back[0] == [20, 19, 18, 17, 16]
    assert (await page("around=3&limit=4"))[:3] == ([13, 14, 15, 16], False, True)
    assert (await page(f"at={quote(first_at)}&limit=4"))[:3] == ([13, 14, 15, 16], False, True)
    assert (await page("around=13&limit=3"))[0] == [13, 14, 15]
    found = (await page("limit=2"))[3]["items"]
    assert found[0]["replyTo"] == {"seq": 12}  # bare: it is not there
    assert found[1]["replyTo"]["text"] == "message 13"


async def test_what_is_unread_ends_at_the_border_and_is_there_again_with_the_messages(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived
) -> None:
    for n in range(1, 11):
        await api.say(cast.team, cast.ada, f"message {n}")
    ok(await api.delete(f"/api/threads/{cast.team}/messages/3", as_=cast.ada), 204)
    ok(await api.delete(f"/api/threads/{cast.team}/messages/8", as_=cast.ada), 204)
    url = f"/api/threads/{cast.team}"

    async def unread() -> tuple[int, int, int]:
        thread = ok(await api.get(url, as_=cast.ben))["thread"]
        moved = ok(await api.post(f"{url}/read", {"seq": 1}, as_=cast.ben))
        told = thread["unreadCount"], thread["firstUnreadSeq"], thread["lastReadSeq"]
        assert told == (moved["unreadCount"], moved["firstUnreadSeq"], moved["lastReadSeq"])
        return told

    ok(await api.post(f"{url}/read", {"seq": 1}, as_=cast.ben))
    assert await unread() == (7, 2, 1)
    await archived.up_to(6)
    assert await unread() == (3, 7, 6)
    moved = ok(
        await api.post(f"{url}/unread", {"seq": 2}, as_=cast.ben)
    )  # no further back than what is there
    assert (moved["unreadCount"], moved["lastReadSeq"]) == (3, 6)
    await archived.back()
    assert await unread() == (7, 2, 1)


async def test_the_inbox_is_told_of_the_border_too(
    api: Api, cast: Cast, db: asyncpg.Pool, conn: asyncpg.Connection, tmp_path: Path
) -> None:
    carla = await contact(db)
    await says(db, carla, *(f"message {n}" for n in range(1, 11)))
    archived = Archived(conn, db, carla.thread, tmp_path / "files")
    before = await db.fetchval("SELECT told FROM conversations WHERE thread_id = $1", carla.thread)
    await archived.up_to(6)
    assert await archived.border() == 6 and await astray(db, carla) == []
    await archived.back()
    assert await archived.border() == 0 and await astray(db, carla) == []
    assert await db.fetchval("SELECT told FROM conversations WHERE thread_id = $1", carla.thread) == before
    archived.shelf.close()


async def test_a_stream_from_below_the_border_gets_a_resync_and_whoever_is_up_to_date_hears_nothing_of_it(
    api: Api, cast: Cast, archived: Archived
) -> None:
    for n in range(1, 8):
        await api.say(cast.team, cast.ada, f"message {n}")
    url = f"/api/threads/{cast.team}"
    page = ok(await api.get(f"{url}/messages?limit=1", as_=cast.ben))
    head = page["streamCursor"].rpartition(".")
    old, kept = f"{head[0]}.{int(head[2]) - 4}", f"{head[0]}.{int(head[2]) - 1}"
    async with api.stream(cast.team, cast.ben) as live, api.feed(cast.ben) as feed:
        await archived.up_to(5)
        async with wire(api.base, cast.team, cast.ben, since=old) as line:
            ready, missed = await line.next(), await line.next()
            assert ready and missed
            assert (ready.event, missed.event, missed.id) == ("ready", "resync", page["streamCursor"])
            async with api.stream(cast.team, cast.ben, since=kept) as near:
                told = await api.say(cast.team, cast.ada, "new")
                new = await line.next()
                assert new and new.json["seq"] == told["seq"]
                assert [one.data["seq"] for one in await near.take(2)] == [7, 8]
        async with talk(api.base, cast.ben) as socket:
            await socket.join(cast.team, since=old)
            assert (await socket.next()).event == "resync"
        assert (await live.next()).data["text"] == "new"
        assert (await feed.next()).data["archivedBefore"] == 6


async def test_a_late_change_of_an_archived_message_is_no_hole_in_a_stream(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived
) -> None:
    """Its change is of just now, and what it was about is not there: nothing is told from before it."""
    for n in range(1, 8):
        await api.say(cast.team, cast.ada, f"message {n}")
    start = ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ben))["thread"]["streamCursor"]
    ok(await api.ask("PUT", f"/api/threads/{cast.team}/messages/2/pin", as_=cast.ada), 204)
    await api.say(cast.team, cast.ada, "message 8")
    await archived.up_to(3)
    async with wire(api.base, cast.team, cast.ben, since=start) as line:
        ready, missed = await line.next(), await line.next()
        assert ready and missed and (ready.event, missed.event) == ("ready", "resync")
    # Nor to a reader whose door was open before the floor rose.
    below = await changes.since(
        archived.conn, thread_id=cast.team, after_rev=int(start.rpartition(".")[2]), size=9
    )
    assert [(row["kind"], row["seq"]) for row in below] == [("message", 8)]
    # It is still there for who asks by transaction: the user streams, the index.
    kept = await db.fetch("SELECT kind, seq FROM changes WHERE thread_id = $1 ORDER BY rev", cast.team)
    assert [tuple(row) for row in kept][-2:] == [("message_updated", 2), ("message", 8)]
    assert ("message", 3) not in [tuple(row) for row in kept]
    await archived.up_to(7)  # and goes when the archive has come past it
    kept = await db.fetch("SELECT kind, seq FROM changes WHERE thread_id = $1 ORDER BY rev", cast.team)
    assert [tuple(row) for row in kept] == [("message_updated", 2), ("message", 8)]


async def test_who_reads_meanwhile_sees_a_dense_run_that_ends_at_the_border(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived
) -> None:
    for n in range(1, 41):
        await api.say(cast.team, cast.ada, f"message {n}")
    url, over, seen = f"/api/threads/{cast.team}/messages", asyncio.Event(), set[int]()

    async def read(query: str) -> None:
        while not over.is_set():
            page = ok(await api.get(f"{url}?{query}", as_=cast.ben))
            seqs = sorted(one["seq"] for one in page["items"])
            border = page.get("archivedBefore", 1)
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), seqs
            assert seqs[0] >= border and (page["prevCursor"] is None or "asc" not in query), page
            if "asc" in query:
                assert seqs[0] == border and len(seqs) == min(20, 41 - border)
            seen.add(border)

    readers = [
        asyncio.create_task(read(query))
        for query in ("order=asc&limit=20", "order=desc&limit=40", "around=5&limit=8")
    ]
    try:
        for _ in range(3):
            await archived.up_to(39, batch=3)
            assert await archived.back() == (39, [])
            archived.next_file()
            for file in archived.folder.iterdir():
                file.unlink()
    finally:
        over.set()
    await asyncio.gather(*readers)
    assert len(seen) > 3, seen


async def test_what_is_changed_while_it_is_being_written_is_written_again(
    api: Api, cast: Cast, archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1, 5):
        await api.say(cast.team, cast.ada, f"message {n}")
    take, turns = archive._take, iter(range(100))

    async def disturbed(*args: Any, **more: Any) -> None:
        if next(turns) < many:
            ok(
                await api.patch(
                    f"/api/threads/{cast.team}/messages/2",
                    {"text": f"edit {turns}"[-9:] + str(many)},
                    as_=cast.ada,
                )
            )
            ok(await api.ask("PUT", f"/api/threads/{cast.team}/messages/1/reactions/{UP}", as_=cast.ben), 204)
            ok(await api.delete(f"/api/threads/{cast.team}/messages/1/reactions/{UP}", as_=cast.ben), 204)
            many_texts.append(
                ok(await api.get(f"/api/threads/{cast.team}/messages/2", as_=cast.ben))["message"]
            )
        await take(*args, **more)

    monkeypatch.setattr(archive, "_take", disturbed)
    many_texts: list[Any] = []
    many = 100
    outcome = await archived.up_to(3)
    assert (outcome.messages, outcome.busy, await archived.border()) == (0, {cast.team}, 0)
    many, turns = 2, iter(range(100))
    outcome = await archived.up_to(3)
    assert (outcome.messages, outcome.busy, await archived.border()) == (3, set(), 3)
    # Of what was given up nothing stands in the file.
    assert gzip.decompress((archived.folder / outcome.files[0]).read_bytes()).count(b'{"bobbinArchive"') == 1
    await archived.back()
    assert (
        ok(await api.get(f"/api/threads/{cast.team}/messages/2", as_=cast.ben))["message"] == many_texts[-1]
    )


async def test_who_writes_in_a_thread_does_not_wait_for_its_archive(
    api: Api, cast: Cast, archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1, 6):
        await api.say(cast.team, cast.ada, f"message {n}")
    advance = archive.advance

    async def slow(*args: Any, **more: Any) -> int:
        # All is taken away, nothing is committed: send, edit and read go on.
        await api.say(cast.team, cast.ben, "meanwhile", replyTo=5)
        ok(await api.patch(f"/api/threads/{cast.team}/messages/5", {"text": "edited"}, as_=cast.ada))
        ok(await api.post(f"/api/threads/{cast.team}/read", {"seq": 2}, as_=cast.ben))
        assert (await walked(api, cast))[0] == [1, 2, 3, 4, 5, 6]
        return await advance(*args, **more)

    monkeypatch.setattr(archive, "advance", slow)
    assert (await archived.up_to(4)).messages == 4
    assert (await walked(api, cast))[0] == [5, 6]


async def test_a_crash_at_any_moment_loses_nothing(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lively(api, cast, db, 30)
    before = await everything(api, cast)

    class Crash(BaseException):
        pass

    async def crash(*_: Any, **__: Any) -> Any:
        raise Crash

    for where, border in (("_write", 0), ("take", 0), ("advance", 0), ("_sweep", 10)):
        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(archive, where, crash)
            await archived.up_to(20, batch=10)
        assert await archived.border() == border, where
        if not border:
            assert await everything(api, cast) == before, where
        archived.next_file()  # another process
    left = await archived.rows()
    assert left["reactions"] and left["message_edits"]  # what was not swept up
    assert (await archived.up_to(20, batch=10)).messages == 10
    for table in ("reactions", "message_edits", "marks"):
        assert not await db.fetchval(
            f"SELECT count(*) FROM {table} WHERE thread_id = $1 AND seq <= 20", cast.team
        ), table
    rows = await db.fetch("SELECT DISTINCT file FROM archives WHERE thread_id = $1", cast.team)
    names = [row["file"] for row in rows]
    assert len(names) == 2
    for where in ("put_messages", "retreat"):
        with monkeypatch.context() as patch, pytest.raises(Crash):
            patch.setattr(archive, where, crash)
            await archived.back(*names)
        assert await archived.border() == 20
    back, waiting = await archived.back(*names)
    assert (back, waiting) == (20, [])
    assert await everything(api, cast) == before


async def test_a_file_that_is_not_what_was_written_is_refused_and_changes_nothing(
    api: Api, cast: Cast, archived: Archived, tmp_path: Path
) -> None:
    for n in range(1, 6):
        await api.say(cast.team, cast.ada, f"message {n}")
    (name,) = (await archived.up_to(4)).files
    archived.shelf.close()
    file, whole = archived.folder / name, (archived.folder / name).read_bytes()
    lines = gzip.decompress(whole)
    wrong = {
        "flipped": bytes([*whole[:60], whole[60] ^ 1, *whole[61:]]),
        "cut": whole[:-30],
        "empty": b"",
        "another": gzip.compress(lines.replace(b"message 2", b"message X")),
        "without end": gzip.compress(lines[: lines.rindex(b'{"end"')]),
        "no archive": b"hello",
    }
    for what, given in wrong.items():
        file.write_bytes(given)
        with pytest.raises(ArchiveError, match=re.escape(str(file))):
            await archived.back(name)
        assert (await archived.border(), (await archived.rows())["messages"]) == (4, 1), what
    (tmp_path / "foreign.gz").write_bytes(whole)
    for name_, said in (("../foreign.gz", r"Nothing in foreign\.gz"), ("nowhere.gz", "There is no file")):
        with pytest.raises(ArchiveError, match=said):
            await archived.back(name_)
    file.write_bytes(whole)
    assert await archived.back(name) == (4, [])
    with pytest.raises(ArchiveError, match="Nothing in"):
        await archived.back(name)


async def test_files_come_back_from_the_border_downwards(api: Api, cast: Cast, archived: Archived) -> None:
    for n in range(1, 10):
        await api.say(cast.team, cast.ada, f"message {n}")
    (older,) = (await archived.up_to(3)).files
    archived.next_file()
    (newer,) = (await archived.up_to(6)).files
    assert await archived.back(older) == (0, [Stretch(cast.team, 0, 3)])
    assert (await walked(api, cast))[0] == [7, 8, 9]
    assert await archived.back(newer) == (3, [])
    assert (await walked(api, cast))[0] == [4, 5, 6, 7, 8, 9]
    await archived.up_to(5)
    assert (await walked(api, cast))[0] == [6, 7, 8, 9]
    assert await archived.back() == (5, [])
    assert (await walked(api, cast))[0] == list(range(1, 10))


async def test_the_text_of_what_is_archived_leaves_the_index_and_comes_back_with_it(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived
) -> None:
    word = f"warp{cast.team}weft"
    for n in range(1, 5):
        await api.say(cast.team, cast.ada, f"{word} {n}")

    async def found() -> list[int]:
        page = ok(await api.get(f"/api/search?q={word}", as_=cast.ben))
        return [one["message"]["seq"] for one in page["results"]]

    async def indexed() -> int:
        blocks = await db.fetch("SELECT text FROM search_blocks")
        return sum(row["text"].count(word) for row in blocks)

    async def settled(count: int) -> bool:
        return await indexed() == count and not await db.fetchval("SELECT count(*) FROM search_late")

    await until(lambda: settled(4), "the index has them")
    await archived.up_to(3)
    assert await found() == [4]  # at once
    await until(lambda: settled(1), "it lets go of them")
    await archived.back()
    await until(lambda: settled(4), "and takes them back")
    assert await found() == [4, 3, 2, 1]


async def test_who_holds_a_thread_is_not_waited_for_while_it_is_brought_back(
    api: Api, cast: Cast, db: asyncpg.Pool, archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1, 5):
        await api.say(cast.team, cast.ada, f"said {n}")
    await archived.up_to(3)
    monkeypatch.setattr(archive, "WAIT_MS", 20)
    monkeypatch.setattr(archive, "BACK_TRIES", 2)
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR UPDATE", cast.team)
        with pytest.raises(archive.ArchiveError, match="try again"):
            async with asyncio.timeout(LIMIT_SECONDS):
                await archived.back()
    assert (await walked(api, cast))[0] == [4]
    assert (await archived.back())[0] == 3
    assert (await walked(api, cast))[0] == [1, 2, 3, 4]


@pytest.fixture
async def town(db_url: str, backing: Backing) -> AsyncIterator[asyncpg.Connection]:
    """Threads 1 to 30 of a person: the n-th has n messages, one each day, the latest of them 20 days ago."""
    conn = await asyncpg.connect(db_url, server_settings={"timezone": "UTC"})
    await conn.execute("TRUNCATE users, threads, messages, changes, client_ids CASCADE")
    await conn.execute(
        """WITH person AS (INSERT INTO users (id, name) VALUES (1, 'ada')),
           thread AS (
               INSERT INTO threads (id, kind, title) SELECT n, 'group', 'Thread ' || n FROM generate_series(1, 30) n),
           head AS (
               INSERT INTO thread_heads (thread_id, last_seq, last_rev, message_count, last_message_at)
               SELECT n, n, n, n, now() - interval '20 days' FROM generate_series(1, 30) n),
           change AS (
               INSERT INTO changes (thread_id, rev, kind, seq)
               SELECT n, s, 'message', s FROM generate_series(1, 30) n, generate_series(1, n) s)
           INSERT INTO messages (thread_id, seq, rev, author_id, text, created_at)
           SELECT n, s, s, 1, 'said', now() - make_interval(days => 20 + n - s)
           FROM generate_series(1, 30) n, generate_series(1, n) s"""
    )
    yield conn
    await conn.close()


async def borders(town: asyncpg.Connection) -> list[int]:
    rows = await town.fetch("SELECT archived_seq FROM thread_heads ORDER BY thread_id")
    return [row["archived_seq"] for row in rows]


async def test_all_threads_go_together_in_batches_each_up_to_its_own_border(
    town: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    before = datetime.now(UTC) - timedelta(days=30, hours=-1)  # 20 to 29 days: ten days stay
    wanted = [max(0, n - 10) for n in range(1, 31)]
    async with archive._connected(db_url) as conn:
        dry = await archive.archive(conn, shelf := Shelf(tmp_path / "a"), before=before, dry_run=True)
        assert (dry.messages, len(dry.threads), await borders(town)) == (sum(wanted), 20, [0] * 30)
        assert not (tmp_path / "a").exists()
        one = await archive.archive(conn, shelf, before=before, thread_id=15)
        assert (one.messages, await borders(town)) == (5, [0] * 14 + [5] + [0] * 15)
        rest = await archive.archive(conn, shelf, before=before, batch=7)
        assert (rest.messages, await borders(town)) == (sum(wanted) - 5, wanted)
        shelf.close()
        await archive.restore(conn, list((tmp_path / "a").iterdir()), thread_id=20)
        assert await borders(town) == [*wanted[:19], 0, *wanted[20:]]
        await archive.restore(conn, list((tmp_path / "a").iterdir()))
        assert await borders(town) == [0] * 30
        assert await town.fetchval("SELECT count(*) FROM messages") == sum(range(1, 31))


async def test_a_file_that_is_full_is_followed_by_another(
    town: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path, most_bytes=1)
    async with archive._connected(db_url) as conn:
        outcome = await archive.archive(conn, shelf, before=datetime.now(UTC), batch=100)
        assert len(outcome.files) == len(list(tmp_path.iterdir())) == 5  # of 435 messages
        shelf.close()
        assert (await archive.restore(conn, list(tmp_path.iterdir())))[0] == 435


async def test_the_server_tidies_up_by_itself_one_worker_at_a_time(
    town: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    settings = load(
        {
            "DATABASE_URL": db_url,
            "BOBBIN_RETENTION_DAYS": "40",
            "BOBBIN_DATA_DIR": str(tmp_path / "data"),
        },
        serves=False,
    )
    async with archive._connected(db_url) as other:
        assert await archive.try_archive(other)
        assert await archive.tidy(settings) is None
    done = [one for one in await asyncio.gather(archive.tidy(settings), archive.tidy(settings)) if one]
    # Threads whose first message is of 41 days or more, and of these what is of 40: at most 20 + 30 - 1 = 49.
    wanted = [max(0, n - 20) if n > 21 else 0 for n in range(1, 31)]
    assert sum(one.messages for one in done) == sum(wanted)
    assert await borders(town) == wanted
    assert len(list((tmp_path / "data" / "archive").iterdir())) == 1
    none = load({"DATABASE_URL": db_url, "BOBBIN_DATA_DIR": str(tmp_path)}, serves=False)
    assert (none.retention_days, none.archive_dir) == (0, "")  # nothing is archived unasked


async def test_a_worker_keeps_it_up_and_lets_go_of_what_it_has_in_hand_when_it_ends(
    town: asyncpg.Connection, db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"DATABASE_URL": db_url, "BOBBIN_ARCHIVE_DIR": str(tmp_path), "BOBBIN_RETENTION_DAYS": "30"}
    monkeypatch.setattr(archive, "FIRST_SECONDS", 0.0)
    wanted = [max(0, n - 10) if n > 11 else 0 for n in range(1, 31)]  # from the day before its 30th on
    take, written = archive._take, asyncio.Event()

    async def held_up(*_: Any, **__: Any) -> None:
        written.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(archive, "_take", held_up)
    retention = archive.Retention(load(given, serves=False))
    retention.start()
    await asyncio.wait_for(written.wait(), 20)
    await retention.close()
    assert (await borders(town), list(tmp_path.iterdir())) == ([0] * 30, [])
    monkeypatch.setattr(archive, "_take", take)
    retention.start()
    async with asyncio.timeout(20):
        while await borders(town) != wanted:
            await asyncio.sleep(0.01)
    await retention.close()
    assert len(list(tmp_path.iterdir())) == 1
    keeps_all = archive.Retention(load(given | {"BOBBIN_RETENTION_DAYS": "0"}, serves=False))
    keeps_all.start()
    await keeps_all.close()
    assert keeps_all._task is None


async def test_the_migration_is_not_undone_while_anything_is_archived(town: asyncpg.Connection) -> None:
    undo = (MIGRATIONS / "20261123000003_archive.sql").read_text().partition("-- migrate:down")[2]
    await town.execute("INSERT INTO archives VALUES (30, 1, 2, 2, 'a file', 0, sha256('it'))")
    with pytest.raises(asyncpg.RaiseError, match="bring them back first"):
        await town.execute(undo)
    assert await town.fetchval("SELECT count(*) FROM archives") == 1


def bobbin(db_url: str, folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", "archive", *words],
        env=environment(
            folder / "data", DATABASE_URL=db_url, BOBBIN_ARCHIVE_DIR=str(folder / "files"), **environ
        ),
        capture_output=True,
        text=True,
        timeout=50,
        cwd=folder,
    )


async def test_the_command_archives_lists_and_brings_back(
    town: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    async def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(bobbin, db_url, tmp_path, *words, **environ)

    assert (await run("list")).stdout == "Nothing is archived.\n"
    done = await run("--older-than", "25d", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "325 messages of 25 threads would be archived.\n"), (
        done.stderr
    )
    assert not (tmp_path / "files").exists()
    for words in ((), ("--older-than", "1y"), ("--older-than", "-1d"), ("restore",)):
        assert (await run(*words)).returncode == 2, words
    done = await run("--older-than", "25d", "--thread", "30")
    assert "25 messages of 1 threads are archived, in" in done.stdout
    async with archive._connected(db_url) as other:
        assert await archive.try_archive(other)
        busy = await run("--older-than", "25d")
        assert (busy.returncode, busy.stdout) == (1, "") and "at work" in busy.stderr
    done = await run(BOBBIN_RETENTION_DAYS="25")
    assert done.returncode == 0 and "threads are archived, in" in done.stdout, done.stderr
    listed = (await run("list")).stdout.splitlines()
    assert len(listed) == 2 and all("messages" in line and "bytes" in line for line in listed)
    names = [one.name for one in sorted((tmp_path / "files").iterdir())]
    missing = await run("restore", "nothing.gz")
    assert missing.returncode == 1 and "nothing.gz" in missing.stderr and "Traceback" not in missing.stderr
    done = await run("restore", names[0], str(tmp_path / "files" / names[1]))
    assert done.returncode == 0 and " messages are back." in done.stdout, done.stderr
    assert await borders(town) == [0] * 30
    assert await town.fetchval("SELECT count(*) FROM messages") == sum(range(1, 31))


async def test_a_command_that_is_killed_leaves_all_messages_here_or_there(
    town: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    """Held up at its first transaction, and killed there."""
    blocker = town.transaction()
    await blocker.start()
    await town.execute("SELECT FROM messages WHERE thread_id = 30 FOR SHARE")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", "archive", "--older-than", "0s",
        env=environment(tmp_path / "data", DATABASE_URL=db_url, BOBBIN_ARCHIVE_DIR=str(tmp_path / "files")),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            async with archive._connected(db_url) as looking:
                while not await looking.fetchval(
                    """SELECT count(*) FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND query LIKE '/* archive.take%'
                           AND datname = current_database()"""
                ):
                    await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        await process.wait()
        await blocker.rollback()
    async with archive._connected(db_url) as conn:
        async with asyncio.timeout(20):
            while not await archive.try_archive(conn):  # the killed one's lock
                await asyncio.sleep(0.01)
        assert (await borders(town), await town.fetchval("SELECT count(*) FROM messages")) == ([0] * 30, 465)
        left = {one.name for one in (tmp_path / "files").iterdir()}
        assert left  # it had written them
        shelf = Shelf(tmp_path / "files")
        outcome = await archive.archive(conn, shelf, before=datetime.now(UTC))
        shelf.close()
        assert outcome.messages == 435 and not left & set(outcome.files)
        assert (await archive.restore(conn, [tmp_path / "files" / name for name in outcome.files]))[0] == 435
