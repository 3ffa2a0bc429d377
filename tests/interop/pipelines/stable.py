"""Stable Diffusion and its relatives."""

import inspect
from functools import cache

import diffusers
import torch
from diffusers.pipelines.deprecated.stable_diffusion_variants import CycleDiffusionPipeline

from . import KARRAS, Case

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

PUBLISHED = {**BETAS, "set_alpha_to_one": False, "steps_offset": 1}  # as of Stable Diffusion 1.5
OWN = {  # options of schedulers that do not take, or do not work with, those of all
    "EDMEulerScheduler": {"sigma_max": 15.0},
    "PNDMScheduler": {**PUBLISHED, "skip_prk_steps": True},
}
BLOCKS = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
ATTENTION = {"cross_attention_dim": 16, "attention_head_dim": 4}


@cache
def unet(**changes):
    torch.manual_seed(0)
    options = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": DOWN,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        **BLOCKS,
        **ATTENTION,
        **changes,
    }
    return diffusers.UNet2DConditionModel(**options).eval()


@cache
def vae(**changes):
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        **changes,
    ).eval()


@cache
def controlnet():
    torch.manual_seed(3)
    network = diffusers.ControlNetModel(
        down_block_types=DOWN,
        conditioning_embedding_out_channels=(4, 8),
        **BLOCKS,
        **ATTENTION,
    )
    for parameter in network.parameters():  # what it adds starts at 0
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@cache
def text_parts():
    """A tokenizer of three words, and an encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(4)
    words = ("<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "c</w>")
    vocabulary = {word: number for number, word in enumerate(words)}
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return {
        "tokenizer": CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=8),
        "text_encoder": CLIPTextModel(config).eval(),
    }


@cache
def embeds(batch=2, width=16):
    return torch.randn((batch, 5, width), generator=torch.Generator().manual_seed(5))


@cache
def image(batch=2, size=16):
    return torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(6))


def prompts():
    return {"prompt_embeds": embeds(), "negative_prompt_embeds": 0.1 * embeds()}


def pooled_prompts():
    """Those of the larger pipelines."""
    pooled = {
        name.replace("prompt", "pooled_prompt"): value[:, 0] for name, value in prompts().items()
    }
    return {**prompts(), **pooled}


def around(cls, scheduler, **parts):
    """A pipeline of a class, without the parts that it does not need for embedded prompts."""
    given = {"vae": vae(), "unet": unet(), "scheduler": scheduler, **parts}
    taken = inspect.signature(cls).parameters
    for name, parameter in taken.items():
        if parameter.default is parameter.empty:
            given.setdefault(name, None)
        if name == "requires_safety_checker":
            given[name] = False
    return cls(**{name: part for name, part in given.items() if name in taken})


def call(**options):
    """A call with prompts that are embedded; it may be changed when it is made."""
    common = {"num_inference_steps": 6, "output_type": "np"}

    def run(pipeline, generator, /, **changes):
        given = {"generator": generator, **prompts(), **common, **options, **changes}
        return pipeline(**{name: value for name, value in given.items() if value is not None})

    return run


def case(cls, schedulers, options=BETAS, *, parts=None, name="", **called):
    """A case of a pipeline that takes embedded prompts; `parts` makes what it has of its own."""
    return Case(
        f"{cls.__name__}, {name}" if name else cls.__name__,
        lambda scheduler: around(cls, scheduler, **(parts() if parts else {})),
        call(**called),
        schedulers,
        options,
    )


def everywhere(cls, **called):
    """Cases with every scheduler that such pipelines are made for."""
    others = tuple(name for name in KARRAS if name not in OWN)
    return (
        case(cls, others, **called),
        *(case(cls, (name,), options, **called) for name, options in OWN.items()),
    )


def embedded_guidance():
    return {"unet": unet(time_cond_proj_dim=8)}


def large():
    """The base; the refiner is beside it, with a scheduler of its own."""
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
    }
    return {"unet": unet(**extra)}


def base_and_refiner(scheduler):
    base = around(diffusers.StableDiffusionXLPipeline, scheduler, **large())
    base.refiner = around(
        diffusers.StableDiffusionXLImg2ImgPipeline,
        type(scheduler).from_config(scheduler.config),
        **large(),
        requires_aesthetics_score=False,
    )
    base.refiner.set_progress_bar_config(disable=True)
    return base


def refined(pipeline, generator):
    common = {**pooled_prompts(), "num_inference_steps": 8, "generator": generator}
    latents = pipeline(**common, denoising_end=0.6, output_type="latent").images
    return pipeline.refiner(**common, image=latents, denoising_start=0.6, output_type="np")


def ledits(scheduler):
    # it changes the network's attention processors
    network = unet(sample_size=16)
    return around(
        diffusers.LEditsPPPipelineStableDiffusion, scheduler, unet=network, **text_parts()
    )


def edited(pipeline, generator):
    """Invert an image and edit it."""
    pipeline.invert(
        image(1, 32),
        "a b",
        num_inversion_steps=6,
        skip=0.2,
        generator=generator,
        height=32,
        width=32,
    )
    return pipeline(
        editing_prompt=["c"],
        edit_guidance_scale=[5.0],
        edit_warmup_steps=[1],
        edit_threshold=[0.5],
        use_intersect_mask=False,
        generator=generator,
        output_type="np",
    )


def cycled(pipeline, generator):
    return pipeline(
        "a b",
        "a c",
        image(1),
        num_inference_steps=8,
        strength=0.7,
        eta=0.4,
        guidance_scale=3.0,
        source_guidance_scale=1.5,
        generator=generator,
        output_type="np",
    )


CONSISTENCY = {**BETAS, "clip_sample": False, "timestep_scaling": 10.0}
LCM = {"guidance_scale": 4.0, "num_inference_steps": 4, "negative_prompt_embeds": None}

CASES = (
    *everywhere(diffusers.StableDiffusionPipeline, guidance_rescale=0.3),
    *everywhere(diffusers.StableDiffusionImg2ImgPipeline, image=image(), strength=0.7),
    *everywhere(
        diffusers.StableDiffusionInpaintPipeline,
        image=image(),
        mask_image=(image()[:, :1] > 0.5).float(),
        strength=0.8,
    ),
    case(
        diffusers.StableDiffusionPipeline,
        ("LCMScheduler", "TCDScheduler"),
        CONSISTENCY,
        name="few steps",
        num_inference_steps=4,
        eta=0.5,
    ),
    case(
        diffusers.LatentConsistencyModelPipeline,
        ("LCMScheduler",),
        CONSISTENCY,
        parts=embedded_guidance,
        **LCM,
    ),
    case(
        diffusers.LatentConsistencyModelImg2ImgPipeline,
        ("LCMScheduler",),
        CONSISTENCY,
        parts=embedded_guidance,
        image=image(),
        strength=0.6,
        **LCM,
    ),
    Case(
        "StableDiffusionXLPipeline with refiner",
        base_and_refiner,
        refined,
        (
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "DPMSolverMultistepScheduler",
            "UniPCMultistepScheduler",
        ),
        {**BETAS, "timestep_spacing": "leading", "steps_offset": 1},
    ),
    case(
        diffusers.StableDiffusionControlNetPipeline,
        ("DDIMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"),
        parts=lambda: {"controlnet": controlnet()},
        image=image(),
        control_guidance_end=0.7,
        controlnet_conditioning_scale=0.8,
    ),
    Case(
        "LEditsPPPipelineStableDiffusion",
        ledits,
        edited,
        ("DPMSolverMultistepScheduler",),
        {**BETAS, "algorithm_type": "sde-dpmsolver++", "solver_order": 2, "steps_offset": 1},
    ),
    Case(
        "CycleDiffusionPipeline",
        lambda scheduler: around(CycleDiffusionPipeline, scheduler, **text_parts()),
        cycled,
        ("DDIMScheduler",),
        {**PUBLISHED, "clip_sample": False},
    ),
)
