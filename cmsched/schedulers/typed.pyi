# Made of the tables of options by `python tests/generated.py`: change those, and run it.
# No module stands behind this file. Each class is the one of its family, whose methods
# are checked where they are written, with the arguments that its tables give it.
# ruff: noqa
# mypy: disable-error-code="override,overload-overlap"
# pyright: reportIncompatibleMethodOverride=false, reportOverlappingOverload=false
from collections.abc import Sequence
from typing import Any, Generic, Literal, overload

from ..backends import A
from ..plan import Plan
from ..recipe import Recipe
from . import a1111
from . import cogvideox
from . import distilled
from . import edm
from . import first_order
from . import flow
from . import generic
from . import karras_ve
from . import linear_multistep
from . import midpoint
from . import multistep
from . import outputs
from . import repaint
from . import score_sde
from . import sigma
from . import singlestep
from . import unipc
from . import vq_diffusion
from .a1111 import from_a1111 as from_a1111
from .betas import KarrasDiffusionSchedulers as KarrasDiffusionSchedulers
from .config import CLASSES as CLASSES
from .config import ConfigMixin as ConfigMixin
from .habit import SchedulerMixin as SchedulerMixin
from .multistep import DPMSolverMultistepInverse as DPMSolverMultistepInverse
from .pretrained import from_pretrained as from_pretrained

class CMStochasticIterativeSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A

class ConsistencyDecoderSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A

class DDIMParallelSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class DDIMSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class DDPMParallelSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class DDPMSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class DPMSolverSDESchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class EDMEulerSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class EulerAncestralDiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class EulerDiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class FlowMatchEulerDiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A

class FlowMatchHeunDiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A

class HeunDiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class KDPM2AncestralDiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class KDPM2DiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class KarrasVeOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    derivative: Any
    pred_original_sample: Any

class LCMSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    denoised: Any

class LMSDiscreteSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class OriginalSampleOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class RePaintSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_original_sample: Any

class SchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A

class SdeVeOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    prev_sample_mean: Any

class TCDSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A
    pred_noised_sample: Any

class VQDiffusionSchedulerOutput(outputs.SchedulerOutput, Generic[A]):
    prev_sample: A

class KDiffusionScheduler(a1111.KDiffusionScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        sampler: str = "dpmpp_2s_ancestral",
        sampler_options: dict[str, Any] | None = None,
        prediction_type: str = "epsilon",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool | None = False,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h_init: float = 0.05,
        pcoeff: float = 0.0,
        icoeff: float = 1.0,
        dcoeff: float = 0.0,
        accept_safety: float = 0.81,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        euler_at_final: bool | None = False,
        lower_order_final: bool = True,
        aligned: bool | None = False,
        r: float = 0.5,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
        dt: float = 0.0,
        variable: str = "ratio",
        from_start: bool | None = False,
        predict_v: bool | None = False,
        idle: bool | None = False,
        half_step: float | None = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        late: float = 0.0,
        predict_x0: bool = True,
        disable_corrector: Sequence[int] | bool = (),
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h_init: float = 0.05,
        pcoeff: float = 0.0,
        icoeff: float = 1.0,
        dcoeff: float = 0.0,
        accept_safety: float = 0.81,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        euler_at_final: bool | None = False,
        lower_order_final: bool = True,
        aligned: bool | None = False,
        r: float = 0.5,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
        dt: float = 0.0,
        variable: str = "ratio",
        from_start: bool | None = False,
        predict_v: bool | None = False,
        idle: bool | None = False,
        half_step: float | None = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        late: float = 0.0,
        predict_x0: bool = True,
        disable_corrector: Sequence[int] | bool = (),
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> OriginalSampleOutput[A]: ...

class CogVideoXDDIMScheduler(cogvideox.CogVideoXDDIMScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear",
        trained_betas: Any = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        rescale_betas_zero_snr: bool | None = False,
        snr_shift_scale: float = 3.0,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Any = None,
        variance_noise: Any = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput[A]: ...

class CogVideoXDPMScheduler(cogvideox.CogVideoXDPMScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear",
        trained_betas: Any = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        rescale_betas_zero_snr: bool | None = False,
        snr_shift_scale: float = 3.0,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        ramp_down: bool | None = False,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        ramp_down: bool | None = False,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...

class CMStochasticIterativeScheduler(distilled.CMStochasticIterativeScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 40,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        s_noise: float = 1.0,
        rho: float = 7.0,
        clip_denoised: bool = True,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        *,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> CMStochasticIterativeSchedulerOutput[A]: ...

class ConsistencyDecoderScheduler(distilled.ConsistencyDecoderScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1024,
        sigma_data: float = 0.5,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> ConsistencyDecoderSchedulerOutput[A]: ...

class LCMScheduler(distilled.LCMScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear",
        trained_betas: Any = None,
        original_inference_steps: int = 50,
        clip_sample: bool | None = False,
        clip_sample_range: float = 1.0,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        timestep_scaling: float = 10.0,
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        original_inference_steps: int | None = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        original_inference_steps: int | None = None,
        timesteps: Any = None,
        strength: float = 1.0,
        *,
        sigmas: Any = None,
        xp: Any = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> LCMSchedulerOutput[A]: ...

class TCDScheduler(distilled.TCDScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear",
        trained_betas: Any = None,
        original_inference_steps: int = 50,
        clip_sample: bool | None = False,
        clip_sample_range: float = 1.0,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        timestep_scaling: float = 10.0,
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        original_inference_steps: int | None = None,
        eta: float = 0.3,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        original_inference_steps: int | None = None,
        timesteps: Any = None,
        strength: float = 1.0,
        *,
        sigmas: Any = None,
        xp: Any = None,
        eta: float = 0.3,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        eta: float = 0.3,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        eta: float = 0.3,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> TCDSchedulerOutput[A]: ...

class EDMEulerScheduler(edm.EDMEulerScheduler):
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        sigma_schedule: Literal["karras", "exponential"] = "karras",
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        rho: float = 7.0,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        *,
        timesteps: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        pred_original_sample: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
        pred_original_sample: Any = None,
        *,
        variance_noise: Any = None,
    ) -> EDMEulerSchedulerOutput[A]: ...

class DDIMInverseScheduler(first_order.DDIMInverseScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        clip_sample_range: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> DDIMSchedulerOutput[A]: ...

class DDIMParallelScheduler(first_order.DDIMParallelScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Any = None,
        variance_noise: Any = None,
        return_dict: bool = True,
    ) -> DDIMParallelSchedulerOutput[A]: ...

class DDIMScheduler(first_order.DDIMScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Any = None,
        variance_noise: Any = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput[A]: ...

class DDPMParallelScheduler(first_order.DDPMParallelScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal[
            "linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"
        ] = "linear",
        trained_betas: Any = None,
        variance_type: Literal[
            "fixed_small",
            "fixed_small_log",
            "fixed_large",
            "fixed_large_log",
            "learned",
            "learned_range",
        ] = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        *,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> DDPMParallelSchedulerOutput[A]: ...

class DDPMScheduler(first_order.DDPMScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal[
            "linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"
        ] = "linear",
        trained_betas: Any = None,
        variance_type: Literal[
            "fixed_small",
            "fixed_small_log",
            "fixed_large",
            "fixed_large_log",
            "learned",
            "learned_range",
        ] = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        *,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> DDPMSchedulerOutput[A]: ...

class FlowMatchEulerDiscreteScheduler(flow.FlowMatchEulerDiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool | None = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool | None = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        stochastic_sampling: bool | None = False,
        *,
        sde_eta: float = 0.0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        mu: float | None = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.7,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
        *,
        strength: float = 1.0,
        xp: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.7,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        per_token_timesteps: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        per_token_timesteps: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> FlowMatchEulerDiscreteSchedulerOutput[A]: ...

class FlowMatchHeunDiscreteScheduler(flow.FlowMatchHeunDiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        variable: str = "ratio",
        from_start: bool | None = False,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        variable: str = "ratio",
        from_start: bool | None = False,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> FlowMatchHeunDiscreteSchedulerOutput[A]: ...

class Scheduler(generic.Scheduler):
    def __init__(
        self,
        sampler: str = "dpmpp_multistep",
        schedule: str = "scaled_linear",
        spacing: str = "trailing",
        prediction_type: str = "epsilon",
        num_train_timesteps: int = 1000,
        sampler_options: dict[str, Any] | None = None,
        schedule_options: dict[str, Any] | None = None,
        spacing_options: dict[str, Any] | None = None,
        steps_offset: int = 0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        shift: float = 1.0,
        clip_sample_range: float | None = None,
        dynamic_thresholding_ratio: float | None = None,
        sample_max_value: float = 1.0,
        *,
        recipe: Recipe | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h_init: float = 0.05,
        pcoeff: float = 0.0,
        icoeff: float = 1.0,
        dcoeff: float = 0.0,
        accept_safety: float = 0.81,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        euler_at_final: bool | None = False,
        lower_order_final: bool = True,
        aligned: bool | None = False,
        r: float = 0.5,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
        dt: float = 0.0,
        variable: str = "ratio",
        from_start: bool | None = False,
        predict_v: bool | None = False,
        idle: bool | None = False,
        half_step: float | None = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        late: float = 0.0,
        predict_x0: bool = True,
        disable_corrector: Sequence[int] | bool = (),
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h_init: float = 0.05,
        pcoeff: float = 0.0,
        icoeff: float = 1.0,
        dcoeff: float = 0.0,
        accept_safety: float = 0.81,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        euler_at_final: bool | None = False,
        lower_order_final: bool = True,
        aligned: bool | None = False,
        r: float = 0.5,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
        dt: float = 0.0,
        variable: str = "ratio",
        from_start: bool | None = False,
        predict_v: bool | None = False,
        idle: bool | None = False,
        half_step: float | None = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        late: float = 0.0,
        predict_x0: bool = True,
        disable_corrector: Sequence[int] | bool = (),
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> OriginalSampleOutput[A]: ...

class KarrasVeScheduler(karras_ve.KarrasVeScheduler):
    def __init__(
        self,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        s_noise: float = 1.007,
        s_churn: float = 80.0,
        s_min: float = 0.05,
        s_max: float = 50.0,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        variable: str = "ratio",
        from_start: bool | None = False,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        variable: str = "ratio",
        from_start: bool | None = False,
    ) -> None: ...

class IPNDMScheduler(linear_multistep.IPNDMScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        trained_betas: Any = None,
        *,
        variable_step: bool | None = False,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        solver_order: int = 4,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        solver_order: int = 4,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> SchedulerOutput[A]: ...

class PNDMScheduler(linear_multistep.PNDMScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        skip_prk_steps: bool | None = False,
        set_alpha_to_one: bool | None = False,
        prediction_type: str = "epsilon",
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading",
        steps_offset: int = 0,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        predict_v: bool | None = False,
        idle: bool | None = False,
        from_start: bool | None = False,
        half_step: float | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        predict_v: bool | None = False,
        idle: bool | None = False,
        from_start: bool | None = False,
        half_step: float | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> SchedulerOutput[A]: ...

class DPMSolverSDEScheduler(midpoint.DPMSolverSDEScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        noise_sampler_seed: int | Sequence[int] | None = None,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        num_train_timesteps: int | None = None,
        eta: float = 1.0,
        s_noise: float = 1.0,
        r: float = 0.5,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        num_train_timesteps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 1.0,
        s_noise: float = 1.0,
        r: float = 0.5,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        s_noise: float = 1.0,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        s_noise: float = 1.0,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> DPMSolverSDESchedulerOutput[A]: ...

class KDPM2AncestralDiscreteScheduler(midpoint.KDPM2AncestralDiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        prediction_type: str = "epsilon",
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        num_train_timesteps: int | None = None,
        eta: float = 1.0,
        s_noise: float = 1.0,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        num_train_timesteps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 1.0,
        s_noise: float = 1.0,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> KDPM2AncestralDiscreteSchedulerOutput[A]: ...

class KDPM2DiscreteScheduler(midpoint.KDPM2DiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        prediction_type: str = "epsilon",
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        num_train_timesteps: int | None = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        num_train_timesteps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> KDPM2DiscreteSchedulerOutput[A]: ...

class DEISMultistepScheduler(multistep.DEISMultistepScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        solver_order: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9] = 2,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: Literal["deis", "dpmsolver", "dpmsolver++"] = "deis",
        solver_type: Literal["logrho", "midpoint", "heun", "bh1", "bh2"] = "logrho",
        lower_order_final: bool = True,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        use_dynamic_shifting: bool | None = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        mu: float | None = None,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        mu: float | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> SchedulerOutput[A]: ...

class DPMSolverMultistepInverseScheduler(multistep.DPMSolverMultistepInverseScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        solver_order: Literal[1, 2, 3] = 2,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: Literal[
            "dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"
        ] = "dpmsolver++",
        solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool | None = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float = 1.0,
        lambda_min_clipped: float = ...,
        variance_type: Literal[
            None,
            "fixed_small",
            "fixed_small_log",
            "fixed_large",
            "fixed_large_log",
            "learned",
            "learned_range",
        ] = None,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        *,
        third_order: Literal["published", "exact"] = "published",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        ramp_down: bool | None = False,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        ramp_down: bool | None = False,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        variance_noise: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput[A]: ...

class DPMSolverMultistepScheduler(multistep.DPMSolverMultistepScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        solver_order: Literal[1, 2, 3] = 2,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: Literal[
            "dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"
        ] = "dpmsolver++",
        solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool | None = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_lu_lambdas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float = 1.0,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        lambda_min_clipped: float = ...,
        variance_type: Literal[
            None,
            "fixed_small",
            "fixed_small_log",
            "fixed_large",
            "fixed_large_log",
            "learned",
            "learned_range",
        ] = None,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool | None = False,
        use_dynamic_shifting: bool | None = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        *,
        third_order: Literal["published", "exact"] = "published",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        mu: float | None = None,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        ramp_down: bool | None = False,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
        *,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        ramp_down: bool | None = False,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        variance_noise: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput[A]: ...

class RePaintScheduler(repaint.RePaintScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal[
            "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"
        ] = "linear",
        eta: float = 0.0,
        trained_betas: Any = None,
        clip_sample: bool = True,
        *,
        prediction_type: str = "epsilon",
        clip_sample_range: float = 1.0,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        eta: float = 0.0,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        late: float = 0.0,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 0.0,
        late: float = 0.0,
    ) -> None: ...

class ScoreSdeVeScheduler(score_sde.ScoreSdeVeScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 2000,
        snr: float = 0.15,
        sigma_min: float = 0.01,
        sigma_max: float = 1348.0,
        sampling_eps: float = 1e-05,
        correct_steps: int = 1,
        *,
        per_sample: bool | None = False,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        sampling_eps: float | None = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        sampling_eps: float | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
    ) -> None: ...

class ScoreSdeVpScheduler(score_sde.ScoreSdeVpScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 2000,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        sampling_eps: float = 0.001,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        dt: float = 0.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        dt: float = 0.0,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...

class EulerAncestralDiscreteScheduler(sigma.EulerAncestralDiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool | None = False,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        eta: float = 1.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        eta: float = 1.0,
        use_clipped_model_output: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> EulerAncestralDiscreteSchedulerOutput[A]: ...

class EulerDiscreteScheduler(sigma.EulerDiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        interpolation_type: Literal["linear", "log_linear"] = "linear",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        timestep_type: Literal["discrete", "continuous"] = "discrete",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool | None = False,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        *,
        strength: float = 1.0,
        xp: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> EulerDiscreteSchedulerOutput[A]: ...

class HeunDiscreteScheduler(sigma.HeunDiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        clip_sample: bool | None = False,
        clip_sample_range: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        num_train_timesteps: int | None = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        variable: str = "ratio",
        from_start: bool | None = False,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        num_train_timesteps: int | None = None,
        timesteps: Any = None,
        *,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        s_noise: float = 1.0,
        variable: str = "ratio",
        from_start: bool | None = False,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> HeunDiscreteSchedulerOutput[A]: ...

class LMSDiscreteScheduler(sigma.LMSDiscreteScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        prediction_type: str = "epsilon",
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        solver_order: int = 4,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
        order: int = 4,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        solver_order: int = 4,
        euler_at_final: bool | None = False,
        corrector: str | tuple[Any, ...] | None = None,
        order: int = 4,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        order: int = 4,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        order: int = 4,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> LMSDiscreteSchedulerOutput[A]: ...

class DPMSolverSinglestepScheduler(singlestep.DPMSolverSinglestepScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        solver_order: Literal[1, 2, 3] = 2,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: Literal[
            "dpmsolver", "dpmsolver++", "sde-dpmsolver++", "deis"
        ] = "dpmsolver++",
        solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint",
        lower_order_final: bool | None = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float = 1.0,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        lambda_min_clipped: float = ...,
        variance_type: Literal[
            None,
            "fixed_small",
            "fixed_small_log",
            "fixed_large",
            "fixed_large_log",
            "learned",
            "learned_range",
        ] = None,
        use_dynamic_shifting: bool | None = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        mu: float | None = None,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        aligned: bool | None = False,
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
        *,
        sigmas: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        solver_order: int = 2,
        eta: float = 0.0,
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        aligned: bool | None = False,
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        generator: Any = None,
        return_dict: bool = True,
        *,
        variance_noise: Any = None,
    ) -> SchedulerOutput[A]: ...

class UniPCMultistepScheduler(unipc.UniPCMultistepScheduler):
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: Any = None,
        solver_order: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9] = 2,
        prediction_type: str = "epsilon",
        thresholding: bool | None = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        predict_x0: bool = True,
        solver_type: Literal["bh1", "bh2", "midpoint", "heun", "logrho"] = "bh2",
        lower_order_final: bool = True,
        disable_corrector: Sequence[int] | bool = [],
        solver_p: Any = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float = 1.0,
        timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace",
        steps_offset: int = 0,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        rescale_betas_zero_snr: bool | None = False,
        use_dynamic_shifting: bool | None = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        shift_terminal: float | None = None,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Any = None,
        sigmas: Any = None,
        strength: float = 1.0,
        mu: float | None = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h_init: float = 0.05,
        pcoeff: float = 0.0,
        icoeff: float = 1.0,
        dcoeff: float = 0.0,
        accept_safety: float = 0.81,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        euler_at_final: bool | None = False,
        lower_order_final: bool = True,
        aligned: bool | None = False,
        r: float = 0.5,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
        dt: float = 0.0,
        variable: str = "ratio",
        from_start: bool | None = False,
        predict_v: bool | None = False,
        idle: bool | None = False,
        half_step: float | None = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        late: float = 0.0,
        predict_x0: bool = True,
        disable_corrector: Sequence[int] | bool = (),
    ) -> Plan: ...
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        *,
        timesteps: Any = None,
        strength: float = 1.0,
        xp: Any = None,
        s_noise: float = 1.0,
        corrector: str | tuple[Any, ...] | None = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        variance: str = "fixed_small",
        draw_last: bool | None = False,
        solver_order: int = 2,
        ramp_down: bool | None = False,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = ...,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h_init: float = 0.05,
        pcoeff: float = 0.0,
        icoeff: float = 1.0,
        dcoeff: float = 0.0,
        accept_safety: float = 0.81,
        solver_type: str = "midpoint",
        third_order: Literal["published", "exact"] = "published",
        euler_at_final: bool | None = False,
        lower_order_final: bool = True,
        aligned: bool | None = False,
        r: float = 0.5,
        prediction_type: str = "epsilon",
        sigma_data: float = 0.5,
        spare: float = 0.0,
        dt: float = 0.0,
        variable: str = "ratio",
        from_start: bool | None = False,
        predict_v: bool | None = False,
        idle: bool | None = False,
        half_step: float | None = None,
        snr: float = 0.15,
        correct_steps: int = 1,
        per_sample: bool | None = False,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        late: float = 0.0,
        predict_x0: bool = True,
        disable_corrector: Sequence[int] | bool = (),
    ) -> None: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        *,
        return_dict: Literal[False],
        generator: Any = None,
        variance_noise: Any = None,
    ) -> tuple[A, ...]: ...
    @overload
    def step(
        self,
        model_output: A,
        timestep: Any,
        sample: A,
        return_dict: bool = True,
        *,
        generator: Any = None,
        variance_noise: Any = None,
    ) -> SchedulerOutput[A]: ...

class VQDiffusionScheduler(vq_diffusion.VQDiffusionScheduler):
    def __init__(
        self,
        num_vec_classes: int,
        num_train_timesteps: int = 100,
        alpha_cum_start: float = 0.99999,
        alpha_cum_end: float = 9e-06,
        gamma_cum_start: float = 9e-06,
        gamma_cum_end: float = 0.99999,
        *,
        compatibility: Literal["paper", "diffusers"] = "paper",
        xp: Any = None,
    ) -> None: ...
