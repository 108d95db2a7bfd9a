"""Channels to discover: by title, each as the caller sees it, with bounded work."""

import asyncpg
import pytest

from tests.client import Api, Person
from tests.conftest import Cast, Maker
from tests.rules import ok, refused
from tests.test_threads import THREAD


@pytest.fixture(autouse=True)
async def alone(db: asyncpg.Pool) -> None:
    """The channels of other tests are none of ours."""
    await db.execute("UPDATE threads SET listed = false WHERE kind = 'channel'")


async def found(api: Api, who: Person, query: str = "") -> list[str]:
    """The titles of a page."""
    return [one["title"] for one in ok(await api.get(f"/api/channels?limit=100{query}", as_=who))["channels"]]


async def walked(api: Api, who: Person, query: str) -> tuple[list[str], int]:
    """The titles of all pages, and how many pages that took."""
    titles, cursor, pages = [], "", 0
    while cursor is not None:
        page = ok(await api.get(f"/api/channels?{query}{cursor and f'&cursor={cursor}'}", as_=who))
        titles += [one["title"] for one in page["channels"]]
        cursor, pages = page["nextCursor"], pages + 1
    return titles, pages


async def test_members_see_their_own_view_and_others_that_it_is_there(api: Api, cast: Cast) -> None:
    thread_id = await api.thread(cast.ada, kind="channel", title="Open")
    await api.say(thread_id, cast.ada, "secret")
    ok(await api.post(f"/api/threads/{thread_id}/join", as_=cast.ben))
    await api.say(thread_id, cast.ada, "to ben")
    views = {}
    for who in (cast.ada, cast.ben, cast.mallory):
        (views[who.name],) = ok(await api.get("/api/channels", as_=who))["channels"]
        assert views[who.name] == ok(await api.get(f"/api/threads/{thread_id}", as_=who))["thread"]
    assert (views["ada"]["role"], views["ada"]["unreadCount"]) == ("admin", 0)
    assert (views["ben"]["role"], views["ben"]["unreadCount"]) == ("member", 1)
    assert set(views["ben"]) == THREAD
    outside = views["mallory"]
    assert (outside["role"], outside["lastMessage"], outside["unreadCount"]) == (None, None, 0)
    assert outside["history"] == "all" and outside["messageCount"] == 2
    assert set(outside) == THREAD - {"muted", "archived", "notify"}
    refused(await api.get("/api/channels"), 401)


async def test_only_living_channels_are_found(api: Api, cast: Cast) -> None:
    for kind in ("group", "channel"):
        await api.thread(cast.ada, kind=kind, title=f"A {kind}")
    await api.thread(cast.ada, cast.ben, kind="direct")
    gone = await api.thread(cast.ada, kind="channel", title="Gone")
    assert await found(api, cast.ada) == await found(api, cast.mallory) == ["A channel", "Gone"]
    ok(await api.delete(f"/api/threads/{gone}", as_=cast.ada), 204)
    for who in (cast.ada, cast.mallory):
        assert await found(api, who) == await found(api, who, "&search=") == ["A channel"]
        assert await found(api, who, "&search=gone") == []


async def test_they_come_by_title_ignoring_case_and_are_searched_by_any_part(api: Api, cast: Cast) -> None:
    for title in ("beta 100%", "Alpha", "alpha two", "ÜBER uns", "GAMMA_ray", "Beta"):
        await api.thread(cast.ada, kind="channel", title=title)
    assert await found(api, cast.ben) == ["Alpha", "alpha two", "Beta", "beta 100%", "GAMMA_ray", "ÜBER uns"]
    for search, titles in {
        "ALPHA": ["Alpha", "alpha two"], "eta": ["Beta", "beta 100%"], "%25": ["beta 100%"], "_": ["GAMMA_ray"],
        "%C3%BCber": ["ÜBER uns"], "nothing": [], "%20": 6, "\\": [],
    }.items():  # fmt: skip
        assert (await found(api, cast.ben, f"&search={search}") == titles) or titles == 6, search
    assert len(await found(api, cast.ben, "&search=%20")) == 6  # trimmed: no search


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
async def test_the_pages_hold_each_once_also_with_equal_titles(
    api: Api, cast: Cast, db: asyncpg.Pool, limit: int
) -> None:
    for title in ("same", "Same", "SAME", "other", "ßame", "last"):
        await api.thread(cast.ada, kind="channel", title=title)
    for query in ("", "&search=am"):
        whole = await found(api, cast.ben, query)
        assert (await walked(api, cast.ben, f"limit={limit}{query}"))[0] == whole


async def test_a_page_goes_on_from_where_it_was_though_titles_change(api: Api, cast: Cast) -> None:
    ids = [await api.thread(cast.ada, kind="channel", title=title) for title in ("aa", "bb", "cc", "dd")]
    page = ok(await api.get("/api/channels?limit=2", as_=cast.ben))
    ok(await api.patch(f"/api/threads/{ids[1]}", {"title": "zz"}, as_=cast.ada))
    ok(await api.delete(f"/api/threads/{ids[2]}", as_=cast.ada), 204)
    assert await found(api, cast.ben, f"&cursor={page['nextCursor']}") == ["dd", "zz"]


async def test_a_search_looks_at_a_bounded_number_and_says_where_to_go_on(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    await db.execute(
        """WITH made AS (
               INSERT INTO threads (kind, title, created_by)
               SELECT 'channel', 'room ' || to_char(n, 'FM0000')
                   || CASE WHEN n IN (7, 2500) THEN ' needle' ELSE '' END, $1
               FROM generate_series(1, 4500) n RETURNING id)
           INSERT INTO thread_heads (thread_id) SELECT id FROM made""",
        cast.ada.id,
    )
    await db.execute("ANALYZE threads, thread_heads")
    first = ok(await api.get("/api/channels?search=NEEDLE", as_=cast.ben))
    assert [one["title"] for one in first["channels"]] == ["room 0007 needle"] and first["nextCursor"]
    assert await walked(api, cast.ben, "search=needle") == (["room 0007 needle", "room 2500 needle"], 3)
    assert await walked(api, cast.ben, "search=nothing") == ([], 3)
    assert (await walked(api, cast.ben, "limit=100"))[1] == 45
    titles, pages = await walked(api, cast.ben, "search=room&limit=100")
    assert (len(set(titles)), pages) == (4500, 45)


async def test_a_cursor_of_channels_is_sealed(api: Api, cast: Cast, people: Maker) -> None:
    for title in ("one", "two"):
        await api.thread(cast.ada, kind="channel", title=title)
    cursor = ok(await api.get("/api/channels?limit=1", as_=cast.ada))["nextCursor"]
    sealed, _, title = cursor.partition(".")
    threads = ok(await api.get("/api/threads?limit=1", as_=cast.ada))["nextCursor"]
    for bad in (
        "", "x", ".", sealed, f"{sealed}.", f"{sealed}.dHdv", f"x.{title}", f"{cursor}x", threads,
        f"{sealed}.{title}.", f"{sealed}.gA==",
    ):  # fmt: skip
        refused(await api.get(f"/api/channels?cursor={bad}", as_=cast.ada), 400, "bad_cursor")
    refused(await api.get(f"/api/channels?cursor={sealed}.%ff", as_=cast.ada), 400, "bad_parameter")
    for bad, status in (("limit=0", 422), ("limit=101", 422), ("limit=x", 400), ("kind=group", 400)):
        refused(await api.get(f"/api/channels?{bad}", as_=cast.ada), status)
    refused(await api.get("/api/channels", params={"search": "x" * 1001}, as_=cast.ada), 422)
