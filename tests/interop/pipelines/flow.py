"""Flow matching: Flux and Stable Diffusion 3."""

from functools import cache

import diffusers
import torch

from . import Case
from .stable import around, call, image, pooled_prompts, vae

SHIFTED = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
SOLVED = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def seeded(cls, **options):
    torch.manual_seed(0)
    return cls(
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        **options,
    ).eval()


@cache
def parts_of_flux():
    kind = diffusers.FluxTransformer2DModel
    options = {"in_channels": 16, "num_single_layers": 1, "axes_dims_rope": (2, 2, 4)}
    return {
        "transformer": seeded(kind, guidance_embeds=True, **options),
        "vae": vae(shift_factor=0.1),
    }


@cache
def parts_of_sd3():
    kind = diffusers.SD3Transformer2DModel
    options = {"in_channels": 4, "out_channels": 4, "sample_size": 8, "pos_embed_max_size": 16}
    network = seeded(kind, caption_projection_dim=16, **options)
    return {"transformer": network, "vae": vae(shift_factor=0.1)}


KINDS = {
    "Flux": (parts_of_flux, {"guidance_scale": 3.5}),
    "StableDiffusion3": (parts_of_sd3, {"guidance_scale": 5.0}),
}


def case(family, schedulers, options, name="", task="", **called):
    parts, common = KINDS[family]
    cls = getattr(diffusers, f"{family}{task}Pipeline")
    given = {**pooled_prompts(), **common, "num_inference_steps": 6, "height": 16, "width": 16}
    if family == "Flux":
        given |= {k: None for k in given if k.startswith("negative")}
    return Case(
        f"{cls.__name__}, {name}" if name else cls.__name__,
        lambda scheduler: around(cls, scheduler, **parts()),
        call(**{**given, **called}),
        schedulers,
        options,
    )


EULER = ("FlowMatchEulerDiscreteScheduler",)
HEUN = ("FlowMatchHeunDiscreteScheduler",)
SOLVERS = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
LISTED = [1.0, 0.8, 0.5, 0.2]
START = {"image": image(), "strength": 0.6}

CASES = (
    case("Flux", EULER, SHIFTED),
    case("Flux", EULER, SHIFTED, "sigmas", sigmas=LISTED),
    case("Flux", EULER, {**SHIFTED, "stochastic_sampling": True}, "stochastic"),
    case("Flux", SOLVERS, {**SOLVED, "use_dynamic_shifting": True}, "solvers"),
    case("Flux", EULER, SHIFTED, task="Img2Img", **START),
    case("StableDiffusion3", (*EULER, *HEUN), {"shift": 3.0}),
    case("StableDiffusion3", EULER, {"shift": 3.0}, "sigmas", sigmas=LISTED),
    case("StableDiffusion3", EULER, SHIFTED, "dynamic shift"),
    case("StableDiffusion3", SOLVERS, {**SOLVED, "flow_shift": 3.0}, "solvers"),
    case("StableDiffusion3", (*EULER, *HEUN), {"shift": 3.0}, task="Img2Img", **START),
)
