"""Whose turn comes last: the connection that keeps the index of the search."""

import os
import socket
import sys
from pathlib import Path

import asyncpg
import pytest

from server.base.niceness import BACKEND_NICENESS, socket_path, step_back_backend
from tests.conftest import Backing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness of one process among others")


async def test_the_process_behind_a_connection_steps_back_and_no_other(backing: Backing) -> None:
    dsn = backing.url("postgres")
    if socket_path(dsn) is None:
        pytest.skip("BOBBIN_TEST_DATABASE_URL leads to a host")
    conn, beside = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        before = os.getpriority(os.PRIO_PROCESS, beside.get_server_pid())
        assert step_back_backend(conn, dsn)
        assert os.getpriority(os.PRIO_PROCESS, conn.get_server_pid()) == BACKEND_NICENESS != before
        assert os.getpriority(os.PRIO_PROCESS, beside.get_server_pid()) == before
    finally:
        await conn.close()
        await beside.close()


async def test_a_process_that_only_has_the_number_of_one_behind_a_connection_is_left_alone(
    backing: Backing, tmp_path: Path
) -> None:
    """As where Postgres is on another machine, or its socket comes out of another container."""
    conn = await asyncpg.connect(backing.url("postgres"))
    try:
        before = os.getpriority(os.PRIO_PROCESS, conn.get_server_pid())
        with socket.socket(socket.AF_UNIX) as ours:
            folder = Path(os.path.relpath(tmp_path))  # short enough for an address
            ours.bind(str(folder / ".s.PGSQL.5432"))
            ours.listen()
            for dsn in (
                f"postgresql://postgres@/postgres?host={tmp_path}",  # the parent is another one: us
                f"postgresql://postgres@/postgres?host={tmp_path / 'nothing'}",
                "postgresql://postgres@db.example:5432/postgres",
            ):
                assert not step_back_backend(conn, dsn)
        assert os.getpriority(os.PRIO_PROCESS, conn.get_server_pid()) == before
    finally:
        await conn.close()


def test_only_a_unix_socket_has_a_path() -> None:
    assert socket_path("postgresql://u@/db?host=/run/pg") == "/run/pg/.s.PGSQL.5432"
    assert socket_path("postgresql://u@/db?host=/run/pg&port=5433") == "/run/pg/.s.PGSQL.5433"
    assert socket_path("postgresql://u@%2Frun%2Fpg/db") == "/run/pg/.s.PGSQL.5432"
    for host in ("postgresql://u@db.example/db", "postgresql://u@db.example:5433/db?sslmode=require"):
        assert socket_path(host) is None
