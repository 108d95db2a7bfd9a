"""The issue's figures, measured in one run: python -m load.bench [part ...] [--quick].

Parts: seed import buffers pages sends fanout idle crowd reconnect merged presence stalled access logins inbox start;
without a name all but `inbox` and `start`, with `all` everything. One table on stdout, a copy as JSON in load/out/.
Ends with 1 when a figure was missed or a part failed, 0 otherwise. Only 127.0.0.1, a temporary data folder, nothing
left running.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from types import FrameType

from load.figures import Figure, save, table
from load.parts import PARTS, QUICK, Plan
from load.stage import ROOT, Stage

LIMIT_S = 2_400  # a hung part ends the run, with the table of what was measured


def stop(signum: int, _: FrameType | None) -> None:
    """SIGTERM and the time limit end the run the orderly way."""
    raise SystemExit(f"ended by {signal.Signals(signum).name}")


def main(words: list[str]) -> int:
    """Measures and prints; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m load.bench", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{' '.join(PARTS)}, or all")
    parser.add_argument(
        "--quick", action="store_true", help="small and short: to try the benchmark, not to measure"
    )
    for size in ("contacts", "messages"):
        parser.add_argument(f"--{size}", type=int, metavar="N", help="of the part inbox")
    chosen = parser.parse_args(words)
    sizes = {name: value for name in ("contacts", "messages") if (value := getattr(chosen, name))}
    plan = replace(QUICK if chosen.quick else Plan(), **sizes)
    unknown = set(chosen.parts) - {*PARTS, "all"}
    if unknown:
        parser.error(f"no such part: {' '.join(sorted(unknown))}")
    names = [one for one in PARTS if one in chosen.parts or "all" in chosen.parts]
    names = names or [one for one in PARTS if one not in ("inbox", "start")]

    for sign in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
        signal.signal(sign, stop)
    signal.alarm(LIMIT_S)
    figures: list[Figure] = []
    facts = {
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "quick": chosen.quick,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        with Stage() as stage:
            for name in names:
                print(f"... {name}", file=sys.stderr, flush=True)
                try:
                    figures += PARTS[name](stage, plan)
                except Exception as error:  # one part's failure must not hide the other figures
                    traceback.print_exc()
                    figures.append(Figure(name, f"failed: {str(error).splitlines()[0][:100]}", holds=False))
    finally:
        signal.alarm(0)
        facts["load_after"] = os.getloadavg()
        print(
            f"\n{facts['at']}, {facts['commit']}, {facts['cores']} cores, Python {facts['python']}, load "
            f"{facts['load_before'][0]:.1f} -> {facts['load_after'][0]:.1f}{', QUICK' * chosen.quick}\n"
        )
        print(table(figures))
        print(f"\n{save(figures, 'bench', facts)}")
    return 1 if any(figure.holds is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
