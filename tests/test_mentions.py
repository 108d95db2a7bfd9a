"""Mentions: who is meant by @name in a message, and how many unread ones each has."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from server.messages import MENTIONS, handles_of
from server.ops.imports import import_files
from server.ops.records import Options
from tests.client import Api, Person
from tests.conftest import Cast, Maker, key_of
from tests.rules import ok

Named = Callable[[Person, str], Awaitable[Person]]


@pytest.fixture
def named(api: Api) -> Named:
    """Give somebody this username."""

    async def name(person: Person, username: str) -> Person:
        ok(await api.patch("/api/me", {"username": username}, as_=person))
        return person

    return name


async def handle(db: asyncpg.Pool, person: Person) -> str:
    return str(await db.fetchval("SELECT username FROM users WHERE id = $1", person.id))


async def unread(api: Api, thread_id: int, who: Person) -> int:
    """How many unread messages mention them: told alike by the thread and the list."""
    thread = ok(await api.get(f"/api/threads/{thread_id}", as_=who))["thread"]
    listed = ok(await api.get("/api/threads?limit=100", as_=who))["threads"]
    (found,) = [one["mentionCount"] for one in listed if one["id"] == thread_id]
    assert thread["mentionCount"] == found
    return int(found)


@pytest.mark.parametrize(
    ("text", "handles"),
    [
        ("", []),
        ("nobody", []),
        ("@ada", ["ada"]),
        ("hello @ada, hello @ben!", ["ada", "ben"]),
        ("(@ada) [@ben] \u201e@cleo\u201c *@dora*", ["ada", "ben", "cleo", "dora"]),
        ("@ada.", ["ada.", "ada"]),
        ("@ada... @ben- @a.b-c", ["ada...", "ada", "ben-", "ben", "a.b-c"]),
        ("@ada's @ben:@cleo", ["ada", "ben", "cleo"]),
        ("@Ada @ADA @ada", ["Ada"]),
        ("\u2026@ada\n@ben\t@cleo", ["ada", "ben", "cleo"]),
        ("@ada_lovelace @_x @2x", ["ada_lovelace", "_x", "2x"]),
        ("@zoë @иван @李小龙 @ΟΔΟΣ", ["zoë", "иван", "李小龙", "ΟΔΟΣ"]),
        ("@zoe\u0308", ["zoë"]),  # decomposed, as some keyboards and file names have it
        ("@ada\U0001f44d @ben\u200b", ["ada", "ben"]),
        ("@हिन्दी", []),  # it goes on with signs that no username has: not the beginning of it
        ("@ada\u0335 x", []),
        ("ada@example.org a@b @ada@example.org", []),
        ("@@ada @@ @ a@ada é@ada _@ada", []),
        ("@a @. @- @.a", []),
        (f"@{'a' * 32}", ["a" * 32]),
        (f"@{'a' * 33} @{'a' * 31}.{'b' * 9}", []),  # nor of one that is too long
        (f"@{'a' * 32}.", ["a" * 32]),
        ("http://x.org/@ada", ["ada"]),
    ],
)
def test_a_handle_is_a_whole_word_after_an_at_sign(text: str, handles: list[str]) -> None:
    assert handles_of(text) == handles


def test_no_text_takes_long_or_means_more_than_fifty() -> None:
    names = [f"n{n:03}" for n in range(1000)]
    assert handles_of(" ".join(f"@{name}" for name in names)) == names[:MENTIONS]
    assert len(handles_of(" ".join(f"@{name}." for name in names))) == MENTIONS
    for text in (
        "@" * 10_000, "@a" * 5000, "@ab " * 2500, "@" + "a" * 9999, "@a." * 3333, "@." * 5000, "@a-.-" * 2000,
        ("@" + "a" * 40 + " ") * 238, "@\u0301" * 5000, "@a\u0301" * 3333, "\u1e9b\u0323@" * 3333, "@\U0001f9f5" * 5000,
    ):  # fmt: skip
        began = time.perf_counter()
        assert len(handles_of(text)) <= MENTIONS
        assert time.perf_counter() - began < 2, text[:20]


async def test_whom_a_message_mentions_is_told_and_counted_until_it_is_read(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    at_ben, at_ada = f"@{await handle(db, ben)}", f"@{await handle(db, ada)}"
    async with api.stream(team, ben) as stream:
        said = await api.say(team, ada, f"{at_ben.upper()}, {at_ben}: lunch with {at_ada}?")
        assert said["mentions"] == [ben.id]  # once, and not oneself
        assert (await stream.next()).data == said
    assert ok(await api.get(f"/api/threads/{team}/messages/1", as_=ben))["message"] == said
    assert "mentions" not in await api.say(team, ada, "no one@all")
    await api.say(team, ada, f"{at_ben}?")
    assert (await unread(api, team, ben), await unread(api, team, ada)) == (2, 0)
    await api.say(team, ben, f"yes, {at_ada}")  # who answers has read
    assert (await unread(api, team, ben), await unread(api, team, ada)) == (0, 1)


async def test_mentioned_are_active_members_alone(
    api: Api, cast: Cast, people: Maker, root: Person, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    crowd = {name: await people(name) for name in ("former", "gone", "hostile", "back")}
    bot = await key_of(api, root, "bot")
    for person in (*crowd.values(), bot):
        ok(await api.post(f"/api/threads/{team}/members", {"userId": person.id}, as_=ada), 201)
    for who in ("former", "back"):
        ok(await api.delete(f"/api/threads/{team}/members/{crowd[who].id}", as_=ada), 204)
    ok(await api.post(f"/api/threads/{team}/members", {"userId": crowd["back"].id}, as_=ada), 201)
    ok(await api.patch(f"/api/admin/users/{crowd['gone'].id}", {"active": False}, as_=root))
    ok(await api.ask("PUT", f"/api/me/blocks/{ada.id}", as_=crowd["hostile"]), 204)
    everybody = [ben, cast.mallory, bot, *crowd.values()]
    text = " ".join([f"@{await handle(db, person)}" for person in everybody])
    assert (await api.say(team, ada, text))["mentions"] == sorted([ben.id, bot.id, crowd["back"].id])
    assert await unread(api, team, crowd["hostile"]) == 0
    by_ben = (await api.say(team, ben, text))["mentions"]  # whom nobody has blocked, and who is not mentioned
    assert by_ben == sorted([bot.id, crowd["back"].id, crowd["hostile"].id])


async def test_small_letters_are_those_of_the_database(
    api: Api, cast: Cast, people: Maker, named: Named
) -> None:
    """Python has other ones for some: 'ΟΔΟΣ'.lower() ends in another sigma, and 'İ'.lower() has two characters."""
    team, ada = cast.team, cast.ada
    for number, username in enumerate(("ΟΔΟΣ", "İzmir", "Straße", "ǅungla", "ЁЖИК")):
        person = await named(await people(f"p{number}"), username)
        ok(await api.post(f"/api/threads/{team}/members", {"userId": person.id}, as_=ada), 201)
        assert (await api.say(team, ada, f"@{username}"))["mentions"] == [person.id], username
    assert (await api.say(team, ada, "@ёжик!"))["mentions"] == [person.id]


async def test_a_deleted_message_mentions_nobody_and_an_edited_one_the_same(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    at_ben = f"@{await handle(db, ben)}"
    for text in ("one", "two"):
        await api.say(team, ada, f"{at_ben} {text}")
    assert await unread(api, team, ben) == 2
    edited = ok(await api.patch(f"/api/threads/{team}/messages/1", {"text": "nobody"}, as_=ada))["message"]
    assert edited["mentions"] == [ben.id]  # as it was sent: ben has been told
    await api.say(team, ada, "unmentioned")
    ok(await api.patch(f"/api/threads/{team}/messages/3", {"text": f"{at_ben} late"}, as_=ada))
    assert await unread(api, team, ben) == 2
    ok(await api.delete(f"/api/threads/{team}/messages/1", as_=ada), 204)
    assert "mentions" not in ok(await api.get(f"/api/threads/{team}/messages/1", as_=ben))["message"]
    assert await unread(api, team, ben) == 1
    ok(await api.delete(f"/api/threads/{team}/messages/2", as_=ada), 204)
    assert await unread(api, team, ben) == 0
    assert await db.fetchval("SELECT count(*) FROM mentions WHERE thread_id = $1", team) == 0


async def test_who_comes_again_has_no_unread_mentions(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    at_ben = f"@{await handle(db, ben)}"
    await api.say(team, ada, at_ben)
    ok(await api.delete(f"/api/threads/{team}/members/{ben.id}", as_=ada), 204)
    assert "mentions" not in await api.say(team, ada, f"{at_ben} is away")
    ok(await api.post(f"/api/threads/{team}/members", {"userId": ben.id}, as_=ada), 201)
    assert await unread(api, team, ben) == 0
    await api.say(team, ada, f"{at_ben} is back")
    assert await unread(api, team, ben) == 1


async def test_a_retry_mentions_as_the_first_try_did(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    team, ada, late = cast.team, cast.ada, await people("late")
    at = f"@{await handle(db, cast.ben)} @{await handle(db, late)}"
    first = await api.say(team, ada, at, clientId="k")
    ok(await api.post(f"/api/threads/{team}/members", {"userId": late.id}, as_=ada), 201)
    again = await api.say(team, ada, at, clientId="k")
    assert first["mentions"] == again["mentions"] == [cast.ben.id]
    racing = await asyncio.gather(*(api.say(team, ada, at, clientId="r") for _ in range(8)))
    assert {tuple(message["mentions"]) for message in racing} == {(cast.ben.id, late.id)}
    assert (await unread(api, team, cast.ben), await unread(api, team, late)) == (2, 1)


async def test_fifty_are_mentioned_at_most(api: Api, cast: Cast, people: Maker, db: asyncpg.Pool) -> None:
    channel = await api.thread(cast.ada, kind="channel", title="Town square")
    crowd = [await people(f"m{n}") for n in range(55)]
    await db.execute(
        """INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq)
           SELECT $1, user_id, 1000 + user_id, 0, 0 FROM unnest($2::bigint[]) user_id""",
        channel, [person.id for person in crowd],
    )  # fmt: skip
    said = await api.say(channel, cast.ada, " ".join([f"@{await handle(db, one)}" for one in crowd]))
    assert said["mentions"] == [person.id for person in crowd[:50]]
    assert [await unread(api, channel, crowd[n]) for n in (0, 49, 50)] == [1, 1, 0]


async def test_what_is_imported_mentions_nobody(
    api: Api, cast: Cast, db: asyncpg.Pool, served: str, tmp_path: Path
) -> None:
    """It was said long ago."""
    title, options = f"Old {cast.team}", Options(day=None, zone=UTC)
    at_ada, first, second = (
        f"@{await handle(db, cast.ada)}",
        tmp_path / "2020-05-01.txt",
        tmp_path / "2020-05-02.txt",
    )
    first.write_text(f"[10:00] <nick> hello {at_ada}\n")
    second.write_text(f"[11:00] <nick> hello again, {at_ada}\n")
    await import_files(served, "irc", [first], channel=title, options=options)
    (channel,) = ok(await api.get(f"/api/channels?search={quote(title)}", as_=cast.ada))["channels"]
    ok(await api.post(f"/api/threads/{channel['id']}/join", as_=cast.ada))
    await import_files(served, "irc", [second], channel=title, options=options)
    thread = ok(await api.get(f"/api/threads/{channel['id']}", as_=cast.ada))["thread"]
    assert (thread["unreadCount"], thread["mentionCount"]) == (1, 0)
    last = ok(await api.get(f"/api/threads/{channel['id']}/messages/2", as_=cast.ada))["message"]
    assert at_ada in last["text"] and "mentions" not in last
