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
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .. import checks, engine, samplers
from ..backends import Backend
from ..checks import check_count, check_nonnegative, nearest
from ..engine.checks import backend_of, check_like
from ..grids import Grid
from ..plan import Plan, make_plan
from ..samplers.adaptive import dpm_fast_orders
from ..schedulers.a1111 import A1111, ALIASES
from ..schedulers.timeline import Timeline
from ..schedules import Identity
from .denoisers import (
    CLEAN,
    Denoiser,
    from_denoiser,
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
)

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
        return backend.copy(x)  # no step
    scale = check_nonnegative("s_noise", rest.get("s_noise", 1.0))
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
        ends = [check_nonnegative(key, given[key]) for key in ("sigma_max", "sigma_min")]
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
    checks.check_decreasing("sigmas", values[::-1] if upward else values, reverse=upward)
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
        self.ones = backend.to_device_of(np.ones(x.shape[0]), x, x.dtype)
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
        table = self.backend.to_device_of(np.array([*values.values()]), self.x, dtype)
        return {lam: table[k, ...] for k, lam in enumerate(values)}

    def level(self, lam: float) -> Array:
        """Return sigma at this lam as an array of shape ()."""
        if lam not in self.levels:  # of a step that the data chose
            dtype = self.backend.accumulation(self.x.dtype)
            return self.backend.to_device_of(np.asarray(math.exp(-lam)), self.x, dtype)
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
            if k + 1 == len(plan) or plan.steps[k + 1] != plan.steps[k]:
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

        def report(step: samplers.Trial) -> None:
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
        starts = [0, *accumulate(dpm_fast_orders(len(plan)))][:-1]
    else:
        timeline = Timeline.of_evaluations(plan)
        starts = [k for k in range(len(plan)) if timeline.begins(k)]
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
            z = self.ask(a, b)
            if self.loop.plan.rows and b != points[step + 1].lam:
                # the rest is to come, in what may be the same array
                z = self.loop.backend.copy(z)
            self.last = step, (a, b), z
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
                    "disable=False shows a bar and needs tqdm: pip install tqdm, or"
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
