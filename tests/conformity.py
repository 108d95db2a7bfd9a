"""Every answer that any test gets is held to what its route declares: status, code and shape."""

from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from server import shapes
from server.openapi import problems, successes
from server.routes import ROUTES, Route

# What the server may say of any request before it knows the route.
ANYWHERE = {(413, "too_large"), (408, "timeout"), (500, "internal_error")}


def conforms(method: str, path: str, status: int, content_type: str, body: bytes) -> None:
    """Fails when an answer is none that the OpenAPI document tells of.

    An address or method without a route is not looked at.
    """
    route = _route("GET" if method == "HEAD" else method, unquote(urlsplit(path).path))
    if route is None or status >= 500 or method == "HEAD":
        return
    found = successes(route)
    if status in found and status < 400:
        _holds(route, found[status], content_type, body)
        return
    code = msgspec.json.decode(body, type=shapes.Error).code
    if (status, code) not in ANYWHERE:
        assert code in problems(route).get(status, ()), f"{route.name} does not declare {status} {code}"


def _holds(route: Route, shape: Any, content_type: str, body: bytes) -> None:
    if shape is None:
        assert body == b"", f"{route.name} has a body"
    elif isinstance(shape, str):
        assert content_type == shape
    else:
        try:
            msgspec.json.decode(body, type=shape)
        except msgspec.ValidationError as error:
            raise AssertionError(f"{route.name} answers in another shape: {error}: {body[:500]!r}") from None


def event_conforms(name: str, data: str) -> None:
    """The same for an event of a thread stream."""
    msgspec.json.decode(data, type=shapes.EVENTS[name])


def user_event_conforms(name: str, data: str) -> None:
    """And for one of the user stream."""
    _one_of(shapes.USER_EVENTS[name], name, data)


def _one_of(kinds: tuple[type[shapes.Shape], ...], name: str, data: str | bytes) -> None:
    faults = []
    for shape in kinds:
        try:
            msgspec.json.decode(data, type=shape)
            return
        except msgspec.ValidationError as error:
            faults.append(str(error))
    raise AssertionError(f"{name} has another shape: {faults}: {data[:500]!r}")


def frame_conforms(text: str | bytes) -> dict[str, Any]:
    """The same for what a WebSocket tells; its parts."""
    frame: dict[str, Any] = msgspec.json.decode(text)
    assert (
        isinstance(text, str)
        and next(iter(frame)) == "event"
        and set(frame) <= {"event", "id", "ref", "data"}
    )
    _one_of(shapes.SOCKET_EVENTS[frame["event"]], frame["event"], msgspec.json.encode(frame["data"]))
    return frame


@cache
def _route(method: str, address: str) -> Route | None:
    return next((r for r in ROUTES if r.method == method and r.leads_to(address)), None)
