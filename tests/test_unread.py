"""What is unread: arithmetic on cursors and counters, held against a naive recount."""

from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.base.db import blocks
from tests.client import Api, Person
from tests.conftest import Cast, Maker
from tests.rules import dense, ok

COUNTS = ("unreadCount", "firstUnreadSeq", "mentionCount", "lastReadSeq")


@dataclass
class Model:
    """One thread, told naively: every message, and who was there when."""

    history: str
    living: list[bool] = field(default_factory=list)  # by seq - 1
    mentions: list[set[int]] = field(default_factory=list)
    spans: dict[int, list[list[int | None]]] = field(default_factory=dict)  # of each person: [after, up to]
    read: dict[int, int] = field(default_factory=dict)  # of those who are in

    @property
    def last(self) -> int:
        return len(self.living)

    def join(self, who: int) -> None:
        self.spans.setdefault(who, []).append([self.last, None])
        self.read[who] = self.last

    def leave(self, who: int) -> None:
        self.spans[who][-1][1] = self.last
        del self.read[who]

    def say(self, who: int, mentioned: set[int]) -> None:
        self.living.append(True)
        self.mentions.append(mentioned & set(self.read) - {who})
        self.read[who] = self.last

    def sees(self, who: int) -> list[int]:
        return [
            seq
            for seq in range(1, self.last + 1)
            if self.history == "all"
            or any(low < seq <= (self.last if high is None else high) for low, high in self.spans[who])  # type: ignore[operator]
        ]

    def back(self, who: int, seq: int) -> None:
        following = [one for one in self.sees(who) if one >= seq]
        if following:
            self.read[who] = min(self.read[who], following[0] - 1)

    def counts(self, who: int) -> tuple[int, int | None, int, int]:
        unread = [seq for seq in self.sees(who) if seq > self.read[who] and self.living[seq - 1]]
        mentioned = sum(who in self.mentions[seq - 1] for seq in unread)
        return len(unread), min(unread, default=None), mentioned, self.read[who]


async def counts(api: Api, thread_id: int, who: Person) -> tuple[Any, ...]:
    thread = ok(await api.get(f"/api/threads/{thread_id}", as_=who))["thread"]
    return tuple(thread[name] for name in COUNTS)


async def moved(api: Api, thread_id: int, who: Person, what: str, seq: int) -> tuple[Any, ...]:
    state = ok(await api.post(f"/api/threads/{thread_id}/{what}", {"seq": seq}, as_=who))
    return tuple(state[name] for name in COUNTS)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["say", "say", "say", "name", "delete", "delete", "read", "unread", "unread", "move", "move"]
        ),
        st.integers(0, 2),
        st.integers(0, 30),
    ),
    min_size=5,
    max_size=30,
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(["group", "channel"]), steps=STEPS)
@example(
    "group",
    [("say", 0, 0), ("move", 1, 0), ("say", 0, 0), ("say", 0, 0), ("move", 1, 0), ("name", 0, 1), ("unread", 1, 1),
     ("delete", 0, 3), ("unread", 1, 0), ("delete", 0, 0), ("move", 1, 0), ("move", 1, 0), ("unread", 1, 2)],
)  # fmt: skip
@example(
    "channel",
    [("move", 1, 0), ("name", 0, 1), ("move", 1, 0), ("name", 0, 1), ("unread", 1, 0), ("delete", 0, 1)],
)
async def test_what_is_unread_is_what_a_naive_recount_finds(
    api: Api, people: Maker, db: asyncpg.Pool, kind: str, steps: list[tuple[str, int, int]]
) -> None:
    crowd = [await people(name) for name in ("ada", "ben", "eve")]
    rows = await db.fetch(
        "SELECT id, username FROM users WHERE id = ANY($1::bigint[])", [who.id for who in crowd]
    )
    handles = {row["id"]: row["username"] for row in rows}
    ada, model = crowd[0], Model("all" if kind == "channel" else "joined")
    thread_id = await api.thread(*crowd, kind=kind, title="Counted")
    url = f"/api/threads/{thread_id}"
    for person in crowd:
        model.join(person.id)
    for act, number, pick in steps:
        who, seq = crowd[number], pick % (model.last + 1)
        inside = who.id in model.read
        if act in ("say", "name") and inside:
            named = crowd[pick % 3]
            text = f"@{handles[named.id]} look" if act == "name" else "words"
            await api.say(thread_id, who, text)
            model.say(who.id, {named.id} if act == "name" else set())
        elif act == "delete" and seq and seq in model.sees(ada.id):
            ok(await api.delete(f"{url}/messages/{seq}", as_=ada), 204)
            model.living[seq - 1] = False
        elif act == "read" and inside:
            model.read[who.id] = max(model.read[who.id], seq)
            assert await moved(api, thread_id, who, "read", seq) == model.counts(who.id)
        elif act == "unread" and inside:
            model.back(who.id, seq)
            assert await moved(api, thread_id, who, "unread", seq) == model.counts(who.id)
        elif act == "move" and who is not ada:
            if inside:
                ok(await api.post(f"{url}/leave", as_=who), 204)
                model.leave(who.id)
            else:
                ok(await api.post(f"{url}/members", {"userId": who.id}, as_=ada), 201)
                model.join(who.id)
        for person in crowd:
            if person.id in model.read:
                naive = model.counts(person.id)
                assert await counts(api, thread_id, person) == naive, (act, who.name, person.name)
                (listed,) = ok(await api.get("/api/threads", as_=person))["threads"]
                assert tuple(listed[name] for name in COUNTS) == naive
                unread = ok(await api.get("/api/threads?unread=true", as_=person))["threads"]
                assert [thread["id"] for thread in unread] == ([thread_id] if naive[0] else [])
    await dense(db, thread_id)


async def fill(db: asyncpg.Pool, thread_id: int, author: Person, last: int) -> None:
    """Many messages at once."""
    async with db.acquire() as conn, conn.transaction():
        await conn.execute(
            """INSERT INTO messages (thread_id, seq, rev, author_id, text, created_at)
               SELECT $1, i, i + 2, $2, 'words', now() FROM generate_series(1, $3::bigint) i""",
            thread_id, author.id, last,
        )  # fmt: skip
        await conn.execute(
            """INSERT INTO changes (thread_id, rev, kind, seq)
               SELECT $1, i + 2, 'message', i FROM generate_series(1, $2::bigint) i""",
            thread_id, last,
        )  # fmt: skip
        await conn.execute(
            """UPDATE thread_heads
               SET last_seq = $2::bigint, last_rev = $2 + 2, message_count = $2, last_message_at = now()
               WHERE thread_id = $1""",
            thread_id, last,
        )  # fmt: skip


async def delete(db: asyncpg.Pool, thread_id: int, low: int, high: int) -> None:
    """The same for deleting: low to high, as messages.remove does one by one."""
    async with db.acquire() as conn, conn.transaction():
        gone = await conn.fetchval(
            """WITH gone AS (
                   UPDATE messages SET deleted_at = now(), text = ''
                   WHERE thread_id = $1 AND seq BETWEEN $2 AND $3 AND deleted_at IS NULL RETURNING seq
               ), counted AS (
                   INSERT INTO deletions AS d (thread_id, level, block, count)
                   SELECT $1, level, seq >> 7 * level, count(*) FROM gone, generate_series(1, 3) level GROUP BY 2, 3
                   ON CONFLICT ON CONSTRAINT deletions_pkey DO UPDATE SET count = d.count + excluded.count
               )
               SELECT count(*) FROM gone""",
            thread_id, low, high,
        )  # fmt: skip
        await conn.execute(
            """UPDATE thread_heads
               SET message_count = message_count - $2, last_deleted_seq = greatest(last_deleted_seq, $3)
               WHERE thread_id = $1""",
            thread_id, gone, high,
        )  # fmt: skip


async def test_unread_is_exact_across_the_borders_of_the_counters(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    last = 40_000
    await fill(db, cast.team, cast.ada, last)
    # Lone ones, whole blocks of 128 and of 16,384 with something on either side, and the end.
    for low, high in (
        (1, 1), (100, 300), (383, 383), (512, 639), (1000, 1000), (16_383, 16_383), (16_384, 32_767), (32_768, 32_900),
        (33_024, 33_151), (39_990, 40_000),
    ):  # fmt: skip
        await delete(db, cast.team, low, high)
    for seq in (2, 127, 128, 384, 640, 33_000):  # and by the server itself
        await api.delete(f"/api/threads/{cast.team}/messages/{seq}", as_=cast.ada)
    living = await db.fetchval(
        "SELECT array_agg(seq ORDER BY seq) FROM messages WHERE thread_id = $1 AND deleted_at IS NULL",
        cast.team,
    )
    ok(await api.post(f"/api/threads/{cast.team}/read", {"seq": last}, as_=cast.ben))
    borders = {block * size for size in (128, 16_384) for block in (0, 1, 2, 3, 4, 5, 8, 258, 259, 260)}
    around = {near for border in borders for near in range(border - 2, border + 3)}
    places = {near for near in around | {99, 100, 300, 301, 383, 1000, 39_989, 39_990} if 0 <= near < last}
    assert {0, 127, 128, 16_383, 16_384, 32_767, 32_768} <= places
    for place in sorted(places, reverse=True):
        unread = [seq for seq in living if seq > place]
        expected = (len(unread), unread[0] if unread else None, 0, place)
        assert await moved(api, cast.team, cast.ben, "unread", place + 1) == expected
        assert await counts(api, cast.team, cast.ben) == expected
        # unread_json has its lines in place; lists and stretches call it.
        gone = await db.fetchval("SELECT deleted_after($1, $2)", cast.team, place)
        assert gone == last - place - len(unread)


async def test_to_count_costs_the_same_however_many_are_deleted(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    await fill(db, cast.team, cast.ada, 60_000)
    await delete(db, cast.team, 1, 59_000)
    await db.execute("VACUUM ANALYZE messages, deletions")
    assert (await counts(api, cast.team, cast.ben))[:2] == (1000, 59_001)
    for block, values in (
        (blocks("threads")["get"], (cast.ben.id, cast.team)),
        (blocks("receipts")["unread"], (cast.ben.id, cast.team, 1)),
    ):
        said = await db.fetch(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {block.text}", *values)
        touched = sum(int(word[4:]) for word in said[1][0].split() if word.startswith("hit="))
        assert 0 < touched < 4000, said  # some hundred steps over messages and blocks


@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_marked_unread_a_thread_stays_so_until_it_is_read(api: Api, cast: Cast, kind: str) -> None:
    thread_id = await api.thread(cast.ada, cast.ben, kind=kind, title="Later")
    for text in ("one", "two", "three"):
        await api.say(thread_id, cast.ada, text)
    assert await moved(api, thread_id, cast.ben, "read", 3) == (0, None, 0, 3)
    assert await moved(api, thread_id, cast.ben, "unread", 2) == (2, 2, 0, 1)
    assert await moved(api, thread_id, cast.ben, "unread", 3) == (2, 2, 0, 1), "forward is for read"
    assert await counts(api, thread_id, cast.ben) == (2, 2, 0, 1)
    assert await counts(api, thread_id, cast.ada) == (0, None, 0, 3), "nobody else's"
    await api.say(thread_id, cast.ben, "who answers has read")
    assert await counts(api, thread_id, cast.ben) == (0, None, 0, 4)
    assert await moved(api, thread_id, cast.ben, "unread", 4) == (1, 4, 0, 3), "one's own too"
    assert await moved(api, thread_id, cast.ben, "unread", 0) == (4, 1, 0, 0)


async def test_who_came_later_marks_back_to_their_first_message(api: Api, cast: Cast) -> None:
    for _ in range(3):
        await api.say(cast.team, cast.ada, "before")
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": cast.mallory.id}, as_=cast.ada), 201)
    assert await moved(api, cast.team, cast.mallory, "unread", 1) == (0, None, 0, 3), (
        "nothing of it is theirs"
    )
    await api.say(cast.team, cast.ada, "after")
    ok(await api.post(f"/api/threads/{cast.team}/read", {"seq": 4}, as_=cast.mallory))
    assert await moved(api, cast.team, cast.mallory, "unread", 1) == (1, 4, 0, 3)


async def test_counting_enters_no_function_where_one_of_the_next_messages_is_there(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    """Each call plans anew, and the tail of the user streams counts for thousands at once."""
    await fill(db, cast.team, cast.ada, 1000)
    for low, high in ((1, 100), (300, 300), (501, 700)):
        await delete(db, cast.team, low, high)
    for place, first, entered in ((0, 101, []), (299, 301, []), (500, 701, ["first_unread"])):
        ok(await api.post(f"/api/threads/{cast.team}/read", {"seq": place}, as_=cast.ben))
        async with db.acquire() as conn, conn.transaction():
            await conn.execute("SET LOCAL track_functions = 'all'")
            text = await conn.fetchval(blocks("threads")["get"].text, cast.ben.id, cast.team)
            rows = await conn.fetch(
                """SELECT funcname FROM pg_stat_xact_user_functions
                   WHERE funcname IN ('deleted_after', 'first_unread', 'unread_after') ORDER BY 1"""
            )
        living = [
            seq for seq in range(place + 1, 1001) if not (seq <= 100 or seq == 300 or 501 <= seq <= 700)
        ]
        found = orjson.loads(text)
        assert (found["unreadCount"], found["firstUnreadSeq"]) == (len(living), first)
        assert [row["funcname"] for row in rows] == entered
