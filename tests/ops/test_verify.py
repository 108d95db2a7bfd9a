"""The prover: a clean run is clean, and whatever is broken on purpose is found and named."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from server.ops.verify import CannotRun, Plan, prove
from tests.ops.meddler import Meddler, Tell, answer, meddler
from tests.ops.process import ROOT, environment

SHORT = Plan(seconds=0.8, writers=2, readers=2, threads=1, rate=100, faults=(), seed=48, first_s=0.05)


async def test_a_clean_run_is_clean_and_counts_right(address: str) -> None:
    verdict = await prove(address, replace(SHORT, seconds=1.5, readers=6, faults=("drop", "pause")))
    assert verdict.findings.examples == []
    assert verdict.kept
    sends, sse = verdict.facts["sends"], verdict.facts["transports"]["thread stream"]
    assert sends["sent"] == sends["acknowledged"] > 20
    assert sse["events"] == sse["readers"] * (sends["sent"] + sends["edits"] + sends["deletions"])
    assert (sse["lost"], sse["duplicated"], sse["reordered"], sse["stale"], sse["resyncs"]) == (0, 0, 0, 0, 0)
    assert 0 < sse["p50Ms"] <= sse["p95Ms"] <= sse["p99Ms"]
    assert verdict.manners.done["drop"] and sse["connections"] > sse["readers"]


# -- broken on purpose


class Nth:
    """True once, at the nth message of streams."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, event: bytes) -> bool:
        self.left -= b"event: message\n" in event
        return self.left == 0 and b"event: message\n" in event


def skip() -> Tell:
    nth = Nth(9)
    return lambda stream, event: [] if nth(event) else [event]


def twice() -> Tell:
    nth = Nth(9)
    return lambda stream, event: [event, event] if nth(event) else [event]


def swap() -> Tell:
    nth, held = Nth(9), dict[str, bytes]()

    def tell(stream: str, event: bytes) -> list[bytes]:
        if nth(event):
            held[stream] = event
            return []
        return [event, held.pop(stream)] if stream in held else [event]

    return tell


def older() -> Tell:
    """The third message is told with another text, and so is each change of it."""

    def tell(stream: str, event: bytes) -> list[bytes]:
        return [event.replace(b'"text":"', b'"text":"not ', 1) if b'"seq":3,' in event else event]

    return tell


def resync() -> Tell:
    nth = Nth(9)

    def tell(stream: str, event: bytes) -> list[bytes]:
        id_ = event.split(b"\n")[0].removeprefix(b"id: ")
        told = b'id: %b\nevent: resync\ndata: {"cursor":"%b"}' % (id_, id_)
        return [told] if nth(event) else [event]

    return tell


@pytest.mark.parametrize(
    ("broken", "kinds"),
    [
        (skip, {"lost"}),
        (twice, {"duplicated"}),
        (swap, {"reordered"}),
        (older, {"stale"}),
        (resync, {"resyncs", "lost"}),
    ],
)
async def test_an_event_of_a_thread_stream_that_is_wrong_is_found(
    address: str, broken: Callable[[], Tell], kinds: set[str]
) -> None:
    async with meddler(address) as proxy:
        proxy.tell = broken()
        verdict = await prove(proxy.url, SHORT)
    told = verdict.tallies["thread stream"]
    assert not verdict.kept
    assert kinds <= {
        kind for kind in ("lost", "duplicated", "reordered", "stale", "resyncs") if getattr(told, kind)
    }
    assert verdict.findings.counts.keys() <= kinds | {"stale"}
    assert all(line.startswith(tuple(verdict.findings.counts)) for line in verdict.findings.examples)
    assert "thread stream: reader" in verdict.findings.examples[0]
    assert verdict.findings.examples[0] in str(verdict)


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
    ("broken", "kind", "words"),
    [
        (swallowed, "lost", "is not there"),
        (on_pages(gone), "not dense", "pages do not hold 1 to"),
        (on_pages(doubled), "duplicated", "is there as 4 and 5"),
        (on_pages(changed), "wrong", "message 5"),
        (on_pages(turned), "reordered", "stands after a later one"),
        (accepts_all, "wrong", "under the same client id was accepted"),
        (always_new, "wrong", "201"),
    ],
)
async def test_a_send_that_is_not_what_it_was_said_to_be_is_found(
    address: str, broken: Callable[[Meddler], None], kind: str, words: str
) -> None:
    async with meddler(address) as proxy:
        broken(proxy)
        verdict = await prove(proxy.url, replace(SHORT, writers=1, rate=200, seconds=1.0))
    assert not verdict.kept
    assert verdict.facts["sends"]["notDense" if kind == "not dense" else kind]
    assert any(line.startswith(f"{kind}: sends: ") and words in line for line in verdict.findings.examples), (
        str(verdict)
    )


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


QUICK = ("--seconds", "0.5", "--writers", "2", "--rate", "30", "--readers", "2", "--random-seed", "1")


async def test_its_exit_status_says_whether_the_promise_was_kept(address: str) -> None:
    status, out, err = await command(address, *QUICK, "--faults", "none")
    assert (status, out.splitlines()[-1]) == (0, "The promise was kept."), out
    assert "throwaway accounts" in err
    async with meddler(address) as proxy:
        proxy.tell = skip()
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
