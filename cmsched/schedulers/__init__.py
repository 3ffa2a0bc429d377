"""The named schedulers: options that mean a recipe, and the stateful habit around its plans.

A family is loaded when one of its names is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .typed import *  # noqa: F403

# the names of every file
FAMILIES: dict[str, tuple[str, ...]] = {
    "a1111": ("KDiffusionScheduler", "from_a1111"),
    "betas": ("KarrasDiffusionSchedulers",),
    "cogvideox": ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
    "config": ("CLASSES", "ConfigMixin"),
    "distilled": (
        "CMStochasticIterativeScheduler",
        "ConsistencyDecoderScheduler",
        "LCMScheduler",
        "TCDScheduler",
    ),
    "edm": ("EDMEulerScheduler",),
    "first_order": (
        "DDIMInverseScheduler",
        "DDIMParallelScheduler",
        "DDIMScheduler",
        "DDPMParallelScheduler",
        "DDPMScheduler",
    ),
    "flow": ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    "generic": ("Scheduler",),
    "habit": ("SchedulerMixin",),
    "karras_ve": ("KarrasVeScheduler",),
    "linear_multistep": ("IPNDMScheduler", "PNDMScheduler"),
    "midpoint": (
        "DPMSolverSDEScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
    ),
    "multistep": (
        "DEISMultistepScheduler",
        "DPMSolverMultistepInverse",
        "DPMSolverMultistepInverseScheduler",
        "DPMSolverMultistepScheduler",
    ),
    "outputs": (
        "CMStochasticIterativeSchedulerOutput",
        "ConsistencyDecoderSchedulerOutput",
        "DDIMParallelSchedulerOutput",
        "DDIMSchedulerOutput",
        "DDPMParallelSchedulerOutput",
        "DDPMSchedulerOutput",
        "DPMSolverSDESchedulerOutput",
        "EDMEulerSchedulerOutput",
        "EulerAncestralDiscreteSchedulerOutput",
        "EulerDiscreteSchedulerOutput",
        "FlowMatchEulerDiscreteSchedulerOutput",
        "FlowMatchHeunDiscreteSchedulerOutput",
        "HeunDiscreteSchedulerOutput",
        "KDPM2AncestralDiscreteSchedulerOutput",
        "KDPM2DiscreteSchedulerOutput",
        "KarrasVeOutput",
        "LCMSchedulerOutput",
        "LMSDiscreteSchedulerOutput",
        "RePaintSchedulerOutput",
        "SchedulerOutput",
        "SdeVeOutput",
        "TCDSchedulerOutput",
        "VQDiffusionSchedulerOutput",
    ),
    "pretrained": ("from_pretrained",),
    "repaint": ("RePaintScheduler",),
    "score_sde": ("ScoreSdeVeScheduler", "ScoreSdeVpScheduler"),
    "sigma": (
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
    ),
    "singlestep": ("DPMSolverSinglestepScheduler",),
    "unipc": ("UniPCMultistepScheduler",),
    "vq_diffusion": ("VQDiffusionScheduler",),
}
PLACES = {name: family for family, names in FAMILIES.items() for name in names}
__all__ = sorted(PLACES)


if not TYPE_CHECKING:  # where a name that is not here is an error

    def __getattr__(name: str) -> Any:
        if name not in PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "CLASSES":
            load_all()
        return getattr(importlib.import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *PLACES]


def load_all() -> None:
    """Load every family."""
    for family in FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
