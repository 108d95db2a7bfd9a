"""The index of messages is kept as they change, after the commits. SQL: db/queries/indexer.sql. What it is: grams.py.

Each worker tries, when somebody says that something has changed and once a second; whoever holds the one row of
search_place does it, the others pass. Whoever has done it goes on with it while there is something to do, for it knows
what is in the newest block: the others leave it alone until it stands still. What has been committed since the place is
found as the user streams find it, and the place moves in the transaction that takes it in; so after a crash it goes on
there, and nothing is left out.

Most of it goes to the newest block, which is small work. What belongs into older ones (imports, edits, deletions) is
put aside in search_late, and taken some blocks at a time: it holds up nothing that is new.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from server import grams
from server.base import log
from server.base.db import Connections, Db, query
from server.base.errors import AWAY
from server.grams import Entry, Key
from server.live.merged import Place, known

LOOK_SECONDS = 1.1  # between two looks, at least: each writes the newest block anew, some 10 ms of work
STILL_SECONDS = 1.3  # without a move of the place, then another worker may take over
POLL_SECONDS = 1.0
RETRY_SECONDS = 1.0
BEHIND_SECONDS = 2.0  # what is promised
CHANGES = 2000  # taken at once; of one transaction all
LATE, LATE_BLOCKS = 500, 30  # late messages taken at once, and blocks that they may change
TIDY_SECONDS = 5.0  # between two blocks that are tidied up: what they are found by takes some 100 ms to write
STALE = 8  # messages that leave a block or change until it is; else after a day
LOOSE = 64  # changes of a block until what it is found by is made anew
MOST_WAITING = 100_000  # changes that the status counts
ROOM = 1.5  # how much fuller than a new one a block may become


@query
async def hold(db: Db) -> asyncpg.Record | None: ...


@query
async def waits(db: Db) -> asyncpg.Record: ...


@query
async def fresh(db: Db, *, seen: str, size: int) -> list[asyncpg.Record]: ...


@query
async def of_one(db: Db, *, only: int) -> list[asyncpg.Record]: ...


@query
async def now(db: Db, *, thread_ids: list[int], seqs: list[int]) -> list[asyncpg.Record]: ...


@query
async def newest(db: Db) -> asyncpg.Record | None: ...


@query
async def some(db: Db, *, ids: list[int]) -> list[asyncpg.Record]: ...


@query
async def places(
    db: Db, *, ats: list[int], thread_ids: list[int], seqs: list[int]
) -> list[asyncpg.Record]: ...


@query
async def make(
    db: Db,
    *,
    at: int,
    thread_id: int,
    seq: int,
    ats: list[int],
    thread_ids: list[int],
    seqs: list[int],
    author_ids: list[int],
    text: str,
) -> asyncpg.Record: ...


@query
async def remake(
    db: Db,
    *,
    id: int,
    at: int,
    thread_id: int,
    seq: int,
    ats: list[int],
    thread_ids: list[int],
    seqs: list[int],
    author_ids: list[int],
    text: str,
    loose: int,
    stale: int,
    enough: int,
) -> asyncpg.Record: ...


@query
async def unmake(db: Db, *, id: int) -> str: ...


@query
async def gram(db: Db, *, id: int, grams: str) -> str: ...


@query
async def ungram(db: Db, *, id: int) -> str: ...


@query
async def move(db: Db, *, place: str) -> str: ...


@query
async def leave(db: Db, *, place: str) -> str: ...


@query
async def delay(db: Db, *, ats: list[int], thread_ids: list[int], seqs: list[int]) -> str: ...


@query
async def late(db: Db, *, size: int) -> list[asyncpg.Record]: ...


@query
async def done(db: Db, *, ats: list[int], thread_ids: list[int], seqs: list[int]) -> str: ...


@query
async def untidy(db: Db) -> int | None: ...


@query
async def state(db: Db) -> asyncpg.Record: ...


@dataclass
class Newest:
    """The block that still grows, as one has seen it or written it: as long as it has this stamp, that is how it is."""

    id: int
    begin: Key
    stamp: str
    entries: dict[Key, Entry]


@dataclass
class Memory:
    """What a worker remembers of its last look, to save itself the next."""

    newest: Newest | None = None
    place: str | None = None  # where this worker has moved it


class Indexer:
    """That of a worker."""

    def __init__(self, db: Connections, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db, self._clock = db, clock
        self.behind, self._caught_up = False, clock()
        self._memory = Memory()
        self._place: str | None = None  # at the last round
        self._place_before: str | None = None  # and at the last look
        self._others = False  # another worker has been seen to move it, since this one has
        self._any = False  # whether there was anything to do
        self._pause = LOOK_SECONDS
        self._hinted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tidied = 0.0

    def hint(self, _: bytes = b"") -> None:
        """Something has changed."""
        self._hinted.set()

    def start(self) -> None:
        """Look, for as long as the worker lives."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._memory.place is not None:
            with contextlib.suppress(*AWAY):
                async with asyncio.timeout(1), self._db.acquire() as conn:
                    await leave(conn, place=self._memory.place)

    async def _run(self) -> None:
        while True:
            more, pause = await self.look()
            if more:
                await asyncio.sleep(0)
                continue
            await asyncio.sleep(pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._hinted.wait()
            self._hinted.clear()

    async def look(self) -> tuple[bool, float]:
        """A round, and what it says of how far the index is. Whether more is left, and how long to wait otherwise."""
        left, pause, current = None, LOOK_SECONDS, False
        try:
            left = await self.round()
            pause = self._pause
            # Another worker who gets on, or has nothing to do, says itself how far behind it is.
            goes_on = self._place != self._place_before or not self._any
            current, self._place_before = left is False or (left is None and goes_on), self._place
        except AWAY as error:
            log.event("search.blind", level="warning", reason=type(error).__name__)
            pause, self._memory = RETRY_SECONDS, Memory()  # of what may never have been committed
        except Exception as error:  # whatever it is: the next round tries again
            log.event("search.failed", level="error", reason=repr(error)[:300])
            pause, self._memory = RETRY_SECONDS, Memory()
        now = self._clock()
        if current:
            self._caught_up = now
        if self.behind != (now - self._caught_up > BEHIND_SECONDS):
            self.behind = not self.behind
            log.event("search.behind" if self.behind else "search.caught_up", level="warning")
        return bool(left), pause

    def _is_left_alone(self, asked: asyncpg.Record) -> bool:
        """Whether another worker is at it."""
        if asked["place"] == self._memory.place:
            self._others = False
        elif self._place not in (None, asked["place"]):
            self._others = True
        self._place, self._any = asked["place"], asked["any"]
        left_alone = self._others and asked["still_seconds"] < STILL_SECONDS
        # It looks again when nobody can have been at it: what is said meanwhile waits for no more than that.
        self._pause = STILL_SECONDS - asked["still_seconds"] + 0.02 if left_alone else LOOK_SECONDS
        return bool(left_alone)

    async def round(self) -> bool | None:
        """Take in what there is, within bounds. Whether more is left; None when another worker does it."""
        self._hinted.clear()
        async with self._db.acquire() as conn:
            asked = await waits(conn)  # takes nothing: an idle server writes nothing
            if self._is_left_alone(asked):
                return None
            if asked["any"] or asked["foreign_place"]:
                more = await take_new(conn, self._memory)
                if more is not False:
                    return more
            if asked["late"] or asked["any"]:
                more = await take_late(conn, self._memory)
                if more is not False:
                    return more
            if time.monotonic() - self._tidied >= TIDY_SECONDS:
                self._tidied = time.monotonic()
                await tidy(conn)
        return False


async def take_new(conn: asyncpg.Connection, memory: Memory | None = None) -> bool | None:
    """What has been committed since the place: into the newest block, or aside. Whether there is more; None: held."""
    memory = memory or Memory()
    async with conn.transaction():
        row = await hold(conn)
        if row is None:
            return None
        seen = known(row["place"])
        rows = await fresh(conn, seen=seen.text, size=CHANGES)
        here = known(rows[0]["place"])
        if seen.end > here.end:  # of another cluster: a dump that was restored
            log.event("search.lost", level="error", remedy="bobbin search rebuild")
            await move(conn, place=here.text)
            return False
        found = [row for row in rows if row["xid"] is not None]
        if not found:
            if seen.open - here.open:
                await move(conn, place=here.text)
                memory.place = here.text
            return False
        pairs, reached, more = await _taken(conn, seen, here, found)
        await take(conn, memory, await entries_now(conn, pairs))
        await move(conn, place=reached)
        memory.place = reached
        return more


async def _taken(
    conn: asyncpg.Connection, seen: Place, here: Place, found: Sequence[asyncpg.Record]
) -> tuple[set[tuple[int, int]], str, bool]:
    """Which messages are looked at now, the place that is reached with them, and whether there is more.

    Transactions are taken as a whole, or left for the next time.
    """
    by_xid: dict[int, list[asyncpg.Record]] = {}
    sizes: dict[int, int] = {}
    for row in found:
        by_xid.setdefault(row["xid"], []).append(row)
        sizes[row["low"]] = sizes.get(row["low"], 0) + 1
    # Where there were more than asked for, the last transaction may not be here as a whole.
    cut_short = {
        max(row["xid"] for row in found if row["low"] == low) for low, size in sizes.items() if size > CHANGES
    }
    pairs, taken = set[tuple[int, int]](), set[int]()
    for xid in sorted(by_xid):
        if taken and (len(pairs) >= CHANGES or xid in cut_short):
            break
        rows: Iterable[asyncpg.Record] = by_xid[xid]
        if xid in cut_short:
            rows = await of_one(conn, only=xid)
        pairs.update((row["thread_id"], row["seq"]) for row in rows if row["seq"] is not None)
        taken.add(xid)
    left = by_xid.keys() - taken
    more = bool(left or cut_short)
    end = here.end
    fresh_left = [xid for xid in left if xid >= seen.end]
    if fresh_left:
        end = min(fresh_left)
    elif any(xid >= seen.end for xid in cut_short):
        end = max(cut_short) + 1
    unseen = {xid for xid in here.open if xid < end} | {xid for xid in left if xid < end}
    first = min(unseen, default=end)
    return pairs, f"{first}:{end}:{','.join(map(str, sorted(unseen)))}", more


async def entries_now(conn: asyncpg.Connection, pairs: Iterable[tuple[int, int]]) -> dict[Key, Entry | None]:
    """Messages as they are, by their place in the order; None: deleted. Those that are archived are not among them."""
    asked = sorted(pairs)
    rows = await now(conn, thread_ids=[one[0] for one in asked], seqs=[one[1] for one in asked])
    found: dict[Key, Entry | None] = {}
    for row in rows:
        key = (grams.micros(row["created_at"]), row["thread_id"], row["seq"])
        found[key] = (
            None if row["gone"] else Entry(*key, row["author_id"], grams.fold(row["text"]), row["inbox"])
        )
    return found


async def take(conn: asyncpg.Connection, memory: Memory, changed: dict[Key, Entry | None]) -> None:
    """Into the newest block what belongs there, and the rest aside."""
    if not changed:
        return
    begin = await _recall(conn, memory)
    current = {key: one for key, one in changed.items() if begin is None or key >= begin}
    aside = sorted(changed.keys() - current.keys())
    if current:
        await _grow(conn, memory, current)
    if aside:
        await delay(conn, **columns(aside))


async def _recall(conn: asyncpg.Connection, memory: Memory) -> Key | None:
    """Where the newest block begins, if there is one; memory.newest is what is in it then."""
    row = await newest(conn)
    known = memory.newest
    if row is None:
        memory.newest = None
        return None
    begin = (row["at"], row["thread_id"], row["seq"])
    if known is None or (known.id, known.stamp) != (row["id"], row["stamp"]):
        (block,) = await some(conn, ids=[row["id"]])
        memory.newest = Newest(row["id"], begin, row["stamp"], _entries(block))
    return begin


async def take_late(conn: asyncpg.Connection, memory: Memory | None = None) -> bool | None:
    """Some of what was put aside, into the blocks to which it belongs."""
    memory = memory or Memory()
    async with conn.transaction():
        if await hold(conn) is None:
            return None
        keys = [(row["at"], row["thread_id"], row["seq"]) for row in await late(conn, size=LATE)]
        if not keys:
            return False
        block_of = {row["n"]: row["id"] for row in await places(conn, **columns(keys))}
        by_block: dict[int, list[Key]] = {}
        for n, key in enumerate(keys, 1):
            by_block.setdefault(block_of[n], []).append(key)
        chosen = dict(list(by_block.items())[:LATE_BLOCKS])
        taken = [key for mine in chosen.values() for key in mine]
        changed = await entries_now(conn, [(key[1], key[2]) for key in taken])
        await _recall(conn, memory)
        top = memory.newest
        blocks = {row["id"]: row for row in await some(conn, ids=[one for one in chosen if one is not None])}
        for block_id, mine in chosen.items():
            told = {key: changed.get(key) for key in mine}  # what is not there has been archived
            if top is None or block_id == top.id:
                await _grow(conn, memory, told)
            else:
                await _mend(conn, blocks[block_id], told)
            await asyncio.sleep(0)
        await done(conn, **columns(taken))
        return True


async def tidy(conn: asyncpg.Connection) -> None:
    """Of a block that has changed, make anew what it is found by: of what was deleted nothing stays."""
    if await untidy(conn) is None:
        return
    async with conn.transaction():
        if await hold(conn) is None:
            return
        block_id = await untidy(conn)
        if block_id is not None:
            (block,) = await some(conn, ids=[block_id])
            await _anew(conn, block, _entries(block))


def columns(keys: Sequence[Key]) -> dict[str, list[int]]:
    """Places in the order as `delay` takes them."""
    ats, thread_ids, seqs = zip(*keys, strict=True)
    return {"ats": list(ats), "thread_ids": list(thread_ids), "seqs": list(seqs)}


def _entries(block: asyncpg.Record) -> dict[Key, Entry]:
    """What is in a block."""
    columns = (block["ats"], block["thread_ids"], block["seqs"], block["author_ids"])
    rows = zip(*columns, block["text"].split(grams.MARK), block["inbox"], strict=True)
    return {row[:3]: Entry(*row) for row in rows}


def _merged(
    entries: dict[Key, Entry], changed: dict[Key, Entry | None]
) -> tuple[dict[Key, Entry], list[Entry], bool]:
    """What is in a block afterwards, what came to it, and whether anything left it."""
    came = [one for key, one in changed.items() if one is not None and entries.get(key) != one]
    gone = {key for key, one in changed.items() if one is None and key in entries}
    after = {key: one for key, one in entries.items() if key not in gone}
    after.update((one.key, one) for one in came)
    return after, came, bool(gone)


async def _grow(conn: asyncpg.Connection, memory: Memory, changed: dict[Key, Entry | None]) -> None:
    """The newest block, as it is remembered. It has no grams until it is full: searches always look into it."""
    block, memory.newest = memory.newest, None  # until it is written: what fails on the way is not remembered
    after, came, left = _merged(block.entries if block is not None else {}, changed)
    if not came and not left:
        memory.newest = block
        return
    if block is not None and not after:
        await ungram(conn, id=block.id)
        await unmake(conn, id=block.id)
        return
    parts = grams.pieces([after[key] for key in sorted(after)])
    for n, piece in enumerate(parts):
        written = await write(conn, block.id if block is not None and n == 0 else None, piece)
        if n < len(parts) - 1:
            await ungram(conn, id=written["id"])
            await gram(conn, id=written["id"], grams=await piece.grams_in_between())
        await asyncio.sleep(0)
    memory.newest = Newest(
        written["id"], piece.entries[0].key, written["stamp"], {one.key: one for one in piece.entries}
    )


async def _mend(conn: asyncpg.Connection, block: asyncpg.Record, changed: dict[Key, Entry | None]) -> None:
    """An older block: what came to it is added to what it is found by."""
    entries = _entries(block)
    after, came, left = _merged(entries, changed)
    if not came and not left:
        return
    chars = sum(len(one.text) for one in after.values())
    full = len(after) > grams.MESSAGES * ROOM or (chars > grams.CHARS * ROOM and len(after) > 1)
    if not after or full or block["loose"] >= LOOSE:
        await _anew(conn, block, after)
        return
    stale = block["stale"] + sum(key in entries and after.get(key) != entries[key] for key in changed)
    piece = grams.Piece([after[key] for key in sorted(after)])
    await write(conn, block["id"], piece, block["loose"] + 1, stale)
    if came:
        await gram(conn, id=block["id"], grams=await grams.Piece(came).grams_in_between())


async def _anew(conn: asyncpg.Connection, block: asyncpg.Record, after: dict[Key, Entry]) -> None:
    await ungram(conn, id=block["id"])
    if not after:
        await unmake(conn, id=block["id"])
        return
    for n, piece in enumerate(grams.pieces([after[key] for key in sorted(after)])):
        written = await write(conn, block["id"] if n == 0 else None, piece)
        await gram(conn, id=written["id"], grams=await piece.grams_in_between())
        await asyncio.sleep(0)


async def write(
    conn: asyncpg.Connection, block_id: int | None, piece: grams.Piece, loose: int = 0, stale: int = 0
) -> asyncpg.Record:
    """The content of a block, or of a new one; its id and its stamp."""
    names = ("at", "thread_id", "seq", "ats", "thread_ids", "seqs", "author_ids", "text")
    row = dict(zip(names, piece.row(), strict=True))
    if block_id is None:
        return await make(conn, **row)  # type: ignore[arg-type]
    return await remake(conn, id=block_id, loose=loose, stale=stale, enough=STALE, **row)  # type: ignore[arg-type]
