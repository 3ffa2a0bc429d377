"""Uses of schedulers outside pipelines, with diffusers' own and with ours."""

from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from diffusers.configuration_utils import register_to_config

import cmsched
import cmsched.interop.diffusers as ours
from interop.pipelines import held
from interop.wild import NAMES, NEAR, draws, loop, made, off, one_step, start

# Times are made in float32 (IPNDM), and neighbours subtracted; or of one level more (EDMEuler).
ROUNDED = ("IPNDMScheduler", "EDMEulerScheduler")


def runs_at_once(name):
    """Whether diffusers' class steps before `set_timesteps`."""
    theirs = made(name)[0]
    try:
        one_step(theirs, start(theirs), theirs.timesteps[0], draws())
    except (ValueError, TypeError, AttributeError, IndexError):
        return False
    return True


@pytest.mark.parametrize("name", [name for name in NAMES if runs_at_once(name)])
def test_loops_over_all_training_steps(name):
    """As a tutorial of DDPM has it, without `set_timesteps`."""
    results = []
    for scheduler in made(name):
        times = scheduler.timesteps[:6]
        results.append((loop(scheduler, timesteps=times), np.asarray(times, np.float64)))
        assert torch.equal(scheduler.timesteps[:6], times)
    (a, theirs), (b, mine) = results
    rounding = 20 if name in ROUNDED else 1
    assert np.allclose(theirs, mine, rtol=1e-6 * rounding, atol=1000 * 2**-23)
    assert off(b, a) <= NEAR * min(rounding, 3)


@pytest.mark.parametrize("name", NAMES)
def test_no_step_reads_a_number_from_a_tensor(name):
    """On a device that would wait for it; steps are known by where their timesteps lie."""
    scheduler = made(name)[1]
    scheduler.set_timesteps(5)
    x, times = start(scheduler), list(scheduler.timesteps)

    def looked(*args):
        raise AssertionError("a number was read")

    readers = ("item", "tolist", "numpy", "__float__", "__int__")
    with mock.patch.multiple(torch.Tensor, **dict.fromkeys(readers, looked)):
        end = loop(scheduler, x=x, timesteps=times)
        with pytest.raises(AssertionError, match="a number was read"):
            float(times[0])
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler"])
@pytest.mark.parametrize("order", [[0, 0, 1, 1, 2, 2, 3, 3], [2, 3, 0, 1], [0, 1, 2, 3, 1]])
def test_steps_that_are_looked_up_go_anywhere(name, order):
    """Resampling takes a step twice; editing goes back to an earlier one."""
    results = []
    for scheduler in made(name):
        scheduler.set_timesteps(4)
        results.append(loop(scheduler, timesteps=scheduler.timesteps[order]))
    theirs, mine = results
    assert off(mine, theirs) <= NEAR


@pytest.mark.parametrize("n", [5, 6, 10])
@pytest.mark.parametrize("order", [2, 3])
def test_singlestep_solvers_begin_anywhere(order, n):
    for begin in range(1, n - 1):
        results = []
        for scheduler in made("DPMSolverSinglestepScheduler", solver_order=order):
            scheduler.set_timesteps(n)
            scheduler.set_begin_index(begin)
            results.append(loop(scheduler, timesteps=scheduler.timesteps[begin:]))
        theirs, mine = results
        assert off(mine, theirs) <= NEAR, begin


def test_options_changed_after_the_timesteps():
    results = []
    for scheduler in made("DDIMScheduler", clip_sample=False):
        scheduler.set_timesteps(4)
        scheduler.register_to_config(prediction_type="v_prediction", clip_sample=True)
        results.append(loop(scheduler))
    theirs, mine = results
    assert off(mine, theirs) <= NEAR


def test_timesteps_written_into():
    results = []
    for scheduler in made("DDIMScheduler", timestep_spacing="trailing", clip_sample=False):
        scheduler.set_timesteps(4)
        scheduler.timesteps -= 30
        t = scheduler.timesteps[0]
        results.append(one_step(scheduler, start(scheduler), t, draws()))
    theirs, mine = results
    # diffusers' step ends a stride below, at 719, ours at the next timestep, which is the same
    assert off(mine, theirs) <= NEAR


def test_start_scale_follows_the_sigmas():
    for scheduler in made("EulerDiscreteScheduler"):
        scheduler.set_timesteps(4)
        before = float(scheduler.init_noise_sigma)
        scheduler.sigmas = scheduler.sigmas * 0.5
        assert float(scheduler.init_noise_sigma) == pytest.approx(0.5 * before, rel=1e-5)


def test_one_generator_in_a_list_is_for_all():
    results = []
    for scheduler in made("EulerAncestralDiscreteScheduler"):
        scheduler.set_timesteps(4)
        generator = [torch.Generator().manual_seed(0)]
        results.append(loop(scheduler, generator=generator))
    theirs, mine = results
    assert off(mine, theirs) <= NEAR


@pytest.mark.parametrize(
    "change", [lambda v: v.to(torch.float64), lambda v: 0.9 * v], ids=["float64", "smaller"]
)
def test_tables_are_assigned(change):
    """To another dtype, to other values: diffusers' steps follow, and so do ours."""
    results = []
    for scheduler in made("DDIMScheduler", clip_sample=False):
        scheduler.set_timesteps(4)
        scheduler.alphas_cumprod = changed = change(scheduler.alphas_cumprod)
        assert scheduler.alphas_cumprod is changed
        results.append(loop(scheduler))
    theirs, mine = results
    assert off(mine, theirs) <= NEAR


def test_cogvideox_ignores_eta_as_diffusers_does():
    results = []
    for scheduler in made("CogVideoXDDIMScheduler"):
        scheduler.set_timesteps(4)
        x = start(scheduler)
        results.append(scheduler.step(0.3 * x, scheduler.timesteps[0], x, eta=1.0)[0])
    theirs, mine = results
    assert off(mine, theirs) <= NEAR


# subclasses


class WithOption(ours.DDIMScheduler):
    @register_to_config
    def __init__(self, extra=3, **options):
        super().__init__(**options)


class Mine(ours.DDIMScheduler):
    pass


SchedulerMixin = diffusers.SchedulerMixin  # who loads `Mine` looks for it in this module


def test_subclasses_register_options_of_their_own():
    scheduler = WithOption(extra=5, clip_sample=False)
    assert scheduler.config.extra == 5
    assert scheduler.config.clip_sample is False
    scheduler.set_timesteps(3)


def test_subclasses_are_named_by_their_own_module(tmp_path):
    pipeline = diffusers.DDPMPipeline(held_unet(), Mine())
    pipeline.save_pretrained(tmp_path)
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is Mine


def held_unet():
    from interop.pipelines.unconditional import unet

    return unet()


def test_signatures_show_what_can_be_given():
    from inspect import signature

    for cls in (ours.DDIMScheduler, Mine):
        shown = signature(cls).parameters
        assert shown["compatibility"].default == "diffusers"
        assert "xp" not in shown
    with pytest.raises(TypeError, match=r"DDIMScheduler\(\) is for torch and has no xp"):
        ours.DDIMScheduler(xp="jax", compatibility="paper")
    with pytest.raises(TypeError, match=r"Mine derives from diffusers' DDIMScheduler"):
        Mine(compatibility="paper")


def test_classes_for_which_diffusers_wants_more_packages(monkeypatch):
    """Ours of LMS and of DPM-Solver++ SDE need neither SciPy nor torchsde."""
    from diffusers.utils.dummy_torch_and_scipy_objects import LMSDiscreteScheduler

    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", LMSDiscreteScheduler)
    cls = ours.adapted("LMSDiscreteScheduler", cmsched.LMSDiscreteScheduler)
    monkeypatch.setitem(ours.ADAPTED, "LMSDiscreteScheduler", cls)
    scheduler = cls()
    assert isinstance(scheduler, SchedulerMixin)
    assert scheduler.__module__.partition(".")[0] == "diffusers"
    scheduler.set_timesteps(4)
    with_it = made("LMSDiscreteScheduler")[1]
    with_it.set_timesteps(4)
    assert off(loop(scheduler), loop(with_it)) <= NEAR


# what is exchanged


def built(scheduler):
    return diffusers.DDPMPipeline(held_unet(), scheduler)


def test_plain_schedulers_are_exchanged_too():
    pipeline = built(cmsched.DDPMScheduler(beta_end=0.01))
    assert set(ours.convert(pipeline)) == {"scheduler"}
    assert type(pipeline.scheduler) is ours.DDPMScheduler
    assert pipeline.scheduler.config.beta_end == 0.01


def test_one_scheduler_in_several_places():
    pipeline, inner = (built(diffusers.DDPMScheduler()) for _ in range(2))
    inner.scheduler = pipeline.scheduler
    pipeline.inner, inner.outer = inner, pipeline  # each holds the other
    done = ours.convert(pipeline, only=(name for name in ["scheduler"]))
    assert set(done) == {"scheduler", "inner.scheduler"}
    assert held(pipeline, "inner.scheduler") is pipeline.scheduler
    assert type(pipeline.scheduler) is ours.DDPMScheduler


def test_compatibility_of_what_is_exchanged():
    pipeline = built(diffusers.DDPMScheduler())
    ours.convert(pipeline, only="scheduler", compatibility="paper")
    assert pipeline.scheduler.compatibility == "paper"
