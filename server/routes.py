"""The whole API on one screen, with who may call it beside each path."""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sanic import Request, Sanic
from sanic.response import HTTPResponse

from server import health, members, messages, threads, users
from server.base import log
from server.base.access import Access, sign_in
from server.base.errors import BadRequest, Unavailable, render, understood
from server.live import sse

Handler = Callable[..., Awaitable[HTTPResponse | None]]


@dataclass(frozen=True)
class Route:
    """One call of the API."""

    method: str
    path: str
    handler: Handler
    access: Access

    @property
    def name(self) -> str:
        """How logs and query headers name it."""
        return f"{self.method} {self.path}"


IDENTIFIER = re.compile("[1-9][0-9]{0,18}")

ROUTES: tuple[Route, ...] = tuple(
    Route(*row)
    for row in (
        ("GET", "/livez", health.livez, "OPEN"),
        ("GET", "/readyz", health.readyz, "OPEN"),
        ("GET", "/healthz", health.readyz, "OPEN"),
        ("POST", "/api/auth/register", users.post_register, "OPEN"),
        ("POST", "/api/auth/login", users.post_login, "OPEN"),
        ("GET", "/api/me", users.get_me, "USER"),
        ("GET", "/api/threads", threads.list_threads, "USER"),
        ("POST", "/api/threads", threads.post_thread, "USER"),
        ("GET", "/api/threads/<thread_id:id>", threads.get_thread, "USER"),
        ("PATCH", "/api/threads/<thread_id:id>", threads.patch_thread, "USER"),
        ("DELETE", "/api/threads/<thread_id:id>", threads.delete_thread, "USER"),
        ("POST", "/api/threads/<thread_id:id>/join", members.post_join, "USER"),
        ("POST", "/api/threads/<thread_id:id>/leave", members.post_leave, "USER"),
        ("GET", "/api/threads/<thread_id:id>/members", members.list_members, "USER"),
        ("POST", "/api/threads/<thread_id:id>/members", members.post_member, "USER"),
        ("PATCH", "/api/threads/<thread_id:id>/members/<member_id:id>", members.patch_member, "USER"),
        ("DELETE", "/api/threads/<thread_id:id>/members/<member_id:id>", members.delete_member, "USER"),
        ("GET", "/api/threads/<thread_id:id>/messages", messages.list_messages, "USER"),
        ("POST", "/api/threads/<thread_id:id>/messages", messages.post_message, "USER"),
        ("GET", "/api/threads/<thread_id:id>/messages/<seq:id>", messages.get_message, "USER"),
        ("PATCH", "/api/threads/<thread_id:id>/messages/<seq:id>", messages.patch_message, "USER"),
        ("DELETE", "/api/threads/<thread_id:id>/messages/<seq:id>", messages.delete_message, "USER"),
        ("GET", "/api/threads/<thread_id:id>/stream", sse.thread_stream, "STREAM"),
    )
)


def add_routes(app: Sanic[Any, Any]) -> None:
    """Give every row its place in the app."""
    app.router.register_pattern("id", _identifier, IDENTIFIER.pattern)
    for number, route in enumerate(ROUTES):
        endpoint, methods = _endpoint(route), _methods(route)
        app.add_route(endpoint, route.path, methods=methods, name=f"route_{number}")  # type: ignore[arg-type]


def _methods(route: Route) -> list[str]:
    return [route.method, "HEAD"] if route.method == "GET" and route.access != "STREAM" else [route.method]


def allowed(address: str) -> str:
    """The methods that an address takes, as the header Allow has them; Sanic tells them of some addresses only."""
    found: list[str] = []
    for route in ROUTES:
        if re.fullmatch(re.sub(r"<\w+:id>", "[0-9]+", route.path), address.rstrip("/")):
            found += _methods(route)
    return ", ".join(found)


def _identifier(value: str) -> int:
    """A bigint above zero, in one spelling. ValueError, and so 404, for all else: no such thing can be there.

    Sanic keeps the pattern for building addresses; what int() takes ("01", "1_0", "١") is up to us.
    """
    if not IDENTIFIER.fullmatch(value) or int(value) >= 2**63:
        raise ValueError(value)
    return int(value)


def _endpoint(route: Route) -> Handler:
    """What surrounds every handler: request id, sign-in, the error table and the log line."""

    async def run(request: Request, **place: int) -> HTTPResponse | None:
        started = time.perf_counter()
        ctx = request.ctx
        ctx.request_id = request.app.ctx.request_ids.of(request.headers.get("x-request-id"))
        ctx.user_id = None
        status = 499  # what the log says when the client has gone
        try:
            if request.headers.get("upgrade", "").lower() == "websocket":
                # Let in, it would switch Sanic's timeouts off.
                raise BadRequest("There is no WebSocket at this address.")
            if route.access != "OPEN" and not request.app.ctx.epoch:
                raise Unavailable()  # a worker that began while the database was away
            if route.access != "OPEN":
                ctx.user_id = sign_in(request, route.access, request.app.ctx.tokens).user_id
            response = await route.handler(request, **place)
            status = response.status if response is not None else 200
        except Exception as error:
            response = answer_to(error, ctx.request_id)
            status = response.status
        finally:
            log.event(
                "request",
                request_id=ctx.request_id,
                user_id=ctx.user_id,
                method=request.method,
                route=route.path,
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 1),
            )
        if response is not None and isinstance(response, HTTPResponse):
            response.headers["X-Request-Id"] = ctx.request_id
            response.headers["Cache-Control"] = "no-store"  # it is somebody's, or of this moment
        return response

    return run


def answer_to(error: Exception, request_id: str) -> HTTPResponse:
    """The answer to whatever was raised; our own faults go to the log with their cause."""
    problem = understood(error)
    if problem.status >= 500:
        log.event(
            "problem",
            level="error" if problem.status == 500 else "warning",
            request_id=request_id,
            code=problem.code,
            cause=f"{type(error).__name__}: {error}"[:500],
            exc=log.traceback_of(error) if problem.status == 500 else None,
        )
    return render(problem, request_id)


def main() -> int:
    """bobbin routes: the table, as text."""
    for route in ROUTES:
        print(f"{route.method:7}{route.path:66}{route.access}")
    return 0
