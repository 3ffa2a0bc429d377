"""Parts of a step of the solvers, and UniPC's corrector on other schedulers, as in diffusers."""

import pytest
import torch

import cmsched

from . import runs
from .declaring import close
from .lifted import Draws, reference

pytestmark = pytest.mark.peers

X, *OUTPUTS = (runs.normal((2, 3, 4), torch.float64, seed) for seed in range(12))
STEPS = 8


def pair(name: str, cls: type, **options):
    """Theirs and ours, after set_timesteps."""
    both = cls(**options), getattr(cmsched, name)(**options, compatibility="diffusers", xp="torch")
    for scheduler in both:
        scheduler.set_timesteps(STEPS)
    return both


def advance(schedulers, i: int, x: torch.Tensor) -> None:
    for scheduler in schedulers:
        scheduler.step(OUTPUTS[i], scheduler.timesteps[i], x)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order: int) -> None:
    name = "DEISMultistepScheduler"
    update = {
        1: lambda s, m: s.deis_first_order_update(m[-1], sample=X),
        2: lambda s, m: s.multistep_deis_second_order_update(m, sample=X),
        3: lambda s, m: s.multistep_deis_third_order_update(m, sample=X),
    }[order]
    with reference(name, Draws(), lifted=True) as cls:
        theirs, ours = pair(name, cls, solver_order=order)
        for i in range(4):
            advance((theirs, ours), i, X)
            assert ours.lower_order_nums == theirs.lower_order_nums
            for a, b in zip(ours.model_outputs[1:], theirs.model_outputs[1:], strict=True):
                assert (a is None) == (b is None)
                assert a is None or close(a, b)
        assert close(
            ours.convert_model_output(OUTPUTS[5], sample=X),
            theirs.convert_model_output(OUTPUTS[5], sample=X),
        )
        assert close(update(ours, OUTPUTS), update(theirs, OUTPUTS))
    assert ours.step_index == 4, "asking changes nothing"


SINGLE = [
    (algorithm, solver, order)
    for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")
    for solver in ("midpoint", "heun")
    for order in (1, 2, 3)
]


@pytest.mark.parametrize(("algorithm", "solver", "order"), SINGLE)
def test_singlestep(algorithm: str, solver: str, order: int) -> None:
    name = "DPMSolverSinglestepScheduler"
    options = {
        "algorithm_type": algorithm,
        "solver_type": solver,
        "solver_order": order,
        "final_sigmas_type": "sigma_min",
    }
    z = OUTPUTS[9]
    updates = [
        lambda s: s.singlestep_dpm_solver_update(OUTPUTS, sample=X, order=order, noise=z),
        {
            1: lambda s: s.dpm_solver_first_order_update(OUTPUTS[-1], sample=X, noise=z),
            2: lambda s: s.singlestep_dpm_solver_second_order_update(OUTPUTS, sample=X, noise=z),
            3: lambda s: s.singlestep_dpm_solver_third_order_update(OUTPUTS, sample=X, noise=z),
        }[order],
    ]
    draws = Draws()
    with reference(name, draws, lifted=True) as cls:
        theirs, ours = pair(name, cls, **options)
        for n in range(1, STEPS + 1):
            if n % order == 0 or n > order:  # shorter ones have no reference
                assert (
                    ours.get_order_list(n)[: n - n % order]
                    == theirs.get_order_list(n)[: n - n % order]
                    or theirs.config.lower_order_final
                )
        assert ours.order_list == theirs.order_list
        for i in range(order + 1 if order > 1 else 3):
            theirs.step(OUTPUTS[i], theirs.timesteps[i], X)
            ours.step(OUTPUTS[i], ours.timesteps[i], X, variance_noise=z)
            stage = ours.order_list[i + 1]
            both = zip(ours.model_outputs, theirs.model_outputs, strict=True)
            kept = [(a, b) for a, b in both if a is not None]
            assert all(close(a, b) for a, b in kept)
            needed = 1 if (solver, stage) == ("midpoint", 3) else stage - 1
            assert len(kept) == needed
        wrong = options["algorithm_type"].startswith("sde") and (solver, order) == ("heun", 3)
        for update in updates:  # the reference's weight of the bend: a declared difference
            assert close(update(ours), update(theirs)) != wrong
        with pytest.raises(ValueError, match="order must be"):
            ours.singlestep_dpm_solver_update(OUTPUTS, sample=X, order=4)


UNIPC = [
    (order, solver, data)
    for order in (1, 2, 3, 4)
    for solver in ("bh1", "bh2")
    for data in (True, False)
]


@pytest.mark.parametrize(("order", "solver", "data"), UNIPC)
def test_unipc(order: int, solver: str, data: bool) -> None:
    name = "UniPCMultistepScheduler"
    options = {"solver_order": order, "solver_type": solver, "predict_x0": data}
    with reference(name, Draws(), lifted=True) as cls:
        theirs, ours = pair(name, cls, **options, final_sigmas_type="sigma_min")
        for i in range(5):
            advance((theirs, ours), i, X)
        assert all(map(close, ours.model_outputs, theirs.model_outputs))
        for k in range(1, order + 1):
            given = {"last_sample": X, "this_sample": OUTPUTS[7], "order": k}
            expected = theirs.multistep_uni_c_bh_update(OUTPUTS[6], **given)
            assert close(ours.multistep_uni_c_bh_update(OUTPUTS[6], **given), expected)
        history = list(theirs.model_outputs)
        theirs.model_outputs = [*history[1:], theirs.convert_model_output(OUTPUTS[6], sample=X)]
        for k in range(1, order + 1):
            expected = theirs.multistep_uni_p_bh_update(OUTPUTS[6], sample=X, order=k)
            found = ours.multistep_uni_p_bh_update(OUTPUTS[6], sample=X, order=k)
            assert close(found, expected)
        assert ours.step_index == 5, "asking changes nothing"
        with pytest.raises(ValueError, match="order"):
            ours.multistep_uni_p_bh_update(OUTPUTS[6], sample=X, order=order + 1)


def test_shifts_of_unipc() -> None:
    name, t = "UniPCMultistepScheduler", torch.linspace(1, 0.1, 5, dtype=torch.float64)
    for kind in ("exponential", "linear"):
        options = {
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "time_shift_type": kind,
            "shift_terminal": 0.07,
        }
        with reference(name, Draws(), lifted=True) as cls:
            theirs, ours = pair(name, cls, **options)
            for sigma in (1.0, 0.5):
                assert close(ours.time_shift(0.7, sigma, t), theirs.time_shift(0.7, sigma, t))
            assert close(ours.stretch_shift_to_terminal(t), theirs.stretch_shift_to_terminal(t))


PREDICTORS = [
    ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
    ("DEISMultistepScheduler", {"timestep_spacing": "trailing", "solver_order": 3}),
]


@pytest.mark.parametrize("solver", ["bh1", "bh2"])
@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("predictor", "options"), PREDICTORS)
def test_solver_p(predictor: str, options: dict, order: int, data: bool, solver: str) -> None:
    """A network whose output is what is integrated, so that both keep it while a sample changes.

    The reference reads other outputs anew at the corrected sample.
    """
    name = "UniPCMultistepScheduler"
    kind = {"prediction_type": "sample" if data else "epsilon"}
    common = {
        "solver_order": order,
        "predict_x0": data,
        "solver_type": solver,
        "timestep_spacing": "trailing",
        "disable_corrector": [2],
        "lower_order_final": False,
        # the corrector never goes to the end
        "final_sigmas_type": "sigma_min",
        **kind,
    }
    with reference(predictor, Draws(), lifted=True) as other:
        inner = other(**options, **kind)
        with reference(name, Draws(), lifted=True) as cls:
            theirs = cls(**common, solver_p=inner)
            mine = getattr(cmsched, predictor)(**options, **kind, compatibility="diffusers")
            ours = cmsched.UniPCMultistepScheduler(
                **{**common, "final_sigmas_type": "sigma_min"}, solver_p=mine, xp="torch"
            )
            x = y = X
            for scheduler in (theirs, ours):
                scheduler.set_timesteps(STEPS)
            for i in range(STEPS - 1):  # the last step ends where each scheduler says
                x = theirs.step(OUTPUTS[i], theirs.timesteps[i], x).prev_sample
                y = ours.step(OUTPUTS[i], ours.timesteps[i], y).prev_sample
                assert close(x, y), i


def test_what_cannot_be_corrected() -> None:
    for other in (cmsched.HeunDiscreteScheduler(), cmsched.EulerAncestralDiscreteScheduler()):
        with pytest.raises(ValueError, match="cannot be corrected"):
            cmsched.UniPCMultistepScheduler(solver_p=other)
    with pytest.raises(TypeError, match="solver_p must be a scheduler"):
        cmsched.UniPCMultistepScheduler(solver_p="ddim")
