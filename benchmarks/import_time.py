"""What does `import cmsched` cost on top of `import numpy`, and which modules does it load?

Medians of alternating fresh processes with their bytecode cached; the goal is at most 0.6 times
NumPy's own import.
"""

import os
import subprocess
import sys
import tempfile

from timing import header, options, race, report, table, verdict

LOADED = """
import sys, numpy
before = set(sys.modules)
import cmsched
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def run(code: str, cache: str) -> str:
    """Run code in a fresh interpreter that keeps bytecode in cache; return what it prints."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout


def main() -> None:
    """Race and print."""
    given = options(__doc__)
    codes = {"nothing": "", "numpy": "import numpy", "cmsched": "import cmsched"}
    with tempfile.TemporaryDirectory() as cache:
        loops = {name: lambda code=code: run(code, cache) for name, code in codes.items()}
        times = race(loops, rounds=given.rounds, seconds=0)
        loaded = run(LOADED, cache).split()
    ms = {name: 1e3 * value.median for name, value in times.items()}
    numpy, ours = ms["numpy"] - ms["nothing"], ms["cmsched"] - ms["numpy"]
    expected = verdict(ours / numpy, most=0.6)
    rows = [
        ["import numpy", numpy, "", ""],
        ["import cmsched on top", ours, ours / numpy, expected],
    ]
    loads = f"Loads {', '.join(loaded)}."
    text = f"{table(rows, ['', 'ms', 'of NumPy', 'expected'])}\n\n{loads}"
    records = {"ms": ms, "ratio": ours / numpy}
    report("import_time", header("numpy", threads=given.threads), text, records, given.keep)


if __name__ == "__main__":
    main()
