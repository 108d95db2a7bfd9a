"""The reference client: it comes back without a gap or a repeat, and sends once, whatever happens on the way."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest

from server.client import LONGEST_SECONDS, Away, Client, Event, Follow, Pace, Parser, Refused, Socket
from tests.client import LIMIT_SECONDS, somebody
from tests.live.wire import so
from tests.ops.meddler import Meddler, answer, meddler

SOON = 0.02  # the first pause
WIRE = (
    b'retry: 2500\n\nid: e.7.1\nevent: ready\ndata: {"cursor":"e.7.1"}\n\n: still here\n\n'
    b'id: e.7.2\r\nevent: message\r\ndata: {"text":"a\\u2028\xe2\x80\xa8\xc2\x85b"}\r\n\r\nevent: typing\ndata:{}\n\n'
)
EVENTS = [
    Event("ready", {"cursor": "e.7.1"}, "e.7.1"),
    Event("message", {"text": "a\u2028\u2028\x85b"}, "e.7.2"),
    Event("typing", {}, None),
]


@pytest.mark.parametrize("seed", range(25))
def test_events_are_the_same_however_the_bytes_are_cut(seed: int) -> None:
    chance, parser, at, found = random.Random(seed), Parser(), 0, []
    while at < len(WIRE):
        size = chance.choice((1, 2, 7, 60))
        found += parser.feed(WIRE[at : at + size])
        at += size
    assert found == EVENTS
    assert parser.retry_ms == 2500


def test_pauses_double_up_to_a_limit_and_are_never_shorter_than_the_server_says() -> None:
    pace = Pace()
    pauses = [pace.next_s() for _ in range(9)]
    for pause, top in zip(pauses, (1, 2, 4, 8, 16, 30, 30, 30, 30), strict=True):
        assert top / 2 <= pause <= top <= LONGEST_SECONDS
    assert len(set(pauses)) == len(pauses)
    pace.well()
    assert pace.next_s() <= 1
    pace.propose(8000)
    pace.well()
    assert 4 <= pace.next_s() <= 8
    assert pace.next_s(at_least=77) == 77
    fixed = Pace(SOON)
    fixed.propose(8000)
    assert fixed.next_s() <= SOON


# -- through a proxy that hangs up, answers itself, and counts


@pytest.fixture
async def proxy(address: str) -> AsyncIterator[Meddler]:
    async with meddler(address) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Meddler) -> AsyncIterator[Client]:
    async with Client(proxy.url, first_s=SOON) as client:
        await client.register(**somebody())
        yield client


@pytest.fixture
async def thread(client: Client) -> dict[str, Any]:
    """A new one, all its own."""
    found: dict[str, Any] = (await client.ask("POST", "/api/threads", {"title": "Mine"})).data["thread"]
    return found


async def take(follow: Follow, count: int) -> list[str]:
    """The texts of the next messages, so many."""
    found: list[str] = []
    async with asyncio.timeout(LIMIT_SECONDS):
        async for event in follow:
            if event.kind == "message":
                found.append(event.data["text"])
            if len(found) == count:
                break
    return found


async def test_a_stream_that_breaks_goes_on_without_gap_or_repeat(
    client: Client, proxy: Meddler, thread: dict[str, Any]
) -> None:
    async with client.follow(thread["id"], since=thread["streamCursor"]) as events:
        found: list[str] = []
        for round_ in range(4):
            for number in range(5):
                await client.send(thread["id"], f"{round_}.{number}")
                if number == 1:
                    found += await take(events, 1)
                    proxy.cut()
            found += await take(events, 2)
        found += await take(events, 8)
        assert found == [f"{round_}.{number}" for round_ in range(4) for number in range(5)]
        assert events.connections >= 4


async def test_what_was_not_handed_out_before_one_hung_up_comes_again(
    client: Client, thread: dict[str, Any]
) -> None:
    for number in range(9):
        await client.send(thread["id"], str(number))
    events = client.follow(thread["id"], since=thread["streamCursor"])
    found = await take(events, 2)
    found += await take(events, 2)  # the same connection
    assert events.connections == 1
    await events.drop()
    found += await take(events, 2)
    again = client.follow(thread["id"], since=events.cursor)  # as after a restart of the program
    found += await take(again, 3)
    assert found == [str(number) for number in range(9)]
    await again.drop()
    await events.drop()


async def test_a_stream_is_over_with_the_membership(client: Client, thread: dict[str, Any]) -> None:
    async with client.follow(thread["id"]) as events:
        assert (await anext(events)).kind == "ready"
        await client.ask("DELETE", f"/api/threads/{thread['id']}")
        with pytest.raises(Refused, match="not_found"):
            async for event in events:
                assert event.kind != "message"


async def test_a_send_whose_answer_is_lost_is_repeated_and_sent_once(
    client: Client, proxy: Meddler, thread: dict[str, Any]
) -> None:
    lost = iter([True, True, False])

    def reply(call: str, status: int, body: Any) -> tuple[int, Any]:
        if call.endswith("/messages") and call.startswith("POST") and next(lost):
            raise ConnectionResetError
        return status, body

    proxy.reply = reply
    sent = await client.send(thread["id"], "Hello")
    assert (sent.status, sent.tries, sent.data["message"]["seq"]) == (200, 3, 1)
    found = (await client.ask("GET", f"/api/threads/{thread['id']}/messages")).data["items"]
    assert [message["text"] for message in found] == ["Hello"]
    assert len(found[0]["clientId"]) >= 16


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_can_not_now_is_asked_again_in_order(
    client: Client, proxy: Meddler, thread: dict[str, Any], status: int
) -> None:
    refusals = iter([True, True])
    problem = answer(status, {"error": "Not now.", "code": "later"}, Retry_After="0")
    proxy.refuse = lambda call, body: (
        problem if call.endswith("/messages") and next(refusals, False) else None
    )
    sends = [client.send(thread["id"], str(number)) for number in range(8)]
    answers = await asyncio.gather(*sends)
    assert [answer.data["message"]["text"] for answer in answers] == [str(number) for number in range(8)]
    assert [answer.data["message"]["seq"] for answer in answers] == list(range(1, 9))
    assert [answer.tries for answer in answers] == [3] + [1] * 7
    del sends, answers
    gc.collect()
    assert len(client._turns) == 0


async def test_what_is_refused_for_good_is_told_and_the_next_one_goes_on(
    client: Client, thread: dict[str, Any]
) -> None:
    refused, sent = await asyncio.gather(
        client.send(thread["id"], " "), client.send(thread["id"], "Hello"), return_exceptions=True
    )
    assert isinstance(refused, Refused) and not isinstance(sent, BaseException)
    assert (refused.status, refused.code, refused.passing) == (422, "invalid", False)
    assert (sent.status, sent.tries) == (201, 1)


async def test_requests_without_an_answer_are_told_apart(client: Client, proxy: Meddler) -> None:
    proxy.refuse = lambda call, body: b""
    with pytest.raises(Away):
        await client.ask("GET", "/api/me")
    proxy.refuse = lambda call, body: answer(502, "no JSON of ours")
    with pytest.raises(Refused, match="502 unknown") as error:
        await client.ask("GET", "/api/me")
    assert error.value.passing


async def test_a_token_that_is_over_is_renewed_once_for_all_who_ask(client: Client, proxy: Meddler) -> None:
    client.token = "over"
    answers = await asyncio.gather(*[client.ask("GET", "/api/me") for _ in range(5)])
    assert {answer.data["user"]["id"] for answer in answers} == {client.user["id"]}
    assert proxy.calls.count("POST /api/auth/refresh") == 1


async def test_a_stream_comes_back_with_another_token(client: Client, thread: dict[str, Any]) -> None:
    client.token = "over"
    async with client.follow(thread["id"], since=thread["streamCursor"]) as events:
        assert (await anext(events)).id == thread["streamCursor"]
    assert client.token != "over"


async def test_a_refresh_whose_answer_is_lost_is_mended_by_the_password(
    client: Client, proxy: Meddler
) -> None:
    lost = iter([True])

    def reply(call: str, status: int, body: Any) -> tuple[int, Any]:
        if call.endswith("/refresh") and next(lost, False):
            raise ConnectionResetError
        return status, body

    proxy.reply = reply
    client.token = "over"
    assert (await client.insist("GET", "/api/me")).data["user"]["id"] == client.user["id"]
    assert [call for call in proxy.calls if "/auth/" in call][-3:] == [
        "POST /api/auth/refresh",
        "POST /api/auth/refresh",
        "POST /api/auth/login",
    ]


async def test_who_is_signed_out_for_good_is_told(client: Client, thread: dict[str, Any]) -> None:
    await client.ask("POST", "/api/auth/logout")
    client._credentials = {}
    with pytest.raises(Refused) as error:
        await client.insist("GET", "/api/me")
    assert error.value.status == 401
    with pytest.raises(Refused):
        await anext(client.follow(thread["id"]))
    async with Client(client.url, token="bbk_no_key", first_s=SOON) as bot:
        with pytest.raises(Refused) as error:
            await bot.insist("GET", "/api/me")
    assert error.value.status == 401


# -- the WebSocket


class Hearing:
    """Reads a socket for as long as it is entered."""

    def __init__(self, socket: Socket) -> None:
        self.events: list[Event] = []
        self._socket = socket

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._hear())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _hear(self) -> None:
        async for event in self._socket:
            self.events.append(event)

    def texts(self, thread_id: int) -> list[str]:
        return [
            e.data["text"] for e in self.events if e.kind == "message" and e.data["threadId"] == thread_id
        ]

    async def until(self, kind: str) -> Event:
        """The first event of a kind."""
        await so(lambda: any(event.kind == kind for event in self.events), kind)
        return next(event for event in self.events if event.kind == kind)


async def test_a_socket_that_breaks_joins_again_without_gap_or_repeat(
    client: Client, proxy: Meddler, thread: dict[str, Any]
) -> None:
    other = (await client.ask("POST", "/api/threads", {"title": "Another"})).data["thread"]
    texts = [str(number) for number in range(12)]
    async with client.socket() as socket, Hearing(socket) as heard:
        await socket.join(thread["id"], since=thread["streamCursor"])
        await socket.join(other["id"], since=other["streamCursor"])
        for text in texts:
            await client.send(thread["id"], text)
            await client.send(other["id"], text)
            if text in ("2", "5", "8"):
                await so(lambda text=text: heard.texts(thread["id"])[-1:] == [text], "it is told")  # type: ignore[misc]
                if text == "5":
                    await socket.drop()
                else:
                    proxy.cut()
        await so(
            lambda: all(heard.texts(one["id"])[-1:] == ["11"] for one in (thread, other)), "all are told"
        )
        assert heard.texts(thread["id"]) == heard.texts(other["id"]) == texts
        assert socket.connections >= 4


async def test_sends_over_a_socket_are_repeated_in_order_until_they_are_acknowledged(
    client: Client, proxy: Meddler, thread: dict[str, Any]
) -> None:
    async with client.socket() as socket, Hearing(socket) as heard:
        await socket.join(thread["id"], since=thread["streamCursor"])
        sends = [asyncio.ensure_future(socket.send(thread["id"], str(number))) for number in range(20)]
        for place in (3, 9, 15):
            await sends[place]
            proxy.cut()
        answers = await asyncio.gather(*sends)
        assert [answer.data["message"]["seq"] for answer in answers] == list(range(1, 21))
        await so(lambda: len(heard.texts(thread["id"])) == 20, "all are told")
        assert heard.texts(thread["id"]) == [str(number) for number in range(20)]
        assert max(answer.tries for answer in answers) > 1
        assert socket._asked == {}


async def test_what_a_socket_may_not_do_is_told_apart(client: Client, thread: dict[str, Any]) -> None:
    async with client.socket() as socket, Hearing(socket) as heard:
        with pytest.raises(Refused, match="invalid") as error:
            await socket.send(thread["id"], " ")
        assert not error.value.passing
        with pytest.raises(Refused, match="not_found"):
            await socket.send(2**40, "Hello")
        assert (await socket.send(thread["id"], "Hello")).data["message"]["seq"] == 1
        await socket.join(thread["id"])
        assert (await heard.until("joined")).data["threadId"] == thread["id"]
        await socket.join(2**40)
        assert (await heard.until("left")).data == {"threadId": 2**40, "reason": "not_found"}
        assert socket.cursors.keys() == {thread["id"]}
        heard.events.clear()
        await socket.leave(thread["id"])
        assert (await heard.until("left")).data["threadId"] == thread["id"]
        assert socket.cursors == {}


async def test_a_socket_comes_back_with_another_token_or_says_that_it_is_over(client: Client) -> None:
    client.token = "over"
    async with client.socket() as socket:
        listening = asyncio.ensure_future(anext(socket))
        await socket.ask("ping", {})
        assert client.token != "over"
        assert (await listening).kind == "pong"
        sending = asyncio.ensure_future(socket.send(1, "Hello"))
        await client.ask("POST", "/api/auth/logout")
        client._credentials = {}
        with pytest.raises(Refused) as error:
            while True:
                await anext(socket)
        assert error.value.status == 401
        with pytest.raises(Refused):
            await sending
