"""Between the internet and a handler: whose address counts, whose origin is let in, and what every answer carries."""

import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sanic.compat import Header

from server.base.answer import Answer, dress
from server.base.front import SECURITY, Front, as_network, as_origin, line_of, plain
from server.ops import starting
from server.routes import ROUTES, Route
from tests.client import Api, Reply
from tests.conftest import Asker, Cast
from tests.ops.conftest import kept_folder
from tests.ops.process import Bobbin
from tests.rules import ok, raw, refused, secured, set_up, url_of

__all__ = ["kept_folder"]

PROXIES = tuple(map(as_network, ("127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48")))
OTHER, STRANGER = "https://app.example.com", "https://evil.example.com"


# ---- addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.5"], "192.0.2.1"),  # anybody may write that
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.5"], "203.0.113.5"),  # the left one is the client's own word
        ("10.0.0.1", ["1.2.3.4", "203.0.113.5"], "203.0.113.5"),  # in two headers
        ("10.0.0.1", ["1.2.3.4,203.0.113.5 ,  10.9.9.9"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.5, 127.0.0.1, 10.9.9.9"], "203.0.113.5"),
        ("10.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),  # somebody inside
        ("10.0.0.1", ["203.0.113.5, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, garbage, 10.9.9.9"], "10.9.9.9"),
        ("10.0.0.1", ["203.0.113.5,,"], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5:1234"], "203.0.113.5"),
        ("10.0.0.1", ["[2001:db8::5]:1234"], "2001:db8::5"),
        ("10.0.0.1", ["2001:DB8:0::5"], "2001:db8::5"),
        ("10.0.0.1", ["::ffff:203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["fe80::1%eth0"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.005"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5\x00"], "10.0.0.1"),
        ("10.0.0.1", ["9" * 5000], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5" + ", 10.0.0.2" * 1000], "10.0.0.2"),  # too far
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("2001:db8:ffff::1", ["2001:db8:ffff::2, 10.0.0.3"], "2001:db8:ffff::2"),
        ("2001:db8:fffe::1", ["203.0.113.5"], "2001:db8:fffe::1"),
        ("", ["203.0.113.5"], None),
    ],
)
def test_whose_address_counts(peer: str, forwarded: list[str], address: str | None) -> None:
    assert Front(trusted=PROXIES, public_url="", origins=()).address(peer, forwarded) == address
    alone = Front(trusted=(), public_url="", origins=()).address(peer, forwarded)
    assert alone == (peer.removeprefix("::ffff:") or None), "without proxies of ours nobody is believed"


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        (None, "-"),
    ],
)
def test_who_is_braked_together(address: str | None, line: str) -> None:
    assert line_of(address) == line


async def test_the_audit_log_has_the_clients_address_and_not_what_it_claims(
    edge: Bobbin, api: Api, outside: Api, cast: Cast
) -> None:
    wrong = {"username": "nobody", "password": "wrong"}
    forwarded = {"X-Forwarded-For": "1.1.1.1, 203.0.113.99"}
    refused(await outside.post("/api/auth/login", wrong, headers=forwarded), 401)
    body = {"email": "claims@example.com", "name": "claims", "password": "password123"}
    account = ok(await outside.post("/api/auth/register", body, headers=forwarded), 201)
    token = {"Authorization": f"Bearer {account['accessToken']}"}
    (session,) = ok(await outside.get("/api/auth/sessions", headers=token))["sessions"]
    assert session["address"] == "203.0.113.99"
    # The other server trusts nobody.
    body["email"], body["username"] = f"claims{cast.ada.id}@example.com", f"claims{cast.ada.id}"
    account = ok(await api.post("/api/auth/register", body, headers=forwarded), 201)
    token = {"Authorization": f"Bearer {account['accessToken']}"}
    (session,) = ok(await api.get("/api/auth/sessions", headers=token))["sessions"]
    assert session["address"] == "127.0.0.1"


# ---- TLS and origins


def asks(front: Front, peer: str = "192.0.2.1", **headers: str) -> Any:
    """A request as far as front.py looks at it."""
    given = Header([(name.replace("_", "-"), value) for name, value in headers.items()])
    return SimpleNamespace(ip=peer, headers=given, app=SimpleNamespace(ctx=SimpleNamespace(front=front)))


@pytest.mark.parametrize(
    ("public_url", "peer", "said", "tls"),
    [
        ("", "192.0.2.1", "https", False),
        ("", "10.0.0.1", "https", True),
        ("", "10.0.0.1", "HTTPS ", True),
        ("", "10.0.0.1", "http", False),
        ("", "10.0.0.1", "https, http", False),  # the last one is our proxy's word
        ("", "10.0.0.1", "", False),
        ("", "", "https", False),
        ("https://chat.example.com", "192.0.2.1", "", True),
        ("http://chat.example.com", "10.0.0.1", "https", True),
        ("http://chat.example.com", "192.0.2.1", "https", False),
    ],
)
def test_who_came_by_https(public_url: str, peer: str, said: str, tls: bool) -> None:
    front = Front(trusted=PROXIES, public_url=public_url, origins=())
    request = asks(front, peer, x_forwarded_proto=said, host="h:1")
    assert front.by_tls(request) is tls
    assert ("Strict-Transport-Security" in plain(front.headers(request))) is tls
    assert front.origin(request) == (public_url or f"http{'s' if tls else ''}://h:1")
    assert not Front(trusted=(), public_url="", origins=()).by_tls(request)


@pytest.mark.parametrize(
    ("origin", "owned"),
    [
        ("https://chat.example.com", True),
        ("http://inside:8000", True),
        ("https://inside:8000", True),
        ("http://chat.example.com", False),
        ("https://chat.example.com:444", False),
        ("https://chat.example.com.evil.com", False),
        ("https://evil.com", False),
        ("http://inside:8001", False),
        ("http://inside", False),
        ("ftp://inside:8000", False),
        ("null", False),
        ("", False),
        ("://inside:8000", False),
        ("inside:8000", False),
    ],
)
def test_which_origins_are_our_own(origin: str, owned: bool) -> None:
    front = Front(trusted=PROXIES, public_url="https://chat.example.com", origins=())
    plainly = Front(trusted=(), public_url="http://chat.example.com", origins=())
    assert plainly.owns(origin, asks(plainly, host="inside:8000")) is (
        origin == "http://chat.example.com" if "chat.example.com" in origin else owned
    )
    if origin != "http://inside:8000":  # who comes by https has no page of http
        assert front.owns(origin, asks(front, host="inside:8000")) is owned
    else:
        assert not front.owns(origin, asks(front, host="inside:8000"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://{host}"}, 200),
        ({"Origin": "https://{host}"}, 200),  # behind a proxy nobody told us of
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://{host}"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": STRANGER}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": OTHER}, 403),  # listed, and still no page of ours
        ({"Origin": "http://{host}.evil.com"}, 403),
    ],
)
async def test_a_write_by_cookie_comes_from_a_page_of_ours(
    outside: Api, cookies: dict[str, str], headers: dict[str, str], status: int
) -> None:
    host = outside.base.removeprefix("http://")
    given = {name: value.format(host=host) for name, value in headers.items()}
    reply = await outside.ask("PATCH", "/api/me", json={"name": "Anew"}, headers=cookies | given)
    if status == 200:
        ok(reply)
    else:
        refused(reply, 403, "csrf")
    ok(
        await outside.get("/api/me", headers=cookies | given)
    )  # to read, a page needs to be let see the answer
    assert "access-control-allow-credentials" not in reply.headers


@pytest.fixture(scope="module")
async def cookies(outside: Api) -> dict[str, str]:
    """Of somebody signed in with a browser."""
    body = {"email": "browser@example.com", "name": "browser", "password": "password123"}
    reply = await outside.post("/api/auth/register", body)
    assert reply.status == 201
    found = dict(re.findall(r"(bobbin_\w+)=([^;]+)", " ".join(reply.headers.get_list("set-cookie"))))
    pairs = "; ".join(f"{name}={value}" for name, value in found.items())
    return {"Cookie": pairs, "X-CSRF-Token": found["bobbin_csrf"]}


async def test_cookies_are_for_tls_alone_where_there_is_tls(outside: Api) -> None:
    body = {"email": "tls@example.com", "name": "tls", "password": "password123"}
    reply = await outside.post("/api/auth/register", body, headers={"X-Forwarded-Proto": "https"})
    assert reply.headers["strict-transport-security"] == "max-age=31536000"
    set_cookies = reply.headers.get_list("set-cookie")
    assert len(set_cookies) == 2
    assert all(one.startswith("__Host-bobbin_") and "Secure" in one for one in set_cookies)
    assert "strict-transport-security" not in (await outside.get("/livez")).headers


# ---- CORS


@pytest.fixture(scope="module")
def edge(kept_folder: Path) -> Iterator[Bobbin]:
    """A server behind a proxy on this machine, with a page of another origin allowed."""
    own = Bobbin(
        kept_folder,
        BOBBIN_RATE_LIMITS="off",
        BOBBIN_TRUSTED_PROXIES="127.0.0.1",
        BOBBIN_CORS_ORIGINS=f"{OTHER}, http://localhost:5173",
    )
    try:
        yield own.ready()
    finally:
        own.close()


@pytest.fixture(scope="module")
async def outside(edge: Bobbin) -> AsyncIterator[Api]:
    client = Api(edge.url)
    yield client
    await client.close()


def cors(reply: Reply) -> dict[str, str]:
    mine = "access-control-"
    return {name[len(mine) :]: value for name, value in reply.headers.items() if name.startswith(mine)}


ANSWERS = [
    ("GET", "/livez", 200),
    ("GET", "/api/me", 401),
    ("GET", "/api/nothing", 404),
    ("PUT", "/api/me", 405),
    ("POST", "/api/auth/login", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
async def test_an_answer_may_be_read_by_listed_origins_alone(
    outside: Api, api: Api, method: str, path: str, status: int
) -> None:
    for origin in (OTHER, "http://localhost:5173"):
        reply = await outside.ask(method, path, headers={"Origin": origin})
        assert reply.status == status
        assert cors(reply)["allow-origin"] == origin
        assert set(cors(reply)) == {"allow-origin", "expose-headers"}
        assert "Retry-After" in cors(reply)["expose-headers"]
        assert reply.headers["vary"] == "Origin"
        assert cors(await api.ask(method, path, headers={"Origin": origin})) == {}
    for stranger in (
        None,
        STRANGER,
        "null",
        "*",
        f"{OTHER}.evil.com",
        OTHER.upper(),
        "http://app.example.com",
    ):
        headers = {"Origin": stranger} if stranger else {}
        reply = await outside.ask(method, path, headers=headers)
        assert (reply.status, cors(reply)) == (status, {})
        assert reply.headers["vary"] == "Origin", "a cache keeps them apart"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_a_preflight_is_answered_for_every_address(
    outside: Api, api: Api, cast: Cast, route: Route
) -> None:
    url = url_of(route, cast)
    asked = {"Access-Control-Request-Method": route.method, "Access-Control-Request-Headers": "authorization"}
    reply = await outside.ask("OPTIONS", url, headers=asked | {"Origin": OTHER})
    assert (reply.status, reply.body) == (204, b"")
    told = cors(reply)
    assert told["allow-origin"] == OTHER
    assert route.method in told["allow-methods"].split(", ")
    assert told["allow-methods"] == reply.headers["allow"]
    assert {"Authorization", "Idempotency-Key", "Last-Event-ID"} <= set(told["allow-headers"].split(", "))
    assert 0 < int(told["max-age"]) <= 86400
    assert "allow-credentials" not in told
    secured(reply)
    for client, origin in ((outside, STRANGER), (api, OTHER)):
        reply = await client.ask("OPTIONS", url, headers=asked | {"Origin": origin})
        assert (reply.status, cors(reply)) == (204, {})
        assert route.method in reply.headers["allow"].split(", ")


async def test_a_preflight_of_an_unknown_address_is_a_404(outside: Api) -> None:
    for path in ("/nothing", "/api/nothing", "/api/threads/x", "/api/threads/0/messages"):
        refused(await outside.ask("OPTIONS", path, headers={"Origin": OTHER}), 404, "not_found")


async def test_a_stream_has_the_headers_of_every_answer_too(outside: Api, api: Api, cast: Cast) -> None:
    body = {"email": "streams@example.com", "name": "streams", "password": "password123"}
    account = ok(await outside.post("/api/auth/register", body), 201)
    token = {"Authorization": f"Bearer {account['accessToken']}", "Origin": OTHER}
    made = await outside.post("/api/threads", {"kind": "group", "title": "Team"}, headers=token)
    path = f"/api/threads/{ok(made, 201)['thread']['id']}/stream"
    async with outside._client.stream("GET", path, headers=token) as answer:
        stream = Reply(answer.status_code, answer.headers, b"")
    assert (stream.status, cors(stream)["allow-origin"]) == (200, OTHER)
    secured(stream)
    async with api.stream(cast.team, cast.ada) as other:
        secured(Reply(200, other.answer.headers, b""))


# ---- headers of everything


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.access != "STREAM"], ids=lambda route: route.name
)
async def test_every_answer_of_every_route_has_them(api: Api, cast: Cast, asker: Asker, route: Route) -> None:
    await set_up(api, cast)
    url, who = url_of(route, cast), await asker(route)
    for reply in (
        await api.ask(route.method, url, as_=who, json={}),
        await api.ask(route.method, url),
        await api.ask("BREW", url),
        await api.ask(route.method, f"{url}?nonsense=1", as_=who, content=b"{"),
    ):
        secured(reply)
        assert "x-request-id" in reply.headers


async def test_so_has_the_answer_of_a_server_that_is_starting() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = starting.Server(listener)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        client = Api(f"http://127.0.0.1:{address[1]}")
        for path, status in (("/livez", 200), ("/api/me", 503), ("/readyz", 503)):
            reply = await client.get(path)
            assert reply.status == status
            assert ("retry-after" in reply.headers) is (status == 503)
            secured(reply)
        head = await raw(client, b"HEAD /livez HTTP/1.1\r\n\r\n")
        assert (head.status, head.body) == (200, b"")
        secured(head)
        for sent in (
            b"GARBAGE\r\n\r\n",
            b"BREW /livez HTTP/1.1\r\n\r\n",
            b"GET /" + b"a" * 70_000 + b"\r\n\r\n",
        ):
            reply = await raw(client, sent)
            assert refused(reply, 400, "bad_request")
            secured(reply)
        await client.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_answers_own_headers_come_before_those_of_all() -> None:
    answer = Answer(b"x", headers={"Content-Security-Policy": "sandbox"})
    dress(answer, ((b"X-Request-Id", b"1"), *((k.encode(), v.encode()) for k, v in SECURITY.items())))
    sent = [(name.lower(), value) for name, value in answer.processed_headers]
    assert len({name for name, _ in sent}) == len(sent) == len(SECURITY) + 2  # and its content type
    assert (b"content-security-policy", b"sandbox") in sent


# ---- bodies


async def test_a_body_where_none_is_taken_does_no_harm(api: Api, cast: Cast) -> None:
    for content in (b"{", b"x" * 100_000, b"\x00"):
        assert ok(await api.ask("GET", "/api/me", as_=cast.ada, content=content))["user"]["id"] == cast.ada.id
        ok(await api.ask("DELETE", f"/api/me/blocks/{cast.ben.id}", as_=cast.ada, content=content), 204)
    ok(await api.get("/livez"))


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body is not None], ids=lambda r: r.name)
async def test_a_body_is_limited_by_the_cost_of_its_route(
    api: Api, cast: Cast, asker: Asker, route: Route
) -> None:
    await set_up(api, cast)
    url, who, most = url_of(route, cast), await asker(route), route.brake.body_bytes
    headers = {"Content-Type": "application/json"}
    blank = await api.ask(route.method, url, as_=who, content=b" " * most, headers=headers)
    refused(blank, 400, "not_json")
    more = await api.ask(route.method, url, as_=who, content=b" " * (most + 1), headers=headers)
    refused(more, 413, "too_large")


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://Chat.Example.com/", "https://chat.example.com"),
        ("https://h:443", "https://h"),
        ("http://h:443", "http://h:443"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://localhost:5173", "http://localhost:5173"),
    ],
)
def test_an_origin_is_spelt_as_browsers_do(given: str, origin: str) -> None:
    assert as_origin(given) == origin
