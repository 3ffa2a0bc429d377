"""Each declared difference is proved, and is met by the grid or proved alone."""

import subprocess
import sys

import pytest

import cmsched

from .differences import DIFFERENCES, Difference, table
from .grid import SPACES

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda d: d.name)
def test_proof(difference: Difference) -> None:
    difference.prove()


def test_declarations() -> None:
    """Names are unique, classes exist, and only comparisons that exist are asked for."""
    assert len({d.name for d in DIFFERENCES}) == len(DIFFERENCES)
    for d in DIFFERENCES:
        assert set(d.classes) <= SPACES.keys()
        assert d.paper
        assert d.right
        assert d.scope in (
            "all",
            "but the estimate",
            "but the last step",
            "none",
            "none as installed",
        )
        assert not d.copied or d.scope == "all", "what is copied is compared"


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda d: d.name)
def test_exceptions_are_few(difference: Difference) -> None:
    """What is not compared is a small part of each class's cases."""
    if difference.scope != "none":
        return
    for name in difference.classes:
        cases = SPACES[name].cases
        met = sum(difference.where(SPACES[name], case) for case in cases)
        assert 0 < met <= len(cases) / 3


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


def test_set_alpha_to_one_of_lcm() -> None:
    plans = []
    for flag in (True, False):
        scheduler = cmsched.LCMScheduler(set_alpha_to_one=flag)
        assert (float(scheduler.final_alpha_cumprod) == 1.0) == flag
        plans.append(scheduler.plan(4))
    assert plans[0] == plans[1]
