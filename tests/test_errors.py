"""Errors have one shape everywhere, and tell nothing of the inside."""

import socket
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
import pytest
from sanic import exceptions as sanic_exceptions

from server.base.errors import CONSTRAINTS, Invalid, NotFound, Problem, render, understood
from tests.client import Api
from tests.conftest import Cast
from tests.ops.process import Bobbin
from tests.rules import an_error, ok, raw, refused

JSON = {"Content-Type": "application/json"}


# ---- over HTTP


@pytest.mark.parametrize(
    "path",
    [
        "/web", "/threads", "/api", "/api/", "/api/nothing", "/api/threads/1/nothing", "/api/threads/1/messages/1/x",
        "/api/me/x", "/threads/01", "/threads/7/x", "/web/x/y",
        "/api/threads/x", "/api/threads/01", "/api/threads/-1", "/api/threads/+1", "/api/threads/1_0", "/api/threads/0",
        "/api/threads/1.0", "/api/threads/\u0661", "/api/threads/9223372036854775808", "/api/threads/1%0A",
        "/api/threads/1%00", "/livez/x", "/../etc/passwd", "/api//threads", "/%00", "/\u00fc", "/api/threads/1;x",
        "/api/threads/%31", "/" + "a" * 4000,
    ],
)  # fmt: skip
async def test_an_unknown_address_is_a_404_for_everybody(api: Api, cast: Cast, path: str) -> None:
    for who in (None, cast.ada):
        refused(await api.get(path, as_=who), 404, "not_found")
        refused(await api.post(path, {}, as_=who), 404, "not_found")


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "not_json"),
        (b"", JSON, 400, "not_json"),
        (b"{'a': 1}", JSON, 400, "not_json"),
        (b'{"email": "a", "password": "b"} x', JSON, 400, "not_json"),
        (b"\xff\xfe{\x00}\x00", JSON, 400, "not_json"),
        (b"[]", JSON, 400, "wrong_type"),
        (b'{"password": 1}', JSON, 400, "wrong_type"),
        (b"{}", JSON, 422, "invalid"),
        (b"{}", {"Content-Type": "Application/JSON ; charset=utf-8"}, 422, "invalid"),
        (b"{}", {}, 422, "invalid"),  # a client that says nothing means JSON
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_type"),
        (b"{}", {"Content-Type": "application/json5"}, 415, "unsupported_type"),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_type"),
        (b"{}", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "unsupported_type"),
        (b"x" * 2**14, JSON, 400, "not_json"),
        (b"x" * (2**14 + 1), JSON, 413, "too_large"),
    ],
)
async def test_what_is_no_json_object_is_refused(
    api: Api, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    refused(await api.ask("POST", "/api/auth/login", content=content, headers=headers), status, code)


async def test_a_body_is_limited_also_when_it_comes_in_pieces(api: Api) -> None:
    start = b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\n"
    for length in (2**20 + 1, 2**31, 10**20):
        refused(await raw(api, b"%bContent-Length: %d\r\n\r\n" % (start, length)), 413, "too_large")
    chunks = start + b"Transfer-Encoding: chunked\r\n\r\n" + 32 * (b"8000\r\n" + b" " * 0x8000 + b"\r\n")
    refused(await raw(api, chunks + b"1\r\n"), 413, "too_large")
    # What this route takes is less: that much, all of it blank, and a byte more.
    chunks = start + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    refused(await raw(api, chunks + b"0\r\n\r\n"), 400, "not_json")
    refused(await raw(api, chunks + b"1\r\n \r\n0\r\n\r\n"), 413, "too_large")


@pytest.mark.parametrize("path", ["/api/auth/login", "/nope"])
@pytest.mark.parametrize("name", [b"Content-Length ", b"Content-Length\t", b"Transfer-Encoding "])
def test_a_blank_behind_a_headers_name_smuggles_no_request(address: str, path: str, name: bytes) -> None:
    inner = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = b"POST %b HTTP/1.1\r\nHost: x\r\n%b: %d\r\n\r\n%b" % (path.encode(), name, len(inner), inner)
    where = urlsplit(address)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as conn:
        conn.sendall(sent)
        heard = b""
        while piece := conn.recv(65536):  # it is closed
            heard += piece
    assert heard.startswith(b"HTTP/1.1 400 ")
    assert heard.count(b"HTTP/1.1") == 1


async def test_who_sends_all_of_a_body_that_is_too_large_still_gets_the_answer(api: Api) -> None:
    reply = await api.post(
        "/api/auth/login", content=b" " * 8_000_000, headers={"content-type": "application/json"}
    )
    refused(reply, 413, "too_large")


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        + b"\x00" * 200
        + b"\r\n\r\n",  # TLS where there is none
        b"BREW /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"GET /api/threads/\xff HTTP/1.1\r\n\r\n",
        b"GET /api/threads?search=\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET /api/me HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"GET /api/me HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /api/auth/login HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"POST /api/auth/login HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/auth/login HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        b"POST /api/auth/login HTTP/1.1\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n",
        b"POST /api/auth/login HTTP/1.1\r\nContent-Length: 2\r\nExpect: 200-maybe\r\n\r\n{}",
        b"POST /api/auth/login HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n{}\r\n0\r\n\r\n",
        b"POST /api/auth/login HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"POST /api/auth/login HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /api/auth/login HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_what_is_hardly_http_gets_an_error_of_the_same_shape(api: Api, sent: bytes) -> None:
    reply = await raw(api, sent)
    an_error(reply)
    assert (await api.get("/livez")).status == 200


async def test_an_address_that_can_not_be_read_is_not_written_down(api: Api, server: Bobbin) -> None:
    for address in (
        "http://[::1/?token=s3cret-token",
        "?token=s3cret-token",
        "http://x:port/?token=s3cret-token",
    ):
        reply = await raw(api, f"GET {address} HTTP/1.1\r\n\r\n".encode())
        assert reply.status == 0 or an_error(reply)  # Sanic closes without a word
    server.wait_for("Bad URL")
    assert "s3cret-token" not in server.said()


# ---- request ids


@pytest.mark.parametrize(
    "given",
    ["a", "A-b_9", "8f14e45f-ceea-4672-9d3a-1c2b3d4e5f60", "x" * 128, "Root=1-6789-abc", "a.b:c/d+e@f"],
)
async def test_a_sane_request_id_is_the_callers_own(api: Api, cast: Cast, given: str) -> None:
    headers = {"X-Request-Id": given}
    for reply in (
        await api.get("/api/me", as_=cast.ada, headers=headers),
        refusal := await api.get("/api/me", headers=headers),
        await api.get("/api/nothing", headers=headers),
        await api.ask("PUT", "/api/me", headers=headers),
    ):
        assert reply.headers["x-request-id"] == given
    assert refusal.json["requestId"] == given


@pytest.mark.parametrize("given", ["x" * 129, "a b", "<script>", "a\x7f", "é", "a,b", '"', "-\t-"])
async def test_another_request_id_is_replaced_by_one_of_ours(api: Api, given: str) -> None:
    headers = {"X-Request-Id": given.encode()}
    answers = [
        await api.get(path, headers=headers) for path in ("/livez", "/livez", "/api/me", "/api/nothing")
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert given not in ids and len(set(ids)) == 4
    assert all(one.replace("-", "").isalnum() for one in ids)


async def test_the_log_line_of_a_request_has_its_id(api: Api, server: Bobbin, cast: Cast) -> None:
    for path, status in (("/api/me", 200), ("/api/threads/999999999", 404), ("/api/threads?limit=0", 422)):
        request_id = f"find-me-{status}"
        assert (await api.get(path, as_=cast.ada, headers={"X-Request-Id": request_id})).status == status
        server.wait_for(request_id)
        (line,) = [event for event in server.events("request") if event["request_id"] == request_id]
        assert (line["status"], line["user_id"], line["method"]) == (status, cast.ada.id, "GET")


# ---- the table


class Broken(asyncpg.UniqueViolationError):  # type: ignore[misc]  # asyncpg has no types
    """A violated constraint, as the driver raises it."""

    def __init__(self, constraint: str) -> None:
        super().__init__("duplicate key: (secret)")
        self.constraint_name = constraint


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Broken("users_email_key"), 409, "email_taken"),
        (Broken("users_username_key"), 409, "username_taken"),
        (Broken("memberships_open"), 409, "already_member"),
        (Broken("a_rule_nobody_thought_of"), 500, "internal_error"),
        (asyncpg.UndefinedTableError("secret"), 500, "internal_error"),
        (ZeroDivisionError("secret"), 500, "internal_error"),
        (asyncpg.DeadlockDetectedError("secret"), 503, "unavailable"),
        (asyncpg.SerializationError("secret"), 503, "unavailable"),
        (asyncpg.CannotConnectNowError("secret"), 503, "unavailable"),
        (ConnectionRefusedError("secret"), 503, "unavailable"),
        (TimeoutError("secret"), 503, "unavailable"),
        (sanic_exceptions.PayloadTooLarge("secret"), 413, "too_large"),
        (sanic_exceptions.RequestTimeout("secret"), 408, "timeout"),
        (sanic_exceptions.ServiceUnavailable("secret"), 503, "unavailable"),
        (sanic_exceptions.BadRequest("secret"), 400, "bad_request"),
        (sanic_exceptions.ServerError("secret"), 500, "internal_error"),
    ],
)
def test_whatever_is_raised_becomes_an_error_of_one_shape_without_its_words(
    error: Exception, status: int, code: str
) -> None:
    problem = understood(error)
    response = render(problem, "id")
    body: dict[str, Any] = orjson.loads(response.body or b"")
    assert (response.status, body["code"], body["requestId"]) == (status, code, "id")
    assert set(body) == {"error", "code", "requestId"}
    assert b"secret" not in (response.body or b"")
    assert ("Retry-After" in response.headers) == (status == 503)


def test_details_name_the_fields_and_are_left_out_where_there_are_none() -> None:
    assert orjson.loads(render(Invalid({"text": "is required"}), "id").body or b"")["details"] == {
        "text": "is required"
    }
    assert "details" not in orjson.loads(render(NotFound(), "id").body or b"")


def test_sentences_are_sentences_and_codes_are_words() -> None:
    kinds = [kind for kind in Problem.__subclasses__() if kind.__module__ == Problem.__module__]
    for sentence, code in [(kind.sentence, kind.code) for kind in kinds] + [
        (s, c) for c, s in CONSTRAINTS.values()
    ]:
        assert sentence[0].isupper() and sentence.endswith(".")
        assert code.replace("_", "").isalpha() and code.islower()


async def test_the_probes_say_how_things_stand(api: Api) -> None:
    assert ok(await api.get("/livez")) == {"status": "ok"}
    for probe in ("/readyz", "/healthz"):
        assert ok(await api.get(probe)) == {"status": "ok", "app": "ok", "database": "ok", "redis": "ok"}
