"""Real pipelines, with diffusers' scheduler and with ours, from the same seed.

`python tests/interop/test_pipelines.py` writes the table of the results into the docs.
"""

import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import cmsched.interop
from interop.pipelines import cases, run

DOCS = Path(cmsched.interop.__file__).parent / "diffusers.md"
TITLES = ("pipeline", "scheduler", "steps", "largest difference", "time of a step, ours / theirs")
NEAR = 1e-4  # of images in [0, 1]
PAIRS = [(case, scheduler) for case in cases() for scheduler in case.schedulers]


def off(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, in parts of the range of images or of what is there beyond it."""
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))


@pytest.mark.parametrize(("case", "scheduler"), PAIRS, ids=lambda value: str(value))
def test_results_are_equal(case, scheduler):
    theirs, mine = (run(case, scheduler, converted=converted) for converted in (False, True))
    assert mine.steps == theirs.steps > 0
    assert np.isfinite(theirs.result).all()
    assert np.ptp(theirs.result) > 100 * NEAR  # a picture of something
    assert off(theirs.result, mine.result) <= NEAR


def generated() -> re.Match[str]:
    """The table in the docs."""
    text = DOCS.read_text(encoding="utf-8")
    found = re.search(r"<!-- generated: pipelines -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found
    return found


def test_table_has_every_pair():
    rows = [line.split("|")[1:-1] for line in generated()[1].splitlines()[2:]]
    assert [(row[0].strip(), row[1].strip(" `")) for row in rows] == [
        (case.name, scheduler) for case, scheduler in PAIRS
    ]
    assert all(cell.strip() for row in rows for cell in row)


def write_table(rounds: int = 5) -> None:
    """Measure every pair and write the table."""
    lines = [TITLES, ("---",) * len(TITLES)]
    for case, scheduler in PAIRS:
        seen = {converted: [] for converted in (False, True)}
        for _ in range(rounds):
            for converted, done in seen.items():
                done.append(run(case, scheduler, converted=converted))
        # the first round makes the plan
        times = {
            converted: statistics.median([s for one in done[1:] for s in one.seconds])
            for converted, done in seen.items()
        }
        difference = f"{off(seen[False][0].result, seen[True][0].result):.0e}"
        ratio = f"{times[True] / times[False]:.2f}"
        steps = str(seen[True][0].steps)
        lines.append((case.name, f"`{scheduler}`", steps, difference, ratio))
        print(*lines[-1], flush=True)
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    found, text = generated(), DOCS.read_text(encoding="utf-8")
    DOCS.write_text(text[: found.start(1)] + table + text[found.end(1) :], encoding="utf-8")


if __name__ == "__main__":
    import diffusers
    import torch

    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    write_table()
