"""Contacts: the people outside who write to the team. SQL: db/queries/contacts.sql."""

import asyncpg

from server.base.db import Db, query


@query
async def create(
    db: Db, *, name: str, phone_number: str | None, email: str | None, external_id: str | None, notes: str
) -> asyncpg.Record | None: ...
