"""Pipelines without a prompt, and those whose schedulers are their own, as of tokens."""

from functools import cache

import diffusers
import torch
from diffusers.pipelines.deprecated.dance_diffusion import DanceDiffusionPipeline
from diffusers.pipelines.deprecated.pndm import PNDMPipeline
from diffusers.pipelines.deprecated.repaint import RePaintPipeline
from diffusers.pipelines.deprecated.score_sde_ve import ScoreSdeVePipeline
from diffusers.pipelines.deprecated.stochastic_karras_ve import KarrasVePipeline
from diffusers.pipelines.deprecated.vq_diffusion import VQDiffusionPipeline
from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
    LearnedClassifierFreeSamplingEmbeddings,
)

from . import Case, stable


@cache
def unet(**changes):
    torch.manual_seed(0)
    options = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        **changes,
    }
    return diffusers.UNet2DModel(**options).eval()


@cache
def unet_of_sound():
    torch.manual_seed(0)
    return diffusers.UNet1DModel(
        sample_size=64,
        sample_rate=64,
        in_channels=2,
        out_channels=2,
        block_out_channels=(32, 32),
        extra_in_channels=64,
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    ).eval()


def call(*args, **options):
    """A call of a pipeline; it may be changed when it is made."""

    def run(pipeline, generator, /, **changes):
        return pipeline(*args, **{"generator": generator, **options, **changes})

    return run


def case(name, pipeline, schedulers, called, options=None, model=unet):
    """A case of a pipeline that takes a network and a scheduler."""
    return Case(
        name,
        lambda scheduler: pipeline(model(), scheduler),
        call(batch_size=2, output_type="np", **called),
        schedulers,
        options or {},
    )


def classes():
    return unet(num_class_embeds=4)


def inpainted():
    """A call of RePaint."""
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 3:] = 1.0
    image = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    jumps = {"num_inference_steps": 6, "jump_length": 2, "jump_n_sample": 2}
    return call(image, mask, eta=0.5, output_type="np", **jumps)


@cache
def tokens():
    """A network over 4 x 4 tokens of 6 kinds or masked, and what decodes them."""
    torch.manual_seed(0)
    network = diffusers.Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_vector_embeds=7,
        sample_size=4,
        cross_attention_dim=16,
        norm_type="ada_norm",
        num_embeds_ada_norm=8,
        activation_fn="geglu-approximate",
    )
    codes = diffusers.VQModel(
        block_out_channels=(8,), norm_num_groups=4, vq_embed_dim=3, num_vq_embeddings=6
    )
    torch.nn.init.normal_(codes.quantize.embedding.weight)
    return {
        "transformer": network.eval(),
        "vqvae": codes.eval(),
        "learned_classifier_free_sampling_embeddings": LearnedClassifierFreeSamplingEmbeddings(
            learnable=False
        ),
    }


@cache
def decoder():
    """A consistency model that decodes latents."""
    torch.manual_seed(2)
    shapes = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    sides = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in shapes.items()}
    return diffusers.ConsistencyDecoderVAE(
        **sides,
        encoder_down_block_types=("DownEncoderBlock2D",) * 2,
        decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2,
        decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2,
    ).eval()


def decoded(scheduler):
    """A pipeline with a scheduler inside its decoder."""
    euler = diffusers.EulerDiscreteScheduler(**stable.BETAS)
    decoder().decoder_scheduler = scheduler
    return stable.around(diffusers.StableDiffusionPipeline, euler, vae=decoder())


MILD = {"beta_end": 0.002}  # the data can be seen, so that images are not black and white
CM = "ConsistencyModelPipeline"
CASES = (
    case(
        "DDPMPipeline",
        diffusers.DDPMPipeline,
        ("DDPMScheduler", "DDPMParallelScheduler"),
        {"num_inference_steps": 5},
    ),
    case(
        "DDPMPipeline, learned variance",
        diffusers.DDPMPipeline,
        ("DDPMScheduler", "DDPMParallelScheduler"),
        {"num_inference_steps": 5},
        {"variance_type": "learned_range"},
        lambda: unet(out_channels=6),
    ),
    case(
        "DDIMPipeline",
        diffusers.DDIMPipeline,
        ("DDIMScheduler",),
        {"num_inference_steps": 5, "eta": 0.5},
    ),
    case(
        "DDIMPipeline, clipped output",
        diffusers.DDIMPipeline,
        ("DDIMScheduler",),
        {"num_inference_steps": 5, "use_clipped_model_output": True},
        {**MILD, "clip_sample_range": 1.5},
    ),
    case("PNDMPipeline", PNDMPipeline, ("PNDMScheduler",), {"num_inference_steps": 6}, MILD),
    *(
        case(
            f"{CM}, {name}",
            diffusers.ConsistencyModelPipeline,
            ("CMStochasticIterativeScheduler",),
            {"class_labels": [1, 3], **called},
            model=classes,
        )
        for name, called in {
            "1 step": {"num_inference_steps": 1},
            "2 steps": {"num_inference_steps": 2},
            "timesteps": {"num_inference_steps": None, "timesteps": [22, 7, 0]},
        }.items()
    ),
    Case(
        "RePaintPipeline",
        lambda scheduler: RePaintPipeline(unet(), scheduler),
        inpainted(),
        ("RePaintScheduler",),
    ),
    case(
        "ScoreSdeVePipeline",
        ScoreSdeVePipeline,
        ("ScoreSdeVeScheduler",),
        {"num_inference_steps": 4},
        {"sigma_max": 0.4, "correct_steps": 2, "snr": 0.05},
    ),
    case(
        "KarrasVePipeline",
        KarrasVePipeline,
        ("KarrasVeScheduler",),
        {"num_inference_steps": 4},
        {"sigma_max": 1.2, "s_max": 1.0},
    ),
    Case(
        "DanceDiffusionPipeline",
        lambda scheduler: DanceDiffusionPipeline(unet_of_sound(), scheduler),
        call(batch_size=2, num_inference_steps=6),
        ("IPNDMScheduler",),
    ),
    Case(
        "VQDiffusionPipeline",
        lambda scheduler: stable.around(
            VQDiffusionPipeline, scheduler, **tokens(), **stable.text_parts()
        ),
        call(["a b", "c"], num_inference_steps=8, truncation_rate=0.9, output_type="np"),
        ("VQDiffusionScheduler",),
        {"num_vec_classes": 7, "num_train_timesteps": 8},
    ),
    Case(
        "ConsistencyDecoderVAE",
        decoded,
        stable.call(num_inference_steps=3),
        ("ConsistencyDecoderScheduler",),
        place="vae.decoder_scheduler",
    ),
)
