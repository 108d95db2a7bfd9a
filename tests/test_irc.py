"""The IRC reader: every kind of line, the clock, and whatever else may be in a file."""

from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.ops import irc
from server.ops.irc import Said, Unreadable
from server.ops.records import TEXT_CHARS, Fault, Item, LeftOut, Options, Record, Source

HERE = Options(day=None, zone=UTC)


def written(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return path


def told(source: Source) -> list[Item]:
    return list(source.items(source))


def whens(path: Path, options: Options = HERE) -> list[str]:
    source = irc.source(path, options)
    return [f"{item.when:%d %H:%M}" for item in told(source) if isinstance(item, Record)]


@pytest.mark.parametrize(
    ("line", "second", "nick", "text", "form"),
    [
        ("[09:05] <ada> hello there", 32700, "ada", "hello there", None),
        ("[09:05]  * ada waves at ben", 32700, "ada", "waves at ben", "action"),
        ("[09:05] -ada:#town- tea is ready", 32700, "ada", "tea is ready", "notice"),
        ("[09:05:07] <ada> hi", 32707, "ada", "hi", None),
        ("[00:00] <@ada> I am op", 0, "ada", "I am op", None),
        ("[00:00] <+ada_> <ben> said so", 0, "ada_", "<ben> said so", None),
        ("[00:00] <|a|[x]> * not an action", 0, "|a|[x]", "* not an action", None),
        ("[00:00] <ada>   trimmed\t ", 0, "ada", "trimmed", None),
        (
            "[00:00] <ada> \x02bold\x02 \x0304,12red\x03 \x1funder\x0f \x16x\x1d",
            0,
            "ada",
            "bold red under x",
            None,
        ),
        ("[00:00] <ada> \x03123 and \x041a2B3cgreen", 0, "ada", "3 and green", None),
        ("[00:00] <ada> back\x08space\x7f tab\there \x85", 0, "ada", "backspace tab\there", None),
        ("[00:00] <ada> Привет 👩‍👩‍👧 你好", 0, "ada", "Привет 👩‍👩‍👧 你好", None),
    ],
)
def test_what_people_say_is_read(line: str, second: int, nick: str, text: str, form: str | None) -> None:
    assert irc.read(line.encode()) == Said(second, nick, text, form)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[25:99] <ada> hi", "no such time of day"),
        (b"[09:05] <> hi", "no nickname"),
        (b"[09:05] <ada>  ", "no text"),
        (b"[09:05] <ada> \x02\x0f", "no text"),
        (b"[09:05]  * ada", "no text"),
        (b"[09:05] (ben/#town) ada: relayed", "a line of no known form"),
        (b"ada: no time", "a line of no known form"),
        (b"   ", "an empty line"),
        (b"[09:05] <ada> nul\0", "a NUL byte"),
        (b"[09:05] <" + b"a" * 101 + b"> hi", "a nickname that is too long"),
        (b"[09:05] <ada> " + "ж".encode() * (TEXT_CHARS + 1), "more than 10,000 characters"),
        (b"[09:05] <ada> " + b"x" * 70_000, "more than 65,536 bytes"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_reason(line: bytes, reason: str) -> None:
    found = irc.read(line)
    assert isinstance(found, Unreadable) and found.reason == reason


def test_the_longest_text_is_still_read() -> None:
    assert isinstance(irc.read(b"[09:05] <ada> " + "ж".encode() * TEXT_CHARS), Said)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("=== ada [~a@host]  has joined #town", "joined"),
        ("=== ada [~a@host]  has left #town []", "left"),
        ("=== ada left the room (quit: Ping timeout).", "left"),
        ("=== ada is now known as ada_away", "renamed"),
        ("=== mode/#town [+o ada] by ben", "other"),
        ("===", "other"),
    ],
)
def test_what_the_server_says_is_left_out_by_kind(line: str, kind: str) -> None:
    assert irc.read(line.encode()) == LeftOut(kind)


def test_a_line_that_is_not_utf8_is_read_as_cp1252_or_latin_1() -> None:
    assert irc.read(b"[09:05] <ada> caf\xe9 \x80") == Said(32700, "ada", "café €", None)
    assert irc.read(b"[09:05] <ada> caf\xe9 \x81.") == Said(32700, "ada", "café .", None)


def test_a_file_that_passes_midnight_goes_on_the_next_day(tmp_path: Path) -> None:
    path = written(
        tmp_path / "2012-01-30.txt", "[22:00] <a> x", "[23:59] <a> x", "[00:01] <a> x", "[23:00] <a> x"
    )
    assert whens(path) == ["30 22:00", "30 23:59", "31 00:01", "31 23:00"]


def test_a_twelve_hour_clock_passes_noon_and_not_a_whole_day(tmp_path: Path) -> None:
    old = written(
        tmp_path / "2005-07-06.txt", "[11:11] <a> x", "[12:59] <a> x", "[01:00] <a> x", "[03:35] <a> x"
    )
    zero = written(tmp_path / "2006-01-02.txt", "[11:59] <a> x", "[00:00] <a> x")
    whole = written(
        tmp_path / "2013-01-02.txt", "[09:10] <a> x", "[08:00] <a> x", "[07:30] <a> x", "[06:10] <a> x"
    )
    assert whens(old) == ["06 11:11", "06 12:59", "06 13:00", "06 15:35"]
    assert whens(zero) == ["02 11:59", "02 12:00"]
    assert whens(whole) == [
        "02 09:10",
        "03 08:00",
        "03 07:30",
        "04 06:10",
    ]  # silences too long for half a day


def test_a_clock_that_is_set_back_keeps_the_day(tmp_path: Path) -> None:
    path = written(tmp_path / "x_20131027.log", "[02:59] <a> x", "[02:00] <a> x", "[23:00] <a> x")
    assert whens(path) == ["27 02:59", "27 02:00", "27 23:00"]


def test_unreadable_lines_move_the_clock_too(tmp_path: Path) -> None:
    path = written(
        tmp_path / "2012-01-30.txt", "[23:59] <a> x", "[00:01] <a>", "[23:58] <a> x", "[00:30] <a> x"
    )
    assert whens(path) == ["30 23:59", "31 23:58", "01 00:30"]


def test_times_are_of_the_given_zone(tmp_path: Path) -> None:
    path = written(tmp_path / "2012-01-30.txt", "[00:30] <a> x")
    assert whens(path, Options(None, ZoneInfo("Europe/Berlin"))) == ["29 23:30"]


def test_files_come_in_the_order_of_their_first_lines(tmp_path: Path) -> None:
    names = {
        "2004-11-15_b.txt": "10:00",
        "2004-11-15_a.txt": "12:00",
        "2004-11-14.txt": "23:00",
        "2004-11-16.txt": "01:00",
    }
    paths = [written(tmp_path / name, f"[{at}] <a> x") for name, at in names.items()]
    nothing = written(tmp_path / "2001-01-01.txt", "no line with a time")
    found = [source.name for source in irc.sources([nothing, *paths], HERE)]
    assert found == [
        "2004-11-14.txt",
        "2004-11-15_b.txt",
        "2004-11-15_a.txt",
        "2004-11-16.txt",
        "2001-01-01.txt",
    ]


def test_a_name_without_a_date_takes_the_given_one_or_ends_with_the_file(tmp_path: Path) -> None:
    import os

    path = written(tmp_path / "all-2004-13-45.txt", "[23:00] <a> x", "[05:00] <a> x")
    os.utime(path, (stamp := datetime(2020, 6, 10, 4, 0, tzinfo=UTC).timestamp(), stamp))
    guessed = irc.source(path, HERE)
    assert guessed.last == datetime(
        2020, 6, 9, 5, 0, tzinfo=UTC
    )  # the last five o'clock before it was written
    assert "2020-06-08" in guessed.note
    given = irc.source(path, Options(date(2010, 1, 1), UTC))
    assert (given.first, given.note) == (datetime(2010, 1, 1, 23, 0, tzinfo=UTC), "")


def test_a_byte_order_mark_and_windows_newlines_are_no_text(tmp_path: Path) -> None:
    path = written(tmp_path / "2012-01-30.txt", b"\xef\xbb\xbf[00:30] <a> x\r")
    assert [item.text for item in told(irc.source(path, HERE)) if isinstance(item, Record)] == ["x"]


LINES = st.one_of(
    st.binary(max_size=60).map(lambda b: b.replace(b"\n", b" ")),
    st.builds(
        lambda h, m, middle, text: b"[%02d:%02d] " % (h, m) + middle + text.replace(b"\n", b" "),
        st.integers(0, 30),
        st.integers(0, 70),
        st.sampled_from([b"<ada> ", b" * ada ", b"-ada:#x- ", b"", b"=== "]),
        st.binary(max_size=20),
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=12), rest=st.binary(max_size=10))
def test_any_bytes_are_read_and_every_line_is_accounted_for_once(
    tmp_path: Path, lines: list[bytes], rest: bytes
) -> None:
    data = b"".join(line + b"\n" for line in lines) + rest
    path = tmp_path / "2012-01-30.log"
    path.write_bytes(data)
    source = irc.source(path, HERE)
    found = told(source)
    assert len(found) == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    assert source.read_bytes == source.size_bytes == len(data)
    places = [item.line for item in found if isinstance(item, Record | Fault)]
    assert places == sorted(set(places))
    for item in found:
        if isinstance(item, Record):
            assert item.author and 1 <= len(item.text) <= TEXT_CHARS and item.text == item.text.strip()
            assert not any(ord(c) < 32 and c != "\t" for c in item.author + item.text)
            item.text.encode()
            assert source.first is not None and source.last is not None
    times = [item.when for item in found if isinstance(item, Record)]
    if times:
        assert source.last is not None and max(times) <= source.last.replace(hour=23, minute=59)
