"""Phone numbers as people write them."""

import re

import pytest

from server.phone import normal, part

WRITTEN = {  # what people write, and what is meant
    "+4915112345678": "+4915112345678",
    " +49 151 1234-5678 ": "+4915112345678",
    "+49 (0) 151 12345678": "+4915112345678",
    "+49(0)151/12345678": "+4915112345678",
    "0049 (0)151.12345678": "+4915112345678",
    "0049 151 12345678": "+4915112345678",
    "+49 0151 12345678": "+4915112345678",  # the zero for callers at home, without brackets
    "0049-0151-12345678": "+4915112345678",
    "490151 12345678": "+4915112345678",
    "+44 020 7946 0018": "+442079460018",
    "+353 01 234 5678": "+35312345678",
    "+39 06 1234 5678": "+390612345678",  # there it belongs to the number
    "+225 07 12 34 56 78": "+2250712345678",
    "+1 0202 555 0100": "+102025550100",
    "00 49 151 12345678": "+4915112345678",
    "4915112345678": "+4915112345678",
    "tel:+49-151-1234-5678": "+4915112345678",
    "TEL: +49.151.1234.5678": "+4915112345678",
    "(+49) 151 12345678": "+4915112345678",
    "[+49] 151 12345678": "+4915112345678",
    "+1 (202) 555-0100": "+12025550100",
    "12025550100": "+12025550100",
    "+49\u00a0151\u202f1234\u20115678": "+4915112345678",  # spaces that don't break, and such a hyphen
    "\u202a+49 151 12345678\u202c": "+4915112345678",  # as copied from an address book
    "\ufeff+49\u200b15112345678": "+4915112345678",
    "+49\t151\n12345678": "+4915112345678",
    "\uff0b\uff14\uff19\uff11\uff15\uff11\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18": "+4915112345678",
    "+\u0669\u0666\u0666\u0665\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667": "+966501234567",
    "+\u06f9\u06f8 912 345 6789": "+989123456789",
    "+1234567": "+1234567",
    "+123456789012345": "+123456789012345",
    "12345678": "+12345678",
}
NONE = [
    "", " ", "+", "-", "tel:", "()", "(0)", "0", "00", "000", "0151 12345678", "++4915112345678", "+49+15112345678",
    "49+15112345678", "+0151123456", "+00491511234567", "000491511234567", "1234567", "+123456", "+1234567890123456",
    "1234567890123456", "+49 151 CALL ME", "+4915112345678 ext. 5", "+4915112345678;ext=5", "4.91511E+12",
    "+49,15112345678", "ada", "+49151\x0012345678", "+49151123456\u00b2", "tel:tel:+4915112345678", "+" + "1" * 5000,
    "\ud800", "+49*15112345678", "#31#4915112345678",
]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_a_number_is_known_however_it_is_written(written: str) -> None:
    assert normal(written) == normal(written, country_code="43") == WRITTEN[written]
    assert normal(WRITTEN[written]) == WRITTEN[written]


@pytest.mark.parametrize("written", NONE)
def test_what_is_no_number_is_refused_with_a_sentence(written: str) -> None:
    with pytest.raises(ValueError, match=r"^must .*such as \+"):
        normal(written)


def test_a_national_number_is_taken_where_the_country_is_told() -> None:
    for written in ("0151 12345678", "(0151) 12345678", "0151/1234-5678", "(0)151 12345678"):
        assert normal(written, country_code="49") == "+4915112345678"
        with pytest.raises(ValueError, match="country code"):
            normal(written)
    assert normal("0049 151 12345678", country_code="43") == "+4915112345678"
    for wrong in ("0", "012", "0151123456789012"):
        with pytest.raises(ValueError, match="7 to 15 digits"):
            normal(wrong, country_code="49")


def test_whatever_comes_out_is_e164() -> None:
    for written in WRITTEN:
        assert re.fullmatch(r"\+[1-9]\d{6,14}", normal(written), re.ASCII)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("0151 2345", "1512345"), ("+49 151", "+49151"), ("0049 15", "+4915"), ("151-23", "15123"), ("(0)15", "15"),
        ("+49 0151", "+49151"), ("+49 0", "+49"), ("+39 06", "+3906"),
        ("+49 (0)151", "+49151"), ("15", "15"), ("7", "7"), ("\u0661\u0665", "15"), ("tel:+49", "+49"),
        ("0", None), ("00", None), ("+", None), ("", None), (" ", None), ("ada", None), ("ada 15", None),
        ("15@", None), ("1%5", None), ("--", None),
    ],
)  # fmt: skip
def test_a_part_of_a_number_is_looked_for_without_what_stands_between(typed: str, found: str | None) -> None:
    assert part(typed) == found
