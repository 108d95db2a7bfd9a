"""Whatever is sent to whatever route: never a 5xx, and every refusal has the one shape.

The tables follow ROUTES: a new route with a body has to be added to BODIES before these tests pass.
"""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from msgspec.structs import fields

from server.routes import ROUTES, Route
from tests.client import Api, Reply
from tests.conftest import Asker, Cast
from tests.rules import an_error, asked_of, ok, raw, refused, set_up, url_of

BODIES: dict[str, Callable[[Cast], dict[str, Any]]] = {  # what each route takes
    "POST /api/auth/register": lambda cast: {
        "email": f"hostile{cast.ada.id}@example.org", "name": "Name", "password": "password",
        "username": f"h{cast.ada.id}",
    },
    "POST /api/auth/login": lambda _: {"email": "a@example.org", "password": "password"},
    "POST /api/auth/refresh": lambda _: {"refreshToken": "x"},
    "PATCH /api/me": lambda _: {"name": "Ada", "settings": {"readReceipts": False}},
    "POST /api/me/password": lambda _: {"current": "password", "new": "password"},
    "PATCH /api/admin/users/<user_id:id>": lambda _: {"role": "member", "active": True, "name": "Name"},
    "POST /api/admin/users/<user_id:id>/password": lambda _: {"new": "password"},
    "POST /api/admin/keys": lambda cast: {
        "kind": "bot", "name": "Name", "username": f"bot{cast.ada.id}", "userId": None,
    },
    "POST /api/host/tokens": lambda _: {"externalId": "1", "name": "Name", "username": "guest", "device": "phone"},
    "POST /api/contacts": lambda cast: {
        "name": "Carla", "phoneNumber": f"+49151{cast.ada.id:09}", "email": "carla@example.org",
        "externalId": f"crm:{cast.ada.id}", "notes": "Has called twice.",
    },
    "PATCH /api/contacts/<contact_id:id>": lambda cast: {
        "name": "Carla", "phoneNumber": f"+49152{cast.ada.id:09}", "email": "carla@example.org",
        "externalId": f"crm:new{cast.ada.id}", "notes": "Has called twice.",
    },
    "POST /api/threads": lambda cast: {"title": "Title", "kind": "group", "memberIds": [cast.ben.id]},
    "POST /api/contacts/<contact_id:id>/messages": lambda _: {
        "text": "x", "clientId": "c", "replyTo": 1, "fileIds": [],
    },
    "PATCH /api/conversations/<conversation_id:id>": lambda _: {
        "status": "snoozed", "snoozedUntil": "2100-01-01T00:00:00Z", "assigneeId": None, "labels": ["urgent"],
    },
    "POST /api/inbound": lambda _: {"phoneNumber": "+4915100000001", "text": "x", "name": "Name", "externalId": None},
    "PATCH /api/threads/<thread_id:id>": lambda _: {"title": "Title"},
    "PATCH /api/threads/<thread_id:id>/me": lambda _: {"muted": True, "archived": False, "notify": "none"},
    "POST /api/threads/<thread_id:id>/invites": lambda _: {"expiresIn": 60, "maxUses": 1},
    "POST /api/threads/<thread_id:id>/members": lambda cast: {"userId": cast.mallory.id, "role": "member"},
    "PATCH /api/threads/<thread_id:id>/members/<member_id:id>": lambda _: {"role": "moderator"},
    "POST /api/threads/<thread_id:id>/leave": lambda _: {"successor": 10**12},
    "POST /api/threads/<thread_id:id>/messages": lambda _: {"text": "x", "clientId": "c", "replyTo": 1, "fileIds": []},
    "PATCH /api/threads/<thread_id:id>/messages/<seq:id>": lambda _: {"text": "y"},
    "POST /api/threads/<thread_id:id>/read": lambda _: {"seq": 1},
    "POST /api/threads/<thread_id:id>/delivered": lambda _: {"seq": 1},
    "POST /api/threads/<thread_id:id>/unread": lambda _: {"seq": 1},
    "POST /api/threads/<thread_id:id>/typing": lambda _: {"isTyping": True},
}  # fmt: skip
PUBLIC = {
    "POST /api/auth/login": 401,
    "POST /api/auth/refresh": 401,
    "POST /api/me/password": 403,
    "POST /api/threads/<thread_id:id>/leave": 422,
}  # what a good body gets there; elsewhere it is a success

QUERIES = {  # the parameters each route knows
    route.name: tuple(field.encode_name for field in fields(route.query))
    for route in ROUTES
    if route.query is not None and not route.query.lenient
}

NOT_JSON = {
    "empty": b"",
    "words": b"not json",
    "half": b'{"text": "x"',
    "single quotes": b"{'text': 'x'}",
    "a NUL": b"\x00",
    "UTF-16": '{"text":"x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "invalid UTF-8": b'{"text":"\xff","title":"\xff","name":"\xff","role":"\xff","password":"\xff","userId":"\xff",'
    b'"refreshToken":"\xff","current":"\xff","new":"\xff","externalId":"\xff","notify":"\xff","maxUses":"\xff","successor":"\xff","isTyping":"\xff","status":"\xff",'
    b'"seq":"\xff"}',
    "NaN": b'{"unknown": NaN}',
    "Infinity": b'{"unknown": -Infinity}',
    "deep arrays in an object": b'{"unknown":' + b"[" * 6_000 + b"]" * 6_000 + b"}",
    "deep objects": b'{"a":' * 2_500 + b"1" + b"}" * 2_500,
    "a surrogate in a name": b'{"\\ud800": 1}',
}
NO_OBJECT = {
    "an array": b"[]",
    "an array of one": b'[{"text": "x"}]',
    "null": b"null",
    "true": b"true",
    "a number": b"7",
    "a huge number": b"1" * 5000,
    "a string": b'"x"',
    "deep arrays": b"[" * 6_000 + b"]" * 6_000,
}
VALUES = [
    b"null", b"true", b"0", b"-1", b"1.5", b"1e400", b"9223372036854775807", b"9223372036854775808", b"1" + b"0" * 30,
    b"1" * 5000, b'""', b'" "', b'"\\u0000"', b'"a\\u0000b"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"%s%x{}$1:x"',
    b'"\\u202e\\ufeff"', b'"' + b"x" * 200_000 + b'"', b"{}", b"[]", b"[[]]", b"[null]", b"[1.5]", b'["x"]',
    b"[1" + b"0" * 30 + b"]", b"[" + b"1," * 5000 + b"1]",
]  # fmt: skip


def fine(reply: Reply) -> None:
    """A success, or a refusal as it should be."""
    if reply.status >= 300:
        an_error(reply)


def test_the_tables_know_every_route() -> None:
    assert set(BODIES) == {route.name for route in ROUTES if route.body is not None}


@pytest.fixture
async def ready(api: Api, cast: Cast) -> Cast:
    """The cast, with something said."""
    await set_up(api, cast)
    return cast


BODY_ROUTES = pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.name in BODIES], ids=lambda route: route.name
)


@BODY_ROUTES
async def test_what_is_no_json_object_is_a_400(api: Api, ready: Cast, asker: Asker, route: Route) -> None:
    me = await asker(route)
    url, headers = url_of(route, ready), {"Content-Type": "application/json"}

    async def send(content: bytes, **other: str) -> Reply:
        return await api.ask(route.method, url, as_=me, content=content, headers=headers | other)

    for what, content in NOT_JSON.items():
        if what == "empty" and route.body is not None and route.body.optional:
            continue
        body = refused(await send(content), 400)
        assert body["code"] in ("not_json", "wrong_type")
    for what, content in NO_OBJECT.items():
        assert refused(await send(content), 400)["code"] in ("wrong_type", "not_json"), what
    good = orjson.dumps(BODIES[route.name](ready))
    for kind in (
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "x",
    ):
        reply = await send(good, **{"Content-Type": kind})
        refused(reply, 415, "unsupported_type")
    refused(await send(good + good), 400, "not_json")
    start = f"{route.method} {url} HTTP/1.1\r\nAuthorization: Bearer {me.token}\r\nContent-Length: "
    refused(await raw(api, f"{start}{2**21}\r\n\r\n".encode()), 413, "too_large")
    fine(await send(b"{}"))
    reply = await send(
        good[:-1] + b',"unknown":{"a":[1,{}]},"__proto__":null}'
    )  # and a good one is still taken
    assert reply.status == PUBLIC.get(route.name, reply.status) and (
        reply.status < 300 or route.name in PUBLIC
    )


@BODY_ROUTES
async def test_no_value_of_any_field_does_harm(api: Api, ready: Cast, asker: Asker, route: Route) -> None:
    me = await asker(route)
    url, headers = url_of(route, ready), {"Content-Type": "application/json"}
    good = {name: orjson.dumps(value) for name, value in BODIES[route.name](ready).items()}
    for field in good:
        for value in VALUES:
            content = b",".join(
                b'"%b":%b' % (k.encode(), value if k == field else v) for k, v in good.items()
            )
            fine(await api.ask(route.method, url, as_=me, content=b"{" + content + b"}", headers=headers))
        twice = b'{"%b":null,%b}' % (
            field.encode(),
            b",".join(b'"%b":%b' % (k.encode(), v) for k, v in good.items()),
        )
        fine(await api.ask(route.method, url, as_=me, content=twice, headers=headers))
        without = b",".join(b'"%b":%b' % (k.encode(), v) for k, v in good.items() if k != field)
        fine(await api.ask(route.method, url, as_=me, content=b"{" + without + b"}", headers=headers))
    ok(await api.get(f"/api/threads/{ready.team}", as_=ready.ada))


PLACES = [
    "0", "-1", "01", "1.0", "1e3", "9223372036854775807", "9223372036854775808", "1" + "0" * 30, "9" * 3000, "abc",
    "%00", "1%00", "1%0A", "\u0661", "\uff11", "1_0", "+1", " 1", "%20", "null", "true", "...", "'", "1;--", "1'--",
    "[]", "{}", "<id>", "%ff", "%ED%A0%80", "\U0001f9f5",
]  # fmt: skip


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if "<" in route.path], ids=lambda route: route.name
)
async def test_what_is_no_id_of_anything_is_a_404(api: Api, ready: Cast, asker: Asker, route: Route) -> None:
    me = await asker(route)
    body = {"json": BODIES[route.name](ready)} if route.name in BODIES else {}
    for place in (
        "thread_id", "member_id", "other_id", "invite_id", "user_id", "key_id", "seq", "contact_id", "conversation_id",
    ):  # fmt: skip
        if f"<{place}:id>" in route.path:
            for value in PLACES:
                url = url_of(route, ready, **{place: value})
                refused(await api.ask(route.method, url, as_=me, **body), 404, "not_found")
    if route.access != "STREAM":
        reply = await api.ask(route.method, url_of(route, ready), as_=me, **body)
        refusals = {
            "join": "not_found",  # of a group
            "leave": "invalid",  # the successor is nobody
            "<invite_id:id>": "not_found",  # nobody has made one
            "<key_id:id>": "not_found",
            "accept": "not_found",
        }
        code = refusals.get(route.path.rpartition("/")[2])
        assert reply.status < 300 if code is None else reply.json["code"] == code, "with good ids it answers"


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.method == "GET"], ids=lambda route: route.name
)
async def test_no_query_does_harm(api: Api, ready: Cast, asker: Asker, route: Route) -> None:
    me = await asker(route)
    url, names = url_of(route, ready), QUERIES.get(route.name, ())
    who = None if route.access == "STREAM" else me  # a stream that opens would not end
    values = [
        "", "%00", "a%00b", "%ff", "%ED%A0%80", "%", "%zz", "1" + "0" * 30, "-1", "NaN", "1e9", "x" * 7000, "_", "null",
        "%F0%9F%A7%B5", "%27%22%3B--", "%25", "true", "[]", "0x10", "%D9%A1", "+1", "%0A", "9" * 4000,
    ]  # fmt: skip
    for name in (*names, "unknown", "", "%00", "lastEventId", "token", "%F0%9F%A7%B5"):
        for value in values:
            fine(await api.get(f"{url}?{name}={value}", as_=who))
        fine(await api.get(f"{url}?{name}", as_=who))
        twice = await api.get(f"{url}?{name}=1&{name}=1", as_=who)
        fine(twice)
        if names:
            assert twice.status == 400
    for odd in (
        "?",
        "??",
        "?&&&",
        "?=",
        "?a[]=1&a[0]=2",
        "?" + "&".join(f"a{n}=1" for n in range(500)),
        "?" + "&" * 5000,
    ):
        fine(await api.get(f"{url}{odd}", as_=who))
    if names:
        refused(await api.get(f"{url}?unknown=1", as_=who), 400, "unknown_parameter")
        for name in names:
            for text in ("%00", "%ff", "%ED%A0%80", "a%C3"):
                refused(
                    await api.get(f"{url}?{name}={text}", as_=who),
                    400,
                    None if text == "%00" else "bad_parameter",
                )
    if who is not None:
        assert (await api.get(url + asked_of(route), as_=who)).status == 200


async def test_no_header_of_a_send_or_a_stream_does_harm(api: Api, ready: Cast) -> None:
    url = f"/api/threads/{ready.team}"
    for value in (
        b"\xff\xfe",
        b"\xed\xa0\x80",
        "\U0001f9f5".encode(),
        b"x" * 7000,
        b"-",
        b"0",
        b"a\tb",
        b"%00",
        b"'",
    ):
        for name in (
            "Idempotency-Key",
            "X-Request-Id",
            "Accept",
            "Cookie",
            "Last-Event-ID",
            "Content-Encoding",
        ):
            fine(await api.post(f"{url}/messages", {"text": "x"}, as_=ready.ada, headers={name: value}))
        for name in ("Last-Event-ID", "Accept", "Cookie"):
            headers = {name: value, "Authorization": f"Bearer {ready.mallory.token}"}
            refused(await api.get(f"{url}/stream", headers=headers), 404)
    assert ok(await api.get(f"{url}/messages?limit=1", as_=ready.ben))["items"][0]["text"] == "first"


async def test_a_stream_opens_whatever_event_id_it_is_given(api: Api, ready: Cast) -> None:
    cursor = ok(await api.get(f"/api/threads/{ready.team}", as_=ready.ada))["thread"]["streamCursor"]
    epoch = cursor.partition(".")[0]
    for since in (
        "garbage", "0", "-1", "1" + "0" * 30, f"{cursor}0", f"{cursor}.1", f"{epoch}.{ready.team}.-1",
        f"{epoch}.{ready.team}.",
        f"{epoch}.{ready.team}.{2**63}", f"{epoch}.{ready.team + 1}.1", f"other.{ready.team}.1", "..", "x" * 5000, "'",
    ):  # fmt: skip
        async with api.stream(ready.team, ready.ben, since=since) as stream:
            resync = await stream.next()
            assert (resync.name, resync.data, resync.id) == ("resync", {"cursor": cursor}, cursor), since
    async with api.stream(ready.team, ready.ben, since=cursor) as stream:
        sent = await api.say(ready.team, ready.ada, "next")
        assert (await stream.next()).data["seq"] == sent["seq"], "a good one goes on without"
