"""Break the library on purpose, one line at a time: the tests must notice every time.

`python tests/mutants.py [NAME ...]` copies the package, makes one change, and runs the tests that
ought to fail, on NumPy alone (with numba, for what it compiles). A mutant that survives, or whose
line no longer exists, is a failure; so is it when one of these tests fails without any change.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]


def run(mutant: Mutant | None, tests: str) -> tuple[int, str]:
    """Run tests on a copy of the package with one change, and return pytest's status and its
    output."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            ROOT / "cmsched", Path(folder) / "cmsched", ignore=shutil.ignore_patterns("__pycache__")
        )
        if mutant is not None:
            path = Path(folder) / "cmsched" / mutant.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutant.before) != 1:
                return -1, f"found {text.count(mutant.before)} times: {mutant.before!r}"
            path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        parts = [test.partition("::") for test in tests.split()]
        nodes = [f"{ROOT / 'tests' / file}.py{colons}{rest}" for file, colons, rest in parts]
        settings = {
            "CMSCHED_BACKENDS": "numpy",
            "HYPOTHESIS_PROFILE": "mutants",
            "PYTHONPATH": folder,
        }
        options = [
            *("-x", "-q", "-p", "no:cacheprovider", "-m", "not peers"),
            *("-c", str(ROOT / "pyproject.toml")),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "--rootdir", str(ROOT), *nodes],
            cwd=folder,  # where `import cmsched` finds the copy
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr


def main() -> None:
    """Run all mutants, two at a time, and report the survivors."""
    names = sys.argv[1:]
    if unknown := set(names) - {m.name for m in MUTANTS}:
        sys.exit(f"no such mutants: {', '.join(sorted(unknown))}")
    chosen = [m for m in MUTANTS if not names or m.name in names]
    tests = " ".join(sorted({name for m in chosen for name in m.tests.split()}))
    status, output = run(None, tests)
    if status != 0:
        sys.exit(f"the tests fail without any change:\n{output[-3000:]}")
    failures = []
    with ThreadPoolExecutor(2) as pool:
        for mutant, (status, output) in zip(
            chosen, pool.map(lambda m: run(m, m.tests), chosen), strict=True
        ):
            killed = status == 1  # tests ran and failed
            print(
                f"{'killed  ' if killed else 'SURVIVED'}  {mutant.name} ({mutant.file})", flush=True
            )
            if not killed:
                failures.append(f"{mutant.name}: status {status}\n{output[-800:]}")
    if failures:
        sys.exit("\n".join(failures))
    print(f"{len(chosen)} mutants, none survived")


if __name__ == "__main__":
    main()
