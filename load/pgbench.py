"""pgbench on the very statement a handler runs: the script from a block of db/queries, and its result."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from server.ops.embedded import postgres_bin

# What is not code: comments (left out, a colon in them would be a variable too) and string literals.
APART = re.compile(r"--[^\n]*|(?P<literal>\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')")
PARAM = re.compile(r"\$(\d+)")
NAME = re.compile(r":(?=\w)")


def script(text: str, params: tuple[str, ...], sets: Mapping[str, str]) -> str:
    """A pgbench script for a statement with $1..: each becomes the pgbench variable of its name.

    `sets` gives a pgbench expression for each variable that changes from run to run; the others come
    by `-D name=value` (a name that is given nowhere is sent as NULL by -M prepared). So the server
    sees the same prepared statement with the same parameters as from the pool.
    """
    unknown = [name for name in sets if name not in params and not name.startswith("_")]
    if unknown:
        raise ValueError(f"the statement has no parameter {', '.join(unknown)}")
    lines, at, out = [f"\\set {name} {expression}" for name, expression in sets.items()], 0, []
    for found in APART.finditer(text):
        out.append(_variables(text[at : found.start()], params))
        if found["literal"]:
            out.append(_literal(found["literal"]))
        at = found.end()
    out.append(_variables(text[at:], params))
    statement = "".join(out).strip().removesuffix(";")
    return "\n".join([*lines, statement + ";", ""])


def _variables(code: str, params: tuple[str, ...]) -> str:
    return PARAM.sub(lambda found: f":{params[int(found[1]) - 1]}", code)


def _literal(quoted: str) -> str:
    """pgbench would take `:null` inside a literal for a variable; as an escape it is the same string."""
    if not NAME.search(quoted):
        return quoted
    if not quoted.startswith("'"):  # already of the form E'...'
        return NAME.sub(r"\\x3a", quoted)
    return "E" + NAME.sub(r"\\x3a", quoted.replace("\\", "\\\\"))


def choice(values: list[int], pick: str = "_pick") -> str:
    """A pgbench expression for one of these values, after `\\set _pick random(0, len - 1)`."""
    whens = " ".join(f"when :{pick} = {index} then {value}" for index, value in enumerate(values[:-1]))
    return f"case {whens} else {values[-1]} end" if whens else str(values[-1])


@dataclass(frozen=True)
class Result:
    """What pgbench said."""

    transactions: int
    per_second: float
    latency_ms: float


def parse(output: str) -> Result:
    """ValueError when transactions failed or the figures are missing."""
    done = re.search(r"number of transactions actually processed: (\d+)", output)
    failed = re.search(r"number of failed transactions: (\d+)", output)
    latency = re.search(r"latency average = ([\d.]+) ms", output)
    tps = re.search(r"tps = ([\d.]+)", output)
    if not (done and tps and latency) or int(done[1]) == 0 or (failed and int(failed[1])):
        raise ValueError(f"pgbench failed:\n{output[-2000:]}")
    return Result(int(done[1]), float(tps[1]), float(latency[1]))


def run(dsn: str, text: str, constants: Mapping[str, object], *, clients: int, seconds: int) -> Result:
    """pgbench -M prepared with that script. Each constant is one `-D`; None is left out, which is NULL."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql", prefix="bobbin-") as file:
        file.write(text)
        file.flush()
        command = [str(postgres_bin() / "pgbench"), *["-n", "-M", "prepared", "-j", "2"]]
        command += ["-c", str(clients), "-T", str(seconds), "-f", file.name]
        command += [f"-D{name}={value}" for name, value in constants.items() if value is not None]
        answer = subprocess.run(
            [*command, dsn],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            env={**os.environ, "LC_ALL": "C"},
        )
    if answer.returncode:
        raise RuntimeError(f"pgbench ended with {answer.returncode}: {answer.stderr[-2000:]}")
    return parse(answer.stdout)
