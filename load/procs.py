"""What the machine says of our processes: CPU seconds and memory from /proc, by process tree."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def parents() -> dict[int, int]:
    """pid -> parent pid of every process that can be seen."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat_fields(int(entry))
            if fields:
                found[int(entry)] = int(fields[1])
    return found


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on ([0] state, [1] ppid); empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    above, found = parents(), [pid]
    for one in found:
        found += [child for child, parent in above.items() if parent == one]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a tree, its ended and reaped children included."""
    ticks = 0
    for one in tree(pid):
        fields = stat_fields(one)
        ticks += sum(int(value) for value in fields[11:15]) if fields else 0
    return ticks / TICK


def memory_kb(pids: list[int], kind: str = "Pss") -> int:
    """The sum over these processes. Pss counts a shared page once over all who share it, Rss in each."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))
    return total


@dataclass
class Cpu:
    """CPU seconds of named process trees since it was made: the note beside a figure on a noisy machine."""

    pids: dict[str, int]

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self.began = time.monotonic()
        self.at_start = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        self.own_start = time.process_time()

    def used(self) -> dict[str, float]:
        used = {name: round(cpu_seconds(pid) - self.at_start[name], 2) for name, pid in self.pids.items()}
        return {**used, "generator": round(time.process_time() - self.own_start, 2)}

    def note(self, used: dict[str, float] | None = None) -> str:
        return "cpu s: " + " ".join(f"{name} {value:.1f}" for name, value in (used or self.used()).items())
