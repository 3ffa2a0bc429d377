"""What public pipelines and trainers do to a scheduler, twenty ways, with diffusers' and with ours.

Each is written after what stands in many repositories: tables indexed by times, levels by numbers
of steps, counters moved by hand, steps taken apart, schedulers copied, patched and derived from.
"""

import copy
import inspect

import numpy as np
import pytest
import torch
from diffusers import training_utils

from interop.test_contract import NEAR, apart
from interop.wild import COUNTERPARTS, draws, made, takes

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (2, 4, 8, 8)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TABLES = ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler", "PNDMScheduler"]
SIGMAS = ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"]
FLOW = "FlowMatchEulerDiscreteScheduler"
SOLVERS = [
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverSinglestepScheduler",
]


def normal(seed=0):
    return torch.randn(SHAPE, generator=draws(seed))


def net(x, t):
    """A network that sees the time."""
    return 0.4 * torch.tanh(x) + 1e-4 * float(t) * x.roll(1, 1) / 10


def check(name, use, **options):
    """Whether a use gives the same arrays and numbers with both."""
    options = {**(BETAS if takes(COUNTERPARTS[name].__init__, "beta_end") else {}), **options}
    found = []
    for scheduler in made(name, **options):
        torch.manual_seed(3)
        found.append([torch.as_tensor(v) for v in use(scheduler)])
    theirs, mine = found
    for a, b in zip(theirs, mine, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert apart(a, b) <= NEAR


def loop(scheduler, x=None, timesteps=None, **given):
    x = normal() * float(getattr(scheduler, "init_noise_sigma", 1.0)) if x is None else x
    for t in scheduler.timesteps if timesteps is None else timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(scaled, t), t, x, return_dict=False, **given)[0]
    return x


# training


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_signal_to_noise_weights(name):
    check(name, lambda s: [training_utils.compute_snr(s, torch.tensor([0, 10, 999]))])


@pytest.mark.parametrize("name", [FLOW, "EulerDiscreteScheduler"])
def test_levels_of_random_times(name):
    def use(s):
        twin = copy.deepcopy(s)
        times = twin.timesteps[torch.tensor([3, 500])]
        numbers = [(twin.timesteps == t).nonzero().item() for t in times]
        return [times, twin.sigmas.to(torch.float32)[numbers]]

    check(name, use)


def test_flow_targets():
    def use(s):
        numbers = torch.tensor([0, 400])
        times, sigma = s.timesteps[numbers], s.sigmas[numbers].view(-1, 1, 1, 1)
        noisy = (1.0 - sigma) * normal() + sigma * normal(1)
        return [noisy, s.scale_noise(normal(), times, normal(1))]

    check(FLOW, use)


@pytest.mark.parametrize("name", TABLES)
def test_noise_and_velocity_at_random_times(name):
    def use(s):
        times = torch.tensor([12, 840])
        noisy = s.add_noise(normal(), normal(1), times)
        velocity = s.get_velocity(normal(), normal(1), times) if hasattr(s, "get_velocity") else 0
        return [noisy, velocity, s.alphas_cumprod.to(torch.float16)[times]]

    check(name, use)


def test_steps_of_a_distilled_loss():
    """The teacher's DDIM steps between multiples of a stride, from tables of one's own."""

    def use(s):
        times = (np.arange(1, 51) * (s.config.num_train_timesteps // 50)).round() - 1
        bar, before = s.alphas_cumprod[times], s.alphas_cumprod[[0, *times[:-1].tolist()]]
        x0 = s.step(net(normal(), 499), 499, normal(), generator=draws()).pred_original_sample
        return [bar, before, x0]

    check("DDPMScheduler", use)


# estimates and steps by hand


@pytest.mark.parametrize("name", TABLES)
def test_estimates_by_hand(name):
    def use(s):
        s.set_timesteps(20)
        t = s.timesteps[4]
        bar = s.alphas_cumprod[int(t)].to(torch.float32)
        return [(normal() - (1 - bar).sqrt() * net(normal(), t)) / bar.sqrt(), s.timesteps]

    check(name, use)


def test_an_inversion_by_hand():
    def use(s):
        s.set_timesteps(20)
        x = normal()
        for t in reversed(s.timesteps):
            before = min(t - s.config.num_train_timesteps // s.num_inference_steps, 999)
            low = s.alphas_cumprod[before] if before >= 0 else s.final_alpha_cumprod
            high = s.alphas_cumprod[t]
            x0 = (x - (1 - low) ** 0.5 * net(x, t)) / low**0.5
            x = high**0.5 * x0 + (1 - high) ** 0.5 * net(x, t)
        return [x, loop(s, x)]

    check("DDIMScheduler", use, clip_sample=False, set_alpha_to_one=False)


def test_the_variance_of_a_step():
    """Log-probabilities of DDIM steps, for reinforcement learning."""

    def use(s):
        s.set_timesteps(10)
        x, logs = normal(), []
        for t in s.timesteps[:-1]:
            before = t - s.config.num_train_timesteps // s.num_inference_steps
            std = 0.7 * s._get_variance(t, before) ** 0.5
            mean = s.step(net(x, t), t, x, eta=0.7, variance_noise=torch.zeros_like(x)).prev_sample
            x = mean + std * normal(int(t))
            logs.append(-((x - mean) ** 2 / (2 * std**2)).mean())
        return [*logs, x]

    check("DDIMScheduler", use)


def test_a_stochastic_step_of_a_flow():
    def use(s):
        s.set_timesteps(8)
        x = normal()
        for t in s.timesteps[:-1]:
            i = s.index_for_timestep(t)
            sigma, after = s.sigmas[i], s.sigmas[i + 1]
            x = s.step(net(x, t), t, x).prev_sample + 0.1 * (sigma - after) * normal(i)
        return [x, float(s.sigmas[s.step_index - 1]), float(s.sigmas[s.step_index])]

    check(FLOW, use)


@pytest.mark.parametrize("name", SIGMAS)
def test_estimates_by_levels(name):
    def use(s):
        s.set_timesteps(6)
        x = normal() * s.init_noise_sigma
        i = (s.timesteps == s.timesteps[2]).nonzero()[0].item()
        scaled = x / (s.sigmas[i] ** 2 + 1) ** 0.5
        return [x - s.sigmas[i + 1] * net(scaled, 1), s.init_noise_sigma * 1.0]

    check(name, use)


# counters


@pytest.mark.parametrize("name", [*SIGMAS[:1], FLOW, "LCMScheduler"])
def test_the_counter_is_set_back(name):
    """A step is looked at, and then taken: `_step_index` of a copy, or of the scheduler itself."""

    def use(s):
        s.set_timesteps(6)
        x, seen = normal(), []
        for t in s.timesteps:
            given = {"generator": draws()} if takes(s.step, "generator") else {}
            scaled = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
            after = s.step(net(scaled, t), t, x, **given).prev_sample
            twin = copy.deepcopy(s)
            twin._step_index = s._step_index - 1
            given = {"generator": draws()} if takes(s.step, "generator") else {}
            seen.append(twin.step(net(0.9 * scaled, t), t, x, **given).prev_sample)
            x = after
        return [*seen, x]

    check(name, use)


@pytest.mark.parametrize("name", [*SIGMAS, FLOW, *SOLVERS])
def test_the_counter_begins_anew_at_every_step(name):
    def use(s):
        s.set_timesteps(5)
        x = normal()
        for t in s.timesteps:
            s._step_index = None
            s._init_step_index(t)
            if hasattr(s, "scale_model_input"):
                s.scale_model_input(x, t)
            x = s.step(net(x, t), t, x)[0]
        return [x]

    check(name, use)


@pytest.mark.parametrize("strength", [0.3, 0.75])
@pytest.mark.parametrize("name", [*SIGMAS, *TABLES[:2], *SOLVERS, FLOW])
def test_image_to_image(name, strength):
    def use(s):
        s.set_timesteps(10)
        first = 10 - int(10 * strength)
        times = s.timesteps[first * s.order :]
        if hasattr(s, "set_begin_index"):
            s.set_begin_index(first * s.order)
        level = times[:1].repeat(2)
        add = s.scale_noise if name == FLOW else None
        x = add(normal(), level, normal(1)) if add else s.add_noise(normal(), normal(1), level)
        given = {"generator": draws()} if takes(s.step, "generator") else {}
        return [x, loop(s, x, times, **given)]

    check(name, use)


# memory


@pytest.mark.parametrize("name", SOLVERS)
def test_the_history_is_reset(name):
    """For the next part of a video, or a second view."""

    def use(s):
        s.set_timesteps(8)
        first = loop(s)
        s.model_outputs = [None] * s.config.solver_order
        s._step_index = None
        s.lower_order_nums = 0
        if hasattr(s, "last_sample"):
            s.last_sample = None
        return [first, loop(s, normal(5))]

    check(name, use)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_history_is_mixed(name):
    def use(s):
        s.set_timesteps(8)
        x = normal()
        for i, t in enumerate(s.timesteps):
            x = s.step(net(x, t), t, x).prev_sample
            if i == 3:
                s.model_outputs[-1] = 0.5 * (s.model_outputs[-1] + s.model_outputs[-2])
        return [x, *(m for m in s.model_outputs if m is not None)]

    check(name, use)


def test_pndm_hands_its_memory_over():
    def use(s):
        s.set_timesteps(10)
        times = s.timesteps
        x = loop(s, timesteps=times[:5])
        twin = type(s).from_config(s.config)
        twin.set_timesteps(10)
        twin.ets, twin.counter = [*s.ets], s.counter
        twin.cur_sample, twin.cur_model_output = s.cur_sample, s.cur_model_output
        return [loop(twin, x, times[5:]), len(s.ets), s.counter]

    check("PNDMScheduler", use, skip_prk_steps=True)


# the object


@pytest.mark.parametrize("name", [*TABLES, *SIGMAS, *SOLVERS, FLOW])
def test_extra_arguments_are_asked_for(name):
    """`prepare_extra_step_kwargs`, `retrieve_timesteps`."""

    def use(s):
        given = {}
        if "eta" in inspect.signature(s.step).parameters:
            given["eta"] = 0.3
        if "generator" in inspect.signature(s.step).parameters:
            given["generator"] = draws()
        s.set_timesteps(6, device="cpu")
        return [loop(s, **given), len(s.timesteps), len(s)]

    check(name, use)


def test_a_config_goes_to_another_class():
    def use(s):
        other = COUNTERPARTS["UniPCMultistepScheduler"]
        cls = other if type(s) is COUNTERPARTS["DDIMScheduler"] else other._reference
        again = cls.from_config(s.config, use_karras_sigmas=True)
        again.set_timesteps(7)
        return [again.sigmas, loop(again)]

    check("DDIMScheduler", use)


def test_a_subclass_has_a_step_of_its_own():
    """Which calls the one of its base, at the same timestep more than once."""

    def use(s):
        class Twice(type(s)):
            def step(self, output, timestep, sample, **given):
                half = super().step(0.5 * output, timestep, sample, **given)[0]
                return super().step(output, timestep, 0.5 * (half + sample), **given)

            def _get_variance(self, timestep, before):
                return 0.25 * super()._get_variance(timestep, before)

        mine = Twice.from_config(s.config)
        mine.set_timesteps(5)
        return [loop(mine, eta=0.4, generator=draws())]

    check("DDIMScheduler", use)


def test_a_part_of_a_step_is_replaced():
    """Of one object, as wrappers do that clamp or store estimates."""

    def use(s):
        convert, seen = s.convert_model_output, []

        def clamped(output, *args, sample, **given):
            seen.append(convert(output, *args, sample=sample, **given).clamp(-0.3, 0.3))
            return seen[-1]

        s.convert_model_output = clamped
        s.set_timesteps(5)
        return [loop(s), *seen]

    check("DPMSolverMultistepScheduler", use)


def test_a_table_is_rescaled_by_hand():
    def use(s):
        s.betas = training_rescaled(s.betas)
        s.alphas = 1.0 - s.betas
        s.alphas_cumprod = torch.cumprod(s.alphas, dim=0)
        s.set_timesteps(6)
        return [s.alphas_cumprod, loop(s)]

    check("DDIMScheduler", use, prediction_type="v_prediction", timestep_spacing="trailing")


def training_rescaled(betas):
    """Betas whose last step has no signal left (arXiv:2305.08891, algorithm 1)."""
    root = (1.0 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bar = root**2
    return 1 - torch.cat([bar[:1], bar[1:] / bar[:-1]])
