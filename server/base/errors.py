"""The errors a client can get: one table, one renderer, one shape.

Raise them where the fact is known. What a driver says goes to the log, never to a client.
"""

import asyncio
import math
from typing import Any

import asyncpg
import orjson
from sanic import exceptions as sanic_exceptions

from server.base import log
from server.base.answer import Answer


class Problem(Exception):
    """An answer that is not a success: {"error": sentence, "code": word, "details"?, "requestId"}."""

    status = 500
    code = "internal_error"
    sentence = "Something went wrong on our side."

    def __init__(
        self,
        sentence: str | None = None,
        *,
        code: str | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(sentence or self.sentence)
        self.sentence = sentence or self.sentence
        self.code = code or self.code
        self.details = details
        self.headers = headers or {}


class BadRequest(Problem):
    status, code, sentence = 400, "bad_request", "The request could not be read."


class Unauthorized(Problem):
    status, code, sentence = 401, "unauthorized", "Sign in first: a valid access token is needed."

    def __init__(self, sentence: str | None = None, *, code: str | None = None) -> None:
        super().__init__(sentence, code=code, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Problem):
    status, code, sentence = 403, "forbidden", "Your role here does not allow this."


class NotFound(Problem):
    status, code, sentence = 404, "not_found", "There is no such thing, or it is not yours to see."


class Conflict(Problem):
    status, code, sentence = 409, "conflict", "The state of things does not allow this."


class TooLarge(Problem):
    status, code, sentence = 413, "too_large", "The request is too large."


class UpgradeRequired(Problem):
    status, code, sentence = 426, "upgrade_required", "This address speaks WebSocket only."

    def __init__(self) -> None:
        super().__init__(headers={"Upgrade": "websocket"})


class UnsupportedType(Problem):
    status, code, sentence = 415, "unsupported_type", "Send JSON, with Content-Type: application/json."


class Invalid(Problem):
    """Well-formed and still wrong; details names each field and what is wrong with it."""

    status, code, sentence = 422, "invalid", "Some values are not valid."

    def __init__(
        self, details: dict[str, Any], *, sentence: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(
            sentence or f"{self.sentence[:-1]}: {', '.join(details)}.", code=code, details=details
        )


class TooMany(Problem):
    """retry_after: in how many seconds it is worth another try."""

    status, code, sentence = 429, "rate_limited", "Too many requests; try again in a moment."

    def __init__(
        self,
        sentence: str | None = None,
        *,
        code: str | None = None,
        retry_after: float,
        headers: dict[str, str] | None = None,
    ) -> None:
        said = {"Retry-After": str(max(1, math.ceil(retry_after)))}
        super().__init__(sentence, code=code, headers=said | (headers or {}))


class Unavailable(Problem):
    status, code, sentence = 503, "unavailable", "The database is away; try again in a moment."

    def __init__(self, sentence: str | None = None, *, code: str | None = None, retry_after: int = 1) -> None:
        super().__init__(sentence, code=code, headers={"Retry-After": str(retry_after)})


# What a broken rule of the database means to a client, by the name of the constraint.
CONSTRAINTS: dict[str, tuple[str, str]] = {
    "users_email_key": ("email_taken", "There is an account with this email already."),
    "users_username_key": ("username_taken", "This username is taken."),
    "users_admin": ("not_a_person", "Only a person who signs in by themselves can be an admin."),
    "contacts_phone_number_key": ("phone_taken", "There is a contact with this phone number already."),
    "contacts_external_id_key": ("external_id_taken", "There is a contact with this external id already."),
    "memberships_open": ("already_member", "This person is in the thread already."),
}

# The database cannot be reached, is starting or stopping, has no connection free, or asks to try again.
AWAY = (
    OSError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the protocol broke off in the middle
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting, stopping, crashed, statement timeout
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,  # the database's default isolation is stricter than read committed
    asyncpg.ReadOnlySQLTransactionError,
)


def understood(error: BaseException) -> Problem:
    """What to tell a client about any exception a handler lets through."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        known = CONSTRAINTS.get(error.constraint_name or "")
        return Conflict(known[1], code=known[0]) if known else Problem()
    if isinstance(error, AWAY):
        return Unavailable()
    if isinstance(error, sanic_exceptions.SanicException):
        return _from_sanic(error)
    return Problem()


def _from_sanic(error: sanic_exceptions.SanicException) -> Problem:
    status = error.status_code or 500
    headers = {str(k): str(v) for k, v in (getattr(error, "headers", None) or {}).items()}
    if status == 404:
        return NotFound("There is nothing at this address.")
    if status == 405:
        return _with_status(405, "method_not_allowed", "This address does not take that method.", headers)
    if status == 413:
        return TooLarge()
    if status == 408:
        return _with_status(408, "timeout", "The request took too long to arrive.", headers)
    if status == 503:
        return Unavailable("The server is busy; try again in a moment.")
    if 400 <= status < 500:
        return _with_status(status, "bad_request", BadRequest.sentence, headers)
    return Problem()


def _with_status(status: int, code: str, sentence: str, headers: dict[str, str]) -> Problem:
    problem = Problem(sentence, code=code, headers=headers)
    problem.status = status
    return problem


def noted(error: BaseException, request_id: str) -> Problem:
    """What to tell a client about it; our own faults go to the log with their cause."""
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
    return problem


def render(problem: Problem, request_id: str) -> Answer:
    """The one shape of every error."""
    body: dict[str, Any] = {"error": problem.sentence, "code": problem.code}
    if problem.details:
        body["details"] = problem.details
    body["requestId"] = request_id
    return Answer(
        orjson.dumps(body),
        status=problem.status,
        headers=dict(problem.headers),
        content_type="application/json; charset=utf-8",
    )
