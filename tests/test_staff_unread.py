"""What is unread and in sight in contact threads, by a naive recount: hired and fired, entered or not, archived."""

from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.ops import archive
from server.ops.archive import Shelf
from tests.client import Api, Person
from tests.conftest import Maker
from tests.rules import ok
from tests.staff import contact, hire, rows, says
from tests.test_unread import counts, moved


@dataclass
class Model:
    """A contact thread, told naively: every message, and how far each of the staff has read."""

    living: list[bool] = field(default_factory=list)  # by seq - 1
    mentions: list[set[int]] = field(default_factory=list)
    border: int = 0  # what is archived
    read: dict[int, int] = field(default_factory=dict)  # of the staff
    entered: set[int] = field(default_factory=set)

    @property
    def last(self) -> int:
        return len(self.living)

    @property
    def seen(self) -> list[int]:
        return list(range(self.border + 1, self.last + 1))

    def say(self, mentioned: set[int]) -> None:
        self.living.append(True)
        self.mentions.append(mentioned)

    def counts(self, who: int) -> tuple[int, int | None, int, int]:
        read = max(self.read[who], self.border)
        unread = [seq for seq in self.seen if seq > read and self.living[seq - 1]]
        return (
            len(unread),
            min(unread, default=None),
            sum(who in self.mentions[seq - 1] for seq in unread),
            read,
        )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "hear",
                "hear",
                "hear",
                "say",
                "name",
                "delete",
                "read",
                "delivered",
                "unread",
                "unread",
                "turn",
                "archive",
            ]
        ),
        st.integers(0, 2),
        st.integers(0, 30),
    ),
    min_size=5,
    max_size=30,
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
@example(
    [("hear", 0, 0), ("hear", 0, 0), ("turn", 1, 0), ("hear", 0, 0), ("archive", 0, 1), ("delivered", 1, 3),
     ("unread", 1, 0), ("turn", 1, 0), ("hear", 0, 0), ("turn", 1, 0), ("unread", 1, 1), ("delete", 1, 4)],
)  # fmt: skip
@example(
    [
        ("hear", 0, 0),
        ("turn", 2, 0),
        ("hear", 0, 0),
        ("archive", 0, 2),
        ("hear", 0, 0),
        ("name", 0, 2),
        ("read", 2, 4),
    ]
)
async def test_what_is_unread_is_what_a_naive_recount_finds(
    api: Api, people: Maker, db: asyncpg.Pool, root: Person, served: str, tmp_path: Path,
    steps: list[tuple[str, int, int]],
) -> None:  # fmt: skip
    crowd = [await people(name) for name in ("ada", "ben", "eve")]
    found = await db.fetch(
        "SELECT id, username FROM users WHERE id = ANY($1::bigint[])", [who.id for who in crowd]
    )
    handles = {row["id"]: row["username"] for row in found}
    await hire(api, root, crowd[0])
    carla, model = await contact(db), Model(read={crowd[0].id: 0})
    for act, number, pick in steps:
        who, seq = crowd[number], pick % (model.last + 1)
        staff = who.id in model.read
        if act == "hear":
            await says(db, carla, "words")
            model.say(set())
        elif act in ("say", "name") and staff:
            named = crowd[pick % 3]
            await api.say(carla.thread, who, f"@{handles[named.id]} look" if act == "name" else "words")
            model.say({named.id} & set(model.read) - {who.id} if act == "name" else set())
            model.read[who.id] = model.last
        elif act == "delete" and staff and seq in model.seen:
            ok(await api.delete(f"{carla.url}/messages/{seq}", as_=who), 204)
            model.living[seq - 1] = False
        elif act in ("read", "delivered", "unread") and staff:
            if act == "read":
                model.read[who.id] = max(model.read[who.id], seq)
            elif act == "unread" and model.seen:
                model.read[who.id] = min(max(model.read[who.id], model.border), max(seq - 1, model.border))
            assert await moved(api, carla.thread, who, act, seq) == model.counts(who.id)
        elif act == "turn":
            await hire(api, root, who, "member" if staff else "agent")
            if staff:
                del model.read[who.id]
                model.entered.discard(who.id)
            else:
                model.read[who.id] = model.last
        elif act == "archive" and model.border < seq < model.last:
            await put_away(db, served, tmp_path, carla.thread, seq)
            model.border = seq
        else:
            continue
        if act not in ("hear", "turn", "archive"):
            model.entered.add(who.id)
        for person in crowd:
            if person.id in model.read:
                assert await counts(api, carla.thread, person) == model.counts(person.id), (
                    act,
                    who.name,
                    person.name,
                )
                page = ok(await api.get(f"{carla.url}/messages?limit=100", as_=person))
                assert [one["seq"] for one in page["items"]] == model.seen
            else:
                for path in ("", "/messages"):
                    ok(await api.get(carla.url + path, as_=person), 404)
        assert await rows(db, carla) == {carla.id} | model.entered


async def put_away(db: asyncpg.Pool, url: str, folder: Path, thread_id: int, seq: int) -> None:
    """Archive what is before the message after this one."""
    before = await db.fetchval(
        "SELECT created_at FROM messages WHERE thread_id = $1 AND seq = $2", thread_id, seq + 1
    )
    shelf = Shelf(folder / f"{thread_id}-{seq}")
    async with archive._connected(url) as conn:
        await archive.archive(conn, shelf, before=before, thread_id=thread_id)
    shelf.close()
    border = await db.fetchval("SELECT archived_seq FROM thread_heads WHERE thread_id = $1", thread_id)
    assert border == seq
