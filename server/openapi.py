"""The OpenAPI document and the page that shows it: made from ROUTES, the types of bodies and the shapes of answers."""

import html
import inspect
import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server import __version__, shapes
from server.base.answer import Answer
from server.base.http import answers, json_bytes, required

if TYPE_CHECKING:
    from server.routes import Route

REF = "#/components/schemas/{name}"
EVERY_ERROR = {"$ref": REF.format(name="Error")}
PLACES = {
    "id": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
    "str": {"type": "string", "minLength": 1, "maxLength": 200},
}
# Headers that a route takes besides those of every request.
HEADERS = {
    "POST /api/threads/<thread_id:id>/messages": ("Idempotency-Key", "The clientId, as a header."),
    "GET /api/threads/<thread_id:id>/stream": ("Last-Event-ID", "The cursor to go on from."),
    "GET /api/stream": ("Last-Event-ID", "The cursor to go on from; of up to 700 characters."),
}
WORDS = {
    400: "The request could not be read.",
    401: "No good token, or one of a session that has ended.",
    403: "Not allowed.",
    404: "Not there, or not the caller's to see.",
    409: "The state of things does not allow it.",
    413: "Too large.",
    415: "Not of the type that is taken.",
    422: "Well-formed and still not valid; details names each field.",
    426: "It takes a WebSocket handshake only.",
    429: "Too many requests; Retry-After says when to come back.",
    503: "A dependency is away, or the server is starting or stopping; Retry-After says when to come back.",
}
ABOUT = """A self-hosted messaging server: threads, rooms, direct messages and a contact inbox.

Times are RFC 3339 in UTC; ids and positions are whole numbers. Every answer carries X-Request-Id. Every error has one
shape, with a sentence for people and a code for programs. A client ignores fields that it does not know."""


def problems(route: "Route") -> dict[int, tuple[str, ...]]:
    """The codes of every problem that a route may answer, by status: its own, and those that come with its kind."""
    found: dict[int, list[str]] = {400: ["bad_request"], 503: ["unavailable", "busy", "starting"]}

    def add(status: int, *codes: str) -> None:
        found.setdefault(status, []).extend(codes)

    if route.access != "OPEN":
        add(401, "unauthorized", "token_expired", "session_ended")
        add(403, "wrong_key", *(() if route.method == "GET" else ("csrf",)))
    if route.access in ("STAFF", "GATEWAY", "ADMIN"):
        add(403, "forbidden")
    if route.places:
        add(404, "not_found")
    if route.body is not None:
        add(400, "not_json", "wrong_type")
        add(413, "too_large")
        add(415, "unsupported_type")
        add(422, "invalid")
    if route.media is not None:
        add(413, "too_large")
        add(415, "unsupported_type")
        add(422, "invalid")
    if route.query is not None:
        add(400, "unknown_parameter", "bad_parameter")
        add(422, "invalid")
    if route.brake.burst or route.access != "OPEN":
        add(429, "rate_limited")
    if route.access == "STREAM":
        add(429, "too_many_streams")
    for status, codes in route.handler.problems.items():  # type: ignore[attr-defined]
        add(status, *codes)
    return {status: tuple(dict.fromkeys(codes)) for status, codes in sorted(found.items())}


def successes(route: "Route") -> dict[int, Any]:
    """The shape of every other answer: a type, a media type as text, or None for no body."""
    found: dict[int, Any] = route.handler.answers  # type: ignore[attr-defined]
    return found


def frames(route: "Route") -> dict[str, Any]:
    """What the data of each frame is that a client sends, where the route is a WebSocket."""
    found: dict[str, Any] = getattr(route.handler, "frames", {})
    return found


def document(routes: Iterable["Route"]) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes."""
    routes = tuple(routes)
    types: list[Any] = [shapes.Error, *shapes.EVENTS.values()]
    types += [kind for kinds in (shapes.USER_EVENTS | shapes.SOCKET_EVENTS).values() for kind in kinds]
    for route in routes:
        types += [shape for shape in successes(route).values() if not isinstance(shape, str | None)]
        types += [kind for kind in (route.body, route.query) if kind is not None]
        types += frames(route).values()
    schemas, components = msgspec.json.schema_components(dict.fromkeys(types), ref_template=REF)
    by_type = dict(zip(dict.fromkeys(types), schemas, strict=True))
    queries = {route.query.__name__ for route in routes if route.query is not None}
    for schema in components.values():
        schema.pop("additionalProperties", None)  # the tests are strict, a client is not
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"<(\w+):\w+>", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, by_type, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bobbin", "version": __version__, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in sorted(components.items()) if name not in queries},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "An access token, or an API key."},
                "cookie": {
                    "type": "apiKey", "in": "cookie", "name": "bobbin_session",
                    "description": "Set by signing in (over TLS as __Host-bobbin_session). A write needs the header"
                    " X-CSRF-Token with the value of the cookie bobbin_csrf too.",
                },
                "ticket": {
                    "type": "apiKey", "in": "query", "name": "token",
                    "description": "Of streams: a ticket of POST /api/auth/stream-token, or an access token.",
                },
            },
        },
    }  # fmt: skip


def _operation(route: "Route", by_type: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = (inspect.getdoc(route.handler) or "").partition("\n\n")
    found: dict[str, Any] = {
        "operationId": route.handler.__name__ + ("" if route.path != "/healthz" else "_healthz"),
        "summary": summary.replace("\n", " "),
        "tags": [_tag(route.path)],
        "parameters": _parameters(route, components),
        "responses": _responses(route, by_type),
        "security": _security(route),
    }
    if rest:
        found["description"] = re.sub(r"(?<!\n)\n(?!\n)", " ", rest)
    if route.body is not None:
        found["requestBody"] = {
            "required": not route.body.optional,
            "content": {"application/json": {"schema": by_type[route.body]}},
        }
    if route.media is not None:
        found["requestBody"] = {"required": True, "content": {route.media: {"schema": {"type": "string"}}}}
    if route.path == "/api/stream":
        found["x-events"] = _events(shapes.USER_EVENTS, by_type)
    elif shapes.EVENT_STREAM in successes(route).values():
        found["x-events"] = {name: by_type[kind] for name, kind in shapes.EVENTS.items()}
    if said := frames(route):
        found["x-frames"] = {name: by_type[kind] for name, kind in said.items()}
        found["x-events"] = _events(shapes.SOCKET_EVENTS, by_type)
    return found


def _events(kinds: dict[str, Any], by_type: dict[Any, Any]) -> dict[str, Any]:
    """What each event may be."""
    return {
        name: by_type[found[0]] if len(found) == 1 else {"oneOf": [by_type[kind] for kind in found]}
        for name, found in kinds.items()
    }


def _tag(path: str) -> str:
    """The heading it stands under: what is named after /api, or within a thread."""
    words = [word for word in path.split("/")[1:] if "<" not in word]
    if words[0] != "api":
        return "server"
    return (
        words[-1]
        if words[1] == "threads" and words[-1] in ("messages", "members", "invites", "stream")
        else words[1]
    )


def _parameters(route: "Route", components: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": PLACES[kind]}
        for name, kind in re.findall(r"<(\w+):(\w+)>", route.path)
    ]
    if route.query is not None:
        properties = components[route.query.__name__]["properties"]
        found += [
            {
                "name": name,
                "in": "query",
                "required": name in required(route.query),
                "schema": _given(schema),
            }
            for name, schema in properties.items()
            if name != "token"  # that is how one signs in
        ]
    if route.name in HEADERS:
        name, text = HEADERS[route.name]
        schema = {"type": "string", "minLength": 1, "maxLength": 128 if name != "Last-Event-ID" else 1024}
        found.append({"name": name, "in": "header", "required": False, "schema": schema, "description": text})
    return found


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a query value: null is said by leaving it out."""
    if "anyOf" in schema:
        (schema,) = [{**part} for part in schema["anyOf"] if part != {"type": "null"}]
    return {key: value for key, value in schema.items() if key != "default" or value is not None}


def _security(route: "Route") -> list[dict[str, list[str]]]:
    ways = {"OPEN": (), "HOST": ("token",), "STREAM": ("token", "cookie", "ticket")}
    return [{way: []} for way in ways.get(route.access, ("token", "cookie"))]


def _responses(route: "Route", by_type: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, codes in problems(route).items():
        said = f"{WORDS.get(status, 'Refused.')} Codes: {', '.join(codes)}."
        found[str(status)] = {"description": said, "content": {"application/json": {"schema": EVERY_ERROR}}}
    for status, shape in successes(route).items():
        if shape is None:
            said = "From now on it is a WebSocket." if status == 101 else "Done; no body."
            found[str(status)] = {"description": said}
            continue
        media = shape.partition(";")[0] if isinstance(shape, str) else "application/json"
        schema = {"type": "string"} if isinstance(shape, str) else by_type[shape]
        found[str(status)] = {
            "description": "Made." if status == 201 else "As asked.",
            "content": {media: {"schema": schema}},
        }
    return dict(sorted(found.items()))


# ---- served ------------------------------------------------------------------------------------


@answers({200: dict[str, Any]})
async def get_openapi(request: Request) -> HTTPResponse:
    """This document."""
    return json_bytes(request.app.ctx.openapi)


@answers({200: shapes.HTML})
async def get_docs(request: Request) -> HTTPResponse:
    """The same as a page to read: no script, and nothing from elsewhere."""
    return Answer(
        request.app.ctx.docs,
        content_type=shapes.HTML,
        headers={"Content-Security-Policy": PAGE_POLICY},
    )


STYLE = """
:root{color-scheme:light dark}
:root{--soft:color-mix(in srgb,currentColor 8%,transparent);--line:color-mix(in srgb,currentColor 20%,transparent)}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
details{border:1px solid var(--line);border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer}summary code{font-weight:600}
code,pre{font:13px/1.5 ui-monospace,monospace}
pre{background:var(--soft);padding:.6rem;border-radius:6px;overflow-x:auto}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}
a{color:inherit}:target{outline:2px solid}
"""
PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def page(document: dict[str, Any]) -> bytes:
    """The document as HTML."""
    parts = [f"<h1>{_e(document['info']['title'])} API</h1>"]
    parts += [f"<p>{_e(text)}</p>" for text in document["info"]["description"].split("\n\n")]
    parts.append('<p><a href="/openapi.json">openapi.json</a></p>')
    tags: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tags.setdefault(operation["tags"][0], []).append(_call(method, path, operation))
    for tag, calls in tags.items():
        parts += [f"<h2>{_e(tag)}</h2>", *calls]
    parts.append("<h2>Shapes</h2>")
    for name, schema in document["components"]["schemas"].items():
        shown = _e(orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode())
        parts.append(
            f'<details id="{_e(name)}"><summary><code>{_e(name)}</code></summary><pre>{shown}</pre></details>'
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Bobbin API</title><style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"
    ).encode()


def _call(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = []
    for one in operation["parameters"]:
        place = f"{one['in']}, required" if one["required"] else one["in"]
        rows.append((f"<code>{_e(one['name'])}</code>", place, _type(one["schema"])))
    if "requestBody" in operation:
        rows.extend(
            ("body", media, _type(given["schema"]))
            for media, given in operation["requestBody"]["content"].items()
        )
    for status, response in operation["responses"].items():
        shown = [_type(media["schema"]) for media in response.get("content", {}).values()]
        rows.append((_e(status), _e(response["description"]), " ".join(shown)))
    table = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    who = ", ".join(" ".join(one) for one in operation["security"]) or "anybody"
    text = f"<p>{_e(operation.get('description', ''))}</p>" if "description" in operation else ""
    return (
        f'<details id="{_e(operation["operationId"])}"><summary><code>{method.upper()} {_e(path)}</code> '
        f"{_e(operation['summary'])}</summary>{text}<p>Signed in by: {_e(who)}.</p><table>{table}</table></details>"
    )


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_e(name)}"><code>{_e(name)}</code></a>'
    return f"<code>{_e(orjson.dumps(schema).decode())}</code>"


def _e(text: str) -> str:
    return html.escape(text)
