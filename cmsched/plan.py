"""Plan: the frozen table a sampler becomes, and its device-resident form.

Both executions of a plan share one numbering of values (see `Layout`). A row is a short
straight-line program over them: a few linear combinations, then which values become
(sample, *memory).
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from . import samplers
from .backends import Backend, pytree, resolve
from .backends.brownian import cell
from .predictions import Prediction
from .schedules import Point
from .spacings import Grid
from .tracing import MASK, Draw, Form, Leaf, Trace, trace

__all__ = ["Layout", "Plan", "Row", "Table", "make_plan"]

Array = Any
EVERYWHERE, INSIDE, OUTSIDE = 0, 1, 2  # regions of a mask
Term = tuple[int, float, int]  # value number, coefficient, region
SAMPLE, OUTPUT = 0, 1


@dataclass(frozen=True)
class Layout:
    """The static structure of a plan: what is stored, drawn and given, and which values exist.

    Values are numbered: 0 sample, 1 output, memory, draws, given arrays, the estimate, the raw
    estimate, what each Keep stores, the next sample. In the start row value 0 is the start, and its
    draws follow.
    """

    slots: tuple[tuple[str, int, int], ...]  # (kind, rank, age in evaluations) of each stored array
    draws: tuple[tuple[int, bool], ...]  # (rank, is its variance learned)
    given: tuple[str, ...]
    keeps: int
    estimates: bool  # whether the estimate is computed as an array of its own
    pattern: tuple[tuple[tuple[int, int], ...], ...]  # (value, region) of raw, keeps and next
    picks: tuple[int, ...]  # the value each slot is filled from
    start_draws: tuple[int, ...]
    integral: bool  # whether the network is conditioned on integers
    masked: bool  # whether a mask is given
    scaled: bool  # whether the network's input is scaled anywhere
    clean: bool  # whether sigma is 0 at an evaluation, where an inversion starts
    prediction: Prediction

    def __post_init__(self) -> None:
        """Count now: torch.compile cannot trace the lock that a cached property takes."""
        _ = self.blank

    @cached_property
    def first_draw(self) -> int:
        """Number of the first drawn value."""
        return 2 + len(self.slots)

    @cached_property
    def first_given(self) -> int:
        """Number of the first given array."""
        return self.first_draw + len(self.draws)

    @cached_property
    def estimate(self) -> int:
        """Number of the estimate."""
        return self.first_given + len(self.given)

    @cached_property
    def raw(self) -> int:
        """Number of the unprojected estimate."""
        return self.estimate + 1

    @cached_property
    def following(self) -> int:
        """Number of the next sample."""
        return self.raw + self.keeps + 1

    @cached_property
    def blank(self) -> tuple[None, ...]:
        """Places of the values that a step computes, draws or is given."""
        return (None,) * (self.following + 1 - self.first_draw)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws."""
        return bool(self.draws or self.start_draws)


class Row(NamedTuple):
    """One step: where the network is evaluated and what is done with its output."""

    point: Point
    estimate: tuple[float, float, float, float]  # p, q, c_skip, c_out
    estimates: bool  # whether this row needs the estimate as an array
    draws: tuple[tuple[int, Draw], ...]  # (value number, draw)
    statements: tuple[tuple[int, tuple[Term, ...]], ...]  # (value number, its terms)
    picks: tuple[int, ...]
    program: tuple[tuple[Any, ...], ...]  # the statements as the engine reads them, see `_program`


class Start(NamedTuple):
    """The start row: terms of the first sample over the start (value 0) and draws."""

    terms: tuple[Term, ...]
    draws: tuple[tuple[int, Draw], ...]


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

    def kernel(self, backend: Backend, index: int) -> Any:
        """Return a row's program as the backend compiles it, or None where it does not."""
        try:
            return self._kernels[backend, index]
        except KeyError:
            if backend.traced():  # inside torch.compile, which writes kernels of its own
                return None
            row = self.rows[index]
            plain = all(regions is None for _, _, _, regions in row.program)
            kernel = backend.kernel(row.program, row.picks) if plain else None
            return self._kernels.setdefault((backend, index), kernel)

    @cached_property
    def _kernels(self) -> dict[tuple[Backend, int], Any]:
        return {}

    @cached_property
    def _times(self) -> dict[Any, list[Array]]:
        return {}

    @cached_property
    def _placed(self) -> dict[Any, Any]:
        return {}

    def on(self, like: Array) -> "Table":
        """Return the plan as arrays on the device of `like`, in its accumulation dtype.

        The table goes wherever the plan goes, with an array index: inside `jit`, `scan`,
        `torch.compile`, and for batches whose rows are at different steps. Another plan of the same
        layout and length does not recompile.
        """
        layout = self.check_traced()
        backend = resolve(like)
        dtype = backend.accumulation(like.dtype)
        key = ("table", backend.name, str(dtype), str(backend.device(like)))
        if key not in self._placed:
            numbers, where, start = self._columns
            table = Table(
                layout,
                backend.put(numbers, like, dtype),
                backend.put(where, like),
                backend.put(start, like, dtype),
            )
            if backend.traced(table.numbers):
                return table  # made inside a trace: must not outlive it
            self._placed[key] = table
        return self._placed[key]  # type: ignore[no-any-return]

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
        """The table on the host: one column an evaluation and one for the end.

        Numbers (float64), whole numbers (next column; row number of the draws; the times a draw's
        interval begins and ends, see `brownian`, equal where it has none), and the start: init
        scale, alpha, sigma, then the weights of the start and its draws.
        """
        layout = self.check_traced()
        columns = [row_numbers(layout, row) for row in self.rows]
        n = np.arange(len(self) + 1)
        times = np.zeros((len(layout.draws), 2, len(self) + 1))
        for i, row in enumerate(self.rows):
            for value, draw in row.draws:
                if draw.interval is not None:
                    times[value - layout.first_draw, :, i] = [cell(lam) for lam in draw.interval]
        counts = [np.minimum(n + 1, len(self)), n + 1]
        where = np.stack([*counts, *times.reshape(-1, len(n))]).astype(np.int32)
        first = self.grid.points[0]
        weights = {value: c for value, c, _ in self.start.terms}
        weighted = [weights.get(value, 0.0) for value in range(1 + len(layout.start_draws))]
        start = np.array([self.grid.init_scale, first.alpha, first.sigma, *weighted])
        # what the column of the end computes is not used: a copy keeps it free of 0 / 0
        placed = np.stack([*columns, columns[-1]], axis=1), where, start
        for array in placed:
            array.flags.writeable = False
        return placed

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
        lines = [head, f"start   x = {_sum(self.start.terms, {**names, 0: 'start'}, digits)}"]
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
        """Return the recipe as JSON; `Plan.from_json` gives an equal plan."""
        recipe = {
            "cmsched": "plan 1",
            "sampler": self.sampler,
            "grid": self.grid.to_dict(),
            "prediction": self.prediction.to_dict(),
            "options": dict(self.options),
        }
        return json.dumps(_finite(recipe), allow_nan=False)

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
            prediction = dict(data["prediction"])
            prediction["threshold"] = prediction["threshold"] and tuple(prediction["threshold"])
            grid = Grid.from_dict(data["grid"])
            return make_plan(data["sampler"], grid, Prediction(**prediction), data["options"])
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
        names[2 + i] = f"{ {'d': 'x0', 'k': f'kept{rank}', 'r': 'raw'}.get(kind, kind) }[-{age}]"
    names.update({layout.first_draw + i: f"z{rank}" for i, (rank, _) in enumerate(layout.draws)})
    names.update({layout.first_given + i: name for i, name in enumerate(layout.given)})
    names.update({layout.raw + 1 + i: f"kept{i}" for i in range(layout.keeps)})
    return names


class Table:
    """A plan's numbers as arrays on one device; a pytree whose layout is static."""

    __slots__ = ("layout", "numbers", "start", "where")

    def __init__(self, layout: Layout, numbers: Array, where: Array, start: Array) -> None:
        self.layout, self.numbers, self.where, self.start = layout, numbers, where, start

    def __len__(self) -> int:
        """Return the number of network evaluations."""
        return int(self.numbers.shape[1]) - 1

    def check_traced(self) -> Layout:
        """Return the layout, as a plan does."""
        return self.layout


pytree(
    Table,
    lambda table: ((table.numbers, table.where, table.start), table.layout),
    lambda layout, children: Table(layout, *children),
)


def make_plan(
    sampler: str,
    grid: Grid,
    prediction: Prediction,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of a registered sampler on a grid.

    Raises:
        ValueError: unknown sampler; a step it cannot take; more stored than the registry says.
        TypeError: unknown option; a sampler that is not linear.
    """
    entry = samplers.get(sampler)
    complete = {k: _plain(k, v) for k, v in entry.complete(options or {}).items()}
    if grid.upward and (entry.trait("stochastic", complete) or entry.trait("order", complete) <= 0):
        raise ValueError(
            f"sampler {sampler!r} with these options goes from noise to data only; a grid upward"
            " (inversion) needs a deterministic one, such as ddim with eta=0"
        )
    recipe = (sampler, grid, prediction, MappingProxyType(complete))
    if not entry.traced:
        if grid.points[0].alpha == 0.0 and not entry.trait("singular", complete):
            raise ValueError(
                f"sampler {sampler!r} cannot start where alpha is 0 (zero terminal SNR, a flow at"
                " sigma = 1): use a grid that starts at a finite level"
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
    terms: list[list[dict[Leaf, Any]]] = []
    for i, row in enumerate(forms):
        where = f"{entry.name}, evaluation {i - 1}"
        terms.append([_fold(f, i - 1, linear, folded).clean(where) for f in row])

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

    def number(leaf: Leaf, i: int) -> int:
        kind, j, rank = leaf
        if kind == "g":
            return layout.first_given + layout.given.index(rank)
        if j < i:
            return 2 + slots.index((kind, rank, i - j))
        if kind == "z":
            return layout.first_draw + ranks.index(rank)
        names = {"x": SAMPLE, "m": OUTPUT, "d": layout.estimate, "r": layout.raw}
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
        live = {leaf for leaf, last in last_use.items() if last > i and leaf[1] <= i}
        here = terms[i + 1]
        statements: list[tuple[int, tuple[Term, ...]]] = []
        if ("r", i, 0) in live:
            p, q, skip, out = linear[i]
            statements.append((layout.raw, ((SAMPLE, skip + out * p, 0), (OUTPUT, out * q, 0))))
        for rank, form in enumerate(here[:-1]):
            if ("k", i, rank) in last_use:
                statements.append((layout.raw + 1 + rank, write(form, i)))
        statements.append((layout.following, write(here[-1], i)))
        picks = tuple(
            number((kind, i - age + 1, rank), i) if (kind, i - age + 1, rank) in live else 2 + s
            for s, (kind, rank, age) in enumerate(slots)
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

    pattern = []
    for value in range(layout.raw, layout.following + 1):
        union = {
            (v, region)
            for row in rows
            for dest, ts in row.statements
            if dest == value
            for v, _, region in ts
        }
        pattern.append(tuple(sorted(union)))
    picks = tuple(
        number((kind, n, rank), n) if age == 1 else 2 + slots.index((kind, rank, age - 1))
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
    out = Form(
        {leaf: c for leaf, c in form.terms.items() if not (leaf[0] in folded and leaf[1] == i)}
    )
    for leaf, (c, _) in form.terms.items():
        if leaf[0] in folded and leaf[1] == i:
            p, q, skip, last = linear[i]
            x = Form({("x", i, 0): (skip + last * p, abs(skip) + abs(last * p))})
            out = out + (x + last * q * Form.leaf("m", i, 0)) * c
    return out


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


def row_numbers(layout: Layout, row: Row) -> np.ndarray:
    """Return a row as the column of a table.

    Scale, t, the estimate's four numbers, alpha, sigma, learned ranges, the pattern's weights.
    """
    at = row.point
    ranges = {v: d.log_range for v, d in row.draws}
    learned = [
        number
        for k, (_, is_learned) in enumerate(layout.draws)
        if is_learned
        for number in ranges.get(layout.first_draw + k) or (0.0, 0.0)
    ]
    statements = dict(row.statements)
    weights = []
    for value, sources in enumerate(layout.pattern, start=layout.raw):
        have = {(v, region): c for v, c, region in statements.get(value, ())}
        weights += [have.get(source, 0.0) for source in sources]
    return np.array([at.scale, at.t, *row.estimate, at.alpha, at.sigma, *learned, *weights])
