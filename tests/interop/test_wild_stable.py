"""What Stable Diffusion's pipelines do with a scheduler, and why some results differ.

A network that says the noise which was added makes every deterministic sampler go along the line
from noise to image, whatever its order: there the truth is known without a reference.
"""

import copy
import inspect
import warnings
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch

import cmsched.interop.diffusers as ours
from interop.pipelines import KARRAS
from interop.pipelines.stable import (
    BETAS,
    CONSISTENCY,
    OWN,
    around,
    base_and_refiner,
    call,
    image,
    ledits,
    pooled_prompts,
    prompts,
    refined,
    unet,
    vae,
)

pytestmark = [  # diffusers' own
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning")
]
NEAR = 1e-4
ROUNDING = 1000 * 2**-23  # of float32 times up to 1000: the last is 0, or that
TEXT, IMAGE, INPAINT = (
    getattr(diffusers, f"StableDiffusion{kind}Pipeline") for kind in ("", "Img2Img", "Inpaint")
)
PNDM, SDE = "PNDMScheduler", "DPMSolverSDEScheduler"
STOCHASTIC = {
    *("DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    SDE,
}
# EDM's networks say another thing, at levels of another kind
EXACT = [name for name in KARRAS if name not in STOCHASTIC and name != "EDMEulerScheduler"]
CLEAN = {**BETAS, "set_alpha_to_one": True, "skip_prk_steps": True, "clip_sample": False}
HALVES = slice(0, 4), slice(4, 8)
both = pytest.mark.parametrize("converted", [False, True], ids=["theirs", "ours"])


def made(cls, name, options=BETAS, *, converted=True, **parts):
    """A pipeline with diffusers' scheduler of a name, or with ours, and those options it has."""
    kind = ours.reference_of(name)
    known = inspect.signature(kind.__init__).parameters
    scheduler = kind(**{k: v for k, v in options.items() if k in known})
    pipeline = around(cls, scheduler, **parts)
    pipeline.set_progress_bar_config(disable=True)
    if converted:
        ours.convert(pipeline)
        assert type(pipeline.scheduler) is getattr(ours, name)
    return pipeline


def seeded(seed=2):
    return torch.Generator().manual_seed(seed)


def off(a, b):
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


class Bar:
    """A progress bar that counts."""

    def __init__(self):
        self.updates = 0

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return None

    def update(self, n=1):
        self.updates += n


def watched(pipeline, generator, change=1.0, **options):
    """The images, what the callbacks saw, and the length of the progress bar and its updates."""
    seen, bars = [], []

    def callback(pipeline, i, t, tensors):
        seen.append((i, float(t), tensors["latents"].clone()))
        return {"latents": change * tensors["latents"]}

    def progress_bar(iterable=None, total=None):
        bars.append((total, Bar()))
        return bars[-1][1]

    torch.manual_seed(5)  # of DPM-Solver++ SDE's tree
    with mock.patch.object(pipeline, "progress_bar", progress_bar):
        result = call(callback_on_step_end=callback, **options)(pipeline, generator)
    return result.images, seen, [(total, bar.updates) for total, bar in bars]


@pytest.mark.parametrize("change", [1.0, 0.9])
@pytest.mark.parametrize("name", KARRAS)
def test_callbacks_and_progress(name, change):
    """What is seen after each evaluation, what becomes of changes to it, and how many steps."""
    options = OWN.get(name, BETAS)
    theirs, mine = (
        watched(made(TEXT, name, options, converted=converted), seeded(), change)
        for converted in (False, True)
    )
    assert off(theirs[0], mine[0]) < NEAR
    for (i, t, x), (j, u, y) in zip(theirs[1], mine[1], strict=True):
        assert (i, t) == (j, u)
        assert off(x, y) < NEAR * max(1.0, float(x.abs().max()))
    assert theirs[2] == mine[2]
    assert mine[2][0][1] > 0


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_one_generator_per_image(name):
    """An image is the same whatever it is made beside, and the same as the reference's."""
    if name == SDE:  # whose noise is none of the generators'
        return
    mine, theirs = (
        call()(made(TEXT, name, converted=converted), [seeded(8), seeded(9)]).images
        for converted in (True, False)
    )
    assert off(mine, theirs) < NEAR
    one = {key: value[1:] for key, value in prompts().items()}
    alone = call(**one)(made(TEXT, name), [seeded(9)]).images
    assert off(alone, mine[1:]) < NEAR
    assert off(mine[0], mine[1]) > 100 * NEAR


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_half_precision(name, dtype):
    """With the same noise, which is drawn in the sample's dtype; networks round much."""
    parts = {"unet": copy.deepcopy(unet()).to(dtype), "vae": copy.deepcopy(vae()).to(dtype)}
    given = {key: value.to(dtype) for key, value in prompts().items()}
    theirs, mine = (
        call(**given, output_type="pt")(
            made(TEXT, name, converted=converted, **parts), seeded()
        ).images
        for converted in (False, True)
    )
    assert mine.dtype == theirs.dtype == dtype
    assert off(theirs.float(), mine.float()) < 6 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_base_and_refiner_are_one_run(name):
    """Methods without a history go on where another pipeline stopped."""
    pipeline = base_and_refiner(ours.reference_of(name)(**BETAS, timestep_spacing="trailing"))
    pipeline.set_progress_bar_config(disable=True)
    ours.convert(pipeline)
    assert {type(s) for *_, s in ours.places(pipeline)} == {getattr(ours, name)}
    assert pipeline.scheduler is not pipeline.refiner.scheduler
    common = {**pooled_prompts(), "num_inference_steps": 8, "output_type": "np"}
    whole = pipeline(**common, generator=seeded())
    assert off(whole.images, refined(pipeline, seeded()).images) < NEAR


def test_an_inverted_image_comes_back():
    """LEDITS++ without an edit replays the noises that make up for whatever the network says."""
    name = "DPMSolverMultistepScheduler"  # with DDIM its timesteps are floats, which index nothing
    options = {
        "algorithm_type": "sde-dpmsolver++",
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,  # the inversion does not know of it
    }
    theirs = ours.reference_of(name)(**BETAS, steps_offset=1, **options)
    pipeline = ledits(theirs)
    pipeline.set_progress_bar_config(disable=True)
    inversion = {"num_inversion_steps": 6, "skip": 0.2, "height": 32, "width": 32}
    picture = image(1, 32)
    ours.convert(pipeline)
    pipeline.invert(picture, "", generator=seeded(), **inversion)
    result = pipeline(generator=seeded(), output_type="latent").images
    mode = vae().encode(2 * picture - 1).latent_dist.mode() * vae().config.scaling_factor
    assert off(result, mode.detach()) < NEAR
    assert type(pipeline.scheduler) is getattr(ours, name)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_pipeline_that_checks_takes_ours(name):
    """LEDITS++ makes schedulers of other classes anew."""
    scheduler = getattr(ours, name)(**BETAS)
    assert ledits(scheduler).scheduler is scheduler
    assert type(ledits(ours.EulerDiscreteScheduler()).scheduler) is ours.reference_of(
        "DPMSolverMultistepScheduler"
    )


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
def test_what_pipelines_write_into_a_config_is_no_cause_for_a_warning(name):
    """Stable Diffusion's set steps_offset=1, which these do not use."""
    pipeline = made(TEXT, name, CONSISTENCY, converted=False)
    with warnings.catch_warnings(action="error"):
        ours.convert(pipeline)
    assert pipeline.scheduler.config.steps_offset == 1
