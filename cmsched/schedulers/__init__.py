"""The named schedulers: a configuration, plans made from it, the stateful habit around one."""

from .a1111 import KDiffusionScheduler, from_a1111
from .base import SchedulerMixin
from .betas import KarrasDiffusionSchedulers
from .cogvideox import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from .config import CLASSES, ConfigMixin, FrozenDict, from_pretrained
from .distilled import (
    ConsistencyDecoderScheduler,
    ConsistencyDecoderSchedulerOutput,
    LCMScheduler,
    LCMSchedulerOutput,
    TCDScheduler,
    TCDSchedulerOutput,
)
from .edm import EDMEulerScheduler, EDMEulerSchedulerOutput
from .first_order import (
    DDIMInverseScheduler,
    DDIMParallelScheduler,
    DDIMParallelSchedulerOutput,
    DDIMScheduler,
    DDIMSchedulerOutput,
    DDPMParallelScheduler,
    DDPMParallelSchedulerOutput,
    DDPMScheduler,
    DDPMSchedulerOutput,
)
from .flow import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchHeunDiscreteSchedulerOutput,
)
from .generic import Scheduler
from .linear_multistep import IPNDMScheduler, PNDMScheduler
from .midpoint import (
    DPMSolverSDEScheduler,
    DPMSolverSDESchedulerOutput,
    KDPM2AncestralDiscreteScheduler,
    KDPM2AncestralDiscreteSchedulerOutput,
    KDPM2DiscreteScheduler,
    KDPM2DiscreteSchedulerOutput,
)
from .multistep import (
    DEISMultistepScheduler,
    DPMSolverMultistepInverse,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
)
from .outputs import SchedulerOutput
from .repaint import RePaintScheduler, RePaintSchedulerOutput
from .score import (
    KarrasVeOutput,
    KarrasVeScheduler,
    ScoreSdeVeScheduler,
    ScoreSdeVpScheduler,
    SdeVeOutput,
)
from .singlestep import DPMSolverSinglestepScheduler
from .unipc import UniPCMultistepScheduler
from .variance_exploding import (
    CMStochasticIterativeScheduler,
    CMStochasticIterativeSchedulerOutput,
    EulerAncestralDiscreteScheduler,
    EulerAncestralDiscreteSchedulerOutput,
    EulerDiscreteScheduler,
    EulerDiscreteSchedulerOutput,
    HeunDiscreteScheduler,
    HeunDiscreteSchedulerOutput,
    LMSDiscreteScheduler,
    LMSDiscreteSchedulerOutput,
)
from .vq_diffusion import VQDiffusionScheduler, VQDiffusionSchedulerOutput

__all__ = [
    "CLASSES",
    "CMStochasticIterativeScheduler",
    "CMStochasticIterativeSchedulerOutput",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "ConfigMixin",
    "ConsistencyDecoderScheduler",
    "ConsistencyDecoderSchedulerOutput",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMParallelSchedulerOutput",
    "DDIMScheduler",
    "DDIMSchedulerOutput",
    "DDPMParallelScheduler",
    "DDPMParallelSchedulerOutput",
    "DDPMScheduler",
    "DDPMSchedulerOutput",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverse",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSDESchedulerOutput",
    "DPMSolverSinglestepScheduler",
    "EDMEulerScheduler",
    "EDMEulerSchedulerOutput",
    "EulerAncestralDiscreteScheduler",
    "EulerAncestralDiscreteSchedulerOutput",
    "EulerDiscreteScheduler",
    "EulerDiscreteSchedulerOutput",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteSchedulerOutput",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchHeunDiscreteSchedulerOutput",
    "FrozenDict",
    "HeunDiscreteScheduler",
    "HeunDiscreteSchedulerOutput",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteSchedulerOutput",
    "KDPM2DiscreteScheduler",
    "KDPM2DiscreteSchedulerOutput",
    "KDiffusionScheduler",
    "KarrasDiffusionSchedulers",
    "KarrasVeOutput",
    "KarrasVeScheduler",
    "LCMScheduler",
    "LCMSchedulerOutput",
    "LMSDiscreteScheduler",
    "LMSDiscreteSchedulerOutput",
    "PNDMScheduler",
    "RePaintScheduler",
    "RePaintSchedulerOutput",
    "Scheduler",
    "SchedulerMixin",
    "SchedulerOutput",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
    "SdeVeOutput",
    "TCDScheduler",
    "TCDSchedulerOutput",
    "UniPCMultistepScheduler",
    "VQDiffusionScheduler",
    "VQDiffusionSchedulerOutput",
    "from_a1111",
    "from_pretrained",
]
