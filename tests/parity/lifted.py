"""diffusers' schedulers as they are installed, or with their float32 tables lifted to float64.

Ours have the values of these tables with compatibility="diffusers"; `own_tables` lifts them too.
Lifting rebinds the names `torch` and `np` inside diffusers' scheduler modules to stand-ins whose
float32 is float64. In both cases `randn_tensor` is replaced by a source that keeps what it gave, so
that the other side of a comparison gets the same noise and draws can be counted; a Brownian tree
becomes a path made of the same source.
"""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch

from cmsched.schedulers import base, betas

IN_SINGLE = betas.in_single


class StandIn:
    """A module, with some of its names bound to something else."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Draws:
    """Replaces `randn_tensor`: normals from a seed, kept until they are handed over."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._given: list[torch.Tensor] = []

    def __call__(self, shape: Any, **kwargs: Any) -> torch.Tensor:
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        z = torch.from_numpy(self._rng.standard_normal(tuple(shape))).to(dtype)
        self._given.append(z)
        return z

    def tree(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Callable[..., torch.Tensor]:
        """What replaces a Brownian tree: a Brownian path that is followed in one direction."""
        places: list[float] = []
        path: list[torch.Tensor] = []

        def index(sigma: Any) -> int:
            near = [i for i, s in enumerate(places) if math.isclose(s, sigma, rel_tol=1e-6)]
            if near:
                return near[0]
            assert sigma < places[-1], "a path is followed in one direction"
            z = self(x.shape, dtype=x.dtype)
            path.append(path[-1] + math.sqrt(places[-1] - sigma) * z)
            places.append(float(sigma))
            return len(places) - 1

        def increment(sigma: Any, following: Any) -> torch.Tensor:
            if not places:
                places.append(float(sigma))
                path.append(torch.zeros_like(x))
            a, b = index(sigma), index(following)
            return (path[b] - path[a]) / math.sqrt(places[a] - places[b])

        return increment

    def handed_over(self) -> list[torch.Tensor]:
        """What was drawn since the last call."""
        given, self._given = self._given, []
        return given


@contextmanager
def own_tables(*, lifted: bool) -> Iterator[None]:
    """Within the context our tables, and draws, are of the reference as installed, or lifted."""
    before = betas.in_single, base.SINGLE
    try:
        betas.in_single = (lambda c, reference: False) if lifted else IN_SINGLE
        base.SINGLE = "float64" if lifted else "float32"
        yield
    finally:
        betas.in_single, base.SINGLE = before


def module(name: str) -> Any:
    """The module of a scheduler class."""
    return sys.modules[getattr(diffusers.schedulers, name).__module__]


@contextmanager
def reference(name: str, draws: Draws, *, lifted: bool) -> Iterator[type]:
    """The scheduler class of this name; within the context its module is rebound."""
    home = module(name)
    names: dict[str, Any] = {"randn_tensor": draws, "BrownianTreeNoiseSampler": draws.tree}
    if lifted:
        names["torch"] = StandIn(torch, float32=torch.float64)
        names["np"] = StandIn(np, float32=np.float64)
    names = {key: value for key, value in names.items() if hasattr(home, key)}
    before = {key: getattr(home, key) for key in names}
    dtype = torch.get_default_dtype()
    logger = logging.getLogger("diffusers")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        for key, value in names.items():
            setattr(home, key, value)
        if lifted:  # for tensors made without a dtype
            torch.set_default_dtype(torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own deprecations
            yield getattr(home, name)
    finally:
        for key, value in before.items():
            setattr(home, key, value)
        torch.set_default_dtype(dtype)
        logger.setLevel(level)
