"""The dtype that noise is drawn in: a generator gives other numbers in another one."""

import warnings
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_consistency_decoder import ConsistencyDecoderScheduler

import cmsched

from .lifted import own_tables

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

# every class whose step draws from a generator: its options, and those of `step`
STOCHASTIC: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DDIMScheduler": ({}, {"eta": 1.0}),
    "DDIMParallelScheduler": ({}, {"eta": 1.0}),
    "DDPMScheduler": ({}, {}),
    "DDPMParallelScheduler": ({}, {}),
    "LCMScheduler": ({}, {}),
    "TCDScheduler": ({}, {"eta": 0.5}),
    "EulerDiscreteScheduler": ({}, {"s_churn": 5.0}),
    "EulerAncestralDiscreteScheduler": ({}, {}),
    "KDPM2AncestralDiscreteScheduler": ({}, {}),
    "EDMEulerScheduler": ({}, {"s_churn": 5.0}),
    "CMStochasticIterativeScheduler": ({}, {}),
    "ConsistencyDecoderScheduler": ({}, {}),
    "DPMSolverMultistepScheduler": ({"algorithm_type": "sde-dpmsolver++"}, {}),
    "DPMSolverSinglestepScheduler": ({"algorithm_type": "sde-dpmsolver++"}, {}),
    "FlowMatchEulerDiscreteScheduler": ({"stochastic_sampling": True}, {}),
}
SINGLE = ("DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
DTYPES = (torch.float16, torch.float32, torch.float64)
BOUNDS = {torch.float16: 1e-2, torch.float32: 2e-6, torch.float64: 2e-6}


def start(dtype: torch.dtype) -> torch.Tensor:
    """A sample."""
    return torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(1, 2, 3, 4).to(dtype)


def after(scheduler: Any, dtype: torch.dtype, **options: Any) -> torch.Tensor:
    """The sample after two evaluations, of which a generator gives the noise."""
    scheduler.set_timesteps(2 if "Decoder" in type(scheduler).__name__ else 4)
    x, generator = start(dtype), torch.Generator().manual_seed(4)
    for t in list(scheduler.timesteps)[:2]:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        m = 0.2 * torch.tanh(x)
        x = scheduler.step(m, t, x, generator=generator, **options).prev_sample
    return x.double()


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference beside the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def ours(name: str, mode: str = "diffusers", **options: Any) -> Any:
    """Our scheduler."""
    return getattr(cmsched, name)(**options, compatibility=mode, xp="torch")


@pytest.fixture(autouse=True)
def as_installed():
    """With the tables and draws of the reference as it is installed."""
    with own_tables(lifted=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_generator_gives_the_noise_of_the_reference(name: str, dtype: torch.dtype) -> None:
    options, chosen = STOCHASTIC[name]
    theirs = getattr(diffusers, name, ConsistencyDecoderScheduler)(**options)
    expected = after(theirs, dtype, **chosen)
    assert apart(after(ours(name, **options), dtype, **chosen), expected) < BOUNDS[dtype]
    if name in SINGLE and dtype != torch.float32:
        exact = after(ours(name, "paper", **options), dtype, **chosen)
        assert apart(exact, expected) > 0.1, "by the paper it has the sample's dtype"


@pytest.mark.parametrize("name", SINGLE)
def test_one_generator_for_each_sample(name: str) -> None:
    """And one in a list of one for all, as pipelines hand it on."""
    options, _ = STOCHASTIC[name]
    x = start(torch.float64).repeat(2, 1, 1, 1)
    for seeds in ((4, 5), (4,)):
        ends = []
        for scheduler in (getattr(diffusers, name)(**options), ours(name, **options)):
            scheduler.set_timesteps(4)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            t = scheduler.timesteps[0]
            ends.append(scheduler.step(0.2 * x, t, x, generator=generators).prev_sample)
        assert apart(ends[1].double(), ends[0].double()) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_corrector_of_the_ve_sde(dtype: torch.dtype) -> None:
    name, ends = "ScoreSdeVeScheduler", []
    for scheduler in (getattr(diffusers, name)(), ours(name)):
        scheduler.set_timesteps(4)
        scheduler.set_sigmas(4)
        x, generator = start(dtype), torch.Generator().manual_seed(4)
        ends.append(scheduler.step_correct(-x, x, generator=generator).prev_sample)
    assert apart(ends[1].double(), ends[0].double()) < 2e-6
