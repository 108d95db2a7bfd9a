"""Phone numbers, as people write them, in E.164: a plus and 7 to 15 digits, the first of them no zero."""

import re
import unicodedata

# What stands between digits: spaces, dots, dashes, slashes, brackets, of whatever script, and the invisible marks of
# direction that come along when a number is copied. Not a plus, which says something.
SEPARATORS = frozenset("().[]/\u2044\uff0f\uff08\uff09\uff0e\u2212")
SEPARATOR_KINDS = frozenset(("Zs", "Pd", "Cf"))  # spaces, dashes, invisible marks
PLUSES = "+\uff0b\ufe62\u207a"
TRUNK = re.compile(r"[(\uff08\[]\s*0\s*[)\uff09\]]")  # "+49 (0)151": the zero is for callers at home
# The same without brackets, in countries where callers at home dial a zero first and no number begins with one: South
# Africa, the Netherlands, Belgium, France, Switzerland, Austria, Britain, Sweden, Germany, Australia, New Zealand,
# Japan, Turkey, Ireland, Israel. Elsewhere it may belong to the number, as in Italy.
TRUNK_ZERO = re.compile(r"(\+(?:27|31|32|33|41|43|44|46|49|61|64|81|90|353|972))0")
NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
BARE = re.compile(r"[1-9][0-9]{7,14}")
SAMPLE = "such as +4915112345678"


def normal(text: str, *, country_code: str = "") -> str:
    """A number in E.164. country_code: the digits of the country in which a number with one leading zero is meant.

    Raises ValueError with the end of a sentence that begins with what was given.
    """
    found = _bare(text)
    if found is None:
        raise ValueError(f"must be a phone number, {SAMPLE}")
    if found.startswith("00"):
        found = "+" + found[2:]
    elif BARE.fullmatch(found):
        found = "+" + found
    elif found.startswith("0"):
        if not country_code:
            raise ValueError(f"must begin with its country code, {SAMPLE}")
        found = f"+{country_code}{found[1:]}"
    found = TRUNK_ZERO.sub(r"\1", found)
    if not NUMBER.fullmatch(found):
        raise ValueError(f"must be a phone number with its country code and 7 to 15 digits in all, {SAMPLE}")
    return found


def part(text: str) -> str | None:
    """What to look for in numbers when somebody types this: "0151 23" is in +4915123. None: it is no part of one."""
    found = _bare(text)
    if found is None or not found.strip("+"):
        return None
    if found.startswith("00"):
        found = "+" + found[2:]
    elif found.startswith("0"):
        found = found[1:]
    return TRUNK_ZERO.sub(r"\1", found).rstrip("+") or None


def _bare(text: str) -> str | None:
    """ASCII digits, perhaps behind a plus. None when there is anything else but separators."""
    text = text.strip()
    if text[:4].lower() == "tel:":
        text = text[4:].lstrip()
    found: list[str] = []
    for char in text if "0" not in text else _without_trunk(text):
        if char.isdecimal():
            found.append(str(unicodedata.decimal(char)))
        elif char in PLUSES:
            if found:
                return None
            found.append("+")
        elif not _between(char):
            return None
    return "".join(found)


def _between(char: str) -> bool:
    return char in SEPARATORS or char.isspace() or unicodedata.category(char) in SEPARATOR_KINDS


def _without_trunk(text: str) -> str:
    begin = TRUNK.search(text)
    international = begin is not None and re.match(rf"\W*(?:[{PLUSES}]|00)", text[: begin.start()])
    return TRUNK.sub("", text, count=1) if international else text
