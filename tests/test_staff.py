"""Contact threads and the staff: seen without membership, entered by the first act, lost with the role."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.client import Api, Person, Reply
from tests.conftest import Cast, Maker
from tests.staff import Contact, contact, hire, rows, says


@pytest.fixture
async def carla(db: asyncpg.Pool, cast: Cast) -> Contact:
    """A contact, who has written twice."""
    carla = await contact(db)
    await says(db, carla, "Hello?", "Anybody there?")
    return carla


@pytest.fixture
async def agent(api: Api, people: Maker, root: Person, carla: Contact) -> Person:
    """Of the staff since before that."""
    agent = await people("agent")
    await api_db_role(api, root, agent)
    return agent


async def api_db_role(api: Api, root: Person, agent: Person) -> None:
    await hire(api, root, agent)


Act = Callable[[Api, Contact, Person], Awaitable[Reply]]


def act(method: str, path: str, body: Any = None) -> Act:
    async def run(api: Api, one: Contact, person: Person) -> Reply:
        more = {} if body is None else {"json": body}
        return await api.ask(method, f"{one.url}{path}", as_=person, **more)

    return run


ACTS = {
    "send": (act("POST", "/messages", {"text": "Yes."}), 201),
    "edit": (
        act("PATCH", "/messages/1", {"text": "No."}),
        403,
    ),  # of the contact's words: entered, and refused
    "delete": (act("DELETE", "/messages/1"), 204),
    "react": (act("PUT", "/messages/1/reactions/%F0%9F%91%8D"), 204),
    "take back": (act("DELETE", "/messages/1/reactions/%F0%9F%91%8D"), 204),
    "pin": (act("PUT", "/messages/1/pin"), 204),
    "unpin": (act("DELETE", "/messages/1/pin"), 204),
    "read": (act("POST", "/read", {"seq": 2}), 200),
    "delivered": (act("POST", "/delivered", {"seq": 2}), 200),
    "unread": (act("POST", "/unread", {"seq": 1}), 200),
    "settings": (act("PATCH", "/me", {"muted": True}), 200),
    "typing": (act("POST", "/typing", {"isTyping": True}), 204),
}


@pytest.mark.parametrize("name", ACTS)
async def test_the_first_act_of_the_staff_enters_and_others_find_nothing(
    api: Api, db: asyncpg.Pool, cast: Cast, agent: Person, carla: Contact, name: str
) -> None:
    run, status = ACTS[name]
    assert await rows(db, carla) == {carla.id}
    done, refused = await run(api, carla, agent), await run(api, carla, cast.mallory)
    assert (done.status, refused.status) == (status, 404), done.body
    assert await rows(db, carla) == {carla.id, agent.id}
    assert (await run(api, carla, agent)).status == status  # with the row


READS = (
    "",
    "/messages",
    "/messages/2",
    "/pins",
    "/members",
    "/messages/2/receipts",
    "/presence",
    "/messages/2/edits",
)


@pytest.mark.parametrize("path", READS)
async def test_a_read_makes_nobody_a_member(
    api: Api, db: asyncpg.Pool, cast: Cast, agent: Person, carla: Contact, path: str
) -> None:
    seen, refused = [await api.get(carla.url + path, as_=one) for one in (agent, cast.ben)]
    assert (seen.status, refused.status) == (200, 404), seen.body
    assert await rows(db, carla) == {carla.id}
