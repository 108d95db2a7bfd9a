"""Finding people, one's own settings of a thread, and people who are out."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.client import NUMBERS, Api, Person
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused, waits_for_a_lock


async def found(api: Api, who: Person, search: str, **more: Any) -> list[str]:
    """The names of those that are found, in order."""
    reply = await api.get("/api/users", params={"search": search, **more}, as_=who)
    return [one["name"] for one in ok(reply)["users"]]


async def settle(db: asyncpg.Pool, *names: str, usernames: tuple[str, ...] = ()) -> list[int]:
    """People with exactly these names; their ids."""
    handles = usernames or tuple(f"h{next(NUMBERS)}.{n}" for n, _ in enumerate(names))
    rows = await db.fetch(
        "INSERT INTO users (name, username) SELECT * FROM unnest($1::text[], $2::text[]) RETURNING id",
        list(names),
        list(handles),
    )
    return [row["id"] for row in rows]


# ---- finding


async def test_people_are_found_by_name_and_username_what_fits_best_first(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    names = ("Quentin Zappa", "quent", "Aquentus", "Somebody", "Quentin", "Another")
    handles = ("zappa1", "zappa2", "zappa3", "quentish", "zappa5", "the.quent.one")
    await settle(db, *names, usernames=handles)
    assert await found(api, cast.ada, "QUENT") == [
        "quent", "Quentin", "Quentin Zappa", "Somebody", "Another", "Aquentus",
    ]  # fmt: skip
    assert await found(api, cast.ada, "zappa5") == ["Quentin"]
    assert await found(api, cast.ada, "Zappa") == [
        "Aquentus", "quent", "Quentin", "Quentin Zappa",
    ]  # fmt: skip
    assert await found(api, cast.ada, "tin zap") == ["Quentin Zappa"]
    assert await found(api, cast.ada, "quent", limit=2) == ["quent", "Quentin"]
    (one,) = ok(await api.get("/api/users?search=zappa1", as_=cast.mallory))["users"]
    assert set(one) == {"id", "username", "name", "kind"} and one["kind"] == "user"  # and no email
    assert (one["username"], one["name"]) == ("zappa1", "Quentin Zappa")


async def test_people_are_found_in_any_script(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    names = ("Пётр Чайковский", "山田太郎", "Ζωή Κωνσταντίνου", "Zoë Müller", "محمد علي", "김민수 선생")
    await settle(db, *names)
    for search, name in {
        "чайков": 0, "ПЁТР": 0, "山田": 1, "田太郎": 1, "κωνσταν": 2, "ΣΤΑΝΤΊΝ": 2, "mÜLL": 3, "محمد": 4, "김민": 5,
        "민수 선": 5,
    }.items():  # fmt: skip
        expected = [] if search == "민수 선" else [names[name]]  # no three letters on end
        assert await found(api, cast.ada, search) == expected, search


async def test_signs_are_taken_literally_and_few_letters_as_a_beginning(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    await settle(db, "xq_under", "xqAunder", "100%sure", "100sure", "back\\slash", "yyxq")
    assert await found(api, cast.ada, "xq_und") == ["xq_under"]
    assert await found(api, cast.ada, "q_under") == ["xq_under"]
    assert await found(api, cast.ada, "00%sure") == ["100%sure"]
    assert await found(api, cast.ada, "ack\\sla") == ["back\\slash"]
    assert await found(api, cast.ada, "xq") == ["xq_under", "xqAunder"]  # not yyxq: two letters begin a name
    assert await found(api, cast.ada, "yxq") == ["yyxq"]
    assert await found(api, cast.ada, "___") == await found(api, cast.ada, "%%%") == []


async def test_without_a_search_the_first_are_told(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    ours = [f"\x01{n:02}" for n in range(30)]  # before all that others are called
    await settle(db, *ours)
    for params in ({}, {"search": ""}, {"search": "  "}):
        names = [one["name"] for one in ok(await api.get("/api/users", params=params, as_=cast.ada))["users"]]
        assert names == ours[:20]
    body = refused(await api.get("/api/users", params={"search": "x" * 101}, as_=cast.ada), 422, "invalid")
    assert set(body["details"]) == {"search"}
    for limit, status in (("0", 422), ("51", 422), ("x", 400)):
        refused(await api.get(f"/api/users?search=ada&limit={limit}", as_=cast.ada), status)
    refused(await api.get("/api/users?search=%00", as_=cast.ada), 400)
    refused(await api.get("/api/users?search=ada"), 401)


async def test_a_page_is_full_of_what_is_common_and_bounded(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    await settle(db, *(f"common wuzzle {n:03}" for n in range(300)))
    for search in ("common", "wuzzle", "c"):
        assert len(await found(api, cast.ada, search)) == 20
        assert len(await found(api, cast.ada, search, limit=50)) == 50
    (one,) = await settle(db, "wuzzle")
    assert (await found(api, cast.ada, "wuzzle", limit=1)) == ["wuzzle"]
    await db.execute("DELETE FROM users WHERE id = $1 OR name LIKE 'common wuzzle%'", one)


async def test_whoever_is_deactivated_is_not_found(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    ids = await settle(db, "Vanishing One", "Vanishing Two")
    assert await found(api, cast.ada, "vanishing") == ["Vanishing One", "Vanishing Two"]
    await db.execute("UPDATE users SET deactivated_at = now() WHERE id = $1", ids[0])
    for search in ("vanishing", "anishing", "va"):
        assert await found(api, cast.ada, search) == ["Vanishing Two"]


# ---- people who are out


async def test_whoever_is_deactivated_is_put_into_nothing_new(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    gone = await people("gone")
    direct = ok(await api.post("/api/threads", {"kind": "direct", "memberIds": [gone.id]}, as_=cast.ben), 201)
    await db.execute("UPDATE users SET deactivated_at = now() WHERE id = $1", gone.id)
    count = await db.fetchval("SELECT count(*) FROM threads")
    for body in (
        {"kind": "direct", "memberIds": [gone.id]},
        {"title": "Come", "memberIds": [cast.ben.id, gone.id]},
        {"title": "Come", "kind": "channel", "memberIds": [gone.id]},
    ):
        assert set(refused(await api.post("/api/threads", body, as_=cast.ada), 422)["details"]) == {
            "memberIds"
        }
    assert await db.fetchval("SELECT count(*) FROM threads") == count
    add = await api.post(f"/api/threads/{cast.team}/members", {"userId": gone.id}, as_=cast.ada)
    assert set(refused(add, 422)["details"]) == {"userId"}
    again = ok(await api.post("/api/threads", {"kind": "direct", "memberIds": [gone.id]}, as_=cast.ben))
    assert again["thread"]["id"] == direct["thread"]["id"]  # what is there stays


async def test_an_addition_that_waits_while_somebody_is_deactivated_is_refused(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE users SET deactivated_at = now() WHERE id = $1", cast.mallory.id)
        url = f"/api/threads/{cast.team}/members"
        adding = asyncio.create_task(api.post(url, {"userId": cast.mallory.id}, as_=cast.ada))
        await waits_for_a_lock(db, "users.hold")
    refused(await adding, 422)
    await dense(db, cast.team)


# ---- my own settings of a thread


async def listed(api: Api, who: Person, query: str = "") -> list[int]:
    return [one["id"] for one in ok(await api.get(f"/api/threads?{query}", as_=who))["threads"]]


async def test_my_settings_of_a_thread_are_mine_alone(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}"
    before = {who.name: ok(await api.get(url, as_=who))["thread"] for who in (cast.ada, cast.ben)}
    plain = {"muted": False, "archived": False, "notify": "all"}
    assert before["ada"] | plain == before["ada"]
    async with api.stream(cast.team, cast.ben) as stream:
        changed = ok(await api.patch(f"{url}/me", {"muted": True, "notify": "mentions"}, as_=cast.ada))[
            "thread"
        ]
        await api.say(cast.team, cast.ada, "next")
        assert (await stream.next()).name == "message"  # nothing was told before it
    assert changed == before["ada"] | {"muted": True, "notify": "mentions"}
    ok(await api.patch(f"{url}/me", {"notify": "none", "muted": None}, as_=cast.ada))
    assert ok(await api.patch(f"{url}/me", {}, as_=cast.ada))["thread"]["muted"] is True
    mine = ok(await api.get(url, as_=cast.ada))["thread"]
    assert (mine["muted"], mine["archived"], mine["notify"]) == (True, False, "none")
    theirs = ok(await api.get(url, as_=cast.ben))["thread"]
    assert theirs | plain == theirs and theirs["lastRev"] == before["ben"]["lastRev"] + 1


async def test_an_archived_thread_is_left_out_of_my_list_until_i_fetch_it_back(api: Api, cast: Cast) -> None:
    url, other = f"/api/threads/{cast.team}", await api.thread(cast.ada, cast.ben, title="Other")
    ok(await api.patch(f"{url}/me", {"archived": True}, as_=cast.ada))
    await api.say(cast.team, cast.ben, "hello?")  # brings it back for nobody
    assert await listed(api, cast.ada) == await listed(api, cast.ada, "archived=false") == [other]
    assert await listed(api, cast.ada, "archived=true") == [cast.team]
    assert await listed(api, cast.ada, "archived=true&unread=true&kind=group&search=tea") == [cast.team]
    assert await listed(api, cast.ada, "unread=true") == []
    assert sorted(await listed(api, cast.ben)) == sorted([cast.team, other])
    for bad in ("1", "yes", ""):
        refused(await api.get(f"/api/threads?archived={bad}", as_=cast.ada), 400)
    ok(await api.patch(f"{url}/me", {"archived": False}, as_=cast.ada))
    assert await listed(api, cast.ada) == [cast.team, other]


async def test_settings_are_of_members_and_end_with_the_membership(api: Api, cast: Cast) -> None:
    channel = await api.thread(cast.ada, kind="channel", title="Settled")
    url = f"/api/threads/{channel}"
    for who, place in ((cast.mallory, cast.team), (cast.mallory, channel), (cast.ada, 10**15)):
        refused(await api.patch(f"/api/threads/{place}/me", {"muted": True}, as_=who), 404, "not_found")
    ok(await api.post(f"{url}/join", as_=cast.ben))
    ok(await api.patch(f"{url}/me", {"muted": True, "archived": True, "notify": "none"}, as_=cast.ben))
    ok(await api.post(f"{url}/leave", as_=cast.ben), 204)
    refused(await api.patch(f"{url}/me", {"muted": False}, as_=cast.ben), 404)
    ok(await api.post(f"{url}/join", as_=cast.ben))
    thread = ok(await api.get(url, as_=cast.ben))["thread"]
    assert (thread["muted"], thread["archived"], thread["notify"]) == (False, False, "all")
    ok(await api.delete(url, as_=cast.ada), 204)
    refused(await api.patch(f"{url}/me", {"muted": True}, as_=cast.ben), 404)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"notify": "some"}, 422),
        ({"muted": "yes"}, 400),
        ({"archived": 1}, 400),
        ({"notify": 1}, 400),
        ([], 400),
    ],
)
async def test_settings_are_of_these_words(api: Api, cast: Cast, body: Any, status: int) -> None:
    refused(await api.patch(f"/api/threads/{cast.team}/me", body, as_=cast.ada), status)
