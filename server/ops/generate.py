"""What is generated from the code and kept in git: make generate writes it, make verify compares.

    python -m server.ops.generate [--check]

db/schema.sql and db/plans.md come from a private Postgres made for it, .env.example and the README's
table from SETTINGS.
"""

import asyncio
import difflib
import re
import sys
import tempfile
from pathlib import Path

from server.base.settings import env_example, load, markdown
from server.ops.embedded import database, remove
from server.ops.explain import document
from server.ops.migrate import dump

ROOT = Path(__file__).parents[2]
TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.S)


def generated() -> dict[str, str]:
    """Each generated file, as a path below ROOT, with the text it should have."""
    data = Path(tempfile.mkdtemp(prefix="bobbin-generate-"))
    try:
        with database(load({"BOBBIN_DATA_DIR": str(data)})) as url:
            schema = dump(url)
            plans = asyncio.run(document(url))
    finally:
        remove(data)
    readme = (ROOT / "README.md").read_text()
    return {
        "db/schema.sql": schema,
        "db/plans.md": plans,
        ".env.example": env_example(),
        "README.md": TABLE.sub(lambda _: markdown(), readme),
    }


def differences(texts: dict[str, str]) -> list[str]:
    """The lines of a diff from what the files say to what they should."""
    found: list[str] = []
    for name, text in texts.items():
        path = ROOT / name
        now = path.read_text() if path.exists() else ""
        found += difflib.unified_diff(
            now.splitlines(), text.splitlines(), name, f"{name}, generated", lineterm=""
        )
    return found


def main(argv: list[str]) -> int:
    """Write the files, or with --check print how they differ; 1 when they do."""
    texts = generated()
    if argv == ["--check"]:
        found = differences(texts)
        if found:
            print(*found, "Generated files are out of date: make generate", sep="\n")
        return 1 if found else 0
    for name, text in texts.items():
        (ROOT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
