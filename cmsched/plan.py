"""Plan: the frozen table a sampler becomes, and how a trace is written as its rows."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from types import MappingProxyType
from typing import Any

import numpy as np

from . import samplers
from .backends import Backend, resolve
from .predictions import Prediction
from .schedules import SCHEDULES, Point
from .spacings import Grid
from .tables import (
    EVERYWHERE,
    INSIDE,
    OUTPUT,
    OUTSIDE,
    SAMPLE,
    Layout,
    Row,
    Start,
    Table,
    Term,
    columns,
    placed,
    row_weights,
)
from .tracing import MASK, NOTHING, Draw, Form, Leaf, Trace, trace

__all__ = ["KEPT", "Plan", "make_plan"]

Array = Any
KEPT = 32  # plans; one of 1000 steps takes 1 to 3 MB
_kept: dict[Any, "Plan"] = {}
_lock = RLock()


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything of a sampling loop that does not depend on arrays; immutable, hashable, picklable.

    A plan is its recipe (sampler, grid, prediction, options) and the rows that tracing made of it.
    `len(plan)` counts network evaluations.
    """

    sampler: str
    grid: Grid
    prediction: Prediction
    options: Mapping[str, Any]
    layout: Layout | None  # None for a sampler that cannot be traced
    start: Start
    rows: tuple[Row, ...]
    steps: tuple[int, ...]  # the grid step each evaluation belongs to

    def __len__(self) -> int:
        """Return the number of network evaluations."""
        return len(self.rows)

    def __bool__(self) -> bool:
        """Return True: a plan without rows is still a plan."""
        return True

    def __post_init__(self) -> None:
        """Make what is filled later now, for torch.compile (see `Layout`)."""
        _ = self._kernels, self._times, self._placed

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return (
            self.sampler,
            self.grid,
            self.prediction,
            tuple(sorted(self.options.items(), key=lambda kv: kv[0])),
        )

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same recipe."""
        return self is other or (isinstance(other, Plan) and self._key == other._key)

    def __hash__(self) -> int:
        """Return the recipe's hash."""
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the recipe; unpickling traces it again."""
        return make_plan, (self.sampler, self.grid, self.prediction, dict(self.options))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Plan":
        """Return the plan itself, which nothing changes."""
        return self

    @property
    def points(self) -> tuple[Point, ...]:
        """Where the network is evaluated, one point per evaluation."""
        return tuple(row.point for row in self.rows)

    @property
    def timesteps(self) -> np.ndarray:
        """Model time of every evaluation: int64 where times are integral, else float64."""
        times = np.array([row.point.t for row in self.rows], dtype=np.float64)
        return times.astype(np.int64) if self.grid.integral else times

    def skip(self, k: int) -> "Plan":
        """Return the plan for the rest of the grid from step k: new history, draws count from 0."""
        return make_plan(self.sampler, self.grid.skip(k), self.prediction, self.options)

    def kernel(self, backend: Backend, index: int, dtype: Any) -> Any:
        """Return a row's program as the backend compiles it, or None where it does not."""
        try:
            return self._kernels[backend, index, dtype]
        except KeyError:
            if backend.traced():  # inside torch.compile, which writes kernels of its own
                return None
            row = self.rows[index]
            layout = self.check_traced()
            kernel = None
            if not layout.masked:
                kernel = backend.kernel(layout, row, row_weights(layout, row), dtype)
            return self._kernels.setdefault((backend, index, dtype), kernel)

    @cached_property
    def _kernels(self) -> dict[tuple[Backend, int, Any], Any]:
        return {}

    @cached_property
    def _times(self) -> dict[Any, list[Array]]:
        return {}

    @cached_property
    def _placed(self) -> dict[Any, Table]:
        return {}

    def on(self, like: Array) -> Table:
        """Return the plan as arrays on the device of `like`, in its accumulation dtype.

        The table goes wherever the plan goes, with an array index: inside `jit`, `scan`,
        `torch.compile`, and for batches whose rows are at different steps. Another plan of the same
        layout and length does not recompile.
        """
        return placed(self.check_traced(), self._columns, like, self._placed)

    def time_on(self, like: Array, index: int) -> Array:
        """Return a model time as a 0-d array on the device of `like`; all are placed there once."""
        backend = resolve(like)
        key = (type(like), like.dtype, backend.device(like))
        try:
            return self._times[key][index]
        except KeyError:
            pass
        dtype = backend.default_int if self.grid.integral else backend.accumulation(like.dtype)
        host = self.timesteps
        times = backend.put(host, like, dtype)
        if backend.traced(times[0, ...]):  # what is made inside a trace must not outlive it
            return backend.put(np.asarray(host[index]), like, dtype)
        if isinstance(times, np.ndarray):  # a network may not write into what the plan keeps
            times.flags.writeable = False
        self._times[key] = [times[i, ...] for i in range(len(self))]
        return self._times[key][index]

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return columns(self.check_traced(), [self], len(self) + 1)

    def check_traced(self) -> Layout:
        """Return the layout, or raise for a sampler that only `run` and `sample` can execute."""
        if self.layout is None:
            raise TypeError(
                f"sampler {self.sampler!r} chooses its steps from the data and has no table; use"
                " cmsched.sample or cmsched.run"
            )
        return self.layout

    def describe(self, digits: int = 5) -> str:
        """Return the rows as a readable table: time, level, and what each row computes."""
        layout = self.check_traced()
        names = value_names(layout)
        head = f"{self.sampler}: {len(self)} evaluations, stored {len(layout.slots)}"
        lines = [head, f"start   x = {_sum(self.start.terms, _start_names(self.start), digits)}"]
        for i, (row, t) in enumerate(zip(self.rows, self.timesteps, strict=True)):
            p, q, skip, out = row.estimate
            x0 = _sum(((SAMPLE, p, 0), (OUTPUT, q, 0)), names, digits)
            if self.prediction.projects:
                x0 = f"project({x0})"
            if (skip, out) != (0.0, 1.0):
                x0 = f"{skip:.{digits}g} x + {out:.{digits}g} ({x0})"
            level = f"alpha {row.point.alpha:.{digits}g}  sigma {row.point.sigma:.{digits}g}"
            lines.append(f"{i:>4}  t = {t:<10.6g} {level}  x0 = {x0}")
            lines += [
                f"        {names[v]} = {_sum(terms, names, digits)}" for v, terms in row.statements
            ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return recipe and rows as JSON; from the recipe `Plan.from_json` makes an equal plan.

        The rows are for readers without cmsched: `cmsched/interop/onnx.md` says what each key means
        and has a loop that runs on them. A sampler without a table has none (null).
        """
        recipe = {
            "cmsched": "plan 1",
            "sampler": self.sampler,
            "grid": self.grid.to_dict(),
            "prediction": self.prediction.to_dict(),
            "options": dict(self.options),
        }
        return json.dumps({**_finite(recipe), **self._named_rows()}, allow_nan=False)

    def _named_rows(self) -> dict[str, Any]:
        """Return what a loop on arrays needs besides the prediction, with values by their names."""
        given = list(samplers.get(self.sampler).given)
        if self.layout is None:
            return {"given": given, "memory": [], "start": None, "rows": None}
        names, slots = value_names(self.layout), len(self.layout.slots)
        first, number = self.grid.points[0], int if self.grid.integral else float
        start = {
            "scale": self.grid.init_scale,
            "alpha": first.alpha,
            "sigma": first.sigma,
            "draws": _named_draws(self.start.draws),
            "sums": _named_sums(
                [(0, self.start.terms)], {0: names[SAMPLE]}, _start_names(self.start)
            ),
            "next": {},
        }
        rows = [
            {
                "step": step,
                "t": number(row.point.t),
                "scale": row.point.scale,
                "alpha": row.point.alpha,
                "sigma": row.point.sigma,
                "lam": _number(row.point.lam),
                "estimate": dict(zip(("x", "output", "skip", "out"), row.estimate, strict=True)),
                "draws": _named_draws(row.draws),
                "sums": _named_sums(row.statements, names, names),
                "next": {
                    names[place]: names[value]
                    for place, value in [(SAMPLE, self.layout.following), *enumerate(row.picks, 2)]
                    if place != value
                },
            }
            for row, step in zip(self.rows, self.steps, strict=True)
        ]
        memory = [names[2 + i] for i in range(slots)]
        return {"given": given, "memory": memory, "start": start, "rows": rows}

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Return the plan that `to_json` wrote; a text that is not one raises ValueError."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a plan: {error}") from None
        if not isinstance(data, dict) or data.get("cmsched") != "plan 1":
            raise ValueError('not a plan: expected a JSON object with "cmsched": "plan 1"')
        data = _infinite(data)
        try:
            prediction, grid = Prediction(**data["prediction"]), Grid.from_dict(data["grid"])
            return make_plan(data["sampler"], grid, prediction, data["options"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a plan: {type(error).__name__}: {error}") from error


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


def _plain(name: str, value: Any) -> Any:
    """Return an option as hashable plain data: sequences as tuples, scalars as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_plain(name, v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"option {name}={value!r} is a {type(value).__name__}: a plan is plain data, so use"
        " numbers, strings, or sequences of these"
    )


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
    parts = [f"{c:.{digits}g} {where[region]}{names[v]}" for v, c, region in terms]
    return " + ".join(parts).replace("+ -", "- ") or "0"


def value_names(layout: Layout) -> dict[int, str]:
    """Return readable names of the numbered values."""
    names = {
        SAMPLE: "x",
        OUTPUT: "output",
        layout.estimate: "x0",
        layout.raw: "raw",
        layout.following: "x'",
    }
    for i, (kind, rank, age) in enumerate(layout.slots):
        stored = {"d": "x0", "k": f"kept{rank}", "r": "raw", "m": "output", "z": f"z{rank}"}
        names[2 + i] = f"{stored.get(kind, kind)}[-{age}]"
    names.update({layout.first_draw + i: f"z{rank}" for i, (rank, _) in enumerate(layout.draws)})
    names.update({layout.first_given + i: name for i, name in enumerate(layout.given)})
    names.update({layout.raw + 1 + i: f"kept{i}" for i in range(layout.keeps)})
    return names


def make_plan(
    sampler: str,
    grid: Grid,
    prediction: Prediction,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of a registered sampler on a grid.

    An equal recipe gives the same plan again while it is among the last `KEPT` asked for.

    Raises:
        ValueError: unknown sampler; a step it cannot take; more stored than the registry says.
        TypeError: unknown option; a sampler that is not linear.
    """
    entry = samplers.get(sampler)  # part of the key: a name may be registered anew
    complete = {k: _plain(k, v) for k, v in entry.complete(options or {}).items()}
    if type(grid.schedule) not in SCHEDULES.values():  # it may hold more than it compares
        return _made(entry, grid, prediction, complete)
    key = entry, grid, prediction, repr(complete)  # 1, 1.0 and True are equal, but not their names
    with _lock:  # who asks for the same at the same time waits for it
        plan = _kept.pop(key, None) or _made(entry, grid, prediction, complete)
        _kept[key] = plan  # the one asked for last comes last
        if len(_kept) > KEPT:
            del _kept[next(iter(_kept))]
    return plan


def _made(
    entry: samplers.Sampler, grid: Grid, prediction: Prediction, complete: dict[str, Any]
) -> Plan:
    """Return a new plan."""
    if grid.upward and (entry.trait("stochastic", complete) or entry.trait("order", complete) <= 0):
        raise ValueError(
            f"sampler {entry.name!r} with these options goes from noise to data only; a grid upward"
            " (inversion) needs a deterministic one, such as ddim with eta=0"
        )
    recipe = (entry.name, grid, prediction, MappingProxyType(complete))
    if not entry.traced:
        if grid.points[0].alpha == 0.0 and not entry.trait("singular", complete):
            raise ValueError(
                f"sampler {entry.name!r} cannot start where alpha is 0 (zero terminal SNR, a flow"
                " at sigma = 1): use a grid that starts at a finite level"
            )
        return Plan(*recipe, None, Start((), ()), (), ())
    traced = trace(entry, grid, complete, prediction)
    layout, start, rows = _lower(traced, entry, complete, grid, prediction)
    return Plan(*recipe, layout, start, rows, tuple(row.step for row in traced.rows[1:]))


def _lower(
    traced: Trace,
    entry: samplers.Sampler,
    options: dict[str, Any],
    grid: Grid,
    prediction: Prediction,
) -> tuple[Layout, Start, tuple[Row, ...]]:
    """Number the values and write each row's program in these numbers."""
    n = len(traced.points)
    linear = [(*prediction.linear(p), *prediction.boundary(p)) for p in traced.points]
    forms = [[*row.keeps, row.following] for row in traced.rows]

    # an estimate is an array of its own if it is stored or not linear; else it folds away
    folded = {"r"} if prediction.projects else {"d", "r"}
    folded -= {
        kind for i, row in enumerate(forms) for f in row for kind, j, _ in f.terms if j < i - 1
    }
    terms = [
        [_fold(f, i, linear, folded).clean(f"{entry.name}, evaluation {i}") for f in row]
        for i, row in enumerate(forms, start=-1)
    ]

    last_use: dict[Leaf, int] = {}
    for i, row_terms in enumerate(terms):
        for leaf in (leaf for t in row_terms for leaf in t if leaf[0] != "g"):
            last_use[leaf] = i - 1
    slots = _slots(last_use, entry, options)
    draws = [
        [d for d in row.draws if ("z", i - 1, d.rank) in last_use]
        for i, row in enumerate(traced.rows)
    ]
    learned: dict[int, bool] = {}
    for draw in (d for row in draws[1:] for d in row):
        learned[draw.rank] = learned.get(draw.rank, False) or draw.log_range is not None
    layout = Layout(
        slots=slots,
        draws=tuple(sorted(learned.items())),
        given=tuple(sorted(name for name in entry.given if name != MASK)),
        keeps=max(len(row.keeps) for row in traced.rows),
        estimates=any(leaf[0] == "d" for leaf in last_use),
        pattern=(),
        picks=(),
        start_draws=tuple(d.rank for d in draws[0]),
        integral=grid.integral,
        prediction=prediction,
        masked=MASK in entry.given,
        scaled=any(p.scale != 1.0 for p in traced.points),
        clean=any(p.sigma == 0.0 for p in traced.points),
    )
    ranks = [rank for rank, _ in layout.draws]
    stored = {slot: 2 + s for s, slot in enumerate(slots)}
    names = {"x": SAMPLE, "m": OUTPUT, "d": layout.estimate, "r": layout.raw}

    def number(leaf: Leaf, i: int) -> int:
        kind, j, rank = leaf
        if kind == "g":
            return layout.first_given + layout.given.index(rank)
        if j < i:
            return stored[kind, rank, i - j]
        if kind == "z":
            return layout.first_draw + ranks.index(rank)
        return names[kind] if kind in names else layout.raw + 1 + int(rank)

    def write(form: dict[Leaf, Any], i: int) -> tuple[Term, ...]:
        out: list[Term] = []
        for leaf, c in form.items():
            v = number(leaf, i)
            pair = c if isinstance(c, np.ndarray) else (c, c)
            if pair[0] == pair[1]:
                out.append((v, float(pair[0]), EVERYWHERE))
            else:
                out += [
                    (v, float(w), r)
                    for w, r in zip(pair, (INSIDE, OUTSIDE), strict=True)
                    if w != 0.0
                ]
        return tuple(sorted(out))

    rows = []
    for i, point in enumerate(traced.points):
        here = terms[i + 1]
        statements: list[tuple[int, tuple[Term, ...]]] = []
        if last_use.get(("r", i, 0), i) > i:
            p, q, skip, out = linear[i]
            statements.append((layout.raw, ((SAMPLE, skip + out * p, 0), (OUTPUT, out * q, 0))))
        for rank, form in enumerate(here[:-1]):
            if ("k", i, rank) in last_use:
                statements.append((layout.raw + 1 + rank, write(form, i)))
        statements.append((layout.following, write(here[-1], i)))
        aged = ((kind, i - age + 1, rank) for kind, rank, age in slots)
        picks = tuple(
            number(leaf, i) if last_use.get(leaf, i) > i else place
            for leaf, place in zip(aged, stored.values(), strict=True)
        )
        numbered = tuple((layout.first_draw + ranks.index(d.rank), d) for d in draws[i + 1])
        computed = list(statements)
        if ("d", i, 0) in last_use and not prediction.projects:  # linear: a statement like the rest
            p, q, skip, out = linear[i]
            written = ((SAMPLE, skip + out * p, EVERYWHERE), (OUTPUT, out * q, EVERYWHERE))
            computed.insert(0, (layout.estimate, tuple(t for t in written if t[1] != 0.0)))
        rows.append(
            Row(
                point,
                linear[i],
                ("d", i, 0) in last_use,
                numbered,
                tuple(statements),
                picks,
                tuple(_program(value, terms) for value, terms in computed),
            )
        )

    union: dict[int, set[tuple[int, int]]] = {
        value: set() for value in range(layout.estimate, layout.following + 1)
    }
    union[layout.following].add((SAMPLE, EVERYWHERE))  # which the end repeats
    distinct = {(value, s, regions) for row in rows for value, s, _, regions in row.program}
    for made, sources, regions in distinct:  # one for many rows
        union[made] |= set(zip(sources, regions or (EVERYWHERE,) * len(sources), strict=True))
    pattern = [tuple(sorted(terms)) for terms in union.values()]
    picks = tuple(
        number((kind, n, rank), n) if age == 1 else stored[kind, rank, age - 1]
        for kind, rank, age in slots
    )
    layout = dataclasses.replace(layout, pattern=tuple(pattern), picks=picks)
    return layout, _start(terms[0][-1], draws[0], layout), tuple(rows)


def _program(value: int, terms: tuple[Term, ...]) -> tuple[Any, ...]:
    """Return (value, sources, weights, regions or None if all everywhere).

    A unit weight comes first, where it costs no multiplication; a sum of nothing is 0 x.
    """
    ordered = sorted(terms, key=lambda term: term[1] != 1.0) or [(SAMPLE, 0.0, EVERYWHERE)]
    sources, weights, regions = (tuple(column) for column in zip(*ordered, strict=True))
    return value, sources, weights, regions if any(regions) else None


def _start(form: dict[Leaf, Any], draws: list[Draw], layout: Layout) -> Start:
    """Return the start row: value 0 is the start, then its draws."""
    ranks = [d.rank for d in draws]
    terms = []
    for (kind, _, rank), c in form.items():
        if kind == "g" or isinstance(c, np.ndarray):
            raise ValueError(
                "a sampler cannot use given arrays or a mask before its first evaluation"
            )
        terms.append((0 if kind == "s" else 1 + ranks.index(rank), float(c), EVERYWHERE))
    return Start(tuple(sorted(terms)), tuple((1 + k, d) for k, d in enumerate(draws)))


def _fold(
    form: Form, i: int, linear: list[tuple[float, float, float, float]], folded: set[str]
) -> Form:
    """Return a form with row i's own estimate written out as skip x + out (p x + q m)."""
    own = [leaf for leaf in form.terms if leaf[1] == i and leaf[0] in folded]
    if not own:
        return form
    p, q, skip, last = linear[i]
    terms = form.terms.copy()
    for leaf in own:
        c, _ = terms.pop(leaf)
        x, m = terms.get(("x", i, 0), NOTHING), terms.get(("m", i, 0), NOTHING)
        sizes = abs(c) * (abs(skip) + abs(last * p)), abs(c) * abs(last * q)
        terms["x", i, 0] = (x[0] + c * (skip + last * p), x[1] + sizes[0])
        terms["m", i, 0] = (m[0] + c * (last * q), m[1] + sizes[1])
    return Form(terms)


def _slots(
    last_use: Mapping[Leaf, int], entry: samplers.Sampler, options: dict[str, Any]
) -> tuple[tuple[str, int, int], ...]:
    """Return the stored arrays (kind, rank, age); more than the registry says raise."""
    slots = set()
    for (kind, j, rank), last in last_use.items():
        if last > j:
            if j < 0:
                raise ValueError(
                    f"sampler {entry.name!r} uses an array from before its first evaluation; use"
                    " the x that the first yield gives back"
                )
            slots |= {(kind, rank, age) for age in range(1, last - j + 1)}
    allowed = entry.trait("stored", options)
    if len(slots) > allowed:
        found = ", ".join(f"{kind}[-{age}]" for kind, _, age in sorted(slots))
        raise ValueError(
            f"sampler {entry.name!r} is registered with stored={allowed} but needs {len(slots)}"
            f" arrays between evaluations ({found}); carry a combination as one array with"
            " `x = yield Keep(x)`, or raise stored"
        )
    return tuple(sorted(slots))
