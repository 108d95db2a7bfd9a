"""Reactions: whose, to what, in which signs, and counted right however many react at once."""

import asyncio
import random
import unicodedata
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from server import messages, pins, reactions
from server.base.db import open_pool
from server.base.emoji import EMOJI, spelled
from server.base.errors import Invalid
from server.reactions import KINDS, emoji_of
from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, raw, refused, waits_for_a_lock

UP, HEART, PARTY = "\U0001f44d", "\u2764\ufe0f", ":party_parrot:"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"


def url_of(thread_id: int, seq: int, emoji: str) -> str:
    return f"/api/threads/{thread_id}/messages/{seq}/reactions/{quote(emoji, safe='')}"


async def react(api: Api, thread_id: int, seq: int, who: Person, emoji: str) -> Reply:
    return await api.ask("PUT", url_of(thread_id, seq, emoji), as_=who)


async def unreact(api: Api, thread_id: int, seq: int, who: Person, emoji: str) -> Reply:
    return await api.delete(url_of(thread_id, seq, emoji), as_=who)


async def shown(api: Api, thread_id: int, who: Person, seq: int = 1) -> list[tuple[str, int, bool]]:
    """The reactions of a message as somebody sees them."""
    url = f"/api/threads/{thread_id}/messages"
    one = ok(await api.get(f"{url}/{seq}", as_=who))["message"]
    page = ok(await api.get(f"{url}?around={seq}&limit=1", as_=who))["items"]
    assert page == [one]
    return [(r["emoji"], r["count"], r["mine"]) for r in one["reactions"]]


async def last_rev(api: Api, thread_id: int, who: Person) -> int:
    return int(ok(await api.get(f"/api/threads/{thread_id}", as_=who))["thread"]["lastRev"])


async def counted(db: asyncpg.Pool, thread_id: int) -> None:
    """The counts in the messages are those of the rows."""
    wrong = await db.fetch(
        """SELECT coalesce(t.seq, r.seq) FROM
               (SELECT seq, e ->> 'emoji' AS emoji, (e -> 'count')::bigint AS count
                FROM messages, jsonb_array_elements(reactions) e WHERE thread_id = $1) t
           FULL JOIN (SELECT seq, emoji, count(*) AS count FROM reactions WHERE thread_id = $1 GROUP BY 1, 2) r
               USING (seq, emoji)
           WHERE t.count IS DISTINCT FROM r.count""",
        thread_id,
    )
    assert wrong == []
    assert await db.fetchval("SELECT count(*) FROM messages WHERE reactions = '[]'") == 0


async def test_reactions_are_counted_by_emoji_in_the_order_of_the_first(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    await api.say(team, ada, "lunch?")
    for who, emoji in ((ben, UP), (ada, PARTY), (ada, UP), (ben, FAMILY), (ben, PARTY)):
        ok(await react(api, team, 1, who, emoji), 204)
    assert await shown(api, team, ada) == [(UP, 2, True), (PARTY, 2, True), (FAMILY, 1, False)]
    assert await shown(api, team, ben) == [(UP, 2, True), (PARTY, 2, True), (FAMILY, 1, True)]
    ok(await unreact(api, team, 1, ben, UP), 204)
    assert await shown(api, team, ben) == [(UP, 1, False), (PARTY, 2, True), (FAMILY, 1, True)]
    ok(await unreact(api, team, 1, ada, UP), 204)
    assert await shown(api, team, ada) == [(PARTY, 2, True), (FAMILY, 1, False)]
    ok(await react(api, team, 1, ada, UP), 204)  # the last by now
    assert [emoji for emoji, _, _ in await shown(api, team, ada)] == [PARTY, FAMILY, UP]
    await counted(db, team)
    for who, emoji in ((ada, PARTY), (ben, PARTY), (ben, FAMILY), (ada, UP)):
        ok(await unreact(api, team, 1, who, emoji), 204)
    assert await shown(api, team, ada) == []
    await counted(db, team)
    await dense(db, team)


async def test_each_reaction_is_one_change_and_the_same_again_is_none(api: Api, cast: Cast) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    said = await api.say(team, ada, "lunch?")
    rev = said["rev"]
    async with api.stream(team, ada) as stream:
        for send, count in ((react, 1), (unreact, 0)):
            for _ in "123":
                reply = await send(api, team, 1, ben, HEART)
                assert (reply.status, reply.body) == (204, b"")
            rev += 1
            assert await last_rev(api, team, ada) == rev
            (event,) = await stream.until(rev)
            shared = [{"emoji": HEART, "count": 1}] * count
            assert (event.name, event.data) == ("message_updated", said | {"rev": rev, "reactions": shared})
        await api.say(team, ada, "next")
        assert (await stream.next()).data["text"] == "next"
    # Who comes back is told of it as it now is.
    ok(await react(api, team, 1, ben, UP), 204)
    ok(await react(api, team, 1, ada, UP), 204)
    async with api.stream(team, ben, since=stream.ready.id) as again:
        told = await again.until(rev + 3)
        assert {event.data["rev"] for event in told if event.data["seq"] == 1} == {rev + 3}
        assert told[0].data["reactions"] == [{"emoji": UP, "count": 2}]


async def test_a_send_and_its_repetition_show_reactions_without_whose_they_are(api: Api, cast: Cast) -> None:
    body = {"text": "lunch?", "clientId": "k"}
    url = f"/api/threads/{cast.team}/messages"
    assert ok(await api.post(url, body, as_=cast.ada), 201)["message"]["reactions"] == []
    ok(await react(api, cast.team, 1, cast.ada, UP), 204)
    again = ok(await api.post(url, body, as_=cast.ada))["message"]
    assert again["reactions"] == [{"emoji": UP, "count": 1}]
    edited = ok(await api.patch(f"{url}/1", {"text": "dinner?"}, as_=cast.ada))["message"]
    assert edited["reactions"] == [{"emoji": UP, "count": 1, "mine": True}]
    quoting = await api.say(cast.team, cast.ben, "yes", replyTo=1)
    assert set(quoting["replyTo"]) == {"seq", "author", "text"}


async def test_whoever_does_not_see_a_message_does_not_react_to_it(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    team, ada, late = cast.team, cast.ada, await people("late")
    await api.say(team, ada, "before")
    ok(await react(api, team, 1, ada, UP), 204)
    ok(await api.post(f"/api/threads/{team}/members", {"userId": late.id}, as_=ada), 201)
    await api.say(team, ada, "after")
    rev = await last_rev(api, team, ada)
    for send in (react, unreact):
        for who, seq in (
            (cast.mallory, 1),
            (cast.mallory, 2),
            (late, 1),
            (late, 3),
            (ada, 3),
            (ada, 2**63 - 1),
        ):
            refused(await send(api, team, seq, who, UP), 404, "not_found")
        refused(await send(api, 10**15, 1, ada, UP), 404, "not_found")
    assert await last_rev(api, team, ada) == rev
    ok(await react(api, team, 2, late, UP), 204)
    ok(await api.post(f"/api/threads/{team}/leave", as_=late), 204)
    for send in (react, unreact):
        refused(await send(api, team, 2, late, UP), 404, "not_found")
    assert await shown(api, team, ada, 2) == [(UP, 1, False)]  # what one did stays
    await counted(db, team)


async def test_a_deleted_message_loses_its_reactions_and_takes_none(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    await api.say(team, ada, "oops")
    ok(await react(api, team, 1, ben, UP), 204)
    ok(await api.delete(f"/api/threads/{team}/messages/1", as_=ada), 204)
    assert await shown(api, team, ben) == []
    assert await db.fetchval("SELECT count(*) FROM reactions WHERE thread_id = $1", team) == 0
    rev = await last_rev(api, team, ada)
    refused(await react(api, team, 1, ben, UP), 409, "message_deleted")
    ok(await unreact(api, team, 1, ben, UP), 204)  # it has none of theirs
    assert await last_rev(api, team, ada) == rev


async def test_a_deletion_takes_so_many_reactions_and_nothing_leads_to_the_rest(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    await api.say(team, ada, "loved")
    ok(await react(api, team, 1, ben, UP), 204)
    await db.execute(
        "INSERT INTO reactions (thread_id, seq, user_id, emoji) SELECT $1, 1, -n, 'x' FROM generate_series(1, 5200) n",
        team,
    )
    ok(await api.delete(f"/api/threads/{team}/messages/1", as_=ada), 204)
    left = await db.fetch("SELECT user_id FROM reactions WHERE thread_id = $1 ORDER BY user_id", team)
    assert len(left) == 201 and left[-1]["user_id"] == ben.id
    rev = await last_rev(api, team, ada)
    ok(await unreact(api, team, 1, ben, UP), 204)
    assert await shown(api, team, ben) == [] and await last_rev(api, team, ada) == rev


async def test_whom_somebody_has_blocked_reacts_no_more_in_their_direct_thread(api: Api, cast: Cast) -> None:
    ada, mallory = cast.ada, cast.mallory
    thread_id = await api.thread(ada, mallory, kind="direct")
    await api.say(thread_id, ada, "hello")
    ok(await react(api, thread_id, 1, mallory, UP), 204)
    ok(await api.ask("PUT", f"/api/me/blocks/{mallory.id}", as_=ada), 204)
    for emoji in (UP, HEART):
        refused(await react(api, thread_id, 1, mallory, emoji), 403, "blocked")
    ok(await react(api, thread_id, 1, ada, HEART), 204)
    assert await shown(api, thread_id, ada) == [(UP, 1, False), (HEART, 1, True)]
    ok(await unreact(api, thread_id, 1, mallory, UP), 204)  # as what one has said may be deleted
    assert await shown(api, thread_id, ada) == [(HEART, 1, True)]


async def test_a_message_has_reactions_of_twenty_kinds_at_most(api: Api, cast: Cast) -> None:
    team, ada, ben = cast.team, cast.ada, cast.ben
    await api.say(team, ada, "everything")
    kinds = [f":kind_{n}:" for n in range(KINDS)]
    for emoji in kinds:
        ok(await react(api, team, 1, ada, emoji), 204)
    rev = await last_rev(api, team, ada)
    refused(await react(api, team, 1, ben, UP), 409, "too_many_reactions")
    refused(await react(api, team, 1, ada, UP), 409, "too_many_reactions")
    ok(await react(api, team, 1, ada, kinds[0]), 204)
    assert await last_rev(api, team, ada) == rev
    ok(await react(api, team, 1, ben, kinds[-1]), 204)  # of a kind that is there
    ok(await unreact(api, team, 1, ada, kinds[0]), 204)
    ok(await react(api, team, 1, ben, UP), 204)
    assert [emoji for emoji, _, _ in await shown(api, team, ada)] == [*kinds[1:], UP]


# ---- which signs


def test_emoji_of_every_build_are_taken() -> None:
    for emoji in (
        UP, HEART, FAMILY, "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "1\ufe0f\u20e3", "#\ufe0f\u20e3",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\U0001f468\U0001f3fb\u200d\u2764\ufe0f\u200d\U0001f48b\u200d\U0001f468\U0001f3ff", "\U0001f3fd", "\U0001fae9",
        ":+1:", ":-1:", ":e-mail:", ":100:", ":party_parrot:", f":{'x' * 30}:",
    ):  # fmt: skip
        assert emoji_of(quote(emoji)) == emoji, ascii(emoji)


@pytest.mark.parametrize(
    ("other", "one"),
    [
        ("\u2764", HEART),
        (UP + "\ufe0f", UP),
        ("1\u20e3", "1\ufe0f\u20e3"),
        ("\u261d\ufe0f\U0001f3fd", "\u261d\U0001f3fd"),
        ("\U0001f3f3\u200d\U0001f308", "\U0001f3f3\ufe0f\u200d\U0001f308"),
        ("\U0001f575\u200d\u2642", "\U0001f575\ufe0f\u200d\u2642\ufe0f"),
        ("\U0001f468\u200d\u2764\u200d\U0001f468", "\U0001f468\u200d\u2764\ufe0f\u200d\U0001f468"),
    ],
    ids=ascii,
)
def test_an_emoji_has_one_spelling(other: str, one: str) -> None:
    assert spelled(other) == spelled(one) == one


async def test_however_an_emoji_is_spelled_it_is_the_same_reaction(api: Api, cast: Cast) -> None:
    await api.say(cast.team, cast.ada, "x")
    ok(await react(api, cast.team, 1, cast.ada, "\u2764"), 204)
    ok(await react(api, cast.team, 1, cast.ben, HEART), 204)
    assert await shown(api, cast.team, cast.ada) == [(HEART, 2, True)]
    ok(await unreact(api, cast.team, 1, cast.ben, "\u2764"), 204)
    assert await shown(api, cast.team, cast.ada) == [(HEART, 1, True)]


def test_all_that_is_an_emoji_is_in_the_normal_form() -> None:
    signs = [chr(c) for c in range(0x20, 0x20000) if EMOJI.fullmatch(chr(c))]
    assert len(signs) > 3000
    assert unicodedata.is_normalized("NFC", "".join(signs))


NONE = (
    "a", "ab", "1", "#", "*", " ", "\t", "\n", "\0", ".", "..", "/", "\\", "?", "%", "'", '"', "<", "\x7f", "\x1b",
    ":", "::", ":a", "a:", ":a b:", ":A:", ":é:", ":a/b:", ":a:b:", f":{'x' * 31}:", ":a:\n", ":\u0430:",
    "\ufe0f", "\u200d", "\u20e3", "\U000e007f", "\U0001f1e9", "\u0301", "é", "漢", "\u202e", "\uffff",
    UP + UP, UP + " ", " " + UP, UP + "\0", UP + "\u200d", "\u200d" + UP, UP + "\ufe0f\ufe0f", UP + "\u0301", UP + "x",
    "\U0001f1e9\U0001f1ea\U0001f1eb", "1\ufe0f", "12\ufe0f\u20e3", FAMILY + "\u200d" + FAMILY + "\u200d" + UP * 30,
    "\u200d".join([UP] * 17), "\U0001f3f4" + "\U000e0067" * 40 + "\U000e007f", "x" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("sign", NONE, ids=ascii)
def test_what_is_none_is_refused(sign: str) -> None:
    with pytest.raises(Invalid) as refusal:
        emoji_of(quote(sign, safe=""))
    assert set(refusal.value.details or {}) == {"emoji"}


async def test_nothing_in_the_place_of_an_emoji_does_harm(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    await api.say(cast.team, cast.ada, "x")
    url = f"/api/threads/{cast.team}/messages/1/reactions"
    places = [quote(sign, safe="") for sign in NONE if sign not in (".", "..")]
    places += [
        "%ff", "%C0%80", "%C0%AF", "%E0%80%80", "%F0%9F%91", "%ED%A0%80", "%ED%A0%BD%ED%B1%8D", "%F4%90%80%80",
        "%F0%82%82%AC", "%", "%zz", "%f", "%00", "%F0%9F%91%8D%00", "%25F0%259F%2591%258D", "a%2Fb", "%2E%2E",
        "%F0%9F%91%8D%2F", ";", "+", "%0d%0aX-A:%20b", "&%23128077;", "x" * 6000,
    ]  # fmt: skip
    for method in ("PUT", "DELETE"):
        for place in places:
            head = f"{method} {url}/{place} HTTP/1.1\r\nAuthorization: Bearer {cast.ada.token}\r\n\r\n"
            body = refused(await raw(api, head.encode()), 422, "invalid")
            assert set(body["details"]) == {"emoji"}, place
        for place in ("", "/", "a/b", f"{quote(UP)}/{quote(UP)}"):
            reply = await api.ask(method, f"{url}/{place}", as_=cast.ada)
            refused(reply, 404, "not_found")
        unescaped = f"{method} {url}/{UP} HTTP/1.1\r\nAuthorization: Bearer {cast.ada.token}\r\n\r\n"
        refused(await raw(api, unescaped.encode()), 400, "bad_request")
    refused(await api.get(f"{url}/{quote(UP)}", as_=cast.ada), 405, "method_not_allowed")
    assert await shown(api, cast.team, cast.ada) == []
    assert await db.fetchval("SELECT count(*) FROM reactions WHERE thread_id = $1", cast.team) == 0
    good = await api.ask("PUT", f"{url}/%f0%9f%91%8d", as_=cast.ada)  # in whatever case
    ok(good, 204)
    assert await shown(api, cast.team, cast.ada) == [(UP, 1, True)]


@pytest.mark.parametrize("body", [b"{}", b"\xff\xfe", b"[" * 9000, b'{"emoji": "x"}'])
async def test_a_body_is_not_looked_at(api: Api, cast: Cast, body: bytes) -> None:
    await api.say(cast.team, cast.ada, "x")
    for method, there in (("PUT", [(UP, 1, True)]), ("DELETE", [])):
        ok(await api.ask(method, url_of(cast.team, 1, UP), as_=cast.ada, content=body), 204)
        assert await shown(api, cast.team, cast.ada) == there


# ---- all at once


async def test_however_many_react_at_once_each_is_counted(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    crowd = [await people(f"fan{n}") for n in range(20)]
    channel = await api.thread(cast.ada, kind="channel", title="Town square")
    for person in crowd:
        ok(await api.post(f"/api/threads/{channel}/join", as_=person))
    await api.say(channel, cast.ada, "news")
    rev = await last_rev(api, channel, cast.ada)
    replies = await asyncio.gather(
        *(react(api, channel, 1, person, emoji) for person in crowd for emoji in (UP, HEART)),
        *(api.say(channel, person, "meanwhile") for person in crowd[:5]),
    )
    assert {reply.status for reply in replies if isinstance(reply, Reply)} == {204}
    assert sorted(await shown(api, channel, cast.ada)) == sorted([(UP, 20, False), (HEART, 20, False)])
    assert await last_rev(api, channel, cast.ada) == rev + 45
    # Half of them think better of it, while the others repeat themselves.
    await asyncio.gather(
        *(unreact(api, channel, 1, person, UP) for person in crowd[:10] for _ in "12"),
        *(react(api, channel, 1, person, UP) for person in crowd[10:] for _ in "12"),
    )
    assert {emoji: count for emoji, count, _ in await shown(api, channel, cast.ada)} == {
        UP: 10,
        HEART: 20,
    }
    assert await last_rev(api, channel, cast.ada) == rev + 55
    await counted(db, channel)
    await dense(db, channel)


async def test_one_person_on_two_devices_has_one_reaction(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    """The second waits for the first, and learns of what its statement did not see when it began."""
    await api.say(cast.team, cast.ada, "x")
    rev = await last_rev(api, cast.team, cast.ada)
    async with db.acquire() as conn, conn.transaction():
        # As reactions.add does it, and not committed yet.
        await conn.execute(
            "SELECT FROM memberships WHERE thread_id = $1 AND user_id = $2 FOR NO KEY UPDATE",
            cast.team, cast.ben.id,
        )  # fmt: skip
        await conn.execute(
            """INSERT INTO reactions (thread_id, seq, user_id, emoji) VALUES ($1, 1, $2, $3)""",
            cast.team, cast.ben.id, UP,
        )  # fmt: skip
        await conn.execute(
            """UPDATE messages SET reactions = jsonb_build_array(jsonb_build_object('emoji', $2::text, 'count', 1))
               WHERE thread_id = $1""",
            cast.team, UP,
        )  # fmt: skip
        second = asyncio.create_task(react(api, cast.team, 1, cast.ben, UP))
        await waits_for_a_lock(db, "reactions.add")
    ok(await second, 204)
    assert await shown(api, cast.team, cast.ben) == [(UP, 1, True)]
    assert await last_rev(api, cast.team, cast.ada) == rev, "the second has changed nothing"
    for _ in range(5):
        await asyncio.gather(
            *(send(api, cast.team, 1, cast.ben, UP) for send in (react, unreact, react, unreact, react))
        )
        await counted(db, cast.team)
    await dense(db, cast.team)


async def test_the_twentieth_kind_is_one_whoever_comes_first(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    await api.say(cast.team, cast.ada, "x")
    for n in range(KINDS - 1):
        ok(await react(api, cast.team, 1, cast.ada, f":kind_{n}:"), 204)
    replies = await asyncio.gather(
        *(react(api, cast.team, 1, who, f":last_{n}:") for n, who in enumerate((cast.ada, cast.ben) * 4))
    )
    assert sorted(reply.status for reply in replies) == [204] + [409] * 7
    assert len(await shown(api, cast.team, cast.ada)) == KINDS
    await counted(db, cast.team)


async def test_statements_that_meet_at_one_message_count_right(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool, served: str
) -> None:
    """On as many connections, without the turns that a worker makes them take; and none waits for ever."""
    crowd = [cast.ada, cast.ben, *[await people(f"fan{n}") for n in range(6)]]
    channel = await api.thread(cast.ada, kind="channel", title="Town square")
    for person in crowd[1:]:
        ok(await api.post(f"/api/threads/{channel}/join", as_=person))
    for _ in "12":
        await api.say(channel, cast.ada, "news")

    async def act(number: int, person: Person) -> None:
        chance = random.Random(number)
        for turn in range(40):
            who = {"user_id": person.id, "thread_id": channel, "seq": chance.choice((1, 1, 1, 2))}
            emoji = chance.choice((UP, HEART, FAMILY))
            match chance.randrange(12):
                case 0:
                    await pins.add(pool, **who)
                case 1:
                    await pins.take(pool, **who)
                case 2:
                    await messages.edit(pool, **who, text=f"{number} {turn}")
                case 3 | 4 | 5:
                    await reactions.take(pool, **who, emoji=emoji)
                case _:
                    await reactions.add(pool, **who, emoji=emoji, most_kinds=KINDS)

    pool = await open_pool(served, size=8, statement_cache=100)
    try:
        # Each of them twice, as on two devices.
        await asyncio.gather(*(act(number, person) for number, person in enumerate(crowd * 2)))
    finally:
        await pool.close()
    await counted(db, channel)
    await dense(db, channel)
    assert await db.fetchval("SELECT count(*) FROM reactions WHERE thread_id = $1", channel) > 0
    pinned = await db.fetch(
        "SELECT seq FROM messages WHERE thread_id = $1 AND pinned_at IS NOT NULL", channel
    )
    wall = ok(await api.get(f"/api/threads/{channel}/pins", as_=cast.ada))["items"]
    assert {row["seq"] for row in pinned} == {message["seq"] for message in wall}


@pytest.mark.parametrize("what", ["message", "membership", "block", "thread"])
async def test_a_reaction_that_waits_while_its_message_goes_comes_to_nothing(
    api: Api, cast: Cast, db: asyncpg.Pool, what: str
) -> None:
    await api.say(cast.team, cast.ada, "x")
    ending: dict[str, tuple[str, list[Any]]] = {
        "message": ("UPDATE messages SET text = '', deleted_at = now() WHERE thread_id = $1", [cast.team]),
        "membership": (
            "UPDATE memberships SET left_rev = 9, left_seq = 1, left_at = now() WHERE thread_id = $1 AND user_id = $2",
            [cast.team, cast.ben.id],
        ),
        "block": (
            "UPDATE memberships SET blocked = true WHERE thread_id = $1 AND user_id = $2",
            [cast.team, cast.ben.id],
        ),
        "thread": ("UPDATE thread_heads SET deleted_at = now() WHERE thread_id = $1", [cast.team]),
    }
    async with db.acquire() as conn, conn.transaction():
        text, values = ending[what]
        await conn.execute(text, *values)
        waiting = asyncio.create_task(react(api, cast.team, 1, cast.ben, UP))
        await waits_for_a_lock(db, "reactions.add")
    refusals = {"message": (409, "message_deleted"), "block": (403, "blocked")}
    status, code = refusals.get(what, (404, "not_found"))
    refused(await waiting, status, code)
    assert await db.fetchval("SELECT reactions FROM messages WHERE thread_id = $1", cast.team) is None


async def test_what_came_while_a_deletion_waited_goes_with_the_message(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    """A reaction, a pin and an edit that commit after the deletion has begun, and before it has the message."""
    await api.say(cast.team, cast.ada, "secret")
    url = f"/api/threads/{cast.team}/messages/1"
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM messages WHERE thread_id = $1 FOR NO KEY UPDATE", cast.team)
        await conn.execute(
            """WITH reaction AS (INSERT INTO reactions VALUES ($1, 1, $2, 'x')),
                    pin AS (INSERT INTO pins VALUES ($1, 1, 90, $2))
               INSERT INTO message_edits VALUES ($1, 1, 90, 'secret', now())""",
            cast.team, cast.ben.id,
        )  # fmt: skip
        deletion = asyncio.create_task(api.delete(url, as_=cast.ada))
        await waits_for_a_lock(db, "messages.remove")
    ok(await deletion, 204)
    for table in ("reactions", "pins", "message_edits"):
        assert await db.fetchval(f"SELECT count(*) FROM {table} WHERE thread_id = $1", cast.team) == 0, table
