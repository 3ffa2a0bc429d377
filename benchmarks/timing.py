"""What every benchmark shares: one timer, one header, one report.

A script is `options`, contestants whose results `agree`, `race`, `ratio`, `table`, `report`.
"""

import argparse
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
SHORT_ROUNDS = 5
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


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
    sync: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Time contestants in turn, round after round, and return seconds per call of each.

    Args:
        contestants: what to time, after two calls of each to warm up.
        rounds: how often each has its turn; the order alternates.
        seconds: repeat a contestant within a turn for about this long.
        calls: what one call counts as (the steps of a loop, say).
        sync: called before the clock is read, to wait for a device.
    """
    wait = sync or (lambda: None)

    def turn(run: Callable[[], Any], repeats: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        wait()
        return (time.perf_counter() - start) / repeats

    repeats = {}
    for name, run in contestants.items():
        run()
        repeats[name] = max(1, round(seconds / turn(run, 1)))
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in reversed(names) if number % 2 else names:
            found[name].append(turn(contestants[name], repeats[name]) / calls)
    return {name: Timing(tuple(values)) for name, values in found.items()}


def ratio(times: Mapping[str, Timing], a: str, b: str) -> tuple[float, tuple[float, float]]:
    """Return the median of a / b, round by round, and its 95 % interval."""
    pairs = zip(times[a].seconds, times[b].seconds, strict=True)
    each = Timing(tuple(one / other for one, other in pairs))
    return each.median, each.interval


def geometric(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    return statistics.geometric_mean(values)


def agree(results: Mapping[str, Any], tolerance: float) -> float:
    """Return how far the results are from the first, relative to its largest element.

    Raises:
        SystemExit: further than the tolerance: they would not be timed doing the same.
    """
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in results.items()}
    first, *_ = arrays
    scale, worst = np.abs(arrays[first]).max(), 0.0
    for name, array in arrays.items():
        off = float(np.abs(array - arrays[first]).max() / scale)
        if not off <= tolerance:  # NaN is not
            raise SystemExit(f"{name} is off {first} by {off:.2g}, more than {tolerance:.0e}")
        worst = max(worst, off)
    return worst


def options(description: str | None, **more: Mapping[str, Any]) -> argparse.Namespace:
    """Return the common flags, and more: the keywords of `add_argument` by name.

    To be called before a framework is imported: all of them are held to `--threads`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help=f"alternations (30; short: {SHORT_ROUNDS})")
    parser.add_argument("--short", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contestant (1)")
    parser.add_argument("--keep", action="store_true", help="write results/ and README.md")
    for name, keywords in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    found = parser.parse_args()
    found.rounds = found.rounds or (SHORT_ROUNDS if found.short else 30)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(found.threads)
    if found.threads == 1:  # XLA knows only one or all
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    return found


def keep_memory() -> None:
    """Start again with an allocator that keeps freed memory.

    By default glibc hands arrays of some 20 MB back to the system and gets them anew, page by page,
    or does not, depending on what was freed before: a factor of three between equal runs.
    """
    if not ALLOCATOR.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})


def header(*packages: str, threads: int | None = None) -> dict[str, Any]:
    """Return what a result depends on: machine, date, versions, threads, allocator settings."""
    tuned = ("MALLOC_ARENA_MAX", *ALLOCATOR, "LD_PRELOAD")
    allocator = {key: os.environ[key] for key in tuned if key in os.environ}
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        **({"gpu": gpu} if gpu else {}),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "threads": threads,
        "allocator": "keeps freed memory" if ALLOCATOR.items() <= allocator.items() else allocator,
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def table(rows: Sequence[Sequence[Any]], titles: Sequence[str]) -> str:
    """Return rows as a Markdown table; numbers with three digits, None and NaN empty."""
    lines = [titles, ["---"] * len(titles), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def verdict(value: float, *, least: float = -math.inf, most: float = math.inf) -> str:
    """Return what was expected of a figure, and whether it was met, as the cell of a table."""
    bounds = [
        f"at {word} {bound:g}"
        for word, bound in (("least", least), ("most", most))
        if math.isfinite(bound)
    ]
    return f"{' and '.join(bounds)}: {'met' if least <= value <= most else '**missed**'}"


def bars(
    name: str, groups: Mapping[str, Mapping[str, float]], label: str, *, line: float = 1.0
) -> str:
    """Draw results/NAME.png, groups of bars on a logarithmic axis with a line; return Markdown.

    The Markdown is empty where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    kinds = list(dict.fromkeys(kind for group in groups.values() for kind in group))
    height = 0.8 / len(kinds)
    figure = Figure(figsize=(9, 1.2 + 0.12 * len(kinds) * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    for k, kind in enumerate(kinds):
        places = [g + k * height for g, group in enumerate(groups.values()) if kind in group]
        values = [group[kind] for group in groups.values() if kind in group]
        axes.barh(places, values, height, label=kind)
    axes.axvline(line, color="black", linewidth=0.8)
    axes.set_yticks([g + (len(kinds) - 1) * height / 2 for g in range(len(groups))], list(groups))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.margins(y=0.01)
    axes.legend()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=100)
    return f"![{label}](results/{name}.png)"


def report(name: str, about: Mapping[str, Any], text: str, records: Any, keep: bool) -> None:
    """Print header, tables and one JSON line; keep them in results/ and README.md if asked.

    Args:
        name: of the script, and of its block in README.md.
        about: what `header` returned.
        text: Markdown.
        records: all that was measured, as plain data.
        keep: write them.
    """
    text = ", ".join(f"{key} {value}" for key, value in about.items()) + "\n\n" + text.strip()
    print(text + "\n")
    found = {"benchmark": name, "about": about, "records": records}
    print(json.dumps(found))
    if keep:
        RESULTS.mkdir(exist_ok=True)
        kept = json.dumps(found, indent=1) + "\n"
        (RESULTS / f"{name}.json").write_text(kept, encoding="utf-8")
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        old = README.read_text(encoding="utf-8")
        before, found_begin, rest = old.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise SystemExit(f"{README.name} has no block {begin} ... {end}")
        new = f"{before}{begin}\n\n{text}\n\n{end}{after}"
        README.write_text(new, encoding="utf-8")
