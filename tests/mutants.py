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
ENGINE = "test_engine"
HABIT = "test_stateful test_schedulers"
WHERE = "test_schedules test_spacings test_predictions"

FIRST, STEPS = "samplers/first_order.py", "samplers/multistep.py"
HEUN = "samplers/heun.py"
ADAMS, FLOW = "samplers/adams.py", "schedulers/flow.py"
FORMULAS, SCORE = "samplers/formulas.py", "schedulers/score.py"
PATH = "backends/brownian.py"
CORE, ROWS, TABLE = (f"engine/{name}.py" for name in ("__init__", "rows", "table"))

MUTANTS = [
    # the loops
    Mutant("ddim sign", FIRST, "b.alpha * x0 + kept * eps", "b.alpha * x0 - kept * eps", SAMPLERS),
    Mutant("ddim alpha for sigma", FIRST, "std = b.sigma * min(", "std = b.alpha * min(", SAMPLERS),
    Mutant(
        "ddim dropped draw",
        FIRST,
        "x = b.alpha * x0 + kept * eps\n        if std > 0:",
        "x = b.alpha * x0 + kept * eps\n        if std > 9:",
        SAMPLERS,
    ),
    Mutant("ddim noise kept", FIRST, "(1 - eta) * (1 + eta) + (eta * rho) ** 2", "1.0", SAMPLERS),
    Mutant(
        "ddpm mean", FIRST, "x = (b.alpha * fresh) * x0", "x = (a.alpha * fresh) * x0", SAMPLERS
    ),
    Mutant(
        "ddpm variance",
        FIRST,
        "max(b.sigma**2 * fresh, 1e-20), max(a.sigma**2 * fresh, 1e-20)",
        "max(a.sigma**2 * fresh, 1e-20), max(b.sigma**2 * fresh, 1e-20)",
        SAMPLERS,
    ),
    Mutant("churn variance", FIRST, "gamma * (2 + gamma)", "gamma * (1 + gamma)", SAMPLERS),
    Mutant(
        "churn level",
        FIRST,
        "grid.at(ratio=a.ratio * (1 + gamma))",
        "grid.at(ratio=a.ratio)",
        SAMPLERS,
    ),
    Mutant(
        "euler index",
        FIRST,
        "(b.sigma / a.sigma) * (x - a.alpha * x0)",
        "(b.sigma / a.sigma) * (x - b.alpha * x0)",
        SAMPLERS,
    ),
    Mutant(
        "consistency noise",
        FIRST,
        "b.ratio**2 - end**2)) * noise()",
        "b.ratio**2 + end**2)) * noise()",
        SAMPLERS,
    ),
    Mutant("heun trapezium", HEUN, "bend = 0.5 * (1", "bend = 0.25 * (1", SAMPLERS),
    Mutant(
        "heun wrong base",
        HEUN,
        "(b.alpha / a.alpha) * x + y",
        "(b.alpha / a.alpha) * y + y",
        SAMPLERS,
    ),
    Mutant("multistep weight", STEPS, "0.5 * f if solver_type", "0.6 * f if solver_type", SAMPLERS),
    Mutant("multistep third order", STEPS, '"exact": 2 * bend', '"exact": bend', SAMPLERS),
    Mutant(
        "multistep history", STEPS, "first = (m0 - m1) / r0", "first = (m1 - m0) / r0", SAMPLERS
    ),
    Mutant("multistep old step", STEPS, "r0 = (l0 - l1) / h", "r0 = 1.0", SAMPLERS),
    Mutant("multistep sde decay", STEPS, "math.exp(-eta * h)", "math.exp(eta * h)", SAMPLERS),
    Mutant(
        "multistep sde noise", STEPS, "-math.expm1(-2 * eta * h)", "-math.expm1(-eta * h)", SAMPLERS
    ),
    # classes with sigmas
    Mutant(
        "middle of a step",
        "schedulers/midpoint.py",
        "return math.sqrt(a.ratio * b.ratio)",
        "return 0.5 * (a.ratio + b.ratio)",
        "test_sigma",
    ),
    Mutant(
        "levels of steps",
        "schedulers/midpoint.py",
        "for _ in range(2)][1:-1]",
        "for _ in range(2)][:-2]",
        "test_sigma",
    ),
    Mutant(
        "path of a seed",
        "schedulers/midpoint.py",
        "else Rng(seed, path=True)",
        "else Rng(seed)",
        "test_sigma",
    ),
    Mutant(
        "option inside a step",
        "schedulers/base.py",
        "if not begins_step(run.plan, run.entry - run.first):",
        "if False:",
        "test_sigma",
    ),
    Mutant(
        "history of a lower order",
        "schedulers/base.py",
        "run.memory[have.index(slot)] for slot in need",
        "run.memory[~have.index(slot)] for slot in need",
        "test_sigma",
    ),
    Mutant(
        "lms nodes",
        "schedulers/variance_exploding.py",
        "sigmas[t - k] for k in range(order)",
        "sigmas[k] for k in range(order)",
        "test_sigma",
    ),
    Mutant("edm sign", "schedulers/edm.py", "sign = -1 if", "sign = 1 if", "test_sigma"),
    Mutant(
        "edm given estimate",
        "schedulers/edm.py",
        "        return given\n",
        "        return model_output\n",
        "test_sigma",
    ),
    Mutant(
        "edm ramp",
        "schedulers/edm.py",
        "places = np.linspace(0, 1, n)",
        "places = np.linspace(0, 1, n + 1)[:-1]",
        "test_sigma",
    ),
    Mutant("edm velocity", "predictions.py", "return -c, -d", "return -c, d", "test_sigma"),
    Mutant(
        "clipped deis",
        "samplers/adams.py",
        "eps = (x - a.alpha * x0) / a.sigma",
        "eps = 1.0 * eps",
        "test_solvers",
    ),
    Mutant(
        "corrector of another step",
        "samplers/unipc.py",
        "off = disable_corrector is True or step - 1 in disable_corrector",
        "off = disable_corrector is True or step in disable_corrector",
        "test_solvers",
    ),
    Mutant(
        "corrector sign", "samplers/unipc.py", "known + own * m", "known - own * m", "test_solvers"
    ),
    Mutant(
        "stages",
        "samplers/runge_kutta.py",
        "sizes[-2:] = [solver_order - 1, 1]",
        "sizes[-2:] = [1, solver_order - 1]",
        "test_solvers",
    ),
    # where
    Mutant(
        "zero terminal SNR",
        "schedules.py",
        "if math.isinf(b):  # alpha reaches",
        "if False:  # alpha reaches",
        "test_schedules",
    ),
    Mutant(
        "velocity",
        "predictions.py",
        "(-scale * sigma, scale * alpha)",
        "(scale * sigma, scale * alpha)",
        "test_predictions",
    ),
    Mutant(
        "boundary",
        "predictions.py",
        "t = at.t * self.timestep_scaling",
        "t = at.t + self.timestep_scaling",
        "test_predictions",
    ),
    Mutant(
        "karras",
        "ramps.py",
        "(a + fractions * (b - a)) ** rho",
        "(b + fractions * (a - b)) ** rho",
        "test_spacings",
    ),
    Mutant(
        "trailing", "spacings.py", "np.round(times + 1) - 1", "np.round(times)", "test_spacings"
    ),
    Mutant("conversion", "predictions.py", "c_other * d - d_other", "c_other * d + d_other", WHERE),
    Mutant("log-linear times", "spacings.py", "a.ratio ** (1 - w)", "a.ratio**w", WHERE),
    Mutant("laplace tails", "ramps.py", "1 - math.exp(v) / 2", "math.exp(v) / 2", WHERE),
    Mutant("trigonometric frame", "schedules.py", "data * (r /", "(r /", WHERE),
    Mutant("shift", "spacings.py", "shift * sigma + (1 - sigma)", "shift * sigma + 1", WHERE),
    # table
    Mutant("residue kept", "tracing.py", "> ROUNDING * m", "> -1", "test_tracing test_plan"),
    Mutant(
        "stale history",
        "plan.py",
        "slots.index((kind, rank, age - 1))",
        "slots.index((kind, rank, age))",
        ENGINE,
    ),
    Mutant("skip", "plan.py", "self.grid.skip(k)", "self.grid.skip(0)", "test_plan"),
    Mutant("pattern", "plan.py", "have.get(source, 0.0)", "have.get(source, 1.0)", ENGINE),
    # the named classes
    Mutant(
        "inversion goes down",
        "schedulers/multistep.py",
        "return points[::-1][:n]",
        "return points[:n]",
        "test_solvers",
    ),
    Mutant(
        "terminal forgotten",
        "schedulers/unipc.py",
        "sigmas = spacings.stretched(sigmas, config.shift_terminal)",
        "sigmas = 1.0 * sigmas",
        "test_solvers",
    ),
    Mutant(
        "dynamic shift of a solver",
        "schedulers/solvers.py",
        "SHIFTS[config.time_shift_type](mu)",
        "float(mu)",
        "test_solvers",
    ),
    # arrays
    Mutant("finished rows", TABLE, "backend.where(finished, sample, new)", "new", ENGINE),
    Mutant(
        "swapped draws",
        CORE,
        "learned_std(backend, variance, *wanted.log_range)",
        "learned_std(backend, variance, *wanted.log_range[::-1])",
        ENGINE,
    ),
    Mutant(
        "mask", ROWS, "value * mask if region == INSIDE", "value * mask if region != INSIDE", ENGINE
    ),
    Mutant(
        "stale state",
        CORE,
        "return State(values[layout.following], memory, index + 1)",
        "return State(values[layout.following], memory, index)",
        ENGINE,
    ),
    Mutant(
        "clip",
        ROWS,
        "backend.clip(x0, -prediction.clip, prediction.clip)",
        "backend.clip(x0, 0.0, prediction.clip)",
        ENGINE,
    ),
    Mutant(
        "image to image",
        TABLE,
        "combine([x0, noise], weights[1:3], acc)",
        "combine([noise, x0], weights[1:3], acc)",
        ENGINE,
    ),
    Mutant(
        "broadcast output",
        "engine/checks.py",
        "if not prediction.variance_head or found != twice:",
        "if False:",
        ENGINE,
    ),
    # noise
    Mutant(
        "purpose",
        "noise.py",
        "START, STEP, BROWNIAN = 0, 1, 2",
        "START, STEP, BROWNIAN = 0, 0, 2",
        "test_noise",
    ),
    Mutant(
        "row of a draw", CORE, "tuple(noise.shape), evaluation + 1", "tuple(noise.shape), 1", ENGINE
    ),
    Mutant("uniform purpose", "noise.py", "UNIFORM = 3", "UNIFORM = 1", "test_discrete"),
    # tokens
    Mutant(
        "token marginal",
        "discrete.py",
        "step_c, *self.cumulative(s))",
        "step_c, *self.cumulative(t))",
        "test_discrete",
    ),
    Mutant("token replaced", "discrete.py", "/ (alpha * left)", "/ left", "test_discrete"),
    Mutant(
        "token unmasked",
        "discrete.py",
        "(1 - xp.astype(masked, acc)) * LOG_ZERO",
        "xp.astype(masked, acc) * LOG_ZERO",
        "test_discrete",
    ),
    Mutant("gumbel sign", "discrete.py", "noise = -xp.log(", "noise = xp.log(", "test_discrete"),
    Mutant(
        "draw of a time",
        "discrete.py",
        "at = plan.timesteps[index] if",
        "at = index if",
        "test_discrete",
    ),
    Mutant("frame's element", "backends/numpy.py", "i % parts * size", "0", "test_noise"),
    Mutant("path clock", PATH, "math.exp(-abs(lam))", "math.exp(-abs(lam) / 2)", "test_noise"),
    Mutant("path height", PATH, "high_b * (1 - apart) - high_a", "high_b - high_a", "test_noise"),
    Mutant("path spread", PATH, "2.0 ** ((level - DEPTH) / 2)", "2.0 ** -DEPTH", "test_noise"),
    Mutant("path of a row", "plan.py", "value - layout.first_draw, :, i", "0, :, 0", "test_noise"),
    Mutant(
        "draw off the path",
        "noise.py",
        "backend.where(still, own, z)",
        "backend.where(still, z, own)",
        "test_noise",
    ),
    # a step as a distribution
    Mutant(
        "density's scale",
        CORE,
        "(log_std + 0.5 * math.log(2 * math.pi))",
        "0.5 * math.log(2 * math.pi)",
        "test_transition",
    ),
    Mutant(
        "skipped density", CORE, "keep, std = float(not zero)", "keep, std = 1.0", "test_transition"
    ),
    Mutant(
        "std past the end",
        CORE,
        "where(over, backend.zeros_like(std), std)",
        "where(over, std, std)",
        "test_transition",
    ),
    Mutant(
        "draws that add up",
        ROWS,
        "total = total + coefficient * coefficient",
        "total = coefficient * coefficient",
        "test_transition",
    ),
    # flows, PNDM
    Mutant("tokens above", FLOW, "levels < now - 1e-6", "levels > now + 1e-6", "test_flow"),
    Mutant(
        "told inverted",
        FLOW,
        "return point.alpha if self._options.invert_sigmas else point.sigma",
        "return point.sigma",
        "test_flow",
    ),
    Mutant("dynamic shift", FLOW, "sigmas, shift)", "sigmas, self.shift)", "test_flow"),
    Mutant(
        "flow sde odds",
        FIRST,
        "(1 - (sa if sa < 1 else sb))",
        "(1 - (sb if sa < 1 else sb))",
        "test_flow",
    ),
    Mutant("rising flow", "schedules.py", "1 - sigma if self.", "sigma if self.", "test_flow"),
    Mutant("pndm stages", ADAMS, "(mid, b, 1 / 3)", "(mid, b, 1 / 6)", "test_pndm"),
    Mutant("pndm goes on", ADAMS, "(grid.steps(), start=done)", "(grid.steps())", "test_pndm"),
    Mutant("plms average", ADAMS, "0.5 * (m + ahead)", "ahead", "test_pndm"),
    Mutant("equal steps", ADAMS, "-16 / 12, 5 / 12", "-15 / 12, 4 / 12", "test_pndm"),
    # the first-order classes
    Mutant(
        "inversion's time",
        "schedulers/first_order.py",
        "replace(low, t=high.t)",
        "replace(low, t=low.t)",
        "test_first_order",
    ),
    Mutant(
        "inversion's end",
        "spacings.py",
        "self.points[: k + 1]",
        "self.points[-k - 1 :]",
        "test_first_order",
    ),
    Mutant(
        "noise of clean data",
        "engine/__init__.py",
        "combine([sample, mean], layout.prediction.noise(at), acc)",
        "combine([mean, sample], layout.prediction.noise(at), acc)",
        "test_first_order",
    ),
    Mutant(
        "row of a timestep",
        "schedulers/first_order.py",
        "xp.argmin(off, axis=-1)",
        "xp.argmax(off, axis=-1)",
        "test_first_order",
    ),
    Mutant(
        "variance of a step",
        "schedulers/first_order.py",
        "ancestral(*self._ends(timestep, prev_timestep), 1.0)[1] ** 2",
        "ancestral(*self._ends(timestep, prev_timestep), 1.0)[0] ** 2",
        "test_first_order",
    ),
    Mutant(
        "TCD's landing",
        FIRST,
        "grid.at_time((1 - eta) * b.t)",
        "grid.at_time(eta * b.t)",
        "test_first_order",
    ),
    Mutant(
        "TCD's second field",
        "schedulers/distilled.py",
        "tuple(landing(grid, b, eta) for",
        "tuple(b for",
        "test_first_order",
    ),
    Mutant(
        "the decoder's times",
        "schedulers/distilled.py",
        "min(t // apart + 1, top)",
        "min(t // apart, top)",
        "test_first_order",
    ),
    # score SDEs, RePaint
    Mutant("langevin noise", FORMULAS, "+ 2 * size * z", "+ size * z", "test_score"),
    Mutant("jump", FORMULAS, "- (part * a.sigma) ** 2", "- (part * b.sigma) ** 2", "test_score"),
    Mutant("karras levels", SCORE, "if self._copies else levels", "if True else 1", "test_score"),
    Mutant("karras slopes", SCORE, "0.5 * derivative + 0.5 * other", "derivative", "test_score"),
    Mutant("one length", SCORE, '"sample" if config.per', '"batch" if config.per', "test_score"),
    Mutant("row of the SDE", "schedulers/parts.py", "xp.argmin(", "xp.argmax(", "test_score"),
    Mutant("same noise", "schedulers/parts.py", "row=self._draws", "row=0", "test_score"),
    Mutant(
        "undone too little",
        "schedulers/repaint.py",
        "path = [grid.points[entry + 1], ",
        "path = [grid.points[entry], ",
        "test_score",
    ),
    Mutant(
        "repaint's ups",
        "schedulers/repaint.py",
        "range(k - 1, following - 2, -1)",
        "range(k - 1, following - 1, -1)",
        "test_score",
    ),
    # the stateful habit
    Mutant(
        "cursor",
        "schedulers/base.py",
        "run.entry + 1, after.memory",
        "run.entry, after.memory",
        HABIT,
    ),
    Mutant(
        "stale memory",
        "schedulers/base.py",
        "after.memory, after.index, fresh",
        "run.memory, after.index, fresh",
        HABIT,
    ),
    Mutant(
        "level between times",
        "schedulers/base.py",
        "xp.take(v, above - 1) * (1 - part)",
        "xp.take(v, above - 1) * part",
        HABIT,
    ),
    Mutant(
        "velocity's sign",
        "schedulers/base.py",
        "mix(sample, noise, -sigma / size",
        "mix(sample, noise, sigma / size",
        HABIT,
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
