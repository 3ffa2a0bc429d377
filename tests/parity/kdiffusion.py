"""k-diffusion's samplers as they are installed, with the noise in our hands.

The package imports what only its training needs (torchvision, CLIP, clean-fid); its sampling.py,
utils.py and external.py are loaded without it, as modules of a package of another name.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from .lifted import Draws, StandIn

NAME = "bare_k_diffusion"
ABSENT = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


def load(part: str) -> ModuleType:
    """One module of k-diffusion: "sampling", "utils" or "external"."""
    if NAME not in sys.modules:
        package = ModuleType(NAME)
        package.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
        sys.modules[NAME] = package
    stubs = {} if importlib.util.find_spec("torchvision") else {n: ModuleType(n) for n in ABSENT}
    for name, module in stubs.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stubs[parent], child, module)
    with mock.patch.dict(sys.modules, stubs):
        found = importlib.import_module(f"{NAME}.{part}")
    # patch.dict also forgets what was imported meanwhile
    sys.modules.update({f"{NAME}.{part}": found})
    return found


@contextmanager
def noise(draws: Draws) -> Iterator[ModuleType]:
    """The module `sampling`; within the context its normals and Brownian increments are given."""
    sampling = load("sampling")
    normals = StandIn(torch, randn_like=lambda x: draws(x.shape, dtype=x.dtype))
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # for the levels that it makes tensors of
        with mock.patch.multiple(sampling, torch=normals, BrownianTreeNoiseSampler=draws.tree):
            yield sampling
    finally:
        torch.set_default_dtype(dtype)


class Seen:
    """A denoiser that is not linear in its input, and what it saw, said and found drawn before."""

    def __init__(self, draws: Draws | None = None) -> None:
        self.inputs: list[torch.Tensor] = []
        self.sigmas: list[float] = []
        self.estimates: list[torch.Tensor] = []
        self.drawn: list[list[torch.Tensor]] = []
        self._draws = draws

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the clean sample, as k-diffusion's denoisers do."""
        if self._draws is not None:
            self.drawn.append(self._draws.handed_over())
        self.inputs.append(x)
        self.sigmas.append(float(sigma.reshape(-1)[0]))
        self.estimates.append(torch.sin(x + len(self.inputs)) * 0.9)
        return self.estimates[-1]


def through(
    name: str, x: torch.Tensor, call: Callable[..., tuple[Any, ...]], draws: Draws, **options: Any
) -> tuple[torch.Tensor, Seen, list[dict[str, Any]]]:
    """Run `sample_<name>`; the sample, what the denoiser saw, and what the callback was given."""
    model, steps = Seen(draws), []
    with noise(draws) as sampling:
        run = getattr(sampling, f"sample_{name}")
        end = run(model, x, *call, disable=True, callback=steps.append, **options)
    model.drawn.append(draws.handed_over())
    return end, model, steps
