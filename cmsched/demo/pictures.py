"""Pictures: digits in rows, and the errors of samplers against network evaluations."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import quality
from .quality import Curve

__all__ = ["draw_curves", "draw_six", "write"]

Host = npt.NDArray[Any]

FAMILIES = {  # the file of the loops: what is in it, colour
    "first_order": ("first order", "#6b7280"),
    "multistep": ("DPM-Solver, multistep", "#d62728"),
    "unipc": ("UniPC, or corrected by UniC", "#7b2fbe"),
    "adams": ("LMS, DEIS, PNDM", "#1f6fd1"),
    "runge_kutta": ("Heun, DPM2, DPM-Solver singlestep", "#1a8f4c"),
    "adaptive": ("DPM-Solver of its own steps", "#e08214"),
    "repaint": ("RePaint", "#b0607f"),
}
OTHERS = "#00838f"
MARKERS = "os^Dv<>Pp*hX"
COMPARED = ("DDIM, Euler", "UniPC 2")  # deterministic ones, beside the stochastic
HIGHEST = 2.0  # errors above are off the picture
SIX = ("#b45309", "#6b7280", "#d62728", "#1f6fd1", "#7b2fbe", "#1a8f4c")
DATA = "five Gaussians in the plane, exact networks"


def write(out: Path, names: Sequence[str], images: Sequence[Host], seed: int) -> None:
    """Write each scheduler's images: one's as a square, of several a row for each."""
    if out.suffix.lower() == ".npz":
        stack = np.stack(images)[:, :, None]
        np.savez_compressed(out, images=stack, schedulers=names, seed=np.uint64(seed))
    elif len(images) == 1:
        draw_rows(out, [tiles(images[0], math.isqrt(len(images[0]) - 1) + 1)])
    else:
        draw_rows(out, [tiles(each, len(each)) for each in images], names)


def tiles(images: Host, columns: int) -> Host:
    """Return images (number, 8, 8) side by side, enlarged: ink is 1, paper 0."""
    rows = -(-len(images) // columns)
    ink = np.zeros((rows * columns, 8, 8))
    ink[: len(images)] = np.clip((images + 1.0) / 2.0, 0.0, 1.0)
    tiles = np.pad(ink.repeat(5, axis=1).repeat(5, axis=2), ((0, 0), (2, 2), (2, 2)))
    height, width = tiles.shape[1:]
    grid = tiles.reshape(rows, columns, height, width).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width)


def draw_rows(out: Path, rows: list[Host], labels: Sequence[str] = ()) -> None:
    """Write rows of one height as a picture, pixel for pixel, with their labels to the left."""
    from matplotlib.figure import Figure

    pixels = np.concatenate(rows)
    margin = 10 + 7 * max(map(len, labels)) if labels else 0
    height, width = pixels.shape[0], pixels.shape[1] + margin
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(pixels, xo=margin, cmap="gray_r", vmin=0, vmax=1)
    for i, label in enumerate(labels):
        y = 1 - (i + 0.5) / len(labels)
        figure.text(5 / width, y, label, va="center", family="monospace", fontsize=8)
    figure.savefig(out)


def draw_curves(out: Path, curves: Sequence[Curve]) -> None:
    """Draw both panels: a line for each curve, its name at its end."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(18, 12), layout="constrained")
    left, right = figure.subplots(1, 2)
    calm = [c for c in curves if not c.case.stochastic]
    noisy = [c for c in curves if c.case.stochastic]
    data = quality.distribution()
    both = [case for case in quality.CASES if case.label in COMPARED]
    compared = [quality.measure(case, problem=data) for case in both]
    least = quality.floor(data)
    panel(left, calm)
    figure.suptitle(f"Error against network evaluations: {DATA}")
    left.set_title("Deterministic: distance to the exact solution of the ODE (RMS)", loc="left")
    panel(right, noisy, compared)
    right.set_title("Stochastic: sliced 2-Wasserstein distance to the data", loc="left")
    draw_floor(right, least, quality.BUDGETS[0])
    shown = [FAMILIES.get(f, (f, OTHERS)) for f in dict.fromkeys(c.case.family for c in curves)]
    names, colours = zip(*shown, strict=True)
    lines = [Line2D([], [], color=colour, lw=3) for colour in colours]
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(out, dpi=90)


def draw_six(out: Path, curves: Sequence[Curve]) -> None:
    """Draw a few curves that have one measure, the distance to the data, in one panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for curve, colour in zip(curves, SIX, strict=True):
        points = [p for p in dict.fromkeys(curve.points) if p is not None]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o", color=colour, lw=1.8, ms=4, label=curve.case.label)
    budgets = sorted({b for c in curves for b, _ in filter(None, c.points)})
    axes.set(xscale="log", yscale="log", xlabel="network evaluations")
    axes.set_ylabel("sliced 2-Wasserstein distance to the data")
    axes.set_xticks(budgets, [str(b) for b in budgets])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(DATA[0].upper() + DATA[1:], loc="left", fontsize=10)
    draw_floor(axes, quality.floor(quality.distribution()), budgets[0])
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(out, dpi=90)


def draw_floor(axes: Any, least: float, x: float) -> None:
    """Draw what exact samples have, below which nothing is told apart."""
    axes.axhline(least, color="black", lw=1, ls=(0, (1, 2)))
    text = f"exact samples ({quality.SAMPLES})"
    axes.annotate(text, (x, least), (-2, 3), textcoords="offset points", fontsize=8.5)


def panel(axes: Any, curves: Sequence[Curve], compared: Sequence[Curve] = ()) -> None:
    """Draw curves on log-log axes, and their names in a column to the right."""
    ends: list[tuple[float, float, str, str]] = []
    seen: dict[str, int] = {}
    drawn = [(label, c, True) for label, c in quality.merged(curves)]
    drawn += [(f"{label} (ODE)", c, False) for label, c in quality.merged(compared)]
    for label, curve, solid in drawn:
        family = curve.case.family
        _, colour = FAMILIES.get(family, (family, OTHERS)) if solid else ("", "black")
        rank = seen[family] = seen.get(family, -1) + 1
        points = [p for p in dict.fromkeys(curve.points) if p is not None and p[1] <= HIGHEST]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        style = "-" if solid else "--"
        marker = MARKERS[rank % len(MARKERS)] if solid else None
        axes.plot(x, y, style, marker=marker, color=colour, lw=1.3, ms=4, alpha=0.85)
        ends.append((y[-1], x[-1], label, colour))
    axes.set(xscale="log", yscale="log", xlabel="network evaluations", xlim=(2.9, 190))
    axes.set_xticks(quality.BUDGETS, [str(b) for b in quality.BUDGETS])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = math.log(min(e[0] for e in ends) / 1.5), math.log(HIGHEST)
    axes.set_ylim(math.exp(low - 0.1), math.exp(high))
    ends.sort()
    places = spread([math.log(e[0]) for e in ends], low, high, (high - low) / 48)
    for (last, at, label, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            (at, last),
            (80, math.exp(place)),
            color=colour,
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "ls": ":"},
        )


def spread(places: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Return increasing places moved apart to a gap, as far as there is room, and little more."""
    out = list(places)
    for _ in range(400):
        for i in range(len(out) - 1):
            short = gap - (out[i + 1] - out[i])
            if short > 0:
                out[i], out[i + 1] = out[i] - short / 2, out[i + 1] + short / 2
        out = [min(max(v, low), high) for v in out]
    return out
