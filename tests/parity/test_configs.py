"""A configuration handed from one class to another and back, as in the reference."""

import copy
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch

import cmsched

from .declaring import quick
from .grid import Case
from .lifted import Draws, reference
from .spaces import SPACES

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:.*(kept in the config|has no effect)"),
]

NAMES = [
    *(member.name for member in cmsched.KarrasDiffusionSchedulers),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    *("LCMScheduler", "TCDScheduler"),
]


def chosen(name: str) -> list[Case]:
    """Sets of options in which every option of a class takes a value that is not its default."""
    space = SPACES[name]
    default = {key: space.default[key] for key in space.options(space.default)}
    left, found = {key for key in default if len(space.factors[key]) > 1}, []
    while left:
        best = max(space.cases, key=lambda case: sum(case[key] != default[key] for key in left))
        left = {key for key in left if best[key] == default[key]}
        options = space.options(best)
        found.append({key: options[key] for key in default if best[key] != default[key]})
    return found


# what the reference takes for order 3, and a run that it does not finish (both are declared)
REFUSED = "solver_order=4 is not one of|a grid runs one way"
SOLVERS = {"algorithm_type", "solver_type"}
CHOSEN = {name: chosen(name) for name in NAMES}


def shown(scheduler: Any) -> dict[str, Any]:
    """A configuration without bookkeeping and words of solvers; which of its values are defaults.

    Another solver's word stays in ours, where it stands for one of the class's own. The reference
    puts its own in the place of that, and does not find the way back.
    """
    config = scheduler.config
    plain = {k: v for k, v in config.items() if not k.startswith("_") and k not in SOLVERS}
    return {**plain, "defaults": {*config.get("_use_default_values", ())} & plain.keys()}


def chain(classes: Any, options: Case, names: tuple[str, ...]) -> Iterator[Any]:
    """The scheduler of the first name, and what each next one makes of the config before."""
    scheduler = getattr(classes, names[0])(**options)
    yield scheduler
    for name in names[1:]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = getattr(classes, name).from_config(copy.deepcopy(scheduler.config))
        yield scheduler


def theirs(options: Case, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], bool]:
    """The reference's configurations, none where a class refuses a value; whether a step works."""
    with reference(names[0], Draws(), lifted=False):  # for its silence
        try:
            found = list(chain(diffusers, options, names))
        except (ValueError, NotImplementedError):
            return [], False
        configs = [shown(scheduler) for scheduler in found]
        try:
            quick(found[1], 4)
        except (ValueError, NotImplementedError, TypeError, RuntimeError):
            return configs, False
    return configs, True


def test_every_option_is_changed() -> None:
    for name, sets in CHOSEN.items():
        fixed = {k for k, v in SPACES[name].factors.items() if len(v) == 1}
        assert {key for options in sets for key in options} | fixed >= {
            *getattr(cmsched, name).options
        }


@pytest.mark.parametrize("source", NAMES)
def test_change_of_class(source: str) -> None:
    """A, B and A again have the configurations of the reference, and B runs where that does."""
    for options, target in itertools.product(CHOSEN[source], NAMES):
        names = (source, target, source)
        expected, works = theirs(options, names)
        found, refused = [], ""
        try:
            found = list(chain(cmsched, options, names))
            assert torch.isfinite(quick(found[1], 4)).all()
        except ValueError as error:
            refused = str(error)
        assert not refused or not works or re.search(REFUSED, refused), (target, options)
        if not found:
            continue
        assert not expected or [shown(scheduler) for scheduler in found] == expected
        a, _, again = found
        assert {k: again.config[k] for k in options} == {k: a.config[k] for k in options}
