"""The hub: doorbells that are late, lost and doubled, and readers that stand still."""

import asyncio
import contextlib
import gc
import random
import time
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.live import changes, hub
from server.live.hub import PIECE_BYTES, RING_BYTES, RING_EVENTS, Batch, Feed, Gap
from server.live.sight import Event
from tests.live.desk import SOCKET_BYTES, Desk, Reader, desk_on
from tests.live.wire import so

# -- doorbells


@settings(max_examples=25, deadline=None)
@given(chance=st.randoms(use_true_random=False), length=st.integers(1, 60))
async def test_each_reader_gets_every_rev_once_in_order_whatever_the_doorbells_do(
    pool: asyncpg.Pool, chance: random.Random, length: int
) -> None:
    async with desk_on(pool) as desk:
        start, before = desk.head, []
        steady, jerky, stopped, restless = [await desk.reader() for _ in range(4)]
        stopped.line.stop()
        for number in range(length):
            match chance.choice(("say", "say", "say", "reply", "edit", "delete", "rename")):
                case "reply" if desk.seq:
                    await desk.say(f"answer {number}", quoted=chance.randint(1, desk.seq))
                case "edit" if desk.seq:
                    await desk.edit(chance.randint(1, desk.seq), f"edited {number}")
                case "delete" if desk.seq:
                    await desk.delete(chance.randint(1, desk.seq))
                case "rename":
                    await desk.rename(f"Title {number}")
                case _:
                    await desk.say(f"message {number}")
            if chance.random() < 0.4:
                bells = [bell for bell in desk.bells.rung if chance.random() < 0.8]  # some are lost
                bells += [bell for bell in desk.bells.rung if chance.random() < 0.2]  # some come twice
                chance.shuffle(bells)
                late = bells[: chance.randint(0, 2)]
                for bell in bells[len(late) :]:
                    desk.hub.heard(*bell)
                    if chance.random() < 0.3:
                        await asyncio.sleep(0)
                desk.bells.rung = late
            if chance.random() < 0.2:
                chance.choice((jerky.line.stop, jerky.line.go))()
            if chance.random() < 0.1:
                before += restless.told
                await restless.cut()
                restless = await desk.reader(since=before[-1].rev if before else start)
            if chance.random() < 0.1:
                desk.hub.doubt("test")
        desk.look()
        for reader in (stopped, jerky):
            reader.line.go()
        later = await desk.reader(since=start)
        if desk.head > start:
            await desk.settled(steady, jerky, stopped, later)
            if not before or before[-1].rev < desk.head:
                await desk.settled(restless)
        expected = list(range(start + 1, desk.head + 1))
        for told in (steady.told, jerky.told, stopped.told, later.told, before + restless.told):
            assert [frame.rev for frame in told] == expected
            # Content may be newer than the id, never older.
            assert all(frame.json["rev"] >= frame.rev for frame in told if frame.event.startswith("message"))


async def test_a_message_goes_from_the_doorbell_to_every_reader_without_the_database(
    desk: Desk, patient: None
) -> None:
    readers = [await desk.reader() for _ in range(3)]
    await so(lambda: not desk.hub._feeds[desk.thread_id].filling, "nothing to read")
    await desk.say("one")
    await desk.db.execute("DELETE FROM changes WHERE thread_id = $1 AND rev = $2", desk.thread_id, desk.head)
    desk.ring()
    await desk.settled(*readers)
    assert all([frame.event for frame in reader.told] == ["message"] for reader in readers)


async def test_a_gap_between_doorbells_is_filled_without_waiting_for_the_poll(
    desk: Desk, patient: None
) -> None:
    reader = await desk.reader()
    for number in range(4):
        await desk.say(f"message {number}")
    desk.bells.rung = [desk.bells.rung[3], desk.bells.rung[1]]
    desk.ring()
    await desk.settled(reader)
    assert reader.revs == [3, 4, 5, 6]


async def test_a_lost_doorbell_is_found_by_the_poll(desk: Desk) -> None:
    reader = await desk.reader()
    await desk.say("silence")
    began = time.monotonic()
    desk.bells.rung.clear()
    await desk.settled(reader)
    assert time.monotonic() - began < 10 * hub.POLL_SECONDS  # generous: the machine may be busy


async def test_the_poll_outlives_whatever_the_database_says(
    eager: None, desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    reader = await desk.reader()
    await desk.db.execute(
        "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for _ in range(desk.db.get_size()):  # each dead connection may be met once, and is replaced then
        with contextlib.suppress(asyncpg.PostgresConnectionError):
            await desk.db.fetchval("SELECT 1")
    await desk.say("after the connections were cut")
    await desk.settled(reader)
    await desk.db.execute("ALTER TABLE thread_heads RENAME TO mislaid")
    await so(lambda: "UndefinedTableError" in capfd.readouterr().out, "a poll has met it")
    await desk.db.execute("ALTER TABLE mislaid RENAME TO thread_heads")
    await desk.say("after the table was gone")
    await desk.settled(reader)
    assert reader.revs == [3, 4]


# -- who may see what


async def test_who_is_removed_is_not_told_what_is_edited_afterwards(desk: Desk, patient: None) -> None:
    """Neither under the older id of the message, when all of it is read at once."""
    ada, live, late = await desk.reader(desk.ada), await desk.reader(), await desk.reader()
    late.line.stop()
    seq = await desk.say("for both")
    await desk.rename("A title for both")
    await desk.remove(desk.ben)
    await desk.edit(seq, "for ada alone")
    await desk.rename("A title for ada alone")
    desk.look()
    await desk.settled(ada)
    late.line.go()
    for reader in (live, late):
        await so(reader.task.done, "ben's stream ends")
        assert b"alone" not in reader.line.got
        assert not reader.revs or max(reader.revs) <= 5
    assert b"for ada alone" in ada.line.got


async def test_who_is_removed_while_standing_still_is_not_told_what_is_edited_afterwards(
    desk: Desk, patient: None
) -> None:
    """A backlog of more than one reading: the removal is not in sight of the first."""
    start = desk.head
    for number in range(hub.LOG_PAGE + 50):
        await desk.say(f"message {number}")
    desk.bells.rung.clear()
    ada, ben = await desk.reader(desk.ada, since=start), Reader(desk, desk.ben, since=start)
    ben.line.stop()
    await desk.settled(ada)
    await desk.remove(desk.ben)
    await desk.edit(10, "for ada alone")
    await desk.rename("A title for ada alone")
    desk.ring()
    await desk.settled(ada)
    ben.line.go()
    await so(ben.task.done, "ben's stream ends")
    assert b"alone" not in ben.line.got


# -- slow readers


async def test_a_reader_that_stood_still_is_not_told_what_was_deleted_meanwhile(
    desk: Desk, patient: None
) -> None:
    start = desk.head
    for number in range(60):
        await desk.say(f"secret {number} {'x' * 5000}")
    desk.bells.rung.clear()
    reader = Reader(desk, desk.ben, since=start)
    reader.line.room = 100_000
    await so(lambda: not reader.line._can_write.is_set(), "the socket is full")
    passed = len(reader.told)
    assert 10 < passed < 50
    for seq in range(1, 61):
        await desk.delete(seq)
    desk.ring()
    held = PIECE_BYTES // 5000 + 1  # what was on its way is on its way
    reader.line.go()
    await desk.settled(reader)
    assert reader.revs == list(range(start + 1, desk.head + 1))
    texts = [frame.json["text"] for frame in reader.told]
    assert not any(texts[passed + held :])


async def test_readers_that_stand_still_hold_no_events(desk: Desk, patient: None) -> None:
    start = desk.head
    for number in range(2 * hub.LOG_PAGE):
        await desk.say(f"message {number} {'x' * 2000}")
    desk.bells.rung.clear()
    behind = [Reader(desk, desk.ben, since=start) for _ in range(30)]  # they read the log
    ahead = [Reader(desk, desk.ben) for _ in range(30)]  # they were at the end
    for reader in behind + ahead:
        reader.line.room = 1
    await so(lambda: all(not reader.line._can_write.is_set() for reader in behind + ahead), "all stand still")
    quick = await desk.reader(desk.ada)
    for number in range(2 * RING_EVENTS):
        await desk.say(f"more {number} {'x' * 2000}")
        desk.ring()
        await asyncio.sleep(0)
    await desk.settled(quick)
    feed = await desk.feed()
    assert len(feed.ring) <= RING_EVENTS
    gc.collect()
    alive = sum(type(thing) is Event for thing in gc.get_objects())
    assert alive <= 2 * RING_EVENTS
    assert all(len(reader.line.got) < 2 * PIECE_BYTES + SOCKET_BYTES for reader in behind + ahead)
    assert quick.revs == list(range(desk.head - 2 * RING_EVENTS + 1, desk.head + 1))
    for reader in behind + ahead:
        reader.line.go()
    await desk.settled(*behind, *ahead)
    for reader in behind:
        assert reader.revs == list(range(start + 1, desk.head + 1))
    for reader in ahead:
        assert reader.revs == list(range(start + 2 * hub.LOG_PAGE + 1, desk.head + 1))


# -- readers come and go


async def test_a_reader_that_goes_while_the_subscription_is_made_leaves_nothing(desk: Desk) -> None:
    desk.bells.ready.clear()
    reader = Reader(desk, desk.ben)
    feed = await desk.feed()
    await reader.cut()
    assert not feed.readers
    stays = Reader(desk, desk.ben)
    desk.bells.ready.set()
    await so(lambda: stays.started, "the next one is served")
    await stays.cut()
    assert not feed.readers


async def test_a_connection_that_was_aborted_does_not_keep_others_from_their_news(
    desk: Desk, patient: None
) -> None:
    readers = [await desk.reader() for _ in range(8)]
    for reader in readers[::2]:
        reader.line.abort()  # Sanic takes the transport away; the handler hears of it a little later
    await desk.say("hello")
    desk.ring()
    await desk.settled(*readers[1::2])
    assert all(reader.revs == [3] for reader in readers[1::2])


async def test_a_reader_that_comes_while_the_worker_stops_is_sent_away_too(desk: Desk) -> None:
    there = await desk.reader(desk.ada)
    there.line.stop()  # so that the closing takes a while
    async with desk.db.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE memberships")
        late = Reader(desk, desk.ben)  # asks at the door
        await so(lambda: bool(desk.db.get_size() - desk.db.get_idle_size() > 1), "the door is asked")
        closing = asyncio.ensure_future(desk.hub.close(30))
        await asyncio.sleep(0)
        assert desk.hub.closing
    await so(late.task.done, "it is sent away")
    assert late.started
    assert late.line.transport is not None  # in good order, not aborted
    assert late.line.got.count(b"retry: ") == 2  # the second says when to come back
    there.line.go()
    async with asyncio.timeout(10):
        await closing
    assert there.task.done()
    assert there.line.transport is not None


async def test_a_silent_stream_gets_a_comment_within_sixteen_seconds_and_a_talking_one_none(
    desk: Desk,
) -> None:
    assert hub.HEARTBEAT_SECONDS + 1 <= 16
    silent, full, talking = [await desk.reader() for _ in range(3)]
    full.line.stop()
    feed = await desk.feed()
    began = time.monotonic()
    for reader in feed.readers:
        assert isinstance(reader.parked, bool)
        if reader.outlet._protocol is not talking.line:  # type: ignore[attr-defined]
            reader.outlet.written_at = began - hub.HEARTBEAT_SECONDS
    await so(lambda: silent.line.got.endswith(b":\n\n"), "a comment")
    assert not full.line.got.endswith(b":\n\n")  # it could only pile up
    assert not talking.line.got.endswith(b":\n\n")
    assert silent.line._time >= began  # Sanic sees it too, and lets the stream live


async def test_what_is_no_longer_in_the_log_is_a_gap_and_the_stream_goes_on(
    desk: Desk, patient: None
) -> None:
    start = desk.head
    for number in range(5):
        await desk.say(f"message {number}")
    desk.bells.rung.clear()
    await desk.db.execute("DELETE FROM changes WHERE thread_id = $1 AND rev <= $2", desk.thread_id, start + 2)
    reader = await desk.reader(since=start + 2)
    await desk.settled(reader)
    assert reader.revs == [start + 3, start + 4, start + 5]
    feed = await desk.feed()
    with pytest.raises(Gap) as gap:
        await after(desk, feed, start + 1)
    assert gap.value.head == desk.head
    missed = await desk.reader(since=start + 1)
    await so(lambda: bool(missed.told), "resync")
    await desk.say("and on")
    desk.ring()
    await desk.settled(missed)
    assert [(frame.event, frame.rev) for frame in missed.told] == [
        ("resync", desk.head - 1), ("message", desk.head),
    ]  # fmt: skip


async def after(desk: Desk, feed: Feed, cursor: int) -> Batch | None:
    return await desk.hub.after(feed, cursor, opened=0, size=200)


async def test_a_follower_behind_a_pruned_log_goes_on_with_a_resync(desk: Desk, patient: None) -> None:
    """The worker was cut off for so long that the log has moved on without it."""
    reader = await desk.reader()
    for number in range(5):
        await desk.say(f"message {number}")
    await desk.db.execute(
        "DELETE FROM changes WHERE thread_id = $1 AND rev <= $2", desk.thread_id, desk.head - 1
    )
    desk.look()
    await so(lambda: bool(reader.told), "something is told")
    await so(lambda: reader.told[-1].rev == desk.head, "it gets to the end")
    assert reader.told[0].event == "resync"
    assert len([frame for frame in reader.told if frame.event == "resync"]) == 1
    await desk.say("and on")
    desk.ring()
    await desk.settled(reader)


# -- many at once


async def test_many_who_come_back_at_once_read_the_log_together(
    desk: Desk, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, asked, whole = desk.head, list[int](), changes.since
    for number in range(150):
        await desk.say(f"message {number} {'x' * 300}", quoted=number or None)
    await desk.edit(3, "edited")
    desk.bells.rung.clear()

    async def since(*args: Any, **more: Any) -> Any:
        asked.append(more["after_rev"])
        return await whole(*args, **more)

    monkeypatch.setattr(changes, "since", since)
    readers = [Reader(desk, desk.ben, since=start + number % 3) for number in range(60)]
    await desk.settled(*readers)
    assert len(asked) <= 6, "each has read the log"
    for number, reader in enumerate(readers):
        assert reader.revs == list(range(start + 1 + number % 3, desk.head + 1))
        assert b"message 2 " not in reader.line.got  # it was edited
    await desk.edit(150, "the last one, edited")
    desk.ring()
    await desk.settled(*readers)
    asked.clear()
    late = [Reader(desk, desk.ben, since=start) for _ in range(60)]
    await desk.settled(*late)
    assert all(b"message 149 " not in reader.line.got for reader in late)


async def test_offers_that_take_long_are_made_less_often_and_one_alone_at_once(
    desk: Desk, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LONG_OFFER_SECONDS", -1.0)  # each is
    reader = await desk.reader()
    writes, write = list[int](), reader.line.write

    def counted(data: bytes) -> None:
        writes.append(len(data))
        write(data)

    monkeypatch.setattr(reader.line, "write", counted)
    feed = await desk.feed()
    await desk.say("alone")
    desk.ring()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reader.revs == [desk.head]
    start = desk.head
    for _ in range(4):
        await desk.say("one of many")
    bells, desk.bells.rung = desk.bells.rung, []
    feed.offer_at = time.monotonic() + 0.05  # the last one took as long
    for bell in bells:
        desk.hub.heard(*bell)
        await asyncio.sleep(0)
    await desk.settled(reader)
    assert len(writes) == 2
    assert reader.revs == list(range(start, desk.head + 1))


async def test_what_was_edited_while_it_waited_is_not_told_as_it_was(desk: Desk, patient: None) -> None:
    reader = await desk.reader()
    feed = await desk.feed()
    feed.offer_at = time.monotonic() + 0.05
    seq = await desk.say("the password is bobbin")
    desk.ring()
    await asyncio.sleep(0)
    await desk.delete(seq)
    desk.ring()
    await desk.settled(reader)
    assert reader.revs == [desk.head - 1, desk.head]
    assert b"bobbin" not in reader.line.got


# -- the ring by itself

CHANGE = st.one_of(
    st.tuples(st.just("message"), st.integers(0, 30), st.integers(0, RING_BYTES // 20)),
    st.tuples(st.just("message_updated"), st.integers(1, 30), st.integers(0, 2000)),
    st.tuples(st.just("thread_updated"), st.just(0), st.integers(0, 200)),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5), st.lists(CHANGE, max_size=80), st.booleans())
def test_the_ring_is_the_newest_part_of_the_log_within_its_bounds(
    head: int, history: list[tuple[str, int, int]], many: bool
) -> None:
    feed, log, seq = Feed(1, head), list[Event](), 0
    for kind, place, size in history * (5 if many else 1):
        if kind == "message":
            seq += 1
            quoted = min(place, seq - 1) or None
            bare = b"x" * (size // 2) if quoted else None
            event = Event("", feed.head + 1, kind, seq, quoted, None, None, b"x" * size, feed.head + 1, bare)
        else:
            event = Event(
                "", feed.head + 1, kind, place or None, None, None, None, b"x" * size, feed.head + 1
            )
        feed.append(event)
        log.append(event)
        ring = list(feed.ring)
        assert ring == log[len(log) - len(ring) :]
        assert len(ring) <= RING_EVENTS
        assert feed.ring_bytes == sum(len(e.data) + len(e.bare or b"") for e in ring) <= RING_BYTES
        assert feed.head == event.rev
        for place_, told in enumerate(
            ring
        ):  # nothing in it has been edited or deleted since, nor what it quotes
            later = {e.seq for e in ring[place_ + 1 :] if e.kind == "message_updated"}
            assert not {told.seq, told.quoted} & later - {None}
        for cursor in {head, feed.head - 1, feed.head, *(e.rev for e in ring[:2])}:
            if feed.covers(cursor):
                assert feed.after(cursor) == [e for e in log if e.rev > cursor]
