"""Snapshot + events = a fresh snapshot: random histories, and a reader who comes and goes in the midst of them."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client import Api, Person
from tests.conftest import Cast, Maker
from tests.live.wire import Frame, Wire, wire


@dataclass
class State:
    """What a client shows of a thread."""

    cursor: str = ""
    title: str = ""
    messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    members: dict[int, str] = field(default_factory=dict)

    def tell(self, frame: Frame) -> None:
        """One event more."""
        assert frame.id is not None
        assert frame.rev > int(self.cursor.rpartition(".")[2]), "told twice"
        self.cursor, data = frame.id, frame.json
        match frame.event:
            case "message" | "message_updated":
                assert data["rev"] >= frame.rev
                self._put(data)
            case "member" if data["act"] in ("left", "removed"):
                self.members.pop(data["userId"], None)
            case "member":
                self.members[data["userId"]] = data["role"]
            case "thread_updated":
                self.title = data["title"]
            case _:
                raise AssertionError(frame)

    def _put(self, message: dict[str, Any]) -> None:
        self.messages[message["seq"]] = message
        for other in self.messages.values():  # who quotes it shows it as it now is
            if "author" in other.get("replyTo", {}) and other["replyTo"]["seq"] == message["seq"]:
                shown = {"seq": message["seq"], "author": message["author"], "text": message["text"][:200]}
                other["replyTo"] = {"seq": message["seq"]} if "deletedAt" in message else shown

    @property
    def shown(self) -> object:
        """What is compared."""
        plain = {
            seq: {k: v for k, v in m.items() if k not in ("status", "rev")}
            | {
                "reactions": [(one["emoji"], one["count"]) for one in m["reactions"]]
            }  # whose, events don't tell
            for seq, m in self.messages.items()
        }
        return self.title, self.members, dict(sorted(plain.items()))


async def snapshot(api: Api, thread_id: int, who: Person) -> State:
    """As a client fetches it: the thread first, then the rest, which may be newer."""
    url = f"/api/threads/{thread_id}"
    thread = (await api.get(url, as_=who)).json["thread"]
    state = State(cursor=thread["streamCursor"], title=thread["title"])
    for person in await walk(api, f"{url}/members?limit=2", "members", who):
        state.members[person["userId"]] = person["role"]
    for message in await walk(api, f"{url}/messages?limit=4", "items", who):
        state.messages[message["seq"]] = message
    return state


async def walk(api: Api, url: str, key: str, who: Person) -> list[dict[str, Any]]:
    """All pages."""
    found, cursor = list[dict[str, Any]](), ""
    while True:
        page = (await api.get(f"{url}{cursor}", as_=who)).json
        found += page[key]
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


class Client:
    """ben: fetches once, follows, is cut off, comes back; removed now and then, and invited again."""

    def __init__(self, api: Api, thread_id: int, who: Person) -> None:
        self._api, self._thread_id, self._who = api, thread_id, who
        self._stack = contextlib.AsyncExitStack()
        self._line: Wire | None = None
        self.state = State()

    async def fetch(self) -> None:
        """Afresh, now or never again."""
        await self.cut()
        self.state = await snapshot(self._api, self._thread_id, self._who)

    async def follow(self) -> None:
        if self._line is None:
            since = self.state.cursor
            self._line = await self._stack.enter_async_context(
                wire(self._api.base, self._thread_id, self._who, since=since)
            )
            assert self._line.status == 200
            ready = await self._line.next()
            assert ready is not None
            assert (ready.event, ready.id) == ("ready", since)

    async def take(self, count: int) -> None:
        """So many events, or less if there are none now."""
        if self._line is not None:
            with contextlib.suppress(TimeoutError):
                for _ in range(count):
                    frame = await self._line.next(limit=0.01)
                    if frame is None:
                        await self.cut()  # removed
                        return
                    self.state.tell(frame)

    async def until(self, rev: int) -> None:
        while int(self.state.cursor.rpartition(".")[2]) < rev:
            await self.follow()
            assert self._line is not None
            frame = await self._line.next()
            if frame is None:  # ended with a removal: back again
                await self.cut()
                continue
            self.state.tell(frame)

    async def cut(self) -> None:
        await self._stack.aclose()
        self._stack, self._line = contextlib.AsyncExitStack(), None


class History:
    """A thread of ada's; ben reads it, and others come and go."""

    def __init__(
        self, api: Api, thread_id: int, ada: Person, ben: Person, others: list[Person], chance: random.Random
    ) -> None:
        self.client = Client(api, thread_id, ben)
        self.under_way: list[asyncio.Task[None]] = []
        self._api, self._thread_id, self._url = api, thread_id, f"/api/threads/{thread_id}"
        self._ada, self._ben, self._others, self._chance = ada, ben, others, chance
        self._inside = True

    async def settle(self) -> None:
        """All that is under way is done."""
        under_way, self.under_way = self.under_way, []
        await asyncio.gather(*under_way)

    async def step(self, step: str) -> None:
        api, url, ada, ben = self._api, self._url, self._ada, self._ben
        match step:
            case "fetch":
                if self._inside:
                    await self.client.fetch()
            case "follow":
                if self._inside:
                    await self.client.follow()
            case "take":
                await self.client.take(self._chance.randint(1, 6))
            case "cut":
                await self.client.cut()
            case "leave":
                if self._inside:
                    self._inside = False
                    assert (await api.post(f"{url}/leave", as_=ben)).status == 204
            case "remove":
                if self._inside:
                    self._inside = False
                    assert (await api.delete(f"{url}/members/{ben.id}", as_=ada)).status == 204
            case "invite":
                if not self._inside:
                    self._inside = True
                    assert (await api.post(f"{url}/members", {"userId": ben.id}, as_=ada)).status == 201
            case _:
                self.under_way.append(asyncio.ensure_future(self.write(step)))

    async def write(self, step: str) -> None:
        api, url, ada, chance = self._api, self._url, self._ada, self._chance
        latest = (await api.get(url, as_=ada)).json["thread"]["lastSeq"]
        seq, text = chance.randint(1, max(1, latest)), f"{step} {chance.random()}"
        match step:
            case "say":
                await api.say(self._thread_id, ada, text)
            case "reply":
                await api.say(self._thread_id, ada, text, replyTo=seq)
            case "edit":
                reply = await api.patch(f"{url}/messages/{seq}", {"text": text}, as_=ada)
                assert reply.status in (200, 409)
            case "delete":
                assert (await api.delete(f"{url}/messages/{seq}", as_=ada)).status == 204
            case "react" | "pin":
                emoji = f"reactions/:{chance.choice('ab')}:"
                place = f"{url}/messages/{seq}/{emoji if step == 'react' else 'pin'}"
                who = ada if step == "pin" else chance.choice((ada, self._ben))
                reply = await api.ask(chance.choice(("PUT", "PUT", "DELETE")), place, as_=who)
                assert reply.status in (204, 409) or who == self._ben
            case "rename":
                assert (await api.patch(url, {"title": text}, as_=ada)).status == 200
            case "role":
                role = {"role": chance.choice(("member", "moderator"))}
                assert (await api.patch(f"{url}/members/{self._ben.id}", role, as_=ada)).status in (200, 404)
            case "others":
                other = chance.choice(self._others)
                if (await api.post(f"{url}/members", {"userId": other.id}, as_=ada)).status == 409:
                    assert (await api.delete(f"{url}/members/{other.id}", as_=ada)).status in (204, 404)
            case _:
                raise AssertionError(step)


STEPS = (
    "say", "say", "say", "reply", "reply", "edit", "delete", "react", "react", "react", "pin", "pin", "rename", "role",
    "remove", "leave", "invite", "invite", "others", "others",
    "fetch", "follow", "follow", "follow", "follow", "take", "take", "take", "cut", "cut",
)  # fmt: skip


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "all at once"])
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=40), seed=st.integers(0, 2**32))
async def test_a_snapshot_and_what_follows_is_a_fresh_snapshot(
    api: Api, cast: Cast, people: Maker, together: bool, steps: list[str], seed: int
) -> None:
    """One by one, and with the writes of several people under way at once."""
    others = [cast.mallory, await people("carl")]
    thread_id = await api.thread(cast.ada, cast.ben)
    history = History(api, thread_id, cast.ada, cast.ben, others, random.Random(seed))
    await history.write("say")
    try:
        await history.client.fetch()
        await history.client.follow()
        for step in steps:
            if not together or len(history.under_way) > 6:
                await history.settle()
            await history.step(step)
        await history.settle()
        await history.step("invite")
        await history.client.follow()
        last = await api.say(
            thread_id, cast.ada, "the last"
        )  # which ben may see, so that he knows he is at the end
        fresh = await snapshot(api, thread_id, cast.ben)
        await history.client.until(last["rev"])
        assert history.client.state.cursor == fresh.cursor
        assert history.client.state.shown == fresh.shown
    finally:
        await history.settle()
        await history.client.cut()
