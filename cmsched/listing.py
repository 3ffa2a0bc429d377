"""A plan as text: its rows for people, and JSON for programs without cmsched."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from . import samplers
from .rows import EVERYWHERE, INSIDE, OUTPUT, OUTSIDE, SAMPLE, Layout, Row, Start, Term
from .tracing import Draw

__all__ = ["brief", "described", "parsed", "to_json", "value_names"]

VERSION = "plan 1"


def brief(plan: Any) -> str:
    """Return a plan in a line: `Plan(heun, 9 evaluations, ve, t 80 ... 0)`."""
    count = f"{len(plan)} evaluation{'s' * (len(plan) != 1)}" if plan.traced else "steps of its own"
    first, last = plan.grid.points[0].t, plan.grid.points[-1].t
    frame = plan.grid.schedule.frame
    return f"Plan({plan.sampler}, {count}, {frame}, t {first:.5g} ... {last:.5g})"


def described(plan: Any, digits: int) -> str:
    """Return the rows of a plan as a readable table: time, level, and what each row computes."""
    layout = plan.layout
    names = value_names(layout)
    head = f"{plan.sampler}: {len(plan)} evaluations, stored {len(layout.slots)}"
    lines = [head, f"start   x = {_sum(plan.start.terms, _start_names(plan.start), digits)}"]
    for i, (row, t) in enumerate(zip(plan.rows, plan.timesteps, strict=True)):
        p, q, skip, out = row.estimate
        x0 = _sum(((SAMPLE, p, 0), (OUTPUT, q, 0)), names, digits)
        if plan.prediction.projects:
            x0 = f"project({x0})"
        if (skip, out) != (0.0, 1.0):
            x0 = f"{skip:.{digits}g} x + {out:.{digits}g} ({x0})"
        level = f"alpha {row.point.alpha:.{digits}g}  sigma {row.point.sigma:.{digits}g}"
        lines.append(f"{i:>4}  t = {t:<10.6g} {level}  x0 = {x0}")
        lines += [
            f"        {names[v]} = {_sum(terms, names, digits)}"
            for v, terms in _sums_besides_x0(layout, row)
        ]
    return "\n".join(lines)


def to_json(plan: Any) -> str:
    """Return what a plan is made of, and its rows, as JSON; see `Plan.to_json`."""
    made_of = {
        "cmsched": VERSION,
        "sampler": plan.sampler,
        "grid": plan.grid.to_dict(),
        "prediction": plan.prediction.to_dict(),
        "options": dict(plan.options),
    }
    return json.dumps({**_finite(made_of), **_named_rows(plan)}, allow_nan=False)


def parsed(text: str) -> dict[str, Any]:
    """Return the data of a text that `to_json` wrote, or raise ValueError."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a plan: {error}") from None
    if not isinstance(data, dict) or data.get("cmsched") != VERSION:
        raise ValueError(f'not a plan: expected a JSON object with "cmsched": "{VERSION}"')
    found: dict[str, Any] = _infinite(data)
    return found


def _sums_besides_x0(layout: Layout, row: Row) -> Iterable[tuple[int, tuple[Term, ...]]]:
    """Return a row's statements without that of the estimate, whose numbers stand by themselves."""
    return [(value, terms) for value, terms in row.statements if value != layout.x0]


def _named_rows(plan: Any) -> dict[str, Any]:
    """Return what a loop on arrays needs besides the prediction, with values by their names."""
    given = list(samplers.get(plan.sampler).given)
    if not plan.traced:
        return {"given": given, "memory": [], "start": None, "rows": None}
    layout, start = plan.layout, plan.start
    names = value_names(layout)
    first, number = plan.grid.points[0], int if plan.grid.integral else float
    return {
        "given": given,
        "memory": [names[2 + i] for i in range(len(layout.slots))],
        "start": {
            "scale": plan.grid.init_scale,
            "alpha": first.alpha,
            "sigma": first.sigma,
            "draws": _named_draws(start.draws),
            "sums": _named_sums([(0, start.terms)], {0: names[SAMPLE]}, _start_names(start)),
            "next": {},
        },
        "rows": [
            {"step": step, "t": number(row.point.t), **_named_row(row, layout, names)}
            for row, step in zip(plan.rows, plan.steps, strict=True)
        ],
    }


def _named_row(row: Row, layout: Layout, names: Mapping[int, str]) -> dict[str, Any]:
    filled = [(SAMPLE, layout.next_sample), *enumerate(row.stores_from, 2)]
    return {
        "scale": row.point.scale,
        "alpha": row.point.alpha,
        "sigma": row.point.sigma,
        "lam": _number(row.point.lam),
        "estimate": dict(zip(("x", "output", "skip", "out"), row.estimate, strict=True)),
        "draws": _named_draws(row.draws),
        "sums": _named_sums(_sums_besides_x0(layout, row), names, names),
        "next": {names[place]: names[value] for place, value in filled if place != value},
    }


def _finite(value: Any) -> Any:
    """Return plain data with infinities spelled out, which JSON has no number for."""
    if isinstance(value, float) and math.isinf(value):
        return {"infinite": 1 if value > 0 else -1}
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _infinite(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"infinite"}:
            return math.copysign(math.inf, value["infinite"])
        return {k: _infinite(v) for k, v in value.items()}
    return [_infinite(v) for v in value] if isinstance(value, list) else value


def _number(value: float) -> float | None:
    """Return a number, or None for an infinite one."""
    return value if math.isfinite(value) else None


def _named_draws(draws: tuple[tuple[int, Draw], ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"z{draw.rank}",
            "rank": draw.rank,
            "interval": draw.interval and [_number(lam) for lam in draw.interval],
            "log_range": draw.log_range and list(draw.log_range),
        }
        for _, draw in draws
    ]


def _named_sums(
    statements: Iterable[tuple[int, tuple[Term, ...]]],
    results: Mapping[int, str],
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Return statements by names; a sum of nothing is 0 times the sample."""
    where = {EVERYWHERE: "everywhere", INSIDE: "inside", OUTSIDE: "outside"}
    return [
        {
            "name": results[value],
            "terms": [
                {"value": names[v], "weight": weight, "where": where[region]}
                for v, weight, region in terms or [(SAMPLE, 0.0, EVERYWHERE)]
            ],
        }
        for value, terms in statements
    ]


def _start_names(start: Start) -> dict[int, str]:
    """Return readable names of the start row's values."""
    return {0: "start", **{value: f"z{draw.rank}" for value, draw in start.draws}}


def _sum(terms: tuple[Term, ...], names: Mapping[int, str], digits: int) -> str:
    where = {EVERYWHERE: "", INSIDE: "mask ", OUTSIDE: "(1 - mask) "}
    parts = [f"{c:.{digits}g} {where[region]}{names[v]}" for v, c, region in terms if c]
    return " + ".join(parts).replace("+ -", "- ") or "0"


def value_names(layout: Layout) -> dict[int, str]:
    """Return readable names of the numbered values."""
    names = {
        SAMPLE: "x",
        OUTPUT: "output",
        layout.x0: "x0",
        layout.raw_x0: "raw",
        layout.next_sample: "x'",
    }
    for i, (kind, rank, age) in enumerate(layout.slots):
        stored = {"d": "x0", "k": f"kept{rank}", "r": "raw", "m": "output", "z": f"z{rank}"}
        names[2 + i] = f"{stored.get(kind, kind)}[-{age}]"
    names.update({layout.first_draw + i: f"z{rank}" for i, (rank, _) in enumerate(layout.draws)})
    names.update({layout.first_given + i: name for i, name in enumerate(layout.given)})
    names.update({layout.raw_x0 + 1 + i: f"kept{i}" for i in range(layout.n_stored_sums)})
    return names
