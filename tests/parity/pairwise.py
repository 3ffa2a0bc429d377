"""All pairs: a short list of cases in which every two values of two factors meet."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Case = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """A condition on some factors; `rejected` is a case against it that neither library can run."""

    names: tuple[str, ...]
    holds: Callable[..., bool]
    rejected: Mapping[str, Any] | None = None

    def allows(self, case: Case) -> bool:
        """Whether a case, complete or not, can still obey."""
        return not all(name in case for name in self.names) or self.holds(
            *(case[name] for name in self.names)
        )


def all_pairs(factors: Mapping[str, Sequence[Any]], rules: Sequence[Rule]) -> list[Case]:
    """Cases that visit every pair of values which the rules allow; the same ones every time."""
    ruled = {name for rule in rules for name in rule.names}
    order = sorted(factors, key=lambda name: (name not in ruled, -len(factors[name])))
    of = {name: [rule for rule in rules if name in rule.names] for name in factors}
    uncovered = {
        ((a, i), (b, j)): None
        for a, b in itertools.combinations(order, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }

    def gain(chosen: dict[str, int], name: str, k: int) -> int:
        return sum(
            ((other, i), (name, k)) in uncovered or ((name, k), (other, i)) in uncovered
            for other, i in chosen.items()
        )

    def allowed(chosen: dict[str, int], name: str) -> bool:
        case = {key: factors[key][i] for key, i in chosen.items()}
        return all(rule.allows(case) for rule in of[name])

    def open_ended(chosen: dict[str, int], name: str) -> bool:
        """Whether every factor that a rule ties to this one still has a value."""
        tied = {other for rule in of[name] for other in rule.names if other not in chosen}
        return all(
            any(allowed({**chosen, other: k}, other) for k in range(len(factors[other])))
            for other in tied
        )

    def complete(chosen: dict[str, int], left: list[str]) -> dict[str, int] | None:
        if not left:
            return chosen
        name, *rest = left
        values = sorted(range(len(factors[name])), key=lambda k: -gain(chosen, name, k))
        for k in values:
            wider = {**chosen, name: k}
            if allowed(wider, name) and open_ended(wider, name):
                found = complete(wider, rest)
                if found:
                    return found
        return None

    cases = []
    while uncovered:
        pair = next(iter(uncovered))
        chosen = dict(pair)
        found = None
        if all(allowed(chosen, name) and open_ended(chosen, name) for name in chosen):
            found = complete(chosen, [name for name in order if name not in chosen])
        if found is None:
            del uncovered[pair]  # the rules forbid it
            continue
        for a, b in itertools.combinations(order, 2):
            uncovered.pop(((a, found[a]), (b, found[b])), None)
        cases.append({name: factors[name][found[name]] for name in factors})
    return cases
