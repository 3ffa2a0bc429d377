"""Break the library on purpose, one line at a time: the tests must notice every time.

`python tests/mutants.py [NAME ...]` copies the package, makes one change, and runs the tests that
ought to fail, on NumPy alone. A mutant that survives, or whose line no longer exists, is a failure;
so is a test run that fails without any change.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One change, and the test files that notice it."""

    name: str
    file: str
    before: str
    after: str
    tests: str


SAMPLERS = "test_marginals test_order test_distribution"
ENGINE = "test_engine test_plan"
HABIT = "test_stateful test_schedulers"

MUTANTS = [
    # samplers
    Mutant(
        "ddim sign",
        "samplers/first_order.py",
        "x = b.alpha * x0 + kept * eps",
        "x = b.alpha * x0 - kept * eps",
        SAMPLERS,
    ),
    Mutant(
        "ddim alpha for sigma",
        "samplers/first_order.py",
        "std = b.sigma * min(",
        "std = b.alpha * min(",
        SAMPLERS,
    ),
    Mutant(
        "ddim dropped draw",
        "samplers/first_order.py",
        "        if std > 0:\n            x = x + std * noise(a, b)\n    return x\n\n\nVARIANCES",
        "    return x\n\n\nVARIANCES",
        SAMPLERS,
    ),
    Mutant(
        "ddim raw for clipped",
        "samplers/first_order.py",
        "(x0 if use_clipped_model_output else raw)",
        "(raw if use_clipped_model_output else x0)",
        "test_engine test_projection",
    ),
    Mutant(
        "ddpm wrong mean",
        "samplers/first_order.py",
        "x = (b.alpha * fresh) * x0",
        "x = (a.alpha * fresh) * x0",
        SAMPLERS,
    ),
    Mutant(
        "ddpm large for small",
        "samplers/first_order.py",
        'small if variance.startswith("fixed_small") else large',
        'large if variance.startswith("fixed_small") else small',
        SAMPLERS,
    ),
    Mutant(
        "churn variance",
        "samplers/first_order.py",
        "math.sqrt(gamma * (2 + gamma))",
        "math.sqrt(gamma * (1 + gamma))",
        SAMPLERS,
    ),
    Mutant(
        "euler index",
        "samplers/first_order.py",
        "x = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)",
        "x = b.alpha * x0 + (b.sigma / a.sigma) * (x - b.alpha * x0)",
        SAMPLERS,
    ),
    Mutant(
        "consistency noise",
        "samplers/first_order.py",
        "math.sqrt(b.ratio**2 - end**2)",
        "math.sqrt(b.ratio**2 + end**2)",
        SAMPLERS,
    ),
    Mutant(
        "multistep midpoint weight",
        "samplers/multistep.py",
        "0.5 * f if solver_type",
        "0.6 * f if solver_type",
        SAMPLERS,
    ),
    Mutant(
        "multistep exact third order",
        "samplers/multistep.py",
        '"exact": 2 * bend',
        '"exact": bend',
        SAMPLERS,
    ),
    Mutant(
        "multistep wrong history",
        "samplers/multistep.py",
        "first = (m0 - m1) / r0",
        "first = (m1 - m0) / r0",
        SAMPLERS,
    ),
    Mutant(
        "multistep sde decay",
        "samplers/multistep.py",
        "math.exp(-eta * h)",
        "math.exp(eta * h)",
        SAMPLERS,
    ),
]


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
        files = [str(ROOT / "tests" / f"{name}.py") for name in tests.split()]
        settings = {"CMSCHED_BACKENDS": "numpy", "HYPOTHESIS_PROFILE": "dev", "PYTHONPATH": folder}
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not peers",
            "-c",
            str(ROOT / "pyproject.toml"),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "--rootdir", str(ROOT), *files],
            cwd=folder,  # where `import cmsched` finds the copy
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr


def main() -> None:
    """Run all mutants, two at a time, and report the survivors."""
    names = sys.argv[1:]
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
