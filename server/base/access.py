"""Who is asking: access tokens, and the sign-in that stands beside each path in ROUTES."""

import re
import secrets
import time
from dataclasses import dataclass
from typing import Literal

import jwt
from sanic import Request

from server.base.errors import Unauthorized

ACCESS_SECONDS = 15 * 60
CACHED_TOKENS = 10_000  # verifying one costs 40 us, most of a small request; at 200 bytes each this is 2 MB

SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")  # a request id that may stand in a log and a header

# OPEN: anybody. USER: a Bearer token. STREAM: the same, or ?token=, for EventSource can't set headers.
Access = Literal["OPEN", "USER", "STREAM"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A signed-in person, by the token they showed."""

    user_id: int
    session_id: int
    expires_at: float  # Unix seconds


class Tokens:
    """Makes and reads access tokens (JWT, HS256, 15 minutes)."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._read: dict[str, Caller] = {}

    def issue(self, *, user_id: int, session_id: int) -> str:
        """A token for one sign-in of one person."""
        now = int(time.time())
        claims = {"sub": str(user_id), "sid": session_id, "iat": now, "exp": now + ACCESS_SECONDS}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def caller(self, token: str) -> Caller:
        """Whose token this is. Raises Unauthorized for any that we have not made, or too old."""
        caller = self._read.get(token)
        if caller is None:
            caller = self._verified(token)
            if len(self._read) >= CACHED_TOKENS:
                self._read.pop(next(iter(self._read)))
            self._read[token] = caller
        if caller.expires_at <= time.time():
            self._read.pop(token, None)
            raise Unauthorized("The access token has expired.", code="token_expired")
        return caller

    def _verified(self, token: str) -> Caller:
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
            )
            return Caller(int(claims["sub"]), int(claims["sid"]), float(claims["exp"]))
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The access token has expired.", code="token_expired") from None
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            raise Unauthorized() from None


def sign_in(request: Request, access: Access, tokens: Tokens) -> Caller:
    """The caller of a request whose route wants one. Raises Unauthorized."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return tokens.caller(token.strip())
    if access == "STREAM":
        given = request.args.get("token")
        if given:
            return tokens.caller(given)
    raise Unauthorized()


class RequestIds:
    """The caller's request id if it is a sane one, else one of ours: unique, and cheap to make."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = 0

    def of(self, given: str | None) -> str:
        if given and SANE.fullmatch(given):
            return given
        self._count += 1
        return f"{self._prefix}-{self._count:x}"
