"""diffusers' classes with our steps: what is there before, between and after them is diffusers'.

Every test runs the same on both, over all classes that it can touch: results, what is kept, what is
shown and what is refused are compared, nothing is written down.
"""

import itertools
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from parity.lifted import Draws, reference
from parity.runs import entry, normal, output, step_options
from parity.spaces import SPACES

import cmsched
from cmsched.interop import diffusers_memory
from cmsched.interop.diffusers_habits import HABITS
from cmsched.interop.diffusers_step import Either, Stepping
from interop.wild import COUNTED, COUNTERPARTS, NAMES, draws, made, one_step, start, takes

pytestmark = pytest.mark.filterwarnings("ignore")
NEAR = 5e-5
PRIVATE = {"_made", "_asked", "_listed", "_taken", "_internal_dict", "__module__"}
STEPS = [name for name in NAMES if name in HABITS]


def apart(a, b):
    """How far two arrays are apart, in parts of the larger one."""
    a, b = (np.asarray(v, dtype=np.float64) for v in (a, b))
    finite = np.isfinite(a)
    assert a.shape == b.shape
    if not finite.any():
        return 0.0
    return np.abs(a - b)[finite].max() / max(np.abs(a[finite]).max(), 1e-3)


def alike(theirs, mine, where, near=5e-3):
    """Whether two attributes have one type, dtype, shape and device, and nearly one value."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(mine, torch.Tensor), where
        assert (mine.shape, mine.dtype, mine.device) == (
            (theirs.shape, theirs.dtype, theirs.device)
        ), where
        assert apart(theirs, mine) <= near, where
    elif isinstance(theirs, list | tuple) and not isinstance(theirs, torch.Size):
        assert type(mine) is type(theirs), where
        assert len(mine) == len(theirs), where
        for k, (a, b) in enumerate(zip(theirs, mine, strict=True)):
            alike(a, b, f"{where}[{k}]", near)
    else:
        assert type(mine) is type(theirs), where
        if isinstance(theirs, int | float):
            assert mine == pytest.approx(theirs, rel=near, nan_ok=True), where
        elif isinstance(theirs, str | None):
            assert mine == theirs, where


def check_attributes(theirs, mine, when):
    """Whether two schedulers have the same attributes: those of the objects and of the classes."""
    a, b = ({k for k in vars(s) if k not in PRIVATE} for s in (theirs, mine))
    assert a == b, when
    shown = {
        name for name in dir(type(theirs)) if isinstance(getattr(type(theirs), name), property)
    }
    for name in sorted(a | shown):
        if name not in ("noise_sampler", "config", "compatibles"):
            there = hasattr(theirs, name)
            assert hasattr(mine, name) is there, f"{name} {when}"
            if there:
                alike(getattr(theirs, name), getattr(mine, name), f"{name} {when}")
    extra = {name for name in dir(mine) if not name.startswith("_")} - {*dir(theirs)}
    assert extra <= {"plan", "recipe", "cmsched", "core", "habit", "compatibility"}, when


def results(name, run, **options):
    """What a run gives with diffusers' scheduler and with ours: arrays, or the kind of error."""
    found = []
    for scheduler in made(name, **options):
        try:
            found.append(run(scheduler))
        except Exception as error:
            found.append(type(error))
    return found


def check_both(name, run, near=NEAR, **options):
    """Whether both give the same arrays, or the same kind of error."""
    theirs, mine = results(name, run, **options)
    if isinstance(theirs, type):
        assert mine is theirs, mine
        return
    assert not isinstance(mine, type), mine
    assert len(mine) == len(theirs)
    for i, (a, b) in enumerate(zip(theirs, mine, strict=True)):
        assert apart(a, b) <= near, i


# attributes


@pytest.mark.parametrize("name", [n for n in COUNTERPARTS if n != "VQDiffusionScheduler"])
def test_attributes_when_new(name):
    theirs, mine = made(name)
    check_attributes(theirs, mine, "new")
    if name != "ScoreSdeVpScheduler":
        for scheduler in (theirs, mine):
            scheduler.set_timesteps(2 if name == "ConsistencyDecoderScheduler" else 6)
        check_attributes(theirs, mine, "after set_timesteps")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_attributes_and_outputs_after_each_step(name, dtype):
    theirs, mine = made(name)
    theirs.set_timesteps(6)
    mine.set_timesteps(6)
    generators, samples = [draws(), draws()], [start(theirs).to(dtype)] * 2
    near = 5e-3 if dtype != torch.float16 else 0.3  # they round each operation
    for i, times in enumerate(zip(theirs.timesteps, mine.timesteps, strict=True)):
        outs = []
        for k, (scheduler, t) in enumerate(zip((theirs, mine), times, strict=True)):
            x = samples[k]
            scales = hasattr(scheduler, "scale_model_input")
            seen = scheduler.scale_model_input(x, t) if scales else x
            options = {"generator": generators[k]} if takes(scheduler.step, "generator") else {}
            outs.append(scheduler.step((0.4 * torch.tanh(seen)).to(dtype), t, x, **options))
            samples[k] = outs[k].prev_sample
        assert type(outs[1]) is type(outs[0])
        alike([*outs[0].values()], [*outs[1].values()], f"output {i}", near)
        if dtype != torch.float16:
            check_attributes(theirs, mine, f"after step {i}")


@pytest.mark.parametrize("name", STEPS)
def test_every_step_of_a_run_is_a_row(name):
    """Otherwise nothing above would be about our steps."""
    _, scheduler = made(name)
    scheduler.set_timesteps(8)
    row, rows = Stepping._row, []

    def counted(self, *args):
        rows.append(row(self, *args))
        return rows[-1]

    with mock.patch.object(Stepping, "_row", counted):
        loop_of(scheduler)
    assert len(rows) == len(scheduler.timesteps)
    assert None not in rows


def loop_of(scheduler, *, change=1.0, first=0, times=None, x=None):
    """All samples of a run whose latents are multiplied between the steps."""
    x, generator, seen = start(scheduler) if x is None else x, draws(), []
    for t in scheduler.timesteps[first:] if times is None else times:
        x = one_step(scheduler, x, t, generator)
        seen.append(x)
        x = x * change
    return seen


# what is kept between the steps


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("name", STEPS)
def test_rows_and_diffusers_steps_take_turns(name, turn):
    """What a run remembers is in diffusers' attributes alone, for either to go on from."""

    def run(scheduler):
        scheduler.set_timesteps(9)
        return loop_of(scheduler)

    row, calls = Stepping._row, itertools.count()

    def every_other(self, *args):
        return row(self, *args) if next(calls) % 2 == turn else None

    with mock.patch.object(Stepping, "_row", every_other):
        check_both(name, run)


@pytest.mark.parametrize("change", [1.2, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_latents_that_change_between_steps(name, change):
    def run(scheduler):
        scheduler.set_timesteps(6)
        return loop_of(scheduler, change=change)

    check_both(name, run)


@pytest.mark.parametrize("first", [1, 2, 4])
@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_runs_that_begin_late(name, begin, first):
    def run(scheduler):
        scheduler.set_timesteps(7)
        if begin and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return loop_of(scheduler, first=first)

    check_both(name, run)


@pytest.mark.parametrize("name", COUNTED)
def test_a_second_loop_without_set_timesteps(name):
    """What was remembered stays, as bad as that is for the second loop."""

    def run(scheduler):
        scheduler.set_timesteps(5)
        seen = loop_of(scheduler)
        scheduler._step_index = None
        return [*seen, *loop_of(scheduler)]

    check_both(name, run, near=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_one_timestep_for_all_steps(name):
    """Where diffusers counts, the timestep decides nothing after the first step."""

    def run(scheduler):
        scheduler.set_timesteps(6)
        return loop_of(scheduler, times=[scheduler.timesteps[0].clone()] * 4)

    check_both(name, run)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_timesteps_of_another_dtype(name, dtype):
    def run(scheduler):
        scheduler.set_timesteps(6)
        return loop_of(scheduler, times=[t.to(dtype) for t in scheduler.timesteps])

    check_both(name, run)


@pytest.mark.parametrize("t", [333, 0, 999])
@pytest.mark.parametrize("name", NAMES)
def test_a_timestep_that_is_not_in_the_list(name, t):
    """Computed where diffusers computes from t, the last entry or an error where it looks it up."""

    def run(scheduler):
        scheduler.set_timesteps(8)
        return [one_step(scheduler, start(scheduler), torch.tensor(t), draws())]

    check_both(name, run)


@pytest.mark.parametrize("name", ["DDIMParallelScheduler", "DDPMParallelScheduler"])
def test_rows_at_times_of_their_own(name):
    y = torch.ones(3, 1)

    def run(scheduler):
        scheduler.set_timesteps(8)
        times = scheduler.timesteps[[0, 3, 5]] if "DDPM" in name else torch.tensor([875, 333, 2])
        return [scheduler.batch_step_no_noise(0.2 * y, times, y)]

    check_both(name, run)


# what is written to a scheduler


@pytest.mark.parametrize("name", [n for n in COUNTED if n != "CMStochasticIterativeScheduler"])
def test_two_levels_and_one_timestep(name):
    """One step between two training levels, as distillation takes it."""

    def run(scheduler):
        scheduler.set_timesteps(50)
        times, sigmas, seen = scheduler.timesteps.clone(), scheduler.sigmas.clone(), []
        for i in (10, 30):
            scheduler.sigmas = torch.cat([sigmas[i : i + 1], sigmas[40:41]])
            scheduler.timesteps = times[i : i + 1].clone()
            scheduler._step_index, scheduler.is_scale_input_called = None, True
            x = start(scheduler)
            options = {"generator": draws()} if takes(scheduler.step, "generator") else {}
            seen.append(scheduler.step(torch.tanh(x), scheduler.timesteps[0], x, **options)[0])
        return seen

    check_both(name, run)


@pytest.mark.parametrize("name", NAMES)
def test_another_depth_through_the_config(name):
    """`config.num_train_timesteps` places timesteps; tables stay those of the constructor."""

    def run(scheduler):
        scheduler.config.num_train_timesteps = 600
        scheduler.set_timesteps(10)
        return [torch.as_tensor(scheduler.timesteps), *loop_of(scheduler)]

    check_both(name, run)


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(made(n)[0], "alphas_cumprod")])
def test_tables_that_are_replaced(name):
    """Zero terminal SNR by hand, and a 1 put in front."""

    def run(scheduler):
        root = scheduler.alphas_cumprod.sqrt()
        bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        seen = []
        for table in (bar, torch.cat([torch.ones(1), scheduler.alphas_cumprod])):
            scheduler.alphas_cumprod = table
            scheduler.set_timesteps(6)
            seen.extend(loop_of(scheduler))
        return seen

    check_both(name, run)


@pytest.mark.parametrize("name", NAMES)
def test_sigmas_are_asked_for_by_name(name):
    theirs, mine = made(name)
    for attribute in ("sigmas", "add_noise", "get_velocity", "scale_noise", "init_noise_sigma"):
        assert hasattr(mine, attribute) == hasattr(theirs, attribute)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDIMParallelScheduler"])
def test_the_mean_through_a_noise_of_zero(name):
    def run(scheduler):
        scheduler.set_timesteps(10)
        x, t = start(scheduler), scheduler.timesteps[2]
        zeros = torch.zeros_like(x)
        return [
            scheduler.step(torch.tanh(x), t, x, 0.7, variance_noise=noise)[0]
            for noise in (0, zeros, zeros + 1)
        ]

    check_both(name, run)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0, None])
@pytest.mark.parametrize("name", [n for n in NAMES if takes(COUNTERPARTS[n].step, "eta")])
def test_eta(name, eta):
    def run(scheduler):
        scheduler.set_timesteps(6)
        x, generator, seen = start(scheduler), draws(), []
        for t in scheduler.timesteps:
            x = scheduler.step(0.4 * torch.tanh(x), t, x, eta=eta, generator=generator)[0]
            seen.append(x)
        return seen

    check_both(name, run)


@pytest.mark.parametrize("name", [n for n in NAMES if "prediction_type" in made(n)[0].config])
def test_options_changed_through_the_config(name):
    """Before a run, and between two of them."""

    def run(scheduler):
        scheduler.set_timesteps(5)
        scheduler.config.prediction_type = "v_prediction"
        seen = loop_of(scheduler)
        scheduler.config.prediction_type = "epsilon"
        scheduler.set_timesteps(5)
        return [*seen, *loop_of(scheduler)]

    check_both(name, run)


# what is accepted


def runs(**options):
    """A run of a scheduler with these options, by every class that has them."""
    names = [
        n for n in NAMES if all(takes(COUNTERPARTS[n]._reference.__init__, k) for k in options)
    ]
    return [
        pytest.param(n, options, id=f"{n}-{'-'.join(f'{k}={v}' for k, v in options.items())}")
        for n in names
    ]


ODD = [
    *runs(trained_betas=[0.02, 0.05, 0.11]),
    *runs(variance_type=None),
    *runs(variance_type="other"),
    *runs(beta_end=1.5),
    *runs(thresholding=True, dynamic_thresholding_ratio=0.0),
    *runs(rescale_betas_zero_snr=True),
    *runs(num_train_timesteps=40),
    *runs(beta_schedule="no such schedule"),
    *runs(prediction_type="no such kind"),
    *runs(timestep_spacing="no such spacing"),
    *runs(solver_order=7),
]


@pytest.mark.parametrize(("name", "options"), ODD)
def test_what_a_constructor_accepts(name, options):
    """The step that cannot be computed says so, and no call before it that diffusers takes."""
    seen = []
    for cls in (COUNTERPARTS[name]._reference, COUNTERPARTS[name]):
        said = []
        try:
            scheduler = cls(**options)
            said.append(np.asarray(scheduler.timesteps, dtype=np.float64))
            scheduler.set_timesteps(3)
            said.append(np.asarray(scheduler.timesteps, dtype=np.float64))
            said.extend(loop_of(scheduler))
        except Exception as error:
            said.append(type(error))
        seen.append(said)
    theirs, mine = seen
    assert len(mine) == len(theirs)
    for a, b in zip(theirs, mine, strict=True):
        if isinstance(a, type):
            assert b is a
        else:
            assert apart(a, b) <= NEAR


@pytest.mark.parametrize("t", [640, 1, 0])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"rescale_betas_zero_snr": True}], ids=str)
def test_a_step_without_set_timesteps(name, options, t):
    """As training code takes it: the step that cannot be computed says so, and no other."""
    if all(takes(COUNTERPARTS[name].__init__, k) for k in options):

        def run(scheduler):
            time = scheduler.timesteps[len(scheduler.timesteps) - 1 - t] if t < 30 else t
            x = start(scheduler)
            options = {"generator": draws()} if takes(scheduler.step, "generator") else {}
            return [v for v in scheduler.step(0.2 * x, time, x, **options).values()]

        check_both(name, run, **options)


# by the method that a class must have for them
CALLS = {
    "previous_timestep": [lambda s: [s.previous_timestep(t) for t in s.timesteps[[0, 1, -1]]]],
    "_get_variance": [
        lambda s: [s._get_variance(640), s._get_variance(torch.tensor(640))],
        lambda s: [s._get_variance(666, 555).sqrt()],
    ],
    "step_pred": [lambda s: [s.step_pred(*said(s), generator=draws()).prev_sample]],
    "set_sigmas": [
        lambda s: [(s.set_sigmas(4), s.set_timesteps(4), s.sigmas)[2]],
        lambda s: [(s.set_timesteps(4), s.set_sigmas(4), s.sigmas)[2]],
    ],
    "step_prk": [lambda s: [s.step_prk(said(s)[0], 333, start(s)).prev_sample]],
    "step_plms": [lambda s: [s.step_plms(said(s)[0], 9, start(s)).prev_sample]],
    "_threshold_sample": [lambda s: [s._threshold_sample(3.0 * start(s))]],
    "get_lms_coefficient": [lambda s: [s.get_lms_coefficient(3, 4, k) for k in range(3)]],
    "convert_model_output": [
        lambda s: [s.convert_model_output(said(s)[0], sample=start(s))],
    ],
    "_sigma_to_alpha_sigma_t": [lambda s: [*s._sigma_to_alpha_sigma_t(s.sigmas[2])]],
    "_sigma_to_t": [lambda s: [s._sigma_to_t(s.sigmas[2].numpy(), s.log_sigmas.numpy())]],
    "index_for_timestep": [lambda s: [s.index_for_timestep(s.timesteps[2])]],
}
CALLED = [
    (name, method)
    for name in COUNTERPARTS
    for method in CALLS
    if name != "VQDiffusionScheduler" and hasattr(COUNTERPARTS[name]._reference, method)
]


def said(scheduler):
    """An output, a time that is in no list, and a sample."""
    x = start(scheduler)
    return 0.2 * x, 0.33, x


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize(("name", "method"), CALLED)
def test_methods_are_those_of_diffusers(name, method, placed):
    """With the numbers, types and errors that they have there."""
    for call in CALLS[method]:
        kinds: list[list[type]] = []

        def run(scheduler, call=call, kinds=kinds):
            if placed:
                scheduler.set_timesteps(2 if name == "ConsistencyDecoderScheduler" else 6)
            found = call(scheduler)
            kinds.append([type(v) for v in found])
            return found

        check_both(name, run)
        assert not kinds or kinds[0] == kinds[1]


LISTS = [n for n in NAMES if takes(COUNTERPARTS[n]._reference.set_timesteps, "sigmas")]


@pytest.mark.parametrize("name", LISTS)
def test_levels_are_given_back(name):
    """Those that end with the last one twice too."""
    last = "final_sigmas_type" in made(name)[0].config
    for options in ({}, {"final_sigmas_type": "sigma_min"})[: 1 + last]:

        def run(scheduler):
            scheduler.set_timesteps(5)
            again = type(scheduler).from_config(scheduler.config)
            again.set_timesteps(sigmas=scheduler.sigmas)
            return [again.sigmas, *loop_of(again)]

        check_both(name, run, **options)


@pytest.mark.parametrize("n", [38, 39, 40, 41])
@pytest.mark.parametrize("name", NAMES)
def test_as_many_steps_as_training_steps(name, n):
    def run(scheduler):
        scheduler.set_timesteps(n)
        return loop_of(scheduler)[:-3]

    options = {"num_train_timesteps": 40} if "num_train" in str(made(name)[0].config) else {}
    check_both(name, run, near=1e-3, **options)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_cross_loading(name, tmp_path):
    """Its file in every other class: loaded, or refused, as diffusers' classes do."""
    if name == "VQDiffusionScheduler":
        return
    with warnings.catch_warnings(action="ignore"):
        COUNTERPARTS[name]._reference().save_pretrained(tmp_path)
    for other, cls in COUNTERPARTS.items():
        found = []
        for kind in (cls._reference, cls):
            try:
                scheduler = kind.from_pretrained(tmp_path)
                found.append({k: v for k, v in scheduler.config.items() if k[0] != "_"})
            except Exception as error:
                found.append(type(error))
        assert found[0] == found[1], other


# random options, every step


def samples_of(cls, name, case, dtype=torch.float32):
    """The samples of a case's run, or the kind of error that ends it."""
    space, seen = SPACES[name], []
    try:
        scheduler = cls(**space.options(case))
        scheduler.set_timesteps(**space.calls(case))
        first = entry(space, case, len(scheduler.timesteps))
        if case["start"].startswith("begin") and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
        x = (normal(case["shape"], dtype, 0) * scale).to(dtype)
        walk = space.loop(
            scheduler,
            case,
            x,
            first,
            lambda i, seen: output(space, case, i, dtype),
            lambda i: step_options(case, i, dtype),
        )
        seen.extend(out["prev_sample"] for _, out in walk)
    except Exception as error:
        seen.append(type(error))
    return seen


@pytest.mark.parametrize("name", [n for n in SPACES if n in HABITS])
def test_random_options(name):
    """Every two options, numbers of steps and beginnings meet in some case.

    Where results are further apart than the rounding of a step, it is that of diffusers' float32
    formulas: with their numbers in float64 it is nearer to ours than to what is installed.
    """
    for case in SPACES[name].cases:
        with reference(name, Draws(3), lifted=False) as cls:
            theirs = samples_of(cls, name, case)
        with (
            reference(name, Draws(3), lifted=False),
            mock.patch.object(diffusers_memory, "randn_tensor", Draws(3)),
        ):
            mine = samples_of(COUNTERPARTS[name], name, case)
        assert len(theirs) == len(mine), (case, theirs[-1:], mine[-1:])
        ends = [(a, b) for a, b in zip(theirs, mine, strict=True) if isinstance(a, type)]
        assert all(a is b for a, b in ends), case
        far = [apart(*pair) for pair in zip(theirs, mine, strict=True) if pair not in ends]
        if max(far, default=0.0) <= NEAR:
            continue
        with reference(name, Draws(3), lifted=True) as cls:
            exact = samples_of(cls, name, case, torch.float64)
        for a, b, c in zip(theirs, mine, exact, strict=True):
            if not isinstance(c, type):
                assert apart(c, b) <= 1.2 * apart(c, a) + NEAR, case


def test_unipc_ends_in_finite_numbers():
    """Where diffusers' last step of noise prediction divides 0 by 0."""

    def run(scheduler):
        scheduler.set_timesteps(5)
        return loop_of(scheduler)

    theirs, mine = results("UniPCMultistepScheduler", run, predict_x0=False)
    assert not torch.isfinite(theirs[-1]).all()
    assert torch.isfinite(mine[-1]).all()
    assert all(apart(a, b) <= NEAR for a, b in zip(theirs[:-1], mine[:-1], strict=True))


LISTED = [n for n in STEPS if not takes(COUNTERPARTS[n]._reference.set_timesteps, "timesteps")]


@pytest.mark.parametrize("name", LISTED)
def test_lists_in_every_class(name):
    """As cmsched's class reads them, and no step is left to diffusers, which does not."""
    _, mine = made(name)
    core = mine.cmsched()
    times = torch.as_tensor(core.plan(9).timesteps)[:: 2 if mine.order == 1 else 1].tolist()
    times = sorted({float(t) for t in times}, reverse="Inverse" not in name)
    times = [int(t) for t in times] if core.plan(9).grid.integral else times
    try:
        plan = core.plan(timesteps=times)
    except ValueError as error:  # where a rule places levels
        with pytest.raises(ValueError, match=str(error)[:20]):
            mine.set_timesteps(timesteps=times)
        return
    mine.set_timesteps(timesteps=times, device="cpu")
    assert len(mine.timesteps) == len(plan)
    assert torch.allclose(mine.timesteps.double(), torch.as_tensor(plan.timesteps).double())
    x = start(mine)
    state = cmsched.State(x, (x,) * len(plan.layout.slots), 0)
    generators = draws(), draws()
    for t in mine.timesteps:
        x = one_step(mine, x, t, generators[0])
        seen, _ = cmsched.model_input(plan, state)
        said = 0.4 * torch.tanh(seen) + 0.1 * seen.roll(1, 1)
        state = cmsched.step(plan, state, said, rng=generators[1])
        assert apart(state.sample, x) <= NEAR


@pytest.mark.parametrize("name", [n for n in NAMES if n not in LISTS])
def test_levels_are_given_back_where_diffusers_takes_none(name):
    """`sigmas` as diffusers' class shows them, whose last level may stand there three times."""
    _, mine = made(name)
    if "sigmas" not in mine.habit.tables or name == "FlowMatchHeunDiscreteScheduler":
        return  # a flow's list has a step at its 0, as in FlowMatchEulerDiscreteScheduler
    mine.set_timesteps(6)
    shown, times = mine.sigmas.clone(), mine.timesteps.clone()
    mine.set_timesteps(sigmas=shown)
    assert len(mine.timesteps) == len(times)
    assert torch.allclose(mine.timesteps.float(), times.float(), rtol=1e-3, atol=1e-2)
    assert torch.allclose(mine.sigmas.unique(), shown.unique(), rtol=1e-5)


def test_a_step_outside_of_a_list_says_so():
    _, mine = made("DDIMScheduler")
    mine.set_timesteps(timesteps=[900, 500, 100])
    with pytest.raises(ValueError, match="leaves the run whose timesteps or sigmas"):
        one_step(mine, start(mine), torch.tensor(333), None)


@pytest.mark.parametrize("name", [n for n in COUNTERPARTS if n != "VQDiffusionScheduler"])
def test_own_schedulers(name):
    """cmsched's own where they are asked for, and diffusers' classes else."""
    cls, core = COUNTERPARTS[name], getattr(cmsched, name)
    mine, paper = cls(), cls(compatibility="paper")
    assert not isinstance(mine, core)
    assert isinstance(paper, core)
    assert isinstance(paper, cls)
    assert paper.config.keys() == mine.config.keys()
    again = cls.from_config(mine.config, compatibility="paper")
    assert type(again) is type(paper)
    for option, default in cls._own_options.items():
        value = {"third_order": "exact", "sde_eta": 0.5}.get(option, not default)
        other = cls(**{option: value})
        assert isinstance(other, core)
        assert other.config[option] == value
        assert other.compatibility == "diffusers"


def test_every_class_is_diffusers_own():
    for name, cls in COUNTERPARTS.items():
        assert issubclass(cls, cls._reference)
        assert issubclass(cls, Either), name
        assert {*vars(cls)} & {"set_timesteps", "__init__", "step"}
    assert {*HABITS} <= {*COUNTERPARTS}
