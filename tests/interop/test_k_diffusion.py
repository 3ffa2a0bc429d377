"""`cmsched.interop.k_diffusion` and the installed k-diffusion: every function, float64, 1e-9."""

import inspect
import itertools
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity import kdiffusion
from parity.lifted import Draws

import cmsched
from cmsched.backends import resolve
from cmsched.interop import k_diffusion as ours
from cmsched.predictions import PREDICTION_TYPES
from cmsched.schedules import SCHEDULES

BOUND = 1e-9
# of levels up to 16 that end at 0, and of samples
ROUNDING, FINE_ROUNDING = 16 * 2**-23, 64 * 2**-52
SHAPE = (2, 3, 4)
TO_ZERO = (10.0, 7.5, 4.0, 3.3, 1.2, 0.5, 0.1, 0.0)
ABOVE = TO_ZERO[:-1]
UPWARD = ABOVE[::-1]
ENDS = {"sigma_min": 0.1, "sigma_max": 10.0}

THEIRS = [name for name in vars(kdiffusion.load("sampling")) if name.startswith("sample_")]
NAMES = [f"sample_{name}" for name in ours.FUNCTIONS]
ADDED = [name for name in NAMES if name not in THEIRS]
FRAMEWORKS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda a: np.array(a),
    "torch": lambda a: torch.tensor(np.asarray(a)),
    "jax": lambda a: jnp.asarray(np.asarray(a)),
}

# what each keyword is given in turn, by itself and all at once
VALUES: dict[str, tuple[Any, ...]] = {
    "s_churn": (3.0, 30.0),
    "s_tmin": (1.0,),
    "s_tmax": (8.0,),
    "s_noise": (1.1,),
    "eta": (0.6, 0.0),
    "r": (0.4,),
    "solver_type": ("heun",),
    "order": (2,),
    "rtol": (0.005,),
    "atol": (0.1,),
    "h_init": (0.3,),
    "pcoeff": (0.2,),
    "icoeff": (0.7,),
    "dcoeff": (0.1,),
    "accept_safety": (0.9,),
}


def z_of(*seed: float) -> np.ndarray:
    """Unit normals that depend on what is given only."""
    words = [round(s * 1e6) for s in seed]
    return np.random.default_rng(words).standard_normal(SHAPE)


def noise_sampler(sigma: Any, following: Any) -> np.ndarray:
    """Normals of an interval, not those of a Brownian path."""
    return z_of(float(sigma), float(following))


@dataclass
class Network:
    """A denoiser of any framework that is not linear, and what was asked of it."""

    asked: list[Any] = field(default_factory=list)

    def __call__(self, x: Any, sigma: Any, *, gain: float) -> Any:
        assert sigma.shape == (x.shape[0],)
        assert sigma.dtype == x.dtype
        self.asked.append((to_numpy(x), to_numpy(sigma)))
        level = sigma.reshape(-1, *[1] * (len(x.shape) - 1))
        xp = resolve(x).xp
        return gain * xp.sin(x + 1 / (1 + level)) / (1 + 0.1 * level)


def to_numpy(x: Any) -> Any:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


@dataclass
class Run:
    end: Any
    asked: list[Any]
    told: list[dict[str, Any]]
    when: list[int]  # evaluations before each call of callback
    info: Any = None


def run(function: Any, x: Any, levels: tuple[Any, ...], **options: Any) -> Run:
    network, told, when = Network(), [], []

    def callback(record: dict[str, Any]) -> None:
        told.append(record)
        when.append(len(network.asked))

    end = function(
        network, x, *levels, extra_args={"gain": 0.9}, callback=callback, disable=True, **options
    )
    info = None
    if options.get("return_info"):
        end, info = end
    return Run(end, network.asked, told, when, info)


def through_theirs(name: str, x: np.ndarray, levels: Any, **options: Any) -> tuple[Run, Draws]:
    """The reference, and what it drew by itself."""
    draws = Draws(seed=4)
    if "noise_sampler" in inspect.signature(getattr(ours, name)).parameters:
        options["noise_sampler"] = lambda a, b: torch.tensor(noise_sampler(a, b))
    with kdiffusion.noise(draws) as sampling:
        if len(levels) == 1:
            levels = (torch.tensor(levels[0], dtype=torch.float64),)
        return run(getattr(sampling, name), torch.tensor(x), levels, **options), draws


def levels_of(name: str, sigmas: tuple[float, ...]) -> tuple[Any, ...]:
    """What a function takes behind x for these levels."""
    takes = ours.FUNCTIONS[name.removeprefix("sample_")].levels
    upward = sigmas[0] < sigmas[-1]
    ends = sorted(ENDS.values(), reverse=upward)
    own = {"sigmas": sigmas, "sigma_min": ends[0], "sigma_max": ends[1], "n": 8}
    return tuple(own[key] for key in takes)


def cases() -> Iterator[Any]:
    for name in THEIRS:
        takes = [k for k in inspect.signature(getattr(ours, name)).parameters if k in VALUES]
        sets: list[dict[str, Any]] = [{}]
        for key in takes:
            also = {"s_churn": 3.0} if key in ours.CHURN and "s_churn" in takes else {}
            sets += [{**also, key: value} for value in VALUES[key]]
        if len(takes) > 1:
            sets.append({key: VALUES[key][0] for key in takes})
        downs = (
            (TO_ZERO, ABOVE)
            if "sigmas" in inspect.signature(getattr(ours, name)).parameters
            else (ABOVE,)
        )
        for chosen, sigmas in itertools.product(sets, downs):
            yield name, chosen, sigmas
        if "eta" not in takes:
            yield name, {}, UPWARD
        elif name in ("sample_dpm_fast", "sample_dpm_adaptive"):
            yield name, {"eta": 0.0}, UPWARD


CASES = [
    pytest.param(*case, id=f"{case[0]}-{case[1]}-{case[2][0]:g}-{case[2][-1]:g}")
    for case in cases()
]


def close(a: Any, b: Any) -> None:
    a, b = to_numpy(a), to_numpy(b)
    assert a.shape == b.shape
    assert np.max(np.abs(a - b)) <= BOUND * max(1.0, float(np.max(np.abs(b))))


def same(mine: Run, theirs: Run) -> None:
    close(mine.end, theirs.end)
    assert len(mine.asked) == len(theirs.asked)
    for one, other in zip(mine.asked, theirs.asked, strict=True):
        close(one[0], other[0])
        close(one[1], other[1])
    assert mine.when == theirs.when
    for one, other in zip(mine.told, theirs.told, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            if key == "error":  # of differences that cancel
                assert one[key] == pytest.approx(float(other[key]), rel=1e-6, abs=1e-9)
            else:
                close(one[key], other[key])


def used_in(options: dict[str, Any], drawn: list[Any]) -> list[np.ndarray]:
    """Those of the reference's draws, one a step, that add noise."""
    low, high = options.get("s_tmin", 0.0), options.get("s_tmax", math.inf)
    pairs = zip(ABOVE, drawn, strict=False)
    return [z.numpy() for s, z in pairs if options.get("s_churn") and low <= s <= high]


def test_signatures() -> None:
    assert len(THEIRS) == 13
    sampling = kdiffusion.load("sampling")
    for name in THEIRS:
        mine = getattr(ours, name)
        assert inspect.signature(mine) == inspect.signature(getattr(sampling, name)), name
        assert pickle.loads(pickle.dumps(mine)) is mine
    for name in NAMES:
        assert name in ours.__all__
        assert name in str(getattr(ours, name))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("name", "options", "sigmas"), CASES)
def test_equal_to_k_diffusion(
    framework: str,
    name: str,
    options: dict[str, Any],
    sigmas: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end, what the network was asked, and what the callback was told, and when."""
    start, asarray = z_of(1) * sigmas[0], FRAMEWORKS[framework]
    levels = levels_of(name, sigmas)
    theirs, draws = through_theirs(name, start, levels, **options)
    more = {}
    if "noise_sampler" in inspect.signature(getattr(ours, name)).parameters:
        more["noise_sampler"] = lambda a, b: asarray(noise_sampler(a, b))
    elif options.get("s_churn"):  # the default noise of each framework, put in our hands
        left = iter(used_in(options, draws.handed_over()))
        x = asarray(start)
        if framework == "jax":
            with pytest.raises(ValueError, match=r"JAX has no hidden randomness.*rng=0"):
                run(getattr(ours, name), x, levels, **options)
            return
        if framework == "torch":
            monkeypatch.setattr(resolve(x).xp, "randn_like", lambda x: asarray(next(left)))
        else:
            source = lambda shape, dtype, interval: next(left)  # noqa: E731
            monkeypatch.setattr(resolve(x), "fresh", lambda seed, device: source)
    mine = run(getattr(ours, name), asarray(start), levels, **options, **more)
    assert type(mine.end) is type(asarray(start))
    same(mine, theirs)
    assert len(mine.told) > 1


def test_information_on_an_adaptive_run() -> None:
    options = {"return_info": True, "rtol": 0.002, "h_init": 2.0}
    levels = levels_of("sample_dpm_adaptive", ABOVE)
    start = z_of(1) * 10
    theirs, _ = through_theirs("sample_dpm_adaptive", start, levels, **options)
    mine = run(ours.sample_dpm_adaptive, start, levels, **options)
    assert mine.info == theirs.info
    assert mine.info["n_reject"] > 0
    same(mine, theirs)


@pytest.mark.parametrize("name", ["sample_dpmpp_sde", "sample_dpmpp_2m_sde"])
def test_its_own_brownian_tree(name: str) -> None:
    """A noise sampler of k-diffusion, as it is, gives its numbers."""
    sampling, ends = kdiffusion.load("sampling"), []
    start = torch.tensor(z_of(2) * 10)
    sigmas = torch.tensor(TO_ZERO, dtype=torch.float64)
    for functions in (sampling, ours):
        # k-diffusion's own exp(log(10)) is above 10
        tree = sampling.BrownianTreeNoiseSampler(start, 0.05, 11.0, seed=3)
        ends.append(
            getattr(functions, name)(
                Network(), start, sigmas, {"gain": 0.9}, disable=True, noise_sampler=tree
            )
        )
    close(ends[1], ends[0])


@pytest.mark.parametrize(
    "name", ["sample_euler_ancestral", "sample_euler", "sample_dpmpp_2s_ancestral"]
)
def test_torch_draws_from_its_default_generator(name: str) -> None:
    """So the same seed gives the same sample, in k-diffusion and here."""
    options = {"s_churn": 4.0} if name == "sample_euler" else {}
    sigmas, ends = torch.tensor(TO_ZERO, dtype=torch.float64), []
    for functions in (kdiffusion.load("sampling"), ours, ours):
        torch.manual_seed(5 if len(ends) < 2 else 6)
        function = getattr(functions, name)
        start = torch.tensor(z_of(3) * 10)
        ends.append(function(Network(), start, sigmas, {"gain": 0.9}, disable=True, **options))
    close(ends[1], ends[0])
    assert not torch.equal(ends[1], ends[2])


def test_nothing_is_drawn_unused() -> None:
    state = torch.random.get_rng_state()
    start = torch.tensor(z_of(3) * 10)
    ours.sample_heun(Network(), start, TO_ZERO, {"gain": 0.9})
    ours.sample_euler_ancestral(Network(), start, TO_ZERO, {"gain": 0.9}, eta=0.0)
    ours.sample_dpmpp_sde(Network(), start, TO_ZERO, {"gain": 0.9}, noise_sampler=0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_seeds_instead_of_noise_samplers() -> None:
    """One seed, the same noise on every framework; NumPy's own is fresh each time."""
    for name in NAMES:
        function = getattr(ours, name)
        if "noise_sampler" not in inspect.signature(function).parameters:
            continue
        levels = levels_of(name, TO_ZERO)
        eta = {"eta": 0.5} if "eta" in inspect.signature(function).parameters else {}
        ends = [
            function(Network(), asarray(z_of(4)), *levels, {"gain": 0.9}, noise_sampler=7, **eta)
            for asarray in FRAMEWORKS.values()
        ]
        close(ends[1], ends[0])
        close(ends[2], ends[0])
        fresh = [function(Network(), z_of(4), *levels, {"gain": 0.9}, **eta) for _ in range(2)]
        assert np.max(np.abs(fresh[0] - fresh[1])) > 1e-3, name
        with pytest.raises(ValueError, match=r"JAX has no hidden randomness: pass noise_sampler="):
            function(Network(), jnp.asarray(z_of(4)), *levels, {"gain": 0.9}, **eta)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_device_and_modes(name: str) -> None:
    """Half precision stays, no value is read (a meta tensor has none), autograd is off."""
    function, levels = getattr(ours, name), levels_of(name, TO_ZERO)
    takes = inspect.signature(function).parameters
    more = {"noise_sampler": lambda a, b: torch.randn(SHAPE, dtype=torch.bfloat16)}
    more = more if "noise_sampler" in takes else {}
    half = torch.tensor(z_of(5)).bfloat16()
    if "sigmas" in takes:
        levels = (torch.tensor(TO_ZERO, dtype=torch.bfloat16),)
    weight = torch.ones((), requires_grad=True, dtype=torch.bfloat16)

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert x.dtype == sigma.dtype == torch.bfloat16
        assert not torch.is_grad_enabled()
        return x * weight * 0.5

    end = function(network, half, *levels, **more)
    assert end.dtype == torch.bfloat16
    assert not end.requires_grad
    with torch.inference_mode():
        assert function(network, half.clone(), *levels, **more).is_inference()
    if name != "sample_dpm_adaptive":  # which looks at its error
        meta = half.to("meta")
        own = {key: (lambda a, b: torch.empty_like(meta)) for key in more}
        told: list[Any] = []
        end = function(lambda x, s: x * 0.5, meta, *levels, callback=told.append, **own)
        assert end.device.type == "meta"
        assert told[0]["sigma"].shape == ()


@pytest.mark.parametrize("name", ["sample_dpmpp_2m", "sample_heun", "sample_dpmpp_sde"])
def test_inside_jit(name: str) -> None:
    function = getattr(ours, name)
    more = {"noise_sampler": 3} if name == "sample_dpmpp_sde" else {}

    def network(x: Any, sigma: Any) -> Any:
        return jnp.sin(x) / (1 + sigma[:, None, None])

    start = jnp.asarray(z_of(6) * 10)
    compiled = jax.jit(lambda x: function(network, x, TO_ZERO, disable=True, **more))
    close(compiled(start), function(network, start, TO_ZERO, **more))


# what ComfyUI adds: the formulas, written out


def derivative(x: np.ndarray, sigma: float) -> np.ndarray:
    return (x - denoised(x, sigma)) / sigma


def denoised(x: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(Network()(x, np.full(len(x), sigma), gain=0.9))


@pytest.mark.parametrize("sigmas", [TO_ZERO, ABOVE])
def test_ddpm(sigmas: tuple[float, ...]) -> None:
    """Algorithm 2 of arXiv:2006.11239 in its own x / sqrt(1 + sigma^2)."""
    x = z_of(7) * 10
    end = ours.sample_ddpm(Network(), x, sigmas, {"gain": 0.9}, noise_sampler=noise_sampler)
    for a, b in itertools.pairwise(sigmas):
        bar, bar_next = 1 / (1 + a * a), 1 / (1 + b * b)
        alpha, eps = bar / bar_next, derivative(x, a)
        y = (x * math.sqrt(bar) - (1 - alpha) / math.sqrt(1 - bar) * eps) / math.sqrt(alpha)
        if b > 0:
            beta = (1 - bar_next) / (1 - bar) * (1 - alpha)
            y = y + math.sqrt(beta) * noise_sampler(a, b)
        x = y / math.sqrt(bar_next)
    close(end, x)


@pytest.mark.parametrize("sigmas", [TO_ZERO, ABOVE, ABOVE[:2]])
def test_lcm(sigmas: tuple[float, ...], capfd: pytest.CaptureFixture[str]) -> None:
    """The clean estimate, noised up to each level, the last one too."""
    x, n = z_of(7) * 10, len(sigmas) - 1
    given = {"extra_args": {"gain": 0.9}, "noise_sampler": noise_sampler}
    network, told = Network(), []
    end = ours.sample_lcm(network, x, sigmas, **given, callback=told.append, disable=False)
    assert len(network.asked) == len(told) == n
    assert f"{n}/{n}" in capfd.readouterr().err
    for a, b in itertools.pairwise(sigmas):
        x = denoised(x, a) + (b * noise_sampler(a, b) if b > 0 else 0.0)
    close(end, x)


def test_lcm_may_be_split() -> None:
    x, given = z_of(7) * 10, {"extra_args": {"gain": 0.9}, "noise_sampler": noise_sampler}
    half = ours.sample_lcm(Network(), x, TO_ZERO[:4], **given)
    end = ours.sample_lcm(Network(), half, TO_ZERO[3:], **given)
    close(end, ours.sample_lcm(Network(), x, TO_ZERO, **given))
    with pytest.raises(ValueError, match="deterministic"):
        ours.sample_lcm(Network(), x, UPWARD, **given)


@pytest.mark.parametrize("sigmas", [TO_ZERO, ABOVE])
@pytest.mark.parametrize("most", [4, 2])
@pytest.mark.parametrize("name", ["sample_ipndm", "sample_ipndm_v"])
def test_ipndm(name: str, most: int, sigmas: tuple[float, ...]) -> None:
    """Adams-Bashforth, of equal steps or of these; the step to 0 is Euler's."""
    x, past = z_of(7) * 10, []
    end = getattr(ours, name)(Network(), x, sigmas, {"gain": 0.9}, max_order=most)
    for i, (a, b) in enumerate(itertools.pairwise(sigmas)):
        past = [derivative(x, a), *past][:most]
        order = 1 if b == 0 else len(past)
        nodes = [sigmas[i - k] for k in range(order)]
        if name == "sample_ipndm":
            nodes, a, b, step = [-k for k in range(order)], 0.0, 1.0, b - a
        else:
            step = 1.0
        for k in range(order):  # the integral of each Lagrange polynomial
            others = [n for n in nodes if n != nodes[k]]
            basis = (
                np.polynomial.Polynomial.fromroots(others)
                if others
                else np.polynomial.Polynomial([1.0])
            )
            whole = basis.integ()
            weight = (whole(b) - whole(a)) / np.prod([nodes[k] - n for n in others])
            x = x + step * weight * past[k]
    close(end, x)


def test_uni_pc_converges_to_the_solution() -> None:
    """For normal data of spread 1 the exact end is known; the last step lowers the order to 2."""
    x, ends = z_of(8) * math.sqrt(1 + 100), []
    exact = x * math.sqrt((1 + 0.01) / (1 + 100))
    for name in ("sample_uni_pc", "sample_uni_pc_bh2"):
        for n in (80, 160):
            sigmas = np.geomspace(10, 0.1, n + 1)
            model = lambda x, s: x / (1 + s[:, None, None] ** 2)  # noqa: E731
            ends.append(getattr(ours, name)(model, x, sigmas))
        errors = [np.max(np.abs(end - exact)) for end in ends[-2:]]
        assert math.log2(errors[0] / errors[1]) > 1.8
        assert errors[1] < 1e-4
    assert np.max(np.abs(ends[1] - ends[3])) > 1e-9


def test_names_that_share_a_function() -> None:
    x = z_of(9) * 10
    given = {"extra_args": {"gain": 0.9}, "noise_sampler": noise_sampler}
    heun = ours.sample_dpmpp_2m_sde(Network(), x, TO_ZERO, solver_type="heun", **given)
    midpoint = ours.sample_dpmpp_2m_sde(Network(), x, TO_ZERO, **given)
    close(ours.sample_dpmpp_2m_sde_heun(Network(), x, TO_ZERO, **given), heun)
    assert np.max(np.abs(heun - midpoint)) > 1e-3
    for name in NAMES:
        if name.endswith("_gpu"):
            one, other = (getattr(ours, n) for n in (name, name.removesuffix("_gpu")))
            assert inspect.signature(one) == inspect.signature(other)
            close(one(Network(), x, TO_ZERO, **given), other(Network(), x, TO_ZERO, **given))
    close(
        ours.sample_ddim(Network(), x, TO_ZERO, {"gain": 0.9}),
        ours.sample_euler(Network(), x, TO_ZERO, {"gain": 0.9}),
    )


# errors and progress


def error_of_ones_own(sigma: Any, following: Any) -> Any:
    raise ValueError("it is mine, not rng's")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"sigmas": [3.0, 4.0, 1.0]}, ValueError, r"strictly decreasing.*\[4, 3, 1\]"),
        ({"sigmas": [3.0, math.nan, 1.0]}, ValueError, "sigmas must be a non-empty list of finite"),
        ({"sigmas": [math.inf, 1.0]}, ValueError, "finite"),
        ({"sigmas": []}, ValueError, "non-empty"),
        ({"sigmas": [1.0, -1.0]}, ValueError, "at least 0"),
        ({"sigmas": [0.0, 1.0]}, ValueError, "inversion starts at a small level"),
        ({"sigmas": [0.1, 1.0]}, ValueError, "deterministic"),
        ({"sigmas": "abc"}, TypeError, "list of numbers"),
        ({"sigmas": 3.0}, TypeError, "list of numbers"),
        ({"eta": -1.0}, ValueError, "eta must be at least 0"),
        ({"eta": "much"}, TypeError, "eta must be a number"),
        ({"s_noise": -1.0}, ValueError, "s_noise must be at least 0"),
        ({"solver_type": "haun"}, ValueError, r"solver_type='haun'.*'heun'"),
        ({"ete": 1.0}, TypeError, r"sample_dpmpp_2m_sde\(\).*'ete'.*eta=1.0"),
        ({"extra_args": 3}, TypeError, "extra_args must be a dict"),
        ({"x": 3.0}, TypeError, "x: expected an array"),
        ({"x": np.zeros((2, 3), int)}, TypeError, "int64 cannot be sampled"),
        ({"x": np.zeros(())}, ValueError, "batch axis"),
        ({"model": lambda x, s: x[:1]}, ValueError, "output has shape"),
        ({"noise_sampler": lambda a, b: np.zeros(3)}, ValueError, r"noise_sampler\(sigma, .*shape"),
        (
            {"noise_sampler": "seed"},
            TypeError,
            r"^noise_sampler='seed' \(str\) makes no numpy noise: .*function \(sigma, sigma_next\)",
        ),
        ({"noise_sampler": [1, 2, 3]}, ValueError, "^noise_sampler holds 3 entries for a batch"),
        ({"noise_sampler": error_of_ones_own}, ValueError, "^it is mine"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], match: str) -> None:
    given = {"model": lambda x, s: x * 0.5, "x": np.ones((2, 3)), "sigmas": [3.0, 1.0, 0.0]}
    ours.sample_dpmpp_2m_sde(**given)
    with pytest.raises(error, match=match):
        ours.sample_dpmpp_2m_sde(**{**given, **change})


def test_errors_of_other_functions() -> None:
    model, x = (lambda x, s: x * 0.5), np.ones((2, 3))
    for ends in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (-1.0, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match=r"sigma_m"):
            ours.sample_dpm_fast(model, x, *ends, 6)
        with pytest.raises(ValueError, match=r"sigma_m"):
            ours.sample_dpm_adaptive(model, x, *ends)
    with pytest.raises(ValueError, match="n must be at least 1"):
        ours.sample_dpm_fast(model, x, 0.1, 1.0, 0)
    with pytest.raises(ValueError, match=r"^order=4 is not one of 2, 3"):
        ours.sample_dpm_adaptive(model, x, 0.1, 1.0, order=4)
    with pytest.raises(ValueError, match=r"^max_order=5 is not one of 1, 2, 3, 4"):
        ours.sample_ipndm(model, x, [1.0, 0.0], max_order=5)
    with pytest.raises(AttributeError, match=r"no 'sample_deis'.*sample_dpmpp_3m_sde"):
        _ = ours.sample_deis
    same = ours.sample_euler(model, x, [1.0])
    assert np.array_equal(same, x)
    assert same is not x


def test_progress(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = (lambda x, s: x * 0.5), np.ones((2, 3))

    def shown(disable: bool | None) -> str:
        ours.sample_heun(model, x, TO_ZERO, disable=disable)
        ours.sample_dpm_fast(model, x, 0.1, 1.0, 8, disable=disable)
        ours.sample_dpm_adaptive(model, x, 0.1, 1.0, disable=disable)
        return capfd.readouterr().err

    text = shown(False)
    assert "7/7" in text
    assert "8/8" in text
    assert "it [" in text
    assert shown(True) == shown(None) == ""  # None: no terminal
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert shown(True) == shown(None) == ""
    with pytest.raises(ImportError, match=r"pip install"):
        shown(False)


# levels


@pytest.mark.parametrize("n", [1, 2, 17])
def test_levels(n: int) -> None:
    sampling = kdiffusion.load("sampling")
    ends = {"sigma_min": 0.03, "sigma_max": 14.6}
    calls: list[tuple[str, dict[str, float]]] = [
        ("karras", ends),
        ("karras", {**ends, "rho": 3.0}),
        ("exponential", ends),
        ("polyexponential", {**ends, "rho": 2.0}),
        ("vp", {}),
        ("vp", {"beta_d": 10.0, "beta_min": 0.2, "eps_s": 1e-2}),
    ]
    dtype = torch.get_default_dtype()
    for name, options in calls:
        mine, theirs = (getattr(where, f"get_sigmas_{name}") for where in (ours, sampling))
        own = list(inspect.signature(mine).parameters)
        assert own[:-1] == list(inspect.signature(theirs).parameters)
        found = mine(n, **options)
        assert found.dtype == theirs(n, **options).dtype == torch.float32
        expected = theirs(n, **options)
        off = 6e-6 if name == "vp" else ROUNDING  # sqrt(exp(small) - 1) from 0.01 on: 2**-23 / 0.02
        np.testing.assert_allclose(found, expected, rtol=5e-4, atol=off)
        try:
            torch.set_default_dtype(torch.float64)
            expected = theirs(n, **options)
            near = {"rtol": 1e-12, "atol": FINE_ROUNDING}
            np.testing.assert_allclose(mine(n, **options), expected, **near)
        finally:
            torch.set_default_dtype(dtype)
        for xp, kind in (("numpy", np.ndarray), ("jax", jax.Array)):
            there = mine(n, **options, xp=xp)
            assert isinstance(there, kind)
            np.testing.assert_allclose(there, found, rtol=1e-6, atol=ROUNDING)
        assert mine(n, **options, device="meta").device.type == "meta"
    with pytest.raises(ValueError, match="must go down"):
        ours.get_sigmas_karras(5, 3.0, 1.0)


@pytest.mark.parametrize("name", ["karras", "exponential", "polyexponential", "vp"])
def test_ends_of_levels(name: str) -> None:
    """Numbers, or arrays of one: those of a denoiser."""
    function = getattr(ours, f"get_sigmas_{name}")
    ends = {"eps_s": 0.25, "beta_d": 8.0} if name == "vp" else {"sigma_min": 0.25, "sigma_max": 8.0}
    expected = function(4, **ends, xp="numpy")
    for asarray in FRAMEWORKS.values():
        own = {key: asarray(np.asarray(value)) for key, value in ends.items()}
        np.testing.assert_array_equal(function(4, **own, xp="numpy"), expected)
    for xp in ("numpy", "torch", "jax"):
        d = ours.Denoiser(network_of_time, cmsched.EulerDiscreteScheduler(), xp=xp)
        if name != "vp":
            levels = function(3, d.sigma_min, d.sigma_max)
            np.testing.assert_allclose(levels[:3:2], [d.sigma_max, d.sigma_min], rtol=1e-6)
    for n, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match=r"^n must be"):
            function(n, **ends)
    for key in ends:
        with pytest.raises(TypeError, match=f"^{key} must be a number"):
            function(3, **{**ends, key: "much"})
        with pytest.raises(ValueError, match=f"^{key} must be at least 0"):
            function(3, **{**ends, key: -1.0})


# denoisers


def network_of_time(x: Any, t: Any, *, shift: float = 0.0) -> Any:
    """A network of any framework that heeds its time."""
    xp, t = resolve(x).xp, resolve(x).astype(t, x.dtype)
    t = xp.reshape(t, (-1, *[1] * (len(x.shape) - 1)))
    return xp.sin(3 * x) + 0.01 * t * x + shift


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_denoisers_of_tables(kind: str, quantize: bool) -> None:
    """DiscreteEpsDDPMDenoiser and DiscreteVDDPMDenoiser: estimates, times and levels."""
    external = kdiffusion.load("external")
    scheduler = cmsched.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind
    )
    bars = torch.tensor(scheduler.schedule.alphas_cumprod)
    part = "Eps" if kind == "epsilon" else "V"
    network = network_of_time
    theirs = getattr(external, f"Discrete{part}DDPMDenoiser")(network, bars, quantize)
    mine = ours.Denoiser(network, scheduler, quantize=quantize)
    sigma = torch.tensor([0.01, 0.0291, 0.5, 3.7, 14.6, 20.0], dtype=torch.float64)
    x = torch.tensor(np.random.default_rng(0).standard_normal((6, 3, 4)))
    x = x * (1 + sigma[:, None, None] ** 2) ** 0.5
    close(mine(x, sigma, shift=0.5), theirs(x, sigma, shift=0.5))
    close(mine.sigma_to_t(sigma), theirs.sigma_to_t(sigma))
    assert mine.sigma_to_t(sigma).dtype == (torch.int64 if quantize else torch.float64)
    close(mine.sigma_to_t(sigma, quantize=True), theirs.sigma_to_t(sigma, quantize=True))
    t = torch.tensor([0.0, 0.25, 499.5, 998.75, 999.0], dtype=torch.float64)
    close(mine.t_to_sigma(t), theirs.t_to_sigma(t))  # of times that are float32
    np.testing.assert_allclose(mine.sigmas, theirs.sigmas, rtol=1e-6)
    for n in (None, 1, 7):
        expected = theirs.get_sigmas(n)
        np.testing.assert_allclose(mine.get_sigmas(n), expected, rtol=1e-5, atol=ROUNDING)
    np.testing.assert_allclose(mine.sigma_min, theirs.sigma_min, rtol=1e-6)
    np.testing.assert_allclose(mine.sigma_max, theirs.sigma_max, rtol=1e-6)
    for framework, asarray in FRAMEWORKS.items():
        y = mine(asarray(x.numpy()), asarray(sigma.numpy()))
        assert resolve(y).name == framework
        close(y, theirs(x, sigma))


def test_denoiser_of_v_diffusion() -> None:
    """VDenoiser, whose times are angles."""
    external = kdiffusion.load("external")
    scheduler = cmsched.Scheduler(schedule="cosine", prediction_type="v_prediction")
    mine, theirs = ours.Denoiser(network_of_time, scheduler), external.VDenoiser(network_of_time)
    sigma = torch.tensor([0.0, 0.3, 2.0, 100.0], dtype=torch.float64)
    x = torch.tensor(np.random.default_rng(0).standard_normal((4, 3, 4)))
    close(mine(x, sigma), theirs(x, sigma))
    close(mine.sigma_to_t(sigma), theirs.sigma_to_t(sigma))
    t = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    close(mine.t_to_sigma(t), theirs.t_to_sigma(t))
    assert mine.get_sigmas(5).shape == (6,)


SCHEDULERS = [*SCHEDULES, "scaled_linear"]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_denoiser_of_any_network(schedule: str, kind: str) -> None:
    """Told what its output would be for a known x0 and noise, it returns this x0."""
    scheduler = cmsched.Scheduler(schedule=schedule, prediction_type=kind)
    levels = np.array([0.05, 0.7, 6.0])
    x0, eps = np.random.default_rng(1).standard_normal((2, 3, 5))
    points = [scheduler.schedule.at(ratio=s) for s in levels.tolist()]

    def network(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        np.testing.assert_allclose(t, [p.t for p in points], rtol=1e-9)
        seen = [
            p.scale * (p.alpha * a + p.sigma * z) for p, a, z in zip(points, x0, eps, strict=True)
        ]
        np.testing.assert_allclose(x, seen, rtol=1e-9, atol=FINE_ROUNDING)
        says = scheduler.prediction
        parts = [says.output(p.alpha, p.sigma, p.scale) for p in points]
        return np.array([c * a + d * z for (c, d), a, z in zip(parts, x0, eps, strict=True)])

    found = ours.Denoiser(network, scheduler)(x0 + levels[:, None] * eps, levels)
    np.testing.assert_allclose(found, x0, atol=1e-8)


@pytest.mark.parametrize(
    "scheduler",
    [
        cmsched.DDIMScheduler(clip_sample=True),
        cmsched.DDIMScheduler(thresholding=True, clip_sample=False),
        cmsched.DDPMScheduler(variance_type="learned_range"),
        cmsched.LCMScheduler(),
        cmsched.DDIMScheduler(
            rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False
        ),
        cmsched.EDMEulerScheduler(),
        cmsched.CMStochasticIterativeScheduler(),
        cmsched.FlowMatchEulerDiscreteScheduler(),
        *(cmsched.Scheduler(schedule=s, prediction_type="v_prediction") for s in SCHEDULERS),
    ],
    ids=lambda s: (
        f"{type(s).__name__}-{s.config.get('schedule')}-{s.prediction.type}-{s.prediction.clip}"
    ),
)
def test_denoiser_says_what_the_engine_estimates(scheduler: Any) -> None:
    """Projection, boundary and variance channels too: x0 of `cmsched.estimate` in its own frame."""
    twice = 2 if scheduler.prediction.variance_head else 1
    outputs = np.random.default_rng(2).standard_normal((2, 3 * twice, 4))
    plan, z = scheduler.plan(4), np.random.default_rng(3).standard_normal((2, 3, 4)) * 2
    network = ours.Denoiser(lambda x, t: outputs, scheduler)
    checked = 0
    for i, point in enumerate(plan.points):
        if not 0 < point.ratio < 1e3:
            continue
        state = cmsched.init(plan, z)._replace(sample=z * point.alpha, index=i)
        expected = cmsched.estimate(plan, state, outputs).x0
        np.testing.assert_allclose(network(z, np.full(2, point.ratio)), expected, atol=1e-9)
        checked += 1
    assert checked >= 2


def test_consistency_denoiser_ends_in_the_identity() -> None:
    scheduler = cmsched.CMStochasticIterativeScheduler(clip_denoised=False)
    x = z_of(1)
    denoiser = ours.Denoiser(lambda x, t: x + 1.0, scheduler)
    with np.errstate(divide="ignore", invalid="ignore"):
        close(denoiser(x, np.array([0.002, 0.002])), x)


def test_sampling_with_a_denoiser_is_sampling_in_its_frame() -> None:
    """`sample_euler` around a Denoiser and the plan of the same scheduler end alike."""
    levels = [9.0, 4.0, 1.5, 0.4]
    z = z_of(2)
    for schedule in SCHEDULERS:
        scheduler = cmsched.Scheduler("heun", schedule, prediction_type="v_prediction")
        frame = scheduler.schedule
        native = [frame.at(ratio=s).sigma for s in levels] if frame.frame == "flow" else levels
        plan = scheduler.plan(sigmas=native)
        expected = cmsched.sample(network_of_time, plan, z)
        start = z * plan.grid.init_scale / plan.points[0].alpha
        denoiser = ours.Denoiser(network_of_time, scheduler)
        close(ours.sample_heun(denoiser, start, [*levels, 0.0]), expected)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_denoiser_in_cmsched(framework: str) -> None:
    """k-diffusion's own denoiser, sampled by cmsched and by k-diffusion."""
    asarray = FRAMEWORKS[framework]
    z = z_of(3)

    class Model(Network):
        sigma_min, sigma_max = torch.tensor(0.1), 12.0

    for name, kdiff in (("heun", "heun"), ("lms", "lms"), ("dpmpp_multistep", "dpmpp_2m")):
        model, scheduler = ours.from_denoiser(Model(), name, extra_args={"gain": 0.9})
        plan = scheduler.plan(6)
        end = cmsched.sample(model, plan, asarray(z))
        levels = [p.ratio for p in plan.grid.points]
        assert levels[0] == 12.0
        assert levels[-2] == pytest.approx(0.1)
        theirs, _ = through_theirs(f"sample_{kdiff}", z * 12.0, (tuple(levels),))
        close(end, theirs.end)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_denoiser_takes_a_number(framework: str) -> None:
    asarray = FRAMEWORKS[framework]
    for schedule in ("scaled_linear", "cosine"):
        denoiser = ours.Denoiser(network_of_time, cmsched.Scheduler(schedule=schedule))
        x = asarray(z_of(4))
        expected = denoiser(x, asarray(np.full(len(x), 3.0)))
        for sigma in (3.0, 3, np.float64(3), np.float32(3), asarray(np.asarray(3.0))):
            close(denoiser(x, sigma), expected)
    other = FRAMEWORKS["jax" if framework == "numpy" else "numpy"]
    with pytest.raises(TypeError, match=f"sigma is an array of .*, x one of {framework}"):
        denoiser(x, other(np.full(len(x), 3.0)))
    for bad in ([3.0], None, "3"):
        with pytest.raises(TypeError, match=r"^sigma: expected an array"):
            denoiser(x, bad)
    with pytest.raises(ValueError, match=r"^sigma must be at least 0"):
        denoiser(x, -1.0)


@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine", "flow", "logarithmic"])
def test_a_denoiser_inside_jit(schedule: str) -> None:
    """Its times are found where sigma is, of a table and of a formula."""
    scheduler = cmsched.Scheduler(schedule=schedule, prediction_type="v_prediction")
    x, sigma = z_of(6), np.geomspace(0.05, 8.0, len(z_of(6)))
    expected = ours.Denoiser(network_of_time, scheduler)(x, sigma)
    fresh = ours.Denoiser(network_of_time, scheduler)
    close(jax.jit(fresh)(jax.numpy.asarray(x), jax.numpy.asarray(sigma)), expected)
    torch._dynamo.reset()
    fresh = ours.Denoiser(network_of_time, scheduler)
    compiled = torch.compile(fresh, backend="eager", fullgraph=True)
    close(compiled(torch.tensor(x), torch.tensor(sigma)), expected)


def test_denoiser_errors() -> None:
    network = network_of_time
    for scheduler in (3, cmsched.VQDiffusionScheduler(num_vec_classes=4), None):
        with pytest.raises(TypeError, match="scheduler must be one of cmsched's"):
            ours.Denoiser(network, scheduler)
    with pytest.raises(ValueError, match="quantize=True needs a table"):
        ours.Denoiser(network, cmsched.Scheduler(schedule="cosine"), quantize=True)
    with pytest.raises(ValueError, match=r"sampler='hune'.*'heun'"):
        ours.from_denoiser(network, "hune")
    with pytest.raises(TypeError, match="schedule is a denoiser's own"):
        ours.from_denoiser(network, schedule="cosine")
