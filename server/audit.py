"""The audit log: what was done that bears on security. SQL: db/queries/audit.sql."""

from typing import Any

import orjson
from sanic import Request

from server.base.db import Db, query
from server.base.front import address_of


@query
async def note(
    db: Db,
    *,
    act: str,
    actor_id: int | None,
    subject_id: int | None,
    thread_id: int | None,
    address: str | None,
    request_id: str | None,
    details: str,
) -> str: ...


async def record(
    db: Db,
    request: Request,
    act: str,
    *,
    actor_id: int | None = None,
    subject_id: int | None = None,
    thread_id: int | None = None,
    **details: Any,
) -> None:
    """Note an act, in the caller's transaction where there is one. actor_id is by default who asks.

    details are names and numbers: never a password, a token or a text.
    """
    await note(
        db,
        act=act,
        actor_id=actor_id if actor_id is not None else request.ctx.user_id,
        subject_id=subject_id,
        thread_id=thread_id,
        address=address_of(request),
        request_id=request.ctx.request_id,
        details=orjson.dumps(details).decode(),
    )
