"""The thread stream, as a client meets it: two workers, and readers on both."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from server import messages
from tests.client import NUMBERS, Api, Event, Person, Reply, Stream
from tests.conftest import Cast, Maker
from tests.live.wire import Frame, Wire, dial, so, wire, worker_of
from tests.ops.process import Bobbin

Wires = list[Wire]


async def opening(line: Wire) -> Frame:
    """The first event, which is always ready."""
    frame = await line.next()
    assert frame is not None
    assert frame.event == "ready"
    return frame


@contextlib.asynccontextmanager
async def everywhere(
    server: Bobbin, address: str, thread_id: int, who: Person, *, since: str | None = None
) -> AsyncIterator[Wires]:
    """Streams of one person on every worker, `ready` read already."""
    workers = set(server.pids("server worker"))
    assert len(workers) == 2
    async with contextlib.AsyncExitStack() as stack:

        async def one() -> Wire:
            line = await stack.enter_async_context(wire(address, thread_id, who, since=since))
            assert line.status == 200
            return line

        lines: Wires = []
        while len({worker_of(line.port, workers) for line in lines}) < 2:
            assert len(lines) < 60, "one worker takes all connections"
            lines += await asyncio.gather(*(one() for _ in range(4)))
        for line in lines:
            await opening(line)
        yield lines


async def remove(api: Api, thread_id: int, by: Person, whom: Person) -> None:
    assert (await api.delete(f"/api/threads/{thread_id}/members/{whom.id}", as_=by)).status == 204


async def add(api: Api, thread_id: int, by: Person, whom: Person) -> None:
    assert (await api.post(f"/api/threads/{thread_id}/members", {"userId": whom.id}, as_=by)).status == 201


async def cursor(api: Api, thread_id: int, who: Person) -> str:
    """Where the thread stands now."""
    return str((await api.get(f"/api/threads/{thread_id}", as_=who)).json["thread"]["streamCursor"])


def rev_of(cursor: str) -> int:
    return int(cursor.rpartition(".")[2])


def revs(events: list[Frame]) -> list[int]:
    return [event.rev for event in events]


# -- from where one reads


async def test_ready_comes_first_with_the_cursor_and_the_last_seq(api: Api, cast: Cast, address: str) -> None:
    await api.say(cast.team, cast.ada, "one")
    await api.say(cast.team, cast.ben, "two")
    async with wire(address, cast.team, cast.ben) as line:
        ready = await opening(line)
        assert line.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert ready.id == ready.json["cursor"] == await cursor(api, cast.team, cast.ben)
        assert ready.json == {"cursor": ready.id, "lastSeq": 2}
        assert line.raw.startswith(b"retry: 2000\n\n")


async def test_what_is_fetched_and_then_followed_has_no_hole(api: Api, cast: Cast) -> None:
    await api.say(cast.team, cast.ada, "in the page")
    page = (await api.get(f"/api/threads/{cast.team}/messages", as_=cast.ben)).json
    thread = (await api.get(f"/api/threads/{cast.team}", as_=cast.ben)).json["thread"]
    assert page["streamCursor"] == thread["streamCursor"]
    between = [await api.say(cast.team, cast.ada, f"between {number}") for number in range(3)]
    async with api.stream(cast.team, cast.ben, since=page["streamCursor"]) as stream:
        assert stream.ready.id == page["streamCursor"]
        after = await api.say(cast.team, cast.ada, "after")
        assert [event.data for event in await stream.take(4)] == [*between, after]


@pytest.mark.parametrize("way", ["header", "query", "both"])
async def test_a_reader_goes_on_from_its_last_event_id(api: Api, cast: Cast, address: str, way: str) -> None:
    async with wire(address, cast.team, cast.ben) as line:
        await opening(line)
        sent = [await api.say(cast.team, cast.ada, f"message {number}") for number in range(5)]
        seen = await line.until(sent[1]["rev"])
    last = seen[-1].id
    assert last is not None
    since = last if way != "query" else None
    query = f"?lastEventId={quote(last)}" if way != "header" else ""
    async with wire(address, cast.team, cast.ben, since=since, query=query) as line:
        assert (await opening(line)).id == last
        rest = await line.until(sent[-1]["rev"])
    assert [frame.json for frame in seen + rest] == sent


async def test_the_id_of_each_event_is_a_cursor(api: Api, cast: Cast, people: Maker) -> None:
    start = await cursor(api, cast.team, cast.ada)
    carl = await people("carl")
    await history(api, cast, carl)
    end = rev_of(await cursor(api, cast.team, cast.ada))
    async with api.stream(cast.team, cast.ada, since=start) as stream:
        told = await stream.until(end)
    assert [rev_of(event.id or "") for event in told] == list(range(rev_of(start) + 1, end + 1))
    for place, event in enumerate(told[:-1]):
        async with api.stream(cast.team, cast.ada, since=event.id) as stream:
            assert await stream.until(end) == told[place + 1 :]


async def history(api: Api, cast: Cast, carl: Person, stream: Stream | None = None) -> list[Event]:
    """One change of each kind, but the deletion of the thread; what a stream tells of each before the next is made."""
    url = f"/api/threads/{cast.team}"
    changes: list[Callable[[], Awaitable[Any]]] = [
        lambda: api.say(cast.team, cast.ben, "first"),
        lambda: api.say(cast.team, cast.ada, "an answer", replyTo=1),
        lambda: api.patch(f"{url}/messages/1", {"text": "first, edited"}, as_=cast.ben),
        lambda: api.delete(f"{url}/messages/2", as_=cast.ada),
        lambda: api.patch(url, {"title": "Renamed"}, as_=cast.ada),
        lambda: add(api, cast.team, cast.ada, carl),
        lambda: api.patch(f"{url}/members/{carl.id}", {"role": "moderator"}, as_=cast.ada),
        lambda: remove(api, cast.team, cast.ada, carl),
        lambda: api.post(f"{url}/leave", as_=cast.ben),
    ]
    told = []
    for change in changes:
        reply = await change()
        assert not isinstance(reply, Reply) or reply.status in (200, 204)
        if stream is not None:
            told.append(await stream.next())
    return told


# -- what can't be served


@pytest.mark.parametrize(
    "id_",
    [
        "garbage", "1", ".", "..", "{epoch}.{thread}", "{epoch}.{thread}.", "{epoch}.{thread}.-1",
        "{epoch}.{thread}.1e1", "{epoch}.{thread}.٣", "{epoch}.{thread}. 3", "{epoch}.{thread}." + "9" * 30,
        "{epoch}.{thread}.{rev}.{rev}", "{epoch}.{other}.2", "{epoch}.0.2", "00000000.{thread}.2",
        "{epoch}.{thread}.{future}", "{epoch}.0{thread}.{rev}", "a" * 3000, "%00", "\u2028",
    ],
)  # fmt: skip
async def test_an_id_that_cannot_be_served_gets_one_resync_and_the_stream_goes_on(
    api: Api, cast: Cast, address: str, id_: str
) -> None:
    other = await api.thread(cast.ada, cast.ben)
    here = await cursor(api, cast.team, cast.ben)
    epoch, _, rev = here.split(".")
    given = id_.format(epoch=epoch, thread=cast.team, other=other, rev=rev, future=int(rev) + 1)
    assert given != here
    async with wire(address, cast.team, cast.ben, query=f"?lastEventId={quote(given)}") as line:
        await resynced(api, cast, line, here)


@pytest.mark.parametrize("ring", ["from the log", "with a ring"])
async def test_an_id_older_than_what_is_kept_gets_one_resync_and_the_stream_goes_on(
    api: Api, cast: Cast, server: Bobbin, address: str, db: asyncpg.Pool, ring: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if ring == "with a ring":
            await stack.enter_async_context(everywhere(server, address, cast.team, cast.ada))
        old = await cursor(api, cast.team, cast.ben)
        for number in range(4):
            await api.say(cast.team, cast.ada, f"message {number}")
        here = await cursor(api, cast.team, cast.ben)
        floor = rev_of(old) + 2
        await db.execute("UPDATE thread_heads SET log_floor = $2 WHERE thread_id = $1", cast.team, floor)
        await db.execute("DELETE FROM changes WHERE thread_id = $1 AND rev <= $2", cast.team, floor)
        epoch = old.split(".", maxsplit=1)[0]
        async with api.stream(cast.team, cast.ben, since=f"{epoch}.{cast.team}.{floor}") as stream:
            assert [event.data["seq"] for event in await stream.take(2)] == [
                3,
                4,
            ]  # all that follows is there
        async with wire(address, cast.team, cast.ben, since=f"{epoch}.{cast.team}.{floor - 1}") as line:
            await resynced(api, cast, line, here)
        async with wire(address, cast.team, cast.ben, since=old) as line:
            await resynced(api, cast, line, await cursor(api, cast.team, cast.ben))


async def resynced(api: Api, cast: Cast, line: Wire, here: str) -> None:
    """ready, exactly one resync, and then what is new."""
    assert line.status == 200
    ready, missed = await opening(line), await line.next()
    assert missed is not None
    assert (missed.event, missed.id, missed.json) == ("resync", here, {"cursor": here})
    assert ready.id == here
    sent = await api.say(cast.team, cast.ada, "and on")
    told = await line.next()
    assert told is not None
    assert (told.event, told.rev, told.json) == ("message", rev_of(here) + 1, sent)


async def test_a_log_that_is_cut_under_a_reader_gets_a_resync_and_not_a_hole(
    api: Api, cast: Cast, address: str, db: asyncpg.Pool
) -> None:
    """The floor may rise between the door and the reading: the rows alone must tell."""
    old = await cursor(api, cast.team, cast.ben)
    for number in range(3):
        await api.say(cast.team, cast.ada, f"message {number}")
    await db.execute("DELETE FROM changes WHERE thread_id = $1 AND rev <= $2", cast.team, rev_of(old) + 1)
    async with wire(address, cast.team, cast.ben, since=old) as line:
        await opening(line)
        missed = await line.next()
        assert missed is not None
        assert (missed.event, missed.rev) == ("resync", rev_of(old) + 3)
        sent = await api.say(cast.team, cast.ada, "and on")
        told = await line.next()
        assert told is not None
        assert told.json == sent


# -- what is told


async def test_every_reader_gets_the_very_bytes_that_answered_the_send(
    api: Api, cast: Cast, server: Bobbin, address: str
) -> None:
    bodies: list[dict[str, Any]] = [
        {"text": "plain"},
        {
            "text": "line\nbreaks \r\n of \u2028 every \u2029 kind \x85 \x0b\x0c\x1c\x1d\x1e and 'quotes\"\\ \u00e9 🧵"
        },
        {"text": "data: no\n\nevent: message\nid: 7\n\n", "replyTo": 1, "clientId": f"c{next(NUMBERS)}"},
    ]
    async with everywhere(server, address, cast.team, cast.ben) as lines:
        for body in bodies:
            answer = await api.post(f"/api/threads/{cast.team}/messages", body, as_=cast.ada)
            assert answer.status == 201
            shared = answer.body.removeprefix(b'{"message":').removesuffix(b"}")
            assert answer.json["message"]["text"] == body["text"].strip()
            assert not {"status", "mine"} & answer.json["message"].keys()
            for line in lines:
                frame = await line.next()
                assert frame is not None
                assert (frame.event, frame.rev, frame.data) == (
                    "message",
                    answer.json["message"]["rev"],
                    shared,
                )


async def test_each_change_is_an_event_of_its_kind(api: Api, cast: Cast, people: Maker) -> None:
    carl = await people("carl")
    async with api.stream(cast.team, cast.ada) as stream:
        told = await history(api, cast, carl, stream)
        now = (await api.get(f"/api/threads/{cast.team}/messages/1", as_=cast.ada)).json["message"]
        assert (await api.delete(f"/api/threads/{cast.team}", as_=cast.ada)).status == 204
        told += await stream.end()
    start = rev_of(stream.ready.id or "")
    assert [rev_of(event.id or "") for event in told] == list(range(start + 1, start + 11))
    assert [event.name for event in told] == [
        "message", "message", "message_updated", "message_updated", "thread_updated",
        "member", "member", "member", "member", "thread_deleted",
    ]  # fmt: skip
    first, answer, edited, deleted, renamed, joined, role, removed, left, gone = (
        event.data for event in told
    )
    assert first["text"] == "first"
    assert answer["replyTo"] == {"seq": 1, "author": first["author"], "text": "first"}
    assert (edited["seq"], edited["text"], "editedAt" in edited) == (1, "first, edited", True)
    assert edited == now  # the bare object, as HTTP gives it
    assert (deleted["seq"], deleted["text"], "deletedAt" in deleted) == (2, "", True)
    assert (renamed["id"], renamed["kind"], renamed["title"]) == (cast.team, "group", "Renamed")
    for event, person, act in [(joined, carl, "joined"), (role, carl, "role"), (removed, carl, "removed")]:
        assert (event["threadId"], event["userId"], event["name"], event["act"]) == (
            cast.team, person.id, person.name, act,
        )  # fmt: skip
    assert role["role"] == "moderator"
    assert (left["userId"], left["act"], left["role"]) == (cast.ben.id, "left", None)
    assert gone["id"] == cast.team
    assert not any({"mine", "status"} & event.data.keys() for event in told)


async def test_a_thread_that_is_deleted_ends_its_streams(
    api: Api, cast: Cast, server: Bobbin, address: str
) -> None:
    before = await cursor(api, cast.team, cast.ben)
    async with everywhere(server, address, cast.team, cast.ben) as lines:
        last = await api.say(cast.team, cast.ada, "last words")
        assert (await api.delete(f"/api/threads/{cast.team}", as_=cast.ada)).status == 204
        for line in lines:
            told = await line.rest()
            assert [(frame.event, frame.rev) for frame in told] == [
                ("message", last["rev"]), ("thread_deleted", last["rev"] + 1),
            ]  # fmt: skip
    async with wire(address, cast.team, cast.ben, since=before) as line:
        assert line.status == 404


# -- what is told no more


async def test_deleted_text_is_not_told_again(api: Api, cast: Cast, server: Bobbin, address: str) -> None:
    start = await cursor(api, cast.team, cast.ada)
    async with everywhere(server, address, cast.team, cast.ada) as lines:  # so that both workers have a ring
        secret = await api.say(cast.team, cast.ada, "the password is bobbin")
        await api.say(cast.team, cast.ben, "noted", replyTo=secret["seq"])
        other = await api.say(cast.team, cast.ada, "it was hunter2")
        for line in lines:
            await line.until(other["rev"])
            assert b"bobbin" in line.raw  # who was there has read it
        url = f"/api/threads/{cast.team}/messages"
        assert (
            await api.patch(f"{url}/{other['seq']}", {"text": "it was nothing"}, as_=cast.ada)
        ).status == 200
        assert (await api.delete(f"{url}/{secret['seq']}", as_=cast.ada)).status == 204
        end = rev_of(await cursor(api, cast.team, cast.ada))
        for line in lines:
            await line.until(end)
        async with everywhere(server, address, cast.team, cast.ben, since=start) as late:
            for line in late:
                told = await line.until(end)
                assert revs(told) == list(range(rev_of(start) + 1, end + 1))
                assert told[0].json["text"] == ""
                assert told[1].json["replyTo"] == {"seq": secret["seq"]}
                assert told[2].json["text"] == "it was nothing"
                assert b"password" not in line.raw
                assert b"hunter2" not in line.raw


@pytest.mark.parametrize("change", ["delete", "edit"])
async def test_a_reply_that_races_with_the_end_of_what_it_quotes_does_not_tell_it(
    api: Api, cast: Cast, db: asyncpg.Pool, change: str
) -> None:
    """Its rev is the later one, and content is never older than its id."""
    quoted = await api.say(cast.team, cast.ada, "the password is bobbin")
    who = {"user_id": cast.ada.id, "thread_id": cast.team, "seq": quoted["seq"]}
    async with api.stream(cast.team, cast.ben) as stream:
        async with db.acquire() as conn:
            async with conn.transaction():
                if change == "delete":
                    row = await messages.remove(conn, **who)
                else:
                    row = await messages.edit(conn, **who, text="hush")
                assert row is not None
                sending = asyncio.create_task(api.say(cast.team, cast.ben, "noted", replyTo=quoted["seq"]))
                await blocked(db)
            answer = await sending
        assert answer["rev"] == row["rev"] + 1
        expected = {"seq": quoted["seq"]}
        if change == "edit":
            expected |= {"author": quoted["author"], "text": "hush"}
        assert answer["replyTo"] == expected
        told = await stream.until(answer["rev"])
        assert told[-1].data == answer


async def blocked(db: asyncpg.Pool) -> None:
    """Wait until some statement waits for a lock."""
    async with asyncio.timeout(10):
        while not await db.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.005)


# -- whom it is told


async def test_who_is_not_in_gets_404_before_the_first_byte(
    api: Api, cast: Cast, address: str, people: Maker
) -> None:
    here = await cursor(api, cast.team, cast.ada)
    channel = await api.thread(cast.ada, kind="channel", title="Everybody")
    gone = await people("gone")
    await add(api, cast.team, cast.ada, gone)
    await remove(api, cast.team, cast.ada, gone)
    cases = [(cast.team, cast.mallory), (channel, cast.mallory), (cast.team, gone), (2**62, cast.ada)]
    bodies = set()
    for thread_id, who in cases:
        for headers in ({}, {"Last-Event-ID": here}, {"Last-Event-ID": "garbage"}):
            reply = await api.get(f"/api/threads/{thread_id}/stream", as_=who, headers=headers)
            assert (reply.status, reply.json["code"]) == (404, "not_found")
            assert reply.headers["content-type"] == "application/json; charset=utf-8"
            bodies.add(reply.json["error"])
    assert len(bodies) == 1  # a thread one is not in looks like one that is not there
    async with wire(address, cast.team, cast.ada, since=here) as line:
        assert line.status == 200


async def test_a_token_may_come_in_the_address(api: Api, cast: Cast, address: str) -> None:
    async with wire(address, cast.team, None, query=f"?token={cast.ben.token}") as line:
        assert line.status == 200
        await opening(line)
        sent = await api.say(cast.team, cast.ada, "hello")
        assert (await line.until(sent["rev"]))[-1].json == sent
    for query in ("", "?token=", "?token=x.y.z", f"?token={cast.ben.token}x"):
        async with wire(address, cast.team, None, query=query) as line:
            assert line.status == 401
    async with wire(address, cast.team, None, query=f"?token={cast.mallory.token}") as line:
        assert line.status == 404


@pytest.mark.parametrize("way", ["removed", "left"])
async def test_who_goes_is_told_so_and_nothing_after(
    api: Api, cast: Cast, server: Bobbin, address: str, way: str
) -> None:
    async with (
        everywhere(server, address, cast.team, cast.ben) as bens,
        everywhere(server, address, cast.team, cast.ada) as adas,
    ):
        last = await api.say(cast.team, cast.ada, "ben may read this")
        if way == "removed":
            await remove(api, cast.team, cast.ada, cast.ben)
        else:
            assert (await api.post(f"/api/threads/{cast.team}/leave", as_=cast.ben)).status == 204
        secret = await api.say(cast.team, cast.ada, "and this he may not")
        for line in bens:
            told = await line.rest()  # it ends by itself
            assert [(frame.event, frame.rev) for frame in told] == [
                ("message", last["rev"]), ("member", last["rev"] + 1),
            ]  # fmt: skip
            assert (told[1].json["userId"], told[1].json["act"]) == (cast.ben.id, way)
            assert b"may not" not in line.raw
        for line in adas:  # who stayed goes on
            assert [frame.event for frame in await line.until(secret["rev"])] == [
                "message",
                "member",
                "message",
            ]


async def test_nothing_after_a_removal_is_told_however_they_race(
    api: Api, cast: Cast, server: Bobbin, address: str
) -> None:
    for round_ in range(8):
        async with everywhere(server, address, cast.team, cast.ben) as lines:
            start = rev_of(await cursor(api, cast.team, cast.ada))
            sends = [api.say(cast.team, cast.ada, f"round {round_}, {number}") for number in range(12)]
            acts: list[Coroutine[Any, Any, Any]] = [*sends, remove(api, cast.team, cast.ada, cast.ben)]
            random.Random(round_).shuffle(acts)
            said = [message for message in await asyncio.gather(*acts) if message is not None]
            gone = next(
                rev for rev in range(start + 1, start + 14) if rev not in {message["rev"] for message in said}
            )
            for line in lines:
                assert revs(await line.rest()) == list(range(start + 1, gone + 1))
        await add(api, cast.team, cast.ada, cast.ben)


# -- coming back, coming late


@pytest.mark.parametrize("ring", ["from the log", "with a ring"])
async def test_who_comes_back_reads_on_over_the_time_away(
    api: Api, cast: Cast, server: Bobbin, address: str, people: Maker, ring: str
) -> None:
    stays, comes, passes, goes = [await people(name) for name in ("stays", "comes", "passes", "goes")]
    for person in (stays, goes):
        await add(api, cast.team, cast.ada, person)
    await api.say(cast.team, cast.ada, "ben is here")
    async with contextlib.AsyncExitStack() as stack:
        if ring == "with a ring":
            await stack.enter_async_context(everywhere(server, address, cast.team, cast.ada))
        start = await cursor(api, cast.team, cast.ben)
        first = await api.say(cast.team, cast.ada, "ben is still here")
        await remove(api, cast.team, cast.ada, cast.ben)
        missed = await api.say(cast.team, cast.ada, "while ben is away")
        url = f"/api/threads/{cast.team}"
        await add(api, cast.team, cast.ada, comes)
        await add(api, cast.team, cast.ada, passes)
        assert (
            await api.patch(f"{url}/members/{passes.id}", {"role": "moderator"}, as_=cast.ada)
        ).status == 200
        await remove(api, cast.team, cast.ada, passes)
        await remove(api, cast.team, cast.ada, goes)
        assert (await api.patch(f"{url}/messages/1", {"text": "ben was here"}, as_=cast.ada)).status == 200
        if ring == "from the log":  # for it would cut the ring short
            body = {"text": "unseen"}
            assert (await api.patch(f"{url}/messages/{missed['seq']}", body, as_=cast.ada)).status == 200
        assert (await api.patch(url, {"title": "Another title"}, as_=cast.ada)).status == 200
        await add(api, cast.team, cast.ada, cast.ben)
        answer = await api.say(cast.team, cast.ada, "as I said", replyTo=missed["seq"])
        expected = [
            ("message", first["seq"]),
            ("member", (cast.ben.id, "removed")),
            ("member", (comes.id, "joined")),  # is there now
            ("member", (goes.id, "removed")),  # was there then
            ("message_updated", 1),
            ("thread_updated", "Another title"),
            ("member", (cast.ben.id, "joined")),
            ("message", answer["seq"]),
        ]
        async with everywhere(server, address, cast.team, cast.ben, since=start) as lines:
            for line in lines:
                told = await line.until(answer["rev"])
                assert [(frame.event, gist(frame)) for frame in told] == expected
                assert told[4].json["text"] == "ben was here"
                assert told[-1].json["replyTo"] == {"seq": missed["seq"]}
                assert b"away" not in line.raw
                assert b"unseen" not in line.raw
                assert b"passes" not in line.raw


def gist(frame: Frame) -> object:
    data = frame.json
    if frame.event == "member":
        return data["userId"], data["act"]
    return data["title"] if frame.event == "thread_updated" else data["seq"]


async def test_who_comes_late_to_a_group_is_told_nothing_of_before(
    api: Api, cast: Cast, server: Bobbin, address: str, people: Maker
) -> None:
    carl = await people("carl")
    start = await cursor(api, cast.team, cast.ada)
    early = [await api.say(cast.team, cast.ada, f"before carl {number}") for number in range(3)]
    assert (await api.delete(f"/api/threads/{cast.team}/messages/2", as_=cast.ada)).status == 204
    await add(api, cast.team, cast.ada, carl)
    async with (
        everywhere(server, address, cast.team, carl) as live,
        everywhere(server, address, cast.team, cast.ada, since=start) as adas,
    ):
        # Edits of what he can't see, and quotes of it, tell him nothing either.
        url = f"/api/threads/{cast.team}/messages"
        assert (await api.patch(f"{url}/1", {"text": "before carl, edited"}, as_=cast.ada)).status == 200
        quote_ = await api.say(cast.team, cast.ada, "now", replyTo=early[0]["seq"])
        told = [await line.until(quote_["rev"]) for line in live]
        async with everywhere(server, address, cast.team, carl, since=start) as late:
            told += [await line.until(quote_["rev"]) for line in late]
        for frames in told:
            seen = [frame for frame in frames if frame.event != "member"]
            assert [(frame.event, frame.json["seq"]) for frame in seen] == [("message", quote_["seq"])]
            assert seen[0].json["replyTo"] == {"seq": 1}
            assert not any(b"before" in frame.data for frame in frames)
        for line in adas:
            frames = await line.until(quote_["rev"])
            assert frames[-1].json == quote_
            assert quote_["replyTo"]["text"] == "before carl, edited"
    page = (await api.get(url, as_=carl)).json["items"]
    assert [(item["seq"], item["replyTo"]) for item in page] == [(quote_["seq"], {"seq": 1})]


async def test_who_joins_a_channel_may_read_all_of_it(api: Api, cast: Cast) -> None:
    channel = await api.thread(cast.ada, kind="channel", title="Everybody")
    start = await cursor(api, channel, cast.ada)
    early = await api.say(channel, cast.ada, "before ben")
    assert (await api.post(f"/api/threads/{channel}/join", as_=cast.ben)).status == 200
    async with api.stream(channel, cast.ben, since=start) as stream:
        assert [event.data for event in await stream.take(1)] == [early]


# -- readers that are slow, and readers that go


async def test_a_reader_that_stands_still_holds_up_nobody_and_misses_nothing(
    api: Api, cast: Cast, server: Bobbin, address: str
) -> None:
    text = "x" * 9_900
    async with (
        contextlib.AsyncExitStack() as stack,
        everywhere(server, address, cast.team, cast.ada) as quick,
    ):
        slow = [
            await stack.enter_async_context(wire(address, cast.team, cast.ben, receive_bytes=4096))
            for _ in range(4)
        ]
        start = rev_of(await cursor(api, cast.team, cast.ada))

        async def sender(who: Person, count: int) -> list[float]:
            late = []
            for _ in range(count):
                began = asyncio.get_running_loop().time()
                await api.say(cast.team, who, text)
                late.append(asyncio.get_running_loop().time() - began)
            return late

        end = start + 900  # 9 MB for each: more than any socket takes in
        reading = [asyncio.create_task(line.until(end)) for line in quick]
        await asyncio.gather(*(sender(who, 225) for who in (cast.ada, cast.ben, cast.ada, cast.ben)))
        for task in reading:  # all is with the quick ones while the slow ones have read nothing
            assert revs(await task) == list(range(start + 1, end + 1))
        assert not any(line.raw for line in slow)
        for told in await asyncio.gather(*(line.until(end) for line in slow)):
            assert [frame.event for frame in told] == ["ready"] + 900 * ["message"]
            assert revs(told) == list(range(start, end + 1))
            assert all(frame.json["text"] == text for frame in told[1:])


async def test_readers_that_vanish_leave_nothing_behind(
    api: Api, cast: Cast, server: Bobbin, address: str
) -> None:
    """At any moment: before the request is read, before the answer, in the middle of it, while waiting."""

    def ended() -> int:
        return sum(
            event["route"] == "/api/threads/<thread_id:id>/stream" for event in server.events("request")
        )

    chance = random.Random(7)
    before, whole = ended(), 0
    async with everywhere(server, address, cast.team, cast.ada) as stay:

        async def storm() -> None:
            nonlocal whole
            for _ in range(15):
                line = await dial(address)
                if chance.random() < 0.5:
                    head = f"GET /api/threads/{cast.team}/stream HTTP/1.1\r\nHost: x\r\n"
                    line._writer.write(f"{head}Authorization: Bearer {cast.ben.token}\r\n\r\n".encode())
                    await asyncio.sleep(chance.choice((0, 0, 0.001, 0.003)))
                    line.cut()
                else:
                    line.cut()
                    async with wire(address, cast.team, cast.ben) as line:
                        assert line.status == 200
                        whole += 1

        sending = asyncio.create_task(talk(api, cast, 40))
        await asyncio.gather(*(storm() for _ in range(10)))
        sent = await sending
        for line in stay:
            assert revs(await line.until(sent[-1]["rev"]))[-40:] == [message["rev"] for message in sent]
        await so(lambda: ended() - before >= whole, f"{whole} streams ended, {ended() - before} did")
    assert (await api.get("/readyz")).json["status"] == "ok"


async def talk(api: Api, cast: Cast, count: int) -> list[dict[str, int]]:
    return [await api.say(cast.team, cast.ada, f"message {number}") for number in range(count)]
