"""An inbox at size: whole or not there, the same for the same seed, and shaped as people are."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from server import grams
from server.ops import masses, seed, slices
from server.ops.migrate import dump
from server.ops.slices import Plan, Slices
from server.ops.town import CUSTOMERS
from tests.conftest import Backing
from tests.ops.log import broken

UNTIL = datetime(2026, 6, 1, tzinfo=UTC)
SMALL = Plan(500, 45_000, 1, UNTIL)  # of some slices
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def conn(db_url: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database in which nobody lives."""
    conn = await asyncpg.connect(db_url)
    await empty(conn)
    yield conn
    await conn.close()


async def empty(conn: asyncpg.Connection) -> None:
    tables = await conn.fetch(
        """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
           AND relname NOT IN ('schema_migrations', 'log_epoch', 'audit', 'search_place')"""
    )
    await conn.execute(f"TRUNCATE {', '.join(row['relname'] for row in tables)} CASCADE")


async def counts(conn: asyncpg.Connection) -> tuple[int, ...]:
    """Of contacts, conversations, messages and changes."""
    row = await conn.fetchrow(
        """SELECT (SELECT count(*) FROM contacts), (SELECT count(*) FROM conversations),
                  (SELECT count(*) FROM messages), (SELECT count(*) FROM changes)"""
    )
    assert row is not None
    return tuple(row)


async def test_the_masses_are_a_sound_log_and_everything_kept_beside_it_is_what_a_count_says(
    conn: asyncpg.Connection, db_url: str
) -> None:
    before = dump(db_url)
    done = await seed.seed_masses(db_url, SMALL)
    assert (
        done.done
        and "500 contacts with 45,000 messages" in done.sentence
        and "Sign in as alice" in done.sentence
    )
    assert await broken(conn) == []
    assert dump(db_url) == before  # the indexes and keys that were taken away are back
    assert await conn.fetchval("SELECT count(*) FROM contacts WHERE external_id LIKE 'seed-%'") == 500
    assert await conn.fetchval("SELECT count(*) FROM contacts") == 500 + len(CUSTOMERS)
    kept = dict(await conn.fetch("SELECT name, sum(count)::bigint FROM tallies GROUP BY name"))
    recount = dict(
        await conn.fetch(
            """SELECT status, count(*) FROM conversations WHERE last_at IS NOT NULL GROUP BY status
               UNION ALL SELECT 'conversations', count(*) FROM conversations WHERE last_at IS NOT NULL
               UNION ALL SELECT 'contacts', count(*) FROM contacts"""
        )
    )
    assert kept == recount and kept["conversations"] <= kept["contacts"]
    wrong = {
        "a contact, its account and its thread have one name": """
            SELECT FROM contacts c JOIN users u USING (id) JOIN threads t ON t.id = c.thread_id
            WHERE (c.name, c.name, 'contact', 'contact') <> (u.name, t.title, u.kind, t.kind)""",
        "nobody is in a contact thread but the contact and the staff": """
            SELECT FROM memberships m JOIN contacts c USING (thread_id) JOIN users u ON u.id = m.user_id
            WHERE m.user_id <> c.id AND (u.role = 'member' OR m.role <> 'moderator')""",
        "each contact has its own place": """
            SELECT FROM contacts c WHERE NOT EXISTS (
                SELECT FROM memberships m WHERE (m.thread_id, m.user_id) = (c.thread_id, c.id))""",
        "an author is the contact or of the staff": """
            SELECT FROM messages m JOIN contacts c USING (thread_id) JOIN users u ON u.id = m.author_id
            WHERE u.id <> c.id AND u.role = 'member'""",
        "who is there was there before they wrote": """
            SELECT FROM contacts c JOIN messages m USING (thread_id) WHERE m.seq = 1 AND m.created_at < c.created_at""",
        "nothing is said after the end": "SELECT FROM messages WHERE created_at > '2026-06-01Z'",
        "ids go on after the last": "SELECT WHERE nextval(pg_get_serial_sequence('users', 'id'))"
        " <= (SELECT max(id) FROM users)",
    }
    assert [rule for rule, sql in wrong.items() if await conn.fetch(f"{sql} LIMIT 1")] == []


async def test_a_fifth_of_the_contacts_has_four_fifths_of_the_messages_and_one_has_far_the_most(
    conn: asyncpg.Connection, db_url: str
) -> None:
    await seed.seed_masses(db_url, SMALL)
    sizes = [
        row["last_seq"]
        for row in await conn.fetch(
            """SELECT h.last_seq FROM thread_heads h JOIN contacts c USING (thread_id)
               WHERE c.external_id LIKE 'seed-%' ORDER BY h.last_seq DESC"""
        )
    ]
    assert sum(sizes) == 45_000 and sum(sizes[:100]) == 36_000
    assert sizes[0] == 2_250 and len(set(sizes)) > 50
    full = sorted(Plan(100_000, 5_000_000, 1, UNTIL).sizes(), reverse=True)
    assert (full[0], sum(full), sum(full[:20_000])) == (20_000, 5_000_000, 4_000_000)
    for contacts, messages in ((1, 1), (1, 30_000), (2, 7), (4, 100), (7, 3), (60, 500)):
        few = Plan(contacts, messages, 1, UNTIL).sizes()
        assert (len(few), sum(few), min(few) >= 0) == (contacts, messages, True)
    by_night, by_day = await conn.fetchrow(
        """SELECT count(*) FILTER (WHERE extract(hour FROM m.created_at AT TIME ZONE 'UTC') < 6),
                  count(*) FILTER (WHERE extract(hour FROM m.created_at AT TIME ZONE 'UTC') BETWEEN 9 AND 14)
           FROM messages m JOIN contacts c USING (thread_id)"""
    )
    assert by_day > 10 * by_night > 0
    statuses = dict(
        await conn.fetch(
            "SELECT status, count(*) FROM conversations WHERE last_at IS NOT NULL GROUP BY status ORDER BY 1"
        )
    )
    assert set(statuses) == {"open", "snoozed", "closed"} and min(statuses.values()) > 3
    assigned, labelled, teams, unread = await conn.fetchrow(
        """SELECT avg((n.assignee_id IS NOT NULL)::int), avg((n.labels <> '{}')::int),
                  count(DISTINCT n.assignee_id),
                  (SELECT count(*) FROM memberships m JOIN thread_heads h USING (thread_id)
                   WHERE m.role = 'moderator' AND m.read_seq < h.last_seq)
           FROM conversations n"""
    )
    assert 0.5 < assigned < 0.7 and 0.2 < labelled < 0.4 and teams > 5 and unread > 10
    numbers = [row[0] for row in await conn.fetch("SELECT phone_number FROM contacts")]
    assert len(set(numbers)) == len(numbers) and all(re.fullmatch(r"\+[1-9]\d{6,14}", n) for n in numbers)


def test_the_same_plan_gives_the_same_slices_however_many_make_them() -> None:
    alone = [
        (s.number, s.messages, s.rows, s.changes, s.blocks, s.grams, s.heard) for s in Slices(SMALL).all()
    ]
    shared = [
        (s.number, s.messages, s.rows, s.changes, s.blocks, s.grams, s.heard)
        for part in (0, 1)
        for s in Slices(SMALL).all(part, 2)
    ]
    assert len(alone) == 5 and sum(one[1] for one in alone) == 45_000
    assert sorted(shared, key=lambda one: one[0]) == alone
    other = next(Slices(Plan(500, 45_000, 2, UNTIL)).all())
    assert other.rows != alone[0][2]


def test_a_slice_holds_no_more_than_a_slice_may() -> None:
    """So the memory of who makes them does not grow with what is made."""
    many = Slices(Plan(2_000, 400_000, 1, UNTIL))
    sizes = [after - before for _, _, before, after in many.bounds]
    assert len(sizes) >= 400_000 // (slices.SLICE + slices.MOST) and max(sizes) < slices.SLICE + slices.MOST
    assert sum(sizes) == 400_000


async def test_people_speak_in_many_tongues_and_most_words_are_rare(
    conn: asyncpg.Connection, db_url: str
) -> None:
    await seed.seed_masses(db_url, SMALL)
    texts = [
        row["text"]
        for row in await conn.fetch(
            """SELECT m.text FROM messages m JOIN contacts c USING (thread_id) WHERE c.external_id LIKE 'seed-%'"""
        )
    ]
    assert 50 < sum(map(len, texts)) / len(texts) < 75
    for script in ("[a-z]", "[а-я]", "[α-ω]", "[ء-ي]", "[一-龯]", "[ぁ-ん]", "[🙂👍🙏]"):
        assert sum(bool(re.search(script, text)) for text in texts) > 50, script
    words = Counter(word for text in texts for word in re.findall(r"\w+", text.lower()))
    ranked = [count for _, count in words.most_common()]
    assert ranked[0] > 10 * ranked[100] > 50 * ranked[5_000] and ranked[-1] == 1
    assert len(set(texts)) > 0.8 * len(texts)
    assert all(text == text.strip() and 1 <= len(text) <= 10_000 for text in texts)


async def test_search_finds_all_of_it_and_the_indexer_goes_on_where_the_seed_began(
    conn: asyncpg.Connection, db_url: str
) -> None:
    other = await asyncpg.connect(db_url)  # who has begun something before the seed, and commits after it
    try:
        begun = other.transaction()
        await begun.start()
        open_xid = int(await other.fetchval("SELECT pg_current_xact_id()::text"))
        assert (await seed.seed_masses(db_url, SMALL)).done
        place = await conn.fetchval("SELECT place FROM search_place")
        assert await conn.fetchval(
            "SELECT bool_and(pg_visible_in_snapshot(xid, $1::text::pg_snapshot)) FROM changes", place
        )
        assert not await conn.fetchval(
            "SELECT pg_visible_in_snapshot($1::bigint::text::xid8, $2::text::pg_snapshot)", open_xid, place
        )
        assert not await conn.fetchval(
            "SELECT pg_visible_in_snapshot(pg_current_xact_id(), $1::text::pg_snapshot)", place
        )
        await begun.rollback()
    finally:
        await other.close()
    rows = await conn.fetch("SELECT * FROM search_blocks ORDER BY at, thread_id, seq")
    found = [
        (*key, author, text)
        for row in rows
        for *key, author, text in zip(
            row["ats"],
            row["thread_ids"],
            row["seqs"],
            row["author_ids"],
            row["text"].split(grams.MARK),
            strict=True,
        )
    ]
    assert found == sorted(found) and len(rows) > 5
    said = await conn.fetch(
        "SELECT created_at, thread_id, seq, author_id, text FROM messages ORDER BY created_at, thread_id, seq"
    )
    assert found == [
        (grams.micros(at), thread, seq, author, grams.fold(text))
        for at, thread, seq, author, text in map(tuple, said)
    ]
    kept = {row["block_id"]: row["grams"] for row in await conn.fetch("SELECT * FROM search_grams")}
    assert set(kept) == {row["id"] for row in rows[:-1]}  # the newest still grows
    some = rows[2]
    assert f"{grams.MARK}t{some['thread_ids'][3]}" in kept[some["id"]].split("\n")
    assert await conn.fetchval("SELECT nextval(pg_get_serial_sequence('search_blocks', 'id'))") > max(kept)


async def test_beside_a_town_with_a_log_the_masses_are_added_and_the_indexes_stay(
    conn: asyncpg.Connection, db_url: str
) -> None:
    await seed.seed(db_url, until=UNTIL)
    contacts, _, messages, changes = await counts(conn)
    names = [row["oid"] for row in await conn.fetch("SELECT indexrelid AS oid FROM pg_index ORDER BY 1")]
    assert (await seed.seed_masses(db_url, SMALL)).done
    assert await broken(conn) == []
    assert await counts(conn) == (contacts + 500, contacts + 500, messages + 45_000, changes + 45_000)
    assert names == [
        row["oid"] for row in await conn.fetch("SELECT indexrelid AS oid FROM pg_index ORDER BY 1")
    ]


async def test_a_second_run_adds_nothing_and_beside_contacts_of_others_there_will_be_none(
    conn: asyncpg.Connection, db_url: str
) -> None:
    few = Plan(20, 100, 1, UNTIL)
    one, other = await asyncio.gather(seed.seed_masses(db_url, few), seed.seed_masses(db_url, few))
    assert sorted([one.done, other.done]) == [False, True] and not (one.refused or other.refused)
    assert "20 seeded contacts already" in (one if other.done else other).sentence
    await empty(conn)
    await seed.seed(db_url, until=UNTIL)
    await conn.execute("UPDATE contacts SET external_id = NULL WHERE external_id = 'demo-3'")
    before = await counts(conn)
    refused = await seed.seed_masses(db_url, few)
    assert refused.refused and "contacts of its own (1)" in refused.sentence
    assert await counts(conn) == before


async def test_killed_in_the_middle_it_leaves_nothing_and_begins_anew(
    conn: asyncpg.Connection, db_url: str
) -> None:
    words = [sys.executable, "-m", "server", "seed", "--contacts", "300", "--messages", "400000"]
    process = subprocess.Popen(
        [*words, "--until", "2026-06-01"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": db_url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    at_work = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bobbin seed'"
    async with asyncio.timeout(60):
        while not await conn.fetchval(f"{at_work} AND query LIKE 'COPY \"messages\"%'"):
            assert process.poll() is None
            await asyncio.sleep(0.01)
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
        ).stdout.split()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while await conn.fetchval(at_work) or any(Path(f"/proc/{child}/exe").exists() for child in children):
            await asyncio.sleep(0.01)
    assert await counts(conn) == (0, 0, 0, 0)
    assert await conn.fetchval("SELECT count(*) FROM users") == 0
    assert (await seed.seed_masses(db_url, Plan(50, 500, 1, UNTIL))).done
    assert await broken(conn) == []


def test_when_people_write_is_in_order_and_of_the_year_before() -> None:
    calendar = slices.Calendar(SMALL)
    moments = [calendar.moment(share / 1_000) for share in range(1_001)]
    assert moments == sorted(moments)
    assert (
        masses.moment(moments[0]) == UNTIL - timedelta(days=slices.DAYS)
        and masses.moment(moments[-1]) == UNTIL
    )


def test_a_number_that_makes_no_sense_is_refused(backing: Backing, tmp_path: Path) -> None:
    for words, said in (
        (("--messages", "10"), "needs --contacts"),
        (("--contacts", "0"), "must be 1 to"),
        (("--contacts", "many"), "invalid"),
        (("--contacts", "5", "--messages", "-1"), "must be 1 to"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "server", "seed", *words],
            cwd=ROOT,
            env={**os.environ, "BOBBIN_DATA_DIR": str(tmp_path), "DATABASE_URL": backing.url("nowhere")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and said in done.stderr
