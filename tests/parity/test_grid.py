"""The grid leaves nothing out: every option, every value, every public name of the reference."""

import inspect
import random
from collections import Counter

import pytest
import torch

import cmsched

from . import runs
from .grid import MAKING, RUN, Space, is_given
from .lifted import Draws, reference
from .pairwise import Rule, all_pairs
from .spaces import SPACES

pytestmark = pytest.mark.peers

# of the reference only: what it needs for itself, and what its own base classes use
NOT_OURS = {
    "extract_init_dict": "sorts a config in from_config",
    "get_config_dict": "a deprecated alias of load_config",
    "ignore_for_config": "a list for its own decorator",
    "register_for_auto_class": "remote code of the Hub client",
    "push_to_hub": "save_config(..., push_to_hub=True)",
    "one": "the number 1, as a tensor",
}


@pytest.mark.parametrize("name", SPACES)
def test_every_value_is_visited(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    space = SPACES[name]
    with capsys.disabled():
        print(f"\n{name}: {len(space.cases)} cases")
        for factor, values in space.factors.items():
            seen = Counter(map(repr, (case[factor] for case in space.cases)))
            print(
                f"  {factor:34}", *(f"{value}: {seen[repr(value)]}" for value in values), sep="  "
            )
            assert all(seen[repr(value)] for value in values), factor


@pytest.mark.parametrize("name", SPACES)
def test_every_pair_is_visited(name: str) -> None:
    """Each pair of values is in a case, or a rule forbids it."""
    space = SPACES[name]
    names = list(space.factors)
    for i, a in enumerate(names):
        for b in names[:i]:
            seen = {(repr(case[a]), repr(case[b])) for case in space.cases}
            for x in space.factors[a]:
                for y in space.factors[b]:
                    assert (repr(x), repr(y)) in seen or forbidden(space, {a: x, b: y}), (
                        a,
                        x,
                        b,
                        y,
                    )


def forbidden(space: Space, pair: dict) -> bool:
    """Whether chance finds no case that obeys the rules and has this pair of values."""
    rng = random.Random(0)
    ruled = {name for rule in space.rules for name in rule.names}
    for _ in range(400):
        case = {name: rng.choice(space.factors[name]) for name in ruled} | pair
        if all(rule.allows(case) for rule in space.rules):
            return False
    return True


def test_pairs_of_a_small_space() -> None:
    """The generator itself: all pairs but the forbidden one, in fewer cases than the product."""
    factors = {"a": (1, 2, 3), "b": (1, 2, 3), "c": (1, 2, 3), "d": (1, 2)}
    cases = all_pairs(factors, [Rule(("a", "b"), lambda a, b: (a, b) != (2, 3))])
    assert len(cases) < 16
    assert {(c["a"], c["b"]) for c in cases} == {
        (a, b) for a in (1, 2, 3) for b in (1, 2, 3) if (a, b) != (2, 3)
    }
    assert {(c["c"], c["d"]) for c in cases} == {(c, d) for c in (1, 2, 3) for d in (1, 2)}
    assert cases == all_pairs(factors, [Rule(("a", "b"), lambda a, b: (a, b) != (2, 3))])


def signature(function: object, *skip: str) -> list[tuple[str, object]]:
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]  # for deprecated names
    return [(p.name, p.default) for p in named if p.name not in skip]


ALIKE = ("add_noise", "set_begin_index", "index_for_timestep", "get_velocity")


@pytest.mark.parametrize("name", SPACES)
def test_signatures(name: str) -> None:
    """Names, order and defaults are the reference's; what we add comes after, by keyword."""
    space, mine = SPACES[name], getattr(cmsched, name)
    with reference(name, Draws(), lifted=False) as cls:
        for method, prefix in (("__init__", ""), ("set_timesteps", "set."), ("step", "step.")):
            if not hasattr(cls, method):
                continue
            wanted = signature(getattr(cls, method))
            found = signature(getattr(mine, method))
            assert found[: len(wanted)] == wanted, method
            added = list(inspect.signature(getattr(mine, method)).parameters.values())[
                len(wanted) :
            ]
            assert all(p.kind is p.KEYWORD_ONLY for p in added), method
            here = {"self", "model_output", "timestep", "sample", "generator", "return_dict"}
            here |= {"num_inference_steps", *space.loop_gives}  # the run's "n"
            missing = [n for n, _ in wanted if n not in here and prefix + n not in space.factors]
            assert not missing, f"{method}: not in the grid: {missing}"
        for method in (*ALIKE, *space.parts):
            if hasattr(cls, method):
                assert signature(getattr(mine, method)) == signature(getattr(cls, method)), method


@pytest.mark.parametrize("name", SPACES)
def test_public_names(name: str) -> None:
    """Every public attribute of a reference object, at every stage of a run, is there."""
    space = SPACES[name]
    with reference(name, Draws(), lifted=False) as cls:
        pair = cls(), runs.ours(space, {})
        x = torch.zeros(1, 3, 2, 2)
        for stage in ("new", "set", "after a step"):
            if stage == "set":
                for scheduler in pair:
                    scheduler.set_timesteps(space.usual, device="cpu")
            if stage == "after a step":
                case = {**space.default, "shape": tuple(x.shape), "n": space.usual}
                for scheduler in pair:
                    next(iter(space.loop(scheduler, case, x, 0, lambda i, x: x, lambda i: {})))
            wanted, found = ({k for k in dir(s) if k[0] != "_"} for s in pair)
            assert wanted - found <= {*NOT_OURS, *space.reference_only}, stage
            for key in wanted & found:
                if not hasattr(pair[0], key):  # a property that needs a run
                    continue
                assert callable(getattr(pair[0], key)) == callable(getattr(pair[1], key)), key


def test_given_stands_only_for_what_a_case_makes() -> None:
    for space in SPACES.values():
        for case in space.cases:
            made = {k for k, v in case.items() if is_given(v)}
            assert made <= {*MAKING, *space.making, "step.variance_noise"}
            assert RUN.keys() <= case.keys()
