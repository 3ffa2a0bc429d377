"""How good is a sampler for the evaluations it takes, and what do a corrector and weights change?

Everything is an error, no time: see `cmsched.demo.quality` for the data and for how it is measured.
The tables go to results/quality.md, the picture that `cmsched plot quality --all` draws to
results/quality.png.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timing import header, report

import cmsched
from cmsched.demo import pictures, quality
from cmsched.grids import Grid
from cmsched.predictions import Prediction
from cmsched.schedules import VPSDE

RESULTS = Path(__file__).parent / "results"
PAIRS = {  # with what is being judged, without
    "DDIM + UniC": "DDIM, Euler",
    "DPM++ 2M + UniC": "DPM++ 2M",
    "LMS 4 + UniC": "LMS 4",
    "DEIS 3 + UniC": "DEIS 3",
    "UniPC 3": "UniP 3",
    "DPM++ 3M exact": "DPM++ 3M published",
    "DPM++ 3M SDE exact": "DPM++ 3M SDE published",
    "DPM++ 3M SDE reference": "DPM++ 3M SDE published",
    "Heun": "DDIM, Euler",
    "Heun, flow time": "DDIM, Euler",
}
STEPS = (10, 20, 40, 80, 160, 320)


def ratios(curves: Sequence[quality.Curve]) -> str:
    """Return how many times smaller one error is than another, as Markdown."""
    points = {curve.case.label: curve.points for curve in curves}
    lines = [
        f"| evaluations | {' | '.join(map(str, quality.BUDGETS))} |",
        "|---" * (len(quality.BUDGETS) + 1) + "|",
    ]
    for one, other in PAIRS.items():
        pairs = zip(points[one], points[other], strict=True)
        cells = [f"{b[1] / a[1]:.2g}" if a and b else "" for a, b in pairs]
        lines.append(f"| {one} for {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def off(third: str, eta: float, n: int, data: float, exact_history: bool) -> float:
    """Relative error of the standard deviation that DPM-Solver++ 3M gives Gaussian data.

    A sample is its coefficients over independent normals, the start's and those drawn, so nothing
    is sampled. The steps are even in lam from -2.5 to 2.5. With exact history (eta = 0) the first
    two steps land on the solution.
    """
    schedule, drawn = VPSDE(), 0
    points = tuple(schedule.at(lam=lam) for lam in np.linspace(-2.5, 2.5, n + 1).tolist())
    options = {"solver_order": 3, "third_order": third, "eta": eta}
    plan = cmsched.make_plan(
        "dpmpp_multistep", Grid(points, schedule), Prediction("sample"), options
    )

    def spread(at: cmsched.schedules.Point) -> float:
        return math.hypot(at.alpha * data, at.sigma)

    def normal(shape: tuple[int, ...], dtype: object, interval: object) -> np.ndarray:
        nonlocal drawn
        drawn += 1
        return np.eye(n + 1)[drawn]

    state = cmsched.init(plan, np.eye(n + 1)[0] * spread(points[0]))
    for i, (a, b) in enumerate(itertools.pairwise(points)):
        gain = a.alpha * (data / spread(a)) ** 2
        state = cmsched.step(plan, state, gain * state.sample, rng=normal)
        if exact_history and i < 2:
            state = state._replace(sample=np.eye(n + 1)[0] * spread(b))
    return float(np.linalg.norm(state.sample)) / spread(points[-1]) - 1


def third_order() -> str:
    """Return what the weight of the second difference does on Gaussian data, as Markdown."""
    lines = [
        f"| data std | eta | history | weight | {' | '.join(map(str, STEPS))} | order |",
        "|---" * (5 + len(STEPS)) + "|",
    ]
    for data in (0.25, 0.6, 1.0):
        for eta, exact in ((0.0, True), (0.0, False), (1.0, False)):
            history, rows = "exact" if exact else "cold start", {}
            for third in ("published", "exact", "reference"):
                errors = [abs(off(third, eta, n, data, exact)) for n in STEPS]
                rows[third] = errors
                order = math.log2(errors[-2] / errors[-1])
                cells = " | ".join(quality.number(e) for e in errors)
                lines.append(f"| {data} | {eta:g} | {history} | {third} | {cells} | {order:.2f} |")
            gains = [p / e for p, e in zip(rows["published"], rows["exact"], strict=True)]
            cells = " | ".join(f"{gain:.2g}" for gain in gains)
            lines.append(f"| {data} | {eta:g} | {history} | published / exact | {cells} | |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    least = quality.floor(quality.distribution())
    curves = []
    for case in quality.cases():
        curves.append(quality.measure(case))
        shown = (quality.number(p[1]) if p else "-" for p in curves[-1].points)
        print(f"{case.label:27}", *(f"{text:>8}" for text in shown), flush=True)
    calm = [curve for curve in curves if not curve.case.stochastic]
    noisy = [curve for curve in curves if curve.case.stochastic]
    parts = [
        "# Error against network evaluations",
        "Made by `benchmarks/quality.py`; `cmsched/demo/quality.py` says what is measured. The"
        " three best of each budget are bold.",
        "## Deterministic: RMS distance to the exact solution of the probability-flow ODE",
        quality.table(calm),
        "## Stochastic: sliced 2-Wasserstein distance to the data",
        f"Exact samples, as many, are at {least:.2g} on average: below that nothing is told apart.",
        quality.table(noisy),
        "## How many times smaller one error is than another",
        ratios(curves),
        "## DPM-Solver++ 3M on Gaussian data, relative error of the standard deviation",
        third_order(),
    ]
    text = "\n\n".join(parts) + "\n"
    (RESULTS / "quality.md").write_text(text, encoding="utf-8")
    pictures.draw_curves(RESULTS / "quality.png", curves)
    errors = {curve.case.label: curve.points for curve in curves}
    report("quality", header("numpy"), text, {"floor": least, "errors": errors}, keep=False)


if __name__ == "__main__":
    main()
