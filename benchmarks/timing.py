"""One timer for all benchmarks: warm-up, alternating contestants, medians with a 95 % interval."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one contestant, one entry a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.seconds)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the order statistics that hold the median with 95 % confidence."""
        ordered, n = sorted(self.seconds), len(self.seconds)
        half = 0.98 * n**0.5
        return ordered[max(0, int(n / 2 - half))], ordered[min(n - 1, int(n / 2 + half))]


def race(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 30,
    seconds: float = 0.005,
    calls: int = 1,
) -> dict[str, Timing]:
    """Time contestants in turn, round after round, and return seconds per call of each.

    Args:
        seconds: repeat a contestant within a round for about this long.
        calls: what one call counts as (the steps of a loop, say).
    """
    repeats = {}
    for name, run in contestants.items():
        run()
        start = time.perf_counter()
        run()
        repeats[name] = max(1, round(seconds / (time.perf_counter() - start)))
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        names = list(contestants)
        if turn % 2:
            names.reverse()
        for name in names:
            run = contestants[name]
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            found[name].append((time.perf_counter() - start) / repeats[name] / calls)
    return {name: Timing(tuple(values)) for name, values in found.items()}


def header(*packages: str, threads: int | None = None) -> dict[str, Any]:
    """Return what a result depends on: machine, versions, threads, allocator settings."""
    tuned = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")
    allocator = {key: os.environ[key] for key in tuned if key in os.environ} or "default"
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "threads": threads,
        "allocator": allocator,
    }


def table(rows: list[list[str]], titles: list[str]) -> str:
    """Return rows as a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(result: dict[str, Any]) -> None:
    """Print the result as one JSON line."""
    print(json.dumps(result))
