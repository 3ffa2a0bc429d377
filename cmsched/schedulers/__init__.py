"""The named schedulers: a configuration, plans made from it, the stateful habit around one."""

from .base import SchedulerMixin
from .betas import KarrasDiffusionSchedulers
from .config import CLASSES, ConfigMixin, FrozenDict
from .first_order import (
    DDIMScheduler,
    DDIMSchedulerOutput,
    DDPMScheduler,
    DDPMSchedulerOutput,
    LCMScheduler,
    LCMSchedulerOutput,
)
from .flow import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchHeunDiscreteSchedulerOutput,
)
from .generic import Scheduler
from .multistep import DPMSolverMultistepScheduler
from .outputs import SchedulerOutput
from .variance_exploding import (
    CMStochasticIterativeScheduler,
    CMStochasticIterativeSchedulerOutput,
    EulerAncestralDiscreteScheduler,
    EulerAncestralDiscreteSchedulerOutput,
    EulerDiscreteScheduler,
    EulerDiscreteSchedulerOutput,
    HeunDiscreteScheduler,
    HeunDiscreteSchedulerOutput,
)
from .vq_diffusion import VQDiffusionScheduler, VQDiffusionSchedulerOutput

__all__ = [
    "CLASSES",
    "CMStochasticIterativeScheduler",
    "CMStochasticIterativeSchedulerOutput",
    "ConfigMixin",
    "DDIMScheduler",
    "DDIMSchedulerOutput",
    "DDPMScheduler",
    "DDPMSchedulerOutput",
    "DPMSolverMultistepScheduler",
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
    "KarrasDiffusionSchedulers",
    "LCMScheduler",
    "LCMSchedulerOutput",
    "Scheduler",
    "SchedulerMixin",
    "SchedulerOutput",
    "VQDiffusionScheduler",
    "VQDiffusionSchedulerOutput",
]
