"""What comes in and goes out over HTTP: bodies, query values, cursors, JSON bytes.

Shape is checked here, at the door, all faults at once. Whether something exists, and whose it is,
is decided by the statement that acts.
"""

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from sanic import Request
from sanic.response import HTTPResponse

from server.base.errors import BadRequest, Invalid, UnsupportedType

JSON = "application/json; charset=utf-8"
TOP = 2**63 - 1  # the largest bigint: beyond every id and seq
B = TypeVar("B", bound="Body")


# ---- bodies ------------------------------------------------------------------------------------


class Body(msgspec.Struct, forbid_unknown_fields=False, kw_only=True):
    """A request body. Its fields are typed; their bounds are `length` and `whole` annotations.

    The type is checked by msgspec (400), the bounds by `read` (422), so that a client learns of all
    faults at once, in details, by field.
    """


def length(low: int, high: int, *, pattern: str | None = None, trim: bool = True) -> msgspec.Meta:
    """low to high characters after trimming; of the pattern, if any; never NUL, which Postgres can't store."""
    schema: dict[str, Any] = {"minLength": low, "maxLength": high} | ({"pattern": pattern} if pattern else {})
    return msgspec.Meta(extra_json_schema=schema, extra={"text": (low, high, pattern, trim)})


def whole(low: int = 1, high: int = TOP) -> msgspec.Meta:
    """A whole number from low to high; the default is what an id or a seq can be."""
    return msgspec.Meta(extra_json_schema={"minimum": low, "maximum": high}, extra={"whole": (low, high)})


def many(low: int, high: int) -> msgspec.Meta:
    """A list of low to high items, each an id."""
    return msgspec.Meta(extra_json_schema={"minItems": low, "maxItems": high}, extra={"many": (low, high)})


def read(request: Request, kind: type[B]) -> B:
    """The body of a request as `kind`. Raises BadRequest, UnsupportedType or Invalid (all faults at once)."""
    declared = (request.headers.get("content-type") or "application/json").partition(";")[0].strip().lower()
    if declared != "application/json":
        raise UnsupportedType()
    try:
        body: B = _decoder(kind).decode(request.body)
    except msgspec.ValidationError as error:
        raise _refused(str(error)) from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadRequest("The body is not valid JSON.", code="not_json") from None
    faults = {}
    for name, rule, bounds in _rules(kind):
        value = getattr(body, name)
        if value is None:
            continue
        if rule == "text":
            if bounds[3]:
                value = value.strip()
                setattr(body, name, value)
            fault = _text_fault(value, *bounds[:3])
        elif rule == "whole":
            fault = None if bounds[0] <= value <= bounds[1] else f"must be from {bounds[0]} to {bounds[1]}"
        else:
            fault = _many_fault(value, *bounds)
        if fault:
            faults[name] = fault
    if faults:
        raise Invalid(faults)
    return body


def _text_fault(value: str, low: int, high: int, pattern: str | None) -> str | None:
    if "\x00" in value:
        return "must not contain NUL characters"
    if len(value) < low:
        return "must not be empty" if low == 1 else f"must have at least {low} characters"
    if len(value) > high:
        return f"must have at most {high} characters"
    if pattern and not re.fullmatch(pattern, value):
        return f"must match {pattern}"
    return None


def _many_fault(value: list[int], low: int, high: int) -> str | None:
    if not low <= len(value) <= high:
        return f"must have {low} to {high} items"
    if not all(1 <= item <= TOP for item in value):
        return f"each must be from 1 to {TOP}"
    return None


@cache
def _decoder(kind: type[B]) -> msgspec.json.Decoder[B]:
    return msgspec.json.Decoder(kind)


@cache
def _rules(kind: type[Body]) -> tuple[tuple[str, str, tuple[Any, ...]], ...]:
    """(field, rule, bounds) of every annotation made by `length`, `whole` and `many`."""
    hints = msgspec.structs.fields(kind)
    return tuple((field.name, rule, bounds) for field in hints for rule, bounds in _extras(field.type))


def _extras(hint: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if get_origin(hint) is Annotated:
        for meta in get_args(hint)[1:]:
            if isinstance(meta, msgspec.Meta) and meta.extra:
                yield from meta.extra.items()
    elif get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from _extras(part)


def _refused(said: str) -> BadRequest | Invalid:
    """msgspec's words, as 400 for a wrong type and 422 for what is missing or not one of the words."""
    missing = re.search(r"missing required field `(\w+)`", said)
    if missing:
        return Invalid({missing[1]: "is required"})
    at = re.search(r"at `\$\.(\w+)", said)
    if said.startswith("Invalid enum value") and at:
        return Invalid({at[1]: "is not one of the known words"})
    expected = said.partition(" - at ")[0].replace("`", "")
    return BadRequest(f"{at[1]}: {expected}." if at else f"{expected}.", code="wrong_type")


# ---- query values ------------------------------------------------------------------------------


def known(request: Request, *names: str) -> dict[str, str]:
    """The query string, refused when it has other names, or one name twice."""
    found: dict[str, str] = {}
    for name, value in request.get_query_args(keep_blank_values=True):
        if name not in names:
            raise BadRequest(f"There is no query parameter {name[:40]!r} here.", code="unknown_parameter")
        if name in found:
            raise BadRequest(f"{name} is given twice.", code="bad_parameter")
        if "\x00" in value:
            raise BadRequest(f"{name} must not contain NUL characters.", code="bad_parameter")
        found[name] = value
    return found


def number(values: dict[str, str], name: str, *, default: int, low: int, high: int) -> int:
    """A whole number of the query string; 400 when it is none, 422 when out of range."""
    given = values.get(name)
    if given is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,40}", given):
        raise BadRequest(f"{name} must be a whole number.", code="bad_parameter")
    if not low <= int(given) <= high:
        raise Invalid({name: f"must be from {low} to {high}"})
    return int(given)


def word(values: dict[str, str], name: str, words: tuple[str, ...]) -> str | None:
    """One of a closed set of words, or None when not given."""
    given = values.get(name)
    if given is not None and given not in words:
        raise BadRequest(f"{name} must be one of {', '.join(words)}.", code="bad_parameter")
    return given


def moment(value: str, name: str) -> datetime:
    """An RFC 3339 time; without an offset it would mean something else on each host, so 400."""
    try:
        found = datetime.fromisoformat(value.replace(" ", "+"))  # an unescaped + arrives as a blank
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise BadRequest(f"{name} must be a time such as 2026-11-20T12:00:00Z.", code="bad_parameter")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise BadRequest(f"{name} is out of range.", code="bad_parameter") from None


# ---- cursors -----------------------------------------------------------------------------------


class Cursors:
    """Page cursors: a few numbers, sealed, so that a forged or foreign one is told apart.

    purpose binds a cursor to what it pages through, as "messages:asc:7".
    """

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"bobbin page cursors\n" + secret.encode()).digest()

    def seal(self, purpose: str, *numbers: int) -> str:
        """URL-safe text that `open` turns into the numbers again."""
        packed = struct.pack(f">{len(numbers)}q", *numbers)
        return base64.urlsafe_b64encode(self._seal(purpose, packed) + packed).rstrip(b"=").decode()

    def open(self, purpose: str, cursor: str, *, count: int) -> tuple[int, ...]:
        """The numbers. Raises BadRequest for whatever this server has not sealed for this purpose."""
        try:
            raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            numbers: tuple[int, ...] = struct.unpack(f">{count}q", raw[10:])
        except (ValueError, struct.error):
            numbers = ()
        # Compared as text: base64 is read leniently, and one position has one cursor.
        if not numbers or not hmac.compare_digest(cursor.encode(), self.seal(purpose, *numbers).encode()):
            raise BadRequest("This cursor is not one of ours for this list.", code="bad_cursor")
        return numbers

    def _seal(self, purpose: str, packed: bytes) -> bytes:
        return hmac.digest(self._key, purpose.encode() + b"\n" + packed, "sha256")[:10]


# ---- answers -----------------------------------------------------------------------------------


def json_bytes(body: bytes | str, *, status: int = 200) -> HTTPResponse:
    """JSON that is made already, most of it by Postgres."""
    return HTTPResponse(body, status=status, content_type=JSON)


def empty() -> HTTPResponse:
    """204."""
    return HTTPResponse(status=204)
