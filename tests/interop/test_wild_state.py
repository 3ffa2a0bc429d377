"""What pipelines do to a scheduler's state while it runs, with diffusers' own and with ours."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from interop.wild import COUNTED, NAMES, NEAR, draws, loop, made, off, one_step, start

THREADS = 8
ONE_EVALUATION = [name for name in NAMES if made(name)[1].order == 1]
LEVELS = [  # theirs of the consistency model is not read in the last step
    name
    for name in COUNTED
    if name in ONE_EVALUATION
    and hasattr(made(name)[0], "sigmas")
    and name not in ("CMStochasticIterativeScheduler", "IPNDMScheduler")
]
SOLVERS = ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"]


def without_memory(name):
    """Whether a step takes nothing from those before."""
    return not made(name)[1].plan(5).layout.slots


def both(name, run, **options):
    """The results of a run with diffusers' scheduler and with ours."""
    theirs, mine = (run(scheduler) for scheduler in made(name, **options))
    return mine, theirs


@pytest.mark.parametrize("name", LEVELS)
def test_last_sigma_overwritten(name):
    """Cosmos 2 ends where the last step begins."""

    def run(scheduler):
        scheduler.set_timesteps(5)
        scheduler.sigmas[-1] = scheduler.sigmas[-2]
        assert scheduler.sigmas[-1] == scheduler.sigmas[-2] > 0
        return loop(scheduler)

    mine, theirs = both(name, run)
    assert off(mine, theirs) <= NEAR
    _, plain = made(name)
    plain.set_timesteps(5)
    assert off(mine, loop(plain)) > NEAR


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_any_sigma_overwritten(name):
    def run(scheduler):
        scheduler.set_timesteps(5)
        scheduler.sigmas[2] = 0.5 * (scheduler.sigmas[1] + scheduler.sigmas[3])
        return loop(scheduler)

    mine, theirs = both(name, run)
    assert off(mine, theirs) <= NEAR


@pytest.mark.parametrize("name", [n for n in COUNTED if n in ONE_EVALUATION and without_memory(n)])
def test_step_index_set_back(name):
    """Cosmos takes each step twice, first for the estimate of x0."""

    def run(scheduler):
        scheduler.set_timesteps(5)
        x, generator = start(scheduler), draws()
        for i, t in enumerate(scheduler.timesteps):
            one_step(scheduler, x, t, generator)
            scheduler._step_index -= 1
            assert scheduler.step_index == scheduler._step_index == i
            x = one_step(scheduler, x, t, generator)
        return x

    mine, theirs = both(name, run)
    assert off(mine, theirs) <= NEAR


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", SOLVERS)
def test_history_sliced(name, order):
    """ChronoEdit goes on with two of the frames, and slices what the solver has kept."""
    ends = [0, -1]

    def run(scheduler):
        scheduler.set_timesteps(6)
        seen = []

        def before(i, x):
            if i != 3:
                return x
            outputs = scheduler.model_outputs
            for j in range(len(outputs)):
                if outputs[j] is not None and x.shape[2] != 2:
                    scheduler.model_outputs[j] = outputs[j][:, :, ends]
                    seen.append(scheduler.model_outputs[j].shape)
            if getattr(scheduler, "last_sample", None) is not None:
                scheduler.last_sample = scheduler.last_sample[:, :, ends]
            return x[:, :, ends]

        result = loop(scheduler, before=before)
        # ours shows what the next step may need, and that is all but its own
        assert set(seen) == {result.shape}
        assert order - 1 <= len(seen) <= order
        return result

    mine, theirs = both(name, run, solver_order=order)
    assert off(mine, theirs) <= NEAR
    # and it is what they would have become alone: frames do not mix
    _, whole = made(name, solver_order=order)
    whole.set_timesteps(6)
    assert off(mine, loop(whole)[:, :, ends]) <= NEAR


@pytest.mark.parametrize("name", NAMES)
def test_dict_saved_and_restored(name):
    """Panorama keeps a scheduler's `__dict__` for every view, and copies it at each step."""

    def run(scheduler):
        scheduler.set_timesteps(5)
        status = [copy.deepcopy(scheduler.__dict__) for _ in range(2)]
        views, generators = [start(scheduler, seed=s) for s in (0, 5)], [draws(s) for s in (1, 2)]
        for t in scheduler.timesteps:
            for j in range(2):
                scheduler.__dict__.update(status[j])
                views[j] = one_step(scheduler, views[j], t, generators[j])
                status[j] = copy.deepcopy(scheduler.__dict__)
        return views

    for mine, theirs in zip(*both(name, run), strict=True):
        assert off(mine, theirs) <= NEAR


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copied", "pickled"]
)
@pytest.mark.parametrize("name", NAMES)
def test_copies_go_on_by_themselves(name, again):
    _, scheduler = made(name)
    scheduler.set_timesteps(5)
    generator, held = draws(), []

    def before(i, x):
        if i == 3:
            held.extend([again(scheduler), x, generator.get_state()])
        return x

    whole = loop(scheduler, before=before, generator=generator)
    twin, x, state = held
    assert type(twin) is type(scheduler)
    assert twin.config == scheduler.config
    generator.set_state(state)
    rest = loop(twin, x=x, timesteps=twin.timesteps[3:], generator=generator)
    assert off(rest, whole) <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_copies_in_threads(name):
    """A server has one pipeline, and a copy of its scheduler per request."""
    _, scheduler = made(name)

    def request(seed):
        mine = copy.deepcopy(scheduler)
        mine.set_timesteps(4 + seed % 3)
        return loop(mine, x=start(mine, seed), generator=draws(seed))

    alone = [request(seed) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = [*pool.map(request, range(THREADS))]
    assert all(map(torch.equal, together, alone))


def by_attribute(scheduler, **options):
    for key, value in options.items():
        setattr(scheduler.config, key, value)


def by_new_dict(scheduler, **options):
    scheduler._internal_dict = FrozenDict({**scheduler.config, **options})


def by_register(scheduler, **options):
    scheduler.register_to_config(**options)


CHANGES = [
    ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}),
    ("DDPMScheduler", {"clip_sample": False, "prediction_type": "v_prediction"}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("LCMScheduler", {"original_inference_steps": 40}),
    ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True, "prediction_type": "sample"}),
]


@pytest.mark.parametrize("change", [by_attribute, by_new_dict, by_register])
@pytest.mark.parametrize(("name", "options"), CHANGES, ids=lambda v: v if type(v) is str else "")
def test_options_changed_between_runs(name, options, change):
    def run(scheduler):
        scheduler.set_timesteps(5)
        loop(scheduler)
        change(scheduler, **options)
        scheduler.set_timesteps(5)
        return loop(scheduler)

    mine, theirs = both(name, run)
    assert off(mine, theirs) <= NEAR
    _, fresh = made(name, **options)
    fresh.set_timesteps(5)
    assert off(mine, loop(fresh)) <= 1e-6


# LMS of the reference begins with an order for which it has no history yet
@pytest.mark.parametrize("name", [name for name in COUNTED if name != "LMSDiscreteScheduler"])
def test_begin_index(name):
    """Image to image begins at an entry of the timesteps, and twice the same."""

    def run(scheduler):
        results = []
        for _ in range(2):
            scheduler.set_timesteps(6)
            begin = 2 * scheduler.order
            scheduler.set_begin_index(begin)
            assert scheduler.begin_index == begin
            results.append(loop(scheduler, timesteps=scheduler.timesteps[begin:]))
        assert torch.equal(*results)
        return results[0]

    mine, theirs = both(name, run)
    assert off(mine, theirs) <= NEAR


WHOLE = ["DDIMScheduler", "DDPMScheduler", "TCDScheduler", "CogVideoXDDIMScheduler"]


@pytest.mark.parametrize("name", WHOLE)
def test_timesteps_cut(name):
    def run(scheduler):
        scheduler.set_timesteps(6)
        scheduler.timesteps = scheduler.timesteps[2:]
        return loop(scheduler)

    mine, theirs = both(name, run)
    assert off(mine, theirs) <= NEAR


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler"])
def test_timesteps_replaced(name):
    """What becomes of others is diffusers' to say: where it counts, the levels stay."""
    times = [899, 640, 260, 19]

    def run(scheduler):
        scheduler.set_timesteps(6)
        scheduler.timesteps = torch.tensor(times, dtype=scheduler.timesteps.dtype)
        return loop(scheduler)

    mine, theirs = both(name, run)
    assert off(mine, theirs) <= NEAR
