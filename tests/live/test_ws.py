"""The WebSocket: the same log and the same acts as over HTTP, by frames."""

import asyncio
import contextlib
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from server.base.access import Tokens
from server.live.link import MESSAGE_BYTES
from server.live.ws import BAD_FRAMES, JOINED
from tests.client import NUMBERS, Api, Person
from tests.conftest import SECRET, Backing, Cast, Maker, apart
from tests.live.crowd import register
from tests.live.talk import Told, talk
from tests.live.test_stream import add, cursor, remove, rev_of
from tests.live.wire import wire
from tests.ops.process import Bobbin
from tests.rules import ok, raw, refused

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def shown(told: list[Told]) -> list[tuple[str, int]]:
    return [(one.event, one.rev) for one in told]


# -- who gets in


async def shake(api: Api, who: Person | None, query: str = "", /, **changed: str | None) -> Any:
    """The answer to a handshake; changed: headers, with underscores; None leaves one out."""
    headers: dict[str, str | None] = {"Host": api.base.partition("//")[2], **HANDSHAKE}
    if who is not None:
        headers["Authorization"] = f"Bearer {who.token}"
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    head = "\r\n".join([f"GET /api/ws{query} HTTP/1.1", *lines, "", ""]).encode()
    return await raw(api, head + b"x" * int(headers.get("Content-Length") or 0))


async def test_whoever_is_not_let_in_gets_an_ordinary_refusal(
    api: Api, cast: Cast, people: Maker, address: str
) -> None:
    gone = await people("gone")
    ok(await api.post("/api/auth/logout", as_=gone), 204)
    refused(await shake(api, None), 401, "unauthorized")
    refused(await shake(api, None, "?token=x"), 401, "unauthorized")
    refused(await shake(api, None, "?token=x.y.z"), 401, "unauthorized")
    refused(await shake(api, gone), 401, "session_ended")
    refused(await shake(api, cast.ada, Origin="https://elsewhere.example"), 403, "foreign_origin")
    refused(await shake(api, cast.ada, Origin="null"), 403, "foreign_origin")
    odd: list[dict[str, str | None]] = [
        {"Sec_WebSocket_Key": None}, {"Sec_WebSocket_Key": "short"}, {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": "8"}, {"Content_Length": "5"},
    ]  # fmt: skip
    for changed in odd:
        refused(await shake(api, cast.ada, **changed), 400, "bad_handshake")
    reply = await shake(api, cast.ada, Upgrade=None)
    refused(reply, 426, "upgrade_required")
    assert reply.headers["upgrade"] == "websocket"
    refused(await shake(api, cast.ada, Connection="close"), 426, "upgrade_required")
    refused(await api.get("/api/ws", as_=cast.ada), 426, "upgrade_required")
    refused(await api.ask("POST", "/api/ws", as_=cast.ada), 405)
    refused(
        await raw(api, b"GET /api/me HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"), 400, "bad_request"
    )


async def test_a_token_opens_it_in_each_way(api: Api, cast: Cast, address: str) -> None:
    ticket = ok(await api.post("/api/auth/stream-token", as_=cast.ben))["token"]
    for who, query, headers in (
        (cast.ben, "?feed=off", {}),
        (None, f"?feed=off&token={cast.ben.token}", {}),
        (None, f"?feed=off&token={ticket}&more=1", {}),
        (cast.ben, "?feed=off", {"Origin": address}),
    ):
        async with talk(address, who, query=query, headers=headers) as ben:
            assert ben.line.response is not None
            answer = ben.line.response.headers
            assert "Sec-WebSocket-Extensions" not in answer  # though the client offers one: bytes are shared
            assert answer["X-Content-Type-Options"] == "nosniff" and "X-Request-Id" in answer
            await ben.join(cast.team)
    refused(await shake(api, None, f"?token={ticket}"), 401)  # good once


async def test_the_cookie_opens_it_for_our_own_pages_only(api: Api, cast: Cast, address: str) -> None:
    cookie = f"bobbin_session={Tokens(SECRET).cookie(session_id=cast.ben.session_id)}"
    for headers in (
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {},  # a browser always says
        {"Origin": address, "Sec-Fetch-Site": "cross-site"},
    ):
        refused(await shake(api, None, Cookie=cookie, **headers), 403, "foreign_origin")
    async with talk(address, None, headers={"Cookie": cookie, "Origin": address}) as ben:
        await ben.join(cast.team)


# -- frames


async def test_a_thread_is_joined_followed_and_left(api: Api, cast: Cast, address: str) -> None:
    async with talk(address, cast.ben) as ben:
        joined = await ben.join(cast.team)
        here = await cursor(api, cast.team, cast.ada)
        assert joined.id == joined.data["cursor"] == here and joined.data["lastSeq"] == 0
        sent = await api.say(cast.team, cast.ada, "hello")
        told = await ben.next()
        assert (told.event, told.data, told.rev) == ("message", sent, sent["rev"])
        await ben.done("leave", threadId=cast.team)
        left = await ben.next()
        assert (left.event, left.data) == ("left", {"threadId": cast.team, "reason": "asked"})
        await api.say(cast.team, cast.ada, "unheard")
        assert await ben.done("ping") == {}
        assert (await ben.next()).event == "pong"  # and nothing before it
        ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ben))  # still a member
        await ben.done("leave", threadId=cast.team)  # again is no fault
        assert (await ben.next()).event == "left"


async def test_each_change_is_told_as_the_stream_tells_it(
    api: Api, cast: Cast, address: str, people: Maker
) -> None:
    carl = await people("carl")
    start, url = await cursor(api, cast.team, cast.ada), f"/api/threads/{cast.team}"
    async with (
        talk(address, cast.ada) as ada,
        talk(address, cast.ada) as late,
        wire(address, cast.team, cast.ada) as line,
    ):
        await line.next()
        await ada.join(cast.team)
        await api.say(cast.team, cast.ben, "line\nbreak \u2028 'quotes\"\\ \u00e9 🧵" + "x" * 200)
        await api.say(cast.team, cast.ada, "y" * 9000, replyTo=1)
        ok(await api.patch(f"{url}/messages/1", {"text": "edited"}, as_=cast.ben))
        ok(await api.delete(f"{url}/messages/2", as_=cast.ada), 204)
        ok(await api.patch(url, {"title": "Renamed"}, as_=cast.ada))
        by_stream, by_socket = [], []
        # What is read a little later, is told as it is then: so each is heard before the next is done.
        for act in (None, add, remove):
            if act is not None:
                await act(api, cast.team, cast.ada, carl)
            end = rev_of(await cursor(api, cast.team, cast.ada))
            by_stream += [(one.event, one.id, one.json) for one in await line.until(end)]
            by_socket += [(one.event, one.id, one.data) for one in await ada.until(end)]
        assert by_socket == by_stream
        await late.join(cast.team, start)  # from the log, each as it now is
        told = await late.until(end)
        assert [(one.event, one.id) for one in told] == [(event, id_) for event, id_, _ in by_stream]


async def test_one_connection_follows_many_threads(api: Api, cast: Cast, address: str) -> None:
    threads = [cast.team, *[await api.thread(cast.ada, cast.ben) for _ in range(20)]]
    async with talk(address, cast.ben) as ben:
        for thread_id in threads:
            await ben.join(thread_id)
        sent = await asyncio.gather(*(api.say(one, cast.ada, f"in {one}") for one in threads * 3))
        told = [await ben.next() for _ in sent]
        for thread_id in threads:
            mine = [one.data["seq"] for one in told if one.data["threadId"] == thread_id]
            assert mine == [1, 2, 3]


async def test_so_many_threads_and_no_more(api: Api, cast: Cast, address: str) -> None:
    async with talk(address, cast.ben) as ben:
        threads = [await api.thread(cast.ada, cast.ben) for _ in range(JOINED)]
        for thread_id in threads:
            await ben.join(thread_id)
        await ben.refused("too_many_joined", "join", threadId=cast.team)
        await ben.join(threads[0])  # anew
        await ben.done("leave", threadId=threads[0])
        assert (await ben.next()).event == "left"
        await ben.join(cast.team)


async def test_a_send_answers_with_the_message_and_repeats_by_its_client_id(
    api: Api, cast: Cast, address: str
) -> None:
    name = f"c{next(NUMBERS)}"
    async with talk(address, cast.ben) as ben, talk(address, cast.ben) as other:
        await ben.join(cast.team)
        sent = (await ben.done("send", threadId=cast.team, text=" hello ", clientId=name))["message"]
        assert sent["text"] == "hello" and sent["clientId"] == name
        assert (await ben.next()).data == sent
        again = await asyncio.gather(
            *(one.done("send", threadId=cast.team, text="hello", clientId=name) for one in (ben, other))
        )
        assert [one["message"]["seq"] for one in again] == [sent["seq"]] * 2
        assert (
            ok(
                await api.post(
                    f"/api/threads/{cast.team}/messages", {"text": "hello", "clientId": name}, as_=cast.ben
                )
            )["message"]["seq"]
            == sent["seq"]
        )
        await ben.refused("client_id_reused", "send", threadId=cast.team, text="other", clientId=name)
        answer = (await ben.done("send", threadId=cast.team, text="yes", replyTo=1))["message"]
        assert answer["replyTo"]["text"] == "hello"
        assert (await ben.next()).data == answer
    page = ok(await api.get(f"/api/threads/{cast.team}/messages", as_=cast.ada))["items"]
    assert [one["text"] for one in page] == ["hello", "yes"]


async def test_refusals_are_those_of_http(cast: Cast, address: str) -> None:
    async with talk(address, cast.mallory) as mallory:
        await mallory.refused("not_found", "join", threadId=cast.team)
        await mallory.refused("not_found", "join", threadId=10**15)
        await mallory.refused("not_found", "send", threadId=cast.team, text="x")
        await mallory.refused("not_found", "typing", threadId=cast.team, isTyping=True)
    async with talk(address, cast.ben) as ben:
        said = await ben.refused("invalid", "send", threadId=cast.team, text=" ")
        assert set(said["details"]) == {"text"}
        said = await ben.refused("invalid", "send", threadId=0, text="x" * 10_001, clientId="")
        assert set(said["details"]) == {"threadId", "text", "clientId"}
        await ben.refused("invalid", "join")
        await ben.refused("invalid", "send", threadId=cast.team, text="x", replyTo=10**9)
        await ben.refused("wrong_type", "send", threadId="1", text="x")
        await ben.refused("unknown_event", "shout", threadId=1)
        for ref in (0, 2**53 - 1, "", "a ref", "\u2028'\"\\"):
            await ben.say("ping", ref=ref)
            ack, pong = await ben.next(), await ben.next()
            assert (ack.event, ack.ref, pong.event) == ("ack", ref, "pong")
        await ben.say("shout")
        told = await ben.next()
        assert (told.event, told.ref, told.data["code"]) == ("error", None, "unknown_event")


async def test_typing_is_told_to_the_others(cast: Cast, address: str) -> None:
    async with talk(address, cast.ada) as ada, talk(address, cast.ben) as ben:
        await ada.join(cast.team)
        await ben.done("typing", threadId=cast.team, isTyping=True)
        typing = {"threadId": cast.team, "userId": cast.ben.id, "isTyping": True}
        while typing not in [one.data for one in ada.moment]:
            await ada.done("ping")
            await ada.next()


async def test_what_is_read_is_told_to_the_others(api: Api, cast: Cast, address: str) -> None:
    await api.say(cast.team, cast.ada, "one")
    async with talk(address, cast.ada) as ada, talk(address, cast.ben) as ben:
        await ada.join(cast.team)
        state = await ben.done("delivered", threadId=cast.team, seq=1)
        assert (state["deliveredSeq"], state["unreadCount"]) == (1, 1)
        state = await ben.done("read", threadId=cast.team, seq=1)
        assert (state["lastReadSeq"], state["unreadCount"]) == (1, 0)
        await ben.refused("invalid", "read", threadId=cast.team, seq=2)
        await ben.refused("not_found", "read", threadId=10**12, seq=1)
        read = [(cast.ben.id, 1)]
        while (
            read
            != [(one.data["userId"], one.data["readSeq"]) for one in ada.moment if one.event == "receipt"][
                -1:
            ]
        ):
            await ada.done("ping")
            await ada.next()
        assert ok(await api.get(f"/api/threads/{cast.team}", as_=cast.ben))["thread"]["lastReadSeq"] == 1


# -- nothing lost, nothing twice


@pytest.mark.parametrize("away", ["drops", "says goodbye"])
async def test_who_comes_back_with_since_is_told_everything_once(
    api: Api, cast: Cast, address: str, away: str
) -> None:
    start, chance = await cursor(api, cast.team, cast.ben), random.Random(7)
    told: list[Told] = []

    async def write(count: int) -> None:
        async with talk(address, cast.ada) as ada:
            for number in range(count):
                await ada.done("send", threadId=cast.team, text=f"message {number}", clientId=f"{number}")

    writing = asyncio.create_task(write(300))
    since, visits = start, 0
    while not told or told[-1].data["seq"] < 300:
        async with talk(address, cast.ben) as ben:
            joined = await ben.join(cast.team, since)
            assert joined.id == since
            visits += 1
            for _ in range(chance.randint(1, 30)):
                told.append(await ben.next())
                if told[-1].data["seq"] == 300:
                    break
            since = told[-1].id or ""
            if away == "drops":
                ben.cut()
    await writing
    assert visits > 5
    assert shown(told) == [("message", rev_of(start) + 1 + number) for number in range(300)]


async def test_a_cursor_that_cannot_be_served_gets_a_resync(api: Api, cast: Cast, address: str) -> None:
    await api.say(cast.team, cast.ada, "one")
    here = await cursor(api, cast.team, cast.ben)
    async with talk(address, cast.ben) as ben:
        for since in (
            "garbage", f"{here}0", here.replace(f".{cast.team}.", ".1."), "x" * 100_000, "\x00", f"{here}\x00"
        ):  # fmt: skip
            joined = await ben.join(cast.team, since)
            missed = await ben.next()
            assert joined.id == missed.id == here
            assert (missed.event, missed.data) == ("resync", {"threadId": cast.team, "cursor": here})
        sent = await api.say(cast.team, cast.ada, "two")
        assert (await ben.next()).data == sent


async def test_joining_again_begins_anew_and_nothing_comes_twice(api: Api, cast: Cast, address: str) -> None:
    start = await cursor(api, cast.team, cast.ben)
    async with talk(address, cast.ben) as ben:
        await ben.join(cast.team)
        first = await api.say(cast.team, cast.ada, "one")
        assert (await ben.next()).data == first
        await ben.join(cast.team, start)
        assert (await ben.next()).data == first
        sent = await api.say(cast.team, cast.ada, "two")
        assert (await ben.next()).data == sent
        await ben.done("ping")
        assert (await ben.next()).event == "pong"


# -- the end of membership, of the session, of the worker


async def test_whoever_is_removed_is_told_and_nothing_after(api: Api, cast: Cast, address: str) -> None:
    other = await api.thread(cast.ada, cast.ben)
    for act, reason in (
        (lambda: remove(api, cast.team, cast.ada, cast.ben), "removed"),
        (lambda: api.post(f"/api/threads/{cast.team}/leave", as_=cast.ben), "left"),
        (lambda: api.delete(f"/api/threads/{cast.team}", as_=cast.ada), "deleted"),
    ):
        async with talk(address, cast.ben) as ben:
            await ben.join(other)
            await ben.join(cast.team)
            await act()
            last, left = await ben.next(), await ben.next()
            if reason == "deleted":
                assert last.event == "thread_deleted"
            else:
                assert (last.event, last.data["act"]) == ("member", reason)
                await api.say(cast.team, cast.ada, "after")
            assert (left.event, left.data) == ("left", {"threadId": cast.team, "reason": reason})
            sent = await api.say(other, cast.ada, "elsewhere")  # the other thread goes on
            assert (await ben.next()).data == sent
            await ben.refused("not_found", "join", threadId=cast.team)
            await ben.refused("not_found", "send", threadId=cast.team, text="x")
        if reason != "deleted":
            await add(api, cast.team, cast.ada, cast.ben)


async def test_a_session_that_ends_closes_its_connections_with_a_code_of_its_own(
    api: Api, cast: Cast, address: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        mine = await stack.enter_async_context(talk(address, cast.ada))
        theirs = [await stack.enter_async_context(talk(address, cast.ben)) for _ in range(6)]
        for one in (mine, *theirs[::2]):
            await one.join(cast.team)
        ok(await api.post("/api/auth/logout", as_=cast.ben), 204)
        began = time.monotonic()
        for one in theirs:
            assert await one.closed() == (4401, "session_ended")
        assert time.monotonic() - began < 5
        sent = await api.say(cast.team, cast.ada, "and on")
        assert (await mine.next()).data == sent


async def test_a_worker_that_stops_sends_its_clients_elsewhere(backing: Backing) -> None:
    """In a rolling restart: 1012, after the answer to what was asked; and nobody misses anything."""
    async with apart(backing) as (server, _):
        ada, ben = await register(server.url, "ada", "ben")
        api = Api(server.url)
        try:
            thread_id = await api.thread(ada, ben)
            async with contextlib.AsyncExitStack() as stack:
                talks = [await stack.enter_async_context(talk(server.url, who)) for who in (ada, ben) * 4]
                for one in talks:
                    await one.join(thread_id)
                last = await api.say(thread_id, ada, "before")
                for one in talks:
                    await one.until(last["rev"])
                silent = await stack.enter_async_context(talk(server.url, ben))  # follows nothing
                sending = [
                    asyncio.ensure_future(
                        talks[0].ask("send", threadId=thread_id, text="now", clientId="now")
                    )
                ]
                server.signal(signal.SIGHUP)
                for one in (*talks[1:], silent):
                    code, reason = await one.closed()
                    assert code == 1012 and reason.startswith("retry in ")
                with contextlib.suppress(ConnectionClosed):
                    assert (await sending[0]).event == "ack"
            async with talk(server.url, ada) as back:
                await back.join(
                    thread_id, f"{(await cursor(api, thread_id, ada)).split('.')[0]}.{thread_id}.2"
                )
                sent = (await back.done("send", threadId=thread_id, text="now", clientId="now"))["message"]
                told = await back.until(sent["rev"])
                assert [one.data["text"] for one in told] == ["before", "now"]
        finally:
            await api.close()


# -- clients that do not behave


async def test_a_client_that_stops_reading_costs_nothing_and_misses_nothing(
    api: Api, cast: Cast, server: Bobbin, address: str
) -> None:
    text = "x" * 9_900
    start = rev_of(await cursor(api, cast.team, cast.ada))
    end = start + 900  # 9 MB for each
    async with contextlib.AsyncExitStack() as stack:
        quick = await stack.enter_async_context(talk(address, cast.ada))
        slow = [
            await stack.enter_async_context(talk(address, cast.ben, receive_bytes=4096)) for _ in range(6)
        ]
        for one in (quick, *slow):
            await one.join(cast.team)
        reading = asyncio.create_task(quick.until(end))
        before = memory(server)

        async def sender(who: Person) -> None:
            for _ in range(225):
                await api.say(cast.team, who, text)

        await asyncio.gather(*(sender(who) for who in (cast.ada, cast.ben, cast.ada, cast.ben)))
        assert [one.rev for one in await reading] == list(range(start + 1, end + 1))
        assert memory(server) - before < 20 * 2**20  # a queue for each would be 54 MB
        for told in await asyncio.gather(*(one.until(end) for one in slow)):
            assert [one.rev for one in told] == list(range(start + 1, end + 1))
            assert all(one.data["text"] == text for one in told)


def memory(server: Bobbin) -> int:
    """Bytes that the workers have to themselves."""
    found = 0
    for pid in server.pids("server worker"):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private"))
    return found


async def test_answers_do_not_pile_up_for_a_client_that_does_not_read(
    api: Api, cast: Cast, server: Bobbin, address: str
) -> None:
    """It asks and asks: what it says is not read any more, until it reads."""
    async with talk(address, cast.ben, receive_bytes=4096) as ben:
        before, asked = memory(server), 0
        big = "y" * 9_900
        try:
            async with asyncio.timeout(3):
                while True:
                    await ben.say("send", {"threadId": cast.team, "text": big, "clientId": f"{asked}"}, asked)
                    asked += 1
        except TimeoutError:
            pass
        assert 20 < asked < 5000, "it was never held up"
        assert memory(server) - before < 10 * 2**20
        began = time.monotonic()
        ok(await api.get("/api/me", as_=cast.ada))
        assert time.monotonic() - began < 2
        seen: list[Any] = []
        while len(seen) < asked - 1:
            seen.append((await ben.next()).ref)
        assert seen == list(range(asked - 1))


@pytest.mark.parametrize("kind", ["pings", "pieces", "frames"])
async def test_a_flood_is_braked_and_holds_up_nobody(
    api: Api, cast: Cast, server: Bobbin, address: str, kind: str
) -> None:
    flood = {
        "pings": [Frame(Opcode.PING, b"x" * 125)],
        "pieces": [Frame(Opcode.TEXT, b"", fin=False), *[Frame(Opcode.CONT, b"", fin=False)] * 99],
        "frames": [Frame(Opcode.TEXT, b'{"event":"ping"}')],
    }[kind]
    first, then = (b"".join(one.serialize(mask=True) for one in part) for part in (flood, flood[-50:]))
    async with talk(address, cast.ben, receive_bytes=4096) as ben:
        before = memory(server)
        ben.line.transport.write(first)
        worst, wrote, end = 0.0, 0, time.monotonic() + 2
        ben.line.transport.set_write_buffer_limits(2**20)
        while time.monotonic() < end:
            if ben.line.transport.get_write_buffer_size() < 2**20:
                ben.line.transport.write(then * (20_000 // len(then)))
                wrote += 20_000
            began = time.monotonic()
            ok(await api.get("/api/me", as_=cast.ada))
            worst = max(worst, time.monotonic() - began)
        assert wrote > 100_000
        assert worst < 1.0
        assert memory(server) - before < 10 * 2**20
        ben.cut()


async def test_a_message_that_is_too_large_closes_with_1009(cast: Cast, address: str) -> None:
    async with talk(address, cast.ben) as ben:
        text = "\\ud83e\\uddf5" * 10_000  # 10,000 characters, at their longest
        await ben.line.send(f'{{"event":"send","ref":1,"data":{{"threadId":{cast.team},"text":"{text}"}}}}')
        assert (await ben.next()).data["message"]["text"] == "🧵" * 10_000
        with contextlib.suppress(ConnectionClosed):
            await ben.line.send(" " * (MESSAGE_BYTES + 1))
        assert (await ben.closed())[0] == 1009
    async with talk(address, cast.ben) as ben:
        with contextlib.suppress(ConnectionClosed):
            await ben.line.send(" " * 40_000 for _ in range(20))
        assert (await ben.closed())[0] == 1009


@pytest.mark.parametrize(
    "bad", [b"\x81\x02{}", b"\xc1\x80\0\0\0\0", b"\x83\x80\0\0\0\0", b"\x09\x80\0\0\0\0"]
)
async def test_what_is_no_frame_closes_with_1002(cast: Cast, address: str, bad: bytes) -> None:
    """Not masked; a reserved bit; an unknown opcode; a ping in pieces."""
    async with talk(address, cast.ben) as ben:
        ben.line.transport.write(bad)
        assert (await ben.closed())[0] == 1002


async def test_text_that_is_not_utf8_closes_with_1007(cast: Cast, address: str) -> None:
    async with talk(address, cast.ben) as ben:
        await ben.line.send(b"\xff")  # binary: a frame that can't be read
        assert (await ben.next()).data["code"] == "not_json"
        half = "é".encode()[:1]
        for opcode, piece, fin in (
            (Opcode.TEXT, b'"' + half, False),
            (Opcode.CONT, "é".encode()[1:] + b'"', True),
        ):
            ben.line.transport.write(Frame(opcode, piece, fin=fin).serialize(mask=True))
        assert (await ben.next()).data["code"] == "bad_frame"  # whole it is UTF-8
        ben.line.transport.write(Frame(Opcode.TEXT, b'{"event":"ping","ref":"\xff"}').serialize(mask=True))
        assert (await ben.closed())[0] == 1007


async def test_many_frames_that_cannot_be_read_close_with_1008(cast: Cast, address: str) -> None:
    async with talk(address, cast.ben) as ben:
        for number in range(3 * BAD_FRAMES):  # among good ones they are let be
            await ben.say("shout", ref=number)
            assert (await ben.next()).event == "error"
            await ben.done("ping")
            assert (await ben.next()).event == "pong"
        for _ in range(BAD_FRAMES + 1):
            await ben.line.send("nonsense")
        assert (await ben.closed())[0] == 1008
    async with talk(address, cast.ben) as ben:  # and twice as many as good ones are too many
        for payload in ["nonsense", "nonsense", '{"event":"ping"}'] * (BAD_FRAMES - 1) + ["nonsense"] * 2:
            await ben.line.send(payload)
        assert (await ben.closed())[0] == 1008


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4),
    max_leaves=8,
)
EVENTS = st.sampled_from(("join", "leave", "send", "typing", "read", "delivered", "ping", "", "x"))
FIELDS = st.sampled_from(("threadId", "since", "text", "clientId", "replyTo", "fileIds", "isTyping", "seq"))
GARBAGE = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    st.fixed_dictionaries(
        {}, optional={"event": EVENTS | JSON, "data": st.dictionaries(FIELDS, JSON) | JSON, "ref": st.just(999) | JSON}
    ).map(lambda frame: json.dumps(frame).encode()),
    st.sampled_from((
        b'{"event":"ping","ref":"\\ud800"}', b'{"event":"\\ud800"}', b'{"event":"ping","ref":1e400}', b"[" * 9000,
        b'{"event":"ping","data":' + b"[" * 9000, b'{"event":"ping","ref":' + b"9" * 400 + b"}", b"\xff\xfe", b"",
        b'{"event":"send","data":{"threadId":1,"text":"\\u0000"},"ref":999}', b'{"event":"ping","ref":-1}',
    )),
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(st.tuples(GARBAGE, st.booleans()), min_size=1, max_size=15))
async def test_no_frame_does_harm(cast: Cast, address: str, frames: list[tuple[bytes, bool]]) -> None:
    async with talk(address, cast.ben) as ben:
        for payload, binary in frames:
            is_text = (
                not binary and payload == payload.decode("utf-8", "ignore").encode()
            )  # else it is closed
            opcode = Opcode.TEXT if is_text else Opcode.BINARY
            ben.line.transport.write(Frame(opcode, payload).serialize(mask=True))
        await ben.say("ping", ref="and now")  # it is still there, and answers
        while (await ben.next()).ref != "and now":
            pass


async def test_rates_are_those_of_the_calls_and_no_reason_to_close(backing: Backing) -> None:
    listed = "https://chat.example.com"
    async with apart(backing, BOBBIN_RATE_LIMITS="on", BOBBIN_CORS_ORIGINS=listed) as (
        server,
        _,
    ):
        ada, ben = await register(server.url, "ada", "ben")
        api = Api(server.url)
        try:
            thread_id = await api.thread(ada, ben)
            async with talk(server.url, ada, headers={"Origin": listed}) as talked:
                for number in range(500):
                    answer = await talked.ask("send", threadId=thread_id, text="x", clientId=f"{number}")
                    if answer.event == "error":
                        break
                assert answer.data["code"] == "rate_limited" and answer.data["retryAfter"] >= 1
                assert number >= 250
                url = f"/api/threads/{thread_id}/messages"
                answers = [await api.post(url, {"text": "x"}, as_=ada) for _ in range(40)]  # by either worker
                assert 429 in [one.status for one in answers], "it is the same bucket"
                await talked.done("ping")  # the connection stays
                await talked.next()
                await talked.join(thread_id)
            with pytest.raises(InvalidStatus):
                async with talk(server.url, ada, headers={"Origin": "https://elsewhere.example"}):
                    pass
        finally:
            await api.close()


# -- the user stream over the same connection


async def test_the_user_stream_comes_too_unless_it_is_left_out(api: Api, cast: Cast, address: str) -> None:
    async with talk(address, cast.ben, query="") as ben:
        ready = await ben.next()
        assert ready.event == "ready" and ready.id == ready.data["cursor"]
        sent = await api.say(cast.team, cast.ada, "one")
        news = await ben.next()
        assert (news.event, news.data["id"], news.data["message"]) == ("thread", cast.team, sent)
        here = news.id
        await ben.join(cast.team)
        again = await api.say(cast.team, cast.ada, "two")
        both = {one.event: one.data for one in (await ben.next(), await ben.next())}
        assert both["message"] == both["thread"]["message"] == again
    await api.say(cast.team, cast.ada, "while away")
    async with talk(address, cast.ben, query=f"?lastEventId={here}") as ben:
        assert (await ben.next()).event == "ready"
        missed = await ben.next()
        assert (missed.event, missed.data["id"], missed.data["lastSeq"]) == ("thread", cast.team, 3)
    async with talk(address, cast.ben, query="?lastEventId=garbage") as ben:
        assert [(await ben.next()).event for _ in range(2)] == ["ready", "resync"]
