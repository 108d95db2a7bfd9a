"""The whole API on one screen, with who may call it and what it costs beside each path."""

import inspect
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from sanic import Request, Sanic
from sanic.response import HTTPResponse

from server import (
    admin,
    audit,
    blocks,
    contacts,
    contacts_csv,
    health,
    inbox,
    invites,
    keys,
    members,
    messages,
    openapi,
    pages,
    pins,
    reactions,
    receipts,
    search,
    sessions,
    threads,
    users,
)
from server.base import log
from server.base.access import Access, Caller
from server.base.answer import dress
from server.base.errors import (
    BadRequest,
    Forbidden,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
    noted,
    render,
)
from server.base.front import garbled, outer
from server.base.http import Body, Query, drain, read, read_query
from server.base.limits import BRAKES, Brake
from server.live import presence, sse, typists, ws

Handler = Callable[..., Awaitable[HTTPResponse | None]]


@dataclass(frozen=True)
class Route:
    """One call of the API."""

    method: str
    path: str
    handler: Handler
    access: Access
    cost: str  # a key of limits.BRAKES: how often, and how large a body

    @property
    def name(self) -> str:
        """How logs and query headers name it."""
        return f"{self.method} {self.path}"

    @property
    def brake(self) -> Brake:
        return BRAKES[self.cost]

    @cached_property
    def body(self) -> type[Body] | None:
        """What its handler takes as body, by its signature."""
        found: type[Body] | None = get_type_hints(self.handler).get("body")
        return found

    @cached_property
    def media(self) -> str | None:
        """Of what type its body is, where it is no JSON."""
        return getattr(self.handler, "takes", None)

    @cached_property
    def query(self) -> type[Query] | None:
        """And as query string; None: it takes none."""
        found: type[Query] | None = get_type_hints(self.handler).get("query")
        return found

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The parts of the path that are filled in."""
        return tuple(re.findall(r"<(\w+):", self.path))

    def leads_to(self, address: str) -> bool:
        """Whether it is the route of this address, whatever the method."""
        return self._pattern.fullmatch(address.rstrip("/")) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"<\w+:str>", "[^/]+", re.sub(r"<\w+:id>", "[0-9]+", self.path)))


NO_STORE = (b"Cache-Control", b"no-store")  # an answer is somebody's, or of this moment
ROLES: dict[Access, tuple[tuple[str, ...], str]] = {  # who is let in by role, and how they are called
    "STAFF": (("agent", "admin"), "agents and admins"),
    "GATEWAY": (("agent", "admin"), "bots, agents and admins"),
    "ADMIN": (("admin",), "admins of the server"),
}
IDENTIFIER = re.compile("[1-9][0-9]{0,18}")
THREAD = "/api/threads/<thread_id:id>"
REACTION = f"{THREAD}/messages/<seq:id>/reactions/<emoji:str>"

ROUTES: tuple[Route, ...] = tuple(
    Route(*row)
    for row in (
        # method, path, handler, access, cost
        ("GET", "/livez", health.livez, "OPEN", "free"),
        ("GET", "/readyz", health.readyz, "OPEN", "free"),
        ("GET", "/healthz", health.readyz, "OPEN", "free"),
        ("GET", "/openapi.json", openapi.get_openapi, "OPEN", "read"),
        ("GET", "/docs", openapi.get_docs, "OPEN", "read"),
        ("POST", "/api/auth/register", sessions.post_register, "OPEN", "register"),
        ("POST", "/api/auth/login", sessions.post_login, "OPEN", "auth"),
        ("POST", "/api/auth/refresh", sessions.post_refresh, "OPEN", "auth"),
        ("POST", "/api/auth/logout", sessions.post_logout, "PERSON", "write"),
        ("GET", "/api/auth/sessions", sessions.list_sessions, "PERSON", "read"),
        ("DELETE", "/api/auth/sessions/<session_id:id>", sessions.delete_session, "PERSON", "write"),
        ("POST", "/api/auth/stream-token", sessions.post_stream_token, "USER", "ticket"),
        ("GET", "/api/me", users.get_me, "USER", "read"),
        ("PATCH", "/api/me", users.patch_me, "USER", "write"),
        ("POST", "/api/me/password", sessions.post_password, "PERSON", "write"),
        ("GET", "/api/me/blocks", blocks.list_blocks, "USER", "read"),
        ("GET", "/api/me/blocks/<other_id:id>", blocks.get_block, "USER", "read"),
        ("PUT", "/api/me/blocks/<other_id:id>", blocks.put_block, "USER", "write"),
        ("DELETE", "/api/me/blocks/<other_id:id>", blocks.delete_block, "USER", "write"),
        ("GET", "/api/users", users.search_users, "USER", "read"),
        ("GET", "/api/channels", threads.list_channels, "USER", "read"),
        ("GET", "/api/search", search.get_search, "USER", "read"),
        ("GET", "/api/admin/users", admin.list_users, "ADMIN", "read"),
        ("GET", "/api/admin/users/<user_id:id>", admin.get_user, "ADMIN", "read"),
        ("PATCH", "/api/admin/users/<user_id:id>", admin.patch_user, "ADMIN", "write"),
        ("POST", "/api/admin/users/<user_id:id>/password", admin.post_user_password, "ADMIN", "write"),
        ("GET", "/api/admin/keys", keys.list_keys, "ADMIN", "read"),
        ("POST", "/api/admin/keys", keys.post_key, "ADMIN", "make"),
        ("DELETE", "/api/admin/keys/<key_id:id>", keys.delete_key, "ADMIN", "write"),
        ("GET", "/api/admin/audit", audit.list_audit, "ADMIN", "read"),
        ("POST", "/api/host/tokens", keys.post_host_token, "HOST", "read"),
        ("DELETE", "/api/host/users/<external_id:str>/sessions", keys.delete_host_sessions, "HOST", "read"),
        ("GET", "/api/threads", threads.list_threads, "USER", "read"),
        ("POST", "/api/threads", threads.post_thread, "USER", "make"),
        ("GET", "/api/contacts", contacts.list_contacts, "STAFF", "read"),
        ("POST", "/api/contacts", contacts.post_contact, "STAFF", "send"),
        ("GET", "/api/contacts/export", contacts_csv.get_export, "STAFF", "bulk"),
        ("POST", "/api/contacts/import", contacts_csv.post_import, "STAFF", "bulk"),
        ("GET", "/api/contacts/<contact_id:id>", contacts.get_contact, "STAFF", "read"),
        ("PATCH", "/api/contacts/<contact_id:id>", contacts.patch_contact, "STAFF", "send"),
        ("DELETE", "/api/contacts/<contact_id:id>", contacts.delete_contact, "STAFF", "write"),
        ("GET", "/api/contacts/<contact_id:id>/messages", inbox.list_contact_messages, "STAFF", "read"),
        ("POST", "/api/contacts/<contact_id:id>/messages", inbox.post_contact_message, "STAFF", "send"),
        ("GET", "/api/conversations", inbox.list_conversations, "STAFF", "read"),
        ("GET", "/api/conversations/<conversation_id:id>", inbox.get_conversation, "STAFF", "read"),
        ("PATCH", "/api/conversations/<conversation_id:id>", inbox.patch_conversation, "STAFF", "write"),
        ("POST", "/api/inbound", inbox.post_inbound, "GATEWAY", "inbound"),
        ("GET", THREAD, threads.get_thread, "USER", "read"),
        ("PATCH", THREAD, threads.patch_thread, "USER", "write"),
        ("DELETE", THREAD, threads.delete_thread, "USER", "write"),
        ("PATCH", f"{THREAD}/me", threads.patch_mine, "USER", "write"),
        ("GET", f"{THREAD}/invites", invites.list_invites, "USER", "read"),
        ("POST", f"{THREAD}/invites", invites.post_invite, "USER", "write"),
        ("DELETE", f"{THREAD}/invites/<invite_id:id>", invites.delete_invite, "USER", "write"),
        ("POST", "/api/invites/<token:str>/accept", invites.post_accept, "USER", "write"),
        ("POST", f"{THREAD}/join", members.post_join, "USER", "write"),
        ("POST", f"{THREAD}/leave", members.post_leave, "USER", "write"),
        ("GET", f"{THREAD}/members", members.list_members, "USER", "read"),
        ("POST", f"{THREAD}/members", members.post_member, "USER", "write"),
        ("PATCH", f"{THREAD}/members/<member_id:id>", members.patch_member, "USER", "write"),
        ("DELETE", f"{THREAD}/members/<member_id:id>", members.delete_member, "USER", "write"),
        ("GET", f"{THREAD}/messages", messages.list_messages, "USER", "read"),
        ("POST", f"{THREAD}/messages", messages.post_message, "USER", "send"),
        ("GET", f"{THREAD}/messages/<seq:id>", messages.get_message, "USER", "read"),
        ("PATCH", f"{THREAD}/messages/<seq:id>", messages.patch_message, "USER", "send"),
        ("DELETE", f"{THREAD}/messages/<seq:id>", messages.delete_message, "USER", "write"),
        ("GET", f"{THREAD}/messages/<seq:id>/edits", messages.list_edits, "USER", "read"),
        ("PUT", REACTION, reactions.put_reaction, "USER", "write"),
        ("DELETE", REACTION, reactions.delete_reaction, "USER", "write"),
        ("PUT", f"{THREAD}/messages/<seq:id>/pin", pins.put_pin, "USER", "write"),
        ("DELETE", f"{THREAD}/messages/<seq:id>/pin", pins.delete_pin, "USER", "write"),
        ("GET", f"{THREAD}/pins", pins.list_pins, "USER", "read"),
        ("GET", f"{THREAD}/messages/<seq:id>/receipts", receipts.list_receipts, "USER", "read"),
        ("POST", f"{THREAD}/read", receipts.post_read, "USER", "write"),
        ("POST", f"{THREAD}/delivered", receipts.post_delivered, "USER", "write"),
        ("POST", f"{THREAD}/unread", receipts.post_unread, "USER", "write"),
        ("GET", f"{THREAD}/presence", presence.get_presence, "USER", "read"),
        ("POST", f"{THREAD}/typing", typists.post_typing, "USER", "write"),
        ("GET", f"{THREAD}/stream", sse.thread_stream, "STREAM", "stream"),
        ("GET", "/api/stream", sse.user_stream, "STREAM", "stream"),
        ("GET", ws.PATH, ws.open_socket, "STREAM", "stream"),
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
    found = [method for route in ROUTES if route.leads_to(address) for method in _methods(route)]
    return ", ".join(found or (pages.METHODS if pages.leads_to(address) else ()))


def _identifier(value: str) -> int:
    """A bigint above zero, in one spelling. ValueError, and so 404, for all else: no such thing can be there.

    Sanic keeps the pattern for building addresses; what int() takes ("01", "1_0", "١") is up to us.
    """
    if not IDENTIFIER.fullmatch(value) or int(value) >= 2**63:
        raise ValueError(value)
    return int(value)


def _endpoint(route: Route) -> Handler:
    """What surrounds every handler: request id, sign-in, the error table and the log line."""

    parameters = inspect.signature(route.handler).parameters
    takes_body, takes_query = "body" in parameters, "query" in parameters

    async def run(request: Request, **given: Any) -> HTTPResponse | None:
        started = time.perf_counter()
        ctx = request.ctx
        ctx.request_id = request.app.ctx.request_ids.of(request.headers.get("x-request-id"))
        ctx.user_id = ctx.session_id = None
        ctx.rate = ()  # what the answer says of the limits
        upgrading = request.headers.get("upgrade", "").lower() == "websocket"
        status = 499  # what the log says when the client has gone
        try:
            if garbled(request):
                raise BadRequest()
            if upgrading:
                request.stream.keep_alive = False  # type: ignore[union-attr]  # it switches Sanic's timeouts off
                if route.path != ws.PATH:
                    raise BadRequest("There is no WebSocket at this address.")
            if route.access != "OPEN" and not request.app.ctx.epoch:
                raise Unavailable()  # a worker that began while the database was away
            caller = None
            if route.access != "OPEN":
                caller = await _caller(request, route)
                ctx.user_id, ctx.session_id = caller.user_id, caller.session_id
            ctx.rate = await request.app.ctx.limits.pass_(request, route.cost)
            if caller is not None and (
                caller.kind != "user" or route.access in ROLES or route.access == "HOST"
            ):
                await _admit(request, route, caller)
            if takes_query and route.query is not None:
                given["query"] = read_query(request, route.query)
            if takes_body and route.body is not None:
                if len(request.body) > route.brake.body_bytes:
                    raise TooLarge()
                given["body"] = read(request, route.body)
            if route.access == "STREAM":
                with request.app.ctx.limits.stream(ctx.user_id):
                    response = await route.handler(request, **given)
            else:
                response = await route.handler(request, **given)
            status = response.status if response is not None else (101 if upgrading else 200)
        except Exception as error:
            if isinstance(error, TooMany):
                ctx.rate = ()  # it tells of the limits itself
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
        if route.media is not None and status >= 400:
            drain(request)
        if response is not None and isinstance(response, HTTPResponse):
            dress(response, (*outer(request, ctx.request_id), NO_STORE))
        return response

    if route.media is not None:
        run.is_stream = True  # type: ignore[attr-defined]  # its body waits until the handler asks for it
    if route.path == ws.PATH:
        run.is_websocket = True  # type: ignore[attr-defined]  # Sanic wants no answer of it
    return run


async def _caller(request: Request, route: Route) -> Caller:
    """Who asks. Raises Unauthorized, or Forbidden; TooMany for whoever shows one bad token after the other."""
    ctx = request.app.ctx
    try:
        caller: Caller = await ctx.sign_ins.caller(request, route.access)
    except (Unauthorized, Forbidden):
        request.ctx.rate = await ctx.limits.pass_(request, "refused")
        raise
    return caller


async def _admit(request: Request, route: Route, caller: Caller) -> None:
    """Whether a caller of this kind and role may call this route. Raises Forbidden."""
    if (caller.kind == "host") != (route.access == "HOST") or (
        caller.kind == "bot" and route.access == "PERSON"
    ):
        raise Forbidden("This is not for the kind of key that was shown.", code="wrong_key")
    if (
        route.access in ROLES
        and (route.access != "GATEWAY" or caller.kind != "bot")
        and not getattr(route.handler, "admits", False)  # it asks for the role itself
    ):
        roles, whom = ROLES[route.access]
        role = await users.role(request.app.ctx.db, user_id=caller.user_id)
        if role is None:
            raise Unauthorized()
        if role not in roles:
            raise Forbidden(f"This is for {whom}.")


def answer_to(error: Exception, request_id: str) -> HTTPResponse:
    """The answer to whatever was raised; our own faults go to the log with their cause."""
    return render(noted(error, request_id), request_id)


def main() -> int:
    """bobbin routes: the table, as text."""
    for route in ROUTES:
        print(f"{route.method:7}{route.path:66}{route.access:8}{route.cost}")
    return 0
