"""The demo town: planted once, whole, the same for the same seed."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
from argon2 import PasswordHasher

from server.base.settings import load
from server.ops import seed
from server.ops.town import CUSTOMERS, PASSWORD, PEOPLE, PLACES
from tests.ops.log import broken

UNTIL = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
async def conn(db_url: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database in which nobody lives."""
    conn = await asyncpg.connect(db_url)
    await conn.execute(
        "TRUNCATE users, threads, messages, changes, client_ids, tallies, conversation_days CASCADE"
    )
    yield conn
    await conn.close()


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    seed.add_arguments(parser)
    return parser.parse_args(words)


async def test_the_town_is_a_sound_log_of_the_promised_shape(conn: asyncpg.Connection, db_url: str) -> None:
    assert (await seed.seed(db_url, until=UNTIL)).done
    assert await broken(conn) == []
    sizes = await conn.fetch(
        """SELECT kind, last_seq, last_message_at FROM threads JOIN thread_heads ON thread_id = id
           WHERE kind <> 'contact'"""
    )
    counts = sorted(row["last_seq"] for row in sizes)
    assert (len(counts), counts[-1]) == (10, 20_000)
    assert counts[0] >= 50 and counts[-2] <= 500
    assert {row["kind"] for row in sizes} == {"channel", "group", "direct"}
    assert all(UNTIL - timedelta(days=30) < row["last_message_at"] <= UNTIL for row in sizes)
    assert await conn.fetchval(
        """SELECT count(*) FROM direct_pairs p
           JOIN users l ON l.id = p.low_user_id JOIN users h ON h.id = p.high_user_id
           JOIN threads t ON t.id = p.leads_to AND t.kind = 'direct'
           WHERE (l.username, h.username) = ('alice', 'bob')"""
    )


async def test_who_signs_in_is_in_most_threads_and_has_something_unread(
    conn: asyncpg.Connection, db_url: str
) -> None:
    await seed.seed(db_url, until=UNTIL)
    rows = await conn.fetch(
        """SELECT u.username, u.email, u.role, u.password_hash, count(*) AS threads,
                  count(*) FILTER (WHERE m.read_seq < h.last_seq) AS unread
           FROM users u JOIN memberships m ON m.user_id = u.id JOIN thread_heads h USING (thread_id)
           WHERE u.password_hash IS NOT NULL GROUP BY u.id ORDER BY u.username"""
    )
    assert [(row["username"], row["email"], row["role"]) for row in rows] == [
        ("alice", "alice@example.com", "admin"),
        ("bob", "bob@example.com", "agent"),
        ("charlie", "charlie@example.com", "member"),
    ]
    assert all(row["threads"] >= 7 and 0 < row["unread"] < row["threads"] for row in rows)
    assert all(PasswordHasher().verify(row["password_hash"], PASSWORD) for row in rows)
    assert len({row["password_hash"] for row in rows}) == 3  # salted each
    others = "SELECT count(*) FROM users WHERE password_hash IS NULL AND kind = 'user'"
    assert await conn.fetchval(others) == len(PEOPLE) - 3


async def test_people_write_by_day_and_most_messages_are_short(conn: asyncpg.Connection, db_url: str) -> None:
    await seed.seed(db_url, until=UNTIL)
    night, short, long, letters, pairs = await conn.fetchrow(
        """SELECT avg((extract(hour FROM created_at AT TIME ZONE 'UTC') NOT BETWEEN 6 AND 23)::int),
                  percentile_disc(0.5) WITHIN GROUP (ORDER BY length(text)), max(length(text)),
                  count(*) FILTER (WHERE text ~ '[а-я]') * count(*) FILTER (WHERE text ~ '[一-龯]')
                      * count(*) FILTER (WHERE text ~ '[👍😂🙏]'), count(reply_to)
           FROM messages"""
    )
    assert night < 0.01 and 15 < short < 80 and 600 < long < 10_000 and letters > 0 and pairs > 100


async def test_a_second_seed_adds_nothing_and_says_what_is_there(
    conn: asyncpg.Connection, db_url: str
) -> None:
    assert "Planted" in (await seed.seed_demo(db_url) or "")
    before = await conn.fetchval(
        "SELECT count(*) FROM messages JOIN threads t ON t.id = thread_id WHERE t.kind <> 'contact'"
    )
    again = await seed.seed(db_url, random_seed=7)
    assert (again.done, again.refused) == (False, False)
    assert f"10 threads with {before:,} messages" in again.sentence
    assert await seed.seed_demo(db_url) is None
    assert await conn.fetchval("SELECT count(*) FROM messages") > before > 20_000


async def test_two_seeds_at_once_plant_one_town(conn: asyncpg.Connection, db_url: str) -> None:
    outcomes = await asyncio.gather(*(seed.seed(db_url) for _ in range(3)))
    assert sorted(outcome.done for outcome in outcomes) == [False, False, True]
    assert await conn.fetchval("SELECT count(*) FROM threads") == len(PLACES) + len(CUSTOMERS)


async def test_the_town_hall_has_an_inbox_of_short_conversations(
    conn: asyncpg.Connection, db_url: str
) -> None:
    await seed.seed(db_url, until=UNTIL)
    rows = await conn.fetch(
        """SELECT c.name, n.status, n.snoozed_until, n.labels, n.last_at, h.last_seq, u.role,
                  (SELECT text FROM messages m WHERE m.thread_id = n.thread_id AND m.seq = h.last_seq) AS last,
                  (SELECT count(*) FROM memberships m JOIN users s ON s.id = m.user_id AND s.role = 'member'
                   WHERE m.thread_id = n.thread_id AND m.user_id <> c.id) AS outsiders
           FROM conversations n JOIN contacts c ON c.id = n.contact_id JOIN thread_heads h ON h.thread_id = n.thread_id
           LEFT JOIN users u ON u.id = n.assignee_id ORDER BY n.last_at DESC"""
    )
    assert len(rows) == len(CUSTOMERS) >= 20
    assert {row["status"] for row in rows} == {"open", "snoozed", "closed"}
    assert {row["role"] for row in rows} == {"admin", "agent", None}
    assert all((row["snoozed_until"] is not None) == (row["status"] == "snoozed") for row in rows)
    assert all(
        1 <= row["last_seq"] <= 10 and row["last_at"] <= UNTIL and not row["outsiders"] for row in rows
    )
    assert not [row["last"] for row in rows if row["last"].startswith(">")]
    assert rows[0]["name"] == "+12025550105" and {"choir", "library"} <= {
        x for row in rows for x in row["labels"]
    }
    counted = dict(await conn.fetch("SELECT name, sum(count)::int FROM tallies GROUP BY name"))
    assert counted["contacts"] == counted["conversations"] == len(CUSTOMERS)


@pytest.mark.parametrize(
    "taken", [("Alice", None), (None, "BOB@example.com"), ("katya", "katya@elsewhere.example")]
)
async def test_a_real_account_of_that_name_is_left_alone(
    conn: asyncpg.Connection, db_url: str, taken: tuple[str | None, str | None]
) -> None:
    await conn.execute("INSERT INTO users (name, username, email) VALUES ('somebody', $1, $2)", *taken)
    refused = await seed.seed(db_url)
    assert (refused.done, refused.refused) == (False, True)
    assert str(taken[0] or taken[1]) in refused.sentence
    assert await seed.seed_demo(db_url) == refused.sentence
    assert (
        await conn.fetchval("SELECT (SELECT count(*) FROM users) * 10 + (SELECT count(*) FROM threads)") == 10
    )


async def test_a_seed_that_breaks_off_leaves_nothing(
    conn: asyncpg.Connection, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = seed.plant_talk

    async def breaks_off(conn: asyncpg.Connection, talk: seed.Talk, ids: dict[str, int]) -> None:
        await whole(conn, talk, ids)
        if talk.place is PLACES[3]:
            raise ConnectionError

    monkeypatch.setattr(seed, "plant_talk", breaks_off)
    with pytest.raises(ConnectionError):
        await seed.seed(db_url)
    assert await conn.fetchval("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM messages)") == 0
    monkeypatch.undo()
    assert (await seed.seed(db_url)).done


def test_the_same_seed_and_day_give_the_same_town_and_another_seed_another() -> None:
    one, same, other = seed.town(1, UNTIL), seed.town(1, UNTIL), seed.town(2, UNTIL)
    assert one == same
    assert [talk.said[0].text for talk in one] != [talk.said[0].text for talk in other]
    later = seed.town(1, UNTIL + timedelta(days=7))
    assert [line.text for line in later[0].said[:20]] == [line.text for line in one[0].said[:20]]


def test_the_command_says_what_it_did(
    db_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load({"DATABASE_URL": db_url, "JWT_SECRET": "x" * 32})
    monkeypatch.setattr(seed, "database", lambda settings: nullcontext(settings.database_url))
    asyncio.run(_emptied(db_url))
    assert seed.run(arguments("--random-seed", "3", "--until", "2026-06-01"), settings) == 0
    assert "Sign in as alice, bob, charlie with password123." in capsys.readouterr().out
    assert seed.run(arguments(), settings) == 0
    assert "there already" in capsys.readouterr().out
    assert seed.run(arguments("--until", str(date.today() + timedelta(days=3))), settings) == 2
    assert "future" in capsys.readouterr().err


async def _emptied(db_url: str) -> None:
    conn = await asyncpg.connect(db_url)
    await conn.execute(
        "TRUNCATE users, threads, messages, changes, client_ids, tallies, conversation_days CASCADE"
    )
    await conn.close()
