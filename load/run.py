"""Locust, headless, held to load/targets.toml: python -m load.run [--url URL] [--users N] [--seconds S].

Without a URL it starts a server of its own with the demo town in a temporary folder. Prints one table;
ends with 1 when a target is missed or any request failed. Locust comes with locks/requirements-load.lock.
"""

import argparse
import contextlib
import csv
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from load.bench import stop
from load.figures import Figure, save, table
from load.procs import Cpu
from load.stage import ROOT, Stage, clean_environment, end

HERE = Path(__file__).parent


def locust() -> Path:
    """The locust program beside this Python."""
    program = Path(sys.executable).with_name("locust")
    if not program.exists():
        raise SystemExit("Locust is not installed: make load installs it.")
    return program


def judge(stats: list[dict[str, str]], targets: dict[str, float], share: float) -> list[Figure]:
    """A figure for each line of Locust's stats CSV, and one for each target that nothing was measured for.

    A line without a target only has to be free of failures.
    """
    column, figures, seen = f"{share * 100:.0f}%", [], set()
    for row in stats:
        name = row["Name"]
        if name == "Aggregated":
            continue
        seen.add(name)
        failures, requests = int(row["Failure Count"]), int(row["Request Count"])
        ms, target = float(row[column]) if row[column] != "N/A" else 0.0, targets.get(name)
        late = target is not None and ms >= target
        measured = f"p50 {row['50%']}  {'p' + column[:-1]} {ms:g}  p99 {row['99%']} ms"
        note = f"{requests:,} requests" + (f", {failures} FAILED" if failures else "")
        reach = f"p{column[:-1]} < {target:g} ms" if target is not None else "no failure"
        held = failures == 0 and not late
        raw = {"requests": requests, "failures": failures, column: ms, "per_second": float(row["Requests/s"])}
        figures.append(Figure(name, measured, reach, held, note, raw))
    missing = [name for name in targets if name not in seen]
    return figures + [
        Figure(name, "nothing was measured", f"< {targets[name]:g} ms", False) for name in missing
    ]


def main(words: list[str]) -> int:
    """Runs and prints; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m load.run", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("--url", help="a running server with the demo town, instead of one of our own")
    parser.add_argument("--users", type=int, default=26, help="people at work (default 26)")
    parser.add_argument("--seconds", type=int, default=30, help="how long (default 30)")
    chosen = parser.parse_args(words)
    for sign in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
        signal.signal(sign, stop)
    program = locust()
    signal.alarm(chosen.seconds + 120)
    told = tomllib.loads((HERE / "targets.toml").read_text())

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bobbin-locust-")))
        own = None if chosen.url else stack.enter_context(Stage())
        url = own.start_server() if own else chosen.url
        command = [
            str(program),
            "-f",
            str(HERE / "locustfile.py"),
            "--headless",
            "--host",
            url,
            "--only-summary",
        ]
        command += ["-u", str(chosen.users), "-r", str(max(chosen.users // 4, 1)), "-t", f"{chosen.seconds}s"]
        command += ["--csv", str(folder / "out"), "--stop-timeout", "5", "--exit-code-on-error", "0"]
        cpu = Cpu(own.pids() if own else {})
        with (folder / "locust.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=clean_environment(), stdout=log, stderr=log, start_new_session=True
            )
            stack.callback(end, process)
            code = process.wait(chosen.seconds + 60)
        used = cpu.note()
        words_of = (folder / "locust.log").read_text()
        if code:
            print(f"locust ended with {code}:\n{words_of[-3000:]}", file=sys.stderr)
            return 1
        with (folder / "out_stats.csv").open(newline="") as file:
            figures = judge(list(csv.DictReader(file)), told["targets_ms"], told["percentile"])
        with (folder / "out_failures.csv").open(newline="") as file:
            failures = [
                f"{row['Occurrences']} x {row['Name']}: {row['Error']}" for row in csv.DictReader(file)
            ]

    print(f"\n{chosen.users} users, {chosen.seconds} s, {url}, {used}\n\n{table(figures)}")
    for line in failures[:20]:
        print(f"  {line[:300]}")
    facts = {"users": chosen.users, "seconds": chosen.seconds, "url": url, "cpu": used, "failures": failures}
    print(f"\n{save(figures, 'locust', facts)}")
    return 1 if failures or any(figure.holds is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
