"""What code looks at before it uses a scheduler: classes, signatures, configs, lists it accepts."""

import inspect
import json

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import PushToHubMixin

from interop.wild import COUNTERPARTS, NAMES, NEAR, loop, made, off, parameters, takes

WITH_OPTIONS = {"VQDiffusionScheduler": {"num_vec_classes": 5}}
METHODS = ("__init__", "set_timesteps", "step", "scale_model_input", "add_noise", "scale_noise")


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_classes(name):
    theirs, mine = made(name, **WITH_OPTIONS.get(name, {}))
    for kind in (type(theirs), SchedulerMixin, ConfigMixin, PushToHubMixin):
        assert isinstance(mine, kind)
    assert type(mine) is not type(theirs)
    assert type(mine).__name__ == name
    assert mine.has_compatibles == theirs.has_compatibles
    assert mine.order == theirs.order
    assert mine.config_name == theirs.config_name
    names = {cls.__name__ for cls in mine.compatibles}
    assert names == {name, *(cls.__name__ for cls in theirs.compatibles)}
    # ours stay ours when another is chosen among them
    there = [cls for cls in mine.compatibles if cls.__name__ in COUNTERPARTS]
    assert all(cls is COUNTERPARTS[cls.__name__] for cls in there)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_config(name):
    theirs, mine = made(name, **WITH_OPTIONS.get(name, {}))
    default = "_use_default_values"
    a, b = ({**s.config, default: {*s.config[default]}} for s in (theirs, mine))
    assert a == b
    assert isinstance(mine.config, FrozenDict)
    key = next(iter(theirs.config))
    assert mine.config.get(key, "x") == getattr(mine.config, key) == mine.config[key]
    assert mine.config.get("no such option", 7) == 7
    with pytest.raises(AttributeError):
        _ = mine.config.no_such_option
    shown, expected = (json.loads(repr(s).removeprefix(name)) for s in (mine, theirs))
    assert shown == expected
    mine.register_to_config(something_of_a_pipeline=3)
    assert mine.config.something_of_a_pipeline == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", COUNTERPARTS)
def test_signatures(name, method):
    """The same parameters in the same places, more only after them, and no more are required."""
    cls = COUNTERPARTS[name]
    if not hasattr(cls._reference, method):
        return
    theirs, mine = (parameters(getattr(kind, method)) for kind in (cls._reference, cls))
    named = [p for p in theirs if p.kind is not p.VAR_KEYWORD and p.kind is not p.VAR_POSITIONAL]
    names = [p.name for p in named]
    assert [p.name for p in mine][: len(names)] == names
    more = [p for p in mine[len(names) :] if p not in theirs]
    assert inspect.Parameter.empty not in [p.default for p in more]
    for p, own in zip(named, mine, strict=False):
        assert own.default == p.default, p.name


LISTS = {"timesteps": [999, 700, 420, 100], "sigmas": [0.9, 0.6, 0.3, 0.1]}
OF_OTHERS = {
    ("CMStochasticIterativeScheduler", "timesteps"): [39, 30, 15, 5],
    ("EDMEulerScheduler", "sigmas"): torch.tensor([0.0, 0.3, 0.6, 1.0]),  # places on its ramp
    ("UniPCMultistepScheduler", "sigmas"): np.array(LISTS["sigmas"]),
    ("EulerDiscreteScheduler", "sigmas"): [9.0, 2.0, 0.5, 0.0],  # with the end
}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}  # where sigmas are taken
ACCEPTED = [
    (name, what)
    for name in NAMES
    for what in LISTS
    if takes(COUNTERPARTS[name]._reference.set_timesteps, what)
]


def check_run(theirs, mine, **given):
    """Whether `retrieve_timesteps` of the pipelines gives the same of both, and the same run."""
    (expected, n), (found, m) = (
        retrieve_timesteps(scheduler, device="cpu", **given) for scheduler in (theirs, mine)
    )
    assert m == n
    assert found.device == expected.device
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype
    assert off(loop(mine), loop(theirs)) <= NEAR


@pytest.mark.parametrize(("name", "what"), ACCEPTED)
def test_lists(name, what):
    flow = what == "sigmas" and takes(COUNTERPARTS[name].__init__, "use_flow_sigmas")
    theirs, mine = made(name, **(FLOW if flow else {}))
    check_run(theirs, mine, **{what: OF_OTHERS.get((name, what), LISTS[what])})


@pytest.mark.parametrize("name", NAMES)
def test_retrieve_steps(name):
    check_run(*made(name), num_inference_steps=7)


STOCHASTIC = [  # where noise is an option: of the class, of `step`
    *((name, {}, {"eta": 0.5}) for name in ("DDIMScheduler", "DDIMParallelScheduler")),
    ("DDIMScheduler", {"set_alpha_to_one": False}, {"eta": 0.5}),
    ("EulerDiscreteScheduler", {}, {"s_churn": 1.0}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, {}),
    *(
        (f"DPMSolver{kind}Scheduler", {"algorithm_type": "sde-dpmsolver++", **end}, {})
        for kind in ("Multistep", "Singlestep")
        for end in ({}, {"final_sigmas_type": "sigma_min"})
    ),
]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("name", "options", "at_step"), [*((name, {}, {}) for name in NAMES), *STOCHASTIC]
)
def test_what_is_drawn(name, options, at_step, given):
    """As much as by diffusers' schedulers, so that one generator serves for images in a row.

    Without one it is torch's own, and `torch.manual_seed` decides.
    """
    results = []
    for scheduler in made(name, **options):
        generator = torch.Generator() if given else torch.default_generator
        given = given and takes(scheduler.step, "generator")
        options = {"generator": generator, **at_step} if given else at_step
        scheduler.set_timesteps(5)
        x = torch.randn((2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        generator.manual_seed(3)
        for t in scheduler.timesteps:
            if hasattr(scheduler, "scale_model_input"):
                _ = scheduler.scale_model_input(x, t)
            x = scheduler.step(0.3 * torch.tanh(x), t, x, **options).prev_sample
        results.append((x, torch.randn(3, generator=generator)))
    (a, after), (b, then) = results
    assert off(b, a) <= NEAR
    assert torch.equal(after, then)  # not one number more or less


def test_messages_of_pipelines_name_the_class():
    """Pipelines build messages and other schedulers from `scheduler.__class__`."""
    scheduler = made("DDIMScheduler")[1]
    again = scheduler.__class__.from_config(scheduler.config)
    assert type(again) is type(scheduler)
    assert scheduler.__class__.__name__ == "DDIMScheduler"


def test_the_seed_of_a_configuration_is_heeded():
    """DPMSolverSDE's noise_sampler_seed: the same noise again, and torch's generator untouched."""
    cls = COUNTERPARTS["DPMSolverSDEScheduler"]
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def sample(seed):
        scheduler = cls(noise_sampler_seed=seed)
        scheduler.set_timesteps(4)
        x = start * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(0.5 * torch.tanh(x), t, x).prev_sample
        return x

    before = torch.random.get_rng_state()
    first, again, other = sample(3), sample(3), sample(4)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    default = sample(None)
    assert not torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(sample(None), default)
