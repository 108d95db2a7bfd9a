"""The table of routes: what stands beside each path is what holds there."""

import time
import warnings
from functools import partial
from typing import Any

import jwt
import pytest

from server.base.access import Tokens
from server.routes import ROUTES, Route
from tests.client import Api, Person
from tests.conftest import SECRET, Asker, Cast
from tests.rules import asked_of, ok, refused, set_up, url_of

CLOSED = [route for route in ROUTES if route.access != "OPEN"]
GETS = [route for route in ROUTES if route.method == "GET" and route.access != "STREAM"]


def minted(user_id: int, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token with these claims; None leaves one out."""
    now = int(time.time())
    whole = {"sub": str(user_id), "sid": 1, "iat": now, "exp": now + 900} | claims
    with warnings.catch_warnings(action="ignore", category=jwt.warnings.InsecureKeyLengthWarning):
        return jwt.encode({k: v for k, v in whole.items() if v is not None}, secret, algorithm=algorithm)


def forgeries(person: Person) -> dict[str, str]:
    """Authorization headers that must open nothing."""
    user_id, mint = person.id, partial(minted, sid=person.session_id)
    good = Tokens(SECRET).issue(user_id=user_id, session_id=person.session_id)
    head, claims, signature = good.split(".")
    other_claims = mint(user_id + 1).split(".")[1]
    other_secret = "another secret, as long as the first one"
    return {
        "nothing": "",
        "no scheme": good,
        "another scheme": f"Basic {good}",
        "no token": "Bearer",
        "garbage": "Bearer garbage",
        "dots": "Bearer ..",
        "bytes": "Bearer \xff\xfeé",
        "expired": f"Bearer {mint(user_id, exp=int(time.time()) - 1)}",
        "without an end": f"Bearer {mint(user_id, exp=None)}",
        "without a person": f"Bearer {mint(user_id, sub=None)}",
        "without a session": f"Bearer {mint(user_id, sid=None)}",
        "for somebody who is no number": f"Bearer {mint(user_id, sub='ada')}",
        "not yet": f"Bearer {mint(user_id, nbf=int(time.time()) + 900)}",
        "of another secret": f"Bearer {mint(user_id, other_secret)}",
        "of another algorithm": f"Bearer {mint(user_id, SECRET, 'HS512')}",
        "of alg none": f"Bearer {mint(user_id, '', 'none')}",
        "unsigned": f"Bearer {head}.{claims}.",
        "with the claims of another": f"Bearer {head}.{other_claims}.{signature}",
        "cut short": f"Bearer {good[:-2]}",
        "with a deep header": "Bearer " + "eyJhIjpb" + "W1tb" * 1000 + ".e30.AAAA",
    }


def test_no_address_is_given_twice_and_ids_are_whole_numbers() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    places = [part for route in ROUTES for part in route.path.split("/") if "<" in part]
    assert all(
        ":id>" in part or part in ("<token:str>", "<external_id:str>", "<emoji:str>") for part in places
    )
    assert {route.path for route in ROUTES if route.access == "OPEN"} == {
        "/livez", "/readyz", "/healthz", "/api/auth/register", "/api/auth/login", "/api/auth/refresh",
        "/openapi.json", "/docs",
    }  # fmt: skip


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.name)
async def test_a_route_is_closed_to_whoever_has_no_good_token(api: Api, cast: Cast, route: Route) -> None:
    await api.say(cast.team, cast.ada, "here")
    url, ada = url_of(route, cast), cast.ada
    for what, header in forgeries(ada).items():
        headers = {"Authorization": header.encode("utf-8")} if header else {}
        reply = await api.ask(route.method, url, headers=headers)
        body = refused(reply, 401)
        assert body["code"] == ("token_expired" if what == "expired" else "unauthorized"), what
        assert reply.headers["www-authenticate"].startswith("Bearer"), what
    good = minted(ada.id, sid=ada.session_id)
    if route.access != "STREAM":
        refused(await api.ask(route.method, f"{url}?token={good}"), 401)  # only streams take it there
        reply = await api.ask(route.method, url, headers={"Authorization": f"bearer  {good}"})
        assert reply.status not in (401, 500), "with a good token it is open, whatever it says then"
    else:
        refused(await api.ask(route.method, f"{url}?token={good}x"), 401)
        refused(await api.ask(route.method, f"{url}?token="), 401)
        expired = minted(ada.id, sid=ada.session_id, exp=int(time.time()) - 1)
        refused(await api.ask(route.method, f"{url}?token={expired}"), 401, "token_expired")
        async with api.stream(cast.team, ada) as stream:
            assert stream.ready.data["lastSeq"] == 1


async def test_a_token_that_was_good_is_refused_when_its_time_is_over(api: Api, cast: Cast) -> None:
    ends = int(time.time()) + 2
    token = {"Authorization": f"Bearer {minted(cast.ada.id, sid=cast.ada.session_id, exp=ends)}"}
    ok(await api.get("/api/me", headers=token))  # from now on it is known
    while (reply := await api.get("/api/me", headers=token)).status == 200:
        assert time.time() < ends + 1
    refused(reply, 401, "token_expired")
    assert time.time() >= ends


@pytest.mark.parametrize("route", GETS, ids=lambda route: route.name)
async def test_head_answers_like_get_without_a_body(api: Api, cast: Cast, asker: Asker, route: Route) -> None:
    await set_up(api, cast)
    me = await asker(route)
    url = url_of(route, cast) + asked_of(route)
    got, head = await api.get(url, as_=me), await api.ask("HEAD", url, as_=me)
    assert got.status == head.status == 200
    assert head.body == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if "transfer-encoding" in got.headers:  # a file that is streamed: nobody knows how long it will be
        assert "content-length" not in head.headers and "content-length" not in got.headers
    else:
        assert head.headers["content-length"] == str(len(got.body))
    if route.access != "OPEN":
        refusal = await api.ask("HEAD", url)
        assert (refusal.status, refusal.body) == (401, b"")
    assert (await api.get("/livez")).status == 200  # the connection is in step


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_another_method_is_405_and_told_which_ones_there_are(
    api: Api, cast: Cast, route: Route
) -> None:
    taken = {other.method for other in ROUTES if other.path == route.path}
    expected = taken | ({"HEAD"} if "GET" in taken and route.access != "STREAM" else set())
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - taken:
        reply = await api.ask(method, url_of(route, cast), as_=cast.ada)
        refused(reply, 405, "method_not_allowed")
        assert {word.strip() for word in reply.headers["allow"].split(",")} == expected
