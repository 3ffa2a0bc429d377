"""Denoisers and noise levels as k-diffusion has them, for any schedule and framework."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import ramps, samplers, spacings
from ..backends import named, resolve
from ..checks import check_choice, check_count, check_nonnegative
from ..engine.checks import backend_of
from ..engine.values import mean_channels, project
from ..predictions import Prediction
from ..schedulers.generic import Scheduler
from ..schedules import VPSDE, Betas, Schedule, log_linear_time

if TYPE_CHECKING:
    from ..levels import Levels

__all__ = [
    "Denoiser",
    "from_denoiser",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
]

Array = Any
CLEAN = Prediction("sample")


def _placed(levels: Sequence[float] | np.ndarray, device: Any, xp: str | ModuleType | None) -> Any:
    """Return levels and a last 0 as an array, see `get_sigmas_karras`."""
    found = find_spec("torch") is not None
    backend = named(xp if xp is not None else "torch" if found else "numpy")
    host = np.array([*levels, 0.0])
    if backend.name != "torch":
        return backend.to_device(host, None if device == "cpu" else device)
    return backend.astype(backend.to_device(host, device), backend.xp.get_default_dtype())


def _between(n: int, sigma_max: Any, sigma_min: Any) -> tuple[int, float, float]:
    """Return what a ramp goes between, checked by the names that it has here."""
    ends = check_nonnegative("sigma_max", sigma_max), check_nonnegative("sigma_min", sigma_min)
    return check_count("n", n), *ends


def get_sigmas_karras(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    device: Any = "cpu",
    *,
    xp: str | ModuleType | None = None,
) -> Array:
    """Return n levels from sigma_max to sigma_min (arXiv:2206.00364, eq. 5) and a 0.

    This and the others are computed in float64 on the host. They are tensors of torch's default
    dtype where torch is installed, and NumPy arrays where it is not; xp= names another framework
    ("numpy", "jax", ...), in its widest float. device is that framework's, "cpu" its default one.

    Raises:
        ValueError: ends that are not positive, finite and in order.
    """
    return _placed(ramps.karras(*_between(n, sigma_max, sigma_min), rho=rho), device, xp)


def get_sigmas_exponential(
    n: int,
    sigma_min: float,
    sigma_max: float,
    device: Any = "cpu",
    *,
    xp: str | ModuleType | None = None,
) -> Array:
    """Return n levels even in log sigma and a 0; see `get_sigmas_karras`."""
    return _placed(ramps.exponential(*_between(n, sigma_max, sigma_min)), device, xp)


def get_sigmas_polyexponential(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 1.0,
    device: Any = "cpu",
    *,
    xp: str | ModuleType | None = None,
) -> Array:
    """Return n levels, log sigma a power of an even ramp, and a 0; see `get_sigmas_karras`."""
    ends = _between(n, sigma_max, sigma_min)
    return _placed(ramps.polyexponential(*ends, rho=rho), device, xp)


def get_sigmas_vp(
    n: int,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    eps_s: float = 1e-3,
    device: Any = "cpu",
    *,
    xp: str | ModuleType | None = None,
) -> Array:
    """Return n levels even in the VP SDE's time, 1 to eps_s, and a 0; see `get_sigmas_karras`."""
    beta_d, beta_min = check_nonnegative("beta_d", beta_d), check_nonnegative("beta_min", beta_min)
    sde = VPSDE(beta_min=beta_min, beta_max=beta_min + beta_d)
    ends = _between(n, sde.ratio_at(1.0), sde.ratio_at(check_nonnegative("eps_s", eps_s)))
    return _placed(ramps.vp(*ends, beta_d=beta_d, beta_min=beta_min), device, xp)


@dataclass(frozen=True)
class Steps(Schedule):
    """The levels of training steps, increasing, and log-linear between them both ways."""

    frame: str = "ve"
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.tables

    @functools.cached_property
    def tables(self) -> Mapping[str, np.ndarray]:
        """Logs of the levels."""
        logs = np.log(self.levels)
        return {"logs": logs, "search": logs[:-1]}

    def ratio_at(self, t: float) -> float:
        """Return the level at t."""
        return math.exp(np.interp(t, range(len(self.levels)), self.tables["logs"]))

    def time_at(self, ratio: float) -> float:
        """Return t at a level."""
        log = math.log(max(ratio, 1e-10))
        return float(np.interp(log, self.tables["logs"], range(len(self.levels))))

    def parts_on(self, on: "Levels", t: Array) -> tuple[Any, Array]:
        """Return signal and noise."""
        last = float(len(self.levels) - 1)
        t = on.clip(t, 0.0, last)
        low = on.xp.floor(t)
        a, b = on.take("logs", low), on.take("logs", on.clip(low + 1, 0.0, last))
        return 1.0, on.xp.exp(a + (t - low) * (b - a))

    def times_on(self, on: "Levels", ratio: Array) -> Array:
        """Return t."""
        return log_linear_time(on, ratio, len(self.levels))


class Denoiser:
    """A network, of any prediction type and schedule, as k-diffusion calls one.

    `denoiser(x, sigma, **extra_args)` returns the clean estimate of x = x0 + sigma eps. It scales x
    as the network was trained to see it, turns sigma into its time, and its output into x0, with
    the clipping and boundary that the scheduler's configuration has. With it the functions here,
    and k-diffusion's, run any model that cmsched knows: k-diffusion's `DiscreteEpsDDPMDenoiser` is
    that of a scheduler of betas and "epsilon", `DiscreteVDDPMDenoiser` that of "v_prediction",
    `VDenoiser` that of `cmsched.Scheduler(schedule="cosine", prediction_type="v_prediction")`.

    Args:
        model: `model(x, t, **extra_args)` returns the network's output; t has the shape of sigma.
        scheduler: any of cmsched's for continuous samples; its schedule and prediction count.
        quantize: tell the network the nearest training step, an integer, where the schedule is a
            table of betas. Otherwise times lie between, log-linear in sigma.
        device: of `sigmas` and `get_sigmas`, see `get_sigmas_karras`; as is xp.
        xp: the framework of these.

    Times are found on the device, inside `jit` too; of a schedule of one's own that has no arrays
    (see `cmsched.schedules.Schedule.on`) on the host.
    """

    def __init__(
        self,
        model: Callable[..., Array],
        scheduler: Any,
        *,
        quantize: bool = False,
        device: Any = "cpu",
        xp: str | ModuleType | None = None,
    ) -> None:
        schedule = getattr(scheduler, "schedule", None)
        prediction = getattr(scheduler, "prediction", None)
        if not isinstance(schedule, Schedule) or not isinstance(prediction, Prediction):
            raise TypeError(
                f"scheduler must be one of cmsched's for continuous samples, got {scheduler!r:.200}"
            )
        if quantize and not isinstance(schedule, Betas):
            raise ValueError(
                f"quantize=True needs a table of training steps, but {type(schedule).__name__} has"
                " times between any two; leave it out"
            )
        self.inner_model, self.schedule, self.prediction = model, schedule, prediction
        self.quantize, self._device, self._xp = quantize, device, xp
        table = isinstance(schedule, Betas)  # whose times go log-linearly here
        self._times = Steps(levels=tuple(self._ratios.tolist())) if table else schedule

    def __call__(self, x: Array, sigma: Array, **extra_args: Any) -> Array:
        """Return the clean estimate, like x; sigma has shape (batch,) or (), or is a number."""
        backend, schedule, says = backend_of("x", x), self.schedule, self.prediction
        acc = backend.accumulation(x.dtype)
        if isinstance(sigma, int | float | np.generic):
            sigma = backend.to_device_of(np.asarray(check_nonnegative("sigma", sigma)), x, acc)
        if (other := backend_of("sigma", sigma)) is not backend:
            raise TypeError(
                f"sigma is an array of {other.name}, x one of {backend.name}: convert one"
            )
        sigma = backend.astype(sigma, acc)
        t = self.sigma_to_t(sigma)
        ones = (1,) * (len(x.shape) - len(sigma.shape))
        ratio = backend.xp.reshape(sigma, (*sigma.shape, *ones))
        on = schedule.on(x)
        alpha, level = on.split(ratio)
        scale = on.input_scale(alpha, level)
        own = backend.astype(x, acc) * alpha
        output = self.inner_model(backend.astype(own * scale, x.dtype), t, **extra_args)
        mean = backend.astype(mean_channels(says, x, output), acc)
        weight, part = says.weights(CLEAN, alpha, level, scale)
        x0 = mean * weight + own * part
        if says.type == "consistency":  # which is the identity where it ends
            x0 = backend.where(ratio > says.sigma_min, x0, backend.astype(x, acc))
        x0 = project(backend, says, x0)
        if says.timestep_scaling is not None:
            at: Any = SimpleNamespace(t=backend.xp.reshape(t, ratio.shape))
            skip, out = says.boundary(at)
            x0 = skip * own + out * x0
        return backend.astype(x0, x.dtype)

    @functools.cached_property
    def _ratios(self) -> np.ndarray:
        """The levels of all training steps, increasing; a last infinite one as the field has it."""
        count = getattr(self.schedule, "num_train_timesteps", 1000)
        points = spacings.place("normal", count, self.schedule)[::-1]
        return np.minimum([p.ratio for p in points], spacings.HIGHEST)

    @functools.cached_property
    def sigmas(self) -> Array:
        """The levels of all training steps, increasing (of 1000 even times, where times go on)."""
        return _placed(self._ratios, self._device, self._xp)[:-1]

    @property
    def sigma_min(self) -> Array:
        """The lowest of `sigmas`."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Array:
        """The highest of `sigmas`."""
        return self.sigmas[-1]

    def get_sigmas(self, n: int | None = None) -> Array:
        """Return n levels at even times and a 0, noisiest first; all of `sigmas` if n is None."""
        if n is None:
            return _placed(self._ratios[::-1], self._device, self._xp)
        points = spacings.place("normal", n, self.schedule)
        levels = [min(p.ratio, spacings.HIGHEST) for p in points]
        return _placed(levels, self._device, self._xp)

    def sigma_to_t(self, sigma: Array, quantize: bool | None = None) -> Array:
        """Return the network's time at each level, like sigma; integers if they are quantized."""
        backend = resolve(sigma)
        t = self._times.on(sigma).time(sigma)
        if self.quantize if quantize is None else quantize:  # in log sigma, as the part is
            return backend.astype(backend.xp.floor(t + 0.5), backend.default_int)
        return backend.astype(t, sigma.dtype)

    def t_to_sigma(self, t: Array) -> Array:
        """Return the level at each time, like t; log-linear between the steps of a table."""
        backend = resolve(t)
        if "float" not in backend.dtype_name(t.dtype):
            t = backend.astype(t, backend.dtype("float32"))
        return backend.astype(self._times.on(t).ratio(t), t.dtype)


def from_denoiser(
    denoiser: Callable[..., Array],
    sampler: str = "dpmpp_multistep",
    *,
    extra_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Callable[[Array, Array], Array], Scheduler]:
    """Return (model, scheduler) of a k-diffusion denoiser, for `cmsched.sample` and all the rest.

        model, scheduler = from_denoiser(denoiser, "heun")
        x = cmsched.sample(model, scheduler.plan(20), noise, rng=0)

    The noise is of unit size, and the network's time is sigma.

    Args:
        denoiser: `denoiser(x, sigma, **extra_args)` returns the clean estimate. Where it has
            sigma_min and sigma_max, the levels lie between these.
        sampler: a registered name (`cmsched.samplers.REGISTRY`).
        extra_args: keywords for the denoiser.
        options: others of `cmsched.Scheduler` (sampler_options, spacing, ...), by default Karras
            spacing.

    Raises:
        ValueError, TypeError: options that `cmsched.Scheduler` refuses.
    """
    check_choice("sampler", sampler, samplers.REGISTRY)
    fixed = {"schedule": "identity", "prediction_type": "sample", "sampler": sampler}
    for name in fixed:
        if name in options:
            raise TypeError(f"{name} is a denoiser's own, {fixed[name]!r}; leave it out")
    ends = {
        name: float(getattr(denoiser, name))
        for name in ("sigma_min", "sigma_max")
        if hasattr(denoiser, name)
    }
    keywords = dict(extra_args or {})

    def model(x: Array, t: Array) -> Array:
        backend = resolve(x)
        ones = backend.to_device_of(np.ones(x.shape[0]), x, x.dtype)
        return denoiser(x, backend.astype(ones * t, x.dtype), **keywords)

    return model, Scheduler(**{"spacing": "karras", **ends, **options, **fixed})
