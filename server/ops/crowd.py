"""Writers who repeat what was not answered, and readers who come and go: the people of `bobbin verify`."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.client import Answer, Client, Event, Follow, Refused, Socket
from server.ops.evidence import FeedTold, Sends, Sent, Tally, Told

TEXT_LENGTHS = (
    (0.8, 200),
    (0.95, 2_000),
    (1.0, 9_000),
)  # most are short; long ones fill the sockets of who pauses
LETTERS = 'abcdefghijklmnopqrstuvwxyz     \n\u2028éß漢字🙂\\"'
ACTS = {"send": 62, "burst": 8, "edit": 12, "delete": 5, "again": 6, "race": 4, "reuse": 3}
BURST = 4  # sends under way at once
MEMORY = 50  # of one's own messages that one edits and deletes
AWAY_SECONDS = (0.05, 1.0)  # how long a reader is gone
HELD_SECONDS = (0.2, 4.0)  # how long one does not read
STAY_SECONDS = (0.2, 4.0)  # and between two of these
LEAF_SECONDS = (0.2, 2.0)  # between two acts of reading
Threads = dict[int, dict[str, Any]]  # as GET gives them to somebody, by id
Pages = dict[int, dict[int, int]]  # a digest of what is shown of each message, by thread and seq


def text_of(sent: Sent) -> str:
    """Made again whenever it is asked for: nobody keeps the texts."""
    chance = random.Random(f"{sent.client_id} {sent.version}")
    share = chance.random()
    length = chance.randint(1, next(most for up_to, most in TEXT_LENGTHS if share <= up_to))
    return f"{sent.client_id} v{sent.version} {''.join(chance.choices(LETTERS, k=length))}."


@dataclass
class Thread:
    """A thread made for this run."""

    id: int
    cursor: str  # where all readers begin
    mine: list[Sent] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/api/threads/{self.id}"

    def bytes_of(self, seq: int) -> int:
        """Of a message, as it was sent; what is not known counts for nothing."""
        return sum(len(text_of(replace(sent, version=1)).encode()) for sent in self.mine if sent.seq == seq)


class Writer:
    """Does one act after the other, each until it is answered, and compares the answer with the promise.

    socket: sends go by it as well as by HTTP, where there is one.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        socket: Socket | None,
        threads: list[Thread],
        sends: Sends,
        chance: random.Random,
        *,
        acts: Mapping[str, int],
    ) -> None:
        self.name, self._client, self._threads = name, client, threads
        self._socket, self._sends, self._chance, self._acts = socket, sends, chance, acts
        self._count = 0
        self._recent: dict[int, list[Sent]] = {thread.id: [] for thread in threads}

    async def work(self, pause_s: float, over: asyncio.Event) -> None:
        """An act every pause_s on average, until it is over."""
        while not over.is_set():
            await self._act()
            wait = self._chance.expovariate(1 / pause_s)
            try:
                async with asyncio.timeout(wait):
                    await over.wait()
            except TimeoutError:
                continue

    async def _act(self) -> None:
        thread = self._chance.choice(self._threads)
        recent = [sent for sent in self._recent[thread.id] if sent.acknowledged is not None]
        act = self._chance.choices(list(self._acts), list(self._acts.values()))[0]
        if act not in ("send", "burst", "race") and not recent:
            act = "send"
        try:
            match act:
                case "send":
                    await self._send(thread, self._new(thread))
                case "burst":
                    await asyncio.gather(*[self._send(thread, self._new(thread)) for _ in range(BURST)])
                case "race":
                    await self._race(thread)
                case "edit":
                    await self._edit(thread, self._chance.choice(recent))
                case "delete":
                    await self._delete(thread, self._chance.choice(recent))
                case "again":
                    await self._again(thread, self._chance.choice(recent))
                case "reuse":
                    await self._reuse(thread, self._chance.choice(recent))
        except Refused as error:
            self._sends.found("wrong", f"thread {thread.id}: {act} by {self.name} was refused: {error}")

    def _new(self, thread: Thread) -> Sent:
        self._count += 1
        sent = Sent(self.name, self._count, f"{self.name}-{self._count}", began=time.monotonic())
        self._sends.ledger[sent.client_id] = sent
        thread.mine.append(sent)
        recent = self._recent[thread.id]
        recent.append(sent)
        del recent[:-MEMORY]
        return sent

    @property
    def _way(self) -> Client | Socket:
        """How to send this time."""
        return self._chance.choice((self._client, self._socket or self._client))

    async def _send(self, thread: Thread, sent: Sent) -> None:
        answer = await self._way.send(thread.id, text_of(sent), client_id=sent.client_id)
        self._acknowledged(sent, answer)
        if answer.tries == 1 and answer.status not in (201, 0):
            self._sends.found("wrong", f"{sent.client_id}: the first send was answered with {answer.status}")

    def _acknowledged(self, sent: Sent, answer: Answer) -> None:
        sent.answered(answer.data["message"]["seq"], answer.tries, answer.seconds, time.monotonic())
        if answer.tries == 1:
            self._sends.spread.add(answer.seconds)
        if answer.status not in (200, 201, 0):
            self._sends.found("wrong", f"{sent.client_id}: a send was answered with {answer.status}")

    async def _race(self, thread: Thread) -> None:
        """The same twice at once: one message, and one 201 at most."""
        sent = self._new(thread)
        body = {"text": text_of(sent), "clientId": sent.client_id}
        path = f"{thread.path}/messages"
        async with self._client.turn(thread.id):
            both = await asyncio.gather(*[self._client.insist("POST", path, body) for _ in range(2)])
        self._sends.repeated += 1
        made = [answer.status for answer in both].count(201)
        if made > 1 or (made < 1 and all(answer.tries == 1 for answer in both)):
            self._sends.found(
                "wrong", f"{sent.client_id}: sent twice at once it was answered with {made} times 201"
            )
        if both[0].data["message"]["seq"] != both[1].data["message"]["seq"]:
            self._sends.found("duplicated", f"{sent.client_id}: sent twice at once it became two messages")
        self._acknowledged(sent, max(both, key=lambda answer: answer.status))

    async def _again(self, thread: Thread, sent: Sent) -> None:
        """What was acknowledged once more: the message that is there."""
        first = Sent(
            sent.writer, sent.number, sent.client_id, sent.began
        )  # as first sent, edited since or not
        answer = await self._way.send(thread.id, text_of(first), client_id=sent.client_id)
        self._sends.repeated += 1
        if answer.status not in (200, 0) or answer.data["message"]["seq"] != sent.seq:
            told = f"{answer.status} and message {answer.data['message']['seq']}"
            self._sends.found("wrong", f"{sent.client_id}, which is message {sent.seq}: sent again, {told}")

    async def _reuse(self, thread: Thread, sent: Sent) -> None:
        """Another text under a client id that was used."""
        try:
            await self._way.send(thread.id, f"not {sent.client_id}", client_id=sent.client_id)
        except Refused as error:
            if error.status in (422, 0) and error.code == "client_id_reused":
                return
            raise
        self._sends.found("wrong", f"{sent.client_id}: another text under the same client id was accepted")

    async def _edit(self, thread: Thread, sent: Sent) -> None:
        if sent.deleted:
            return
        sent.version += 1
        answer = await self._client.insist(
            "PATCH", f"{thread.path}/messages/{sent.seq}", {"text": text_of(sent)}
        )
        self._sends.edits += 1
        if answer.data["message"]["text"] != text_of(sent):
            self._sends.found("wrong", f"{sent.client_id}: an edit was answered with another text")

    async def _delete(self, thread: Thread, sent: Sent) -> None:
        if not sent.deleted:
            await self._client.insist("DELETE", f"{thread.path}/messages/{sent.seq}")
            sent.deleted = True
            self._sends.deletions += 1


@dataclass
class Manners:
    """What readers do now and then, by chance."""

    drops: bool = False
    pauses: bool = False
    done: Counter[str] = field(default_factory=Counter)  # of all readers together

    def next(self, chance: random.Random) -> str:
        """What comes next: drop, pause, or nothing ever."""
        return chance.choice(
            [name for name, on in (("drop", self.drops), ("pause", self.pauses)) if on] or [""]
        )


class Reader:
    """Somebody who reads for as long as the run lasts: what, and with what in mind, is each transport's own."""

    def __init__(
        self, name: str, stream: Follow | Socket, tally: Tally, manners: Manners, chance: random.Random
    ) -> None:
        self.name, self.stream, self.tally = name, stream, tally
        self._manners, self._chance = manners, chance
        self._connections = 0
        tally.readers += 1

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            what = self._manners.next(self._chance)
            stay = self._chance.uniform(*STAY_SECONDS)
            try:
                async with asyncio.timeout(stay if what == "drop" else None):
                    await self._read(time.monotonic() + stay if what == "pause" else math.inf)
            except TimeoutError:
                self._manners.done["drop"] += 1
                await self.stream.drop()
                await asyncio.sleep(self._chance.uniform(*AWAY_SECONDS))
            except Refused as error:
                self.tally.found("lost", f"{self.name}: the stream was refused: {error}")
                await asyncio.sleep(1)

    async def _read(self, hold_at: float) -> None:
        """Take what comes; from hold_at on the next event must wait for a while."""
        async for event in self.stream:
            now = time.monotonic()
            self.tally.connections += self.stream.connections - self._connections
            self._connections = self.stream.connections
            self.take(event, now)
            if now > hold_at:
                self._manners.done["pause"] += 1
                await asyncio.sleep(self._chance.uniform(*HELD_SECONDS))
                self.held(time.monotonic())
                return

    def take(self, event: Event, at: float) -> None:
        """One event more."""
        raise NotImplementedError

    def held(self, at: float) -> None:
        """It reads again: what was sent before is late by its own fault."""
        raise NotImplementedError

    @property
    def begun(self) -> bool:
        """Whether it reads."""
        return self.stream.connections > 0

    def level(self, threads: Threads) -> bool:
        """Whether it has been told all there is of threads at rest, as they are for this person."""
        raise NotImplementedError

    def judge(self, threads: Threads, shown: Pages) -> None:
        """At the end, against what a fresh client is shown: also of each message of each thread."""
        raise NotImplementedError


class LogReader(Reader):
    """Follows threads: one over SSE, or several over a WebSocket."""

    def __init__(self, *as_a_reader: Any, told: list[Told]) -> None:
        super().__init__(*as_a_reader)
        self._told = {one.thread_id: one for one in told}

    def take(self, event: Event, at: float) -> None:
        (only, *others) = self._told.values()
        thread_id = event.data.get("threadId") if others else only.thread_id
        if event.kind == "left":
            self.tally.found("lost", f"{self.name}, thread {thread_id}: sent away: {event.data['reason']}")
        elif thread_id in self._told:
            self._told[thread_id].take(event, at)

    def held(self, at: float) -> None:
        for told in self._told.values():
            told.since = at

    def level(self, threads: Threads) -> bool:
        return all(told.rev >= threads[thread_id]["lastRev"] for thread_id, told in self._told.items())

    def judge(self, threads: Threads, shown: Pages) -> None:
        for thread_id, told in self._told.items():
            told.judge(threads[thread_id]["lastRev"], shown[thread_id])


class FeedReader(Reader):
    """Follows the user stream."""

    def __init__(self, *as_a_reader: Any, told: FeedTold, threads: dict[int, Thread]) -> None:
        super().__init__(*as_a_reader)
        self._told, self._threads = told, threads

    def take(self, event: Event, at: float) -> None:
        self._told.take(event, at)

    def held(self, at: float) -> None:
        self._told.since = at

    @property
    def begun(self) -> bool:
        return self._told.since < math.inf

    def level(self, threads: Threads) -> bool:
        return self._told.level(threads)

    def judge(self, threads: Threads, shown: Pages) -> None:
        self._told.judge(threads, lambda thread_id, seq: self._threads[thread_id].bytes_of(seq))


async def leaf(client: Client, threads: list[Thread], chance: random.Random, over: asyncio.Event) -> None:
    """Read and unread threads now and then, as people do: their counts move."""
    while not over.is_set():
        thread = chance.choice(threads)
        last = (await client.insist("GET", thread.path)).data["thread"]["lastSeq"]
        if last:
            act = chance.choice(("read", "read", "unread"))
            await client.insist("POST", f"{thread.path}/{act}", {"seq": chance.randint(1, last)})
        try:
            async with asyncio.timeout(chance.uniform(*LEAF_SECONDS)):
                await over.wait()
        except TimeoutError:
            continue
