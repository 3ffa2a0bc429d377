"""k-diffusion's loops over noise levels, `sample_*(model, x, sigmas, ...)`, on any framework.

    from cmsched.interop import k_diffusion

    sigmas = k_diffusion.get_sigmas_karras(20, 0.03, 14.6)
    x = k_diffusion.sample_dpmpp_2m(model, torch.randn(shape) * sigmas[0], sigmas)

Every function of k-diffusion is here with its signature and results, and under ComfyUI's names
those that ComfyUI adds and the registry has (`FUNCTIONS` lists all). A model is called as
`model(x, sigma, **extra_args)` and returns the clean estimate of x = x0 + sigma eps; `Denoiser`
makes one of a network and a scheduler, and `from_denoiser` is the way back. What is different:

- x is an array of any framework, and sigmas an array of any framework, on any device, or a list.
  They are read on the host once, and nothing in a loop waits for a device (but dpm_adaptive).
- sigmas run one way: down, or (inversion, deterministic samplers) up from a level above 0.
- Nothing is drawn unused. k-diffusion draws for churn in every step, ComfyUI where there is any.
- noise_sampler may also be what `rng=` takes elsewhere: an int or `cmsched.Rng` (the same noise on
  every framework), a native generator or key. By default noise comes from torch's default generator
  for tensors and from fresh entropy otherwise; JAX has neither and needs noise_sampler. Where
  k-diffusion then grows a Brownian tree, the increments are drawn one by one, which has the same
  law; for its numbers pass its `BrownianTreeNoiseSampler` as noise_sampler.
- ComfyUI's functions are those for models of x0 + sigma eps, not their forms for flow models.
  `sample_uni_pc` steps to sigma = 0 itself, ComfyUI's to 0.001. `sample_ipndm_v` has the weights
  that are exact for uneven steps; ComfyUI's third and fourth order have a parenthesis out of
  place, and agree where steps are equal. There is no `sample_deis`, for ComfyUI's integrates
  polynomials in the time of a VP SDE, the sampler "deis" here in log sigma.
"""

import functools
import inspect
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from itertools import accumulate
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .. import engine, ramps, samplers, spacings
from .._messages import check_count, choose, nearest, nonnegative
from ..backends import Backend, named, resolve
from ..engine.checks import backend_of, check_like
from ..engine.rows import mean_channels, project
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..samplers.adaptive import orders_of
from ..schedulers.a1111 import A1111, ALIASES
from ..schedulers.base import begins_step
from ..schedulers.generic import Scheduler
from ..schedules import VPSDE, Betas, Identity, Schedule
from ..spacings import Grid

__all__ = [
    "FUNCTIONS",
    "Denoiser",
    "from_denoiser",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
]

Array = Any
CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
NOISE = ("eta", "s_noise", "noise_sampler")
CONTROL = ("rtol", "atol", "h_init", "pcoeff", "icoeff", "dcoeff", "accept_safety")
RENAMED = {"order": "solver_order", "max_order": "solver_order"}
DEFAULTS = {"s_noise": 1.0, "noise_sampler": None, "return_info": False}
CLEAN = Prediction("sample")
LEVELS = ("sigmas",)


class Function(NamedTuple):
    """What a function runs, and what it takes.

    Args:
        sampler: a registered sampler.
        options: of the sampler, where they are not its defaults.
        takes: its keywords in order, behind those that all functions have.
        levels: its arguments behind model and x.
        to_zero: options of the sampler where the last sigma is 0.
    """

    sampler: str
    options: Mapping[str, Any]
    takes: tuple[str, ...] = ()
    levels: tuple[str, ...] = LEVELS
    to_zero: Mapping[str, Any] = {}


def _named(name: str, *rest: Any) -> Function:
    """Return the function of a sampler that A1111 knows."""
    _, _, sampler, options = A1111[ALIASES.get(f"sample_{name}", name)]
    return Function(sampler, options, *rest)


FUNCTIONS: dict[str, Function] = {
    "euler": _named("euler", CHURN),
    "euler_ancestral": _named("euler_ancestral", NOISE),
    "heun": _named("heun", CHURN),
    "dpm_2": _named("dpm_2", CHURN),
    "dpm_2_ancestral": _named("dpm_2_ancestral", NOISE),
    "lms": _named("lms", ("order",)),
    "dpm_fast": _named("dpm_fast", NOISE, ("sigma_min", "sigma_max", "n")),
    "dpm_adaptive": _named(
        "dpm_adaptive",
        ("order", *CONTROL, *NOISE, "return_info"),
        ("sigma_min", "sigma_max"),
    ),
    "dpmpp_2s_ancestral": _named("dpmpp_2s_ancestral", NOISE),
    "dpmpp_sde": _named("dpmpp_sde", (*NOISE, "r")),
    "dpmpp_2m": _named("dpmpp_2m"),
    "dpmpp_2m_sde": _named("dpmpp_2m_sde", (*NOISE, "solver_type")),
    "dpmpp_3m_sde": _named("dpmpp_3m_sde", NOISE),
    # what ComfyUI adds
    "dpmpp_2m_sde_heun": _named("DPM++ 2M SDE Heun", (*NOISE, "solver_type")),
    "ddim": _named("euler", CHURN),
    "ddpm": Function("ddpm", {}, ("noise_sampler",)),
    "lcm": _named("LCM", ("noise_sampler",)),
    **{
        name: Function(name, {}, ("max_order",), to_zero={"euler_at_final": True})
        for name in ("ipndm", "ipndm_v")
    },
    **{
        name: Function("unipc", {"solver_order": 3, "solver_type": kind, "ramp_down": True})
        for name, kind in (("uni_pc", "bh1"), ("uni_pc_bh2", "bh2"))
    },
}
FUNCTIONS |= {  # which say where a Brownian tree is to grow
    f"{name}_gpu": FUNCTIONS[name]
    for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
}


def _signature(function: Function) -> inspect.Signature:
    defaults = {**DEFAULTS, **samplers.get(function.sampler).options, **function.options}
    given = {name: defaults[RENAMED.get(name, name)] for name in function.takes}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = [inspect.Parameter(name, kind) for name in ("model", "x", *function.levels)]
    more = {"extra_args": None, "callback": None, "disable": None, **given}
    own = [inspect.Parameter(name, kind, default=value) for name, value in more.items()]
    return inspect.Signature([*needed, *own])


def _make(name: str, function: Function) -> Callable[..., Any]:
    """Return `sample_<name>`."""
    signature = _signature(function)

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{run.__name__}() {error}; it takes {signature}") from None
        bound.apply_defaults()
        return _sample(run.__name__, function, **bound.arguments)

    run.__name__ = run.__qualname__ = f"sample_{name}"
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__doc__ = f"""Return x denoised along the levels: {samplers.get(function.sampler).paper}.

    Args:
        model: `model(x, sigma, **extra_args)` returns the clean estimate; sigma has shape (batch,).
        x: the sample at the first level, x0 + sigma eps, batch first; it is not changed.
        {", ".join(function.levels)}: noise levels, decreasing; or their ends (and steps).
        extra_args: keywords for model.
        callback: called once a step with a dict of x, i, sigma, sigma_hat, denoised.
        disable: True for no progress bar, None for one on a terminal, False for one anywhere.
        noise_sampler: `noise_sampler(sigma, sigma_next)` returns unit normals like x; or what
            `rng=` takes.

    Other arguments are k-diffusion's (or ComfyUI's) own; `cmsched.interop.k_diffusion` says what
    is different.

    Raises:
        TypeError: arguments of another kind.
        ValueError: levels that do not run one way, or an option out of range.
    """
    return run


def _sample(
    name: str,
    function: Function,
    model: Callable[..., Array],
    x: Array,
    *,
    extra_args: Mapping[str, Any] | None,
    callback: Callable[[dict[str, Any]], None] | None,
    disable: bool | None,
    noise_sampler: Any = None,
    return_info: bool = False,
    **rest: Any,
) -> Any:
    backend = backend_of("x", x)
    backend.accumulation(x.dtype)
    if not x.shape:
        raise ValueError(f"{name}: x has shape (), but needs a batch axis, (batch, ...)")
    if not isinstance(extra_args, Mapping | None):
        raise TypeError(f"extra_args must be a dict of keywords for model, got {extra_args!r}")
    levels = _levels(**{key: rest.pop(key) for key in function.levels})
    if len(levels) == 1:
        return x  # no step
    scale = nonnegative("s_noise", rest.get("s_noise", 1.0))
    # A clean estimate is noised up to the last level as on the way to a 0, which is left out then.
    split = samplers.get(function.sampler).jumps and levels[0] > levels[-1] > 0
    plan = _plan(function, [*levels, 0.0] if split else levels, rest)
    own = "s_noise" in plan.options  # then the loop scales its draws itself
    loop = _Loop(backend, model, x, plan, extra_args or {}, callback, 1.0 if own else scale)
    if samplers.get(plan.sampler).trait("stochastic", plan.options):
        loop.take(noise_sampler, name, "noise_sampler" in function.takes)
    # x is a tensor under PyTorch's no_grad, as in k-diffusion
    calm = backend.xp.no_grad() if backend.name == "torch" else nullcontext()
    total = len(plan.grid) - split if plan.rows else None
    with calm, _bar(total, disable) as bar, _own_names():
        if plan.rows:
            return loop.run(bar, len(plan) - split)
        end, info = loop.adapt(bar)
        return (end, info) if return_info else end


@contextmanager
def _own_names() -> Iterator[None]:
    """Let an error about rng speak of noise_sampler, and of what it is called with."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        if not text.startswith("rng"):
            raise
        text = text.replace("(shape, dtype, interval)", "(sigma, sigma_next)")
        raise type(error)(text.replace("rng", "noise_sampler")) from error


def _levels(**given: Any) -> list[float]:
    """Return the levels of a run, one for each end of a step; the DPM functions have even ones."""
    if "sigmas" not in given:
        ends = [nonnegative(key, given[key]) for key in ("sigma_max", "sigma_min")]
        if 0.0 in ends or math.inf in ends or ends[0] == ends[1]:
            raise ValueError(
                "sigma_max and sigma_min must be finite, above 0 and different, got"
                f" {ends[0]:g} and {ends[1]:g}; a last step to 0 is not theirs to take"
            )
        n = check_count("n", given.get("n", 1))
        found: list[float] = np.geomspace(ends[0], ends[1], n + 1).tolist()
        return found
    sigmas = given["sigmas"]
    try:
        values = [float(s) for s in (sigmas.tolist() if hasattr(sigmas, "tolist") else sigmas)]
    except (TypeError, ValueError):
        raise TypeError(f"sigmas must be a list of numbers, got {sigmas!r}") from None
    upward = len(values) > 1 and values[-1] > values[0]
    spacings.decreasing("sigmas", values[::-1] if upward else values, reverse=upward)
    if min(values) < 0 or values[0] == 0:
        raise ValueError(
            f"sigmas must be at least 0, and start above it, got {values}; an inversion starts at a"
            " small level such as 1e-3"
        )
    return values


def _plan(function: Function, levels: list[float], given: Mapping[str, Any]) -> Plan:
    """Return the plan over these levels: x0 + sigma eps, the network's time is sigma itself."""
    schedule, entry = Identity(), samplers.get(function.sampler)
    grid = Grid(tuple(schedule.at(t=s) for s in levels), schedule)
    options = {RENAMED.get(key, key): value for key, value in given.items()}
    if "h_init" in options:
        options["h_init"] = abs(float(options["h_init"]))
    known = {key: value for key, value in options.items() if key in entry.options}
    at_zero = function.to_zero if levels[-1] == 0 else {}
    try:
        return make_plan(function.sampler, grid, CLEAN, {**function.options, **at_zero, **known})
    except (TypeError, ValueError) as error:  # in the names of this function
        text = str(error)
        for key in function.takes:
            text = text.replace(RENAMED.get(key, key), key)
        raise type(error)(text) from error


class _Loop:
    """One run: what its network, callback and noise know of each other."""

    def __init__(
        self,
        backend: Backend,
        model: Callable[..., Array],
        x: Array,
        plan: Plan,
        extra_args: Mapping[str, Any],
        callback: Callable[[dict[str, Any]], None] | None,
        s_noise: float,
    ) -> None:
        self.backend, self.model, self.x, self.plan = backend, model, x, plan
        self.extra_args, self.callback, self.s_noise = extra_args, callback, s_noise
        self.ones = backend.put(np.ones(x.shape[0]), x, x.dtype)
        self.rng: Any = None
        self.step = 0  # of the grid; in an adaptive run, the evaluation

    def denoised(self, x: Array, sigma: Array) -> Array:
        """Return what the network says at a level, an array of shape ()."""
        each = self.backend.astype(self.ones * sigma, x.dtype)
        return self.model(x, each, **self.extra_args)

    @functools.cached_property
    def levels(self) -> dict[float, Array]:
        """The level at each lam where something may happen, of shape (); all are placed at once."""
        points = self.plan.grid.points
        values = {p.lam: p.sigma for p in points}
        for row in self.plan.rows:
            for lam in (lam for _, d in row.draws for lam in d.interval or ()):
                values.setdefault(lam, math.exp(-lam))
        dtype = self.backend.accumulation(self.x.dtype)
        table = self.backend.put(np.array([*values.values()]), self.x, dtype)
        return {lam: table[k, ...] for k, lam in enumerate(values)}

    def level(self, lam: float) -> Array:
        """Return sigma at this lam as an array of shape ()."""
        if lam not in self.levels:  # of a step that the data chose
            dtype = self.backend.accumulation(self.x.dtype)
            return self.backend.put(np.asarray(math.exp(-lam)), self.x, dtype)
        return self.levels[lam]

    def take(self, noise_sampler: Any, name: str, takes: bool) -> None:
        """Say where noise comes from."""
        if callable(noise_sampler):
            self.rng = _Increments(self, noise_sampler)
        elif noise_sampler is not None:
            self.rng = noise_sampler
        elif self.backend.name == "torch":
            self.rng = lambda shape, dtype, interval: self.backend.xp.randn_like(self.x)
        elif self.backend.name == "jax":
            cure = (
                "pass noise_sampler=, a function (sigma, sigma_next) or a seed such as 0"
                if takes
                else "it takes no noise_sampler, so churn by cmsched.sample(..., rng=0) with"
                " from_denoiser, or set s_churn=0"
            )
            raise ValueError(f"{name} draws noise, and JAX has no hidden randomness: {cure}")
        else:
            self.rng = self.backend.fresh(secrets.randbits(64), self.backend.device(self.x))

    def run(self, bar: Any, count: int) -> Array:
        """Take the first rows of the plan."""
        plan, backend = self.plan, self.backend
        begins = _beginnings(plan)
        state = engine.init(plan, self.x, rng=self.rng, index=0)
        for k in range(count):
            sigma, self.step = plan.time_on(self.x, k), plan.steps[k]
            x0 = self.denoised(state.sample, sigma)
            if self.callback is not None and k in begins:
                told = {"x": state.sample, "i": begins[k], "sigma_hat": sigma, "denoised": x0}
                churned = plan.options.get("s_churn")
                told["sigma"] = self.level(plan.grid.points[begins[k]].lam) if churned else sigma
                if plan.sampler == "dpm_fast":
                    told["t"] = told["t_up"] = -backend.xp.log(sigma)
                self.callback(told)
            z = engine.draw(plan, state, self.rng)
            if z is not None and self.s_noise != 1.0:
                z = tuple(backend.multiply(one, self.s_noise) for one in z)
            state = engine.step(plan, state, x0, noise=z)
            if k + 1 == len(plan) or begins_step(plan, k + 1):
                bar.update(1)
        return state.sample

    def adapt(self, bar: Any) -> tuple[Array, dict[str, int]]:
        """Take steps as long as the data allows."""
        order, first = self.plan.options["solver_order"], self.x
        info = {"steps": 0, "nfe": 0, "n_accept": 0, "n_reject": 0}

        def network(x: Array, sigma: Array) -> Array:
            nonlocal first
            x0 = self.denoised(x, sigma)
            first = first if self.step % order else x0
            self.step += 1
            bar.update(1)
            return x0

        def report(step: samplers.Report) -> None:
            info["steps"] += 1
            info["nfe"] = self.step
            info["n_accept" if step.accepted else "n_reject"] += 1
            if self.callback is None:
                return
            sigma = self.level(step.point.lam)
            t = -self.backend.xp.log(sigma)
            told = {"x": step.x, "i": info["steps"] - 1, "sigma": sigma, "sigma_hat": sigma}
            told |= {"t": t, "t_up": t, "denoised": first, "error": step.error, "h": step.h}
            self.callback({**told, **info})

        return engine.run(network, self.plan, self.x, rng=self.rng, report=report), info


def _beginnings(plan: Plan) -> dict[int, int]:
    """Return the number of each step by the evaluation that begins it."""
    if plan.sampler == "dpm_fast":  # whose grid has a step for every evaluation
        starts = [0, *accumulate(orders_of(len(plan)))][:-1]
    else:
        starts = [k for k in range(len(plan)) if begins_step(plan, k)]
    return {k: i for i, k in enumerate(starts)}


class _Increments:
    """A noise_sampler(sigma, sigma_next) as what `rng=` takes."""

    def __init__(self, loop: _Loop, noise_sampler: Callable[[Array, Array], Array]) -> None:
        self.loop, self.noise_sampler = loop, noise_sampler
        self.last: tuple[int, tuple[float, float], Array] | None = None

    def __call__(self, shape: Any, dtype: Any, interval: tuple[float, float] | None) -> Array:
        step, points = self.loop.step, self.loop.plan.grid.points
        a, b = interval or (points[step].lam, points[step + 1].lam)
        if self.last is not None and self.last[0] == step and self.last[1][1] == a:
            # The rest of a step, of which k-diffusion would ask for the whole.
            _, (start, _), first = self.last
            top, mid, low = (math.exp(-lam) for lam in (start, a, b))
            share = (top - mid) / (top - low)
            rest = (self.ask(start, b) - math.sqrt(share) * first) / math.sqrt(1 - share)
            self.last = step, (a, b), rest
        else:
            self.last = step, (a, b), self.ask(a, b)
        return self.last[2]

    def ask(self, a: float, b: float) -> Array:
        """Return its noise from one level to another, checked."""
        z = self.noise_sampler(self.loop.level(a), self.loop.level(b))
        check_like(self.loop.backend, self.loop.x, "noise_sampler(sigma, sigma_next)", z)
        return z


@contextmanager
def _bar(total: int | None, disable: bool | None) -> Iterator[Any]:
    """Show tqdm's bar, which None leaves out where there is no terminal (or no tqdm)."""
    bars: Any = None
    if disable is not True:
        try:
            from tqdm.auto import tqdm

            bars = tqdm
        except ImportError:
            if disable is False:
                raise ImportError(
                    'disable=False shows a bar and needs tqdm: pip install "cmsched[demo]", or'
                    " pass disable=True"
                ) from None
    none: AbstractContextManager[Any] = nullcontext(SimpleNamespace(update=lambda n: None))
    with none if bars is None else bars(total=total, disable=disable) as bar:
        yield bar


for _name, _function in FUNCTIONS.items():
    globals()[f"sample_{_name}"] = _make(_name, _function)
    __all__ += [f"sample_{_name}"]


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"there is no {name!r} in {__name__}{nearest(name, __all__)}; it has {', '.join(__all__)}"
    )


# levels


def _placed(levels: Sequence[float] | np.ndarray, device: Any, xp: str | ModuleType | None) -> Any:
    """Return levels and a last 0 as an array, see `get_sigmas_karras`."""
    found = find_spec("torch") is not None
    backend = named(xp if xp is not None else "torch" if found else "numpy")
    host = np.array([*levels, 0.0])
    if backend.name != "torch":
        return backend.at(host, None if device == "cpu" else device)
    return backend.astype(backend.at(host, device), backend.xp.get_default_dtype())


def _between(n: int, sigma_max: Any, sigma_min: Any) -> tuple[int, float, float]:
    """Return what a ramp goes between, checked by the names that it has here."""
    ends = nonnegative("sigma_max", sigma_max), nonnegative("sigma_min", sigma_min)
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
    return _placed(ramps.RAMPS["karras"](*_between(n, sigma_max, sigma_min), rho=rho), device, xp)


def get_sigmas_exponential(
    n: int,
    sigma_min: float,
    sigma_max: float,
    device: Any = "cpu",
    *,
    xp: str | ModuleType | None = None,
) -> Array:
    """Return n levels even in log sigma and a 0; see `get_sigmas_karras`."""
    return _placed(ramps.RAMPS["exponential"](*_between(n, sigma_max, sigma_min)), device, xp)


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
    return _placed(ramps.RAMPS["polyexponential"](*ends, rho=rho), device, xp)


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
    beta_d, beta_min = nonnegative("beta_d", beta_d), nonnegative("beta_min", beta_min)
    sde = VPSDE(beta_min=beta_min, beta_max=beta_min + beta_d)
    ends = _between(n, sde.ratio_at(1.0), sde.ratio_at(nonnegative("eps_s", eps_s)))
    return _placed(ramps.RAMPS["vp"](*ends, beta_d=beta_d, beta_min=beta_min), device, xp)


# denoisers

# (alpha x0 + sigma eps) / alpha = x0 + ratio eps: 1 / alpha in each frame, of numbers or arrays
SIZES: dict[str, Callable[[Any, float], Any]] = {
    "vp": lambda r, data: (1 + r * r) ** 0.5,
    "ve": lambda r, data: 1.0,
    "flow": lambda r, data: 1 + r,
    "trig": lambda r, data: (1 + (r / data) ** 2) ** 0.5,
}


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

    Times of a table are found on the device. Of a schedule given by a formula, sigma is read on the
    host in each call, which waits for the device, and cannot be inside `jit`.
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

    def __call__(self, x: Array, sigma: Array, **extra_args: Any) -> Array:
        """Return the clean estimate, like x; sigma has shape (batch,) or (), or is a number."""
        backend, schedule, says = backend_of("x", x), self.schedule, self.prediction
        acc = backend.accumulation(x.dtype)
        if isinstance(sigma, int | float | np.generic):
            sigma = backend.put(np.asarray(nonnegative("sigma", sigma)), x, acc)
        if (other := backend_of("sigma", sigma)) is not backend:
            raise TypeError(
                f"sigma is an array of {other.name}, x one of {backend.name}: convert one"
            )
        sigma = backend.astype(sigma, acc)
        t = self.sigma_to_t(sigma)
        ones = (1,) * (len(x.shape) - len(sigma.shape))
        ratio = backend.xp.reshape(sigma, (*sigma.shape, *ones))
        data = schedule.sigma_data
        alpha = 1 / SIZES[schedule.frame](ratio, data)
        level = ratio * alpha
        scale = 1 / ((alpha * data) ** 2 + level**2) ** 0.5 if data else 1.0
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
        if not isinstance(self.schedule, Betas):
            return self._on_host(sigma, self.schedule.time_at)
        xp, last = backend.xp, len(self._ratios) - 1
        logs = backend.put(np.log(self._ratios), sigma, sigma.dtype)
        flat = xp.reshape(xp.log(backend.clip(sigma, 1e-10, spacings.HIGHEST)), (-1,))
        low = xp.searchsorted(logs, flat, side="right") - 1
        low = backend.clip(low, 0, max(last - 1, 0))
        ends = xp.take(logs, low), xp.take(logs, backend.clip(low + 1, 0, last))
        part = (flat - ends[0]) / (ends[1] - ends[0] if last else 1.0)
        t = backend.astype(low, sigma.dtype) + backend.clip(part, 0.0, 1.0)
        if self.quantize if quantize is None else quantize:  # in log sigma, as the part is
            t = backend.astype(xp.floor(t + 0.5), backend.default_int)
        return xp.reshape(t, sigma.shape)

    def t_to_sigma(self, t: Array) -> Array:
        """Return the level at each time, like t; log-linear between the steps of a table."""
        backend = resolve(t)
        if not isinstance(self.schedule, Betas):
            return self._on_host(t, self.schedule.ratio_at)
        xp, last = backend.xp, len(self._ratios) - 1
        floating = "float" in backend.dtype_name(t.dtype)
        dtype = t.dtype if floating else backend.dtype("float32")
        logs = backend.put(np.log(self._ratios), t, dtype)
        flat = backend.clip(xp.reshape(backend.astype(t, dtype), (-1,)), 0.0, float(last))
        low = xp.floor(flat)
        index = backend.astype(low, backend.default_int)
        ends = xp.take(logs, index), xp.take(logs, backend.clip(index + 1, 0, last))
        return xp.reshape(xp.exp(ends[0] + (flat - low) * (ends[1] - ends[0])), t.shape)

    def _on_host(self, values: Array, rule: Callable[[float], float]) -> Array:
        host = np.asarray(spacings.host(values), dtype=np.float64)
        found = np.array([rule(v) for v in host.reshape(-1).tolist()]).reshape(host.shape)
        return resolve(values).put(found, values, values.dtype)


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
    choose("sampler", sampler, samplers.REGISTRY)
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
        ones = backend.put(np.ones(x.shape[0]), x, x.dtype)
        return denoiser(x, backend.astype(ones * t, x.dtype), **keywords)

    return model, Scheduler(**{"spacing": "karras", **ends, **options, **fixed})
