"""Plans of the query blocks: for a DBA on their own database, and for db/plans.md. SQL: db/queries/explain.sql.

Nothing is executed for `bobbin explain`: the plan shown is the generic one, which a prepared statement
settles on, for parameters such as SAMPLES.
"""

import argparse
import asyncio
import json
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg

from server.base.db import Block, Db, all_blocks, query
from server.base.settings import Settings
from server.ops.embedded import database

Mode = Literal["force_custom_plan", "force_generic_plan"]

# A believable value of each parameter, by its name: person 1 is in 60 channels and in thread 7, the
# longest of the sample.
SAMPLES: dict[str, Any] = {
    "act": "left",
    "active": True,
    "actor_id": 1,
    "address": "203.0.113.7",
    "added": 10,
    "after": 2000,
    "after_id": 0,
    "after_rev": 2100,
    "after_title": "thread 100",
    "archived": False,
    "asked_threads": [8, 9],
    "at": 1_775_000_000_000_000,
    "at_byte": 0,
    "asked_users": [1, 3],
    "author_id": None,
    "before": 2000,
    "begun_before": datetime(2026, 3, 1, tzinfo=UTC),
    "before_at": datetime(2255, 1, 1, tzinfo=UTC),
    "before_id": 2**62,
    "blocked": True,
    "blocked_id": 2,
    "body_hash": b"\x00" * 32,
    "by_id": 1,
    "client_id": "client 35",
    "contact_id": 6007,
    "contact_ids": [6007, 6008],
    "created_at": datetime(2026, 3, 1, tzinfo=UTC),
    "created_by": 1,
    "days": 7,
    "details": "{}",
    "device": "phone",
    "digest": b"\x00" * 32,
    "digits": None,
    "direction": 1,
    "email": "person7@example.com",
    "emoji": "👍",
    "emails": ["person7@example.com"],
    "external_id": "irc:sample:7",
    "external_ids": ["irc:sample:7", "irc:sample:8"],
    "given": ["name", "phoneNumber"],
    "grams": "wor\nord",
    "hash": bytes.fromhex("c4ca4238a0b923820dcc509a6f75849b"),  # of spent token 1 and ticket 1
    "file": "sample.ndjson.gz",
    "files": ["sample.ndjson.gz"],
    "floors": [200, 110, 110],
    "handles": ["person7", "person8"],
    "high_user_id": 500,
    "highs": [100, 10, 10],
    "horizon": "1",
    "id": 7,
    "ids": [7, 8, 9],
    "inbox": None,
    "invite_id": 7,
    "key": 2**61,
    "key_hash": b"\x04" * 32,
    "key_id": 9001,
    "key_ids": [9001, 9002],
    "kind": "group",
    "kinds": ["read", "read"],
    "last_at": datetime(2026, 12, 1, tzinfo=UTC),
    "last_rev": 9000,
    "last_seq": 8000,
    "lines": ["{}"],
    "livings": [98, 10, 10],
    "looks": 2000,
    "low_at": 0,
    "lows": [0, 0, 0],
    "low_user_id": 3,
    "max_uses": 10,
    "member_id": 3,
    "member_ids": [4, 5],
    "middle": 2000,
    "minutes": 20,
    "moment": datetime(2026, 3, 1, tzinfo=UTC),
    "most": 1000,
    "most_kinds": 20,
    "muted": True,
    "name": "Somebody",
    "new_hash": b"\x02" * 32,
    "names": ["Somebody", "Else"],
    "notes": "Has called twice.",
    "notify": "mentions",
    "old_hash": b"\x01" * 32,
    "only": 100,
    "other_id": 400,
    "other_ids": [400, 401],
    "pairs": 50_000,
    "part": "%erson 49%",
    "parts": ["more"],
    "password_hash": "x",
    "phone_number": "+4915100001007",
    "place": "3:3:",
    "phone_numbers": ["+4915100001007", "+4915100001008"],
    "password_hashes": ["x", "x"],
    "read": True,
    "read_receipts": True,
    "records": 200,
    "refresh_hash": b"\x01" * 32,
    "reply_to": 1990,
    "request_id": "sample-1",
    "revs": [8001, 8002],
    "role": "member",
    "roles": ["member", "member"],
    "search": None,
    "seconds": 60,
    "seen": "3:3:",
    "seq": 2000,
    "seqs": [2000, 2001],
    "session_id": 7,
    "session_ids": [7, 8, 9],
    "size": 50,
    "skip": 1000,
    "source": "1.txt",
    "status": "open",
    "subject_id": 2,
    "text": "Hello there.",
    "thread_id": 7,
    "thread_ids": [7, 8, 9],
    "title": "Thread 9",
    "to_at": 1_775_000_000_000_001,
    "to_seq": 2000,
    "to_thread_id": 7,
    "token_hash": bytes.fromhex("c4ca4238a0b923820dcc509a6f75849b") * 2,  # of invite 1
    "unread": False,
    "up_to_id": 2**63 - 1,
    "user_agent": "sample/1",
    "user_id": 1,
    "user_ids": [1, 3],
    "username": "person7",
    "usernames": ["newcomer1", "newcomer2"],
    "wanted": "'wor' & 'n77' & '\x01m2026-3'",
    "whole": False,
}
SOME_MESSAGES = {
    "ats": [1_775_000_000_000_000, 1_775_000_000_000_001],
    "thread_ids": [7, 8],
    "seqs": [2000, 2001],
}
A_BLOCK = {"id": 7, "seq": 1, **SOME_MESSAGES, "author_ids": [1, 3], "text": "one\x01two"}
A_BLOCK |= {"loose": 1, "stale": 1, "enough": 8}
# Where a block wants another one: a new account, a member who isn't one yet.
OTHERWISE: dict[str, dict[str, Any]] = {
    "audit.newest_act": {"act": "session."},
    "audit.newest_of": {"act": "session."},
    "admin.leave_inbox": {"user_id": 100},
    "bulk.advance_source": {"before": 100},
    "bulk.make_people": {"external_ids": ["irc:sample:new1", "irc:sample:new2"]},
    "bulk.make_townspeople": {
        "external_ids": ["irc:sample:new1", "irc:sample:new2"],
        "emails": ["new1@example.com", "new2@example.com"],
    },
    "contacts.change_many": {
        "names": ["Somebody", None],
        "emails": [None, None],
        "external_ids": [None, "crm:new"],
        "notes": [None, None],
    },
    "contacts.create_many": {
        "names": ["Somebody", "Else"],
        "place": "3:3:",
        "phone_numbers": ["+4930123456", None],
        "emails": [None, None],
        "external_ids": [None, None],
        "notes": ["", ""],
    },
    "contacts.matches": {"names": ["Somebody", "Else"], "emails": [None, None]},
    "contacts.search": {"search": "tact 77", "skip": 0},
    "contacts.search_letter": {"search": "7", "skip": 0},
    "inbox.by_phone": {"phone_number": "+4915100001007"},
    "inbox.change": {
        "thread_id": 3008,
        "given": ["status", "assigneeId", "labels"],
        "snoozed_until": None,
        "assignee_id": 200,
        "labels": ["urgent"],
    },
    "inbox.hand_in": {"external_id": "a new one"},
    "inbox.handed_in": {"user_id": 5001, "external_id": "sms 7"},
    "inbox.latest": {"user_id": 200},
    "inbox.latest_of": {"user_id": 200, "skip": 0},
    "inbox.named": {"search": "tact 77"},
    "inbox.reader": {"user_id": 200},
    "inbox.threads": {"user_id": 200, "looks": 150},
    "inbox.told": {"user_id": 200, "thread_ids": [3001, 3002, 3010]},
    "indexer.delay": SOME_MESSAGES,
    "indexer.done": SOME_MESSAGES,
    "indexer.make": A_BLOCK,
    "indexer.now": {"thread_ids": [7, 7], "seqs": [2000, 2001]},
    "indexer.places": SOME_MESSAGES,
    "indexer.remake": A_BLOCK,
    "invites.make": {"token_hash": b"\x03" * 32},
    "keys.hold_bot": {"user_id": 5001},
    "keys.make": {"kind": "bot"},
    "keys.make_bot": {"username": "newcomer"},
    "keys.make_guest": {"username": "newcomer"},
    "members.enter": {"user_id": 200, "thread_id": 3001},
    "masses.indexes": {"names": ["messages"], "others": ["contacts_by_part"]},
    "masses.make_agents": {"external_ids": ["seed:agent:1", "seed:agent:2"]},
    "masses.move_search": {"place": "3:3:"},
    "masses.sizes": {"names": ["messages", "changes"]},
    "members.open_span": {"member_id": 499},
    "merged.since": {"user_id": 100, "seen": "628:628:", "looks": 150},
    "messages.edit": {"seq": 2003},  # which has earlier texts, as the sample has it
    "messages.edits": {"seq": 2003, "after_rev": 0},
    "messages.send": {"client_id": "a new one"},
    "receipts.of_message": {"after_rev": 0, "looks": 500},
    "audit.note": {"act": "session.opened"},
    "search.alive": {"thread_ids": [3001, 3002], "seqs": [1, 1]},
    "search.hits": {"part": "words", "thread_ids": None},
    "search.likely": {"size": 350},
    "search.mine": {"size": 1000},
    "search.newest": {"size": 7},
    "search.tell": {"thread_ids": [7, 7], "seqs": [2000, 2001]},
    "sessions.by_key": {"hash": bytes.fromhex("c4ca4238a0b923820dcc509a6f75849b")},  # of key 1
    "sessions.make_ticket": {"hash": b"\x03" * 32},
    "sessions.open": {"password_hash": "hash 1"},
    "users.create": {"email": "new@example.com", "username": "newcomer"},
    "users.find": {"search": "erson 49"},
    "users.edit": {"username": "newcomer", "email": "new@example.com"},
    "users.set_password": {"old_hash": "hash 1", "new_hash": "hash 2"},
}


@query
async def sample(db: Db) -> str: ...


async def fill(conn: asyncpg.Connection) -> None:
    """Make an empty, migrated database look like production, and let the planner know."""
    await sample(conn)
    for table in ("users", "threads"):  # the sample names its ids; new ones go on after them
        await conn.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
    await conn.execute("VACUUM ANALYZE")


async def plan(
    conn: asyncpg.Connection, block: Block, mode: Mode, *, analyze: bool = False
) -> dict[str, Any]:
    """The plan of a block as Postgres tells it in JSON; with analyze it is executed, and rolled back."""
    options = "FORMAT JSON, COSTS OFF" + (", ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF" if analyze else "")
    said = await _explain(conn, block, mode, options)
    found: dict[str, Any] = json.loads("\n".join(said))[0]["Plan"]
    return found


async def lines(conn: asyncpg.Connection, block: Block) -> list[str]:
    """The generic plan of a block, without costs."""
    return await _explain(conn, block, "force_generic_plan", "COSTS OFF")


async def _explain(conn: asyncpg.Connection, block: Block, mode: Mode, options: str) -> list[str]:
    values = {**SAMPLES, **OTHERWISE.get(block.name, {})}
    given = ", ".join(literal(values[name]) for name in block.params)
    transaction = conn.transaction()
    await transaction.start()
    prepared = f"explained_{id(transaction)}"  # survives the rollback, and is told apart from its like
    try:
        await conn.execute(f"SET LOCAL plan_cache_mode = {mode}")
        await conn.execute("SET LOCAL jit = off")
        await conn.execute(f"PREPARE {prepared} AS {block.text}")
        rows = await conn.fetch(f"EXPLAIN ({options}) EXECUTE {prepared}{f'({given})' if given else ''}")
        return [row[0] for row in rows]
    finally:
        await transaction.rollback()
        await conn.execute(f"DEALLOCATE {prepared}")


def literal(value: Any) -> str:
    """A value of SAMPLES as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, datetime):
        return f"'{value.isoformat()}'"
    if isinstance(value, list):
        inner = ",".join(
            "NULL" if item is None else f'"{item}"' if isinstance(item, str) else str(item) for item in value
        )
        return f"'{{{inner}}}'"
    escaped = str(value).replace("'", "''")
    return f"'{escaped}'"


async def document(database_url: str) -> str:
    """db/plans.md: each block with its header and its generic plan on the sample. The database must be empty."""
    conn = await asyncpg.connect(database_url)
    try:
        await fill(conn)
        parts = [
            "# Plans\n\nGenerated by `make generate`, compared by `make check`: every block of db/queries with\n"
            "what its header says, and its generic plan on the sample of db/queries/explain.sql, without costs.\n"
        ]
        for block in all_blocks():
            head = "\n".join(
                f"- {key}: {line}" for key, found in block.header.items() for line in found if line
            )
            shown = "\n".join(await lines(conn, block))
            parts.append(
                f"## {block.name}\n\n{block.where.partition(':')[0]}\n\n{head}\n\n```\n{shown}\n```\n"
            )
        return "\n".join(parts)
    finally:
        await conn.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bobbin explain`."""
    parser.description = "Print the generic plan of query blocks on this database. Nothing is executed."
    parser.add_argument(
        "block", nargs="*", help="messages.page_after, or messages for all of the file; default all"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """bobbin explain."""
    wanted = [word.removeprefix("q=") for word in args.block]
    found = [
        block
        for block in all_blocks()
        if not wanted or {block.name, block.name.partition(".")[0]} & set(wanted)
    ]
    if not found:
        print("There is no such block; bobbin explain without a name prints all.")
        return 1
    with database(settings) as url:
        return asyncio.run(_print(url, found))


async def _print(url: str, found: list[Block]) -> int:
    conn = await asyncpg.connect(url, statement_cache_size=0)  # which PgBouncer needs
    try:
        for block in found:
            print(f"-- {block.name} ({block.where})", *await lines(conn, block), "", sep="\n")
    finally:
        await conn.close()
    return 0
