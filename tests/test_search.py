"""Search finds what a look at every message would find, and nothing else, whoever asks and whatever has happened."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from server import grams, inbox, search
from server.base.db import Connections, open_pool
from server.grams import Entry
from server.live import indexer
from server.ops import archive, reindex
from tests.client import LIMIT_SECONDS, Api, Person
from tests.conftest import Cast
from tests.rules import ok, refused, waits_for_a_lock

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)
PLACES = """SELECT (SELECT count(*) FROM search_late) + (
    SELECT count(*) FROM changes c, search_place p WHERE NOT pg_visible_in_snapshot(c.xid, p.place::pg_snapshot))"""


async def indexed(db: asyncpg.Pool) -> None:
    """Wait until all that has been committed is in the index."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while await db.fetchval(PLACES):
            await asyncio.sleep(0.02)


async def found(api: Api, who: Person, q: str, limit: int = 100, **filters: Any) -> list[Any]:
    """All results, page by page."""
    results, cursor = list[Any](), dict[str, str]()
    while True:
        reply = ok(
            await api.get("/api/search", as_=who, params={"q": q, "limit": limit, **filters, **cursor})
        )
        assert len(reply["results"]) <= limit
        results += reply["results"]
        if reply["nextCursor"] is None:
            return results
        cursor = {"cursor": reply["nextCursor"]}


async def seqs(api: Api, who: Person, q: str, **filters: Any) -> list[int]:
    return [result["message"]["seq"] for result in await found(api, who, q, **filters)]


# ---- grams -------------------------------------------------------------------------------------

ALPHABETS = (
    "abcde",
    "äßİıſ",
    "абвςσΣ",
    "中文日本語한국",
    "😀👍🏽❤️👨‍👩‍👧",
    "אבג",
    "กขค",
    "é̂",
    "𠀀𠀁",
    "'\\:|&",
    "０１",
)


def words(dice: random.Random, most: int = 8) -> str:
    """A text in several scripts, with blanks of several kinds."""
    said = [
        "".join(dice.choices(dice.choice(ALPHABETS), k=dice.randint(1, 6)))
        for _ in range(dice.randint(1, most))
    ]
    return dice.choice((" ", " ", "\n", "  ", "\u3000", "")).join(said)


def matches(lexeme: str, found: set[str]) -> bool:
    """As Postgres matches a part of a tsquery."""
    match = re.fullmatch(r"'(.*)'(:\*)?", lexeme, re.S)
    assert match
    said = match[1].replace("''", "'").replace("\\\\", "\\")
    return any(one.startswith(said) for one in found) if match[2] else said in found


def test_whatever_is_in_a_text_its_lexemes_are_among_those_of_the_text() -> None:
    dice, asked = random.Random(1), 0
    for _ in range(4000):
        text = words(dice)
        low = dice.randrange(len(text))
        needle = text[low : low + dice.randint(2, 8)]
        parts = grams.parts_of(f'"{needle}"')
        if not parts or '"' in needle:
            continue
        lexemes = grams.lexemes_of(parts)
        have = grams.grams([grams.fold(text)])
        assert all(matches(one, have) for one in lexemes), (text, needle, lexemes)
        asked += bool(lexemes)
        assert grams.has(text, parts)
    assert asked > 2000


def test_a_text_keeps_its_length_in_small_letters_and_a_needle_in_large_ones_is_the_same() -> None:
    for text in ("İstanbul", "ΟΔΟΣ ΣΑΣ", "Straße ſ", "a\x01b", "ǅ", "".join(map(chr, range(1, 0x3000)))):
        assert len(grams.fold(text)) == len(text)
        assert grams.MARK not in grams.fold(text)
    assert grams.parts_of("ΟΔΟΣ") == grams.parts_of("οδος") == grams.parts_of("οδοσ")


@pytest.mark.parametrize(
    ("q", "parts"),
    [
        ("Red  apple", ("apple", "red")),
        ('"red  Apple" a', ("red  apple", "a")),
        ('5"x "b c', ('5"x', '"b', "c")),
        ("a b", ()),
        ('" "', ()),
        ("中文", ("中文",)),
        (" ".join(map(str, range(10, 20))), tuple(map(str, range(10, 20)))),
        (" ".join(map(str, range(10, 21))), ()),
    ],
)
def test_a_question_has_parts(q: str, parts: tuple[str, ...]) -> None:
    assert grams.parts_of(q) == parts


def test_a_snippet_is_the_text_around_the_first_hit_and_safe_in_a_page() -> None:
    assert grams.snippet("<b>Red</b> apples, red", ("red",)) == (
        "&lt;b&gt;<mark>Red</mark>&lt;/b&gt; apples, <mark>red</mark>"
    )
    assert grams.snippet("aaaa", ("aa", "aaa")) == "<mark>aaaa</mark>"
    long = "x" * 500 + "NEEDLE" + "y" * 500
    told = grams.snippet(long, ("needle",))
    assert "<mark>NEEDLE</mark>" in told and told[0] == told[-1] == "…" and len(told) < 300
    assert grams.snippet("x" * 300 + "needle", ("needle",)).endswith("<mark>needle</mark>")


def test_the_rows_of_a_seed_are_those_of_the_indexer_and_each_block_is_within_bounds() -> None:
    dice = random.Random(2)
    said = [(n * 10, 1 + n % 7, n, 3, words(dice), n % 2 == 0) for n in range(1, 5000)]
    said[50] = (500, 2, 50, 3, "A\x01B" + "z" * 9000, False)
    for n in range(700, 720):
        said[n] = (*said[n][:4], "".join(dice.choices("𠀀😀Ж", k=10_000)), False)
    rows = list(grams.blocks_of(said, first_id=5))
    entries = [Entry(*one[:4], grams.fold(one[4]), one[5]) for one in said]
    expected = grams.pieces(entries)
    assert [row[0][1:] for row in rows] == [piece.row() for piece in expected]
    assert [set(row[1][1].split("\n")) for row in rows] == [
        grams.grams_of(piece.entries) for piece in expected
    ]
    assert [row[0][0] for row in rows] == [row[1][0] for row in rows] == list(range(5, 5 + len(rows)))
    assert (
        max(len(row[1][1].encode()) for row in rows) < 2**20
        and max(len(p.entries) for p in expected) == grams.MESSAGES
    )
    assert len(grams.BLOCK_COLUMNS) == len(rows[0][0]) and len(grams.GRAM_COLUMNS) == len(rows[0][1])


# ---- over the API ------------------------------------------------------------------------------


async def test_any_part_of_a_word_is_found_by_those_who_may_see_it_the_newest_first(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada, ben, mallory = cast.team, cast.ada, cast.ben, cast.mallory
    for text in (
        "Pineapples & <apples>",
        "nothing",
        "APPLE pie 🍎🍏",
        "Яблоко",
        "苹果很好吃",
        "I am an apple",
    ):
        await api.say(team, ada, text)
    await indexed(db)
    assert await seqs(api, ben, "appl") == await seqs(api, ada, "APPL") == [6, 3, 1]
    for q, expected in (
        ("pp", [6, 3, 1]), ("pie appl", [3]), ('"an apple"', [6]), ('"apple an"', []), ("блок", [4]),
        ("很好", [5]), ("🍎🍏", [3]), ("i apple", [6, 3, 1]), ("appleshine", []), ("am an", [6]), ("%%", []),
        ("<a", [1]),
    ):  # fmt: skip
        assert await seqs(api, ben, q) == expected, q
    assert await found(api, mallory, "appl") == []
    (result,) = await found(api, ben, "apples")
    assert result["snippet"] == "Pine<mark>apples</mark> &amp; &lt;<mark>apples</mark>&gt;"
    assert result["thread"] == {"id": team, "kind": "group", "title": "Team"}
    told = ok(await api.get(f"/api/threads/{team}/messages/1", as_=ben))["message"]
    assert result["message"] == told
    (mine,) = await found(api, ada, "apples")
    assert mine["message"] == ok(await api.get(f"/api/threads/{team}/messages/1", as_=ada))["message"]
    direct = await api.thread(ada, ben, kind="direct")
    await api.say(direct, ben, "apples in private")
    await indexed(db)
    assert (await found(api, ada, "in private"))[0]["thread"] == {
        "id": direct,
        "kind": "direct",
        "title": None,
    }


async def test_edited_and_deleted_messages_are_found_as_they_are(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada = cast.team, cast.ada
    for text in ("first walrus", "second walrus", "third walrus"):
        await api.say(team, ada, text)
    await indexed(db)
    assert await seqs(api, ada, "walrus") == [3, 2, 1]
    ok(await api.patch(f"/api/threads/{team}/messages/1", {"text": "first narwhal"}, as_=ada))
    ok(await api.delete(f"/api/threads/{team}/messages/2", as_=ada), 204)
    assert await seqs(api, ada, "walrus") == [3]  # at once: what is found is looked at as it is
    await indexed(db)
    assert await seqs(api, ada, "narwhal") == [1]
    kept = await db.fetchval("SELECT count(*) FROM search_blocks WHERE text LIKE '%second walrus%'")
    assert kept == 0


async def test_only_what_was_said_in_ones_own_time_is_found(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    team, ada, ben, mallory = cast.team, cast.ada, cast.ben, cast.mallory
    await api.say(team, ada, "otter one")
    ok(await api.post(f"/api/threads/{team}/members", {"userId": mallory.id}, as_=ada), 201)
    await api.say(team, ada, "otter two", replyTo=1)
    await indexed(db)
    assert await seqs(api, mallory, "otter") == [2]
    (result,) = await found(api, mallory, "otter")
    assert result["message"]["replyTo"] == {"seq": 1}  # the quote is of before her time
    assert (await found(api, ben, "otter two"))[0]["message"]["replyTo"]["text"] == "otter one"
    ok(await api.delete(f"/api/threads/{team}/members/{mallory.id}", as_=ada), 204)
    assert await found(api, mallory, "otter") == []
    refused(await api.get(f"/api/search?q=otter&threadId={team}", as_=mallory), 404, "not_found")
    ok(await api.delete(f"/api/threads/{team}", as_=ada), 204)
    assert await found(api, ben, "otter") == []


@pytest.mark.parametrize("only", ["all", "thread"])
async def test_nothing_tells_whether_what_one_may_not_see_has_the_needle(
    api: Api, cast: Cast, db: asyncpg.Pool, only: str
) -> None:
    """Neither when decoys that one may not see have used up most of the work."""
    team, ada, ben, mallory = cast.team, cast.ada, cast.ben, cast.mallory
    await api.say(team, ada, "the code is 7714")
    for _ in range(4):
        await api.say(team, ben, "the code is 7713, the code is 7714, the code is 7715")
    ok(await api.post(f"/api/threads/{team}/members", {"userId": mallory.id}, as_=ada), 201)
    await api.say(team, ada, "welcome")
    await indexed(db)
    told = []
    for guess in ("code is 7713", "code is 7714"):
        walk = search.Walk(grams.parts_of(f'"{guess}"'), looks=5)
        async with db.acquire() as conn, conn.transaction():
            await search._sight(conn, walk, mallory.id, team if only == "thread" else None)
            page = await search._page(conn, walk, mallory.id, 20)
        told.append((page, walk.ended, walk.looks, walk.here))
    assert told[0] == told[1] and told[0][:3] == ([], True, 5)
    walk = search.Walk(grams.parts_of("welcome"), looks=5)
    async with db.acquire() as conn, conn.transaction():
        await search._sight(conn, walk, mallory.id, None)
        assert len(await search._page(conn, walk, mallory.id, 20)) == 1 and walk.looks == 4


async def test_a_search_is_narrowed_by_thread_author_time_and_file(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    ada, ben = cast.ada, cast.ben
    other = await api.thread(ada, ben, title="Other")
    first = await api.say(cast.team, ada, "gannet")
    second = await api.say(other, ben, "gannet")
    await indexed(db)
    assert len(await found(api, ada, "gannet")) == 2
    assert [r["thread"]["id"] for r in await found(api, ada, "gannet", threadId=other)] == [other]
    assert [r["thread"]["id"] for r in await found(api, ada, "gannet", authorId=ada.id)] == [cast.team]
    assert [r["thread"]["id"] for r in await found(api, ada, "gannet", to=second["createdAt"])] == [cast.team]
    both = {"from": first["createdAt"], "to": "2999-01-01T00:00:00Z"}
    assert len(await found(api, ada, "gannet", **both)) == 2
    assert [r["thread"]["id"] for r in await found(api, ada, "gannet", **{"from": second["createdAt"]})] == [
        other
    ]
    assert await found(api, ada, "gannet", hasFile="true") == []
    assert len(await found(api, ada, "gannet", hasFile="false")) == 2
    refused(await api.get("/api/search?q=gannet&threadId=999999999", as_=ada), 404, "not_found")


async def test_a_cursor_leads_on_and_belongs_to_its_question(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    for n in range(7):
        await api.say(cast.team, cast.ada, f"puffin {n}")
    await indexed(db)
    assert await seqs(api, cast.ben, "puffin", limit=2) == [7, 6, 5, 4, 3, 2, 1]
    page = ok(await api.get("/api/search?q=puffin&limit=2", as_=cast.ben))
    cursor = page["nextCursor"]
    assert ok(await api.get(f"/api/search?q=PUFFIN&limit=1&cursor={cursor}", as_=cast.ada))["results"]
    for wrong in (f"q=puffi&cursor={cursor}", f"q=puffin&cursor={cursor}&authorId=1", "q=puffin&cursor=x"):
        refused(await api.get(f"/api/search?{wrong}", as_=cast.ben), 400, "bad_cursor")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 422, "invalid"), ("q=", 422, "invalid"), ("q=a", 422, "invalid"), ("q=a+b+c", 422, "invalid"),
        ("q=%22++%22", 422, "invalid"), (f"q={'x' * 201}", 422, "invalid"), ("q=ab%00", 400, "bad_parameter"),
        ("q=" + "+".join(str(n) for n in range(10, 21)), 422, "invalid"), ("q=ab&limit=101", 422, "invalid"),
        ("q=ab&limit=0", 422, "invalid"), ("q=ab&from=yesterday", 400, "bad_parameter"),
        ("q=ab&from_=2026-01-01T00:00:00Z", 400, "unknown_parameter"), ("q=ab&threadId=0", 422, "invalid"),
        ("q=ab&hasFile=yes", 400, "bad_parameter"),
    ],
)  # fmt: skip
async def test_what_is_no_question_is_refused(
    api: Api, cast: Cast, query: str, status: int, code: str
) -> None:
    refused(await api.get(f"/api/search?{query}", as_=cast.ada), status, code)


@pytest.mark.parametrize(
    "q", ["'ab'", "\\\\ab", "a&b|c", "ab:*", "!ab", "(ab", "'", "''", "\x01\x01", "\x01m2026-1", "ab\x02"]
)
async def test_nothing_in_a_question_is_taken_for_syntax(
    api: Api, cast: Cast, db: asyncpg.Pool, q: str
) -> None:
    await api.say(cast.team, cast.ada, "nothing of the kind")
    await indexed(db)
    reply = await api.get("/api/search", params={"q": q}, as_=cast.ada)
    assert reply.status in (200, 422) and not reply.json.get("results"), reply.body


async def test_the_staff_finds_what_contacts_say_and_others_do_not(
    api: Api, cast: Cast, root: Person, db: asyncpg.Pool
) -> None:
    contact = ok(await api.post("/api/contacts", {"name": "Zoe"}, as_=root), 201)["contact"]
    await api.say(contact["threadId"], root, "a cormorant for you")
    await indexed(db)
    assert [r["thread"] for r in await found(api, root, "cormorant")] == [
        {"id": contact["threadId"], "kind": "contact", "title": "Zoe"}
    ]
    assert await found(api, cast.ada, "cormorant") == []
    assert await search.threads_with(db, "cormorant") == ([contact["threadId"]], True)
    assert await search.threads_with(db, "c") == ([], True)


# ---- equals a look at every message ------------------------------------------------------------


@dataclass
class Said:
    seq: int
    at: datetime
    author: int
    text: str
    deleted: bool = False


@dataclass
class Place:
    id: int
    kind: str
    rev: int = 0
    said: list[Said] = field(default_factory=list)
    spans: dict[int, list[tuple[int, int | None]]] = field(default_factory=dict)
    deleted: bool = False

    def sees(self, user_id: int, staff: bool, seq: int) -> bool:
        if self.deleted:
            return False
        if self.kind == "contact" and staff:
            return True
        spans = self.spans.get(user_id, [])
        if not spans or spans[-1][1] is not None:
            return False
        return self.kind != "group" or any(low < seq and (high is None or seq <= high) for low, high in spans)


class Log:
    """Threads that are written straight into the database, and what they hold."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn = conn
        self.places: list[Place] = []

    async def person(self, user_id: int, role: str = "member") -> None:
        await self.conn.execute(
            "INSERT INTO users (id, name, username, role) VALUES ($1, 'P', $2, $3)",
            user_id,
            f"p{user_id}",
            role,
        )

    async def thread(self, kind: str) -> Place:
        place = Place(len(self.places) + 1, kind)
        await self.conn.execute("INSERT INTO threads (id, kind, title) VALUES ($1, $2, 'T')", place.id, kind)
        await self.conn.execute("INSERT INTO thread_heads (thread_id) VALUES ($1)", place.id)
        self.places.append(place)
        return place

    async def _change(self, place: Place, kind: str, seq: int) -> None:
        place.rev += 1
        await self.conn.execute(
            "INSERT INTO changes (thread_id, rev, kind, seq) VALUES ($1, $2, $3, $4)",
            place.id,
            place.rev,
            kind,
            seq,
        )
        await self.conn.execute(
            "UPDATE thread_heads SET last_seq = $2, last_rev = $3, message_count = 0 WHERE thread_id = $1",
            place.id, len(place.said), place.rev,
        )  # fmt: skip

    async def join(self, place: Place, user_id: int) -> None:
        place.rev += 1
        place.spans.setdefault(user_id, []).append((len(place.said), None))
        await self.conn.execute(
            """INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq)
               VALUES ($1, $2, $3, $4, $4)""",
            place.id, user_id, place.rev, len(place.said),
        )  # fmt: skip

    async def leave(self, place: Place, user_id: int) -> None:
        place.rev += 1
        place.spans[user_id][-1] = (place.spans[user_id][-1][0], len(place.said))
        await self.conn.execute(
            """UPDATE memberships SET left_rev = $3, left_seq = $4, left_at = now()
               WHERE thread_id = $1 AND user_id = $2 AND left_rev IS NULL""",
            place.id, user_id, place.rev, len(place.said),
        )  # fmt: skip

    async def say(self, place: Place, author: int, text: str, at: datetime) -> None:
        if place.said:
            at = max(at, place.said[-1].at)
        place.said.append(Said(len(place.said) + 1, at, author, text))
        async with self.conn.transaction():
            await self.conn.execute(
                """INSERT INTO messages (thread_id, seq, rev, author_id, text, created_at)
                   VALUES ($1, $2, $3, $4, $5, $6)""",
                place.id, len(place.said), place.rev + 1, author, text, at,
            )  # fmt: skip
            await self._change(place, "message", len(place.said))

    async def edit(self, place: Place, said: Said, text: str) -> None:
        said.text = text
        async with self.conn.transaction():
            await self.conn.execute(
                "UPDATE messages SET text = $3 WHERE thread_id = $1 AND seq = $2", place.id, said.seq, text
            )
            await self._change(place, "message_updated", said.seq)

    async def delete(self, place: Place, said: Said) -> None:
        said.deleted, said.text = True, ""
        async with self.conn.transaction():
            await self.conn.execute(
                "UPDATE messages SET text = '', deleted_at = now() WHERE thread_id = $1 AND seq = $2",
                place.id, said.seq,
            )  # fmt: skip
            await self._change(place, "message_updated", said.seq)

    def naive(self, user_id: int, staff: bool, needle: tuple[str, ...], **only: Any) -> list[tuple[int, int]]:
        """Thread and seq of each message with these, the newest first, by looking at every message."""
        hits = [
            (one.at, place.id, one.seq)
            for place in self.places
            for one in place.said
            if not one.deleted
            and place.sees(user_id, staff, one.seq)
            and all(part in naive_fold(one.text) for part in needle)
            and only.get("thread_id", place.id) == place.id
            and only.get("author_id", one.author) == one.author
        ]
        return [(thread_id, seq) for _, thread_id, seq in sorted(hits, reverse=True)]


def naive_fold(text: str) -> str:
    """Letter by letter."""
    return "".join("i" if c == "İ" else "σ" if c in "Σς" else c.lower() for c in text)


async def catch_up(conn: asyncpg.Connection) -> None:
    """As the workers do."""
    for step in (indexer.take_new, indexer.take_late):
        while await step(conn):
            pass


async def searched(
    conn: asyncpg.Connection, user_id: int, parts: tuple[str, ...], limit: int, **only: Any
) -> list[tuple[int, int]]:
    """All pages, each a request's work."""
    results, here, pages = list[tuple[int, int]](), search.CEILING, 0
    while True:
        walk = search.Walk(parts, here=here, author_id=only.get("author_id"))
        walk.looks, walk._left, walk._windows = search.LOOKS, search.BLOCKS, search.WINDOWS
        await search._sight(conn, walk, user_id, only.get("thread_id"))
        page = await search._page(conn, walk, user_id, limit)
        assert len(page) <= limit
        results += [(row["thread_id"], row["seq"]) for row, _ in page]
        if walk.ended:
            return results
        assert walk.here < here, "the cursor makes progress"
        here, pages = walk.here, pages + 1
        assert pages < 3000


@pytest.fixture
async def log(db_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Log]:
    """An empty database of the module, and bounds so small that a few hundred messages reach them."""
    for where, name, value in (
        (grams, "MESSAGES", 8), (grams, "CHARS", 300), (indexer, "LOOSE", 3), (indexer, "CHANGES", 25),
        (indexer, "LATE", 20), (indexer, "LATE_BLOCKS", 3), (search, "WALK", 2), (search, "BLOCKS", 5),
        (search, "LOOKS", 4), (search, "WINDOWS", 2), (search, "CHUNK", 2), (search, "FACETS", 3),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)
    conn = await asyncpg.connect(db_url)
    await conn.execute(
        "TRUNCATE users, threads, changes, messages, search_blocks, search_late, search_todo CASCADE"
    )
    await conn.execute("UPDATE search_place SET place = pg_current_snapshot()::text")
    yield Log(conn)
    await conn.close()


async def sound(log: Log) -> None:
    """The blocks hold all living messages once, in order, and share no stretch of it."""
    blocks = await log.conn.fetch("SELECT * FROM search_blocks ORDER BY at, thread_id, seq")
    keys = [
        key for block in blocks for key in zip(block["ats"], block["thread_ids"], block["seqs"], strict=True)
    ]
    assert keys == sorted(
        (grams.micros(one.at), place.id, one.seq)
        for place in log.places
        for one in place.said
        if not one.deleted
    )
    for block in blocks:
        assert (block["at"], block["thread_id"], block["seq"]) == (
            block["ats"][0], block["thread_ids"][0], block["seqs"][0])  # fmt: skip
        assert len(block["seqs"]) <= grams.MESSAGES * indexer.ROOM
    loose = await log.conn.fetchval(
        "SELECT count(*) FROM search_grams g LEFT JOIN search_blocks b ON b.id = g.block_id WHERE b.id IS NULL"
    )
    assert loose == 0


@pytest.mark.parametrize("seed", range(4))
async def test_search_equals_a_look_at_every_message(log: Log, seed: int) -> None:
    dice = random.Random(seed)
    roles = {1: "member", 2: "member", 3: "agent", 4: "admin", 5: "member"}
    for user_id, role in roles.items():
        await log.person(user_id, role)
    for kind in ("group", "channel", "contact", "group", "contact", "group", "group", "contact"):
        place = await log.thread(kind)
        for user_id in (1, 2, 3, 4):
            if dice.random() < 0.6 and kind != "contact":
                await log.join(place, user_id)
    moment, hits = EPOCH, 0
    for turn in range(5):
        for _ in range(100):
            place, what = dice.choice(log.places), dice.random()
            alive = [one for one in place.said if not one.deleted]
            moment += timedelta(hours=dice.choice((0, 0, 1, 50)))
            if what < 0.7 or not alive:
                old = moment - timedelta(days=dice.choice((0, 0, 0, 0, 400)))
                await log.say(place, dice.randint(1, 5), words(dice, 5) or "x", old)
            elif what < 0.8:
                await log.edit(place, dice.choice(alive), words(dice, 5))
            elif what < 0.88:
                await log.delete(place, dice.choice(alive))
            elif place.kind != "contact":
                user_id = dice.randint(1, 4)
                spans = place.spans.get(user_id, [])
                await (log.leave if spans and spans[-1][1] is None else log.join)(place, user_id)
            if dice.random() < 0.1:
                await catch_up(log.conn)
            if dice.random() < 0.05:
                await indexer.tidy(log.conn)
        if turn == 3:
            log.places[5].deleted = True
            await log.conn.execute("UPDATE thread_heads SET deleted_at = now() WHERE thread_id = 6")
        if turn == 4:
            assert await reindex.rebuild(log.conn) > 100
        await catch_up(log.conn)
        await sound(log)
        texts = [one.text for place in log.places for one in place.said if not one.deleted]
        for _ in range(40):
            parts = needle(dice, texts)
            user_id = dice.choice(list(roles))
            only: dict[str, int] = {}
            if dice.random() < 0.2:
                only["author_id"] = dice.randint(1, 5)
            places = [p for p in log.places if p.sees(user_id, roles[user_id] != "member", 10**9)]
            if dice.random() < 0.2 and places:
                only["thread_id"] = dice.choice(places).id
            expected = log.naive(user_id, roles[user_id] != "member", parts, **only)
            assert await searched(log.conn, user_id, parts, dice.choice((1, 3, 20)), **only) == expected, (
                parts,
                only,
            )
            hits += len(expected)
    await log.conn.execute("UPDATE search_blocks SET tidy_at = clock_timestamp() WHERE loose > 0")
    while await log.conn.fetchval("SELECT count(*) FROM search_blocks WHERE loose > 0"):
        await indexer.tidy(log.conn)
    await sound(log)
    assert hits > 100, "needles that are found"


def needle(dice: random.Random, texts: list[str]) -> tuple[str, ...]:
    """Pieces of a message, mostly; one to three."""
    while True:
        text, parts = dice.choice(texts), list[str]()
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            low = dice.randrange(len(text))
            parts.append(text[low : low + dice.choice((1, 2, 2, 2, 3, 4))])
        found = grams.parts_of(" ".join(f'"{part}"' for part in parts if '"' not in part))
        if found and dice.random() < 0.9:
            return found
        found = grams.parts_of(words(dice, 1) + "ab")
        if found:
            return found


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_the_index_is_asked_however_small_what_it_leads_to_seems(log: Log, mode: str) -> None:
    """The rows are narrow: to read them all would seem cheap, and make the lexemes of each anew."""
    place = await log.thread("contact")
    for n in range(60):
        await log.say(place, 3, f"sparrow {n}", EPOCH + timedelta(hours=n))
    await catch_up(log.conn)
    await log.conn.execute("ANALYZE search_blocks, search_grams")
    block = search.likely.block  # type: ignore[attr-defined]
    await log.conn.execute(f"SET plan_cache_mode = {mode}")
    await log.conn.execute(f"PREPARE likely AS {block.text}")
    rows = await log.conn.fetch("EXPLAIN EXECUTE likely (1, 1, 1, '''spar''', 350)")
    assert "Bitmap Index Scan on search_grams_found" in "\n".join(row[0] for row in rows)


def test_as_many_blocks_are_looked_into_as_a_page_seems_to_need() -> None:
    walk = search.Walk(("wagtail",))
    walk._chunk = 2
    assert walk._enough(20) == 4, "nothing found: twice as many"
    walk._looked, walk._found = 4, 2
    assert (walk._enough(3), walk._enough(20)) == (6, search.CHUNK)
    walk._found = 400
    assert walk._enough(20) == 1


# ---- the indexer -------------------------------------------------------------------------------


async def test_what_an_open_transaction_commits_later_is_found_and_it_holds_up_nothing(
    log: Log, db_url: str
) -> None:
    await log.person(1)
    place, late = await log.thread("channel"), await log.thread("channel")
    await log.join(place, 1)
    await log.join(late, 1)
    other = Log(await asyncpg.connect(db_url))
    slow = other.conn.transaction()
    await slow.start()
    await other.say(late, 1, "tardy gull", EPOCH)
    for n in range(60):
        await log.say(place, 1, f"prompt gull {n}", EPOCH + timedelta(hours=n))
        if n % 20 == 7:
            await catch_up(log.conn)
    await catch_up(log.conn)
    assert len(await searched(log.conn, 1, ("prompt gull",), 20)) == 60
    assert await searched(log.conn, 1, ("tardy",), 20) == []
    await slow.commit()
    await other.conn.close()
    await catch_up(log.conn)
    assert await searched(log.conn, 1, ("tardy",), 20) == [(late.id, 1)]
    await sound(log)


async def test_a_crash_between_two_steps_loses_nothing_and_two_workers_do_it_once(
    log: Log, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.person(1)
    place = await log.thread("channel")
    await log.join(place, 1)
    for n in range(100):
        await log.say(place, 1, f"heron {n}", EPOCH + timedelta(minutes=n))
    assert await indexer.take_new(log.conn)

    async def broken(*_: Any, **__: Any) -> str:
        raise ConnectionError

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(indexer, "move", broken)
        await indexer.take_new(log.conn)
    other = await asyncpg.connect(db_url)
    holding = other.transaction()
    await holding.start()
    assert await indexer.hold(other) is not None
    assert await indexer.take_new(log.conn) is None and await indexer.take_late(log.conn) is None
    await holding.rollback()
    await asyncio.gather(catch_up(log.conn), catch_up(other))
    await catch_up(log.conn)
    await sound(log)
    assert len(await searched(log.conn, 1, ("heron",), 20)) == 100
    await other.close()


async def test_the_log_tells_of_a_lag_and_not_of_another_worker_who_does_the_work(
    log: Log, db_url: str
) -> None:
    """The clock is the test's: a second passes with each look."""
    times = [0.0]
    db = Connections(await open_pool(db_url, size=2, statement_cache=10))
    one, other = (indexer.Indexer(db, clock=lambda: times[0]) for _ in range(2))

    async def looks(who: indexer.Indexer, count: int) -> bool:
        """Whether it was ever behind."""
        seen = set()
        for _ in range(count):
            times[0] += 1
            await who.look()
            seen.add(who.behind)
        return True in seen

    await log.person(1)
    place = await log.thread("channel")
    await catch_up(log.conn)
    try:
        async with log.conn.transaction():
            assert await indexer.hold(log.conn) is not None
            assert not await looks(one, 10), "there is nothing to do"
        for n in range(10):  # the other gets on, and it is always just then that this one looks
            await log.say(place, 1, f"ibis {n}", EPOCH + timedelta(minutes=n))
            times[0] += 1
            await other.look()
            await log.say(place, 1, f"late ibis {n}", EPOCH + timedelta(minutes=n, seconds=1))
            async with log.conn.transaction():
                assert await indexer.hold(log.conn) is not None
                assert await one.round() is None, "or it would show nothing"
                await one.look()
            assert not one.behind and not other.behind
        async with log.conn.transaction():
            assert await indexer.hold(log.conn) is not None
            assert await looks(one, 5), "something waits, and whoever should take it in hangs"
        while (await other.look())[0]:
            pass
        await one.look()
        assert not one.behind
    finally:
        await db.close()


async def test_an_import_larger_than_a_look_is_taken_as_a_whole_and_what_came_before_it_first(
    log: Log,
) -> None:
    await log.person(1)
    place = await log.thread("channel")
    await log.join(place, 1)
    for n in range(30):
        await log.say(place, 1, f"tern {n}", EPOCH + timedelta(days=n))
    await catch_up(log.conn)
    old = await log.thread("channel")
    await log.join(old, 1)
    async with log.conn.transaction():
        for n in range(90):
            await log.say(old, 1, f"old tern {n}", EPOCH + timedelta(hours=n // 3 * 8))
    await log.say(place, 1, "the last tern", EPOCH + timedelta(days=90))
    await catch_up(log.conn)
    await sound(log)
    assert await searched(log.conn, 1, ("tern",), 20) == log.naive(1, False, ("tern",))


async def test_what_is_archived_leaves_the_index_when_it_is_put_aside(log: Log) -> None:
    await log.person(1)
    place = await log.thread("channel")
    await log.join(place, 1)
    for n in range(40):
        await log.say(place, 1, f"fulmar {n}", EPOCH + timedelta(hours=n))
    await catch_up(log.conn)
    await log.conn.execute("DELETE FROM messages WHERE seq <= 20")
    await log.conn.execute("UPDATE thread_heads SET archived_seq = 20")
    assert await searched(log.conn, 1, ("fulmar",), 20) == [(place.id, seq) for seq in range(40, 20, -1)]
    keys = [(grams.micros(one.at), place.id, one.seq) for one in place.said[:20]]
    await indexer.delay(log.conn, **indexer.columns(keys))
    await catch_up(log.conn)
    place.said = place.said[20:]
    await sound(log)


async def test_a_block_is_tidied_up_when_enough_has_left_it_or_after_a_day(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LOOSE", 64), ("STALE", 3)):
        monkeypatch.setattr(indexer, name, value)
    await log.person(1)
    place = await log.thread("channel")
    await log.join(place, 1)
    for n in range(40):
        await log.say(place, 1, f"skua{n:02}", EPOCH + timedelta(hours=n))
    await catch_up(log.conn)

    async def kept(n: int) -> bool:
        """Whether a block is found by it."""
        found: bool = await log.conn.fetchval(
            "SELECT EXISTS (SELECT FROM search_grams WHERE grams LIKE $1)", f"%ua{n:02}%"
        )
        return found

    async def delete(n: int) -> None:
        await log.delete(place, place.said[n])
        await catch_up(log.conn)
        await indexer.tidy(log.conn)

    await delete(0)
    await delete(1)
    assert await kept(0) and await kept(1)
    await delete(2)
    assert not await kept(0) and not await kept(1) and not await kept(2) and await kept(3)
    await delete(20)
    assert await kept(20)
    await log.conn.execute("UPDATE search_blocks SET tidy_at = tidy_at - interval '1 day'")
    await indexer.tidy(log.conn)
    assert not await kept(20) and await kept(21)
    await sound(log)


async def test_whoever_keeps_it_goes_on_and_another_takes_over_when_it_stands_still(
    log: Log, db_url: str
) -> None:
    """What a worker remembers is never taken for what another has written since."""
    db = Connections(await open_pool(db_url, size=2, statement_cache=10))
    one, other = indexer.Indexer(db), indexer.Indexer(db)

    async def works(who: indexer.Indexer, seconds: float = 0) -> bool:
        """When the place has not moved for so long: does it take in what is new?"""
        found = await log.conn.fetchval(
            "UPDATE search_place SET moved_at = clock_timestamp() - $1 * interval '1 second' RETURNING place",
            seconds,
        )
        await who.look()
        return bool(found != await log.conn.fetchval("SELECT place FROM search_place"))

    try:
        await log.person(1)
        place = await log.thread("channel")
        await log.join(place, 1)
        said = 0

        async def say() -> None:
            nonlocal said
            said += 1
            await log.say(place, 1, f"sandpiper {said}", EPOCH + timedelta(minutes=said))

        await catch_up(log.conn)
        await other.look()  # and knows from where on the place has moved
        await say()
        assert await works(one)
        for _ in range(3):
            await say()
            assert not await works(other) and await works(one), "it is one's turn"
        await say()
        assert not await works(other, indexer.STILL_SECONDS - 0.3)
        assert await works(other, indexer.STILL_SECONDS + 0.1), "one has not moved it for so long"
        for _ in range(2):
            await say()
            assert not await works(one) and await works(other), "and now it is the other's"
        await log.delete(place, place.said[-1])
        assert await works(other)
        while (await other.look())[0]:
            pass
        await say()
        assert not await works(one)
        await other.close()
        before = await log.conn.fetchval("SELECT place FROM search_place")
        await one.look()
        assert before != await log.conn.fetchval("SELECT place FROM search_place"), "left: nobody has to wait"
        await catch_up(log.conn)
        await sound(log)
        assert len(await searched(log.conn, 1, ("sandpiper",), 20)) == said - 1
    finally:
        await db.close()


async def test_an_idle_server_takes_no_transaction_ids(log: Log, db_url: str) -> None:
    await log.person(1)
    place = await log.thread("channel")
    await log.join(place, 1)
    for n in range(20):
        await log.say(place, 1, f"dunlin {n}", EPOCH + timedelta(hours=n))
    ids = "SELECT pg_current_xact_id_if_assigned()::text"
    async with asyncpg.create_pool(db_url, min_size=1, max_size=1) as pool, pool.acquire() as conn:
        held: Any = SimpleNamespace(acquire=lambda: contextlib.nullcontext(conn))
        async with conn.transaction():
            worker = indexer.Indexer(held)
            await worker.round()
            assert await conn.fetchval(ids), "work takes one"
        while await worker.round():
            pass
        async with conn.transaction():
            assert await indexer.Indexer(held).round() is False
            assert await inbox.wake(conn) == []
            assert await conn.fetchval(ids) is None
    await sound(log)


@pytest.mark.parametrize("first", ["indexer", "restore"])
async def test_what_comes_back_while_its_going_is_taken_in_is_found_again(
    log: Log, db_url: str, first: str
) -> None:
    await log.person(1)
    place = await log.thread("channel")
    await log.join(place, 1)
    for n in range(40):
        await log.say(place, 1, f"petrel {n}", EPOCH + timedelta(hours=n))
    await catch_up(log.conn)
    line = await log.conn.fetchval("SELECT row_to_json(m)::text FROM messages m WHERE seq = 1")
    stretch: dict[str, list[int]] = {"thread_ids": [place.id], "lows": [0], "highs": [1]}
    assert await archive.take(log.conn, **stretch, revs=[place.rev]) == 1
    async with asyncpg.create_pool(db_url, min_size=1, max_size=2) as pool, pool.acquire() as other:
        restoring = other.transaction()
        await restoring.start()
        if first == "restore":
            assert await archive.put_messages(other, lines=[line]) == 1
            while await indexer.take_late(log.conn):
                pass  # the message is not yet to be seen
            await restoring.commit()
        else:
            async with log.conn.transaction():
                assert await indexer.take_late(log.conn)
                back = asyncio.ensure_future(archive.put_messages(other, lines=[line]))
                await waits_for_a_lock(pool, "archive.put_messages")
            assert await back == 1
            await restoring.commit()
    await catch_up(log.conn)
    await sound(log)
    assert await searched(log.conn, 1, ("petrel",), 20) == log.naive(1, False, ("petrel",))


async def test_the_longest_messages_in_the_widest_script_fit(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "MESSAGES", 1024)
    monkeypatch.setattr(grams, "CHARS", 60_000)
    await log.person(1)
    place, dice = await log.thread("channel"), random.Random(3)
    await log.join(place, 1)
    astral = [chr(n) for n in range(0x10000, 0x1F000)]
    for n in range(14):
        await log.say(place, 1, "".join(dice.choices(astral, k=10_000)), EPOCH + timedelta(days=n))
    await catch_up(log.conn)
    for n in range(8):
        await log.say(place, 1, "x" * 10_000 + str(n), EPOCH + timedelta(days=40))
    await catch_up(log.conn)
    assert await log.conn.fetchval("SELECT count(*) FROM search_grams") >= 2
    text = place.said[2].text
    assert await searched(log.conn, 1, grams.parts_of(text[5000:5010]), 20) == [(place.id, 3)]


async def test_the_place_of_another_cluster_is_told_and_rebuilding_helps(log: Log) -> None:
    await log.person(1)
    place = await log.thread("channel")
    await log.join(place, 1)
    await log.say(place, 1, "shearwater", EPOCH)
    await log.conn.execute("UPDATE search_place SET place = '900000000:900000000:'")
    assert (await indexer.state(log.conn))["foreign_place"]
    await catch_up(log.conn)
    assert await searched(log.conn, 1, ("shearwater",), 20) == []
    assert await reindex.rebuild(log.conn) == 1
    assert await searched(log.conn, 1, ("shearwater",), 20) == [(place.id, 1)]
    state = await indexer.state(log.conn)
    assert not state["foreign_place"] and state["messages"] == 1 and state["waiting"] == 0
