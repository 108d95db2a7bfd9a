"""What load/ computes: parsers, percentiles, pgbench scripts, verdicts. No server, no Locust."""

import random
import socket
import threading

import pytest

from load import inbox, pgbench
from load.figures import Figure, percentile, table
from load.http_client import content_length, header_end, paced, request_bytes
from load.parts import send_body
from load.run import judge
from load.sse_client import Dechunk, Event, Parser
from load.streams import Streams

WIRE = (
    b'retry: 2000\n\nevent: ready\nid: a.0\ndata: {"cursor":"a.0","lastSeq":0}\n\n'
    b": still here\n\nid: a.1\r\nevent: message\r\n"
    b'data: {"threadId":7,"seq":1,\r\ndata:"text":"\xd0\x96"}\r\n\r\n'
    b"event: typing\ndata:{}\n\n"
)
EVENTS = [
    Event("ready", b'{"cursor":"a.0","lastSeq":0}', "a.0"),
    Event("message", b'{"threadId":7,"seq":1,\n"text":"\xd0\x96"}', "a.1"),
    Event("typing", b"{}", None),
]


def pieces(data: bytes, seed: int) -> list[bytes]:
    """The data cut at random places, often into single bytes."""
    chance, found = random.Random(seed), []
    while data:
        size = chance.choice((1, 1, 2, 7, 50))
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.mark.parametrize("seed", range(25))
def test_events_are_the_same_however_the_bytes_are_cut(seed: int) -> None:
    parser = Parser()
    assert [event for piece in pieces(WIRE, seed) for event in parser.feed(piece)] == EVENTS
    assert parser.retry_ms == 2000
    assert EVENTS[1].seq == 1


def test_an_event_without_seq_is_refused_and_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="no seq"):
        _ = EVENTS[2].seq


@pytest.mark.parametrize("seed", range(25))
def test_chunks_are_joined_however_the_bytes_are_cut(seed: int) -> None:
    wire = (
        b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in pieces(WIRE, 100 + seed)) + b"0\r\n\r\n"
    )
    dechunk = Dechunk()
    assert b"".join(dechunk.feed(piece) for piece in pieces(wire, seed)) == WIRE
    assert dechunk.done
    assert dechunk.rest == b""


def test_a_percentile_is_a_measured_value_by_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.99) == 7
    assert percentile([1.0, 2.0], 0.51) == 2
    with pytest.raises(ValueError, match="needs values"):
        percentile([], 0.5)


def test_a_script_gives_pgbench_the_same_statement_with_variables_for_parameters() -> None:
    text = (
        "/* m.page */ SELECT $2::text, m.n::int\nFROM m -- it's :not a $1\nWHERE id < $1 AND t = $2 LIMIT $3"
    )
    made = pgbench.script(text, ("before", "name", "size"), {"before": "random(1, 9)"})
    assert made == (
        "\\set before random(1, 9)\n"
        "/* m.page */ SELECT :name::text, m.n::int\nFROM m \nWHERE id < :before AND t = :name LIMIT :size;\n"
    )
    with pytest.raises(ValueError, match="befor"):
        pgbench.script(text, ("before", "name", "size"), {"befor": "1"})


def test_a_colon_inside_a_literal_is_no_variable_and_stays_the_same_string() -> None:
    made = pgbench.script(r"""SELECT '{"a":null,"b\n":', 'it''s :x', E'\t:y', '"seq":' || $1""", ("seq",), {})
    assert made == r"""SELECT E'{"a"\x3anull,"b\\n":', E'it''s \x3ax', E'\t\x3ay', '"seq":' || :seq;""" + "\n"


def test_ten_threads_are_chosen_from_in_one_expression() -> None:
    assert pgbench.choice([5, 9, 7]) == "case when :_pick = 0 then 5 when :_pick = 1 then 9 else 7 end"
    assert pgbench.choice([5]) == "5"


SAID = """transaction type: x.sql
number of transactions actually processed: 1200
number of failed transactions: {failed} (0.000%)
latency average = 1.500 ms
initial connection time = 9.1 ms
tps = 5333.25 (without initial connection time)
"""


def test_a_pgbench_run_with_failures_is_no_result() -> None:
    assert pgbench.parse(SAID.format(failed=0)) == pgbench.Result(1200, 5333.25, 1.5)
    for said in (SAID.format(failed=3), "", SAID.replace("1200", "0").format(failed=0)):
        with pytest.raises(ValueError, match="pgbench failed"):
            pgbench.parse(said)


def test_a_request_and_the_head_of_an_answer_are_read_by_length() -> None:
    body = send_body("hello", 3)
    assert len(body) == len(send_body("hello", 999_999))
    made = request_bytes("POST", "/x", token="t", body=body, headers={"A": "b"})
    assert made.endswith(b"\r\nContent-Length: %d\r\nA: b\r\n\r\n%b" % (len(body), body))
    assert b"Authorization: Bearer t\r\n" in made
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
    assert (header_end(head[:-1]), header_end(head + b"x"), content_length(head)) == (-1, len(head), 12)
    with pytest.raises(ValueError, match="without content-length"):
        content_length(b"HTTP/1.1 200 OK\r\n\r\n")


def row(name: str, p95: str, failures: int = 0) -> dict[str, str]:
    counts = {"Request Count": "10", "Failure Count": str(failures), "Requests/s": "1.0"}
    return {"Name": name, "50%": "1", "95%": p95, "99%": p95, **counts}


def test_a_target_is_missed_when_late_when_anything_failed_and_when_nothing_was_measured() -> None:
    rows = [row("GET page", "29"), row("POST", "50"), row("SSE", "1", failures=1), row("login", "900")]
    rows.append(row("Aggregated", "9999", failures=1))
    figures = judge(rows, {"GET page": 30, "POST": 50, "SSE": 100, "list": 50}, 0.95)
    assert {figure.name: figure.verdict for figure in figures} == {
        "GET page": "ok",
        "POST": "MISSED",
        "SSE": "MISSED",
        "login": "ok",
        "list": "MISSED",
    }


PLAN = """2026-11-21 02:04:35.178 UTC [17223] LOG:  duration: 0.022 ms  plan:
Query Text: /* inbox.latest */ SELECT 1
Limit  (cost=0.28..2.50 rows=1 width=6) (actual rows=1.00 loops=1)
  Buffers: shared hit=30 read=4 dirtied=1
  ->  Index Scan using users_pkey on users  (cost=0.28..2.50 rows=1 width=6)
        Buffers: shared hit=3"""


def test_what_a_plan_touches_is_what_its_top_node_touches() -> None:
    assert inbox.touched(PLAN) == 34
    assert inbox.touched("Query Text: /* health.ask */ SELECT 1\nResult  (cost=0.00..0.01 rows=1)") == 0
    named = inbox.SAID.search(PLAN)
    assert named and named[1] == "inbox.latest"


def test_an_open_loop_sends_on_time_and_a_busy_server_makes_those_late_that_wait() -> None:
    """One connection at a time, answered after 20 ms: of 100 a second half come too late to be sent when due."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            while not over.is_set() and connection.recv(4096):
                over.wait(0.02)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    server = threading.Thread(target=answer)
    server.start()
    try:
        found = paced(
            listener.getsockname(),
            lambda: b"GET / HTTP/1.1\r\n\r\n",
            per_second=100,
            connections=1,
            seconds=0.5,
        )
    finally:
        over.set()
        listener.close()
        server.join()
    assert set(found.statuses) == {200} and len(found.latencies_ms) == 50
    assert (
        found.latencies_ms[-1] > found.latencies_ms[0] >= 20 and found.latencies_ms[-1] > 400
    )  # the queue is told


def test_the_table_says_which_figures_were_missed() -> None:
    lines = table([Figure("a", "1 ms", "<= 2 ms", True), Figure("b", "3 ms", "<= 2 ms", False)]).splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["ok", "MISSED"]
    assert len({line.index("<=") for line in lines[2:]}) == 1


def test_a_stream_that_the_server_closes_before_it_is_ready_is_an_error() -> None:
    from load.streams import Stream

    with socket.create_server(("127.0.0.1", 0)) as server:
        streams = Streams()
        stream = streams.add(Stream(server.getsockname(), request_bytes("GET", "/")))
        server.accept()[0].close()
        with pytest.raises(RuntimeError, match="closed"):
            streams.until_ready([stream], timeout_s=5)
        streams.close()
