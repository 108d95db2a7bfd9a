"""Who is asking: tokens, and the words for who may that stand beside each path in ROUTES."""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

import jwt

from server.base.errors import Unauthorized

ACCESS_SECONDS = 15 * 60
CACHED_TOKENS = 10_000  # verifying one costs 40 us, most of a small request; at 200 bytes each this is 2 MB

SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")  # a request id that may stand in a log and a header

# OPEN: anybody. USER: whoever is signed in, bots included. PERSON: the same without bots. STREAM: as USER,
# and by ?token= too, for EventSource can't set headers. ADMIN: a user of that role for the whole server.
# STAFF: agents and admins. GATEWAY: bots, and the staff. HOST: a host application, by its key; it may call
# nothing else.
Access = Literal["OPEN", "USER", "PERSON", "STREAM", "STAFF", "GATEWAY", "ADMIN", "HOST"]
Kind = Literal["user", "bot", "host"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody signed in, by what they showed."""

    user_id: int
    session_id: int
    kind: Kind = "user"
    expires_at: float = float("inf")  # Unix seconds: of the token, where it has an end


class Tokens:
    """Makes and reads what is signed and not stored: access tokens (JWT, HS256, 15 minutes) and cookies."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._read: dict[str, Caller] = {}

    def issue(self, *, user_id: int, session_id: int, seconds: int = ACCESS_SECONDS) -> str:
        """An access token for one session of one person."""
        now = int(time.time())
        claims = {"sub": str(user_id), "sid": session_id, "iat": now, "exp": now + seconds}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def caller(self, token: str) -> Caller:
        """Whose access token this is. Raises Unauthorized for any that we have not made, or too old."""
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
            claims = self._claims(token, ["exp", "sub"])
            return Caller(int(claims["sub"]), int(claims["sid"]), expires_at=float(claims["exp"]))
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The access token has expired.", code="token_expired") from None
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            raise Unauthorized() from None

    def _claims(self, token: str, required: list[str]) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token, self._secret, algorithms=["HS256"], options={"require": required}
        )
        return claims

    def cookie(self, *, session_id: int) -> str:
        """What the session cookie holds. It has no end of its own: the session has."""
        return f"{session_id}.{self._seal('cookie', session_id)}"

    def cookie_session(self, cookie: str) -> int | None:
        """The session of a cookie, or None when we have not made it."""
        number, _, seal = cookie.partition(".")
        if not re.fullmatch("[1-9][0-9]{0,18}", number):
            return None
        return int(number) if same(seal, self._seal("cookie", int(number))) else None

    def csrf(self, session_id: int) -> str:
        """What a page must send back in X-CSRF-Token with each write by cookie: it shows that the page
        could read our cookies, which one of another site cannot."""
        return self._seal("csrf", session_id)

    def _seal(self, purpose: str, session_id: int) -> str:
        return hmac.digest(self._secret.encode(), f"bobbin {purpose} {session_id}".encode(), "sha256").hex()


def secret_token(prefix: str = "") -> tuple[str, bytes]:
    """A token that nobody guesses, and its SHA-256, which is all that is stored of it."""
    token = prefix + secrets.token_urlsafe(32)
    return token, digest(token)


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def same(given: str, wanted: str) -> bool:
    """Whether they are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())


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
