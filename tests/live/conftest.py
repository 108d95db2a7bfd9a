"""A desk for the tests of hub and streams."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from server.base.db import open_pool
from server.live import hub
from tests.live.desk import Desk, desk_on


@pytest.fixture(scope="module")
async def pool(db_url: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(db_url, size=6, statement_cache=100)
    yield pool
    await pool.close()


@pytest.fixture
async def desk(pool: asyncpg.Pool) -> AsyncIterator[Desk]:
    async with desk_on(pool) as desk:
        yield desk


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come quickly."""
    monkeypatch.setattr(hub, "POLL_SECONDS", 0.02)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No poll comes to the rescue while a test runs."""
    monkeypatch.setattr(hub, "POLL_SECONDS", 3600.0)
