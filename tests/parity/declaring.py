"""What a declared difference is, and what its proofs share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import cmsched

from . import runs
from .grid import RAMPS, Case, Space
from .lifted import Draws, reference

Where = Callable[[Space, Case], bool]
SCOPES = ("all", "but the estimate", "but the last step", "none", "none as installed")

COGVIDEOX = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
DDIM = ("DDIMScheduler", "DDIMParallelScheduler", *COGVIDEOX)
DDPM = ("DDPMScheduler", "DDPMParallelScheduler")
INVERSE, LCM, TCD = ("DDIMInverseScheduler",), ("LCMScheduler",), ("TCDScheduler",)
DECODER = ("ConsistencyDecoderScheduler",)
CM, HEUN = ("CMStochasticIterativeScheduler",), ("HeunDiscreteScheduler",)
EULER, ANCESTRAL = ("EulerDiscreteScheduler",), ("EulerAncestralDiscreteScheduler",)
DPM = ("DPMSolverMultistepScheduler",)
KDPM = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
SDE, LMS, EDM = ("DPMSolverSDEScheduler",), ("LMSDiscreteScheduler",), ("EDMEulerScheduler",)
X = runs.normal((2, 3, 4, 5), torch.float64, 10)
EPS = runs.normal((2, 3, 4, 5), torch.float64, 11)


def nowhere(space: Space, case: Case) -> bool:
    """No case of the grid."""
    return False


@dataclass(frozen=True)
class Concern:
    """Some classes, and the cases of the grid in which a difference is met.

    Args:
        classes: their names.
        where: the cases.
        scope: how such a case is compared: "none" of its numbers, all "but the estimate", or "but
            the last step", which leaves the sample alone.
        translate: the case, and the network's output, that the reference has to be given instead.
    """

    classes: tuple[str, ...]
    where: Where
    scope: str
    translate: Callable[[Case], Case] | None

    def met(self, space: Space, case: Case) -> bool:
        """Whether a case is one of these."""
        return space.name in self.classes and self.where(space, case)


@dataclass(frozen=True)
class Difference:
    """One theme on which we and the reference differ.

    Args:
        name: of the theme.
        paper, diffusers: what `compatibility` of that name does; they are equal where the reference
            is not followed in either.
        right: who is, by which source.
        concerned: where it is met.
        proofs: each asserts that the reference does what is said here, and that we do.
    """

    name: str
    paper: str
    diffusers: str
    right: str
    concerned: list[Concern] = field(default_factory=list)
    proofs: list[Callable[[], None]] = field(default_factory=list)

    def concerns(
        self,
        classes: tuple[str, ...],
        where: Where = nowhere,
        scope: str = "all",
        translate: Callable[[Case], Case] | None = None,
    ) -> "Difference":
        """Say that it is met by these classes, and in which of their cases."""
        self.concerned.append(Concern(classes, where, scope, translate))
        return self

    def proves(self, proof: Callable[[], None]) -> Callable[[], None]:
        """Register a demonstration; its docstring says what is special about it, and the source."""
        self.proofs.append(proof)
        return proof

    @property
    def copied(self) -> bool:
        """Whether `compatibility` chooses."""
        return self.paper != self.diffusers

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, each once."""
        return tuple(dict.fromkeys(name for c in self.concerned for name in c.classes))

    def met(self, space: Space, case: Case) -> list[Concern]:
        """Why a case meets it."""
        return [concern for concern in self.concerned if concern.met(space, case)]


DECLARED: list[Difference] = []


def differs(name: str, paper: str, diffusers: str = "", *, right: str) -> Difference:
    """Declare a difference."""
    DECLARED.append(Difference(name, paper, diffusers or paper, right))
    return DECLARED[-1]


@contextmanager
def theirs(names: tuple[str, ...], *, lifted: bool = True, **options: Any) -> Iterator[Any]:
    """A scheduler of the reference."""
    with reference(names[0], Draws(), lifted=lifted) as cls:
        yield cls(**options)


def ours(names: tuple[str, ...], compatibility: str = "diffusers", **options: Any) -> Any:
    """A scheduler of ours."""
    return getattr(cmsched, names[0])(**options, compatibility=compatibility, xp="torch")


def close(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Whether two arrays or numbers are the same."""
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance))


def both() -> tuple[str, str]:
    """The values of `compatibility`."""
    return "paper", "diffusers"


def quick(scheduler: Any, n: int, **options: Any) -> torch.Tensor:
    """The first step of a run."""
    scheduler.set_timesteps(n)
    t = scheduler.timesteps[0]
    if hasattr(scheduler, "scale_model_input"):  # a flow has none
        scheduler.scale_model_input(X, t)
    return scheduler.step(EPS, t, X, **options).prev_sample


def constant(z: float, shape: Any, dtype: Any, interval: Any) -> torch.Tensor:
    """Noise that is the same number everywhere."""
    return torch.full(tuple(shape), z, dtype=dtype)


def zero_length(space: Space, case: Case) -> bool:
    """Whether the last step goes nowhere."""
    points = runs.plan_of(space, case).grid.points
    return points[-2].ratio == points[-1].ratio


def ramped(case: Case) -> bool:
    """Whether sigmas are placed by a curve and times read back from them."""
    return any(case.get(name) for name in (*RAMPS, "use_lu_lambdas"))
