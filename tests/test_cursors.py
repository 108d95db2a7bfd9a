"""Page cursors: sealed, and leading through exactly what one may see, in both directions."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.base.errors import BadRequest
from server.base.http import Cursors
from tests.client import Api, Person
from tests.conftest import Maker
from tests.rules import ok, refused

CURSORS = Cursors("a secret")
NUMBERS = st.integers(-(2**63), 2**63 - 1)
PURPOSES = st.text(st.characters(codec="utf-8"), max_size=30)


# ---- the seal

PURE = settings(deadline=None)


def is_refused(purpose: str, cursor: str, count: int, cursors: Cursors = CURSORS) -> bool:
    try:
        cursors.open(purpose, cursor, count=count)
    except BadRequest as refusal:
        return refusal.code == "bad_cursor"
    return False


@PURE
@given(PURPOSES, st.lists(NUMBERS, min_size=1, max_size=4))
def test_what_was_sealed_opens_and_can_stand_in_a_url(purpose: str, numbers: list[int]) -> None:
    cursor = CURSORS.seal(purpose, *numbers)
    assert CURSORS.open(purpose, cursor, count=len(numbers)) == tuple(numbers)
    assert cursor.replace("-", "").replace("_", "").isalnum() and cursor.isascii()


@PURE
@given(PURPOSES, PURPOSES, NUMBERS, NUMBERS)
def test_a_cursor_opens_for_nothing_else(purpose: str, other: str, first: int, second: int) -> None:
    cursor = CURSORS.seal(purpose, first, second)
    assert not is_refused(purpose, cursor, 2)
    assert purpose == other or is_refused(other, cursor, 2)
    assert is_refused(purpose, cursor, 1) and is_refused(purpose, cursor, 3)
    assert is_refused(purpose, cursor, 2, Cursors("another secret"))


@PURE
@given(NUMBERS, st.data())
def test_a_cursor_that_was_changed_anywhere_is_refused(number: int, data: st.DataObject) -> None:
    cursor = CURSORS.seal("list:1", 1, number)
    changed = [cursor[:cut] for cut in range(len(cursor))]  # truncated
    changed += [cursor + more for more in ("=", "==", "A", "\n", " ", "\x00")]
    changed += [cursor[:9] + more + cursor[9:] for more in ("!", "=", " ", "é", "\ud800", "A")]
    changed += [
        cursor[:-1] + last for last in "ABCDwxyz0123456789-_" if last != cursor[-1]
    ]  # also the spare bits
    place = data.draw(st.integers(0, len(cursor) - 1))
    changed.append(cursor[:place] + data.draw(st.characters()) + cursor[place + 1 :])
    for forged in changed:
        assert forged == cursor or is_refused("list:1", forged, 2), forged


@PURE
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@example("")
def test_what_was_never_sealed_is_refused(cursor: str) -> None:
    assert all(is_refused("list:1", cursor, count) for count in (1, 2))


# ---- paging


@dataclass
class History:
    """A thread with 1 to last messages, each quoting the one before, and what one reader may see of it."""

    thread_id: int
    reader: Person
    last: int
    visible: list[int]


async def arrange(db: asyncpg.Pool, people: Maker, *, channel: bool, steps: Sequence[int]) -> History:
    """The reader is out at first; each step is so many messages, then they come or go. At the end they are in."""
    reader, author = await people("reader"), await people("author")
    thread_id = await db.fetchval(
        "INSERT INTO threads (kind, title) VALUES ($1, 'History') RETURNING id",
        "channel" if channel else "group",
    )
    spans: list[list[int]] = []
    last = inside = 0
    for number, count in enumerate(steps):
        last += count
        if inside:
            spans[-1] += [last, number + 2]
        else:
            spans.append([last, number + 2])
        inside = not inside
    if not inside:
        spans.append([last, len(steps) + 2])
    await db.execute(
        """WITH head AS (
               INSERT INTO thread_heads (thread_id, last_seq, last_rev, message_count, last_message_at)
               VALUES ($1::bigint, $2::bigint, $2 + 1000, $2, now()) RETURNING thread_id
           ), messages AS (
               INSERT INTO messages (thread_id, seq, rev, author_id, reply_to, text, created_at)
               SELECT $1, n, n, $3, nullif(n - 1, 0), 'text ' || n, timestamptz '2026-01-01' + n * interval '1 second'
               FROM generate_series(1::bigint, $2) n
           )
           INSERT INTO memberships (thread_id, user_id, joined_seq, joined_rev, left_seq, left_rev, left_at,
                                    read_seq)
           SELECT $1, $4, s.joined_seq, s.joined_rev, s.left_seq, s.left_rev,
               CASE WHEN s.left_rev IS NOT NULL THEN now() END, s.joined_seq
           FROM unnest($5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
               AS s (joined_seq, joined_rev, left_seq, left_rev)""",
        thread_id, last, author.id, reader.id,
        [span[0] for span in spans], [span[1] for span in spans],
        [span[2] if len(span) > 2 else None for span in spans],
        [span[3] if len(span) > 2 else None for span in spans],
    )  # fmt: skip
    seen = [
        seq for seq in range(1, last + 1) if channel or any(s[0] < seq <= (s[2:] or [last])[0] for s in spans)
    ]
    return History(thread_id, reader, last, seen)


class Walker:
    """Asks for pages of one history, and checks what holds of each."""

    def __init__(self, api: Api, history: History) -> None:
        self.api, self.history = api, history

    async def page(self, **values: Any) -> tuple[list[int], str | None, str | None]:
        """The seqs of a page, its next and its previous cursor."""
        url = f"/api/threads/{self.history.thread_id}/messages"
        params = {name: value for name, value in values.items() if value is not None}
        page = ok(await self.api.get(url, as_=self.history.reader, params=params))
        visible = set(self.history.visible)
        for message in page["items"]:
            seq = message["seq"]
            quote: dict[str, Any] = {"seq": seq - 1}
            if seq - 1 in visible:
                quote |= {"author": message["author"], "text": f"text {seq - 1}"}
            assert message.get("replyTo") == (quote if seq > 1 else None)
            assert message["text"] == f"text {seq}"
        return [message["seq"] for message in page["items"]], page["nextCursor"], page["prevCursor"]

    async def walk(
        self, cursor: str | None, *, back: bool = False, **values: Any
    ) -> list[tuple[list[int], str | None]]:
        """All pages from a cursor to the end of its direction, each with the cursor that leads the other way."""
        pages: list[tuple[list[int], str | None]] = []
        while cursor is not None:
            seqs, following, preceding = await self.page(cursor=cursor, **values)
            cursor, way_back = (preceding, following) if back else (following, preceding)
            assert seqs, "an empty page after one that said there is more"
            assert cursor is None or len(seqs) == values["limit"], "a page that isn't full and isn't the last"
            assert way_back is not None
            pages.append((seqs, way_back))
        return pages


HISTORIES = st.lists(st.integers(0, 6), min_size=1, max_size=8)
PROPERTY = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@PROPERTY
@given(
    channel=st.booleans(),
    steps=HISTORIES,
    limit=st.integers(1, 7),
    order=st.sampled_from(["asc", "desc", None]),
)
@example(channel=False, steps=[5], limit=2, order="asc")  # joined after all of it: sees nothing
@example(channel=False, steps=[3, 4, 3, 4, 2], limit=4, order="desc")  # pages end where spans end
@example(channel=True, steps=[0], limit=1, order=None)  # nothing there
async def test_pages_hold_exactly_what_one_may_see_forwards_and_back(
    api: Api, db: asyncpg.Pool, people: Maker, channel: bool, steps: list[int], limit: int, order: str | None
) -> None:
    history = await arrange(db, people, channel=channel, steps=steps)
    walker, expected = Walker(api, history), history.visible
    if order == "desc":
        expected = expected[::-1]
    first, following, preceding = await walker.page(order=order, limit=limit)
    assert preceding is None
    assert following is None or len(first) == limit
    rest = await walker.walk(following, order=order, limit=limit)
    assert [*first, *(seq for page, _ in rest for seq in page)] == expected
    if rest:
        last, way_back = rest[-1]
        pages = await walker.walk(way_back, back=True, order=order, limit=limit)
        assert [seq for page, _ in reversed(pages) for seq in page] + last == expected
        again = await walker.walk(pages[-1][1], order=order, limit=limit)
        assert pages[-1][0] + [seq for page, _ in again for seq in page] == expected


@PROPERTY
@given(
    channel=st.booleans(),
    steps=HISTORIES,
    limit=st.integers(1, 9),
    middle=st.integers(1, 50),
    by_time=st.booleans(),
)
@example(
    channel=False, steps=[0, 1, 9, 1], limit=1, middle=10, by_time=False
)  # the nearest one is the later one
@example(
    channel=False, steps=[0, 3, 9, 4], limit=4, middle=7, by_time=True
)  # a moment of which one was told nothing
async def test_a_window_lies_around_the_nearest_visible_message_and_leads_on_both_ways(
    api: Api,
    db: asyncpg.Pool,
    people: Maker,
    channel: bool,
    steps: list[int],
    limit: int,
    middle: int,
    by_time: bool,
) -> None:
    history = await arrange(db, people, channel=channel, steps=steps)
    walker, visible = Walker(api, history), history.visible
    if by_time:
        target = min(middle, history.last + 1)  # nothing was written between two seconds, or after the last
        asked: dict[str, Any] = {"at": f"2026-01-01T00:{(middle - 1) // 60:02}:{(middle - 1) % 60:02}.5Z"}
    else:
        target, asked = middle, {"around": middle}
    seqs, following, preceding = await walker.page(limit=limit, **asked)
    assert len(seqs) == min(limit, len(visible))
    if not visible:
        assert (following, preceding) == (None, None)
        return
    start = visible.index(seqs[0])
    assert seqs == visible[start : start + len(seqs)], "a window has no holes but those of one's sight"
    nearest = min(abs(seq - target) for seq in visible)
    assert any(abs(seq - target) == nearest for seq in seqs)
    before = sum(seq < target for seq in seqs)
    after = sum(seq > target for seq in seqs)
    if following and preceding:  # not cut short at either end
        assert abs(before - after) <= 1 + (target not in seqs), (before, after)
    onward = await walker.walk(following, limit=limit)
    backward = await walker.walk(preceding, back=True, limit=limit)
    assert [seq for page, _ in [*reversed(backward), (seqs, ""), *onward] for seq in page] == visible


async def test_a_cursor_of_another_thread_order_list_or_server_is_refused(
    api: Api, db: asyncpg.Pool, people: Maker
) -> None:
    history = await arrange(db, people, channel=False, steps=[0, 9])
    reader, url = history.reader, f"/api/threads/{history.thread_id}/messages?limit=2"
    other = await api.thread(reader)
    for number in range(3):
        await api.say(other, reader, f"{number}")
        await api.thread(reader)

    async def cursor_of(url: str) -> str:
        return str(ok(await api.get(url, as_=reader))["nextCursor"])

    ascending, descending = await cursor_of(url), await cursor_of(f"{url}&order=desc")
    foreign = await cursor_of(f"/api/threads/{other}/messages?limit=2")
    listing = await cursor_of("/api/threads?limit=2")
    assert "None" not in (ascending, descending, foreign, listing)
    ok(await api.get(f"{url}&cursor={ascending}", as_=reader))
    ok(await api.get(f"{url}&order=desc&cursor={descending}", as_=reader))
    elsewhere = Cursors("another secret").seal(f"messages:asc:{history.thread_id}", 1, 4)
    for wrong in (
        f"cursor={foreign}", f"cursor={listing}", f"cursor={elsewhere}", f"cursor={ascending[:-1]}", "cursor=4",
        f"order=desc&cursor={ascending}", f"order=asc&cursor={descending}", f"cursor={ascending}%00", "cursor=",
        f"cursor={'A' * 5000}",
    ):  # fmt: skip
        refused(await api.get(f"{url}&{wrong}", as_=reader), 400)
    for wrong in (ascending, foreign, "", "4"):
        refused(await api.get(f"/api/threads?cursor={wrong}", as_=reader), 400, "bad_cursor")
        refused(await api.get(f"/api/threads/{other}/members?cursor={wrong}", as_=reader), 400, "bad_cursor")
    stranger = await people("stranger")
    refused(await api.get(f"/api/threads?cursor={listing}", as_=stranger), 400, "bad_cursor")


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_walk_sees_what_comes_meanwhile_at_the_end_and_nothing_twice(
    api: Api, db: asyncpg.Pool, people: Maker, order: str
) -> None:
    history = await arrange(db, people, channel=False, steps=[0, 6])
    walker = Walker(api, history)
    first, following, _ = await walker.page(order=order, limit=3)
    for _ in range(2):
        await api.say(history.thread_id, history.reader, "meanwhile")
    assert following is not None
    url = f"/api/threads/{history.thread_id}/messages?limit=100&order={order}&cursor={following}"
    rest = [message["seq"] for message in ok(await api.get(url, as_=history.reader))["items"]]
    assert first + rest == ([1, 2, 3, 4, 5, 6, 7, 8] if order == "asc" else [6, 5, 4, 3, 2, 1])
