"""The inbox: the list of conversations is right in the request after whatever changed it, for each of the staff."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import asyncpg
import orjson
import pytest

from server import inbox
from server.base.db import blocks
from server.inbox import Filters, listing
from server.ops.explain import OTHERWISE, fill, plan
from tests.client import NUMBERS, Api, Person
from tests.conftest import Cast, Maker
from tests.rules import dense, ok, refused, until
from tests.staff import Contact, astray, contact, rows, says
from tests.test_queries import GROWING, nodes

LIST = "/api/conversations"


@pytest.fixture
async def staff(people: Maker, db: asyncpg.Pool) -> Maker:
    """Make somebody of the staff: await staff("agnes")."""

    async def make(name: str) -> Person:
        person = await people(name)
        await db.execute("UPDATE users SET role = 'agent' WHERE id = $1", person.id)
        return person

    return make


@pytest.fixture
async def agnes(staff: Maker) -> Person:
    return await staff("agnes")


@pytest.fixture
async def carla(agnes: Person, db: asyncpg.Pool) -> Contact:
    """A contact who has written twice, since agnes is there."""
    carla = await contact(db, f"Carla {next(NUMBERS)}")
    await says(db, carla, "Hello?", "Anybody there?")
    return carla


async def first(api: Api, who: Person, **asked: Any) -> Any:
    """The first conversation of the list."""
    return ok(await api.get(LIST, as_=who, params={"pageSize": 1, **asked}))["conversations"][0]


async def shown(api: Api, who: Person, one: Contact) -> Any:
    return ok(await api.get(f"{LIST}/{one.thread}", as_=who))["conversation"]


def patch(api: Api, who: Person, one: Contact, **change: Any) -> Any:
    return api.patch(f"{LIST}/{one.thread}", change, as_=who)


# ---- always current ----------------------------------------------------------------------------


async def test_whatever_is_said_is_in_the_next_list(
    api: Api, agnes: Person, carla: Contact, db: asyncpg.Pool
) -> None:
    found = await first(api, agnes)
    assert (found["id"], found["contactId"], found["content"], found["lastSeq"], found["unreadCount"]) == (
        carla.thread, carla.id, "Anybody there?", 2, 2,
    )  # fmt: skip
    assert found["author"] == {"id": carla.id, "name": found["name"], "kind": "contact"}
    assert (found["status"], found["snoozedUntil"], found["assignee"], found["labels"]) == (
        "open",
        None,
        None,
        [],
    )
    sent = await api.say(carla.thread, agnes, "Yes. " + "x" * 500)
    found = await first(api, agnes)
    assert found["content"] == sent["text"][:200] and found["createdAt"] == sent["createdAt"]
    assert found["author"] == {"id": agnes.id, "name": "agnes", "kind": "user"}
    assert (found["unreadCount"], found["lastSeq"]) == (0, 3), "who answers has read"
    assert found == await shown(api, agnes, carla)
    await api.patch(f"{carla.url}/messages/3", {"text": "No."}, as_=agnes)
    assert (await first(api, agnes))["content"] == "No."
    ok(await api.delete(f"{carla.url}/messages/3", as_=agnes), 204)
    found = await first(api, agnes)
    assert (found["id"], found["content"], found["lastSeq"]) == (carla.thread, "", 3), "it keeps its place"
    assert await dense(db, carla.thread) == 3


async def test_a_new_conversation_counts_at_once_and_an_empty_one_is_none(
    api: Api, agnes: Person, db: asyncpg.Pool
) -> None:
    async def total(**asked: Any) -> int:
        page = ok(await api.get(LIST, as_=agnes, params=asked))["pagination"]
        assert page["totalExact"] and page["totalPages"] == -(-page["total"] // page["pageSize"])
        return int(page["total"])

    before, opened, closed = await total(), await total(status="open"), await total(status="closed")
    silent = await contact(db, "Silent")
    assert await total() == before
    refused(await api.get(f"{LIST}/{silent.thread}", as_=agnes), 404)
    refused(await patch(api, agnes, silent, status="closed"), 404)
    await api.say(silent.thread, agnes, "Good morning.")
    assert (await total(), await total(status="open")) == (before + 1, opened + 1)
    ok(await patch(api, agnes, silent, status="closed"))
    counts = (await total(), await total(status="open"), await total(status="closed"))
    assert counts == (before + 1, opened, closed + 1)
    ok(await api.delete(f"/api/contacts/{silent.id}", as_=agnes), 204)
    assert (await total(), await total(status="closed")) == (before, closed)
    refused(await api.get(f"{LIST}/{silent.thread}", as_=agnes), 404)
    assert (await first(api, agnes))["id"] != silent.thread


async def test_pages_hold_each_conversation_once_latest_first(
    api: Api, agnes: Person, db: asyncpg.Pool
) -> None:
    made = []
    for number in range(7):
        made.append(await contact(db, f"Number {number}"))
        await says(db, made[-1], "Hello")
    await says(db, made[3], "Hello again")
    wanted = [one.thread for one in (made[3], *(made[n] for n in (6, 5, 4, 2, 1, 0)))]
    pages = [
        ok(await api.get(f"{LIST}?page={page}&pageSize=3", as_=agnes))["conversations"] for page in (1, 2, 3)
    ]
    assert [one["id"] for page in pages for one in page][:7] == wanted
    beyond = ok(await api.get(f"{LIST}?page=1000000000&pageSize=100", as_=agnes))
    assert beyond["conversations"] == [] and beyond["pagination"]["page"] == 10**9
    for query in ("page=0", "page=1000000001", "pageSize=0", "pageSize=101", "label="):
        refused(await api.get(f"{LIST}?{query}", as_=agnes), 422)
    for query in ("page=x", "status=gone", "unread=1", "nothing=1"):
        refused(await api.get(f"{LIST}?{query}", as_=agnes), 400)
    for assignee in ("0", "you", "1" * 19 + "1", "9" * 19, "-1"):
        assert (await api.get(f"{LIST}?assigneeId={assignee}", as_=agnes)).status in (400, 422)


async def test_each_of_the_staff_has_a_count_of_their_own_that_a_recount_agrees_with(
    api: Api, staff: Maker, db: asyncpg.Pool
) -> None:
    chance = random.Random(5)
    early = await staff("early")
    cast = [await contact(db, f"Some {n}") for n in range(4)]
    for one in cast:
        await says(db, one, *"abc")
    people = [early, await staff("later"), await staff("latest")]
    entered: dict[int, dict[int, int]] = {person.id: {} for person in people}  # by thread: read up to there

    async def naive(person: Person, one: Contact) -> int:
        low = await db.fetchval(
            """SELECT coalesce(
                   (SELECT read_seq FROM memberships WHERE thread_id = $1 AND user_id = $2 AND left_rev IS NULL),
                   (SELECT count(*) FROM messages m, users u
                    WHERE m.thread_id = $1 AND u.id = $2 AND m.created_at < u.created_at))""",
            one.thread, person.id,
        )  # fmt: skip
        return int(await db.fetchval(
            "SELECT count(*) FROM messages WHERE thread_id = $1 AND seq > $2 AND deleted_at IS NULL", one.thread, low
        ))  # fmt: skip

    unread = set()
    for _ in range(60):
        one, person = chance.choice(cast), chance.choice(people)
        last = await db.fetchval("SELECT last_seq FROM thread_heads WHERE thread_id = $1", one.thread)
        act = chance.randrange(6)
        if act < 2:
            await says(db, one, "more", "and more")
        elif act == 2:
            await api.post(f"{one.url}/read", {"seq": chance.randint(1, last)}, as_=person)
        elif act == 3:
            await api.post(f"{one.url}/unread", {"seq": chance.randint(1, last)}, as_=person)
        elif act == 4:
            await api.delete(f"{one.url}/messages/{chance.randint(1, last)}", as_=person)
        else:
            await api.say(one.thread, person, "answer")
        for reader in people:
            listed = ok(await api.get(LIST, as_=reader, params={"pageSize": 10}))["conversations"]
            counts = {row["id"]: row["unreadCount"] for row in listed}
            for each in cast:
                wanted = await naive(reader, each)
                assert counts[each.thread] == wanted, (act, reader.name)
                unread.add(wanted)
    thread = ok(await api.get(cast[0].url, as_=early))["thread"]
    assert thread["unreadCount"] == (await shown(api, early, cast[0]))["unreadCount"]
    assert len(unread) > 5 and entered
    listed = ok(await api.get(LIST, as_=early, params={"unread": "true", "pageSize": 100}))
    mine = {row["id"] for row in listed["conversations"]}
    assert {one.thread for one in cast if await naive(early, one)} == mine & {one.thread for one in cast}
    assert all(row["unreadCount"] for row in listed["conversations"])


async def test_who_looks_enters_nothing(api: Api, agnes: Person, carla: Contact, db: asyncpg.Pool) -> None:
    await first(api, agnes)
    await shown(api, agnes, carla)
    ok(await api.get(f"/api/contacts/{carla.id}/messages", as_=agnes))
    ok(await patch(api, agnes, carla, labels=["looked at"]))
    assert await rows(db, carla) == {carla.id}


async def test_the_inbox_is_for_the_staff_from_the_moment_of_a_role_to_its_end(
    api: Api, cast: Cast, agnes: Person, carla: Contact, root: Person
) -> None:
    for call in (LIST, f"{LIST}?unread=true", f"{LIST}?searchValue=x", f"{LIST}/{carla.thread}"):
        refused(await api.get(call), 401)
        assert refused(await api.get(call, as_=cast.ada), 403)["error"] == "This is for agents and admins."
        ok(await api.get(call, as_=agnes))
    refused(await patch(api, cast.ada, carla, status="closed"), 403)
    refused(await api.get(f"{LIST}/{cast.team}", as_=agnes), 404)  # a group
    refused(await api.get(f"{LIST}/{10**18}", as_=agnes), 404)
    ok(await api.patch(f"/api/admin/users/{agnes.id}", {"role": "member"}, as_=root))
    for call in (LIST, f"{LIST}?status=open", f"{LIST}?label=x", f"{LIST}/{carla.thread}"):
        refused(await api.get(call, as_=agnes), 403)


# ---- status, assignee, labels ------------------------------------------------------------------


async def test_a_change_of_a_conversation_is_a_change_of_its_thread(
    api: Api, agnes: Person, carla: Contact, staff: Maker, db: asyncpg.Pool
) -> None:
    bert = await staff("bert")
    async with api.stream(carla.thread, agnes) as stream:
        reply = await patch(api, agnes, carla, assigneeId=bert.id, labels=["b ", "a", "a"], status="closed")
        found = ok(reply)["conversation"]
        assert (found["assignee"], found["labels"], found["status"]) == (
            {"id": bert.id, "name": "bert"}, ["a", "b"], "closed",
        )  # fmt: skip
        event = await stream.next()
        assert (event.name, event.data["rev"]) == ("thread_updated", 3)
    place = ok(await api.get(carla.url, as_=agnes))["thread"]
    assert place["lastRev"] == 3
    assert place["contact"] == {
        "id": carla.id, "phoneNumber": None, "status": "closed", "snoozedUntil": None, "assigneeId": bert.id,
        "labels": ["a", "b"],
    }  # fmt: skip
    nothings: tuple[dict[str, Any], ...] = (
        {}, {"labels": ["b", "a"]}, {"assigneeId": bert.id}, {"status": "closed"},
    )  # fmt: skip
    for nothing in nothings:
        ok(await patch(api, agnes, carla, **nothing))
    assert ok(await api.get(carla.url, as_=agnes))["thread"]["lastRev"] == 3, "nothing has changed"
    found = ok(await patch(api, agnes, carla, assigneeId=None))["conversation"]
    assert (found["assignee"], found["labels"]) == (None, ["a", "b"]), "what is not given stays"
    assert ok(await patch(api, agnes, carla, labels=[]))["conversation"]["labels"] == []
    await dense(db, carla.thread)


async def test_whoever_leaves_the_staff_stays_assigned_until_somebody_else_is(
    api: Api, agnes: Person, carla: Contact, staff: Maker, db: asyncpg.Pool
) -> None:
    bert = await staff("bert")
    one = await contact(db, f"Carl {next(NUMBERS)}")
    await says(db, one, "Hello?")
    ok(await patch(api, agnes, carla, assigneeId=bert.id))
    await db.execute("UPDATE users SET role = 'member' WHERE id = $1", bert.id)
    mine = {"assigneeId": bert.id}
    found = ok(await patch(api, agnes, carla, **mine, status="closed", labels=["a"]))["conversation"]
    assert (found["assignee"]["id"], found["status"], found["labels"]) == (bert.id, "closed", ["a"])
    assert (await first(api, agnes, **mine))["id"] == carla.thread, "it is found to be given to another"
    assert "assigneeId" in refused(await patch(api, agnes, one, **mine), 422)["details"]
    assert (
        ok(await patch(api, agnes, carla, assigneeId=agnes.id))["conversation"]["assignee"]["id"] == agnes.id
    )
    assert "assigneeId" in refused(await patch(api, agnes, carla, **mine, status="open"), 422)["details"]
    assert (await shown(api, agnes, carla))["status"] == "closed", "nothing of it has changed"


async def test_what_no_conversation_can_be_is_refused_with_the_field(
    api: Api, agnes: Person, carla: Contact, cast: Cast
) -> None:
    later, before = "2100-01-01T00:00:00Z", "2020-01-01T00:00:00Z"
    for field, change in (
        ("snoozedUntil", {"status": "snoozed"}),
        ("snoozedUntil", {"status": "snoozed", "snoozedUntil": None}),
        ("snoozedUntil", {"status": "snoozed", "snoozedUntil": before}),
        ("snoozedUntil", {"status": "snoozed", "snoozedUntil": "9999-12-31T23:59:59-10:00"}),
        ("snoozedUntil", {"status": "open", "snoozedUntil": later}),
        ("snoozedUntil", {"snoozedUntil": later}),
        ("status", {"status": "gone"}),
        ("assigneeId", {"assigneeId": cast.ada.id}),  # not of the staff
        ("assigneeId", {"assigneeId": 10**15}),
        ("assigneeId", {"assigneeId": carla.id}),
        ("assigneeId", {"assigneeId": 0}),
        ("labels", {"labels": [""]}),
        ("labels", {"labels": ["x" * 51]}),
        ("labels", {"labels": ["a\x00b"]}),
        ("labels", {"labels": [str(n) for n in range(21)]}),
    ):
        assert field in refused(await patch(api, agnes, carla, **change), 422)["details"], change
    wrong: tuple[dict[str, Any], ...] = (
        {"labels": [1]}, {"labels": None}, {"status": 1}, {"status": None}, {"assigneeId": "me"},
    )  # fmt: skip
    for change in wrong:
        assert (await patch(api, agnes, carla, **change)).status in (400, 422), change
    found = await shown(api, agnes, carla)
    assert (found["status"], found["assignee"], found["labels"]) == ("open", None, [])
    labels = [f"{n:02}" + "ß" * 48 for n in range(20)]
    assert ok(await patch(api, agnes, carla, labels=labels))["conversation"]["labels"] == labels


async def test_a_snoozed_conversation_opens_by_itself_and_says_so(
    api: Api, agnes: Person, carla: Contact, db: asyncpg.Pool
) -> None:
    far = ok(await patch(api, agnes, carla, status="snoozed", snoozedUntil="2100-01-01T00:00:00+01:00"))
    assert far["conversation"]["snoozedUntil"] == "2099-12-31T23:00:00Z"
    async with api.stream(carla.thread, agnes) as stream:
        soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        ok(await patch(api, agnes, carla, status="snoozed", snoozedUntil=soon))
        assert (await stream.next()).data["rev"] == 4
        woken = await stream.next()
        assert (woken.name, woken.data["rev"]) == ("thread_updated", 5)
    assert (await shown(api, agnes, carla))["status"] == "open"
    await dense(db, carla.thread)


async def test_what_the_contact_says_opens_a_conversation_and_what_we_say_does_not(
    api: Api, agnes: Person, carla: Contact, root: Person
) -> None:
    ok(await api.patch(f"/api/contacts/{carla.id}", {"phoneNumber": f"+4915{carla.id:09}"}, as_=agnes))
    until_then = {"status": "snoozed", "snoozedUntil": "2100-01-01T00:00:00Z"}
    for change in ({"status": "closed"}, until_then):
        ok(await patch(api, agnes, carla, **change))
        await api.say(carla.thread, agnes, "One thing more.")
        assert (await shown(api, agnes, carla))["status"] == change["status"]
        said = {"phoneNumber": f"+4915{carla.id:09}", "text": "Wait!"}
        assert ok(await api.post("/api/inbound", said, as_=root), 201)["contact"]["id"] == carla.id
        found = await shown(api, agnes, carla)
        assert (found["status"], found["snoozedUntil"], found["content"]) == ("open", None, "Wait!")


async def test_counts_are_right_when_all_change_at_once(
    api: Api, agnes: Person, db: asyncpg.Pool, staff: Maker
) -> None:
    cast = [await contact(db, f"Busy {n}") for n in range(4)]
    people = [agnes, await staff("bert")]
    for one in cast:
        await says(db, one, "Hello")

    async def work(n: int) -> None:
        one, who = cast[n % 4], people[n % 2]
        if n % 3:
            status = ("open", "closed")[n % 2]
            ok(await patch(api, who, one, status=status, labels=[str(n % 5), "busy"]))
        else:
            await api.say(one.thread, who, "busy")

    await asyncio.gather(*(work(n) for n in range(60)))
    await recounted(db)
    for one in cast:
        await dense(db, one.thread)


async def test_a_conversation_shows_what_it_repeats_whatever_happens_at_once(
    api: Api, agnes: Person, root: Person, db: asyncpg.Pool, staff: Maker
) -> None:
    cast = [await contact(db, f"Racing {n}") for n in range(3)]
    people, chance = [agnes, await staff("bert")], random.Random(11)
    for one in cast:
        await says(db, one, "Hello", '\N{SPOOL OF THREAD} "quoted" \\ ' * 20)
    written = {one.thread: 2 for one in cast}

    async def work(n: int) -> None:
        one, who, act = cast[n % 3], people[n % 2], chance.random()
        if act < 0.35:
            seq = (await api.say(one.thread, who, f"said {n} " * 30))["seq"]
            written[one.thread] = max(written[one.thread], seq)
        elif act < 0.55:
            latest = f"{one.url}/messages/{written[one.thread]}"
            assert (await api.patch(latest, {"text": f"edited {n}"}, as_=who)).status in (200, 403, 404, 409)
        elif act < 0.7:
            assert (await api.delete(f"{one.url}/messages/{written[one.thread]}", as_=who)).status in (
                204,
                404,
            )
        elif act < 0.85:
            body = {"name": f"Racing {n}", "phoneNumber": f"+4915{one.id:05}{n:04}"}
            ok(await api.patch(f"/api/contacts/{one.id}", body, as_=who))
        else:
            ok(await patch(api, who, one, status=("open", "closed")[n % 2], labels=[f"label {n}"]))

    for begun in range(0, 120, 40):
        await asyncio.gather(*(work(n) for n in range(begun, begun + 40)))
        assert await astray(db, *cast) == []
    removed = cast.pop()
    ok(await api.delete(f"/api/contacts/{removed.id}", as_=agnes), 204)
    assert await astray(db, removed) == []
    for one in cast:  # and what the list tells is what the thread tells
        told, thread = await shown(api, agnes, one), ok(await api.get(one.url, as_=agnes))["thread"]
        last = thread["lastMessage"]
        assert (told["name"], told["lastSeq"], told["unreadCount"]) == (
            thread["title"], thread["lastSeq"], thread["unreadCount"],
        )  # fmt: skip
        assert (told["content"], told["author"], told["createdAt"]) == (
            last["text"], last["author"], thread["lastMessageAt"],
        )  # fmt: skip
        for key in ("phoneNumber", "status", "labels"):
            assert told[key] == thread["contact"][key]


async def recounted(db: Any) -> None:
    """What is kept is what a count finds."""
    row = await db.fetchrow(
        """SELECT
            (SELECT json_object_agg(name, count ORDER BY name)::text FROM (
                SELECT name, sum(count) AS count FROM tallies GROUP BY name HAVING sum(count) <> 0) t) AS kept,
            (SELECT json_object_agg(name, count ORDER BY name)::text FROM (
                SELECT status AS name, count(*) FROM conversations WHERE last_at IS NOT NULL GROUP BY status
                UNION ALL SELECT 'conversations', count(*) FROM conversations
                    WHERE last_at IS NOT NULL HAVING count(*) > 0
                UNION ALL SELECT 'contacts', count(*) FROM contacts
                    WHERE deleted_at IS NULL HAVING count(*) > 0) t) AS found,
            ARRAY(SELECT (day, status, sum(count))::text FROM conversation_days GROUP BY day, status
                  HAVING sum(count) <> 0 ORDER BY day, status) AS days,
            ARRAY(SELECT (conversation_day(last_at), status, count(*))::text FROM conversations
                  WHERE last_at IS NOT NULL GROUP BY conversation_day(last_at), status ORDER BY 1) AS found_days,
            ARRAY(SELECT (thread_id, label, last_at)::text FROM conversation_labels
                  ORDER BY thread_id, label) AS labels,
            ARRAY(SELECT (thread_id, label, last_at)::text FROM conversations, unnest(labels) label
                  WHERE last_at IS NOT NULL ORDER BY thread_id, label) AS found_labels"""
    )
    assert row["kept"] == row["found"]
    assert sorted(row["days"]) == sorted(row["found_days"])
    assert row["labels"] == row["found_labels"]


# ---- filters -----------------------------------------------------------------------------------


async def test_filters_hold_together(api: Api, agnes: Person, staff: Maker, db: asyncpg.Pool) -> None:
    bert, tag = await staff("bert"), f"tag {next(NUMBERS)}"
    number = next(NUMBERS)
    all_of_them = []
    for n, (status, assignee, vip, read) in enumerate(
        product(("open", "closed"), (None, agnes, bert), (True, False), (True, False))
    ):
        one = await contact(db, f"Client {number}-{n:02} {'Älpha' if n % 2 else 'beta'}")
        await says(db, one, "Hello")
        change = {
            "status": status,
            "assigneeId": assignee and assignee.id,
            "labels": [tag, *(["vip"] if vip else [])],
        }
        ok(await patch(api, agnes, one, **change))
        if read:
            ok(await api.post(f"{one.url}/read", {"seq": 1}, as_=agnes))
        all_of_them.append((one.thread, status, assignee, vip, read, n))
    all_of_them.reverse()
    combinations = product(
        (None, "open", "closed"), (None, "none", "me", "id"), (False, True), (None, "äLPH")
    )
    for wanted_status, whose, unread, search in combinations:
        asked: dict[str, Any] = {"label": tag, "pageSize": 100} | (
            {"status": wanted_status} if wanted_status else {}
        )
        asked |= {"assigneeId": str(bert.id) if whose == "id" else whose} if whose else {}
        asked |= {"unread": "true"} if unread else {}
        asked |= {"searchValue": search} if search else {}
        found = ok(await api.get(LIST, as_=agnes, params=asked))
        wanted = [
            row[0]
            for row in all_of_them
            if wanted_status in (None, row[1])
            and {None: True, "none": row[2] is None, "me": row[2] is agnes, "id": row[2] is bert}[whose]
            and not (unread and row[4])
            and not (search and not row[5] % 2)
        ]
        assert [row["id"] for row in found["conversations"]] == wanted, asked
        assert found["pagination"]["total"] == len(wanted) and found["pagination"]["totalExact"]
    second = ok(await api.get(LIST, as_=agnes, params={"label": tag, "page": 2, "pageSize": 5}))
    assert [row["id"] for row in second["conversations"]] == [row[0] for row in all_of_them[5:10]]
    assert second["pagination"] == {
        "page": 2,
        "pageSize": 5,
        "total": 24,
        "totalPages": 5,
        "totalExact": True,
    }


async def test_a_search_finds_parts_of_names_and_numbers(api: Api, agnes: Person, db: asyncpg.Pool) -> None:
    number = f"{next(NUMBERS):06}"
    one, other = await contact(db, f"Müller-{number} %_'\\"), await contact(db, "Somebody")
    ok(await api.patch(f"/api/contacts/{other.id}", {"phoneNumber": f"+49171{number}9"}, as_=agnes))
    for each in (one, other):
        await says(db, each, "Hello")

    async def found(search: str) -> list[int]:
        reply = ok(await api.get(LIST, as_=agnes, params={"searchValue": search, "pageSize": 100}))
        assert reply["pagination"]["totalExact"]
        return [row["id"] for row in reply["conversations"]]

    for part in (f"müller-{number}", f"MÜLLER-{number}", f"er-{number} %_", f"{number} %_'\\"):
        assert await found(part) == [one.thread], part
    for part in (f"+49171{number}", f"0171 {number} 9", f"71{number}9", f"0049 171/{number}"):
        assert await found(part) == [other.thread], part
    assert await found(number) == [other.thread, one.thread]
    assert await found(f"nobody {number}") == []
    ok(await api.patch(f"/api/contacts/{one.id}", {"name": f"Meier {number}"}, as_=agnes))
    assert await found(f"müller-{number}") == [] and await found(f"meier {number}") == [one.thread]
    for odd in ("x", "%", "'", "\\", "a" * 1000, "🧵", "  "):
        ok(await api.get(LIST, as_=agnes, params={"searchValue": odd}))
    refused(await api.get(LIST, as_=agnes, params={"searchValue": "x" * 1001}), 422)


async def test_a_search_finds_what_was_said_and_not_what_was_taken_back(
    api: Api, agnes: Person, carla: Contact, db: asyncpg.Pool
) -> None:
    word, other = f"Zwölf{next(NUMBERS)}x", await contact(db, "Quiet")
    ok(await api.post(f"/api/contacts/{other.id}/messages", {"text": f"About {word} things"}, as_=agnes), 201)
    ok(await api.post(f"/api/contacts/{carla.id}/messages", {"text": f"{word}!"}, as_=agnes), 201)
    ok(await api.post(f"/api/contacts/{other.id}/messages", {"text": "And others"}, as_=agnes), 201)

    async def found() -> list[int]:
        page = ok(await api.get(LIST, as_=agnes, params={"searchValue": word[:-1].upper()}))
        assert page["pagination"]["total"] == len(page["conversations"]) and page["pagination"]["totalExact"]
        return [row["id"] for row in page["conversations"]]

    async def both() -> bool:  # the index follows within two seconds
        return await found() == [other.thread, carla.thread]

    await until(both, "both are found")
    ok(await api.delete(f"{carla.url}/messages/3", as_=agnes), 204)
    assert await found() == [other.thread]


async def test_what_is_unread_is_told_alike_by_list_and_thread(
    api: Api, agnes: Person, db: asyncpg.Pool
) -> None:
    """Also of threads that were made after what was said in them, as imported ones are."""
    since = await db.fetchval("SELECT created_at FROM users WHERE id = $1", agnes.id)
    day, told = timedelta(days=1), []
    for made, said in (
        (-9, (-8, -7)), (-9, (-8, 1)), (-9, (1, 2)), (1, (-8, -7)), (1, (-8, 1)), (1, (2, 3)), (-1, (-8, -7)),
        (-1, (-8, 1)),
    ):  # fmt: skip
        one = await contact(db)
        await says(db, one, "Hello?", "Anybody there?")
        await db.execute("UPDATE threads SET created_at = $2 WHERE id = $1", one.thread, since + made * day)
        await db.execute(
            "UPDATE conversations SET created_at = $2 WHERE thread_id = $1", one.thread, since + made * day
        )
        for seq, at in enumerate(said, 1):
            await db.execute(
                "UPDATE messages SET created_at = $3 WHERE thread_id = $1 AND seq = $2",
                one.thread,
                seq,
                since + at * day,
            )
        last = since + said[-1] * day
        await db.execute(
            "UPDATE thread_heads SET last_message_at = $2 WHERE thread_id = $1", one.thread, last
        )
        await db.execute("UPDATE conversations SET last_at = $2 WHERE thread_id = $1", one.thread, last)
        thread = ok(await api.get(one.url, as_=agnes))["thread"]
        assert (await shown(api, agnes, one))["unreadCount"] == thread["unreadCount"], (made, said)
        told.append(thread["unreadCount"])
    assert told == [0, 1, 2, 2, 2, 2, 0, 1]
    await db.execute("UPDATE conversations SET last_at = NULL WHERE last_at > now()")  # else they stay on top


async def test_a_search_takes_the_whole_value_as_it_stands(api: Api, agnes: Person, db: asyncpg.Pool) -> None:
    mark = f"w{next(NUMBERS)}"
    sigma = await contact(db, f"{mark} ΣΊΣΥΦΟΣ")
    await says(db, sigma, "Hello")
    talker, other = await contact(db, "Talker"), await contact(db, "Other")
    sentence = f"{mark} one two three four five six seven eight nine ten eleven"
    last = f'{mark} o d, he said "come in" to {mark}"x" pipes'
    for each, text in ((talker, sentence), (talker, last), (other, f"{mark} two one o-d come in")):
        ok(await api.post(f"/api/contacts/{each.id}/messages", {"text": text}, as_=agnes), 201)

    async def found(value: str, exact: bool = True) -> list[int]:
        page = ok(await api.get(LIST, as_=agnes, params={"searchValue": value}))
        assert page["pagination"]["totalExact"] is exact, value
        return [row["id"] for row in page["conversations"]]

    async def indexed() -> bool:
        return await found(f"{mark} two") == [other.thread]

    await until(indexed, "all is found")
    for value in (
        sentence, sentence[2:-2].upper(), f"{mark} one two", f'"{mark} one two"', f"{mark} o d", f'{mark}"X"',
    ):  # fmt: skip
        assert await found(value) == [talker.thread], value
    for value in (f"{mark} two three", f"{mark} seven one", f'{mark}"y', f"{mark} two one o d"):
        assert await found(value) == [], value
    # Which words stand beside the quotes is not known, so it may be too many.
    for value in (f'{mark} o d, he said "come in', f'"{mark} o d, he said "come in" to {mark}"x" pipes"'):
        assert await found(value, exact=False) == [talker.thread], value
    assert await found(f'{mark} o d "no such" words', exact=False) == []
    assert await found(f"{mark} σίσυφος") == [sigma.thread] and await found(f'"{mark} Σίσυφος"') == [
        sigma.thread
    ]
    for short in (mark[0], f'"{mark[0]}"', '"', 'a" "b'):
        await found(short, exact=False)


# ---- contact threads as threads ----------------------------------------------------------------


async def test_contact_threads_are_listed_for_the_staff_in_order_of_the_inbox(
    api: Api, agnes: Person, db: asyncpg.Pool, cast: Cast
) -> None:
    name = f"Thread {next(NUMBERS)}"
    made = [await contact(db, f"{name} {n}") for n in range(5)]
    for one in made:
        await says(db, one, "Hello")
    ok(await api.patch(f"{made[1].url}/me", {"archived": True}, as_=agnes))
    ok(await api.post(f"{made[2].url}/read", {"seq": 1}, as_=agnes))

    async def walk(limit: int, **asked: Any) -> list[int]:
        seen: list[int] = []
        cursor: dict[str, str] = {}
        while True:
            page = ok(await api.get(
                "/api/threads", as_=agnes, params={"kind": "contact", "limit": limit, "search": name, **asked, **cursor}
            ))  # fmt: skip
            seen += [thread["id"] for thread in page["threads"]]
            assert all(thread["kind"] == "contact" and thread["contact"] for thread in page["threads"])
            if page["nextCursor"] is None:
                return seen
            cursor = {"cursor": page["nextCursor"]}

    latest = [made[n].thread for n in (4, 3, 2, 0)]
    for limit in (1, 2, 4, 100):
        assert await walk(limit) == latest
    assert await walk(2, archived="true") == [made[1].thread]
    assert await walk(2, unread="true") == [made[n].thread for n in (4, 3, 0)]
    members = ok(await api.get("/api/threads?kind=contact", as_=cast.ada))
    assert members["threads"] == [] and members["nextCursor"] is None
    mine = ok(await api.get("/api/threads?limit=100", as_=agnes))
    assert [thread for thread in mine["threads"] if thread["kind"] == "contact"] == []
    other = ok(await api.get("/api/threads?limit=1", as_=cast.ada))
    for cursor in (other["nextCursor"] or "x", "garbage"):
        refused(await api.get(f"/api/threads?kind=contact&cursor={cursor}", as_=agnes), 400, "bad_cursor")


# ---- the messages of a contact -----------------------------------------------------------------


async def test_the_messages_of_a_contact_by_page_number(
    api: Api, agnes: Person, carla: Contact, db: asyncpg.Pool, cast: Cast
) -> None:
    url = f"/api/contacts/{carla.id}/messages"
    for n in range(3, 8):
        ok(await api.post(url, {"text": f"Number {n}", "clientId": f"c{n}"}, as_=agnes), 201)
    again = ok(await api.post(url, {"text": "Number 7", "clientId": "c7"}, as_=agnes), 200)
    assert again["message"]["seq"] == 7 and again["message"]["author"]["id"] == agnes.id
    seqs = []
    for page in (1, 2, 3, 4):
        found = ok(await api.get(f"{url}?page={page}&pageSize=3", as_=agnes))
        seqs.append([message["seq"] for message in found["messages"]])
        assert found["pagination"] == {
            "page": page, "pageSize": 3, "total": 7, "totalPages": 3, "totalExact": True,
        }  # fmt: skip
    assert seqs == [[7, 6, 5], [4, 3, 2], [1], []]
    ok(await api.delete(f"{carla.url}/messages/6", as_=agnes), 204)
    found = ok(await api.get(f"{url}?pageSize=2", as_=agnes))["messages"]
    assert [(message["seq"], message["text"]) for message in found] == [(7, "Number 7"), (6, "")]
    listed = ok(await api.get(f"{carla.url}/messages?order=desc&limit=2", as_=agnes))
    assert listed["items"] == found
    assert ok(await api.get(f"{url}?page=1000000000", as_=agnes))["messages"] == []
    refused(await api.get(url, as_=cast.ada), 403)
    refused(await api.post(url, {"text": "x"}, as_=cast.ada), 403)
    refused(await api.post(url, {"text": " "}, as_=agnes), 422)
    for nobody in (cast.ada.id, 10**18):
        refused(await api.get(f"/api/contacts/{nobody}/messages", as_=agnes), 404)
        refused(await api.post(f"/api/contacts/{nobody}/messages", {"text": "x"}, as_=agnes), 404)
    async with db.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE thread_heads SET archived_seq = 4 WHERE thread_id = $1", carla.thread)
        await conn.execute("UPDATE conversations SET archived_seq = 4 WHERE thread_id = $1", carla.thread)
        await conn.execute("DELETE FROM messages WHERE thread_id = $1 AND seq <= 4", carla.thread)
    found = ok(await api.get(f"{url}?page=2&pageSize=2", as_=agnes))
    assert [message["seq"] for message in found["messages"]] == [5] and found["pagination"]["total"] == 3


# ---- at size -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def town(db_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The sample of the plans: 1,500 conversations of ten days, and people of the staff who have read some."""
    conn = await asyncpg.connect(db_url, server_settings={"random_page_cost": "1.1", "jit": "off"})
    await fill(conn)
    yield conn
    await conn.close()


async def test_a_page_at_any_depth_is_the_one_that_counting_off_finds(town: asyncpg.Connection) -> None:
    change = town.transaction()
    await change.start()
    chance = random.Random(7)
    try:
        for _ in range(3):
            for status in (None, "open", "closed"):
                await recounted(town)
                where = "last_at IS NOT NULL" + (f" AND status = '{status}'" if status else "")
                order = [
                    row["thread_id"]
                    for row in await town.fetch(
                        f"SELECT thread_id FROM conversations WHERE {where} ORDER BY last_at DESC, thread_id DESC"
                    )
                ]
                assert len(order) > 300
                skips = {0, 999, 1000, 1001, len(order) - 1, len(order), 10**12}
                for skip in skips | set(chance.sample(range(len(order)), 12)):
                    asked: dict[str, Any] = {"user_id": 200, "skip": skip, "size": 7}
                    row = await (
                        inbox.latest_of(town, status=status, **asked)
                        if status
                        else inbox.latest(town, **asked)
                    )
                    assert row is not None and row["total"] == len(order)
                    assert ids(row["conversations"]) == order[skip : skip + 7], skip
            for thread_id in chance.sample(
                range(3001, 4501), 200
            ):  # some are written to, some closed, some go
                await town.execute(
                    """UPDATE conversations SET last_at = CASE $2::int WHEN 0 THEN NULL
                           ELSE now() - $2 * interval '7 hours' END,
                           status = CASE WHEN $2 % 3 = 0 THEN 'closed' ELSE 'open' END, snoozed_until = NULL
                       WHERE thread_id = $1""",
                    thread_id, chance.randrange(20),
                )  # fmt: skip
    finally:
        await change.rollback()


def ids(conversations: bytes | None) -> list[int]:
    return [one["id"] for one in orjson.loads(b"[%b]" % (conversations or b""))]


async def test_the_list_is_planned_once_and_not_for_each_request(town: asyncpg.Connection) -> None:
    """A generic plan that is thought dear is never taken, and planning takes longer than the page."""
    for name, values in (
        ("latest", (200, 0, 50)),
        ("latest_of", (200, "open", 0, 50)),
        ("told", (200, list(range(3001, 3051)))),
    ):
        text = blocks("inbox")[name].text
        statement = await town.prepare(text)
        for _ in range(8):
            await statement.fetch(*values)
        row = await town.fetchrow("SELECT * FROM pg_prepared_statements WHERE statement = $1", text)
        assert row is not None and row["custom_plans"] == 5 and row["generic_plans"] >= 3, name


async def test_a_deep_page_reads_about_a_day_and_itself(town: asyncpg.Connection) -> None:
    for skip in (0, 1000, 1400):
        OTHERWISE["inbox.latest"]["skip"] = skip
        try:
            found = list(
                nodes(await plan(town, blocks("inbox")["latest"], "force_generic_plan", analyze=True))
            )
        finally:
            del OTHERWISE["inbox.latest"]["skip"]
        read = sum(
            node["Actual Rows"] * node["Actual Loops"]
            for node in found
            if node.get("Relation Name") == "conversations"
        )
        assert 50 < read < 300, (skip, read)  # a day has 144


def every() -> Iterator[Filters]:
    """The combinations that a request can ask for."""
    for search, status, assigned, label, unread in product(
        ("", "found", "among"), (False, True), ("any", "one", "nobody"), (False, True), (False, True)
    ):
        on = Filters(search == "found", search == "among", status, assigned, label, unread)  # type: ignore[arg-type]
        if on not in (Filters(), Filters(status=True)):  # these are blocks of inbox.sql
            yield on


VALUES = {
    "ids": "'{3001,3002,3010}'", "status": "'open'", "assignee_id": "200", "label": "'label 7'", "user_id": "200",
    "since": "'2026-02-01'", "search": "'tact 7'", "digits": "NULL", "size": "50", "skip": "0",
}  # fmt: skip


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_every_combination_of_filters_can_be_prepared_and_looks_at_a_bounded_number(
    town: asyncpg.Connection, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "COUNTED", 100)
    monkeypatch.setattr(inbox, "UNREAD_LOOKS", 100)
    listing.cache_clear()
    seen = set()
    for on in every():
        sql, names = listing(on)
        seen.add(sql)
        kept = town.transaction()
        await kept.start()
        try:
            await town.execute(f"SET LOCAL plan_cache_mode = {mode}")
            await town.execute(f"PREPARE listing AS {sql}")
            given = ", ".join(VALUES[name] for name in names)
            said = await town.fetchval(
                f"EXPLAIN (FORMAT JSON, ANALYZE, TIMING OFF) EXECUTE listing ({given})"
            )
            await town.execute("DEALLOCATE listing")
        finally:
            await kept.rollback()
            found = list(nodes(orjson.loads(said)[0]["Plan"]))
        whole = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
        assert not whole & (GROWING | {"conversations", "contacts", "conversation_labels"}), (on, whole)
        for table in ("conversations", "contacts", "thread_heads", "memberships", "messages"):
            rows = sum(
                node["Actual Rows"] * node["Actual Loops"]
                for node in found
                if node.get("Relation Name") == table
            )
            assert rows <= 205, (on, table, rows)
    assert len(seen) == 3 * 2 * 3 * 2 * 2 - 2
    listing.cache_clear()


async def test_the_alarm_wakes_each_once_and_passes_by_what_is_held(
    town: asyncpg.Connection, db_url: str
) -> None:
    others = await asyncpg.create_pool(db_url, min_size=3, max_size=3)
    try:
        await town.execute(
            "UPDATE conversations SET snoozed_until = '2026-01-01' WHERE status = 'snoozed' AND thread_id < 3240"
        )
        due = {
            row[0]
            for row in await town.fetch("SELECT thread_id FROM conversations WHERE snoozed_until < now()")
        }
        assert len(due) > 50
        held = min(due)
        async with others.acquire() as conn, conn.transaction():
            await conn.execute("SELECT FROM thread_heads WHERE thread_id = $1 FOR NO KEY UPDATE", held)
            woken = [
                row for found in await asyncio.gather(inbox.wake(others), inbox.wake(others)) for row in found
            ]
            assert sorted(row["thread_id"] for row in woken) == sorted(due - {held})
        assert [row["thread_id"] for row in await inbox.wake(others)] == [held]
        assert await inbox.wake(others) == []
        for row in woken:
            kind = await town.fetchval(
                "SELECT kind FROM changes WHERE thread_id = $1 AND rev = $2", row["thread_id"], row["rev"]
            )
            assert kind == "thread_updated"
        await recounted(town)
    finally:
        await others.close()
