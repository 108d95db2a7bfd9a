"""Threads: made, found, listed, counted, renamed, deleted."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.client import Api, Person
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused

THREAD = {
    "id", "kind", "history", "title", "createdAt", "lastSeq", "lastRev", "streamCursor", "lastMessageAt", "lastMessage",
    "messageCount", "memberCount", "unreadCount", "mentionCount", "firstUnreadSeq", "lastReadSeq", "role", "muted",
    "archived", "notify",
}  # fmt: skip


async def mine(api: Api, who: Person, query: str = "") -> list[str]:
    """The titles of somebody's threads, in the order of the list."""
    page = ok(await api.get(f"/api/threads?limit=100{query}", as_=who))
    return [thread["title"] for thread in page["threads"]]


# ---- making


async def test_a_new_thread_has_its_founder_as_admin_and_nothing_said(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    body = {"title": "  Plans \U0001f5fa ", "memberIds": [cast.ben.id, cast.ben.id, cast.ada.id]}
    thread = ok(await api.post("/api/threads", body, as_=cast.ada), 201)["thread"]
    assert set(thread) == THREAD | {"members"}
    assert (thread["kind"], thread["title"], thread["history"]) == ("group", "Plans \U0001f5fa", "joined")
    assert (thread["role"], thread["lastSeq"], thread["lastRev"]) == (
        "admin",
        0,
        2,
    )  # joins are changes, not messages
    assert (thread["messageCount"], thread["unreadCount"], thread["lastReadSeq"]) == (0, 0, 0)
    assert thread["lastMessage"] is None and thread["lastMessageAt"] is None
    assert {(m["userId"], m["name"], m["role"]) for m in thread["members"]} == {
        (cast.ada.id, "ada", "admin"),
        (cast.ben.id, "ben", "member"),
    }
    assert ok(await api.get(f"/api/threads/{thread['id']}", as_=cast.ben))["thread"] == thread | {
        "role": "member"
    }
    assert await dense(db, thread["id"]) == 0


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "title"),
        ({"title": "x"}, 422, "title"),
        ({"title": "  x  "}, 422, "title"),
        ({"title": "x" * 256}, 422, "title"),
        ({"title": "a\0b"}, 422, "title"),
        ({"title": 7}, 400, None),
        ({"title": "ok", "kind": "party"}, 422, "kind"),
        ({"title": "ok", "kind": "contact"}, 422, "kind"),  # those come by /api/contacts
        ({"title": "ok", "kind": 1}, 400, None),
        ({"title": "ok", "memberIds": 1}, 400, None),
        ({"title": "ok", "memberIds": ["1"]}, 400, None),
        ({"title": "ok", "memberIds": [0]}, 422, "memberIds"),
        ({"title": "ok", "memberIds": [10**30]}, 422, "memberIds"),
        ({"title": "ok", "memberIds": [10**15]}, 422, "memberIds"),  # nobody
        ({"title": "ok", "memberIds": list(range(1, 1002))}, 422, "memberIds"),
        ({"kind": "direct"}, 422, "memberIds"),
        ({"kind": "direct", "memberIds": [10**15]}, 422, "memberIds"),
    ],
)
async def test_a_thread_that_makes_no_sense_is_not_made(
    api: Api, cast: Cast, body: dict[str, Any], status: int, field: str | None
) -> None:
    refusal = refused(await api.post("/api/threads", body, as_=cast.mallory), status)
    assert set(refusal.get("details", {})) == ({field} if field else set())
    assert await mine(api, cast.mallory) == []
    ok(await api.post("/api/threads", {"title": "ok"}, as_=cast.mallory), 201)


async def test_a_title_has_2_to_255_characters(api: Api, cast: Cast) -> None:
    for title in ("ok", "\U0001f9f5" * 255, "<b>'; --"):
        thread = ok(await api.post("/api/threads", {"title": title, "kind": "channel"}, as_=cast.ada), 201)[
            "thread"
        ]
        assert (thread["title"], thread["history"]) == (title, "all")
        url = f"/api/threads/{thread['id']}"
        assert (
            ok(await api.patch(url, {"title": title[::-1]}, as_=cast.ada))["thread"]["title"] == title[::-1]
        )
        for bad in ("x", "x" * 256, " x ", "a\0b"):
            refused(await api.patch(url, {"title": bad}, as_=cast.ada), 422)


# ---- direct threads


async def test_twenty_racing_creations_from_both_sides_make_one_direct_thread(
    api: Api, cast: Cast, db: asyncpg.Pool
) -> None:
    pair = [(cast.ada, cast.ben), (cast.ben, cast.ada)] * 10
    replies = await asyncio.gather(
        *(api.post("/api/threads", {"kind": "direct", "memberIds": [other.id]}, as_=me) for me, other in pair)
    )
    assert sorted(reply.status for reply in replies) == [200] * 19 + [201]
    ids = {reply.json["thread"]["id"] for reply in replies}
    assert len(ids) == 1
    thread = replies[0].json["thread"]
    assert (thread["kind"], thread["title"], thread["history"]) == ("direct", None, "joined")
    assert {member["userId"] for member in thread["members"]} == {cast.ada.id, cast.ben.id}
    pairs = await db.fetchval(
        "SELECT count(*) FROM direct_pairs WHERE $1 IN (low_user_id, high_user_id)", cast.ada.id
    )
    assert pairs == 1
    assert await dense(db, ids.pop()) == 0


async def test_a_direct_thread_is_with_exactly_one_other_and_stays_so(api: Api, cast: Cast) -> None:
    me = cast.ada
    for others in ([me.id], [], [cast.ben.id, cast.mallory.id]):
        refused(await api.post("/api/threads", {"kind": "direct", "memberIds": others}, as_=me), 422)
    made = ok(
        await api.post("/api/threads", {"kind": "direct", "memberIds": [cast.ben.id, me.id]}, as_=me), 201
    )["thread"]
    await api.say(made["id"], me, "just us")
    unused = {"kind": "direct", "memberIds": [me.id], "title": ""}  # it has none, whatever is said
    again = ok(await api.post("/api/threads", unused, as_=cast.ben), 200)["thread"]
    assert (again["id"], again["unreadCount"]) == (made["id"], 1)
    url = f"/api/threads/{made['id']}"
    for who in (me, cast.ben):
        for refusal in (
            await api.post(f"{url}/members", {"userId": cast.mallory.id}, as_=who),
            await api.patch(f"{url}/members/{cast.ben.id}", {"role": "admin"}, as_=who),
            await api.delete(f"{url}/members/{cast.ben.id}", as_=who),
            await api.post(f"{url}/leave", as_=who),
            await api.patch(url, {"title": "Titled"}, as_=who),
            await api.delete(url, as_=who),
        ):
            refused(refusal, 409, "direct_thread")
    refused(await api.post(f"{url}/join", as_=cast.mallory), 404)
    refused(await api.get(url, as_=cast.mallory), 404)
    other = ok(
        await api.post("/api/threads", {"kind": "direct", "memberIds": [me.id]}, as_=cast.mallory), 201
    )["thread"]
    assert other["id"] != made["id"]


# ---- the list


async def test_the_list_has_my_threads_with_the_latest_activity_first(api: Api, people: Maker) -> None:
    ada, ben = await people("ada"), await people("ben")
    ids = {title: await api.thread(ada, ben, title=title) for title in ("one", "two", "three")}
    await api.thread(ben, title="ben's own")
    assert await mine(api, ada) == ["three", "two", "one"]
    await api.say(ids["one"], ben, "hello")
    assert await mine(api, ada) == ["one", "three", "two"]
    await api.say(ids["two"], ada, "hello")
    assert await mine(api, ada) == ["two", "one", "three"]
    ok(await api.patch(f"/api/threads/{ids['two']}/messages/1", {"text": "edited"}, as_=ada))
    ok(await api.patch(f"/api/threads/{ids['three']}", {"title": "Three"}, as_=ada))
    assert await mine(api, ada) == ["two", "one", "Three"]  # neither is activity
    assert await mine(api, ben) == ["ben's own", "two", "one", "Three"] or await mine(api, ben) == [
        "two", "one", "ben's own", "Three",
    ]  # fmt: skip


async def test_search_matches_any_part_of_a_title_ignoring_case_and_takes_it_literally(
    api: Api, people: Maker
) -> None:
    ada = await people("ada")
    for title in ("Alpha 100% done", "beta_test", "GAMMA", "ÜBER uns", "a\\b"):
        await api.thread(ada, title=title)
    other = await people("other")
    direct = ok(await api.post("/api/threads", {"kind": "direct", "memberIds": [other.id]}, as_=ada), 201)[
        "thread"
    ]
    for search, found in {
        "pha": ["Alpha 100% done"], "ALPHA": ["Alpha 100% done"], "%25": ["Alpha 100% done"], "_": ["beta_test"],
        "a_t": ["beta_test"], "a%25t": [], "b_ta": [], "gamma": ["GAMMA"], "%C3%BCber": ["ÜBER uns"], "\\": ["a\\b"],
        "nothing": [], "*": [], ".": [], "x" * 1000: [],
    }.items():  # fmt: skip
        assert await mine(api, ada, f"&search={search}") == found, search
    assert len(await mine(api, ada, "&search=")) == len(await mine(api, ada, "&search=%20")) == 6
    assert direct["title"] is None


async def test_the_list_can_be_narrowed_by_kind_and_to_the_unread(api: Api, people: Maker) -> None:
    ada, ben = await people("ada"), await people("ben")
    group, channel = (
        await api.thread(ben, ada, title="Group"),
        await api.thread(ada, ben, kind="channel", title="Channel"),
    )
    ok(await api.post("/api/threads", {"kind": "direct", "memberIds": [ben.id]}, as_=ada), 201)
    assert await mine(api, ada, "&kind=group") == ["Group"]
    assert await mine(api, ada, "&kind=channel") == ["Channel"]
    assert await mine(api, ada, "&kind=direct") == [None]
    assert await mine(api, ada, "&kind=contact") == []
    assert await mine(api, ada, "&unread=true") == []
    await api.say(group, ben, "read me")
    await api.say(channel, ben, "me too")
    assert await mine(api, ada, "&unread=true") == ["Channel", "Group"]
    assert await mine(api, ada, "&unread=true&kind=group&search=rou") == ["Group"]
    assert await mine(api, ben, "&unread=true") == []  # who writes has read
    await api.say(group, ada, "done")
    assert await mine(api, ada, "&unread=true") == ["Channel"]
    ok(await api.delete(f"/api/threads/{channel}/messages/1", as_=ben), 204)
    assert await mine(api, ada, "&unread=true") == []
    assert len(await mine(api, ada, "&unread=false")) == 3
    for bad in ("kind=party", "kind=", "unread=yes", "unread=1", "limit=x", "page=1"):
        refused(await api.get(f"/api/threads?{bad}", as_=ada), 400)
    for bad in ("limit=0", "limit=101"):
        refused(await api.get(f"/api/threads?{bad}", as_=ada), 422)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_the_pages_of_the_list_hold_each_thread_once_also_when_their_times_are_equal(
    api: Api, people: Maker, db: asyncpg.Pool, limit: int
) -> None:
    ada = await people("ada")
    ids = [await api.thread(ada, title=f"thread {number}") for number in range(7)]
    await db.execute(
        "UPDATE thread_heads SET last_message_at = now() WHERE thread_id = ANY($1::bigint[])", ids[1:5]
    )  # four at one moment, so that pages end among them
    whole = [thread["id"] for thread in ok(await api.get("/api/threads", as_=ada))["threads"]]
    assert sorted(whole) == ids
    walked: list[int] = []
    cursor = ""
    while cursor is not None:
        page = ok(await api.get(f"/api/threads?limit={limit}{cursor and f'&cursor={cursor}'}", as_=ada))
        walked += [thread["id"] for thread in page["threads"]]
        cursor = page["nextCursor"]
        assert cursor is None or len(page["threads"]) == limit
    assert walked == whole


# ---- counting


@dataclass
class Model:
    """What one thread holds, told naively."""

    living: dict[int, bool] = field(default_factory=dict)  # by seq: whether it is not deleted
    joined: dict[str, int] = field(default_factory=dict)  # those who are in: the seq they joined at, last
    read: dict[str, int] = field(default_factory=dict)

    def join(self, who: str) -> None:
        self.joined[who] = self.read[who] = len(self.living)

    def unread(self, who: str) -> int:
        return sum(living and seq > self.read[who] for seq, living in self.living.items())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "delete", "edit", "move"]),
        st.integers(0, 2),
        st.integers(0, 30),
    ),
    max_size=20,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(["group", "channel"]), steps=STEPS)
@example(
    "group",
    [("say", 0, 0), ("say", 0, 0), ("delete", 0, 1), ("move", 1, 0), ("move", 1, 0), ("delete", 0, 0)],
)
@example("channel", [("say", 0, 0), ("say", 1, 0), ("delete", 0, 0), ("say", 0, 0), ("delete", 0, 2)])
async def test_counts_are_those_of_a_naive_recount(
    api: Api, people: Maker, db: asyncpg.Pool, kind: str, steps: list[tuple[str, int, int]]
) -> None:
    crowd = [await people(name) for name in ("ada", "ben", "eve")]
    ada, thread_id, model = crowd[0], await api.thread(*crowd, kind=kind, title="Counted"), Model()
    url = f"/api/threads/{thread_id}"
    for person in crowd:
        model.join(person.name)
    for act, number, pick in steps:
        who = crowd[number]
        last = len(model.living)
        if act == "say" and who.name in model.joined:
            seq = (await api.say(thread_id, who, f"message {last + 1}"))["seq"]
            model.living[seq], model.read[who.name] = True, seq
        elif act == "delete" and last:
            ok(await api.delete(f"{url}/messages/{pick % last + 1}", as_=ada), 204)
            model.living[pick % last + 1] = False
        elif act == "edit" and last:
            await api.patch(f"{url}/messages/{pick % last + 1}", {"text": f"edit {pick}"}, as_=ada)
        elif act == "move" and who is not ada:  # out, or in again
            if who.name in model.joined:
                ok(await api.post(f"{url}/leave", as_=who), 204)
                del model.joined[who.name]
            else:
                ok(await api.post(f"{url}/members", {"userId": who.id}, as_=ada), 201)
                model.join(who.name)
        for person in crowd:
            if person.name in model.joined:
                thread = ok(await api.get(url, as_=person))["thread"]
                told = (
                    thread["lastSeq"],
                    thread["messageCount"],
                    thread["unreadCount"],
                    thread["lastReadSeq"],
                )
                naive = (
                    len(model.living),
                    sum(model.living.values()),
                    model.unread(person.name),
                    model.read[person.name],
                )
                assert told == naive, (act, who.name, person.name)
    for person in crowd:
        unread = await mine(api, person, "&unread=true")
        assert unread == (["Counted"] if person.name in model.joined and model.unread(person.name) else [])
    await dense(db, thread_id)


# ---- renaming and deleting


@pytest.mark.parametrize(
    ("role", "renames", "deletes"), [("member", 0, 0), ("moderator", 1, 0), ("admin", 1, 1)]
)
async def test_admins_and_moderators_rename_and_admins_delete(
    api: Api, cast: Cast, db: asyncpg.Pool, role: str, renames: int, deletes: int
) -> None:
    url = f"/api/threads/{cast.team}"
    ok(await api.patch(f"{url}/members/{cast.ben.id}", {"role": role}, as_=cast.ada))
    before = ok(await api.get(url, as_=cast.ben))["thread"]
    reply = await api.patch(url, {"title": "Renamed"}, as_=cast.ben)
    if renames:
        after = ok(reply)["thread"]
        assert (after["title"], after["lastRev"], after["lastSeq"]) == (
            "Renamed",
            before["lastRev"] + 1,
            before["lastSeq"],
        )
        assert (
            ok(await api.patch(url, {"title": "Renamed"}, as_=cast.ben))["thread"] == after
        )  # the same again is no change
    else:
        refused(reply, 403, "forbidden")
        assert ok(await api.get(url, as_=cast.ben))["thread"] == before
    reply = await api.delete(url, as_=cast.ben)
    if deletes:
        ok(reply, 204)
    else:
        refused(reply, 403, "forbidden")
    assert (await api.get(url, as_=cast.ada)).status == (404 if deletes else 200)
    await dense(db, cast.team)


@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_a_deleted_thread_is_gone_for_everybody(api: Api, cast: Cast, kind: str) -> None:
    thread_id = await api.thread(cast.ada, cast.ben, kind=kind, title="Short-lived")
    await api.say(thread_id, cast.ben, "hello", clientId="k")
    url = f"/api/threads/{thread_id}"
    assert "Short-lived" in await mine(api, cast.ben)
    ok(await api.delete(url, as_=cast.ada), 204)
    for who in (cast.ada, cast.ben, cast.mallory):
        assert "Short-lived" not in await mine(api, who)
        for method, path, body in (
            ("GET", "", None), ("PATCH", "", {"title": "Back"}), ("DELETE", "", None), ("GET", "/messages", None),
            ("POST", "/messages", {"text": "hello", "clientId": "k"}), ("GET", "/messages/1", None),
            ("POST", "/messages", {"text": "new"}), ("POST", "/messages", {"text": "new", "replyTo": 1}),
            ("POST", "/messages", {"text": "hello", "clientId": "k", "replyTo": 1}),
            ("PATCH", "/messages/1", {"text": "x"}), ("DELETE", "/messages/1", None), ("GET", "/members", None),
            ("POST", "/join", None), ("POST", "/leave", None), ("POST", "/members", {"userId": cast.mallory.id}),
            ("DELETE", f"/members/{cast.ben.id}", None), ("PATCH", f"/members/{cast.ben.id}", {"role": "admin"}),
            ("GET", "/stream", None),
        ):  # fmt: skip
            refused(
                await api.ask(method, f"{url}{path}", as_=who, **({"json": body} if body else {})),
                404,
                "not_found",
            )
