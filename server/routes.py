"""The whole API on one screen, with who may call it beside each path."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sanic import Request, Sanic
from sanic.constants import HTTP_METHODS
from sanic.response import HTTPResponse

from server import health, members, messages, threads, users
from server.base import log
from server.base.access import Access, sign_in
from server.base.errors import BadRequest, MethodNotAllowed, render, understood
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
    """Give every row its place in the app, and every other method of its path a 405 that names those there are."""
    app.router.register_pattern("id", _identifier, r"^[1-9][0-9]{0,18}$")
    taken: dict[str, list[str]] = {}
    for number, route in enumerate(ROUTES):
        methods = (
            [route.method, "HEAD"] if route.method == "GET" and route.access != "STREAM" else [route.method]
        )
        taken.setdefault(route.path, []).extend(methods)
        app.add_route(_endpoint(route), route.path, methods=methods, name=f"route_{number}")  # type: ignore[arg-type]
    for number, (path, methods) in enumerate(taken.items()):
        refusal = _endpoint(Route("*", path, _refuse_all_but(methods), "OPEN"))
        others = [method for method in HTTP_METHODS if method not in methods]
        app.add_route(refusal, path, methods=others, name=f"refused_{number}")  # type: ignore[arg-type]


def _refuse_all_but(methods: list[str]) -> Handler:
    async def refuse(_: Request, **__: int) -> HTTPResponse:
        raise MethodNotAllowed(headers={"Allow": ", ".join(methods)})

    return refuse


def _identifier(value: str) -> int:
    """A bigint above zero. ValueError, and so 404, beyond it: no such thing can be there."""
    number = int(value)
    if number >= 2**63:
        raise ValueError(value)
    return number


def _endpoint(route: Route) -> Handler:
    """What surrounds every handler: request id, sign-in, the error table and the log line."""

    async def run(request: Request, **place: int) -> HTTPResponse | None:
        started = time.perf_counter()
        ctx = request.ctx
        ctx.request_id = request.app.ctx.request_ids.of(request.headers.get("x-request-id"))
        ctx.user_id = None
        status = 499  # what the log says when the client has gone
        try:
            if "upgrade" in request.headers:
                raise BadRequest(
                    "There is no WebSocket at this address."
                )  # it would switch Sanic's timeouts off
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
