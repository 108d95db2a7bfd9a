"""The OpenAPI document tells the whole API, and the API does what the document tells."""

import contextlib
import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from server.openapi import document, problems, successes
from server.routes import ROUTES, Route
from tests.client import Api
from tests.conftest import Backing, apart
from tests.live.crowd import register
from tests.rules import ok

T, M = "/api/threads/{id}", "/api/threads/{id}/messages/{seq}"
# The calls of the contract, their path as it writes them.
CONTRACT = {
    "POST /api/auth/register", "POST /api/auth/login", "POST /api/auth/refresh", "POST /api/auth/logout",
    "GET /api/auth/sessions", "DELETE /api/auth/sessions/{id}", "POST /api/auth/stream-token",
    "GET /api/me", "PATCH /api/me", "POST /api/me/password",
    "GET /api/me/blocks/{userId}", "PUT /api/me/blocks/{userId}", "DELETE /api/me/blocks/{userId}", "GET /api/users",
    "GET /api/threads", "POST /api/threads", f"GET {T}", f"PATCH {T}", f"DELETE {T}", "GET /api/channels",
    f"POST {T}/join", f"POST {T}/leave", f"GET {T}/members", f"POST {T}/members", f"PATCH {T}/members/{{userId}}",
    f"DELETE {T}/members/{{userId}}", f"POST {T}/invites", "POST /api/invites/{token}/accept", f"PATCH {T}/me",
    f"GET {T}/presence", f"GET {T}/messages", f"POST {T}/messages", f"GET {M}", f"PATCH {M}", f"DELETE {M}",
    f"GET {M}/edits", f"PUT {M}/pin", f"DELETE {M}/pin", f"GET {T}/pins", f"PUT {M}/reactions/{{emoji}}",
    f"DELETE {M}/reactions/{{emoji}}",
    f"POST {T}/read", f"POST {T}/delivered", f"POST {T}/unread", f"GET {M}/receipts",
    f"GET {T}/stream", "GET /api/stream", "GET /api/ws", "GET /api/contacts", "POST /api/contacts",
    "GET /api/contacts/{id}", "PATCH /api/contacts/{id}", "DELETE /api/contacts/{id}",
    "GET /api/conversations", "GET /api/contacts/{id}/messages", "POST /api/contacts/{id}/messages",
    "POST /api/inbound", "GET /api/search",
    "GET /livez", "GET /readyz", "GET /healthz", "GET /openapi.json", "GET /docs",
}  # fmt: skip
# Calls of the contract that are not built yet. Whoever builds one moves it up.
LATER = {
    "POST /api/files", "GET /api/files/{id}",
    "GET /api/webhooks", "POST /api/webhooks", "GET /api/push/subscriptions", "GET /api/admin/jobs",
    "GET /api/admin/jobs/dead", "POST /api/admin/jobs/{id}/retry", "GET /metrics",
}  # fmt: skip


def shape_of(call: str) -> str:
    """A call without the names of its places."""
    return re.sub(r"[<{][^>}]+[>}]", "{}", call)


def test_every_call_of_the_contract_is_there_or_still_to_come() -> None:
    built = {shape_of(route.name) for route in ROUTES}
    assert {call for call in CONTRACT if shape_of(call) not in built} == set()
    assert {call for call in LATER if shape_of(call) in built} == set(), "move it up"


def test_every_route_is_told_with_all_it_takes_and_answers() -> None:
    told = document(ROUTES)
    assert told["openapi"].startswith("3.1")
    calls = {f"{method.upper()} {path}" for path, found in told["paths"].items() for method in found}
    assert {shape_of(route.name) for route in ROUTES} == {shape_of(call) for call in calls}
    names = [call["operationId"] for found in told["paths"].values() for call in found.values()]
    assert len(set(names)) == len(names) == len(ROUTES)
    for route in ROUTES:
        call = told["paths"][re.sub(r"<(\w+):\w+>", r"{\1}", route.path)][route.method.lower()]
        assert call["summary"].endswith("."), f"{route.name}: its docstring says in a sentence what it does"
        assert set(call["responses"]) == {str(status) for status in (*successes(route), *problems(route))}
        assert ("requestBody" in call) == (route.body is not None or route.media is not None)
        assert {one["name"] for one in call["parameters"] if one["in"] == "path"} == set(route.places)
        assert bool(call["security"]) == (route.access != "OPEN")
        for response in call["responses"].values():
            for media in response.get("content", {}).values():
                resolve(told, media["schema"])
    for schema in told["components"]["schemas"].values():
        resolve(told, schema)


def resolve(told: dict[str, Any], schema: Any) -> None:
    """Each reference within a schema leads somewhere."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            assert schema["$ref"].removeprefix("#/components/schemas/") in told["components"]["schemas"]
        for part in schema.values():
            resolve(told, part)
    elif isinstance(schema, list):
        for part in schema:
            resolve(told, part)


@pytest.mark.parametrize("route", [r for r in ROUTES if r.body is not None], ids=lambda route: route.name)
def test_every_text_and_number_of_a_body_has_its_bounds(route: Route) -> None:
    assert route.body is not None
    (schema,), components = msgspec.json.schema_components([route.body])
    for name, found in bounded(components[route.body.__name__], components):
        if found.get("type") == "string" and "enum" not in found and found.get("format") != "date-time":
            assert "maxLength" in found, f"{route.name}: {name}"
        if found.get("type") == "integer":
            assert {"minimum", "maximum"} <= set(found), f"{route.name}: {name}"
        if found.get("type") == "array":
            assert "maxItems" in found, f"{route.name}: {name}"
    assert schema


def bounded(schema: dict[str, Any], components: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The types of all fields, by name; those of a field that may be null or is an object of its own, too."""
    found = []
    for name, field in schema["properties"].items():
        for part in field.get("anyOf", [field]):
            if "$ref" in part:
                found += bounded(components[part["$ref"].rpartition("/")[2]], components)
            else:
                found.append((name, part))
    return found


async def test_the_document_and_the_page_come_from_here_alone(api: Api) -> None:
    told = ok(await api.get("/openapi.json"))
    assert told == msgspec.json.decode(msgspec.json.encode(document(ROUTES)))
    page = await api.get("/docs")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    text = page.body.decode()
    assert not re.search(r"(?:src|href|action)=\"(?!#|/openapi\.json\")", text), "it asks for something else"
    assert "<script" not in text and " style=" not in text
    assert "'sha256-" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for route in ROUTES:
        assert re.sub(r"<(\w+):\w+>", r"{\1}", route.path) in text


@pytest.mark.timeout(300)
async def test_whatever_the_document_allows_or_not_is_answered_as_it_says(
    backing: Backing, tmp_path: Path
) -> None:
    """schemathesis, as an admin of the server who is in a thread: no 5xx, no undeclared status, no other shape.

    On a server apart: whom it renames and puts out, and what it leaves behind, is for no other test.
    """
    async with apart(backing) as (server, database_url), contextlib.aclosing(Api(server.url)) as api:
        await _fuzz(api, database_url, tmp_path)


async def _fuzz(api: Api, database_url: str, tmp_path: Path) -> None:
    zoe, ben, mallory = await register(api.base, "zoe", "ben", "mallory")
    conn = await asyncpg.connect(database_url)
    await conn.execute("UPDATE users SET role = 'admin' WHERE id = $1", zoe.id)
    await conn.close()
    team = await api.thread(zoe, ben, mallory)
    for n in range(3):
        await api.say(team, zoe, f"message {n}")
    ids = {"thread_id": team, "seq": 2, "member_id": ben.id, "user_id": mallory.id, "other_id": mallory.id}
    theirs = ok(await api.get("/api/auth/sessions", as_=ben))["sessions"]
    ids["session_id"] = theirs[0]["id"]  # not zoe's: it must last
    (tmp_path / "schemathesis.toml").write_text(
        "[parameters]\n" + "".join(f'"path.{name}" = {value}\n' for name, value in ids.items())
    )
    # Not those that would end the session by which the others are asked.
    left_out = [
        "/api/auth/logout",
        "/api/threads/{thread_id}/stream",
        "/api/stream",
        "/api/threads/{thread_id}/leave",
    ]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    checks += ",negative_data_rejection"
    done = subprocess.run(
        [
            os.path.join(sysconfig.get_path("scripts"), "st"), "run", f"{api.base}/openapi.json",
            "-H", f"Authorization: Bearer {zoe.token}", "--checks", f"{checks},unsupported_method",
            "--phases", "coverage,fuzzing", "--max-examples", "12", "--seed", "1", "--no-color",
            "--generation-database", "none", "--suppress-health-check", "all",
            *(word for path in left_out for word in ("--exclude-path", path)),
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    asked = re.search(r"(\d+) generated", done.stdout)
    assert asked and int(asked[1]) > 20 * len(ROUTES), done.stdout[-2000:]
    ok(await api.get("/api/me", as_=zoe))  # signed in to the end
