"""What a row of a plan is, and the numbering of values that rows and both executions share.

A row is a short straight-line program over numbered values (see `Layout`): a few linear
combinations, then which values become (sample, *memory).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from .predictions import Prediction
from .schedules import Point
from .tracing import Draw

__all__ = [
    "EVERYWHERE",
    "INSIDE",
    "OUTPUT",
    "OUTSIDE",
    "SAMPLE",
    "Layout",
    "Row",
    "Start",
    "Term",
    "Work",
    "implied",
    "padded",
    "program_of",
    "renumbered",
    "row_weights",
    "value_keys",
    "work_of",
]

EVERYWHERE, INSIDE, OUTSIDE = 0, 1, 2  # regions of a mask
Term = tuple[int, float, int]  # value number, coefficient, region
SAMPLE, OUTPUT = 0, 1


@dataclass(frozen=True)
class Layout:
    """The static structure of a plan: what is stored, drawn and given, and which values exist.

    Values are numbered: 0 sample, 1 output, memory, draws, given arrays, the estimate, the raw
    estimate, what each Store stores, the next sample. In the start row value 0 is the start, and
    its draws follow.
    """

    slots: tuple[tuple[str, int, int], ...]  # (kind, rank, age in evaluations) of each stored array
    draws: tuple[tuple[int, bool], ...]  # (rank, is its variance learned)
    given: tuple[str, ...]
    n_stored_sums: int
    needs_x0: bool  # whether the estimate is computed as an array of its own
    sums: tuple[tuple[tuple[int, int], ...], ...]  # (source, region) of each term, from x0 on
    stores_from: tuple[int, ...]  # the value each slot is filled from
    start_draws: tuple[int, ...]
    integral: bool  # whether the network is conditioned on integers
    masked: bool  # whether a mask is given
    scaled: bool  # whether the network's input is scaled anywhere
    prediction: Prediction
    stacked: bool = False  # whether an index says of which plan it is, see `tables.host_table`
    clips_by_row: bool = False  # whether the bounds of clipping are in the table

    def __post_init__(self) -> None:
        """Count now: torch.compile cannot trace the lock that a cached property takes."""
        _ = self.placeholders, self.terms, self.statements, self.results

    @cached_property
    def first_draw(self) -> int:
        """Number of the first drawn value."""
        return 2 + len(self.slots)

    @cached_property
    def first_given(self) -> int:
        """Number of the first given array."""
        return self.first_draw + len(self.draws)

    @cached_property
    def x0(self) -> int:
        """Number of the estimate x0."""
        return self.first_given + len(self.given)

    @cached_property
    def raw_x0(self) -> int:
        """Number of the estimate before projection."""
        return self.x0 + 1

    @cached_property
    def next_sample(self) -> int:
        """Number of the next sample."""
        return self.raw_x0 + self.n_stored_sums + 1

    @cached_property
    def terms(self) -> tuple[tuple[int, int, int], ...]:
        """The terms of all sums, one (value, source, region) per weight."""
        return tuple(
            (value, source, region)
            for value, sources in enumerate(self.sums, start=self.x0)
            for source, region in sources
        )

    @cached_property
    def statements(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The sums as (value, sources), where no mask is; see `backends.fused`."""
        sums = enumerate(self.sums, start=self.x0)
        return tuple((value, tuple(v for v, _ in terms)) for value, terms in sums if terms)

    @cached_property
    def results(self) -> tuple[int, ...]:
        """The values that statements make and a state holds."""
        made = {value for value, _ in self.statements}
        return tuple(sorted({*self.stores_from, self.next_sample} & made))

    @cached_property
    def placeholders(self) -> tuple[None, ...]:
        """Places of the values that a step computes, draws or is given, and of copies."""
        results = len(self.slots) + 2
        return (None,) * (self.next_sample + 1 - self.first_draw + results)

    def sized_as(self, other: "Layout") -> bool:
        """Whether both number the same values alike."""
        return value_keys(self) == value_keys(other)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws."""
        return bool(self.draws or self.start_draws)


class Row(NamedTuple):
    """One step: where the network is evaluated and what is done with its output."""

    point: Point
    estimate: tuple[float, float, float, float]  # p, q, c_skip, c_out
    needs_x0: bool  # whether this row needs the estimate as an array
    draws: tuple[tuple[int, Draw], ...]  # (value number, draw)
    stores_from: tuple[int, ...]
    program: tuple[tuple[Any, ...], ...]  # sums in turn: (value, sources, weights, regions or None)

    @property
    def statements(self) -> tuple[tuple[int, tuple[Term, ...]], ...]:
        """The program as (value number, its terms in order)."""
        columns = (
            (value, zip(sources, weights, regions or _everywhere(sources), strict=True))
            for value, sources, weights, regions in self.program
        )
        return tuple((value, tuple(sorted(terms))) for value, terms in columns)


class Start(NamedTuple):
    """The start row: terms of the first sample over the start (value 0) and draws."""

    terms: tuple[Term, ...]
    draws: tuple[tuple[int, Draw], ...]


def row_weights(layout: Layout, row: Row) -> list[float]:
    """Return a row's weight of each of the layout's terms."""
    have = {
        (value, source, region): weight
        for value, sources, weights, regions in row.program
        for source, weight, region in zip(
            sources, weights, regions or _everywhere(sources), strict=True
        )
    }
    return [have.get(term, 0.0) for term in layout.terms]


def program_of(value: int, terms: Iterable[Term]) -> tuple[Any, ...]:
    """Return (value, sources, weights, regions or None if all everywhere).

    A unit weight comes first, where it costs no multiplication; a sum of nothing is 0 x.
    """
    ordered = sorted(terms, key=lambda term: term[1] != 1.0) or [(SAMPLE, 0.0, EVERYWHERE)]
    sources, weights, regions = (tuple(column) for column in zip(*ordered, strict=True))
    return value, sources, weights, regions if any(regions) else None


class Work(NamedTuple):
    """What a row does so that each result is an array of its own.

    None is an array that the step was given, which the caller or a network may write to later, and
    no two are one. Only what was stored before moves by renaming.
    """

    program: tuple[tuple[Any, ...], ...]  # as in `Row`, but for sums that only rename a value
    copies: tuple[tuple[int, int], ...]  # then: (value, source)
    results: tuple[int, tuple[int, ...], int | None]  # next sample, stored arrays, x0 if asked for
    statements: tuple[tuple[int, tuple[int, ...]], ...]  # those of the layout, and copies
    weights: tuple[float, ...]  # of their terms
    made: tuple[int, ...]  # the results that statements make

    def taken(self, values: Sequence[Any]) -> tuple[Any, tuple[Any, ...], Any]:
        """Return the results among the values."""
        following, stored, x0 = self.results
        estimate = None if x0 is None else values[x0]
        return values[following], tuple([values[v] for v in stored]), estimate


def work_of(layout: Layout, row: Row, estimate: bool, owned: bool = True) -> Work:
    """Return what a row does; with x0 among the results, if that is asked for.

    Where x0 is projected no sum makes it: it is a value before the program. What is stored may be
    the sample itself where it need not be an array of its own (owned).
    """
    program, statements = list(row.program), list(layout.statements)
    weights = dict(zip(layout.terms, row_weights(layout, row), strict=True))
    if estimate and not layout.prediction.projects:
        p, q, skip, out = row.estimate
        terms = [(SAMPLE, skip + out * p, EVERYWHERE), (OUTPUT, out * q, EVERYWHERE)]
        if not row.needs_x0:
            program.insert(0, program_of(layout.x0, [term for term in terms if term[1]]))
        statements = [(layout.x0, (SAMPLE, OUTPUT)), *(s for s in statements if s[0] != layout.x0)]
        weights.update({(layout.x0, v, region): c for v, c, region in terms})
    sums = []
    renamed: dict[int, int] = {}
    for value, sources, own, regions in program:
        sources = tuple([renamed.get(v, v) for v in sources])
        if own == (1.0,) and regions is None:
            renamed[value] = sources[0]
        else:
            sums.append((value, sources, own, regions))
    copies: list[tuple[int, int]] = []
    results: list[int] = []
    wanted = [layout.next_sample, *row.stores_from, *([layout.x0] if estimate else [])]
    for place, value in enumerate(wanted):
        source = renamed.get(value, value)
        stored = 0 < place <= len(layout.slots)
        moves = stored and (OUTPUT < source < layout.first_draw or (source == SAMPLE and not owned))
        if not moves and (source < layout.x0 or source in results):
            copies.append((layout.next_sample + 1 + len(copies), source))
            source = copies[-1][0]
        results.append(source)
    statements += [(value, (source,)) for value, source in copies]
    weights.update({(value, source, EVERYWHERE): 1.0 for value, source in copies})
    terms_of = [(value, v, EVERYWHERE) for value, sources in statements for v in sources]
    values = {value for value, _ in statements}
    return Work(
        tuple(sums),
        tuple(copies),
        (results[0], tuple(results[1 : 1 + len(layout.slots)]), results[-1] if estimate else None),
        tuple(statements),
        tuple([weights.get(term, 0.0) for term in terms_of]),
        tuple([value for value in results if value in values]),
    )


def _everywhere(sources: tuple[int, ...]) -> tuple[int, ...]:
    return (EVERYWHERE,) * len(sources)


def padded(one: Layout, other: Layout) -> Layout:
    """Return a layout that has the arrays of both: what a row does not use has weight 0.

    The network is told integers if those of all are; a projection, a boundary and a variance head
    are there if one has them, and the bounds of clipping are in the table where they differ.

    Raises:
        ValueError: one has given arrays, a mask or a thresholding that the other has not; they
            store arrays of one name from different values.
    """
    ours, theirs = one.prediction, other.prediction
    for what, a, b in (
        ("given arrays", one.given, other.given),
        ("masks", one.masked, other.masked),
        ("thresholdings", ours.threshold, theirs.threshold),
    ):
        if a != b:
            raise ValueError(f"their {what} differ ({b!r}, not {a!r})")
    clips = [c for c in (ours.clip, theirs.clip) if c is not None]
    scaling = ours.timestep_scaling if theirs.timestep_scaling is None else theirs.timestep_scaling
    prediction = dataclasses.replace(
        ours,
        clip=max(clips, default=None),
        timestep_scaling=scaling,
        variance_head=ours.variance_head or theirs.variance_head,
    )
    learned = dict.fromkeys(sorted({rank for rank, _ in (*one.draws, *other.draws)}), False)
    for rank, own in (*one.draws, *other.draws):
        learned[rank] |= own
    wide = dataclasses.replace(
        one,
        slots=tuple(sorted({*one.slots, *other.slots})),
        draws=tuple(learned.items()),
        n_stored_sums=max(one.n_stored_sums, other.n_stored_sums),
        needs_x0=one.needs_x0 or other.needs_x0,
        sums=(),
        stores_from=(),
        start_draws=tuple(sorted({*one.start_draws, *other.start_draws})),
        integral=one.integral and other.integral,
        scaled=one.scaled or other.scaled,
        prediction=prediction,
        clips_by_row=one.clips_by_row or other.clips_by_row or ours.clip != theirs.clip,
    )
    filled: dict[tuple[str, int, int], int] = {}
    terms: dict[int, set[tuple[int, int]]] = {}
    for layout in (one, other):
        new = renumbering(layout, wide)
        for slot, source in zip(layout.slots, layout.stores_from, strict=True):
            if filled.setdefault(slot, new[source]) != new[source]:
                raise ValueError(f"they store {slot} from different values")
        for value, sources in enumerate(layout.sums, start=layout.x0):
            terms.setdefault(new[value], set()).update((new[v], region) for v, region in sources)
    if prediction.projects:  # then the estimate is none of the sums
        terms[wide.x0] = set()
    sums = [sorted(terms.get(v, ())) for v in range(wide.x0, wide.next_sample + 1)]
    stores_from = tuple(filled[slot] for slot in wide.slots)
    return dataclasses.replace(wide, sums=tuple(map(tuple, sums)), stores_from=stores_from)


def renumbering(layout: Layout, wide: Layout) -> dict[int, int]:
    """Return the numbers that the values of a layout have in one that contains it."""
    keys = {key: number for number, key in enumerate(value_keys(wide))}
    return {number: keys[key] for number, key in enumerate(value_keys(layout))}


def renumbered(rows: Iterable[Row], layout: Layout, wide: Layout) -> tuple[Row, ...]:
    """Return rows of a layout in the numbers of one that contains it, to be a table's columns."""
    new = renumbering(layout, wide)
    return tuple(
        row._replace(
            draws=tuple((new[value], draw) for value, draw in row.draws),
            program=tuple(
                (new[value], tuple(new[v] for v in sources), weights, regions)
                for value, sources, weights, regions in row.program
            ),
        )
        for row in rows
    )


def implied(prediction: Prediction, at: Point) -> tuple[float, float, float, float, float]:
    """Return the weights of eps = a x + b m + c x0, and of v = d eps + e x0.

    Where sigma is 0, x and x0 do not determine eps, and it is what the output m says.

    Raises:
        ValueError: sigma is 0, and the output says nothing about eps there.
    """
    if at.sigma > 0.0:
        eps = 1.0 / at.sigma, 0.0, -at.alpha / at.sigma
    else:
        eps = *prediction.noise(at), 0.0
    size = math.hypot(at.alpha, at.sigma)
    return *eps, at.alpha / size, -at.sigma / size


def value_keys(layout: Layout) -> list[Any]:
    """Return what the values of a layout are, in the order of their numbers."""
    draws = [("draw", rank) for rank, _ in layout.draws]
    sums = [("stored sum", rank) for rank in range(layout.n_stored_sums)]
    names = ["sample", "output", *layout.slots, *draws, *layout.given]
    return [*names, "x0", "raw x0", *sums, "next sample"]
