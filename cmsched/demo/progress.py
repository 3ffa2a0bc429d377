"""What is said on stderr, before and while something takes long."""

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

__all__ = ["Bar", "say", "seconds"]

LONG = 2.0  # seconds


def say(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes, not counting what is done the first time."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Bar:
    """A progress bar, if tqdm is installed and stderr is a terminal.

    Args:
        total: how much is to be counted.
        unit: what is counted.
        expected: seconds; many are said beforehand, bar or not.
    """

    def __init__(self, total: int, unit: str, expected: float) -> None:
        self.bar: Any = None
        if expected > LONG:
            say(f"this will take about {expected:.0f} s")
        if find_spec("tqdm"):
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, leave=False, disable=None)

    def advance(self, what: str) -> None:
        """Count one."""
        if self.bar is not None:
            self.bar.set_description(what, refresh=False)
            self.bar.update()

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
