"""Digits made by plans, in batches, with the time that network and scheduler took."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import discrete, samplers
from ..backends import resolve
from ..backends.registry import PACKAGES
from ..discrete import TokenPlan
from ..engine import sample
from ..grids import Grid
from ..noise import Rng
from ..plan import Plan, make_plan
from . import digits
from .names import Wrong
from .progress import Bar, seconds

__all__ = [
    "BATCH",
    "Made",
    "Place",
    "checked_place",
    "examples",
    "expected",
    "make",
    "one_batch",
    "one_thread",
]

Array = Any
Host = npt.NDArray[Any]

BATCH = 1024  # images at a time
ADAPTIVE = 40  # evaluations, about, of a sampler that chooses its steps


@dataclass(frozen=True)
class Place:
    """Where the arrays are: a framework, its device, and the name of a dtype."""

    backend: str
    device: Any
    dtype: str

    def noise(self, rng: Rng, number: int) -> Array:
        """Return unit normals of the images' shape."""
        shape = number, 1, 8, 8
        return rng.normal(shape, xp=self.backend, dtype=self.dtype, device=self.device)


def checked_place(name: str, device: str | None, dtype: str) -> Place:
    """Return where arrays are to be, after trying it; what cannot be had raises Wrong."""
    if find_spec(name) is None:
        raise Wrong(f"--backend {name} is not installed: pip install {PACKAGES.get(name, name)}")
    if name == "numpy" and dtype == "bfloat16":
        raise Wrong("--dtype bfloat16: numpy has none; use float16, or --backend torch or jax")
    if name == "jax" and dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)  # in this process, which is ours
    try:
        place = Place(name, _device(name, device), dtype)
        place.noise(Rng(0), 1)
    except Exception as error:  # each framework refuses in its own way
        reason = str(error).strip().partition("\n")[0]
        asked = f" --device {device}" if device else ""
        raise Wrong(f"--backend {name}{asked} --dtype {dtype} cannot be used: {reason}") from error
    return place


def _device(backend: str, name: str | None) -> Any:
    """Return what the backend takes for a device of this name."""
    if name is None or backend == "torch":
        return name
    kind, _, index = name.partition(":")
    if backend == "jax":
        import jax

        return jax.devices(kind)[int(index or 0)]
    if backend == "cupy" and kind in ("cuda", "gpu"):
        import cupy

        return cupy.cuda.Device(int(index or 0))
    if backend == "numpy" and name == "cpu":
        return None
    raise ValueError(f"{backend} has no device {name!r}")


@dataclass
class Made:
    """One scheduler's images and what they took."""

    name: str
    images: Host  # (number, 8, 8), float32 or float64
    evaluations: int
    network: float  # seconds
    scheduler: float  # seconds


def one_thread() -> Any:
    """Return a context in which NumPy's products take one thread: they are small here.

    More threads wait for each other, which takes fifty times as long where processors are busy.
    """
    try:
        from threadpoolctl import threadpool_limits  # comes with scikit-learn
    except ImportError:
        return contextlib.nullcontext()
    return threadpool_limits(1, user_api="blas")


@lru_cache
def _denoiser() -> digits.Denoiser:
    return digits.Denoiser()


def expected(plans: Sequence[Plan | TokenPlan], number: int, place: Place) -> float:
    """Return about how many seconds the networks will take: one evaluation is timed."""
    noise = place.noise(Rng(0), min(number, BATCH))
    one = seconds(lambda: _wait(_denoiser()(noise, 1.0, 1.0))) / len(noise)
    return one * number * sum(map(_evaluations, plans))


def _evaluations(plan: Plan | TokenPlan) -> int:
    """Return how many of the denoiser a plan's take as long as."""
    if isinstance(plan, TokenPlan):
        return digits.LEVELS * len(plan)
    jumps = samplers.get(plan.sampler).trait("order", plan.options) == 0
    return (len(plan) or ADAPTIVE) * (4 * digits.STEPS if jumps else 1)


def make(name: str, plan: Plan | TokenPlan, number: int, seed: int, place: Place, bar: Bar) -> Made:
    """Run a plan in batches: noise is numbered by sample, so their size changes nothing."""
    images, spent, evaluations = [], 0.0, 0

    def timed(network: Any) -> Any:
        def model(x: Array, t: Array) -> Array:
            nonlocal spent, evaluations
            _wait(x)
            start = time.perf_counter()
            output = network(x, t)
            _wait(output)
            spent += time.perf_counter() - start
            evaluations += 1
            bar.advance(name)
            return output

        return model

    _denoiser()  # what the images come from is loaded before the clock starts
    start = time.perf_counter()
    for first in range(0, number, BATCH):
        batch = range(first, min(first + BATCH, number))
        images.append(one_batch(plan, Rng(seed, sample=batch), place, timed)[:, 0])
    total = time.perf_counter() - start
    return Made(name, np.concatenate(images), evaluations, spent, total - spent)


def one_batch(
    plan: Plan | TokenPlan,
    rng: Rng,
    place: Place,
    timed: Callable[[Any], Any] = lambda network: network,
) -> Host:
    """Return the digits (batch, 1, 8, 8) of the numbers of a portable generator."""
    noise = place.noise(rng, len(rng.sample))  # type: ignore[arg-type]
    if isinstance(plan, TokenPlan):
        x = _tokens(plan, noise, rng, timed)
    else:
        x = _digits(plan, noise, rng, timed)
    _wait(x)
    images: Host = _host(x)
    return images


def _digits(plan: Plan, noise: Array, rng: Rng, timed: Callable[[Any], Any]) -> Array:
    """Return the digits of a plan, of noise (batch, 1, 8, 8) or of what its kind starts from.

    A sampler of given images gets training images and fills in their lower halves; one that goes to
    noise is followed back from there.
    """
    backend, given = resolve(noise), {}
    if samplers.get(plan.sampler).given:
        images = backend.to_device_of(examples(len(noise), rng), noise, noise.dtype)
        mask = np.zeros((1, 1, 8, 8))
        mask[..., :4, :] = 1.0
        given = {"image": images, "mask": backend.to_device_of(mask, noise, noise.dtype)}
    if plan.grid.upward:
        images = backend.to_device_of(examples(len(noise), rng), noise, noise.dtype)
        there = sample(timed(digits.network(plan, _denoiser())), plan, images, rng=rng)
        back = Grid(plan.grid.points[::-1], plan.grid.schedule, integral=plan.grid.integral)
        plan, noise = make_plan(plan.sampler, back, plan.prediction, plan.options), there
    network = timed(digits.network(plan, _denoiser()))
    return sample(network, plan, noise, rng=rng, given=given or None)


def examples(number: int, rng: Rng) -> Host:
    """Return training images, (number, 1, 8, 8), those of these samples."""
    chosen = (271 * (rng.seed % 1009) + 613 * np.asarray(rng.sample)) % len(digits.images())
    images: Host = digits.images()[chosen]
    return images


def _tokens(plan: TokenPlan, noise: Array, rng: Rng, timed: Callable[[Any], Any]) -> Array:
    """Return the digits whose pixels are tokens, masked at first; noise says how many and where."""
    backend = resolve(noise)
    masked = np.full((len(noise), 64), plan.mask_class)
    tokens = backend.to_device_of(masked, noise, backend.default_int)
    dtype = backend.dtype_name(backend.accumulation(noise.dtype))
    made = discrete.sample(timed(digits.token_network(plan, dtype=dtype)), plan, tokens, rng)
    levels = backend.xp.reshape(backend.astype(made, noise.dtype), noise.shape)
    return levels / 8 - 1


def _wait(x: Array) -> None:
    """Wait until x is computed: JAX and GPUs return before, and would be timed wrongly."""
    name = resolve(x).name
    if name == "jax":
        x.block_until_ready()
    elif name == "cupy":
        import cupy

        cupy.cuda.get_current_stream().synchronize()
    elif name == "torch" and x.is_cuda:
        import torch

        torch.cuda.synchronize(x.device)


def _host(x: Array) -> Any:
    """Return x as a NumPy array; half precision as float32."""
    backend = resolve(x)
    x = backend.astype(x, backend.accumulation(x.dtype))
    if backend.name == "cupy":
        return x.get()
    return np.asarray(x.cpu() if backend.name == "torch" else x)
