"""Each query block keeps what its header says: bound, prepared, its plan on data shaped like production, its route."""

import ast
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.base.db import FETCH, KEYS, QUERIES, ROOT, Block, all_blocks, blocks, used
from server.ops.explain import OTHERWISE, Mode, fill, plan
from server.routes import ROUTES
from tests.client import NUMBERS
from tests.conftest import PROCESS, Backing

BLOCKS = all_blocks()
# Reading one of these from end to end is never right: they grow with what people say and do.
GROWING = {
    "messages", "changes", "client_ids", "memberships", "users", "sessions", "thread_heads", "threads",
    "spent_tokens", "tickets", "audit", "blocks", "invites", "marks", "mentions", "reactions", "pins", "message_edits",
    "deletions", "personal_changes", "search_blocks", "search_grams", "search_late", "contacts", "conversations",
    "archives",
}  # fmt: skip
ANY_PLAN = "any:"  # a header that begins so says why a full read is right there
WRITES = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM)\b|\bFOR (NO KEY )?(UPDATE|SHARE)\b")


def named(block: Block) -> str:
    return block.name


@pytest.fixture(scope="module")
async def town(db_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database filled with the sample, with the settings that db/README.md recommends.

    With a random_page_cost of 4 so small a table is rather read in its own order, and sorted.
    """
    conn = await asyncpg.connect(db_url, server_settings={"random_page_cost": "1.1", "jit": "off"})
    await fill(conn)
    yield conn
    await conn.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


SCHEMA = "\n".join(path.read_text() for path in sorted((ROOT / "db" / "migrations").glob("*.sql")))
INDEXES = set(re.findall(r"(?:INDEX|CONSTRAINT) (\w+)(?= ON |\s+PRIMARY KEY|\s+UNIQUE)", SCHEMA))


@pytest.mark.parametrize("block", BLOCKS, ids=named)
def test_a_header_has_its_keys(block: Block) -> None:
    assert "params" in block.header and "plan" in block.header
    assert {"route", "cli", "live", "job"} & set(block.header), "who asks this?"
    assert bool(WRITES.search(block.text)) == ("locks" in block.header) or "advisory" in block.text
    assert set(block.header) <= set(KEYS)


def test_every_block_is_bound_and_every_binding_has_its_block() -> None:
    bound = set()
    for path in sorted((ROOT / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef) and any(
                isinstance(mark, ast.Name) and mark.id == "query" for mark in node.decorator_list
            ):
                bound.add(f"{path.stem}.{node.name}")
    assert bound == {block.name for block in BLOCKS}


def test_a_route_in_a_header_is_a_route_and_its_handler_is_in_the_module_of_the_file_or_uses_it() -> None:
    routes = {route.name for route in ROUTES}
    for block in BLOCKS:
        for line in block.header.get("route", ()):
            assert re.sub(r" \(.*\)$", "", line) in routes, f"{block.where}: {line}"


@pytest.mark.parametrize("block", BLOCKS, ids=named)
async def test_a_block_can_be_prepared(town: asyncpg.Connection, block: Block) -> None:
    statement = await town.prepare(block.text)
    assert len(statement.get_parameters()) == len(block.params)
    assert block.text.startswith(f"/* {block.name} */")


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("block", BLOCKS, ids=named)
async def test_a_plan_uses_the_indexes_that_its_header_names(
    town: asyncpg.Connection, block: Block, mode: Mode
) -> None:
    said = " ".join(block.header["plan"])
    found = list(nodes(await plan(town, block, mode)))
    if not said.startswith(ANY_PLAN) and block.name != "explain.sample":
        read = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
        assert not read & GROWING, f"{block.where} reads all of {read & GROWING}"
    wanted = [
        set(words.split("/")) for words in re.findall(r"[\w/]+", said) if set(words.split("/")) & INDEXES
    ]
    taken = {node["Index Name"] for node in found if "Index Name" in node}
    # An ON CONFLICT names its index too.
    taken |= {name for node in found for name in node.get("Conflict Arbiter Indexes", ())}
    missing = [either for either in wanted if not either & taken]
    assert not missing, f"{block.where}: {missing} not in {sorted(taken)}"


def test_whoever_moves_the_last_rev_says_in_which_transaction() -> None:
    """The user stream stands on it."""
    moves = [
        (block, match[1])
        for block in BLOCKS
        for match in re.finditer(
            r"\bUPDATE thread_heads\b(.*?)\b(?:FROM|WHERE|RETURNING)\b", block.text, re.S
        )
        if re.search(r"\blast_rev =", match[1])
    ]
    assert len(moves) > 10
    for block, settings in moves:
        assert re.search(r"\blast_xid = pg_current_xact_id\(\)", settings), block.where


READS = [block for block in BLOCKS if block.header.get("route") or block.header.get("live")]
# What the planner believes while a thread grows faster than it is analyzed: every thread has a single message.
MISLED = """
    SELECT pg_restore_attribute_stats('schemaname', 'public', 'relname', t, 'attname', 'thread_id', 'inherited', false,
        'null_frac', 0::real, 'avg_width', 8, 'n_distinct', -1::real)
    FROM unnest('{messages,changes,client_ids}'::text[]) t"""


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("block", READS, ids=named)
async def test_a_request_reads_a_bounded_number_of_messages(
    town: asyncpg.Connection, block: Block, mode: Mode
) -> None:
    """Thread 7 has 4,000 messages; what is read of it has nothing to do with that."""
    bounded(block, list(nodes(await plan(town, block, mode, analyze=True))))


@pytest.mark.parametrize("block", READS, ids=named)
async def test_so_it_does_when_the_planner_thinks_the_thread_short(
    town: asyncpg.Connection, block: Block
) -> None:
    misled = town.transaction()
    await misled.start()
    try:
        await town.execute(MISLED)
        bounded(block, list(nodes(await plan(town, block, "force_generic_plan", analyze=True))))
    finally:
        await misled.rollback()


def bounded(block: Block, found: list[dict[str, Any]]) -> None:
    for table in ("messages", "changes", "client_ids"):
        rows = sum(
            node["Actual Rows"] * node["Actual Loops"]
            for node in found
            if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable"
        )
        assert rows <= 210, f"{block.where} read {rows} rows of {table}"


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", ["search.mine", "threads.mine"])
async def test_what_goes_through_ones_own_threads_passes_by_those_of_contacts(
    town: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, name: str, mode: Mode
) -> None:
    """Person 100 is of the staff, and a member where they have answered."""
    (block,) = [block for block in BLOCKS if block.name == name]
    monkeypatch.setitem(OTHERWISE, name, {**OTHERWISE.get(name, {}), "user_id": 100})
    own, entered = await town.fetchrow(
        """SELECT count(*) FILTER (WHERE joined_rev > 0), count(*) FILTER (WHERE joined_rev = 0)
           FROM memberships WHERE user_id = 100 AND left_rev IS NULL"""
    )
    found = list(nodes(await plan(town, block, mode, analyze=True)))
    rows = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in found
        if node.get("Relation Name") == "memberships"
    )
    assert rows <= 10 * own < entered  # some are asked for their JSON too


async def test_whoever_is_named_is_looked_up_and_the_members_are_not_read(town: asyncpg.Connection) -> None:
    """What no plan of messages.send shows: the body of a function."""
    text = await town.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'members_named'")
    for number, name in enumerate(("thread", "author", "handles"), 1):
        text = re.sub(rf"\b{name}\b", f"${number}", text)
    async with town.transaction():
        await town.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await town.execute(f"PREPARE named (bigint, bigint, text[]) AS {text}")
        said = await town.fetchval("EXPLAIN (FORMAT JSON) EXECUTE named (7, 1, '{person7}')")
        await town.execute("DEALLOCATE named")
    found = list(nodes(json.loads(said)[0]["Plan"]))
    taken = {node.get("Index Name") for node in found}
    assert "blocks_pkey" in taken and taken & {"users_username_key", "users_by_username"}
    assert taken & {"memberships_open", "memberships_mine"}
    assert not any(node["Node Type"] == "Seq Scan" for node in found)
    (lookup,) = [node for node in found if node.get("Index Name") in ("memberships_open", "memberships_mine")]
    assert "user_id" in lookup["Index Cond"] and "thread_id" in lookup["Index Cond"]


async def test_a_page_touches_as_many_buffers_at_any_depth(town: asyncpg.Connection) -> None:
    touched = [buffers(await page(town, after)) for after in (0, 2000, 3850)]
    assert max(touched) <= min(touched) * 1.1, touched


# 140,000 more accounts, a level more of users_pkey, with a thread each for a third of them.
MORE = """
    INSERT INTO users (id, kind, name, deactivated_at)
    SELECT i, 'contact', 'Another ' || i, now() FROM generate_series(100001, 240000) i;
    INSERT INTO threads (id, kind, title) SELECT i, 'contact', 'Another ' || i FROM generate_series(100001, 145000) i;
    INSERT INTO thread_heads (thread_id) SELECT i FROM generate_series(100001, 145000) i;
    INSERT INTO memberships (thread_id, user_id, joined_rev, joined_seq, read_seq)
    SELECT i, i, 0, 0, 0 FROM generate_series(100001, 145000) i;"""


async def test_a_page_costs_the_same_among_many_more_people_and_whatever_the_planner_thinks(
    backing: Backing, template: str
) -> None:
    """Each author is looked up once: lookups are what grows with the tables, by a level of an index."""
    await backing.drop(name := f"fresh_{PROCESS}_{next(NUMBERS)}")
    admin = await asyncpg.connect(backing.url("postgres"))
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    conn = await asyncpg.connect(backing.url(name), server_settings={"random_page_cost": "1.1", "jit": "off"})
    modes: tuple[Mode, ...] = ("force_custom_plan", "force_generic_plan")
    pages = [blocks("messages")[word] for word in ("page_after", "page_before", "window")]

    async def touched() -> list[int]:
        for _ in "12":  # the second time, when what Postgres knows of tables is known to this session
            found = [
                buffers(await plan(conn, block, mode, analyze=True)) for mode in modes for block in pages
            ]
        return found

    try:
        await fill(conn)
        before = await touched()
        await conn.execute(MORE)
        await conn.execute("VACUUM ANALYZE")
        after = await touched()
        await conn.execute(MISLED)
        misled = await touched()
    finally:
        await conn.close()
        await backing.drop(name)
        await admin.close()
    for here in (after, misled):
        assert all(many <= few * 1.1 for few, many in zip(before, here, strict=True)), (before, here)


async def test_a_page_without_reactions_costs_as_much_as_if_there_were_none(
    town: asyncpg.Connection,
) -> None:
    def without(text: str) -> str:
        return re.sub(r"reactions_for\(p, \S+\)", "'[]'", text)

    for after, size, same in ((0, 10, True), (11, 10, True), (0, 50, False)):  # each eleventh has some
        found = [buffers(await page(town, after, size, edited)) for edited in (str, without)]
        assert (found[0] == found[1]) == same, found


def buffers(found: dict[str, Any]) -> int:
    """How many pages a plan has touched."""
    return int(found["Shared Hit Blocks"] + found["Shared Read Blocks"])


async def page(
    town: asyncpg.Connection, after: int, size: int = 50, edited: Callable[[str], str] = str
) -> dict[str, Any]:
    """The plan of a page of thread 7, as it was executed the second time."""
    values = ["1", "7", str(after), str(size), "1"]
    block = blocks("messages")["page_after"]
    text = re.sub(r"\$(\d)", lambda m: values[int(m[1]) - 1], edited(block.text))
    await town.fetch(text)
    said = await town.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON, TIMING OFF) {text}")
    root: dict[str, Any] = json.loads(said)[0]["Plan"]
    return root


def test_the_binder_refuses_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.base.db.QUERIES", tmp_path)
    for source in (
        "-- name: a :one\n-- params: x\nSELECT 1;\n",
        "-- name: a :one\n-- params:\nSELECT :x;\n",
        "-- name: a :what\n-- params:\nSELECT 1;\n",
        "-- name: a :one\n-- params:\nSELECT 1;\n\n-- name: a :one\n-- params:\nSELECT 1;\n",
    ):
        (tmp_path / "wrong.sql").write_text(source)
        blocks.cache_clear()
        with pytest.raises(ValueError, match=r"wrong\.sql"):
            blocks("wrong")
    (tmp_path / "right.sql").write_text(
        "-- name: a :value\n-- params: x (a word)\nSELECT :x::text || ':no', ':y' -- :z\n;\n"
    )
    assert blocks("right")["a"].text == "/* right.a */ SELECT $1::text || ':no', ':y' -- :z\n;"
    blocks.cache_clear()


def test_names_in_quotes_and_comments_are_no_parameters() -> None:
    assert used("SELECT ':a', :b::text -- :c\n") == {"b"}


def test_a_kind_is_one_of_those_that_the_binder_knows() -> None:
    assert {block.kind for block in BLOCKS} <= set(FETCH)
    assert QUERIES.is_dir()
