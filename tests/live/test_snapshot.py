"""Snapshot + events = a fresh snapshot: random histories, and a reader who comes and goes in the midst of them."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server import messages
from tests.client import NUMBERS, Api, Person
from tests.conftest import Cast, Maker
from tests.live.wire import Frame, Wire, wire
from tests.rules import ok
from tests.staff import Contact


@dataclass
class State:
    """What a client shows of a thread."""

    cursor: str = ""
    title: str = ""
    messages: dict[int, dict[str, Any]] = field(default_factory=dict)
    members: dict[int, str] = field(default_factory=dict)
    contact: dict[str, Any] = field(default_factory=dict)  # of a contact thread, its place in the inbox

    def tell(self, frame: Frame) -> None:
        """One event more."""
        assert frame.id is not None
        assert frame.rev > int(self.cursor.rpartition(".")[2]), "told twice"
        self.cursor, data = frame.id, frame.json
        match frame.event:
            case "message" | "message_updated":
                assert data["rev"] >= frame.rev
                self._put(data)
                if frame.event == "message" and data["author"]["kind"] == "contact":
                    self.contact |= {"status": "open", "snoozedUntil": None}
            case "member" if data["act"] in ("left", "removed"):
                self.members.pop(data["userId"], None)
            case "member":
                self.members[data["userId"]] = data["role"]
            case "thread_updated":
                self.title, self.contact = data["title"], data.get("contact", {})
                for message in self.messages.values():  # the title of a contact thread is the contact's name
                    if message["author"]["kind"] == "contact":
                        message["author"]["name"] = data["title"]
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
        return self.title, self.members, self.contact, dict(sorted(plain.items()))


async def snapshot(api: Api, thread_id: int, who: Person) -> State:
    """As a client fetches it: the thread first, then the rest, which may be newer."""
    url = f"/api/threads/{thread_id}"
    thread = (await api.get(url, as_=who)).json["thread"]
    state = State(cursor=thread["streamCursor"], title=thread["title"])
    if thread["kind"] == "contact":
        state.contact = thread["contact"]
    else:  # of a contact thread, whoever of the staff has acted there: not told
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


INBOX_STEPS = (
    "say", "say", "answer", "open", "snooze", "snooze", "close", "close", "assign", "assign", "label", "label",
    "rename", "phone", "fetch", "follow", "follow", "take", "take", "take", "cut",
)  # fmt: skip


class Inbox:
    """A contact thread that an agent follows, while another one and the contact act."""

    def __init__(
        self, api: Api, db: asyncpg.Pool, carla: Contact, staff: list[Person], chance: random.Random
    ) -> None:
        self.client = Client(api, carla.thread, staff[0])
        self._api, self._db, self._carla, self._staff, self._chance = api, db, carla, staff, chance

    async def step(self, step: str) -> None:
        api, carla, chance, agent = self._api, self._carla, self._chance, self._staff[1]
        change: dict[str, Any] = {}
        match step:
            case "fetch":
                await self.client.fetch()
            case "follow":
                await self.client.follow()
            case "take":
                await self.client.take(chance.randint(1, 6))
            case "cut":
                await self.client.cut()
            case "say":
                await self.say()
            case "answer":
                await api.say(carla.thread, agent, "Yes?")
            case "rename":
                ok(await api.patch(f"/api/contacts/{carla.id}", {"name": f"C {chance.random()}"}, as_=agent))
            case "phone":
                number = f"+49171{next(NUMBERS):08}"
                ok(await api.patch(f"/api/contacts/{carla.id}", {"phoneNumber": number}, as_=agent))
            case "open":
                change = {"status": "open"}
            case "snooze":
                change = {"status": "snoozed", "snoozedUntil": f"21{chance.randint(10, 99)}-01-01T00:00:00Z"}
            case "close":
                change = {"status": "closed"}
            case "assign":
                change = {"assigneeId": chance.choice([None, *(one.id for one in self._staff)])}
            case "label":
                change = {"labels": chance.sample("abcd", chance.randint(0, 3))}
            case _:
                raise AssertionError(step)
        if change:
            ok(await api.patch(f"/api/conversations/{carla.thread}", change, as_=agent))

    async def say(self) -> None:
        """The contact writes, and no doorbell rings."""
        row = await messages.send(
            self._db, user_id=self._carla.id, thread_id=self._carla.thread, text="Hello?", reply_to=None,
            client_id=None, body_hash=b"", handles=[],
        )  # fmt: skip
        assert row is not None


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.sampled_from(INBOX_STEPS), min_size=5, max_size=30), seed=st.integers(0, 2**32))
async def test_so_it_is_of_a_contact_thread_and_its_place_in_the_inbox(
    api: Api, people: Maker, db: asyncpg.Pool, steps: list[str], seed: int
) -> None:
    staff = [await people(f"agent{next(NUMBERS)}") for _ in range(2)]
    await db.execute("UPDATE users SET role = 'agent' WHERE id = ANY($1)", [one.id for one in staff])
    made = (await api.post("/api/contacts", {"name": "Carla"}, as_=staff[1])).json["contact"]
    carla = Contact(made["id"], made["threadId"])
    inbox = Inbox(api, db, carla, staff, random.Random(seed))
    await inbox.say()
    try:
        await inbox.client.fetch()
        await inbox.client.follow()
        for step in steps:
            await inbox.step(step)
        await inbox.client.follow()
        last = await api.say(carla.thread, staff[1], "the last")
        fresh = await snapshot(api, carla.thread, staff[0])
        await inbox.client.until(last["rev"])
        assert inbox.client.state.cursor == fresh.cursor
        assert inbox.client.state.shown == fresh.shown
        assert fresh.contact["id"] == carla.id
    finally:
        await inbox.client.cut()
