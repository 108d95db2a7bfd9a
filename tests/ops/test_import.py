"""bobbin import: everything that is said arrives once, whatever happens in between."""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import asyncpg
import pytest

from server.base.settings import load
from server.live import changes, merged
from server.ops import bulk, imports
from server.ops.imports import CannotImport, Report, import_files
from server.ops.records import Options, Record
from tests.conftest import Backing
from tests.ops.log import broken

HERE = Options(day=None, zone=UTC)
ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "irc"


@pytest.fixture
async def conn(db_url: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database in which nobody lives."""
    conn = await asyncpg.connect(db_url)
    await conn.execute("TRUNCATE users, threads, messages, changes, client_ids CASCADE")
    yield conn
    await conn.close()


def log(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def long_log(path: Path, messages: int, *, names: int = 40, seed: int = 1) -> Path:
    """A day on which much is said by many."""
    chance = Random(seed)
    minutes = sorted(chance.randrange(1440) for _ in range(messages))
    says = [
        f"[{m // 60:02}:{m % 60:02}] <n{chance.randrange(names)}> {seed} line {i}"
        for i, m in enumerate(minutes)
    ]
    return log(path, *says)


async def bring(db_url: str, *paths: Path, channel: str = "town", **more: object) -> Report:
    return await import_files(db_url, "irc", paths, **{"channel": channel, "options": HERE, **more})  # type: ignore[arg-type]


async def said(conn: asyncpg.Connection, channel: str = "town") -> list[tuple[object, ...]]:
    """Who, what, how and when, in order, of a channel."""
    rows = await conn.fetch(
        """SELECT u.name, m.text, m.form, m.created_at FROM messages m
           JOIN users u ON u.id = m.author_id JOIN threads t ON t.id = m.thread_id
           WHERE t.title = $1 ORDER BY m.seq""",
        channel,
    )
    return [tuple(row) for row in rows]


def at(day: int, hour: int, minute: int) -> datetime:
    return datetime(2020, 5, day, hour, minute, tzinfo=UTC)


async def test_a_folder_becomes_a_channel_with_its_people(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    log(
        tmp_path / "2020-05-02.txt",
        "[08:00] <Ada> second day",
        "=== Ada is now known as Ada_",
        "[08:01] <Ada_> hm",
    )
    log(tmp_path / "2020-05-01.log", "[08:00] <ada> first", "[08:00]  * ben nods", "[08:02] -bot:#town- beep")
    log(tmp_path / "README.md", "[08:00] <nobody> no log")
    report = await bring(db_url, *imports.files([tmp_path], lambda _: None))
    assert await said(conn) == [
        ("ada", "first", None, at(1, 8, 0)),
        ("ben", "nods", "action", at(1, 8, 0)),
        ("bot", "beep", "notice", at(1, 8, 2)),
        ("ada", "second day", None, at(2, 8, 0)),  # the same nickname ignoring case
        ("Ada_", "hm", None, at(2, 8, 1)),
    ]
    assert await broken(conn) == []
    assert (report.made, report.added, report.joined, len(report.people)) == (True, 5, 4, 4)
    assert dict(report.forms) == {"message": 3, "action": 1, "notice": 1}
    assert dict(report.left_out) == {"renamed": 1}
    people = await conn.fetch("SELECT username, external_id, email, password_hash FROM users")
    assert {tuple(row) for row in people} == {
        (None, f"irc:town:{nick}", None, None) for nick in ("ada", "ben", "bot", "ada_")
    }
    row = await conn.fetchrow("SELECT kind, created_at FROM threads")
    assert tuple(row) == ("channel", at(1, 8, 0))


async def test_a_second_run_adds_nothing_and_a_grown_file_is_continued(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    path = log(tmp_path / "2020-05-01.txt", "[08:00] <ada> one", "[08:01] <ben> two")
    await bring(db_url, path)
    again = await bring(db_url, path)
    assert (again.added, again.known, again.made, again.refused) == (0, 1, False, [])
    with path.open("a") as file:
        file.write("[09:00] <ada> three\n[08:30] <cyd> four\n")
    grown = await bring(db_url, path)
    assert (grown.added, grown.files, grown.joined) == (2, 1, 1)
    assert [line[1] for line in await said(conn)] == ["one", "two", "three", "four"]
    assert await broken(conn) == []
    assert (await bring(db_url, path)).added == 0


async def test_a_changed_file_is_refused_and_the_rest_goes_on(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    changed = log(tmp_path / "2020-05-01.txt", "[08:00] <ada> one", "[08:01] <ben> two")
    shorter = log(tmp_path / "2020-05-02.txt", "[08:00] <ada> three", "[08:01] <ben> four")
    await bring(db_url, changed, shorter)
    log(changed, "[08:00] <ada> ONE", "[08:01] <ben> two", "[08:02] <ben> more")
    log(shorter, "[08:00] <ada> three")
    new = log(tmp_path / "2020-05-03.txt", "[08:00] <ada> five")
    report = await bring(db_url, changed, shorter, new)
    assert [sentence.split(":")[0] for sentence in report.refused] == [changed.name, shorter.name]
    assert all("differs" in sentence for sentence in report.refused)
    assert [line[1] for line in await said(conn)] == ["one", "two", "three", "four", "five"]


async def test_what_is_older_than_the_channel_is_refused_and_can_have_a_channel_of_its_own(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    new = log(tmp_path / "2020-05-02.txt", "[08:00] <ada> new")
    old = log(tmp_path / "2020-05-01.txt", "[08:00] <ada> old")
    late = log(tmp_path / "2020-05-03.txt", "[08:00] <ada> late")
    await bring(db_url, new)
    report = await bring(db_url, old, new, late)
    assert (
        len(report.refused) == 1 and "2020-05-01.txt: its line 1 (2020-05-01 08:00 UTC)" in report.refused[0]
    )
    assert [line[1] for line in await said(conn)] == ["new", "late"]
    other = await bring(db_url, old, channel="the past", network="town")
    assert other.added == 1
    assert (
        await conn.fetchval("SELECT count(*) FROM users") == 1
    )  # one network: the same ada in both channels


async def test_overlapping_files_follow_one_another_and_time_never_falls(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    first = log(tmp_path / "2020-05-01.a.txt", "[08:00] <ada> 1", "[09:00] <ada> 2")
    second = log(tmp_path / "2020-05-01.b.txt", "[08:30] <ben> 3", "[09:30] <ben> 4")
    report = await bring(db_url, second, first)
    assert [(line[1], line[3]) for line in await said(conn)] == [
        ("1", at(1, 8, 0)),
        ("2", at(1, 9, 0)),
        ("3", at(1, 9, 0)),
        ("4", at(1, 9, 30)),
    ]
    assert report.moved == 1
    assert await broken(conn) == []


async def test_imported_people_take_no_handle_from_those_who_are_here(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    nicks = ["ada", "ADA", "|ada|", "x", "Жора", "long" * 20]
    path = log(tmp_path / "2020-05-01.txt", *(f"[08:00] <{nick}> hi" for nick in nicks))
    await bring(db_url, path)
    rows = await conn.fetch("SELECT name, username, password_hash FROM users ORDER BY id")
    assert sorted(row["name"] for row in rows) == sorted(["ada", "|ada|", "x", "Жора", "long" * 20])
    assert {(row["username"], row["password_hash"]) for row in rows} == {(None, None)}


async def test_an_import_into_a_living_channel_keeps_its_people_and_order(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    path = log(tmp_path / "2020-05-01.txt", "[08:00] <ada> one")
    made = await bring(db_url, path)
    ada = await conn.fetchval("SELECT id FROM users")
    await conn.execute(
        "UPDATE memberships SET left_rev = 3, left_seq = 1, left_at = now()"
    )  # ada was removed
    await conn.execute(
        """WITH c AS (
               INSERT INTO changes (thread_id, rev, kind, user_id, act)
               VALUES ($1, 3, 'member', $2, 'removed'))
           UPDATE thread_heads SET last_rev = 3""",
        made.thread_id,
        ada,
    )
    await bring(
        db_url, log(tmp_path / "2020-05-02.txt", "[08:00] <ada> two"), channel="", thread_id=made.thread_id
    )
    rows = await conn.fetch(
        "SELECT joined_rev, joined_seq, left_rev, read_seq FROM memberships ORDER BY joined_rev"
    )
    assert [tuple(row) for row in rows] == [(1, 0, 3, 1), (4, 1, None, 2)]  # a second span
    assert [
        tuple(r) for r in await conn.fetch("SELECT rev, kind FROM changes WHERE rev > 3 ORDER BY rev")
    ] == [
        (4, "member"),
        (5, "message"),
    ]


async def test_batches_leave_a_sound_log_and_tell_the_readers(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    rung: list[tuple[int, int]] = []

    async def committed(thread_id: int, last_rev: int) -> None:
        assert (
            await conn.fetchval("SELECT last_rev FROM thread_heads WHERE thread_id = $1", thread_id)
            == last_rev
        )
        assert await broken(conn) == []
        rung.append((thread_id, last_rev))

    paths = [long_log(tmp_path / f"2020-05-{day:02}.txt", 130, seed=day) for day in range(1, 6)]
    report = await bring(db_url, *paths, batch=100, committed=committed)
    assert report.added == 650 and len(rung) == 7
    assert rung[-1] == (report.thread_id, 650 + report.joined)


async def test_each_batch_rings_the_doorbell_of_the_thread(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path, backing: Backing
) -> None:
    settings = load({"DATABASE_URL": db_url, "JWT_SECRET": "x" * 32, "REDIS_URL": backing.redis_url})
    redis = imports.doorbell(settings)
    assert redis is not None
    async with redis, redis.pubsub() as bell:
        await bell.psubscribe("bobbin:*")
        path = long_log(tmp_path / "2020-05-01.txt", 250)
        report = await bring(db_url, path, batch=100, committed=await imports.ringer(redis, db_url))
        rung: list[tuple[bytes, bytes]] = []
        while len(rung) < 6:
            message = await asyncio.wait_for(bell.get_message(ignore_subscribe_messages=True, timeout=5), 10)
            if message is not None:
                rung.append((message["channel"], message["data"]))
    prefix = f"bobbin:{await changes.epoch(conn)}"
    assert rung[-2] == (f"{prefix}:{report.thread_id}".encode(), b"%d" % (250 + report.joined))
    assert [channel for channel, _ in rung[1::2]] == [f"{prefix}:changed".encode()] * 3


def test_a_batch_is_what_user_streams_tell_in_one_look() -> None:
    assert 2 * bulk.BATCH <= merged.CHANGES, "each message may bring a member"


def test_without_a_running_server_there_is_no_doorbell(folder: Path) -> None:
    assert imports.doorbell(load({"BOBBIN_DATA_DIR": str(folder / "none")})) is None


KILLED = """
import asyncio, os, signal, sys
from datetime import UTC
from pathlib import Path
from server.ops.imports import import_files
from server.ops.records import Options

left = int(sys.argv[2])
async def committed(thread_id, last_rev):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(import_files(sys.argv[1], "irc", [Path(p) for p in sys.argv[3:]], channel="town",
                         options=Options(None, UTC), batch=100, committed=committed))
"""


@pytest.mark.parametrize("batches", [1, 3])
async def test_after_a_kill_a_second_run_misses_and_doubles_nothing(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path, batches: int
) -> None:
    # The third file overlaps the second: what a whole run takes, the one after the kill must take too.
    paths = [
        long_log(tmp_path / f"2020-05-{day}.txt", 150, seed=n)
        for n, day in enumerate(["01", "02", "02b", "04"])
    ]
    command = [sys.executable, "-c", KILLED, db_url, str(batches), *map(str, paths)]
    killed = subprocess.run(command, cwd=ROOT, timeout=30, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(await said(conn)) == batches * 100
    assert await broken(conn) == []
    rest = await bring(db_url, *paths, batch=100)
    assert (rest.added, rest.refused) == (600 - batches * 100, [])
    assert await broken(conn) == []
    await bring(db_url, *paths, channel="at once")
    assert await said(conn) == await said(conn, "at once")


async def test_two_imports_of_one_channel_at_once_import_it_once(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    path = long_log(tmp_path / "2020-05-01.txt", 500)
    reports = await asyncio.gather(*(bring(db_url, path, batch=100) for _ in range(3)))
    assert sorted(report.added for report in reports) == [0, 0, 500]
    assert sum(report.made for report in reports) == 1
    assert await broken(conn) == []


async def test_an_import_that_finds_another_one_at_work_says_so(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = log(tmp_path / "2020-05-01.txt", "[08:00] <ada> one")
    report = await bring(db_url, path)
    monkeypatch.setattr(imports, "LOCK_WAIT_S", 0)
    assert await bulk.try_import(conn, thread_id=report.thread_id)
    with pytest.raises(CannotImport, match="Another import into town is running"):
        await bring(db_url, path)


async def test_two_channels_with_the_same_people_can_be_imported_at_once(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    path = long_log(tmp_path / "2020-05-01.txt", 400, names=200)
    reports = await asyncio.gather(
        *(bring(db_url, path, channel=f"town {n}", network="net", batch=50) for n in range(3)),
        *(bring(db_url, path, channel=f"other {n}", batch=50) for n in range(2)),
    )
    assert [report.added for report in reports] == [400] * 5
    assert await broken(conn) == []
    nicks = len({line[0] for line in await said(conn, "town 0")})
    assert await conn.fetchval("SELECT count(*) FROM users") == 3 * nicks  # net, other 0, other 1


async def test_somebody_who_writes_meanwhile_ends_the_import_instead_of_dating_all_the_rest_now(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    async def committed(thread_id: int, last_rev: int) -> None:
        tail = bulk.Tail(conn, thread_id, "test")
        if last_rev < 200:
            await tail.append([Record(datetime.now(UTC), "live", "hello?")])

    report = await bring(db_url, long_log(tmp_path / "2020-05-01.txt", 250), batch=100, committed=committed)
    assert report.added == 100 and len(report.refused) == 1 and "meanwhile" in report.refused[0]
    assert len(await said(conn)) == 101
    assert await broken(conn) == []


async def test_a_channel_that_is_deleted_meanwhile_gets_no_more(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    async def committed(thread_id: int, last_rev: int) -> None:
        await conn.execute("UPDATE thread_heads SET deleted_at = now()")

    path = long_log(tmp_path / "2020-05-01.txt", 250)
    report = await bring(db_url, path, batch=100, committed=committed)
    assert report.added == 100 and "deleted" in report.refused[0]
    assert (await bring(db_url, path)).made  # a new channel of that title


async def test_progress_that_is_not_where_it_was_believed_stops_the_batch(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    report = await bring(db_url, log(tmp_path / "2020-05-01.txt", "[08:00] <ada> one"))
    tail = bulk.Tail(conn, report.thread_id, "irc:town")
    record = Record(at(2, 8, 0), "ada", "twice?")
    with pytest.raises(bulk.Overtaken):
        await tail.append([record], [bulk.Mark("2020-05-01.txt", before=0, records=2, digest=b"")])
    assert len(await said(conn)) == 1


async def test_a_channel_is_chosen_by_title_or_by_id(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    path = log(tmp_path / "2020-05-01.txt", "[08:00] <ada> one")
    ids = [
        await bulk.make_thread(conn, kind="channel", title="town", created_by=None, created_at=at(1, 0, 0))
        for _ in range(2)
    ]
    group = await bulk.make_thread(conn, kind="group", title="town", created_by=None, created_at=at(1, 0, 0))
    with pytest.raises(CannotImport, match=rf"--thread ID, of {ids[0]}, {ids[1]}\."):
        await bring(db_url, path)
    assert (await bring(db_url, path, thread_id=ids[1])).thread_id == ids[1]
    for wrong in (group, 2**62):
        with pytest.raises(CannotImport, match="no channel with the id"):
            await bring(db_url, path, thread_id=wrong)
    for title in ("", "x", "x" * 256, "nul\0"):
        with pytest.raises(CannotImport, match="2 to 255"):
            await bring(db_url, path, channel=title)


async def test_files_that_end_in_the_future_are_refused(
    conn: asyncpg.Connection, db_url: str, tmp_path: Path
) -> None:
    path = log(tmp_path / f"{date.today() + timedelta(days=2)}.txt", "[08:00] <ada> one")
    assert "future" in (await bring(db_url, path)).refused[0]
    assert await said(conn) == []


def test_paths_are_checked_before_anything_is_done(tmp_path: Path) -> None:
    skipped: list[str] = []
    with pytest.raises(CannotImport, match=r"no file or folder .*missing"):
        imports.files([tmp_path / "missing"], skipped.append)
    with pytest.raises(CannotImport, match="nothing to import"):
        imports.files([tmp_path], skipped.append)
    (tmp_path / "sub").mkdir()
    one, other = log(tmp_path / "a.LOG", "x"), log(tmp_path / "sub" / "a.LOG", "x")
    assert imports.files([tmp_path, one], skipped.append) == [one]
    assert len(skipped) == 1 and "sub" in skipped[0]
    with pytest.raises(CannotImport, match="have the same name"):
        imports.files([one, other], skipped.append)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotImport, match="neither a file nor a folder"):
        imports.files([tmp_path / "pipe"], skipped.append)


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    imports.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_the_command_tells_what_it_did_and_names_what_it_could_not(
    db_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(
        {"DATABASE_URL": db_url, "JWT_SECRET": "x" * 32, "REDIS_URL": "unix:///nowhere/at/all.sock"}
    )
    monkeypatch.setattr(imports, "database", lambda settings: nullcontext(settings.database_url))
    path = log(tmp_path / "2020-05-01.txt", "[08:00] <ada> one", *["what?"] * 25)
    faults = tmp_path / "faults"
    command = ("irc", path, "--channel", "from the shell")
    assert imports.run(arguments(*command, "--report", faults), settings) == 0  # no Redis: only late
    out, err = capsys.readouterr()
    assert "1 messages added to channel from the shell" in out and "unreadable: 25 lines" in out
    assert (
        "2020-05-01.txt:2: a line of no known form" in err
        and f"5 more unreadable lines, all in {faults}" in err
    )
    assert len(faults.read_text().splitlines()) == 25
    log(path, "[08:00] <ada> changed")
    assert imports.run(arguments(*command), settings) == 1
    assert "refused: 2020-05-01.txt: it differs" in capsys.readouterr().err
    assert imports.run(arguments("irc", tmp_path / "missing", "--channel", "x"), settings) == 2
    assert imports.run(arguments("irc", path), settings) == 2  # no channel
    assert imports.run(arguments(*command, "--report", tmp_path), settings) == 2  # a folder
    for words in (("--timezone", "Nowhere/Land"), ("--date", "yesterday")):
        with pytest.raises(SystemExit):
            arguments(*command, *words)


@pytest.mark.timeout(180)
@pytest.mark.skipif(not REAL.is_dir(), reason="the real logs are not beside this checkout")
async def test_the_real_channel_arrives_whole(conn: asyncpg.Connection, db_url: str) -> None:
    paths = imports.files([REAL], lambda _: None)
    report = await bring(db_url, *paths, channel="ubuntu")
    assert (report.forms["notice"], report.left_out.total(), report.refused) == (47, 26_469, [])
    assert report.added + report.unreadable + report.left_out.total() == sum(
        path.read_bytes().count(b"\n") for path in paths
    )
    assert report.unreadable == 32
    assert await broken(conn) == []
    again = await bring(db_url, *paths, channel="ubuntu")
    assert (again.added, again.known) == (0, len(paths))
