"""What pipelines of flows, and those without a prompt, do with a scheduler beyond its loop."""

import copy
import io
import math
from dataclasses import replace
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.pndm import PNDMPipeline
from diffusers.pipelines.deprecated.repaint import RePaintPipeline
from diffusers.pipelines.deprecated.unclip import UnCLIPPipeline

import cmsched.interop.diffusers as ours
from cmsched.interop.diffusers_habits import HABITS
from interop.pipelines import as_array, flow, run, unconditional
from interop.pipelines.flow import HEUN, SHIFTED, parts_of_flux
from interop.pipelines.stable import around, pooled_prompts, prompts
from interop.wild import NEAR, off

pytestmark = [  # diffusers' own
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning")
]


def named(value):
    return str(getattr(value, "name", value))


def pairs(cases):
    found = [(case, scheduler) for case in cases for scheduler in case.schedulers]
    return pytest.mark.parametrize(("case", "scheduler"), found, ids=named)


def both(case, scheduler, **changes):
    """What diffusers' scheduler does in a pipeline, and what ours does."""
    return [run(case, scheduler, converted=converted, **changes) for converted in (False, True)]


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


EVERY = unconditional.CASES + flow.CASES
ONE_AT_A_TIME = [case for case in EVERY if case.name != "VQDiffusionPipeline"]  # it takes no list
UNI, HEUNS = "UniPCMultistepScheduler", HEUN[0]


# --- generators, precision, progress bars --------------------------------------------------------


@pairs(ONE_AT_A_TIME)
def test_one_generator_per_image(case, scheduler):
    theirs, mine = (
        run(case, scheduler, converted=converted, generator=seeds(5, 6)).result
        for converted in (False, True)  # each with generators of its own
    )
    assert off(mine, theirs) <= NEAR
    assert off(mine[0], mine[1]) > 100 * NEAR


@pairs([case for case in EVERY if case.name.startswith(("DDPM", "DDIM", "KarrasVe", "DanceD"))])
def test_an_image_is_the_same_alone(case, scheduler):
    batch = run(case, scheduler, converted=True, generator=seeds(5, 6)).result
    for row, seed in enumerate((5, 6)):
        alone = run(case, scheduler, converted=True, generator=seeds(seed), batch_size=1)
        assert off(alone.result[0], batch[row]) <= NEAR


# These hand float32 noise to their networks.
FULL = ("PNDM", "ScoreSdeVe", "KarrasVe")
# These make NumPy arrays of what comes out, which do not hold bfloat16, except as "pt".
ARRAYS = ("DDPM", "DDIM", "Consistency")
NEVER = ("RePaint", "VQ")


HALVES = [
    (case, scheduler, dtype)
    for dtype, without in {torch.float16: FULL, torch.bfloat16: FULL + NEVER}.items()
    for case in EVERY
    for scheduler in case.schedulers
    if not case.name.startswith(without)
]


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize(("case", "scheduler", "dtype"), HALVES, ids=named)
def test_half_precision(case, scheduler, dtype):
    """No further from what float32 gives than diffusers'; how far the worst pixel is, is luck."""
    changes = {"output_type": "pt"} if case.name.startswith(ARRAYS) else {}
    full = run(case, scheduler, converted=False, **changes).result
    if case in flow.CASES or case.name == "ConsistencyDecoderVAE":
        given = pooled_prompts() if case in flow.CASES else prompts()
        left_out = "negative" if "Flux" in case.name else "none"
        changes |= {k: v.to(dtype) for k, v in given.items() if not k.startswith(left_out)}
    half = replace(case, build=lambda scheduler: copy.deepcopy(case.build(scheduler)).to(dtype))
    theirs, mine = (seen.result for seen in both(half, scheduler, **changes))
    eps = torch.finfo(dtype).eps
    if scheduler not in HABITS:  # its steps are diffusers', and networks round as they come
        assert np.abs(mine - theirs).max() <= 2 * eps
        return
    errors = [rms(result - full) for result in (theirs, mine)]
    assert 0 < errors[1] < 2 * eps
    assert errors[1] <= errors[0] + 0.3 * eps
    assert rms(mine - theirs) <= errors[0] + 0.3 * eps
    assert np.abs(mine - full).max() < 24 * eps


@pairs(EVERY)
def test_progress_bar(case, scheduler):
    bars, original = [], diffusers.DiffusionPipeline.progress_bar

    def shown(self, *args, **kwargs):
        self.set_progress_bar_config(file=io.StringIO())
        bars.append(original(self, *args, **kwargs))
        return bars[-1]

    with mock.patch.object(diffusers.DiffusionPipeline, "progress_bar", shown):
        both(case, scheduler)
    theirs, mine = bars
    assert mine.n == mine.total == theirs.n == theirs.total > 0


# --- callbacks -----------------------------------------------------------------------------------


@pairs([*flow.CASES, *(case for case in unconditional.CASES if case.name.startswith(("C", "VQ")))])
def test_callbacks_see_the_same(case, scheduler):
    seen = []

    def look(pipeline, i, t, tensors):
        seen.append((i, float(t), tensors["latents"].clone()))
        return {}

    def look_on(i, t, latents):
        look(None, i, t, {"latents": latents})

    old = case.name.startswith(("ConsistencyModel", "VQ"))
    theirs, mine = both(
        case, scheduler, **{"callback": look_on} if old else {"callback_on_step_end": look}
    )
    half = len(seen) // 2
    assert theirs.steps == mine.steps
    for (i, t, x), (j, s, y) in zip(seen[:half], seen[half:], strict=True):
        assert i == j
        assert t == pytest.approx(s, rel=1e-6, abs=1000 * 2**-23)  # times are float32
        assert off(y, x) <= NEAR


def nudged(at):
    """A callback that changes the latents after a step."""

    def nudge(pipeline, i, t, tensors):
        return {"latents": 0.7 * tensors["latents"] + 0.1} if i == at else {}

    return {"callback_on_step_end": nudge}


@pytest.mark.parametrize("at", [0, 1, 3])
@pairs(flow.CASES)
def test_latents_that_a_callback_returns_count(case, scheduler, at):
    theirs, mine = (seen.result for seen in both(case, scheduler, **nudged(at)))
    unchanged = run(case, scheduler, converted=True).result
    assert off(mine, unchanged) > 10 * NEAR
    assert off(mine, theirs) <= NEAR


@pairs(flow.CASES)
def test_an_interrupted_run(case, scheduler):
    """What is there is decoded, and the next run is a whole one."""

    def stop(pipeline, i, t, tensors):
        pipeline._interrupt = i == 1
        return {}

    theirs, mine = both(case, scheduler, callback_on_step_end=stop)
    assert mine.steps == theirs.steps == 2
    assert off(mine.result, theirs.result) <= NEAR
    again, whole = (
        as_array(case.call(one.pipeline, seeds(case.seed + 2)[0])) for one in (theirs, mine)
    )
    if "stochastic" in case.name:  # where torch's default generator stands by now is another place
        return
    assert off(whole, again) <= NEAR
    assert off(whole, run(case, scheduler, converted=True).result) <= NEAR


# --- times ---------------------------------------------------------------------------------------


def told(pipeline, **options):
    """The times that a network is told in a run of Flux, between 0 and 1."""
    seen, forward = [], pipeline.transformer.forward

    def listen(*args, timestep, **kwargs):
        seen.append(timestep.double().numpy())
        return forward(*args, timestep=timestep, **kwargs)

    given = {k: v for k, v in pooled_prompts().items() if not k.startswith("negative")}
    with mock.patch.object(pipeline.transformer, "forward", listen):
        pipeline(**given, **options, generator=seeds(1)[0], output_type="latent")
    return np.array(seen)


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("sigmas", [None, [1.0, 0.7, 0.2]])
def test_times_are_shifted_by_the_size_of_the_image(size, sigmas):
    """s -> e^mu / (e^mu + 1 / s - 1), mu linear in the number of tokens (arXiv:2403.03206)."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**SHIFTED)
    pipeline = around(diffusers.FluxPipeline, scheduler, **parts_of_flux())
    ours.convert(pipeline)
    seen = told(pipeline, height=size, width=size, num_inference_steps=4, sigmas=sigmas)
    tokens = (size // 4) ** 2
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    s = np.array(sigmas or [1.0, 0.75, 0.5, 0.25])
    shifted = math.exp(mu) / (math.exp(mu) + 1 / s - 1)
    np.testing.assert_allclose(seen, np.repeat(shifted[:, None], 2, 1), rtol=1e-6)
    np.testing.assert_allclose(pipeline.scheduler.sigmas, [*shifted, 0.0], rtol=1e-6, atol=2**-23)


@pytest.mark.parametrize("converted", [False, True])
def test_a_scheduler_that_cannot_be_shifted(converted):
    """Heun's flows take no sigmas of Flux' own, and no shift by size."""
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    pipeline = around(diffusers.FluxPipeline, scheduler, **parts_of_flux())
    if converted:
        ours.convert(pipeline)
    config = dict(pipeline.scheduler.config)
    with pytest.raises((ValueError, TypeError), match=r"sigmas|mu"):
        told(pipeline, height=16, width=16, num_inference_steps=3)
    assert dict(pipeline.scheduler.config) == config


# --- what pipelines do to the object itself ------------------------------------------------------


@pytest.mark.parametrize(
    ("pipeline", "scheduler"),
    [(diffusers.DDIMPipeline, "DDIMScheduler"), (PNDMPipeline, "PNDMScheduler")],
    ids=named,
)
def test_pipelines_that_rebuild_their_scheduler(pipeline, scheduler):
    """They make diffusers' own of the configuration they are given, until `convert`."""
    given = getattr(ours, scheduler)(beta_end=0.01)
    made = pipeline(unconditional.unet(), given)
    assert type(made.scheduler) is ours.reference_of(scheduler)
    ours.convert(made)
    assert type(made.scheduler) is getattr(ours, scheduler)
    assert made.scheduler.config.beta_end == 0.01


def test_eta_is_written_to_the_scheduler():
    """RePaint's pipeline sets the scheduler's attribute in each call."""
    (case,) = (c for c in unconditional.CASES if c.name == "RePaintPipeline")
    (name,) = case.schedulers
    results = [both(case, name, eta=eta) for eta in (0.0, 1.0)]
    for theirs, mine in results:
        assert off(mine.result, theirs.result) <= NEAR
    assert off(results[0][1].result, results[1][1].result) > 100 * NEAR
    assert type(results[1][1].pipeline) is RePaintPipeline


def test_levels_are_tensors_where_networks_are_told_them():
    """UNet2DModel makes an integer of a time that is a number."""
    scheduler = ours.KarrasVeScheduler(sigma_max=1.2)
    scheduler.set_timesteps(4)
    level = scheduler.schedule[2]  # between s_min and s_max
    _, hat = scheduler.add_noise_to_input(torch.zeros(1, 1), level, torch.Generator())
    assert hat.dtype == level.dtype
    assert hat.shape == level.shape
    assert float(hat) == pytest.approx(float(level) * math.sqrt(2))


# --- what cannot be had --------------------------------------------------------------------------


def test_a_scheduler_that_is_not_here():
    """unCLIP's has no counterpart: the pipeline stays as it is."""
    given = {name: diffusers.UnCLIPScheduler() for name in ("prior_scheduler", "decoder_scheduler")}
    other = diffusers.DDPMScheduler()
    pipeline = around(UnCLIPPipeline, None, **given, super_res_scheduler=other)
    with pytest.raises(ValueError, match="_scheduler is a UnCLIPScheduler, which cmsched does not"):
        ours.convert(pipeline)
    assert pipeline.super_res_scheduler is other
    assert all(getattr(pipeline, name) is scheduler for name, scheduler in given.items())
    done = ours.convert(pipeline, only=["super_res_scheduler"])
    assert list(done) == ["super_res_scheduler"]
    assert type(pipeline.super_res_scheduler) is ours.DDPMScheduler
    assert all(getattr(pipeline, name) is scheduler for name, scheduler in given.items())
