"""What does `import cmsched` cost on top of `import numpy`, and which modules does it load?

Medians of alternating fresh processes; the goal is at most 0.6 times NumPy's own import.
"""

import argparse
import subprocess
import sys

from timing import header, race, report

LOADED = """
import sys, numpy
before = set(sys.modules)
import cmsched
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def main() -> None:
    """Race and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="alternations (default 30)")
    rounds = parser.parse_args().rounds
    codes = {"nothing": "", "numpy": "import numpy", "cmsched": "import cmsched"}
    times = race(
        {name: (lambda c=code: run(c)) for name, code in codes.items()}, rounds=rounds, seconds=0
    )
    ms = {name: 1e3 * value.median for name, value in times.items()}
    numpy, ours = ms["numpy"] - ms["nothing"], ms["cmsched"] - ms["numpy"]
    modules = run(LOADED).split()
    ratio = ours / numpy
    print(f"import numpy {numpy:.1f} ms; import cmsched {ours:.1f} ms on top: {ratio:.2f} of it")
    print(f"loads {', '.join(modules)}")
    report({"benchmark": "import_time", "about": header("numpy"), "ms": ms, "ratio": ratio})


if __name__ == "__main__":
    main()
