"""Each declared difference is proved, and is met by the grid or proved alone."""

import subprocess
import sys
from collections.abc import Callable

import pytest

import cmsched

from .declaring import SCOPES
from .differences import DIFFERENCES, table
from .spaces import SPACES

pytestmark = pytest.mark.peers


PROOFS = [
    pytest.param(proof, id=f"{d.name}-{proof.__name__}") for d in DIFFERENCES for proof in d.proofs
]


@pytest.mark.parametrize("proof", PROOFS)
def test_proof(proof: Callable[[], None]) -> None:
    proof()


def test_declarations() -> None:
    """Few, named once, proved, of classes that exist, and only comparisons that exist are asked."""
    assert len(DIFFERENCES) <= 40
    assert len({d.name for d in DIFFERENCES}) == len(DIFFERENCES)
    assert len({param.id for param in PROOFS}) == len(PROOFS)
    for d in DIFFERENCES:
        assert d.proofs, d.name
        assert d.paper
        assert d.right
        assert len(d.proofs) == 1 or all(proof.__doc__ for proof in d.proofs), d.name
        assert d.concerned
        for concern in d.concerned:
            assert set(concern.classes) <= SPACES.keys()
            assert concern.scope in SCOPES
            assert not d.copied or concern.scope == "all", "what is copied is compared"


@pytest.mark.parametrize("name", SPACES)
def test_exceptions_are_few(name: str) -> None:
    """What is not compared is a small part of a class's cases; each reason for it is met."""
    space = SPACES[name]
    reasons = [
        concern
        for d in DIFFERENCES
        for concern in d.concerned
        if name in concern.classes and concern.scope == "none"
    ]
    met = [[reason.met(space, case) for reason in reasons] for case in space.cases]
    assert sum(map(any, met)) <= len(space.cases) / 3
    assert all(map(any, zip(*met, strict=True)))


def test_table() -> None:
    rows = table()
    assert {name for _, name, _, _ in rows} <= {n.removesuffix("Scheduler") for n in SPACES}
    command = [sys.executable, "-m", "tests.parity.differences"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.count("\n") == len(rows) + 2
    assert all(" | ".join(row) in printed for row in rows)


# what the classes say where the reference says something else


def test_increasing_timesteps_are_shown_reversed() -> None:
    scheduler = cmsched.CMStochasticIterativeScheduler()
    with pytest.raises(ValueError, match=r"decreasing.*\[22, 10, 0\]"):
        scheduler.set_timesteps(timesteps=[0, 10, 22])
    assert scheduler.num_inference_steps is None


@pytest.mark.parametrize("option", [{"timestep_spacing": "trailing"}, {"steps_offset": 1}])
def test_lcm_options_without_effect(option: dict, recwarn: pytest.WarningsRecorder) -> None:
    """By hand, by name or position, they warn once; from a config they are silent."""
    name, value = next(iter(option.items()))
    cls = cmsched.LCMScheduler
    names = list(cls.options)
    positional = [*list(cls.options.values())[: names.index(name)], value]
    for make in (lambda: cls(**option), lambda: cls(*positional)):
        with pytest.warns(UserWarning, match=f"{name} has no effect") as caught:
            scheduler = make()
        assert len(caught) == 1
        assert scheduler.config[name] == value
    again = cls.from_config({**scheduler.config, "_class_name": "LCMScheduler"})
    assert again.config[name] == value
    assert not recwarn.list


@pytest.mark.parametrize("cls", [cmsched.LCMScheduler, cmsched.TCDScheduler])
def test_set_alpha_to_one_of_distilled_networks(cls: type) -> None:
    """It is shown, and no step goes there, as in the reference."""
    plans = []
    for flag in (True, False):
        scheduler = cls(set_alpha_to_one=flag)
        assert (float(scheduler.final_alpha_cumprod) == 1.0) == flag
        plans.append(scheduler.plan(4))
    assert plans[0] == plans[1]
