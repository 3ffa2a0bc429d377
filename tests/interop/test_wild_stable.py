"""What Stable Diffusion's pipelines do with a scheduler, and why some results differ.

A network that says the noise which was added makes every deterministic sampler go along the line
from noise to image, whatever its order: there the truth is known without a reference.
"""

import copy
import functools
import inspect
import math
import warnings
from contextlib import contextmanager
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from parity.lifted import Draws, module

import cmsched.interop.diffusers as ours
from interop.pipelines import KARRAS
from interop.pipelines.stable import (
    BETAS,
    BETWEEN,
    CASES,
    CONSISTENCY,
    LCM,
    OWN,
    PAST,
    TREE,
    around,
    base_and_refiner,
    call,
    embedded_guidance,
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


def reason(cls, scheduler):
    """Why a pipeline's result with diffusers' scheduler is another than with ours."""
    found = [c for c in CASES if c.name == cls.__name__ and scheduler in c.schedulers]
    return found[0].different.get(scheduler)


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


@contextmanager
def saying(pipeline, noise):
    """A network whose output is always the same."""

    def forward(x, *args, **kwargs):
        return (noise.repeat(len(x) // len(noise), 1, 1, 1),)

    with mock.patch.object(pipeline.unet, "forward", forward):
        yield


def known(cls, name, options=None, *, converted, steps=8, **called):
    """Start from an image and a noise that the network says.

    Returns:
        The image, the noise, the samples after each evaluation, and the level of the last.
    """
    pipeline = made(cls, name, options or CLEAN, converted=converted)
    clean = torch.randn((2, 4, 8, 8), generator=seeded(7))
    seen = []

    def callback(pipeline, i, t, tensors):
        seen.append(tensors["latents"].clone())
        return {}

    with saying(pipeline, torch.randn(clean.shape, generator=seeded())):
        call(
            image=clean,
            num_inference_steps=steps,
            output_type="latent",
            callback_on_step_end=callback,
            **called,
        )(pipeline, seeded())
    end = getattr(pipeline.scheduler, "sigmas", [0.0])[-1]
    return clean, torch.randn(clean.shape, generator=seeded()), seen, float(end)


@pytest.mark.parametrize("strength", [0.4, 0.9])
@pytest.mark.parametrize("name", EXACT)
def test_a_known_noise_is_removed(name, strength):
    """From wherever a run starts: no sampler combines with outputs that were never there."""
    for converted in (True, False):
        clean, noise, seen, end = known(IMAGE, name, converted=converted, strength=strength)
        error = off(seen[-1], (clean + end * noise) / math.hypot(1, end))
        if converted or reason(IMAGE, name) is None:
            assert error < NEAR
        else:
            assert error > 100 * NEAR


def fitted(x, clean, noise):
    """alpha and sigma of x = alpha clean + sigma noise."""
    parts = torch.stack([clean.flatten(), noise.flatten()], dim=1)
    return torch.linalg.lstsq(parts.double(), x.double().reshape(-1, 1)).solution


@pytest.mark.parametrize("name", EXACT)
def test_what_is_kept_is_at_the_level_of_the_rest(name):
    """Outside of the mask pipelines noise the image again, to where the sample stands."""
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 8:] = 1.0
    options = {"mask_image": mask, "masked_image_latents": torch.zeros(2, 4, 8, 8), "strength": 0.9}
    for converted in (True, False):
        clean, noise, seen, _ = known(INPAINT, name, converted=converted, **options)
        levels = []
        for x in seen[:-1]:
            found = [fitted(x[..., h], clean[..., h], noise[..., h]) for h in HALVES]
            levels.append(off(*found) / float(found[1].norm()))
        if converted or reason(INPAINT, name) is None:
            assert max(levels) < NEAR
        else:
            assert max(levels) > 100 * NEAR


@pytest.mark.parametrize("cls", [TEXT, IMAGE], ids=lambda cls: cls.__name__)
def test_the_same_path_gives_the_same_images(cls):
    """DPMSolverSDE's noise made of the generator in the place of a tree of its own."""
    generator = seeded()

    class Drawn(Draws):
        def __call__(self, shape, **kwargs):
            return torch.randn(shape, generator=generator)

    options = {"image": image(), "strength": 0.7} if cls is IMAGE else {}
    with mock.patch.object(module(SDE), "BrownianTreeNoiseSampler", Drawn().tree):
        theirs = call(**options)(made(cls, SDE, converted=False), generator)
    mine = call(**options)(made(cls, SDE), seeded())
    assert off(theirs.images, mine.images) < NEAR


def test_a_run_cannot_begin_inside_a_runge_kutta_step():
    """The reference does, and the image is gone."""
    options = {**CLEAN, "skip_prk_steps": False}
    clean, _, seen, _ = known(IMAGE, PNDM, options, converted=False, strength=0.4)
    assert off(seen[-1], clean) > 1
    with pytest.raises(ValueError, match="inside a step of 4 evaluations"):
        known(IMAGE, PNDM, options, converted=True, strength=0.4)
    clean, _, seen, _ = known(IMAGE, PNDM, options, converted=True, strength=0.6)
    assert off(seen[-1], clean) < NEAR


def test_every_difference_is_shown_here():
    reasons = {text for c in CASES for text in c.different.values()}
    assert reasons == {TREE, PAST, BETWEEN}


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

    with mock.patch.object(pipeline, "progress_bar", progress_bar):
        result = call(callback_on_step_end=callback, **options)(pipeline, generator)
    return result.images, seen, [(total, bar.updates) for total, bar in bars]


# these read the sample that a step began with back out of where it led to
CHANGES_STAY = ("HeunDiscreteScheduler", PNDM, "UniPCMultistepScheduler")


@pytest.mark.parametrize("change", [1.0, 0.9])
@pytest.mark.parametrize("name", [n for n in KARRAS if n != SDE])
def test_callbacks_and_progress(name, change):
    """What is seen after each evaluation, what becomes of changes to it, and how many steps."""
    options = OWN.get(name, BETAS)
    theirs, mine = (
        watched(made(TEXT, name, options, converted=converted), seeded(), change)
        for converted in (False, True)
    )
    if change == 1.0 or name not in CHANGES_STAY:
        assert off(theirs[0], mine[0]) < NEAR
        for (i, t, x), (j, u, y) in zip(theirs[1], mine[1], strict=True):
            assert (i, t) == (j, pytest.approx(u, rel=1e-4, abs=ROUNDING))
            assert off(x, y) < NEAR * max(1.0, float(x.abs().max()))
    assert theirs[2] == mine[2]
    assert mine[2][0][1] > 0


@both
@pytest.mark.parametrize("name", CHANGES_STAY)
def test_a_change_inside_a_step_stays(name, converted):
    """The reference goes back to the sample that it remembers: the change is without effect."""
    kind = "sample" if name == "UniPCMultistepScheduler" else "epsilon"
    pipeline = made(TEXT, name, {**CLEAN, "prediction_type": kind}, converted=converted)
    with saying(pipeline, torch.ones(2, 4, 8, 8)):
        first, second = (
            watched(pipeline, seeded(), change, output_type="latent")[1][1][2]
            for change in (1.0, 0.9)
        )
    assert (off(first, second) > 0.01) == converted


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_one_generator_per_image(name):
    """An image is the same whatever it is made beside, and the same as the reference's."""
    mine, *theirs = (
        call()(made(TEXT, name, converted=converted), [seeded(8), seeded(9)]).images
        for converted in ((True,) if name == SDE else (True, False))
    )
    assert all(off(mine, images) < NEAR for images in theirs)
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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False}),
        (
            "DPMSolverMultistepScheduler",
            {
                "algorithm_type": "sde-dpmsolver++",
                "final_sigmas_type": "sigma_min",
                "lower_order_final": False,  # the inversion does not know of it
            },
        ),
    ],
)
def test_an_inverted_image_comes_back(name, options):
    """LEDITS++ without an edit replays the noises that make up for whatever the network says."""
    theirs = ours.reference_of(name)(**BETAS, steps_offset=1, **options)
    pipeline = ledits(theirs)
    pipeline.set_progress_bar_config(disable=True)
    inversion = {"num_inversion_steps": 6, "skip": 0.2, "height": 32, "width": 32}
    picture = image(1, 32)
    if name == "DDIMScheduler":  # whose add_noise takes no timesteps that are floats
        with pytest.raises(IndexError):
            pipeline.invert(picture, "", generator=seeded(), **inversion)
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


def test_tcd_in_a_latent_consistency_pipeline():
    """It passes eta=None, which stands for the default; the reference compares it with numbers."""
    theirs, mine = (
        made(
            diffusers.LatentConsistencyModelPipeline,
            "TCDScheduler",
            CONSISTENCY,
            converted=converted,
            **embedded_guidance(),
        )
        for converted in (False, True)
    )
    with pytest.raises(TypeError):
        call(**LCM)(theirs, seeded())
    step = ours.TCDScheduler.step

    @functools.wraps(step)
    def told(self, *args, eta, **kwargs):
        assert eta is None
        return step(self, *args, eta=0.3, **kwargs)

    as_it_is = call(**LCM)(mine, seeded()).images
    with mock.patch.object(ours.TCDScheduler, "step", told):
        assert off(as_it_is, call(**LCM)(mine, seeded()).images) == 0
