"""bobbin search: what the index of messages holds, and to make it anew. SQL: db/queries/reindex.sql.

It is made anew some thousand messages at a time, in their order, each time in a transaction of its own in which the
indexer waits: so searches find what they found all the while, nothing that comes meanwhile is lost, and it can be
stopped and begun again at any time.
"""

import argparse
import asyncio
import time
from collections.abc import Callable

import asyncpg

from server import grams
from server.base.db import Db, query
from server.base.settings import Settings
from server.grams import Key
from server.live import indexer
from server.ops.embedded import database

PART = 4096  # messages at a time


@query
async def forget(db: Db) -> str: ...


@query
async def enlist(db: Db) -> str: ...


@query
async def size(db: Db) -> int: ...


@query
async def part(db: Db, *, at: int, thread_id: int, seq: int, size: int) -> list[asyncpg.Record]: ...


@query
async def take(db: Db) -> str: ...


@query
async def between(
    db: Db, *, at: int, thread_id: int, seq: int, to_at: int, to_thread_id: int, to_seq: int
) -> list[asyncpg.Record]: ...


async def rebuild(conn: asyncpg.Connection, told: Callable[[int, int], None] = lambda done, of: None) -> int:
    """Make it anew; how many messages it has been made of. told(done, of) is called on the way."""
    await forget(conn)
    await enlist(conn)
    of, done, after = await size(conn), 0, (-(2**63), 0, 0)
    while True:
        rows = await part(conn, at=after[0], thread_id=after[1], seq=after[2], size=PART)
        if not rows:
            break
        keys = [(row["at"], row["thread_id"], row["seq"]) for row in rows]
        async with conn.transaction():
            await take(conn)
            await _anew(conn, after, keys)
        after, done = keys[-1], done + len(keys)
        told(done, of)
    await forget(conn)
    return done


async def _anew(conn: asyncpg.Connection, after: Key, keys: list[Key]) -> None:
    """A stretch of the order, from after a place to the last of these: what is on the list, and what is there."""
    last = keys[-1]
    old = await between(
        conn,
        at=after[0],
        thread_id=after[1],
        seq=after[2],
        to_at=last[0],
        to_thread_id=last[1],
        to_seq=last[2],
    )
    blocks = await indexer.some(conn, ids=[row["id"] for row in old])
    wanted = {key[1:] for key in keys}
    for block in blocks:
        wanted.update(zip(block["thread_ids"], block["seqs"], strict=True))
        await indexer.ungram(conn, id=block["id"])
        await indexer.unmake(conn, id=block["id"])
    found = await indexer.entries_now(conn, wanted)
    present = [found[key] for key in sorted(found)]
    living = [one for one in present if one is not None]
    # What lies beyond has a block of its own: there this goes on.
    within = [one for one in living if one.key <= last]
    for piece in grams.pieces(within) + grams.pieces(living[len(within) :]):
        written = await indexer.write(conn, None, piece)
        await indexer.gram(conn, id=written["id"], grams=piece.grams())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bobbin search`."""
    parser.description = (
        "The index of messages: how far it is, or make it anew, while the server runs or not."
    )
    parser.add_argument("what", choices=("status", "rebuild"))


def run(args: argparse.Namespace, settings: Settings) -> int:
    """bobbin search status|rebuild."""
    with database(settings) as url:
        return asyncio.run(_status(url) if args.what == "status" else _rebuild(url))


async def _status(url: str) -> int:
    conn = await asyncpg.connect(url, statement_cache_size=0)
    try:
        row = await indexer.state(conn)
    finally:
        await conn.close()
    print(f"messages   {row['messages']:>12,} in {row['blocks']:,} blocks")
    print(f"size       {(row['block_bytes'] + row['gram_bytes']) / 2**20:>12,.0f} MB")
    more = " or more" if row["waiting"] >= indexer.MOST_WAITING else ""
    print(f"waiting    {row['waiting']:>12,} changes{more}, since {row['behind_seconds']:.1f} s")
    print(f"late       {row['late']:>12,} older messages that have come or changed")
    print(f"loose      {row['loose']:>12,} blocks to be tidied up")
    if row["foreign_place"]:
        print("The place is that of another cluster: bobbin search rebuild")
        return 1
    return 0


async def _rebuild(url: str) -> int:
    conn = await asyncpg.connect(url, statement_cache_size=100, command_timeout=None)
    begun = time.monotonic()

    def told(done: int, of: int) -> None:
        rate = done / max(time.monotonic() - begun, 0.001)
        print(
            f"\r{done:,} of {of:,} messages, {rate:,.0f}/s, {max(of - done, 0) / rate:,.0f} s left ",
            end="",
            flush=True,
        )

    try:
        done = await rebuild(conn, told)
    finally:
        await conn.close()
    print(f"\n{done:,} messages are indexed anew.")
    return 0
