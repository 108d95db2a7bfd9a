"""The log of a thread over HTTP: pages, single messages, edits, deletions, and who sees what of them."""

from typing import Any

import asyncpg
import pytest

from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused

MESSAGE = {"threadId", "seq", "rev", "author", "text", "createdAt", "files", "reactions"}
ASTRAL = "\U0001f9f5"  # one character, four bytes of UTF-8, two code units of JavaScript


async def texts(api: Api, thread_id: int, who: Person) -> dict[int, str]:
    """All that somebody can read of a thread."""
    page = ok(await api.get(f"/api/threads/{thread_id}/messages?limit=100", as_=who))
    return {message["seq"]: message["text"] for message in page["items"]}


async def test_pages_walk_to_the_last_message_and_back_without_gap_or_repeat(api: Api, cast: Cast) -> None:
    for number in range(1, 8):
        await api.say(cast.team, cast.ada, f"message {number}")
    for order in ("asc", "desc"):
        url = f"/api/threads/{cast.team}/messages?order={order}&limit=3"
        first = (await api.get(url, as_=cast.ben)).json
        assert first["prevCursor"] is None
        seen, page, last = [m["seq"] for m in first["items"]], first, first
        while page["nextCursor"]:
            page = (await api.get(f"{url}&cursor={page['nextCursor']}", as_=cast.ben)).json
            seen += [m["seq"] for m in page["items"]]
            last = page
        assert seen == (list(range(1, 8)) if order == "asc" else list(range(7, 0, -1)))
        back = (await api.get(f"{url}&cursor={last['prevCursor']}", as_=cast.ben)).json
        assert [m["seq"] for m in back["items"]] == ([4, 5, 6] if order == "asc" else [4, 3, 2])


async def test_a_thread_is_found_by_members_and_not_found_by_outsiders(api: Api, cast: Cast) -> None:
    await api.say(cast.team, cast.ada, "hello")
    url = f"/api/threads/{cast.team}/messages"
    member, outsider = await api.get(url, as_=cast.ben), await api.get(url, as_=cast.mallory)
    assert (member.status, outsider.status) == (200, 404)
    assert outsider.json["code"] == "not_found"


async def test_a_message_says_who_wrote_what_and_when(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    url = f"/api/threads/{cast.team}/messages"
    before = await db.fetchval("SELECT now()")
    sent = ok(await api.post(url, {"text": "  héllo\t\U0001f44b\n", "clientId": "c"}, as_=cast.ada), 201)[
        "message"
    ]
    assert sent["text"] == "héllo\t\U0001f44b"
    assert sent["author"] == {"id": cast.ada.id, "name": "ada", "kind": "user"}
    assert (sent["threadId"], sent["seq"], sent["clientId"]) == (cast.team, 1, "c")
    assert set(sent) == MESSAGE | {"clientId"}
    assert sent["createdAt"].endswith("Z")
    assert sent["createdAt"] >= before.strftime("%Y-%m-%dT%H:%M:%S")
    mine, bens = [ok(await api.get(f"{url}/1", as_=who))["message"] for who in (cast.ada, cast.ben)]
    assert mine == sent | {"status": "sent"}  # the status is told to the author alone
    assert bens == sent
    page = ok(await api.get(url, as_=cast.ada))
    assert page["items"] == [mine]
    thread = ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ada))["thread"]
    assert page["streamCursor"] == thread["streamCursor"]
    assert thread["lastRev"] == sent["rev"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("limit=0", 422, "invalid"),
        ("limit=101", 422, "invalid"),
        ("limit=-1", 422, "invalid"),
        ("limit=99999999999999999999", 422, "invalid"),
        ("limit=abc", 400, "bad_parameter"),
        ("limit=1.5", 400, "bad_parameter"),
        ("limit=", 400, "bad_parameter"),
        ("limit=%D9%A3", 400, "bad_parameter"),  # an Arabic 3
        ("limit=3&limit=3", 400, "bad_parameter"),
        ("order=newest", 400, "bad_parameter"),
        ("order=ASC", 400, "bad_parameter"),
        ("sort=asc", 400, "unknown_parameter"),
        ("cursor=abc", 400, "bad_cursor"),
        ("cursor=", 400, "bad_cursor"),
        ("around=0", 422, "invalid"),
        ("around=-1", 422, "invalid"),
        ("around=x", 400, "bad_parameter"),
        ("around=9223372036854775808", 422, "invalid"),
        ("at=yesterday", 400, "bad_parameter"),
        ("at=2026-11-20T12:00:00", 400, "bad_parameter"),  # whose midday?
        ("at=2026-13-20T12:00:00Z", 400, "bad_parameter"),
        ("at=0001-01-01T00:00:00%2B14:00", 400, "bad_parameter"),  # before the year 1 in UTC
        ("around=1&at=2026-11-20T12:00:00Z", 400, "bad_parameter"),
        ("around=1&order=desc", 400, "bad_parameter"),
    ],
)
async def test_what_a_page_is_asked_for_is_checked(
    api: Api, cast: Cast, query: str, status: int, code: str
) -> None:
    url = f"/api/threads/{cast.team}/messages"
    ok(await api.get(url, as_=cast.ben))
    body = refused(await api.get(f"{url}?{query}", as_=cast.ben), status, code)
    if status == 422:
        assert set(body["details"]) == {query.partition("=")[0]}


async def test_good_values_at_the_edges_are_taken(api: Api, cast: Cast) -> None:
    await api.say(cast.team, cast.ada, "x")
    for query in (
        "limit=1", "limit=100", "order=asc", "order=desc", "around=1", "around=9223372036854775807", "limit=007",
        "at=2026-11-20T12:00:00Z", "at=2026-11-20T12:00:00.123456%2B05:30", "at=2026-11-20T12:00:00-08:00",
        "at=0001-01-01T00:00:00Z", "at=9999-12-31T23:59:59Z",
    ):  # fmt: skip
        page = ok(await api.get(f"/api/threads/{cast.team}/messages?{query}", as_=cast.ben))
        assert [message["seq"] for message in page["items"]] == [1], query
        assert (page["nextCursor"], page["prevCursor"]) == (None, None)


async def test_a_page_holds_50_unless_asked(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    await db.execute(
        """WITH m AS (INSERT INTO messages (thread_id, seq, rev, author_id, text, created_at)
                      SELECT $1, n, n, $2, 'x', now() FROM generate_series(1, 51) n)
           UPDATE thread_heads SET last_seq = 51 WHERE thread_id = $1""",
        cast.team,
        cast.ada.id,
    )
    page = ok(await api.get(f"/api/threads/{cast.team}/messages", as_=cast.ben))
    assert [message["seq"] for message in page["items"]] == list(range(1, 51))
    assert page["nextCursor"] is not None


# ---- sending


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x", "x"),
        (" \n\t x \u00a0\u3000", "x"),
        ("x" * 10_000, "x" * 10_000),
        (ASTRAL * 10_000, ASTRAL * 10_000),  # characters, not bytes or code units
        (" " * 300 + ASTRAL * 10_000 + "\n" * 300, ASTRAL * 10_000),  # counted after trimming
        ("\u202e e\u0301 \ufffd \U0010ffff", "\u202e e\u0301 \ufffd \U0010ffff"),
        ("\x01\x1b[31m\x7f", "\x01\x1b[31m\x7f"),
        ("a\r\nb", "a\r\nb"),
        (
            "'; DROP TABLE messages; -- %s %(x)s $1 :x {} \\",
            "'; DROP TABLE messages; -- %s %(x)s $1 :x {} \\",
        ),
    ],
)
async def test_a_text_is_kept_as_it_is_but_trimmed(api: Api, cast: Cast, text: str, kept: str) -> None:
    url = f"/api/threads/{cast.team}/messages"
    assert (await api.say(cast.team, cast.ada, text))["text"] == kept
    assert ok(await api.get(f"{url}/1", as_=cast.ben))["message"]["text"] == kept
    await api.say(cast.team, cast.ada, "other")
    assert ok(await api.patch(f"{url}/2", {"text": text}, as_=cast.ada))["message"]["text"] == kept


@pytest.mark.parametrize(
    ("content", "status", "field"),
    [
        (b'{"text":""}', 422, "text"),
        (b'{"text":" \\n\\t "}', 422, "text"),
        (b"{}", 422, "text"),
        (b'{"text":"' + b"x" * 10_001 + b'"}', 422, "text"),
        (b'{"text":"' + ASTRAL.encode() * 10_001 + b'"}', 422, "text"),
        (b'{"text":"a\\u0000b"}', 422, "text"),
        (b'{"text":"a\\ud800b"}', 400, None),
        (b'{"text":"a\\udc00"}', 400, None),
        (b'{"text":"a\xed\xa0\x80b"}', 400, None),
        (b'{"text":"\xff"}', 400, None),
        (b'{"text":7}', 400, None),
        (b'{"text":null}', 400, None),
        (b'{"text":"x","replyTo":99}', 422, "replyTo"),
        (b'{"text":"x","replyTo":0}', 422, "replyTo"),
        (b'{"text":"x","replyTo":-1}', 422, "replyTo"),
        (b'{"text":"x","replyTo":9223372036854775807}', 422, "replyTo"),
        (b'{"text":"x","replyTo":9223372036854775808}', 422, "replyTo"),
        (b'{"text":"x","replyTo":"1"}', 400, None),
        (b'{"text":"x","replyTo":1.5}', 400, None),
        (b'{"text":"x","replyTo":true}', 400, None),
        (b'{"text":"x","fileIds":[1]}', 422, "fileIds"),
        (b'{"text":"x","fileIds":"1"}', 400, None),
    ],
)
async def test_what_can_not_be_sent_is_refused_and_takes_no_place(
    api: Api, cast: Cast, db: asyncpg.Pool, content: bytes, status: int, field: str | None
) -> None:
    await api.say(cast.team, cast.ben, "one")
    url, headers = f"/api/threads/{cast.team}/messages", {"Content-Type": "application/json"}
    body = refused(await api.ask("POST", url, as_=cast.ada, content=content, headers=headers), status)
    assert set(body.get("details", {})) == ({field} if field else set())
    assert await dense(db, cast.team) == 1
    assert (await api.say(cast.team, cast.ada, "two", replyTo=1))["seq"] == 2


async def test_all_faults_are_told_at_once(api: Api, cast: Cast) -> None:
    body = {"text": "a\0", "clientId": "", "replyTo": 0, "fileIds": [0]}
    reply = await api.post(f"/api/threads/{cast.team}/messages", body, as_=cast.ada)
    assert set(refused(reply, 422, "invalid")["details"]) == set(body)


# ---- editing and deleting


async def test_only_the_author_edits_and_only_what_is_not_deleted(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    sent = await api.say(cast.team, cast.ben, "frist")
    url = f"/api/threads/{cast.team}/messages/1"
    refused(await api.patch(url, {"text": "mine now"}, as_=cast.ada), 403, "forbidden")  # an admin, and yet
    refused(await api.patch(url, {"text": "mine now"}, as_=cast.mallory), 404, "not_found")
    refused(await api.patch(f"{url}0", {"text": "which?"}, as_=cast.ben), 404, "not_found")
    edited = ok(await api.patch(url, {"text": " first "}, as_=cast.ben))["message"]
    assert (edited["text"], edited["seq"], edited["createdAt"]) == ("first", 1, sent["createdAt"])
    assert edited["rev"] > sent["rev"] and edited["editedAt"] > sent["createdAt"]
    assert (
        ok(await api.patch(url, {"text": "first"}, as_=cast.ben))["message"] == edited
    )  # nothing changed: no rev
    assert ok(await api.get(url, as_=cast.ben))["message"] == edited
    for bad, status in (("", 422), (" ", 422), ("x" * 10_001, 422), ("\0", 422), (None, 400), (7, 400)):
        refused(await api.patch(url, {"text": bad}, as_=cast.ben), status)
    assert await texts(api, cast.team, cast.ada) == {1: "first"}
    ok(await api.delete(url, as_=cast.ben), 204)
    refused(await api.patch(url, {"text": "back"}, as_=cast.ben), 409, "message_deleted")
    assert await dense(db, cast.team) == 1


@pytest.mark.parametrize(("role", "may"), [("member", False), ("moderator", True), ("admin", True)])
async def test_authors_moderators_and_admins_delete(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool, role: str, may: bool
) -> None:
    author = await people("eve")
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": author.id}, as_=cast.ada), 201)
    ok(await api.patch(f"/api/threads/{cast.team}/members/{cast.ben.id}", {"role": role}, as_=cast.ada))
    await api.say(cast.team, author, "secret")
    url = f"/api/threads/{cast.team}/messages/1"
    refused(await api.delete(url, as_=cast.mallory), 404)
    refused(await api.delete(f"{url}0", as_=author), 404)
    if may:
        ok(await api.delete(url, as_=cast.ben), 204)
    else:
        refused(await api.delete(url, as_=cast.ben), 403, "forbidden")
        assert await texts(api, cast.team, cast.ben) == {1: "secret"}
        ok(await api.delete(url, as_=author), 204)
    assert await texts(api, cast.team, cast.ben) == {1: ""}
    await dense(db, cast.team)


async def test_a_deleted_message_keeps_its_place_and_its_text_is_nowhere(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    for text, reply_to in (("one", None), ("a secret", None), ("so?", 2), ("a secret", 2)):
        await api.say(cast.team, cast.ben, text, **({"replyTo": reply_to} if reply_to else {}))
    url = f"/api/threads/{cast.team}/messages"
    for seq in (2, 4):
        ok(await api.delete(f"{url}/{seq}", as_=cast.ben), 204)
    rev = await db.fetchval("SELECT last_rev FROM thread_heads WHERE thread_id = $1", cast.team)
    ok(await api.delete(f"{url}/2", as_=cast.ben), 204)  # twice is once
    assert rev == await db.fetchval("SELECT last_rev FROM thread_heads WHERE thread_id = $1", cast.team)
    answers = [await api.get(path, as_=cast.ada) for path in (url, f"{url}?order=desc", f"{url}?around=2", f"{url}/2",
               f"{url}/3", f"/api/threads/{cast.team}", "/api/threads")]  # fmt: skip
    assert all(b"secret" not in answer.body and answer.status == 200 for answer in answers)
    assert await texts(api, cast.team, cast.ada) == {1: "one", 2: "", 3: "so?", 4: ""}
    gone = answers[3].json["message"]
    assert gone["deletedAt"] >= gone["createdAt"]
    assert answers[4].json["message"]["replyTo"] == {"seq": 2}
    thread = answers[5].json["thread"]
    assert (thread["lastSeq"], thread["messageCount"]) == (4, 2)
    assert (
        await db.fetchval(
            "SELECT count(*) FROM messages WHERE text LIKE '%a secret%' AND thread_id = $1", cast.team
        )
        == 0
    )
    assert (await api.say(cast.team, cast.ben, "next"))["seq"] == 5


async def test_a_quote_is_the_message_as_it_now_is_and_its_first_200_characters(api: Api, cast: Cast) -> None:
    await api.say(cast.team, cast.ben, ASTRAL * 300)
    sent = await api.say(cast.team, cast.ada, "indeed", replyTo=1)
    assert sent["replyTo"] == {
        "seq": 1,
        "author": {"id": cast.ben.id, "name": "ben", "kind": "user"},
        "text": ASTRAL * 200,
    }
    ok(await api.patch(f"/api/threads/{cast.team}/messages/1", {"text": "shorter"}, as_=cast.ben))
    reply = ok(await api.get(f"/api/threads/{cast.team}/messages/2", as_=cast.ben))["message"]
    assert reply["replyTo"]["text"] == "shorter"
    assert (await api.say(cast.team, cast.ben, "another"))["seq"] == 3
    assert "replyTo" not in ok(await api.get(f"/api/threads/{cast.team}/messages/3", as_=cast.ben))["message"]


# ---- promise 7: private


async def every_read(api: Api, thread_id: int, who: Person, last: int) -> list[Reply]:
    """Whatever somebody can ask of a thread that might show what was said in it."""
    url = f"/api/threads/{thread_id}"
    questions = [
        f"{url}/messages",
        f"{url}/messages?order=desc",
        f"{url}/messages?limit=1",
        f"{url}/messages?limit=100",
    ]
    questions += [f"{url}/messages?at=2020-01-01T00:00:00Z", f"{url}/messages?at=2090-01-01T00:00:00Z"]
    questions += [
        f"{url}/messages?around={seq}&limit={size}" for seq in range(1, last + 1) for size in (1, 3)
    ]
    questions += [f"{url}/messages/{seq}" for seq in range(1, last + 1)]
    questions += [
        url,
        "/api/threads",
        "/api/threads?unread=true",
        "/api/threads?search=secret",
        f"{url}/members",
    ]
    return [await api.get(question, as_=who) for question in questions]


def seen(answers: list[Reply]) -> set[str]:
    """Which of the words "secret 1", "secret 2"… are anywhere in these answers."""
    everything = b"".join(answer.body for answer in answers).decode()
    return {f"secret {number}" for number in range(1, 10) if f"secret {number}" in everything}


async def test_outsiders_and_former_members_see_nothing_of_a_group(
    api: Api, cast: Cast, people: Maker
) -> None:
    former = await people("former")
    team = await api.thread(cast.ada, cast.ben, former, title="secret 9")
    await api.say(team, former, "secret 1", clientId="k")
    await api.say(team, cast.ada, "secret 2", replyTo=1)
    assert seen(await every_read(api, team, former, 2)) == {"secret 1", "secret 2", "secret 9"}
    ok(await api.delete(f"/api/threads/{team}/members/{former.id}", as_=cast.ada), 204)
    unknown = 10**15
    for who in (former, cast.mallory):
        assert seen(await every_read(api, team, who, 2)) == set()
        for method, path, body in (
            ("GET", "", None), ("PATCH", "", {"title": "mine"}), ("DELETE", "", None), ("POST", "/join", None),
            ("POST", "/leave", None), ("GET", "/members", None), ("POST", "/members", {"userId": who.id}),
            ("PATCH", f"/members/{cast.ben.id}", {"role": "admin"}), ("DELETE", f"/members/{cast.ben.id}", None),
            ("DELETE", f"/members/{who.id}", None), ("GET", "/messages", None), ("GET", "/messages?around=1", None),
            ("POST", "/messages", {"text": "x", "clientId": "k"}), ("POST", "/messages", {"text": "x", "replyTo": 1}),
            ("POST", "/messages", {"text": "x", "replyTo": 99}), ("GET", "/messages/1", None),
            ("GET", "/messages/99", None),
            ("PATCH", "/messages/1", {"text": "mine"}), ("DELETE", "/messages/1", None), ("GET", "/stream", None),
            ("GET", "/messages?at=2020-01-01T00:00:00Z", None),
        ):  # fmt: skip
            there, nowhere = [
                refused(
                    await api.ask(
                        method, f"/api/threads/{place}{path}", as_=who, **({"json": body} if body else {})
                    ),
                    404,
                )
                for place in (team, unknown)
            ]
            assert there | {"requestId": 0} == nowhere | {"requestId": 0}, (
                method,
                path,
            )  # one can't tell them apart
    assert seen(await every_read(api, team, cast.ben, 2)) == {"secret 1", "secret 2", "secret 9"}


async def test_a_late_joiner_sees_what_was_said_since_and_who_comes_back_sees_all_their_spans(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    late, team, members = await people("late"), cast.team, f"/api/threads/{cast.team}/members"

    async def add() -> None:
        ok(await api.post(members, {"userId": late.id}, as_=cast.ada), 201)

    await api.say(team, cast.ada, "secret 1")
    await api.say(team, cast.ada, "secret 2")
    await add()
    assert seen(await every_read(api, team, late, 2)) == set()
    thread = ok(await api.get(f"/api/threads/{team}", as_=late))["thread"]
    assert (thread["lastMessage"], thread["unreadCount"], thread["lastReadSeq"]) == (None, 0, 2)
    for text, reply_to in (("secret 3", 1), ("secret 4", 3)):
        await api.say(team, cast.ada, text, replyTo=reply_to)
    answers = await every_read(api, team, late, 4)
    assert seen(answers) == {"secret 3", "secret 4"}
    replies = {m["seq"]: m["replyTo"] for m in answers[0].json["items"]}
    assert replies[3] == {"seq": 1}, "the quote of what was said before one came is its seq alone"
    assert replies[4]["text"] == "secret 3"
    assert ok(await api.get(f"/api/threads/{team}/messages/3", as_=late))["message"]["replyTo"] == {"seq": 1}
    assert (
        ok(await api.get(f"/api/threads/{team}/messages/3", as_=cast.ben))["message"]["replyTo"]["text"]
        == "secret 1"
    )
    refused(
        await api.post(f"/api/threads/{team}/messages", {"text": "x", "replyTo": 2}, as_=late), 422
    )  # no oracle

    ok(await api.post(f"/api/threads/{team}/leave", as_=late), 204)
    await api.say(team, cast.ada, "secret 5", replyTo=4)
    ok(await api.patch(f"/api/threads/{team}/messages/3", {"text": "secret 6"}, as_=cast.ada))
    assert seen(await every_read(api, team, late, 5)) == set()
    await add()
    assert ok(await api.get(f"/api/threads/{team}", as_=late))["thread"]["lastMessage"] is None
    await api.say(team, late, "secret 7", replyTo=4)
    await api.say(team, cast.ada, "secret 8", replyTo=5)
    answers = await every_read(api, team, late, 7)
    assert seen(answers) == {"secret 4", "secret 6", "secret 7", "secret 8"}
    page = answers[0].json
    assert [m["seq"] for m in page["items"]] == [3, 4, 6, 7]
    assert (page["nextCursor"], page["prevCursor"]) == (None, None)
    assert page["items"][-1]["replyTo"] == {"seq": 5}
    assert [m["seq"] for m in answers[1].json["items"]] == [7, 6, 4, 3]
    for seq, status in enumerate((404, 404, 200, 200, 404, 200, 200), start=1):
        assert (await api.get(f"/api/threads/{team}/messages/{seq}", as_=late)).status == status
        if status == 404:
            refused(await api.patch(f"/api/threads/{team}/messages/{seq}", {"text": "mine"}, as_=late), 404)
            refused(await api.delete(f"/api/threads/{team}/messages/{seq}", as_=late), 404)
    await dense(db, team)


async def test_the_preview_shows_the_last_message_only_to_those_who_may_see_it(
    api: Api, cast: Cast, people: Maker
) -> None:
    await api.say(cast.team, cast.ada, ASTRAL * 300)
    late = await people("late")
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": late.id}, as_=cast.ada), 201)

    async def previews(who: Person) -> list[Any]:
        listed = ok(await api.get("/api/threads", as_=who))["threads"]
        got = ok(await api.get(f"/api/threads/{cast.team}", as_=who))["thread"]
        assert listed == [got]
        return [got["lastMessage"]]

    author = {"id": cast.ada.id, "name": "ada", "kind": "user"}
    assert await previews(cast.ben) == [{"seq": 1, "author": author, "text": ASTRAL * 200}]
    assert await previews(late) == [None]
    ok(await api.post(f"/api/threads/{cast.team}/leave", as_=cast.ben), 204)
    ok(await api.post(f"/api/threads/{cast.team}/members", {"userId": cast.ben.id}, as_=cast.ada), 201)
    assert (await previews(cast.ben))[0]["seq"] == 1  # of their first span
    await api.say(cast.team, cast.ada, "for all")
    assert [(await previews(who))[0]["text"] for who in (cast.ben, late)] == ["for all"] * 2


async def test_a_channel_can_be_found_by_all_and_read_by_its_members(api: Api, cast: Cast) -> None:
    channel = await api.thread(cast.ada, kind="channel", title="Town square")
    await api.say(channel, cast.ada, "secret 1")
    found = await api.get(f"/api/threads/{channel}", as_=cast.mallory)
    thread = ok(found)["thread"]
    assert (thread["title"], thread["role"], thread["lastMessage"]) == ("Town square", None, None)
    assert "members" not in thread and seen([found]) == set()
    for path in ("/messages", "/messages/1", "/messages?around=1", "/members", "/stream"):
        refused(await api.get(f"/api/threads/{channel}{path}", as_=cast.mallory), 404)
    refused(await api.post(f"/api/threads/{channel}/messages", {"text": "hi"}, as_=cast.mallory), 404)
    refused(await api.patch(f"/api/threads/{channel}", {"title": "Mine"}, as_=cast.mallory), 404)
    assert ok(await api.get("/api/threads", as_=cast.mallory))["threads"] == []
    ok(await api.post(f"/api/threads/{channel}/join", as_=cast.mallory))
    assert seen(await every_read(api, channel, cast.mallory, 1)) == {
        "secret 1"
    }  # a channel's history is for all
    ok(await api.post(f"/api/threads/{channel}/leave", as_=cast.mallory), 204)
    assert seen(await every_read(api, channel, cast.mallory, 1)) == set()


async def test_a_server_role_gives_no_sight_of_private_threads(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    await api.say(cast.team, cast.ada, "secret 1")
    for role in ("admin", "agent"):
        await db.execute("UPDATE users SET role = $2 WHERE id = $1", cast.mallory.id, role)
        assert seen(await every_read(api, cast.team, cast.mallory, 1)) == set()
        refused(await api.delete(f"/api/threads/{cast.team}/messages/1", as_=cast.mallory), 404)
        refused(await api.delete(f"/api/threads/{cast.team}", as_=cast.mallory), 404)
