"""Figures: one line of the benchmark's table each, with what must be reached and whether it was."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True)
class Figure:
    """One measured line. `holds` is None for a line that only explains others (a baseline)."""

    name: str
    measured: str
    reach: str = ""
    holds: bool | None = None
    note: str = ""  # CPU seconds, sizes, what it was measured on
    raw: dict[str, Any] = field(default_factory=dict)  # for the JSON copy: numbers, not text

    @property
    def verdict(self) -> str:
        return {True: "ok", False: "MISSED", None: ""}[self.holds]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all values do not exceed. ValueError when empty."""
    if not values or not 0 <= share <= 1:
        raise ValueError("a percentile needs values and a share between 0 and 1")
    ordered = sorted(values)
    rank = -int(-share * len(ordered) // 1)  # ceil
    return ordered[max(rank, 1) - 1]


def spread(values: Sequence[float], unit: str = "ms") -> str:
    """p50, p95, p99 and the largest, in one cell."""
    p50, p95, p99 = (percentile(values, share) for share in (0.50, 0.95, 0.99))
    return f"p50 {p50:.2f}  p95 {p95:.2f}  p99 {p99:.2f}  max {max(values):.2f} {unit}"


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned text, each note on a line of its own below."""
    head = ("figure", "measured", "reach", "")
    rows = [head, *((f.name, f.measured, f.reach, f.verdict) for f in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines = [lines[0], "-" * (sum(widths) + 6), *lines[1:]]
    for index, figure in reversed(list(enumerate(figures))):
        if figure.note:
            lines.insert(index + 3, f"    {figure.note}")
    return "\n".join(lines)


def save(figures: Sequence[Figure], stem: str, facts: dict[str, Any]) -> Path:
    """The machine-readable copy: load/out/<stem>-<time>.json."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    body = {**facts, "figures": [{**asdict(figure), "verdict": figure.verdict} for figure in figures]}
    path.write_text(json.dumps(body, indent=1, default=str) + "\n")
    return path
