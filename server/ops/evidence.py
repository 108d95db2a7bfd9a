"""What was sent and what readers were told, and whether the one is the other. For server/ops/verify.py."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from server.client import Event
from server.live.hub import POLL_SECONDS

EXAMPLES = 10  # findings of one kind that are told in words; all are counted
FINE = math.log(1.02)  # latencies are kept to 2 %
# A reader of the user stream who has that much coming at once may be told of several messages as one. It is less than
# what the server pushes at once (hub.PUSH_BYTES), and than what fills the buffers of who reads steadily.
MUCH_BYTES, MUCH_SECONDS = 32 * 1024, 1.0
OWN = ("status", "rev")  # of a message: what depends on the reader, and on when it was read


class Spread:
    """Latencies in a space that does not grow."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self._counts[round(math.log(max(seconds * 1000, 0.01)) / FINE)] += 1

    def ms(self, share: float) -> float | None:
        """A percentile in milliseconds; None where nothing was measured."""
        rank, seen = math.ceil(share * self._counts.total()), 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= rank:
                return float(f"{math.exp(place * FINE):.3g}")
        return None

    @property
    def facts(self) -> dict[str, float | None]:
        return {"p50Ms": self.ms(0.5), "p95Ms": self.ms(0.95), "p99Ms": self.ms(0.99)}


@dataclass
class Findings:
    """What is wrong, in words."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, words: str, count: int = 1) -> None:
        """kind: lost, duplicated, reordered, …"""
        self.counts[kind] += count
        if count and sum(line.startswith(f"{kind}: ") for line in self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {words}")


@dataclass
class Sent:
    """A message of ours. The text follows from client_id and version."""

    writer: str
    number: int  # of its writer, counted up
    client_id: str
    began: float  # when it was first asked for
    acknowledged: float | None = None
    tries: int = 0
    seq: int = 0
    version: int = 1
    deleted: bool = False
    early: list[tuple["Tally", float]] = field(default_factory=list)  # told before its answer was here

    def answered(self, seq: int, tries: int, seconds: float, now: float) -> None:
        """It is in. Latencies of what had to be repeated say nothing."""
        self.seq, self.tries, self.acknowledged, self.began = seq, tries, now, now - seconds
        for tally, at in self.early:
            tally.timed(self, at)
        self.early.clear()


@dataclass
class Tally:
    """What the readers of one transport were told, together."""

    name: str
    findings: Findings
    readers: int = 0
    connections: int = 0
    events: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    late: int = 0
    stale: int = 0
    resyncs: int = 0
    spread: Spread = field(default_factory=Spread)

    def found(self, kind: str, words: str, count: int = 1) -> None:
        setattr(self, kind, getattr(self, kind) + count)
        self.findings.add(kind, f"{self.name}: {words}", count)

    def arrived(self, sent: Sent, at: float, since: float) -> None:
        """A message came, on a connection that has been read without a break since then (monotonic seconds)."""
        if since > sent.began:
            return  # it was sent before: no matter of speed
        if sent.acknowledged is None:
            sent.early.append((self, at))
        else:
            self.timed(sent, at)

    def timed(self, sent: Sent, at: float) -> None:
        if sent.tries == 1:
            self.spread.add(at - sent.began)
        if sent.acknowledged is not None and at - sent.acknowledged > POLL_SECONDS:
            self.late += 1

    @property
    def facts(self) -> dict[str, Any]:
        names = (
            "readers",
            "connections",
            "events",
            "lost",
            "duplicated",
            "reordered",
            "late",
            "stale",
            "resyncs",
        )
        return {name: getattr(self, name) for name in names} | self.spread.facts


def shown(message: dict[str, Any]) -> int:
    """What must be the same for everybody who shows a message."""
    plain = {key: value for key, value in message.items() if key not in OWN}
    if "reactions" in plain:
        plain["reactions"] = [{**one, "mine": None} for one in plain["reactions"]]
    return hash(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS))


def rev_of(cursor: str) -> int:
    """Cursors are opaque to clients; this one belongs to the house."""
    return int(cursor.rpartition(".")[2])


class Told:
    """What one reader was told of one thread: each change once, in order, and what it shows in the end."""

    def __init__(self, tally: Tally, who: str, thread_id: int, cursor: str, ledger: dict[str, Sent]) -> None:
        self.tally, self.who, self.thread_id, self.rev = tally, who, thread_id, rev_of(cursor)
        self.since = math.inf  # when what is read without a break began
        self._ledger = ledger
        self._missing: set[int] = set()
        self._shown: dict[int, int] = {}
        self._cursor = cursor

    def take(self, event: Event, at: float) -> None:
        """The next event, as it came."""
        where = f"{self.who}, thread {self.thread_id}"
        if event.id is None:
            return  # of the moment
        if event.kind in ("ready", "joined"):
            if event.id != self._cursor:
                self.tally.found("lost", f"{where}: asked for {self._cursor}, it went on from {event.id}")
            self.since = at
            return
        self._cursor, rev = event.id, rev_of(event.id)
        if event.kind == "resync":
            self.tally.found("resyncs", f"{where}: resync to {rev}, though {self.rev} is in the log")
            self._missing.update(range(self.rev + 1, rev + 1))
            self.rev = max(self.rev, rev)
            return
        self.tally.events += 1
        if rev > self.rev:
            self._missing.update(range(self.rev + 1, rev))
            self.rev = rev
        elif rev in self._missing:
            self._missing.discard(rev)
            self.tally.found("reordered", f"{where}: change {rev} came after {self.rev}")
        else:
            self.tally.found("duplicated", f"{where}: change {rev} ({event.kind}) came twice")
            return
        if event.kind in ("message", "message_updated"):
            self._show(event, rev, at, where)

    def _show(self, event: Event, rev: int, at: float, where: str) -> None:
        message = event.data
        if message["rev"] < rev:
            self.tally.found("stale", f"{where}: change {rev} told the message as of {message['rev']}")
        self._shown[message["seq"]] = shown(message)
        sent = self._ledger.get(message.get("clientId", ""))
        if event.kind == "message" and sent is not None:
            self.tally.arrived(sent, at, self.since)

    def judge(self, last_rev: int, fresh: dict[int, int]) -> None:
        """At the end: fresh is what a snapshot shows, by seq."""
        where = f"{self.who}, thread {self.thread_id}"
        missing = sorted(self._missing) + list(range(self.rev + 1, last_rev + 1))
        if missing:
            self.tally.found("lost", f"{where}: changes {brief(missing)} of {last_rev}", len(missing))
        first = min(fresh, default=0)  # what was before has been archived, or is missed by Sends
        stale = sorted(seq for seq in self._shown if seq >= first and fresh.get(seq) != self._shown[seq])
        if stale:
            self.tally.found(
                "stale", f"{where}: messages {brief(stale)} are not what a fresh page shows", len(stale)
            )


class FeedTold:
    """What one reader was told of all their threads by the user stream.

    Live, each message is one `thread` event. Who has come back, or does not read, may be told of several as one, whose
    lastSeq says how far; so may who is sent much at once: that shows only in the end (see judge).
    """

    def __init__(
        self, tally: Tally, who: str, thread_ids: Iterable[int], ledger: dict[str, Sent], *, pauses: bool
    ) -> None:
        """pauses: it does not always read."""
        self.tally, self.who = tally, who
        self.since = math.inf  # when what is read without a break began
        self._ledger, self._pauses = ledger, pauses
        self._high = dict.fromkeys(thread_ids, 0)  # up to where messages were told
        self._missing: dict[int, dict[int, float]] = {
            thread_id: {} for thread_id in self._high
        }  # seq -> since when
        self._last: dict[int, dict[str, Any]] = {}
        self._behind: set[int] = set()  # threads of which the next event may tell of several messages

    def take(self, event: Event, at: float) -> None:
        """The next event, as it came."""
        if event.kind == "ready":
            self.since = at
            self._behind.update(self._high)
        elif event.kind == "resync":
            self.tally.found("resyncs", f"{self.who}: resync, though nothing is missing")
        elif event.kind == "thread" and event.data["id"] in self._high:
            self.tally.events += 1
            self._thread(event.data, at)

    def _thread(self, thread: dict[str, Any], at: float) -> None:
        thread_id = thread["id"]
        where = f"{self.who}, thread {thread_id}"
        if thread["role"] is None:
            self.tally.found("lost", f"{where}: no longer theirs, it was said: {thread.get('act')}")
            return
        if thread["lastSeq"] < self._last.get(thread_id, thread)["lastSeq"]:
            self.tally.found("stale", f"{where}: lastSeq fell to {thread['lastSeq']}")
        self._last[thread_id] = thread
        message = thread.get("message")
        if message is None:
            self._reach(thread_id, thread["lastSeq"], thread["lastSeq"] + 1, at)
            return
        seq, high = message["seq"], self._high[thread_id]
        if seq > high:
            self._reach(thread_id, seq, seq, at)
            self._behind.discard(thread_id)
        elif seq in self._missing[thread_id]:
            del self._missing[thread_id][seq]
            self.tally.found("reordered", f"{where}: message {seq} came after {high}")
        else:
            self.tally.found("duplicated", f"{where}: message {seq} came twice, or late")
        sent = self._ledger.get(message.get("clientId", ""))
        if sent is not None:
            self.tally.arrived(sent, at, self.since)

    def _reach(self, thread_id: int, seq: int, told: int, at: float) -> None:
        """It is known up to seq now, and from `told` on each message by itself."""
        high = self._high[thread_id]
        if seq > high:
            if thread_id not in self._behind and not self._pauses:
                self._missing[thread_id].update(dict.fromkeys(range(high + 1, told), at))
            self._high[thread_id] = seq

    def level(self, fresh: dict[int, dict[str, Any]]) -> bool:
        """Whether the last that was told of each thread is what is so. fresh: threads as GET gives them."""
        return all(
            self._high[one] >= fresh[one]["lastSeq"] and not self._differs(fresh[one]) for one in self._high
        )

    def _differs(self, fresh: dict[str, Any]) -> list[str]:
        told = self._last.get(fresh["id"], {})
        return [name for name in ("lastSeq", "unreadCount", "title") if told.get(name) != fresh[name]]

    def judge(self, fresh: dict[int, dict[str, Any]], bytes_of: Callable[[int, int], int]) -> None:
        """At the end. bytes_of: of a message, by thread and seq: what is skipped must have been much."""
        skipped = [
            (at, bytes_of(one, seq)) for one, seqs in self._missing.items() for seq, at in seqs.items()
        ]
        for thread_id, missing in self._missing.items():
            where, thread = f"{self.who}, thread {thread_id}", fresh[thread_id]
            left = [
                seq
                for seq, since in sorted(missing.items())
                if sum(size for at, size in skipped if abs(at - since) < MUCH_SECONDS) < MUCH_BYTES
            ] + list(range(self._high[thread_id] + 1, thread["lastSeq"] + 1))
            if left:
                self.tally.found("lost", f"{where}: messages {brief(left)} of {thread['lastSeq']}", len(left))
            for name in self._differs(thread):
                told = self._last.get(thread_id, {}).get(name)
                self.tally.found("stale", f"{where}: {name} {told!r} was told last, it is {thread[name]!r}")


def brief(numbers: list[int]) -> str:
    """The first of many."""
    return ", ".join(map(str, numbers[:5])) + (f" … ({len(numbers)})" if len(numbers) > 5 else "")


@dataclass
class Sends:
    """The writers' side: what they were promised by an answer is there, once, in their order."""

    findings: Findings
    ledger: dict[str, Sent] = field(default_factory=dict)  # by client id
    edits: int = 0
    deletions: int = 0
    repeated: int = 0  # sent again on purpose
    counts: Counter[str] = field(default_factory=Counter)
    spread: Spread = field(default_factory=Spread)

    def found(self, kind: str, words: str, count: int = 1) -> None:
        self.counts[kind] += count
        self.findings.add(kind, f"sends: {words}", count)

    def judge(
        self,
        thread: dict[str, Any],
        messages: list[dict[str, Any]],
        mine: Iterable[Sent],
        text_of: Callable[[Sent], str],
    ) -> None:
        """A thread at rest: its JSON and all its pages. mine: what was sent to it; text_of: as it must be now."""
        where = f"thread {thread['id']}"
        first = thread.get("archivedBefore", 1)
        seqs = [message["seq"] for message in messages]
        wanted = range(first, thread["lastSeq"] + 1)
        if seqs != list(wanted):
            odd = sorted(set(wanted) ^ set(seqs)) or seqs
            self.found(
                "not dense", f"{where}: pages do not hold {first} to {thread['lastSeq']}: {brief(odd)}"
            )
        times = [datetime.fromisoformat(message["createdAt"]) for message in messages]
        if times != sorted(times):
            self.found("not dense", f"{where}: createdAt falls")
        alive = sum("deletedAt" not in message for message in messages)
        if thread["messageCount"] != alive and first == 1:  # it counts the archived ones too
            self.found("wrong", f"{where}: messageCount is {thread['messageCount']}, {alive} are not deleted")
        there: dict[str, dict[str, Any]] = {}
        last: dict[str, int] = {}
        for message in messages:
            client_id = message.get("clientId", "")
            if client_id in there:
                both = f"{there[client_id]['seq']} and {message['seq']}"
                self.found("duplicated", f"{where}: {client_id} is there as {both}")
                continue
            there[client_id] = message
            sent = self.ledger.get(client_id)
            if sent is None:
                self.found("wrong", f"{where}: message {message['seq']} was sent by nobody")
            elif last.get(sent.writer, 0) > sent.number:
                self.found("reordered", f"{where}: {client_id} stands after a later one of {sent.writer}")
            else:
                last[sent.writer] = sent.number
        for sent in mine:
            if sent.acknowledged is None or sent.seq < first:
                continue  # it may be there, and need not; or it has been archived
            if sent.client_id in there:
                self._compare(where, sent, there[sent.client_id], text_of(sent))
            else:
                self.found("lost", f"{where}: {sent.client_id}, acknowledged as {sent.seq}, is not there")

    def _compare(self, where: str, sent: Sent, message: dict[str, Any], text: str) -> None:
        if message["seq"] != sent.seq:
            self.found(
                "wrong", f"{where}: {sent.client_id} was acknowledged as {sent.seq}, is {message['seq']}"
            )
        if sent.deleted != ("deletedAt" in message) or (not sent.deleted and message["text"] != text):
            state = "deleted" if sent.deleted else f"as of version {sent.version}"
            self.found("wrong", f"{where}: message {message['seq']} ({sent.client_id}) should be {state}")

    @property
    def facts(self) -> dict[str, Any]:
        sent = self.ledger.values()
        kinds = ("lost", "duplicated", "reordered", "wrong", "not dense")
        return {
            "sent": len(self.ledger),
            "acknowledged": sum(one.acknowledged is not None for one in sent),
            "repeats": sum(max(0, one.tries - 1) for one in sent) + self.repeated,
            "edits": self.edits,
            "deletions": self.deletions,
            **{"notDense" if kind == "not dense" else kind: self.counts[kind] for kind in kinds},
            **self.spread.facts,
        }
