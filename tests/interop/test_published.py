"""Config files in the layout of well-known models: read as diffusers reads them.

tests/configs has them by the name of the model, written out from its documented values, with the
keys that are left over from its training and from older releases.
"""

import json
import logging
import math
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.deepfloyd_if import fast27_timesteps, smart50_timesteps
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

import cmsched

FILES = {file.stem: file for file in (Path(__file__).parents[1] / "configs").glob("*.json")}


def named(name):
    """The class that a file says."""
    return json.loads(FILES[name].read_text())["_class_name"]


# classes that cmsched does not have
ABSENT = {
    "kandinsky-2-2-prior": "UnCLIPScheduler",
    "playground-v2.5-1024px-aesthetic": "EDMDPMSolverMultistepScheduler",
}
PRESENT = sorted(FILES.keys() - ABSENT.keys())


def even(n):
    """The levels that pipelines of flows ask for, before they are shifted."""
    return np.linspace(1.0, 1 / n, n)


def mu(tokens, name):
    """The shift of an image of so many tokens, by the numbers in the file."""
    keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    config = json.loads(FILES[name].read_text())
    return calculate_shift(tokens, *(config[key] for key in keys))


def call(n, **more):
    """What a pipeline asks for by a number of steps."""
    return {"num_inference_steps": n, **more}


# what the model's pipeline gives to set_timesteps, by default and as its page advises
CALLS = {
    "stable-diffusion-v1-4": [call(50)],
    "stable-diffusion-v1-4-inversion": [call(20)],
    "stable-diffusion-v1-5": [call(50), call(20), call(10)],
    "stable-diffusion-v1-5-flax": [call(50)],
    "stable-diffusion-inpainting": [call(50)],
    "stable-diffusion-2": [call(50), call(25)],
    "stable-diffusion-2-1": [call(50), call(25)],
    "stable-diffusion-2-1-flax": [call(50)],
    "stable-diffusion-2-1-pndm": [call(50)],
    "stable-diffusion-x4-upscaler": [call(75)],
    "stable-diffusion-xl-base-1.0": [call(50), call(40), call(30)],
    "sdxl-turbo": [call(1), call(2), call(4)],
    "sd-turbo": [call(1), call(2), call(4)],
    "stable-video-diffusion-img2vid-xt": [call(25)],
    "kolors": [call(50), call(25)],
    "lcm-dreamshaper-v7": [
        call(4, original_inference_steps=50),
        call(8, original_inference_steps=50),
        call(1),
    ],
    "lcm-lora-sdxl": [call(4), call(8), {"timesteps": [999, 759, 499, 259]}],
    "tcd-sdxl-lora": [call(4), call(8)],
    "diffusers-cd-imagenet64-l2": [call(1), call(2), {"timesteps": [22, 0]}],
    "diffusers-ct-imagenet64": [call(1), {"timesteps": [106, 0]}],
    "flux.1-dev": [
        {"sigmas": even(n), "mu": mu(tokens, "flux.1-dev")}
        for n, tokens in ((28, 4096), (50, 4096), (20, 1024))
    ],
    "flux.1-schnell": [{"sigmas": even(4)}, {"sigmas": even(1)}],
    "stable-diffusion-3-medium": [call(28)],
    "stable-diffusion-3.5-large": [call(28), call(40)],
    "stable-diffusion-3.5-medium": [call(40)],
    "auraflow": [call(50), {"sigmas": even(50)}],
    "lumina-image-2.0": [{"sigmas": even(30)}],
    "hunyuanvideo": [{"sigmas": np.linspace(1.0, 0.0, 51)[:-1]}],
    "ltx-video": [{"sigmas": even(50), "mu": mu(4224, "ltx-video")}],
    "mochi-1-preview": [{"sigmas": np.array(linear_quadratic_schedule(64, 0.025))}],
    "qwen-image": [{"sigmas": even(50), "mu": mu(4096, "qwen-image")}],
    "z-image-turbo": [{"sigmas": even(9)}, call(9)],
    "sana-1600m-1024px": [call(20)],
    "pixart-xl-2-1024-ms": [call(20)],
    "wan2.1-t2v-1.3b": [call(50), call(30)],
    "wan2.2-t2v-a14b": [call(40)],
    "cogvideox-2b": [call(50)],
    "cogvideox-5b": [call(50)],
    "cogvideox-5b-i2v": [call(50), call(30)],
    "kandinsky-2-1": [call(100)],
    "kandinsky-2-2-decoder": [call(100), call(50)],
    "kandinsky-3": [call(25)],
    "if-i-xl-v1.0": [call(100), {"timesteps": fast27_timesteps}, {"timesteps": smart50_timesteps}],
    "audioldm": [call(10), call(200)],
    "audioldm2": [call(200)],
    "hunyuandit": [call(50)],
    "hunyuan3d-paint": [call(15)],
    "allegro": [call(100)],
    "cosmos-1.0-diffusion-7b": [call(36)],
    "shap-e": [call(64), call(25)],
    "vq-diffusion-ithq": [call(100)],
    "ncsnpp-celebahq-256": [call(2000)],
    "ddpm-cifar10-32": [call(1000), call(50)],
    "ldm-celebahq-256": [call(50), call(200)],
    "maestro-150k": [call(50)],
    "layout-0.7-predict-epsilon": [call(50)],
}
RUNS = [
    pytest.param(name, options, id=f"{name}-{i}")
    for name, runs in CALLS.items()
    for i, options in enumerate(runs)
]


@pytest.fixture(autouse=True)
def quiet():
    """The reference warns of what it does not know; nothing here may."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(action="error"):
        yield
    logger.setLevel(level)


def theirs(name):
    """diffusers' scheduler of a file."""
    config = json.loads(FILES[name].read_text())
    cls = named(name).removeprefix("Flax")
    cls = {"DPMSolverMultistepInverse": "DPMSolverMultistepInverseScheduler"}.get(cls, cls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that it means to drop
        return getattr(diffusers, cls).from_config(config)


def ours(name):
    """Our scheduler of a file, as the reference would run it."""
    return cmsched.from_pretrained(FILES[name], compatibility="diffusers", xp="torch")


def test_every_file_is_run():
    assert CALLS.keys() == {*PRESENT}


@pytest.mark.parametrize("name", PRESENT)
def test_class_and_options(name, tmp_path):
    """The class that is named, with the same options; and saved, it is the same file again."""
    mine, reference = cmsched.from_pretrained(FILES[name]), theirs(name)
    assert type(mine).__name__ == type(reference).__name__
    assert mine.compatibility == "paper"
    stated = json.loads(FILES[name].read_text())
    options = {key for key in reference.config if key in mine.options}
    assert {*stated} & {*mine.options} <= options
    renewed = {"prediction_type"} if stated.get("predict_epsilon") is False else set()
    for key in options - renewed:
        assert mine.config[key] == reference.config[key], key
    mine.save_pretrained(tmp_path)
    again = cmsched.from_pretrained(tmp_path)
    assert type(again) is type(mine)
    plain = [{k: v for k, v in s.config.items() if k[0] != "_"} for s in (mine, again)]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("name", PRESENT)
def test_tables(name):
    """alphas_cumprod, where there is one, to the single precision of the reference."""
    mine, reference = ours(name), theirs(name)
    found, wanted = (getattr(s, "alphas_cumprod", None) for s in (mine, reference))
    assert (found is None) == (wanted is None)
    if wanted is not None:
        assert tuple(found.shape) == tuple(wanted.shape)
        torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-6)
    scale = getattr(reference, "init_noise_sigma", None)
    if scale is not None:
        assert math.isclose(mine.init_noise_sigma, float(scale), rel_tol=1e-4)


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_times_and_levels(name, options):
    """timesteps and sigmas of the run, and the scale of the noise that it starts from."""
    mine, reference = ours(name), theirs(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.set_timesteps(**options)
        if hasattr(reference, "set_sigmas"):
            reference.set_sigmas(**options)
    mine.set_timesteps(**options)
    assert len(mine.timesteps) == len(reference.timesteps)
    wanted = torch.as_tensor(reference.timesteps).double()
    if wanted.frac().any():
        torch.testing.assert_close(mine.timesteps.double(), wanted, rtol=1e-5, atol=1e-3)
    else:
        assert mine.timesteps.tolist() == wanted.tolist()
    if hasattr(reference, "sigmas"):
        found, wanted = torch.as_tensor(mine.sigmas), torch.as_tensor(reference.sigmas)
        assert tuple(found.shape) == tuple(wanted.shape)
        torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-6)
    scale = getattr(reference, "init_noise_sigma", None)
    if scale is not None:
        assert math.isclose(mine.init_noise_sigma, float(scale), rel_tol=1e-4)


@pytest.mark.parametrize("name", PRESENT)
def test_the_class_reads_it_too(name):
    """As does its own from_pretrained, and its compatibles with from_config."""
    mine = cmsched.from_pretrained(FILES[name])
    assert type(mine).from_pretrained(FILES[name]).config == mine.config


@pytest.mark.parametrize("name", ABSENT)
def test_classes_that_are_not_here(name):
    assert named(name) == ABSENT[name]
    with pytest.raises(ValueError, match=f"{ABSENT[name]}, which is no scheduler of cmsched"):
        cmsched.from_pretrained(FILES[name])
