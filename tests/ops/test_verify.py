"""The prover: a clean run is clean, and whatever is broken on purpose is found and named."""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.client import Event
from server.ops.crowd import ACTS
from server.ops.evidence import FeedTold, Findings, Tally
from server.ops.verify import CannotRun, Plan, prove
from tests.ops.meddler import Meddler, Tell, answer, meddler
from tests.ops.process import ROOT, environment

SHORT = Plan(
    seconds=0.3,
    least=30,
    settle_s=2,
    writers=2,
    readers=8,
    threads=1,
    rate=200,
    acts={"send": 3, "edit": 1},
    faults=(),
    seed=7,
    first_s=0.05,
)


async def test_a_clean_run_is_clean_and_counts_right(address: str) -> None:
    verdict = await prove(
        address,
        replace(SHORT, seconds=4.5, settle_s=20, readers=16, rate=60, acts=ACTS, faults=("drop", "pause")),
    )
    assert verdict.findings.examples == []
    assert verdict.kept
    sends = verdict.facts["sends"]
    assert sends["sent"] == sends["acknowledged"] > 20
    changes = sends["sent"] + sends["edits"] + sends["deletions"]
    assert list(verdict.tallies) == list(STREAMS)
    for name, told in verdict.facts["transports"].items():
        if not name.startswith("user"):  # which may tell several as one, and tells what was read
            assert told["events"] == told["readers"] * changes
        assert told["readers"] == 4
        assert (told["lost"], told["duplicated"], told["reordered"], told["stale"], told["resyncs"]) == (
            0,
        ) * 5
        assert 0 < told["p50Ms"] <= told["p95Ms"] <= told["p99Ms"]
        assert told["connections"] >= told["readers"]
    assert verdict.manners.done["drop"]
    assert verdict.manners.done["pause"]


# -- broken on purpose


STREAMS = {  # how their paths begin
    "thread stream": "/api/threads/",
    "WebSocket": "/api/ws?feed=off",
    "user stream": "/api/stream",
    "user stream (WebSocket)": "/api/ws ",
}


def is_message(stream: str, event: bytes) -> bool:
    """Over SSE, as a frame of a WebSocket, or in a thread of the user stream."""
    if stream.startswith((STREAMS["user stream"], STREAMS["user stream (WebSocket)"])):
        return (b"event: thread\n" in event or b'"event":"thread",' in event) and b',"message":{' in event
    return b"event: message\n" in event or b'"event":"message",' in event


class Nth:
    """True once: at the nth message of the stream that gets there first."""

    def __init__(self, number: int) -> None:
        self._number, self._seen, self._done = number, Counter[str](), False

    def __call__(self, stream: str, event: bytes) -> bool:
        self._seen[stream] += is_message(stream, event)
        if self._done or not is_message(stream, event) or self._seen[stream] < self._number:
            return False
        self._done = True
        return True


def skip() -> Tell:
    nth = Nth(5)
    return lambda stream, event: [] if nth(stream, event) else [event]


def twice() -> Tell:
    nth = Nth(5)
    return lambda stream, event: [event, event] if nth(stream, event) else [event]


def swap() -> Tell:
    nth, held = Nth(5), dict[str, bytes]()

    def tell(stream: str, event: bytes) -> list[bytes]:
        if nth(stream, event):
            held[stream] = event
            return []
        return [event, held.pop(stream)] if stream in held and is_message(stream, event) else [event]

    return tell


def older() -> Tell:
    """The third message is told with another text, and so is each change of it."""

    def tell(stream: str, event: bytes) -> list[bytes]:
        return [event.replace(b'"text":"', b'"text":"not ', 1) if b'"seq":3,' in event else event]

    return tell


def aged() -> Tell:
    """Each message is told as it was a change ago."""

    def before(found: re.Match[bytes]) -> bytes:
        return b'"rev":%d' % (int(found[1]) - 1)

    return lambda stream, event: [re.sub(rb'"rev":(\d+)', before, event)]


def miscounted() -> Tell:
    """One more is unread."""

    def more(found: re.Match[bytes]) -> bytes:
        return b'"unreadCount":%d' % (int(found[1]) + 1)

    return lambda stream, event: [re.sub(rb'"unreadCount":(\d+)', more, event)]


def resync() -> Tell:
    nth = Nth(5)

    def tell(stream: str, event: bytes) -> list[bytes]:
        if not nth(stream, event):
            return [event]
        if event.startswith(b"{"):
            frame = orjson.loads(event)
            data = {"cursor": frame.get("id")}
            if "threadId" in frame["data"]:
                data["threadId"] = frame["data"]["threadId"]
            return [orjson.dumps(frame | {"event": "resync", "data": data})]
        return [re.sub(rb"event: .*\ndata: .*", b'event: resync\ndata: {"cursor":""}', event)]

    return tell


def only(transport: str, tell: Tell) -> Tell:
    """Streams of one kind are meddled with."""
    return lambda stream, event: tell(stream, event) if stream.startswith(STREAMS[transport]) else [event]


@pytest.mark.parametrize(
    ("transport", "broken", "kinds"),
    [
        (transport, broken, kinds)
        for transport in STREAMS
        for broken, kinds in (
            (skip, {"lost"}),
            (twice, {"duplicated"}),
            (swap, {"reordered"}),
            *([(miscounted, {"stale"})] if "user" in transport else [(older, {"stale"}), (aged, {"stale"})]),
            (resync, {"resyncs", "lost"}),
        )
    ],
)
async def test_an_event_that_is_wrong_is_found(
    address: str, broken: Callable[[], Tell], kinds: set[str], transport: str
) -> None:
    async with meddler(address) as proxy:
        proxy.tell = only(transport, broken())
        verdict = await prove(proxy.url, SHORT)
    told = verdict.tallies[transport]
    assert not verdict.kept
    assert kinds <= {
        kind for kind in ("lost", "duplicated", "reordered", "stale", "resyncs") if getattr(told, kind)
    }
    assert verdict.findings.counts.keys() <= kinds | {"stale"}
    for line in verdict.findings.examples:
        kind, where, _ = line.split(": ", 2)
        assert kind in verdict.findings.counts
        assert where == transport
        assert line in str(verdict)


def sends(call: str) -> bool:
    return call.startswith("POST") and call.endswith("/messages")


def swallowed(proxy: Meddler) -> None:
    """One send is acknowledged, and was never written."""
    said: list[Any] = []

    def reply(call: str, status: int, body: Any) -> tuple[int, Any]:
        if sends(call) and status == 201:
            said.append(body)
        return status, body

    def refuse(call: str, body: Any) -> bytes | None:
        if not sends(call) or len(said) < 5 or said[-1] is None:
            return None
        made = said[-1]["message"] | {"clientId": body["clientId"], "text": body["text"]}
        made["seq"] += 1
        said.append(None)
        return answer(201, {"message": made}, Content_Type="application/json")

    proxy.reply, proxy.refuse = reply, refuse


def on_pages(change: Callable[[dict[str, Any]], None]) -> Callable[[Meddler], None]:
    def meddle(proxy: Meddler) -> None:
        def reply(call: str, status: int, body: Any) -> tuple[int, Any]:
            if call.startswith("GET") and "/messages?" in call:
                change(body)
            return status, body

        proxy.reply = reply

    return meddle


def gone(page: dict[str, Any]) -> None:
    page["items"] = [item for item in page["items"] if item["seq"] != 5]


def doubled(page: dict[str, Any]) -> None:
    for before, item in zip(page["items"], page["items"][1:], strict=False):
        if item["seq"] == 5:
            item["clientId"] = before["clientId"]


def changed(page: dict[str, Any]) -> None:
    for item in page["items"]:
        if item["seq"] == 5:
            item["text"] += "!"
            item.pop("deletedAt", None)


def turned(page: dict[str, Any]) -> None:
    """Messages of each writer stand in another order."""
    items = page["items"]
    ids = [item["clientId"] for item in items][::-1]
    for item, client_id in zip(items, ids, strict=True):
        item["clientId"] = client_id


def before_time(page: dict[str, Any]) -> None:
    for item in page["items"]:
        if item["seq"] == 5:
            item["createdAt"] = "2000-01-01T00:00:00.000Z"


def overcounted(proxy: Meddler) -> None:
    """The list of threads tells of a message more."""

    def reply(call: str, status: int, body: Any) -> tuple[int, Any]:
        for thread in body["threads"] if call.startswith("GET /api/threads?") else ():
            thread["messageCount"] += 1
        return status, body

    proxy.reply = reply


def accepts_all(proxy: Meddler) -> None:
    """Another text under a used client id is let in, with the old message."""
    said: list[Any] = []

    def reply(call: str, status: int, body: Any) -> tuple[int, Any]:
        if sends(call) and status == 201:
            said.append(body)
        return (200, said[-1]) if sends(call) and status == 422 else (status, body)

    proxy.reply = reply


def always_new(proxy: Meddler) -> None:
    """A repeated send is answered like a first one."""
    proxy.reply = lambda call, status, body: (201 if sends(call) and status == 200 else status, body)


@pytest.mark.parametrize(
    ("broken", "acts", "kind", "words"),
    [
        (swallowed, {"send": 1}, "lost", "is not there"),
        (on_pages(gone), ACTS, "not dense", "pages do not hold 1 to"),
        (on_pages(doubled), ACTS, "duplicated", "is there as 4 and 5"),
        (on_pages(changed), ACTS, "wrong", "message 5"),
        (on_pages(turned), ACTS, "reordered", "stands after a later one"),
        (on_pages(before_time), ACTS, "not dense", "createdAt falls"),
        (overcounted, ACTS, "wrong", "messageCount is"),
        (accepts_all, {"send": 1, "reuse": 2}, "wrong", "under the same client id was accepted"),
        (always_new, {"send": 1, "again": 2}, "wrong", "sent again, 201"),
        (always_new, {"send": 1, "race": 2}, "wrong", "it was answered with 2 times 201"),
    ],
)
async def test_a_send_that_is_not_what_it_was_said_to_be_is_found(
    address: str, broken: Callable[[Meddler], None], acts: Mapping[str, int], kind: str, words: str
) -> None:
    async with meddler(address) as proxy:
        broken(proxy)
        verdict = await prove(proxy.url, replace(SHORT, writers=1, acts=acts))
    assert not verdict.kept
    assert verdict.facts["sends"]["notDense" if kind == "not dense" else kind]
    assert any(line.startswith(f"{kind}: sends: ") and words in line for line in verdict.findings.examples), (
        str(verdict)
    )


# -- the rules of the user stream, where several messages may be told as one


READY = -1
BACK = (0, READY)


def told(
    *events: tuple[int, int | None], pauses: bool = False, bytes_: int = 100, last: int | None = None
) -> dict[str, int]:
    """A reader is told (lastSeq, seq of the message or None for none); then the thread is at `last`."""
    findings = Findings()
    feed = FeedTold(Tally("feed", findings), "ada", [7], {}, pauses=pauses)
    for at, (last_seq, seq) in enumerate(events):
        if seq == READY:
            feed.take(Event("ready", {}, "e.u.1:1:"), at)
            continue
        thread = {"id": 7, "role": "member", "title": "T", "lastSeq": last_seq, "unreadCount": last_seq}
        message = {} if seq is None else {"message": {"seq": seq}}
        feed.take(Event("thread", thread | message), at / 100)
    fresh = {7: {"id": 7, "title": "T", "lastSeq": last or last_seq, "unreadCount": last or last_seq}}
    feed.judge(fresh, lambda thread_id, seq: bytes_)
    return dict(findings.counts)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (told(BACK, (1, 1), (2, 2), (3, 3)), {}),
        (
            told(BACK, (3, 1), (3, 2), (3, 3), (3, None)),
            {},
        ),  # of one look: each with the thread as it is then
        (told(BACK, (1, 1), (3, 3)), {"lost": 1}),
        (told(BACK, (1, 1), (3, None), (4, 4)), {"lost": 2}),  # live, a thread without its messages
        (told(BACK, (1, 1), BACK, (4, None), (5, 5)), {}),  # back again: several as one
        (told(BACK, (1, 1), BACK, (5, 5), (6, 6)), {}),
        (told(BACK, (1, 1), BACK, (5, 5), (7, 7)), {"lost": 1}),
        (told(BACK, (1, 1), (4, 4), pauses=True), {}),
        (told(BACK, (1, 1), (4, 4), bytes_=20_000), {}),  # so much that several may be told as one
        (told(BACK, (1, 1), (1, 1), (2, 2)), {"duplicated": 1}),
        (told(BACK, (1, 1), (3, 3), (3, 2)), {"reordered": 1}),
        (told(BACK, (2, 1), (2, 2), last=3), {"lost": 1, "stale": 2}),
        (told(BACK, (2, 1), (1, None), (2, 2)), {"stale": 1}),
    ],
)
def test_of_the_user_stream_nothing_may_be_skipped(found: dict[str, int], expected: dict[str, int]) -> None:
    assert found == expected


# -- the command


async def command(*words: str) -> tuple[int, str, str]:
    """`bobbin verify …`: exit status, and what it says on both outputs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server",
        "verify",
        *words,
        env=environment(Path("/nowhere"), PYTHONPATH=str(ROOT)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


QUICK = (
    "--seconds",
    "0.5",
    "--writers",
    "2",
    "--rate",
    "30",
    "--readers",
    "2",
    "--threads",
    "1",
    "--random-seed",
    "1",
)


async def test_its_exit_status_says_whether_the_promise_was_kept(address: str) -> None:
    status, out, err = await command(address, *QUICK, "--faults", "none")
    assert (status, out.splitlines()[-1]) == (0, "The promise was kept."), out
    assert "throwaway accounts" in err
    async with meddler(address) as proxy:
        proxy.tell = only("thread stream", skip())
        status, out, _ = await command(proxy.url, *QUICK, "--json", "--rate", "30", "--seconds", "1")
    said = orjson.loads(out)
    assert (status, said["ok"], said["seed"]) == (1, False, 1)
    assert said["transports"]["thread stream"]["lost"] == said["findings"]["lost"] == 1


async def test_what_can_not_be_run_is_told_in_a_sentence(address: str) -> None:
    for words, said in [
        (("http://127.0.0.1:1",), "could not be tested"),
        ((address, "--faults", "worker"), "Only a server of its own can be hurt"),
        ((address, "--faults", "thunder"), "There is no fault thunder"),
        ((address, "--rate", "1000"), "brakes would be met"),
        ((address, "--readers", "0"), "at least"),
    ]:
        status, out, err = await command(*words)
        assert (status, out) == (2, "")
        assert said in err and "Traceback" not in err
    with pytest.raises(CannotRun):
        replace(SHORT, writers=98).refuse(ours=True)


@pytest.mark.timeout(120)
async def test_a_server_of_its_own_is_hurt_and_loses_nothing() -> None:
    status, out, _ = await command(
        "--seconds", "4", "--readers", "6", "--faults", "worker,valkey,restart,drop", "--json"
    )
    said = orjson.loads(out)
    assert status == 0, said["examples"]
    assert {name for name, count in said["faults"].items() if count} >= {
        "worker",
        "valkey",
        "restart",
        "drop",
    }
    assert said["sends"]["sent"] == said["sends"]["acknowledged"] > 50
    assert said["transports"]["thread stream"]["connections"] > said["transports"]["thread stream"]["readers"]
