"""Passwords: argon2id, off the event loop and behind everything else."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from server.base.errors import Unavailable
from server.base.niceness import step_back

T = TypeVar("T")


class Passwords:
    """Hashes and compares, one at a time in each worker: each takes some 30 ms and 19 MiB.

    braked: refuse (503) when so many wait that a client would give up first.
    """

    WAITING = 100

    def __init__(self, *, braked: bool) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._threads = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="password", initializer=step_back
        )
        # Compared with when there is no such account, so that it takes as long as a wrong password.
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._braked = braked
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """What is stored."""
        return await self._run(lambda: self._hasher.hash(password))

    async def match(self, password: str, stored: str | None) -> bool:
        """Whether this is the password. With None it takes as long, and is not."""

        def compare() -> bool:
            try:
                return self._hasher.verify(stored or self._nobody, password) and stored is not None
            except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
                return False

        return await self._run(compare)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._braked and self._waiting >= self.WAITING:
            raise Unavailable("Too many people are signing in; try again in a moment.", code="busy")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """No more of it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
