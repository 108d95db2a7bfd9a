"""Brakes: how often a caller may do what, and how much they may say at once."""

from dataclasses import dataclass

from sanic import Request

KIB = 1024


@dataclass(frozen=True)
class Brake:
    """A bucket of `burst` tokens that fills by per_second; each request takes one."""

    burst: int  # 0: no brake
    per_second: float
    body_bytes: int = 16 * KIB
    by: str = "user"  # whose bucket: the user's, or the address's where nobody is signed in


# What a request costs, by the word beside its path in ROUTES.
BRAKES = {
    "free": Brake(0, 0),
    "register": Brake(100, 0.1, by="address"),
    "auth": Brake(300, 10, by="address"),
    "ticket": Brake(120, 10),
    "read": Brake(600, 100),
    "write": Brake(200, 20),
    "make": Brake(100, 2, body_bytes=32 * KIB),
    "send": Brake(
        200, 20, body_bytes=256 * KIB
    ),  # 10,000 characters, each escaped as \\uXXXX\\uXXXX at worst
    "stream": Brake(120, 10),
}


class Guess:
    """A try at a password."""

    async def right(self) -> None:
        """It was no guess: it does not count."""


class Limits:
    """All brakes of this worker."""

    async def pass_(self, request: Request, cost: str) -> None:
        """Let a request through. Raises TooMany."""

    async def guess(self, address: str | None, account: str) -> Guess:
        """Before a password is compared. Raises TooMany."""
        return Guess()
