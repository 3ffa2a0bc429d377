"""The whole grid through diffusers, the stateful habit and a plan: every field, every step."""

import numpy as np
import pytest
import torch

import cmsched

from . import runs
from .differences import DIFFERENCES, active
from .grid import TRAIN, Case, Space, is_given
from .lifted import Draws, module, reference
from .spaces import SPACES

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:.*no effect")]

CASES = [
    pytest.param(space, case, id=f"{name}-{i}")
    for name, space in SPACES.items()
    for i, case in enumerate(space.cases)
]
LIFTED, INSTALLED = 1e-9, 1e-4


def rounding(x: np.ndarray) -> float:
    """What float64 leaves of a zero beside numbers as large as these."""
    return 4 * np.finfo(np.float64).eps * float(np.abs(x).max())


def error(a: torch.Tensor, b: torch.Tensor, scale: float) -> float:
    """The largest difference of two arrays of one shape, relative to a scale."""
    assert a.shape == b.shape
    return float((a.double() - b.double()).abs().max()) / scale


def size(x: torch.Tensor) -> float:
    """The largest magnitude."""
    return float(x.double().abs().max())


def compare(mine: runs.Run, ref: runs.Run, steps: int, *, lifted: bool, estimates: bool) -> None:
    """Every field of the first so many steps; single precision is judged by the data's scale."""
    bound = LIFTED if lifted else INSTALLED
    least = 1e-30 if lifted else 1.0  # data have the scale 1
    before = [ref.inputs[0] * ref.init_noise_sigma, *ref.samples]
    for i in range(steps):
        x, y = ref.inputs[i], ref.samples[i]
        scale = max(size(y), least)
        if not lifted:  # what is subtracted from a large sample keeps its rounding
            scale = max([scale, *map(size, before[max(i - 1, 0) : i + 1])])
        assert error(mine.inputs[i], x, max(size(x), least) if lifted else scale) <= bound, (
            f"input {i}"
        )
        assert error(mine.samples[i], y, scale) <= bound, f"sample {i}"
        fields = {"estimate": (mine.estimates[i], ref.estimates[i])}
        if mine.others:  # a plan has none
            assert mine.others[i].keys() == ref.others[i].keys()
            fields |= {key: (mine.others[i][key], ref.others[i][key]) for key in ref.others[i]}
        for key, (found, expected) in fields.items() if estimates else ():
            if expected is not None:
                wide = max(size(expected), least) if lifted else max(scale, size(expected))
                assert error(found, expected, wide) <= bound, f"{key} {i}"


def compare_draws(space: Space, mine: runs.Run, wanted: list[list[torch.Tensor]]) -> None:
    """The same noise, but for what the reference multiplies by zero."""
    draws = [*mine.first_draws, *mine.draws]
    for i, (used, drawn) in enumerate(zip(draws, wanted, strict=True)):
        if len(used) != len(drawn):
            assert not used, f"draws of step {i}"
            # zero noise is reached by the last step, or the one before a step of length zero
            assert space.step_draws_last, f"draws of step {i}"
            assert i >= len(wanted) - 2, f"draws of step {i}"


def compare_tables(
    space: Space, case: Case, mine: runs.Run, ref: runs.Run, *, lifted: bool
) -> None:
    """Timesteps, sigmas and the start scale."""
    bound = LIFTED if lifted else INSTALLED
    whole = runs.plan_of(space, case, "paper").timesteps if space.cut_times else ref.timesteps
    if lifted:
        off = np.abs(mine.timesteps - ref.timesteps)
        if whole.shape == off.shape:  # a time cut beside an integer may fall on either side
            off = np.where(np.abs(whole - np.round(whole)) < 1e-6, np.maximum(off - 1, 0), off)
        assert off.max() <= 1e-6
    else:
        assert np.abs(mine.timesteps - ref.timesteps).max() <= 1
    if ref.sigmas is not None:
        if ref.sigmas.shape != mine.sigmas.shape:  # log_linear's, with an end that no step goes to
            assert case["interpolation_type"] == "log_linear"
            ref.sigmas = ref.sigmas[:-1]
        scale = ref.sigmas if lifted else max(1.0, ref.sigmas.max())
        off = np.abs(mine.sigmas - ref.sigmas)
        assert np.all(off <= bound * scale + rounding(ref.sigmas))
    least = 1e-30 if lifted else 1.0
    off = abs(mine.init_noise_sigma - ref.init_noise_sigma)
    assert off <= bound * max(ref.init_noise_sigma, least)


@pytest.mark.parametrize("lifted", [True, False], ids=["lifted", "installed"])
@pytest.mark.parametrize(("space", "case"), CASES)
def test_parity(space: Space, case: Case, lifted: bool) -> None:
    found = active(space, case)
    scopes = {concern.scope for concern in found}
    if not lifted and (case["n"] == TRAIN or "none as installed" in scopes):
        scopes.add("none")
    if "none" in scopes:
        draws = [[runs.normal(case["shape"], runs.dtype_of(lifted), 4)] * 100] * 600
        for run in (runs.through_habit, runs.through_plan):
            mine = run(space, case, draws, lifted=lifted)
            assert all(torch.isfinite(x).all() for x in mine.arrays)
        return
    asked = case
    for concern in found:
        if concern.translate:
            asked = concern.translate(asked)
    ref = runs.through_diffusers(space, asked, lifted=lifted)
    steps = len(ref.samples) - ("but the last step" in scopes)
    for run in (runs.through_habit, runs.through_plan):
        mine = run(space, case, ref.draws, lifted=lifted)
        assert len(mine.samples) == len(ref.samples)
        compare(mine, ref, steps, lifted=lifted, estimates="but the estimate" not in scopes)
        planned = run is runs.through_plan
        compare_draws(space, mine, space.draws(asked, ref.draws) if planned else ref.draws)
        if steps < len(mine.samples):  # a step of length zero
            before = mine.samples[-2] if steps else mine.inputs[0]
            assert error(mine.samples[-1], before, size(before)) <= (
                LIFTED if lifted else INSTALLED
            )
        if run is runs.through_habit:
            compare_tables(space, case, mine, ref, lifted=lifted)


@pytest.mark.parametrize(("space", "case"), CASES)
def test_compatibility_changes_only_what_is_declared(space: Space, case: Case) -> None:
    if case.get("interpolation_type") == "log_linear" and case["set.timesteps"] is not None:
        # the reference tells the network times that are not those of its levels
        with pytest.raises(ValueError, match="timesteps cannot be set with exponential sigmas"):
            runs.plan_of(space, case, "paper")
        return
    paper, copy = (runs.plan_of(space, case, mode) for mode in ("paper", "diffusers"))
    copied = [d for d in DIFFERENCES if d.copied and d.met(space, case)]
    same = np.array_equal(paper.timesteps, copy.timesteps) and len(paper) == len(copy)
    same = same and all(map(equal_rows, paper.rows, copy.rows))
    same = same and paper.prediction == copy.prediction
    same = same and (paper.traced or paper.grid.points == copy.grid.points)
    assert same != bool(copied), [d.name for d in copied]


def equal_rows(a, b) -> bool:
    """Whether two rows compute the same, up to rounding."""
    if [len(terms) for _, terms in a.statements] != [len(terms) for _, terms in b.statements]:
        return False
    numbers = [
        [c for _, terms in row.statements for _, c, _ in terms]
        + [d.log_range or 0 for _, d in row.draws]
        for row in (a, b)
    ]
    return len(a.draws) == len(b.draws) and np.allclose(
        *map(np.hstack, numbers), rtol=1e-12, atol=1e-15
    )


REJECTED = [
    pytest.param(space, {**space.default, **rule.rejected}, id=f"{name}-{i}")
    for name, space in SPACES.items()
    for i, rule in enumerate(space.rules)
    if rule.rejected is not None
]


@pytest.mark.parametrize(("space", "case"), REJECTED)
def test_what_neither_can_run(space: Space, case: Case) -> None:
    """The reference raises or makes no finite sample; we raise and say why."""
    try:
        ref = runs.through_diffusers(space, case, lifted=True)
        finite = all(torch.isfinite(x).all() for x in ref.arrays)
    except Exception:
        finite = False
    assert not finite
    with pytest.raises((ValueError, TypeError)):
        runs.plan_of(space, case)


@pytest.mark.parametrize("name", SPACES)
def test_before_set_timesteps(name: str) -> None:
    """Tables, timesteps and the start scale of a new object."""
    space = SPACES[name]
    for case in space.cases[:12]:
        # what the reference shows of these is a declared difference
        plain: Case = {"num_train_timesteps": 60} if case.get("rescale_betas_zero_snr") else {}
        plain |= space.fresh
        case = {key: plain.get(key, value) for key, value in case.items()}
        with reference(name, Draws(), lifted=True) as cls:
            ref = cls(**space.options(case))
            scale = getattr(ref, "init_noise_sigma", None)
            tables = {key: getattr(ref, key).numpy() for key in space.tables}
        mine = runs.ours(space, case)
        for key, value in tables.items():
            found, off = np.asarray(getattr(mine, key)), max(1e-12, rounding(value))
            np.testing.assert_allclose(found, value, rtol=1e-9, atol=off)
        if scale is not None:
            assert mine.init_noise_sigma == pytest.approx(float(scale), rel=1e-9)
        if "num_train_timesteps" in case:
            assert len(mine) == case["num_train_timesteps"]


NOISING = [param for param in CASES if param.values[1]["n"] in (3, 7, TRAIN)]


@pytest.mark.parametrize(("space", "case"), NOISING)
def test_add_noise_and_velocity(space: Space, case: Case) -> None:
    """One timestep per row, and one for all, before the loop."""
    if space.add_noise is None or any(c.scope == "none" for c in active(space, case)):
        return
    x0, z = (runs.normal(case["shape"], torch.float64, seed) for seed in (5, 6))
    mine = runs.ours(space, case)
    mine.set_timesteps(**{"xp": "torch", **space.calls(case)})
    with reference(space.name, Draws(), lifted=True) as cls:
        ref = cls(**space.options(case))
        ref.set_timesteps(**space.calls(case))
        # of equal times nobody knows which is meant
        once = [i for i, t in enumerate(ref.timesteps) if (ref.timesteps == t).sum() <= mine.order]
        n = len(once)
        for picks in ([n // 2] * len(x0), [(7 * i + 1) % n for i in range(len(x0))]):
            entries = [once[i] for i in picks]
            expected = space.add_noise(ref, x0, z, ref.timesteps[entries])
            found = space.add_noise(mine, x0, z, mine.timesteps[entries])
            assert error(found, expected, size(expected)) <= LIFTED
            if space.velocity and not space.sigmas:  # Euler's is a declared difference
                expected = ref.get_velocity(x0, z, ref.timesteps[entries])
                found = mine.get_velocity(x0, z, mine.timesteps[entries])
                assert error(found, expected, size(expected)) <= LIFTED
        one = space.add_noise(mine, x0, z, mine.timesteps[once[:1]])
        expected = space.add_noise(ref, x0, z, ref.timesteps[once[:1]].repeat(len(x0)))
        assert error(one, expected, size(expected)) <= LIFTED


@pytest.mark.parametrize("name", SPACES)
def test_any_training_timestep(name: str) -> None:
    """The whole-time classes take every training step, whatever the run visits."""
    space = SPACES[name]
    if space.sigmas:  # the others know the run's own
        mine = runs.ours(space, space.default)
        if "num_train_timesteps" in space.factors and "timesteps" not in space.tables:
            train = space.default["num_train_timesteps"]
            assert len(mine.timesteps) == train * mine.order - mine.order + 1
        return
    x0, z = (runs.normal((4, 1, 2), torch.float64, seed) for seed in (5, 6))
    times = torch.tensor([0, 1, 500, 999])
    with reference(name, Draws(), lifted=True) as cls:
        ref, mine = cls(), getattr(cmsched, name)(compatibility="diffusers")
        for what in ("add_noise", "get_velocity"):
            if not hasattr(ref, what) or space.add_noise is None:
                continue
            expected = getattr(ref, what)(x0, z, times)
            assert error(getattr(mine, what)(x0, z, times), expected, size(expected)) <= LIFTED


SOLVERS = [
    (algorithm, solver, order)
    for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
    for solver in ("midpoint", "heun")
    for order in (1, 2, 3)
    if (algorithm, order) != ("sde-dpmsolver", 3)
]


@pytest.mark.parametrize(("algorithm", "solver", "order"), SOLVERS)
def test_parts_of_a_multistep_step(algorithm: str, solver: str, order: int) -> None:
    """convert_model_output, the three updates, and what is remembered."""
    options = {
        "algorithm_type": algorithm,
        "solver_type": solver,
        "solver_order": order,
        "final_sigmas_type": "sigma_min",
    }
    x, *outputs, z = (runs.normal((2, 3, 4), torch.float64, seed) for seed in range(7))
    name, update = (
        "DPMSolverMultistepScheduler",
        {
            1: lambda s, m, **k: s.dpm_solver_first_order_update(m[-1], **k),
            2: lambda s, m, **k: s.multistep_dpm_solver_second_order_update(m, **k),
            3: lambda s, m, **k: s.multistep_dpm_solver_third_order_update(m, **k),
        }[order],
    )
    with reference(name, Draws(), lifted=True) as cls:
        ref, mine = cls(**options), getattr(cmsched, name)(**options, compatibility="diffusers")
        for scheduler in (ref, mine):
            scheduler.set_timesteps(8)
        for i, m in enumerate(outputs[:3]):
            for scheduler in (ref, mine):
                noise = {"variance_noise": z} if algorithm.startswith("sde") else {}
                scheduler.step(m, scheduler.timesteps[i], x, **noise)
            assert mine.lower_order_nums == ref.lower_order_nums
            assert len(mine.model_outputs) == len(ref.model_outputs)
            for a, b in zip(mine.model_outputs[1:], ref.model_outputs[1:], strict=True):
                assert (a is None) == (b is None)
                assert a is None or error(a, b, size(b)) <= LIFTED
        expected = ref.convert_model_output(outputs[3], sample=x)
        assert error(mine.convert_model_output(outputs[3], sample=x), expected, 1) <= LIFTED
        expected = update(ref, outputs, sample=x, noise=z)
        assert error(update(mine, outputs, sample=x, noise=z), expected, size(expected)) <= LIFTED
    assert mine.step_index == 3, "asking changes nothing"


def test_lifting() -> None:
    """The tables are float64 inside, float32 outside, and the module is left as it was."""
    for lifted, dtype in ((True, torch.float64), (False, torch.float32)):
        for name, space in SPACES.items():
            draws = Draws()
            with reference(name, draws, lifted=lifted) as cls:
                scheduler = cls()
                scheduler.set_timesteps(space.usual)
                for key in {*space.tables, "sigmas"} - {"final_alpha_cumprod", "timesteps"}:
                    if name.startswith("CogVideoX") and key == "alphas_cumprod":
                        continue  # of float64 betas in any case
                    if getattr(scheduler, key, None) is not None:
                        assert getattr(scheduler, key).dtype == dtype, (name, key)
        assert torch.get_default_dtype() == torch.float32
    for name in SPACES:
        home = module(name)
        assert home.torch is torch
        assert getattr(home, "np", np) is np


def test_draws_are_counted() -> None:
    draws = Draws(seed=1)
    with reference("DDPMScheduler", draws, lifted=True) as cls:
        scheduler = cls()
        scheduler.set_timesteps(3)
        x = torch.zeros(1, 2, dtype=torch.float64)
        for t in scheduler.timesteps:
            scheduler.step(x, t, x)
    assert len(draws.handed_over()) == 2
    assert draws.handed_over() == []


def test_given_marks_are_used() -> None:
    """No case reaches a library with a placeholder in it."""
    for space, case in (param.values for param in CASES):
        assert not any(map(is_given, space.options(case).values()))
        assert not any(map(is_given, space.calls(case).values()))
