"""Contacts as a CSV file: taken in, with a report of what was wrong in which line, and given out. SQL: contacts.sql."""

import asyncio
import csv
import io
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
from sanic import Request
from sanic.response import HTTPResponse

from server import audit, contacts, phone, shapes
from server.base.answer import Answer
from server.base.db import Db
from server.base.errors import Invalid, Unavailable
from server.base.front import outer, plain
from server.base.http import answers, faults_of, json_bytes, received, takes
from server.base.limits import BRAKES

FIELDS = ("name", "phoneNumber", "email", "externalId", "notes")  # the columns, in the order of the export
COLUMNS = {field.lower(): field for field in FIELDS} | {"phone": "phoneNumber"}  # see _field
MEDIA = "text/csv"
MOST_LINES = 100_000  # of a file; the rest is left out, and told
AT_ONCE = 1000  # lines of one transaction, some 200 ms
SLICE = 50  # lines between two turns of the event loop, some 2 ms
TOLD = 100  # faults in the report
TRIES = 4  # of one transaction, while others make or change the same people
ENTRY_BYTES = 120_000  # of a line, or several where quotes have line ends in them; less than csv's own bound
PIECE, PIECE_BYTES = 500, 128 * 1024  # contacts of one look of the export, and what is sent at once
TURN = -1  # one import at a time on each worker; no thread has this id

# What a spreadsheet takes for a formula, also in full width. The export puts an apostrophe before it, the import takes
# that away again.
FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
GUARDED = re.compile("'" + FORMULA.pattern)


# ---- reading -----------------------------------------------------------------------------------


class Unreadable(Exception):
    """The end of a sentence that begins with the line."""


@dataclass(frozen=True)
class Entry:
    """What stands in a line, or in several where quotes have line ends in them."""

    line: int
    cells: list[str]
    fault: str | None = None


class Lines:
    """The lines of a file, decoded one by one, as csv asks for them."""

    def __init__(self, body: bytes) -> None:
        self._body = body if b"\n" in body else body.replace(b"\r", b"\n")
        self._place = 3 if body.startswith(b"\xef\xbb\xbf") else 0
        self._number = 0
        self.begin()

    def begin(self) -> int:
        """An entry begins; its line."""
        self._first_place, self._first_number, self._second_place = self._place, self._number + 1, 0
        return self._first_number

    def give_up(self) -> None:
        """Of the entry only the first line is lost."""
        self._place, self._number = self._second_place, self._first_number

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        if self._place >= len(self._body):
            raise StopIteration
        end = self._body.find(b"\n", self._place) + 1 or len(self._body)
        line = self._body[self._place : end]
        self._place = end
        self._number += 1
        self._second_place = self._second_place or end
        if end - self._first_place > ENTRY_BYTES:
            raise Unreadable("is too long, or a quote is not closed")
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise Unreadable("is not UTF-8") from None


def entries(lines: Lines, delimiter: str) -> Iterator[Entry]:
    """What stands in each line. One that can't be read is told, and the next one is read as if it were not there."""
    while True:
        number = lines.begin()
        try:
            cells = next(csv.reader(lines, delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except (csv.Error, Unreadable) as error:
            lines.give_up()
            yield Entry(number, [], _fault(error))
        else:
            if any(cells):
                yield Entry(number, cells)


def _fault(error: Exception) -> str:
    """Of csv's own words nothing is told."""
    if isinstance(error, Unreadable):
        return str(error)
    if "unexpected end" in str(error):
        return "has a quote that is not closed"
    if "expected after" in str(error):
        return "has something between a closing quote and the end of the value"
    return "is not CSV"


class Sheet:
    """A file: its columns, and its lines. Raises Invalid when there is nothing to read it by."""

    def __init__(self, body: bytes) -> None:
        if body.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise _no_sheet("must be UTF-8; this is UTF-16")
        first = body.partition(b"\n")[0]
        # As spreadsheets write it where the comma is for decimals, or from their clipboard.
        delimiter = max(",;\t", key=lambda one: _known(first.split(one.encode())))
        lines = entries(Lines(body), delimiter)
        head = next(lines, None)
        if head is None:
            raise _no_sheet("must have a line with the names of its columns; this is empty")
        if head.fault is not None:
            raise _no_sheet(f"must begin with the names of its columns; the first line {head.fault}")
        self.fields = [_field(cell) for cell in head.cells]
        self.ignored = [
            cell.strip() for cell, field in zip(head.cells, self.fields, strict=True) if field is None
        ]
        self.lines = lines
        taken = [field for field in self.fields if field is not None]
        if len(set(taken)) < len(taken):
            raise _no_sheet("must have each column once")
        if not {"name", "phoneNumber", "externalId"} & set(taken):
            raise _no_sheet("must have one of the columns name, phoneNumber and externalId")


def _no_sheet(fault: str) -> Invalid:
    return Invalid({"file": fault}, sentence=f"The file {fault}.")


def _field(cell: str) -> str | None:
    """Which column it is, whatever its case and what stands between: "Phone number", "phone_number"."""
    return COLUMNS.get(re.sub(r"[\s_-]", "", cell).lower())


def _known(cells: list[bytes]) -> int:
    """How many columns are known."""
    return sum(
        _field(cell.decode(errors="replace").strip('\ufeff"\r')) is not None
        for cell in cells
        if len(cell) < 100
    )


# ---- taking in ---------------------------------------------------------------------------------


@dataclass
class Line:
    """What a line says of a contact; None: nothing."""

    number: int
    name: str | None
    phone_number: str | None
    email: str | None
    external_id: str | None
    notes: str | None

    def keys(self) -> list[tuple[str, str]]:
        """By what it is known again: the column, and what stands in it."""
        found = [("externalId", self.external_id), ("phoneNumber", self.phone_number)]
        if self.name is not None and self.external_id is None and self.phone_number is None:
            found.append(("name", f"{self.name}\n{self.email or ''}".lower()))
        return [(column, value) for column, value in found if value is not None]


@dataclass
class Outcome:
    """What became of some lines; it counts when the transaction is committed."""

    faults: list[tuple[Line, str | None, str]] = field(default_factory=list)
    meant: dict[int, int] = field(default_factory=dict)  # the lines of contacts
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rings: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Report:
    """As shapes.ImportReport."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    errorCount: int = 0
    ignoredColumns: list[str] = field(default_factory=list)


@takes(MEDIA)
@answers({200: shapes.ImportReport})
async def post_import(request: Request) -> HTTPResponse:
    """Contacts from a CSV file in UTF-8, of 10 MiB and 100,000 lines at most.

    The first line names the columns: name, phoneNumber (or phone), email, externalId, notes, in any order and case;
    others are ignored. A line changes the contact with its externalId, else the one with its phoneNumber, else (where
    neither the line nor the contact has one of these) the one with its name and email; when there is none, it makes
    one. An empty value changes nothing. A line with a fault is left out, and the report says why; the others are taken,
    1,000 at a time: after a 5xx the file can be sent again.
    """
    ctx = request.app.ctx
    body = await received(request, MEDIA, most_bytes=BRAKES["bulk"].body_bytes)
    sheet = Sheet(body)

    async def work() -> Report:
        async with ctx.turns.of(TURN):
            await audit.record(ctx.db, request, "contacts.import", bytes=len(body))
            taking = Taking(request, sheet)
            try:
                return await taking.run()
            finally:
                done = taking.report
                await audit.record(
                    ctx.db, request, "contacts.imported",
                    created=done.created, updated=done.updated, unchanged=done.unchanged, errors=done.errorCount,
                )  # fmt: skip

    return json_bytes(orjson.dumps(await ctx.tasks.finish(work())))


class Taking:
    """An import under way."""

    def __init__(self, request: Request, sheet: Sheet) -> None:
        self._request, self._sheet = request, sheet
        self._country_code = request.app.ctx.settings.phone_country_code
        self._seen: dict[tuple[str, str], int] = {}  # the lines of keys
        self._meant: dict[int, int] = {}  # the lines of contacts
        self.report = Report(ignoredColumns=[name[:100] for name in sheet.ignored[:TOLD]])

    async def run(self) -> Report:
        """Take all of it."""
        batch: list[Line] = []
        for count, entry in enumerate(self._sheet.lines):
            if count % SLICE == 0:
                await self._pause()
            if count == MOST_LINES:
                self._refuse(
                    entry.line, {None: f"and all after it are beyond the {MOST_LINES:,} lines of a file"}
                )
                break
            line = self._checked(entry)
            if line is not None:
                batch.append(line)
            if len(batch) == AT_ONCE:
                await self._store(batch)
                batch = []
        if batch:
            await self._store(batch)
        return self.report

    async def _pause(self) -> None:
        """Others have their turn; and Sanic does not take it for a handler that hangs."""
        if self._request.stream is not None:
            self._request.stream.protocol._time = time.monotonic()
        await asyncio.sleep(0)

    def _refuse(self, number: int, faults: dict[str | None, str]) -> None:
        """A line is left out."""
        self.report.errorCount += 1
        for column, fault in faults.items():
            if len(self.report.errors) < TOLD:
                self.report.errors.append({"line": number, "column": column, "error": fault})

    def _checked(self, entry: Entry) -> Line | None:
        """What a line says; None when it is left out."""
        fields = self._sheet.fields
        if entry.fault is not None:
            self._refuse(entry.line, {None: entry.fault})
            return None
        if len(entry.cells) != len(fields):
            self._refuse(entry.line, {None: f"has {len(entry.cells)} columns instead of {len(fields)}"})
            return None
        said = {}
        for name, cell in zip(fields, entry.cells, strict=True):
            if name is not None and (value := cell.strip()):
                said[name] = value[1:] if GUARDED.match(value) else value
        faults: dict[str | None, str] = {}
        given = contacts.NewContact(**said)
        faults.update(faults_of(given))
        if given.phoneNumber is not None and "phoneNumber" not in faults:
            try:
                said["phoneNumber"] = phone.normal(given.phoneNumber, country_code=self._country_code)
            except ValueError as fault:
                faults["phoneNumber"] = str(fault)
        line = Line(
            entry.line, given.name, said.get("phoneNumber"), given.email, given.externalId,
            given.notes if "notes" in said else None,
        )  # fmt: skip
        keys = line.keys()
        for key in keys:
            if not faults and key in self._seen:
                faults[key[0]] = f"is in line {self._seen[key]} already"
        if not keys:
            faults[None] = "has neither name, phoneNumber nor externalId"
        if faults:
            self._refuse(entry.line, faults)
            return None
        self._seen.update(dict.fromkeys(keys, entry.line))
        return line

    async def _store(self, batch: list[Line]) -> None:
        """Some lines, in a transaction of their own."""
        ctx = self._request.app.ctx
        for _ in range(TRIES):
            try:
                async with ctx.db.acquire() as conn, conn.transaction():
                    await contacts.hold_imports(conn)
                    done = await self._stored(conn, batch)
                break
            except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError):
                continue  # somebody has made or changed one of them meanwhile: who is who is asked again
        else:
            raise Unavailable("Others are changing these contacts; try again in a moment.", code="busy")
        for line, column, fault in done.faults:
            self._refuse(line.number, {column: fault})
        self._meant.update(done.meant)
        self.report.created += done.created
        self.report.updated += done.updated
        self.report.unchanged += done.unchanged
        for count, (thread_id, rev) in enumerate(done.rings):
            if count % SLICE == 0:
                await self._pause()
            ctx.bus.ring(thread_id, rev)

    async def _stored(self, db: Db, batch: list[Line]) -> Outcome:
        done, fresh = Outcome(), list[Line]()
        changed: dict[int, Line] = {}
        found = await contacts.matches(
            db,
            names=[line.name for line in batch],
            phone_numbers=[line.phone_number for line in batch],
            emails=[line.email for line in batch],
            external_ids=[line.external_id for line in batch],
        )
        for line, row in zip(batch, found, strict=True):
            by_external, by_phone = row["by_external"], row["by_phone"]
            contact_id = by_external or by_phone or row["by_name"]
            before = changed[contact_id].number if contact_id in changed else self._meant.get(contact_id)
            if by_external and by_phone and by_external != by_phone:
                done.faults.append((line, "phoneNumber", "is that of another contact"))
            elif by_phone and not by_external and line.external_id is not None and row["numbered"]:
                done.faults.append((line, "externalId", "is not that of the contact with this phoneNumber"))
            elif before is not None:
                done.faults.append((line, None, f"is about the same contact as line {before}"))
            elif contact_id is not None:
                changed[contact_id] = line
            elif line.name is None and line.phone_number is None:
                done.faults.append(
                    (line, "externalId", "is nobody's, and without name and phoneNumber none is made")
                )
            else:
                fresh.append(line)
        if fresh:
            made = await contacts.create_many(
                db,
                names=[line.name or line.phone_number for line in fresh],
                phone_numbers=[line.phone_number for line in fresh],
                emails=[line.email for line in fresh],
                external_ids=[line.external_id for line in fresh],
                notes=[line.notes or "" for line in fresh],
            )
            done.meant = {row["id"]: line.number for row, line in zip(made, fresh, strict=True)}
            done.created = len(made)
        if changed:
            lines = list(changed.values())
            rows = await contacts.change_many(
                db,
                contact_ids=list(changed),
                names=[line.name for line in lines],
                phone_numbers=[line.phone_number for line in lines],
                emails=[line.email for line in lines],
                external_ids=[line.external_id for line in lines],
                notes=[line.notes for line in lines],
            )
            done.meant |= {contact_id: line.number for contact_id, line in changed.items()}
            done.updated, done.unchanged = len(rows), len(changed) - len(rows)
            done.rings = [(row["thread_id"], row["rev"]) for row in rows if row["rev"] is not None]
        return done


# ---- giving out --------------------------------------------------------------------------------


@answers({200: shapes.CSV})
async def get_export(request: Request) -> HTTPResponse | None:
    """All contacts as a CSV file, by id: name, phoneNumber, email, externalId, notes.

    A value that a spreadsheet would take for a formula has an apostrophe before it, which an import takes away again.
    """
    ctx, head = request.app.ctx, request.method == "HEAD"
    if not head:
        await audit.record(ctx.db, request, "contacts.exported")
    headers = {"Content-Disposition": 'attachment; filename="contacts.csv"'}
    pieces = _pieces(ctx.db)
    first = await anext(pieces)
    if len(first) < PIECE_BYTES:  # it is all
        return Answer(first, content_type=shapes.CSV, headers=headers)
    headers |= {"Cache-Control": "no-store", **plain(outer(request, request.ctx.request_id))}
    response = await request.respond(content_type=shapes.CSV, headers=headers)
    stream: Any = request.stream
    if head:
        await response.send(b"", end_stream=False)
        stream.head_response_ignored(b"", end_stream=True)  # Sanic would await this, which fails
        return None
    try:
        await response.send(first)
        async for piece in pieces:
            await response.send(piece)
        await response.eof()
    except Exception:
        stream.protocol.abort()  # so that nobody takes it for all of it
        raise
    return None


async def _pieces(db: Db) -> AsyncIterator[bytes]:
    """The file, in pieces of PIECE_BYTES and more; the last one is shorter."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(FIELDS)
    after_id, size = 0, 0
    while rows := await contacts.after(db, after_id=after_id, size=PIECE):
        for row in rows:
            if row["living"]:
                size += writer.writerow(_cells(row))
        after_id = rows[-1]["id"]
        if size >= PIECE_BYTES:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
            size = 0
    yield text.getvalue().encode()


def _cells(row: asyncpg.Record) -> list[str]:
    """A phone number is in E.164, which no spreadsheet takes for more than a number."""
    guarded = [_guarded(row[name]) for name in ("name", "email", "external_id", "notes")]
    return [guarded[0], row["phone_number"] or "", *guarded[1:]]


def _guarded(value: str | None) -> str:
    return f"'{value}" if value and FORMULA.match(value) else value or ""
