"""Videos: schedulers with flow sigmas, shifts and levels that the pipeline itself writes."""

from functools import cache

import diffusers
import diffusers.pipelines.deprecated.stable_diffusion_panorama
import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from . import Case
from .flow import SHIFTED, SOLVED
from .stable import BETAS, around, call, embeds, image, unet

ONE = {"prompt_embeds": embeds(1), "negative_prompt_embeds": 0.1 * embeds(1)}  # prompt of a video


class Unchecked:
    """Stands for Cosmos' safety checker, without which its pipelines do not run."""

    def to(self, device):
        return self

    def check_video_safety(self, video):
        return video


@cache
def eye():
    """An image encoder with its processor."""
    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=16,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        intermediate_size=16,
        patch_size=8,
    )
    processor = CLIPImageProcessor(crop_size=16, size=16, do_rescale=False)
    return CLIPVisionModelWithProjection(config).eval(), processor


@cache
def wan_vae():
    torch.manual_seed(1)
    return diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def wan_options(**changes):
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 16,
        "num_layers": 1,
        "rope_max_seq_len": 16,
        **changes,
    }


@cache
def wan_transformer(seed=0):
    torch.manual_seed(seed)
    return diffusers.WanTransformer3DModel(**wan_options()).eval()


@cache
def chrono_transformer():
    torch.manual_seed(0)
    changes = {"in_channels": 12, "image_dim": 16, "rope_temporal_skip_len": 3}
    return diffusers.ChronoEditTransformer3DModel(**wan_options(**changes)).eval()


@cache
def wan_parts():
    return {"vae": wan_vae(), "transformer": wan_transformer()}


@cache
def wan_parts_of_two():
    """With another network for the last steps."""
    return {**wan_parts(), "transformer_2": wan_transformer(1), "boundary_ratio": 0.8}


@cache
def chrono_parts():
    encoder, processor = eye()
    parts = {"image_encoder": encoder, "image_processor": processor}
    return {**parts, "vae": wan_vae(), "transformer": chrono_transformer()}


@cache
def cogvideox_parts():
    torch.manual_seed(0)
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=5,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=5,
    )
    autoencoder = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    return {"transformer": transformer.eval(), "vae": autoencoder.eval()}


@cache
def cosmos_transformer():
    torch.manual_seed(0)
    return diffusers.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
        patch_size=(1, 2, 2),
        extra_pos_embed_type=None,
        concat_padding_mask=False,  # it would need torchvision
    ).eval()


@cache
def cosmos_vae():
    torch.manual_seed(1)
    return diffusers.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(4, 4, 4, 4),
        decode_block_out_channels=(4, 4, 4, 4),
        attention_resolutions=(8,),
        resolution=16,
        num_layers=1,
        patch_size=4,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        latents_mean=None,
        latents_std=None,
    ).eval()


def cosmos_parts(autoencoder):
    parts = {"transformer": cosmos_transformer(), "safety_checker": Unchecked()}
    return {**parts, "vae": autoencoder()}


@cache
def ltx_parts():
    torch.manual_seed(0)
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=16,
    )
    autoencoder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        patch_size=1,
    )
    autoencoder.use_framewise_encoding = autoencoder.use_framewise_decoding = False
    return {"transformer": transformer.eval(), "vae": autoencoder.eval()}


@cache
def moving_unet():
    torch.manual_seed(2)
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    return diffusers.UNetMotionModel.from_unet2d(unet(), adapter).eval()


@cache
def svd_parts():
    torch.manual_seed(0)
    network = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    autoencoder = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
    )
    encoder, processor = eye()
    return {
        "unet": network.eval(),
        "vae": autoencoder.eval(),
        "image_encoder": encoder,
        "feature_extractor": processor,
    }


def latents(*shape):
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(4))


def case(name, parts, schedulers, options, **called):
    """A case of a pipeline; what is after a comma in its name tells it from others."""
    kind = name.partition(",")[0]
    old = diffusers.pipelines.deprecated.stable_diffusion_panorama
    cls = getattr(diffusers, kind, None) or getattr(old, kind)
    common = {**ONE, "num_inference_steps": 4, "height": 16, "width": 16}
    return Case(
        name,
        lambda scheduler: around(cls, scheduler, **parts()),
        call(**{**common, **called}),
        schedulers,
        options,
    )


EULER = ("FlowMatchEulerDiscreteScheduler",)
SVD = {
    **BETAS,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
COSMOS2 = {"use_karras_sigmas": True}  # and what the pipeline adds to the config
COGVIDEOX = {**BETAS, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
LTX = {**SHIFTED, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}
FEW = {"num_frames": 5}

CASES = (
    case(
        "WanPipeline",
        wan_parts,
        ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler"),
        {**SOLVED, "flow_shift": 3.0},
        **FEW,
    ),
    case(
        "WanPipeline, flow matching",
        wan_parts,
        (*EULER, "FlowMatchHeunDiscreteScheduler"),
        {"shift": 3.0},
        **FEW,
    ),
    case(
        "WanPipeline, two networks",
        wan_parts_of_two,
        ("UniPCMultistepScheduler",),
        {**SOLVED, "flow_shift": 3.0},
        guidance_scale_2=3.0,
        **FEW,
    ),
    case(  # of three latent frames the first and the last are left after three steps
        "ChronoEditPipeline",
        chrono_parts,
        ("UniPCMultistepScheduler",),
        {**SOLVED, "flow_shift": 3.0},
        image=image(1),
        num_frames=9,
        num_inference_steps=6,
        enable_temporal_reasoning=True,
        num_temporal_reasoning_steps=3,
    ),
    case(
        "CogVideoXPipeline",
        cogvideox_parts,
        ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
        COGVIDEOX,
        use_dynamic_cfg=True,
        **FEW,
    ),
    case(  # Cosmos' images have 256 values, and equal ones may hide much
        "Cosmos2TextToImagePipeline",
        lambda: cosmos_parts(wan_vae),
        EULER,
        COSMOS2,
        output_type="latent",
    ),
    case(
        "CosmosTextToWorldPipeline",
        lambda: cosmos_parts(cosmos_vae),
        ("EDMEulerScheduler",),
        {"final_sigmas_type": "sigma_min"},
        output_type="latent",
        **FEW,
    ),
    case(
        "LTXPipeline",
        ltx_parts,
        EULER,
        LTX,
        height=32,
        width=32,
        num_frames=9,
        guidance_rescale=0.3,
        prompt_attention_mask=torch.ones((1, 5)),
        negative_prompt_attention_mask=torch.ones((1, 5)),
    ),
    case(
        "AnimateDiffPipeline",
        lambda: {"unet": moving_unet()},
        (
            *("DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler"),
            *("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"),
        ),
        {"beta_schedule": "linear", "beta_end": 0.012},
        num_frames=3,
    ),
    case(
        "StableVideoDiffusionPipeline",
        svd_parts,
        ("EulerDiscreteScheduler",),
        SVD,
        **dict.fromkeys(ONE),
        image=image(1),
        num_frames=2,
    ),
    case(  # three windows of 64 latents, in two batches
        "StableDiffusionPanoramaPipeline",
        dict,
        (
            *("DDIMScheduler", "LMSDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
            *("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
        ),
        BETAS,
        height=64,
        width=640,
        view_batch_size=2,
        latents=latents(4, 8, 80),
    ),
)
