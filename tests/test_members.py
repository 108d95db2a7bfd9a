"""Who is in a thread: roles, spans, the last admin, and all of it at once."""

import asyncio
import itertools
import random
from collections import Counter

import asyncpg
import pytest

from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused


async def roles(api: Api, thread_id: int, as_: Person) -> dict[int, str]:
    """Who is in, with which role."""
    page = ok(await api.get(f"/api/threads/{thread_id}/members?limit=100", as_=as_))
    return {member["userId"]: member["role"] for member in page["members"]}


async def consistent(db: asyncpg.Pool, thread_id: int) -> None:
    """What holds of the spans of a thread whatever raced: each begins and ends with its change, none overlap."""
    await dense(db, thread_id)
    spans = await db.fetch(
        """SELECT user_id, joined_rev, joined_seq, left_rev, left_seq
           FROM memberships WHERE thread_id = $1 ORDER BY user_id, joined_rev""",
        thread_id,
    )
    told = await db.fetch(
        "SELECT user_id, rev, act FROM changes WHERE thread_id = $1 AND kind = 'member' AND act <> 'role' ORDER BY rev",
        thread_id,
    )
    came = {(row["user_id"], row["rev"]) for row in told if row["act"] == "joined"}
    went = {(row["user_id"], row["rev"]) for row in told if row["act"] != "joined"}
    assert came == {(span["user_id"], span["joined_rev"]) for span in spans}
    assert went == {(span["user_id"], span["left_rev"]) for span in spans if span["left_rev"] is not None}
    for one, following in itertools.pairwise(spans):
        if one["user_id"] == following["user_id"]:
            assert one["left_rev"] is not None and one["left_rev"] < following["joined_rev"]
            assert one["left_seq"] <= following["joined_seq"]
    # Whoever wrote was in: their message lies in one of their spans.
    strays = await db.fetchval(
        """SELECT count(*) FROM messages m WHERE thread_id = $1 AND NOT EXISTS (
               SELECT FROM memberships s WHERE s.thread_id = m.thread_id AND s.user_id = m.author_id
                   AND m.seq > s.joined_seq AND (s.left_seq IS NULL OR m.seq <= s.left_seq))""",
        thread_id,
    )
    assert strays == 0


# ---- roles


@pytest.mark.parametrize(
    ("role", "adds", "adds_moderator", "changes_role", "removes_member", "removes_admin"),
    [
        ("member", 403, 403, 403, 403, 403),
        ("moderator", 201, 403, 403, 204, 403),
        ("admin", 201, 201, 200, 204, 204),
    ],
)
async def test_what_each_role_may_do_with_members(
    api: Api, cast: Cast, people: Maker, role: str, adds: int, adds_moderator: int, changes_role: int,
    removes_member: int, removes_admin: int,
) -> None:  # fmt: skip
    actor, member, admin, new, newer = [
        await people(name) for name in ("actor", "member", "admin", "new", "newer")
    ]
    url = f"/api/threads/{cast.team}/members"
    for person, given in ((actor, role), (member, "member"), (admin, "admin")):
        ok(await api.post(url, {"userId": person.id, "role": given}, as_=cast.ada), 201)

    def check(reply: Reply, status: int) -> None:
        ok(reply, status) if status < 300 else refused(reply, status, "forbidden")

    check(await api.post(url, {"userId": new.id}, as_=actor), adds)
    check(await api.post(url, {"userId": newer.id, "role": "moderator"}, as_=actor), adds_moderator)
    check(await api.patch(f"{url}/{member.id}", {"role": "moderator"}, as_=actor), changes_role)
    if role == "moderator":
        refused(await api.patch(f"{url}/{actor.id}", {"role": "admin"}, as_=actor), 403)  # not even oneself
    check(await api.delete(f"{url}/{member.id}", as_=actor), removes_member)
    check(await api.delete(f"{url}/{admin.id}", as_=actor), removes_admin)
    expected = {cast.ada.id: "admin", cast.ben.id: "member", actor.id: role}
    expected |= {new.id: "member"} if adds == 201 else {}
    expected |= {newer.id: "moderator"} if adds_moderator == 201 else {}
    expected |= {} if removes_member == 204 else {member.id: "member"}
    expected |= {} if removes_admin == 204 else {admin.id: "admin"}
    assert await roles(api, cast.team, cast.ada) == expected
    ok(await api.delete(f"{url}/{actor.id}", as_=actor), 204)  # oneself: everybody may leave
    refused(await api.get(f"/api/threads/{cast.team}", as_=actor), 404)


async def test_adding_answers_what_is_wrong(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}/members"
    refused(await api.post(url, {"userId": cast.ben.id}, as_=cast.ada), 409, "already_member")
    refused(await api.post(url, {"userId": cast.ada.id}, as_=cast.ada), 409, "already_member")
    for nobody in (10**15, 0, -1, 2**63, 10**30):
        assert set(refused(await api.post(url, {"userId": nobody}, as_=cast.ada), 422)["details"]) == {
            "userId"
        }
    for bad in ("1", None, 1.5, True, [1]):
        refused(await api.post(url, {"userId": bad}, as_=cast.ada), 400, "wrong_type")
    refused(await api.post(url, {}, as_=cast.ada), 422)
    refused(await api.post(url, {"userId": cast.mallory.id, "role": "king"}, as_=cast.ada), 422)
    refused(await api.patch(f"{url}/{cast.ben.id}", {"role": "king"}, as_=cast.ada), 422)
    refused(await api.patch(f"{url}/{cast.ben.id}", {}, as_=cast.ada), 422)
    refused(await api.patch(f"{url}/{cast.mallory.id}", {"role": "member"}, as_=cast.ada), 404)
    refused(await api.delete(f"{url}/{cast.mallory.id}", as_=cast.ada), 404)
    assert await roles(api, cast.team, cast.ada) == {cast.ada.id: "admin", cast.ben.id: "member"}
    assert ok(await api.post(url, {"userId": cast.mallory.id}, as_=cast.ada), 201) == {
        "userId": cast.mallory.id,
        "role": "member",
    }


async def test_the_same_role_again_is_no_change(api: Api, cast: Cast) -> None:
    url, me = f"/api/threads/{cast.team}", {"role": "moderator"}
    ok(await api.patch(f"{url}/members/{cast.ben.id}", me, as_=cast.ada))
    before = ok(await api.get(url, as_=cast.ada))["thread"]["lastRev"]
    ok(await api.patch(f"{url}/members/{cast.ben.id}", me, as_=cast.ada))
    assert ok(await api.get(url, as_=cast.ada))["thread"]["lastRev"] == before


async def test_the_last_admin_stays_while_others_are_there(api: Api, cast: Cast) -> None:
    url, ada, ben = f"/api/threads/{cast.team}", cast.ada, cast.ben
    for refusal in (
        await api.post(f"{url}/leave", as_=ada),
        await api.delete(f"{url}/members/{ada.id}", as_=ada),
        await api.patch(f"{url}/members/{ada.id}", {"role": "member"}, as_=ada),
        await api.patch(f"{url}/members/{ada.id}", {"role": "moderator"}, as_=ada),
    ):
        refused(refusal, 409, "last_admin")
    ok(await api.patch(f"{url}/members/{ada.id}", {"role": "admin"}, as_=ada))
    ok(await api.patch(f"{url}/members/{ben.id}", {"role": "admin"}, as_=ada))
    ok(await api.patch(f"{url}/members/{ada.id}", {"role": "member"}, as_=ada))
    ok(await api.post(f"{url}/leave", as_=ada), 204)
    ok(await api.post(f"{url}/leave", as_=ben), 204)  # the last one of all may go
    for who in (ada, ben):
        refused(await api.get(url, as_=who), 404)


async def test_who_leaves_may_name_a_successor(api: Api, cast: Cast, db: asyncpg.Pool) -> None:
    leave = f"/api/threads/{cast.team}/leave"
    refused(await api.post(leave, {"successor": cast.ada.id}, as_=cast.ben), 403)
    for nobody in (cast.mallory.id, cast.ada.id, 10**15):
        assert (
            "successor" in refused(await api.post(leave, {"successor": nobody}, as_=cast.ada), 422)["details"]
        )
    refused(await api.post(leave, {}, as_=cast.ada), 409, "last_admin")
    async with api.stream(cast.team, cast.ben) as stream:
        ok(await api.post(leave, {"successor": cast.ben.id}, as_=cast.ada), 204)
        told = [
            (event.data["act"], event.data["userId"], event.data["role"]) for event in await stream.take(2)
        ]
    assert told == [("role", cast.ben.id, "admin"), ("left", cast.ada.id, None)]
    refused(await api.get(f"/api/threads/{cast.team}", as_=cast.ada), 404)
    assert ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ben))["thread"]["role"] == "admin"
    await dense(db, cast.team)
    ok(await api.post(leave, as_=cast.ben), 204)  # alone


@pytest.mark.parametrize("way", ["leave", "demote the other"])
async def test_of_two_admins_who_go_at_once_one_stays(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool, way: str
) -> None:
    for _ in range(6):
        one, two, other = await people("one"), await people("two"), await people("other")
        thread_id = await api.thread(one, two, other)
        url = f"/api/threads/{thread_id}"
        ok(await api.patch(f"{url}/members/{two.id}", {"role": "admin"}, as_=one))
        if way == "leave":
            replies = await asyncio.gather(*(api.post(f"{url}/leave", as_=who) for who in (one, two)))
            assert sorted(reply.status for reply in replies) == [204, 409]
        else:
            pairs = ((one, two), (two, one))
            replies = await asyncio.gather(
                *(api.patch(f"{url}/members/{b.id}", {"role": "member"}, as_=a) for a, b in pairs)
            )
            assert sorted(reply.status for reply in replies) == [200, 403]
        assert list((await roles(api, thread_id, other)).values()).count("admin") == 1
        await consistent(db, thread_id)


# ---- joining and leaving


async def test_anybody_joins_a_channel_and_nothing_else(api: Api, cast: Cast) -> None:
    channel = await api.thread(cast.ada, kind="channel", title="Open")
    url = f"/api/threads/{channel}"
    await api.say(channel, cast.ada, "before")
    assert ok(await api.post(f"{url}/join", as_=cast.ben)) == {"threadId": channel, "role": "member"}
    assert ok(await api.post(f"{url}/join", as_=cast.ben)) == {
        "threadId": channel,
        "role": "member",
    }  # twice is once
    assert ok(await api.post(f"{url}/join", as_=cast.ada)) == {"threadId": channel, "role": "admin"}
    thread = ok(await api.get(url, as_=cast.ben))["thread"]
    assert (thread["lastRev"], thread["unreadCount"], thread["lastReadSeq"]) == (3, 0, 1)
    assert await roles(api, channel, cast.ben) == {cast.ada.id: "admin", cast.ben.id: "member"}
    ok(await api.post(f"{url}/leave", as_=cast.ben), 204)
    refused(await api.post(f"{url}/leave", as_=cast.ben), 404)
    for who, place in ((cast.mallory, cast.team), (cast.ben, cast.team), (cast.ben, 10**15)):
        refused(await api.post(f"/api/threads/{place}/join", as_=who), 404, "not_found")


async def test_a_role_is_lost_with_its_span(api: Api, cast: Cast) -> None:
    url = f"/api/threads/{cast.team}"
    ok(await api.patch(f"{url}/members/{cast.ben.id}", {"role": "moderator"}, as_=cast.ada))
    ok(await api.post(f"{url}/leave", as_=cast.ben), 204)
    ok(await api.post(f"{url}/members", {"userId": cast.ben.id}, as_=cast.ada), 201)
    refused(await api.patch(url, {"title": "Mine"}, as_=cast.ben), 403, "forbidden")


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_the_pages_of_members_hold_each_once(api: Api, cast: Cast, people: Maker, limit: int) -> None:
    crowd = [await people(f"m{number}") for number in range(5)]
    thread_id = await api.thread(cast.ada, *crowd)
    url, walked, cursor = f"/api/threads/{thread_id}/members?limit={limit}", [], ""
    while cursor is not None:
        page = ok(await api.get(f"{url}{cursor and f'&cursor={cursor}'}", as_=crowd[0]))
        walked += page["members"]
        cursor = page["nextCursor"]
    assert [member["userId"] for member in walked] == sorted([cast.ada.id, *(person.id for person in crowd)])
    assert set(walked[0]) == {"userId", "name", "username", "kind", "role", "joinedAt"}
    for bad, status in (("limit=0", 422), ("limit=101", 422), ("limit=x", 400), ("order=asc", 400)):
        refused(await api.get(f"/api/threads/{thread_id}/members?{bad}", as_=cast.ada), status)
    assert len(ok(await api.get(f"/api/threads/{thread_id}", as_=cast.ada))["thread"]["members"]) == 6


async def test_a_thread_shows_its_first_ten_members(api: Api, cast: Cast, people: Maker) -> None:
    crowd = [await people(f"m{number}") for number in range(11)]
    thread = ok(await api.get(f"/api/threads/{await api.thread(cast.ada, *crowd)}", as_=cast.ada))["thread"]
    assert len(thread["members"]) == 10


# ---- all at once


async def test_one_person_added_twenty_times_at_once_is_in_once(
    api: Api, cast: Cast, people: Maker, db: asyncpg.Pool
) -> None:
    ok(await api.patch(f"/api/threads/{cast.team}/members/{cast.ben.id}", {"role": "admin"}, as_=cast.ada))
    url, body = f"/api/threads/{cast.team}/members", {"userId": cast.mallory.id}
    replies = await asyncio.gather(*(api.post(url, body, as_=who) for who in (cast.ada, cast.ben) * 10))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 19
    channel = await api.thread(cast.ada, kind="channel", title="Open")
    replies = await asyncio.gather(
        *(api.post(f"/api/threads/{channel}/join", as_=cast.mallory) for _ in range(20))
    )
    assert {reply.status for reply in replies} == {200}
    replies = await asyncio.gather(
        *(api.post(f"/api/threads/{channel}/leave", as_=cast.mallory) for _ in range(20))
    )
    assert sorted(reply.status for reply in replies) == [204] + [404] * 19
    for thread_id in (cast.team, channel):
        await consistent(db, thread_id)


@pytest.mark.parametrize("kind", ["group", "channel"])
async def test_whatever_happens_at_once_nothing_fails_and_the_log_stays_whole(
    api: Api, people: Maker, db: asyncpg.Pool, kind: str
) -> None:
    crowd = [await people(f"p{number}") for number in range(8)]
    founder, chance = crowd[0], random.Random(7)
    thread_id = await api.thread(founder, *crowd[1:], kind=kind)
    url = f"/api/threads/{thread_id}"
    ok(await api.patch(f"{url}/members/{crowd[1].id}", {"role": "admin"}, as_=founder))
    statuses: dict[str, Counter[int]] = {}

    async def act(me: Person, turn: int, other: Person, seq: int) -> None:
        what = chance.choice(
            ["say", "say", "say", "reply", "edit", "delete", "add", "remove", "role", "rename"]
        )
        if me in crowd[:2]:
            what = chance.choice(["say", "delete", "add", "add", "remove", "role", "rename"])
        elif chance.random() < 0.2:
            what = chance.choice(["leave", "join"])
        member, role = f"{url}/members/{other.id}", chance.choice(["admin", "moderator"])
        reply = await {
            "say": lambda: api.post(
                f"{url}/messages", {"text": f"{turn}", "clientId": f"{turn // 2}"}, as_=me
            ),
            "reply": lambda: api.post(f"{url}/messages", {"text": "to you", "replyTo": seq}, as_=me),
            "edit": lambda: api.patch(f"{url}/messages/{seq}", {"text": f"edit {turn}"}, as_=me),
            "delete": lambda: api.delete(f"{url}/messages/{seq}", as_=me),
            "add": lambda: api.post(f"{url}/members", {"userId": other.id}, as_=me),
            "remove": lambda: api.delete(member, as_=me),
            "role": lambda: api.patch(member, {"role": role}, as_=me),
            "rename": lambda: api.patch(url, {"title": f"title {turn}"}, as_=me),
            "leave": lambda: api.post(f"{url}/leave", as_=me),
            "join": lambda: api.post(f"{url}/join", as_=me),
        }[what]()
        statuses.setdefault(what, Counter())[reply.status] += 1

    async def live(me: Person) -> None:
        for turn in range(14):
            # The first two stay, and stay admins: they keep things going.
            await act(me, turn, chance.choice(crowd[2:]), chance.randint(1, 30))

    await asyncio.gather(*(live(person) for person in crowd for _ in "12"))
    assert max(status for found in statuses.values() for status in found) < 500, statuses
    done = {what: sum(n for status, n in found.items() if status < 300) for what, found in statuses.items()}
    assert done["say"] > 10, statuses
    assert sum(done[what] for what in ("add", "remove", "role", "leave")) > 5, statuses  # it was a race
    await consistent(db, thread_id)
    now = dict(
        await db.fetch(
            "SELECT user_id, role FROM memberships WHERE thread_id = $1 AND left_rev IS NULL", thread_id
        )
    )
    assert not now or "admin" in now.values(), "there is always an admin"


async def test_a_thread_deleted_while_all_write_ends_for_all_at_one_point(
    api: Api, people: Maker, db: asyncpg.Pool
) -> None:
    crowd = [await people(f"p{number}") for number in range(6)]
    thread_id = await api.thread(*crowd)
    url = f"/api/threads/{thread_id}"

    async def write(me: Person) -> list[int]:
        found = []
        while 404 not in found:
            found.append((await api.post(f"{url}/messages", {"text": "on and on"}, as_=me)).status)
        return found

    async def delete() -> int:
        while await db.fetchval("SELECT last_seq < 20 FROM thread_heads WHERE thread_id = $1", thread_id):
            pass
        return (await api.delete(url, as_=crowd[0])).status

    *found, deleted = await asyncio.gather(*(write(person) for person in crowd), delete())
    assert deleted == 204
    written = sum(statuses.count(201) for statuses in found if isinstance(statuses, list))
    assert {status for statuses in found if isinstance(statuses, list) for status in statuses} == {201, 404}
    assert await dense(db, thread_id) == written
    last = await db.fetchrow(
        "SELECT kind FROM changes WHERE thread_id = $1 ORDER BY rev DESC LIMIT 1", thread_id
    )
    assert last["kind"] == "thread_deleted"
