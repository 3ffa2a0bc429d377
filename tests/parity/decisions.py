"""Where implementations crash, ignore an option, or leave an order undefined: what is done here.

Each row says what diffusers 0.42.1 does (or another program, where it is named), what cmsched does
under each value of `compatibility`, and where that is demonstrated: by an entry of `differences`,
or by the function of this module that carries the row. Rows of classes that cmsched does not have
are not here: SA-Solver, SCM, unCLIP, Wuerstchen, LTX, Helios, MiniMax-H3, EDM-DPM,
cosine DPM, and Flax's.

`python -m tests.parity.decisions` prints the table, which is kept in decisions.md.
"""

import inspect
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch

import cmsched

from .declaring import DPM, EPS, EULER, LMS, SDE, X, both, close, constant, ours, quick, theirs
from .kdiffusion import through
from .lifted import Draws, reference

UNIPC, IPNDM, REPAINT = ("UniPCMultistepScheduler",), ("IPNDMScheduler",), ("RePaintScheduler",)
FLOW, TOKENS = (
    ("FlowMatchEulerDiscreteScheduler",),
    {"VQDiffusionScheduler": {"num_vec_classes": 5}},
)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Decision:
    """One row of the table.

    Args:
        part: the heading that it stands under.
        reference: what the reference does.
        paper, diffusers: what cmsched does with that value of `compatibility`.
        entries: names of proofs in `differences` that demonstrate it.
        proof: a demonstration of its own.
    """

    part: str
    reference: str
    paper: str
    diffusers: str
    entries: tuple[str, ...]
    proof: Callable[[], None] | None = None

    @property
    def copied(self) -> bool:
        """Whether `compatibility` chooses."""
        return self.diffusers != self.paper

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        names = [self.proof.__name__] if self.proof else []
        shown = ", ".join(f"`{name}`" for name in (*names, *self.entries))
        return self.reference, self.paper, self.diffusers if self.copied else "the same", shown


DECISIONS: list[Decision] = []
PARTS = ("Schedules", "Timesteps", "Algorithms", "Configurations", "Other programs")


def declared(part: str, reference: str, paper: str, *entries: str, copied: str = "") -> None:
    """Add a row that proofs in `differences` demonstrate."""
    DECISIONS.append(Decision(part, reference, paper, copied or paper, entries))


def decided(
    part: str, reference: str, paper: str, *entries: str, copied: str = ""
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Add a row that a function demonstrates, beside such proofs."""

    def add(proof: Callable[[], None]) -> Callable[[], None]:
        DECISIONS.append(Decision(part, reference, paper, copied or paper, entries, proof))
        return proof

    return add


def loop(scheduler: Any, x: torch.Tensor, n: int, **options: Any) -> torch.Tensor:
    """A run with an output that shrinks with the sample."""
    scheduler.set_timesteps(n)
    for t in scheduler.timesteps:
        x = scheduler.step(0.1 * scheduler.scale_model_input(x, t), t, x, **options).prev_sample
    return x


def again(scheduler: Any, samples: tuple[torch.Tensor, ...]) -> None:
    """A step of each sample at each timestep, and one more."""
    scheduler.set_timesteps(4)
    times = scheduler.timesteps.repeat_interleave(len(samples))
    for t, x in zip((*times, times[0]), itertools.cycle(samples), strict=False):
        scheduler.step(0.1 * x, t, x)


# --- schedules -----------------------------------------------------------------------------------

declared(
    "Schedules",
    "betas and their product are computed in float32",
    "float64, rounded once to the precision of the sample",
    "float32",
    copied="the reference's float32 values, and float64 from there on",
)


@decided(
    "Schedules",
    "coefficients are looked up by the timestep on its device, which waits for it (DDIM), and"
    " systems of equations are solved there (UniPC)",
    "coefficients are float64 on the host before the loop; no step reads a device's number",
)
def no_wait() -> None:
    reads = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__")

    def counted(scheduler: Any) -> int:
        scheduler.set_timesteps(5)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        x, seen = X, []

        def counting(read: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args: (seen.append(read), read(*args))[1]

        patches = {name: counting(getattr(torch.Tensor, name)) for name in reads}
        with (
            mock.patch.multiple(torch.Tensor, **patches),
            mock.patch.object(torch.linalg, "solve", counting(torch.linalg.solve)),
        ):
            for i in range(5):
                x = scheduler.step(x, scheduler.timesteps[i], x).prev_sample
        return len(seen)

    for names in (("DDIMScheduler",), UNIPC):
        with theirs(names, lifted=False) as scheduler:
            assert counted(scheduler) > 0
        assert all(counted(ours(names, mode)) == 0 for mode in both())


@decided(
    "Schedules",
    "zero terminal SNR is alpha = 0 in DDIM, DDPM, LCM, TCD and DDIM's inversion, where epsilon"
    " gives infinities; Euler, DPM-Solver and UniPC put 2^-24 for alpha^2",
    "the same levels; where alpha = 0 epsilon raises, and v is exact",
    "zero_snr",
)
def zero_snr_levels() -> None:
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with theirs(EULER, **options) as scheduler:
        scheduler.set_timesteps(4)
        assert close(scheduler.sigmas[0], 4096, 1e-3)
    for mode in both():
        scheduler = ours(EULER, mode, **options)
        scheduler.set_timesteps(4)
        assert close(scheduler.sigmas[0], 4096, 1e-3)
        scheduler = ours(
            ("DDIMScheduler",), mode, prediction_type="v_prediction", clip_sample=False, **options
        )
        scheduler.set_timesteps(1)
        assert close(scheduler.step(-X, 999, EPS).prev_sample, X), "v = -x0 at alpha = 0"


declared(
    "Schedules",
    "a flow's static shift counts twice, since the table that a run starts from is shifted already",
    "once, as of every level",
    "shift_twice",
    copied="twice",
)
declared(
    "Schedules",
    "explicit timesteps of a flow are shifted to levels that the network is not told",
    "the levels are those that the network is told",
    "told",
    copied="the levels are shifted, the network is told the timesteps",
)
declared(
    "Schedules",
    "log_linear levels are one too many, beside times of another spacing, and end before the end",
    "n levels at their own times, and the end",
    "log_linear",
    copied="as in the reference",
)
declared(
    "Schedules",
    "explicit sigmas come with their end in one class and without it in another",
    "the end is recognised in a list and not doubled",
    "explicit_sigmas",
)
declared(
    "Schedules",
    "a list of a flow's sigmas that ends at 0 is shifted, and the network asked there too",
    "it has the levels themselves, and a shift that has no effect is said to have none",
    "list_to_zero",
    copied="as in the reference; a list whose last level stands there twice has the levels"
    " themselves, as the sigmas of a run have it",
)
declared(
    "Schedules",
    "EDMEuler's sigmas are places on a ramp",
    "noise levels, as in every class",
    "places_or_levels",
    copied="places on the ramp, and levels raise",
)
declared(
    "Schedules",
    "DEIS, and ramps that end at sigma_min, go a last step of length zero; NaN at order 3",
    "n steps to the last level",
    "step_of_length_zero",
    "step_of_length_zero_edm",
    "zero_length_solver",
    copied="n - 1 steps to it, and one that changes nothing",
)


@decided(
    "Schedules",
    "init_noise_sigma is another number before set_timesteps than after it (leading spacing)",
    "before set_timesteps that of the longest run, then that of the run; a plan scales unit noise"
    " itself",
)
def start_scale() -> None:
    options = {"timestep_spacing": "leading", **SD}
    with theirs(EULER, **options) as scheduler:
        before = scheduler.init_noise_sigma
        scheduler.set_timesteps(10)
        after = scheduler.init_noise_sigma
    assert before > 1.2 * after
    for mode in both():
        scheduler = ours(EULER, mode, **options)
        assert close(scheduler.init_noise_sigma, before)
        scheduler.set_timesteps(10)
        assert close(scheduler.init_noise_sigma, after)
        assert close(cmsched.init(scheduler.plan(10), X).sample, after * X)


declared(
    "Schedules",
    "DDIM with an offset indexes past its last training step, or tells the network a time that it"
    " was not trained with",
    "raises, naming the option",
    "past_the_end",
    "past_the_end_of_others",
)
declared(
    "Schedules",
    "PNDM's Runge-Kutta needs four steps, and fails on an index with fewer; DDIM's inversion has no"
    " linspace; ancestral and KDPM2 classes have no prediction_type=sample",
    "all work",
    "few_steps",
    "inverse_linspace",
    "sample_prediction",
)


@decided(
    "Schedules",
    "PNDM takes prediction_type=sample in its configuration and raises at its first step",
    "works: x0 tells eps",
)
def pndm_of_samples() -> None:
    options = {"prediction_type": "sample"}
    with theirs(("PNDMScheduler",), **options) as scheduler, pytest.raises(ValueError, match="v_p"):
        quick(scheduler, 4)

    for mode in both():
        scheduler = ours(
            ("PNDMScheduler",), mode, set_alpha_to_one=True, skip_prk_steps=True, **options
        )
        scheduler.set_timesteps(9)
        x = EPS
        for t in scheduler.timesteps:
            x = scheduler.step(X, t, x).prev_sample
        assert close(x, X)


@decided(
    "Schedules",
    "beta sigmas need scipy, and every class has its own copy of them",
    "one copy, that needs scipy too and says so; nothing else does",
)
def without_scipy() -> None:
    hidden = {name: None for name in sys.modules if name.partition(".")[0] == "scipy"}
    with mock.patch.dict(sys.modules, {"scipy": None, "scipy.stats": None, **hidden}):
        for mode in both():
            with pytest.raises(ImportError, match="scipy"):
                ours(EULER, mode, use_beta_sigmas=True).plan(4)
            assert len(ours(EULER, mode, use_karras_sigmas=True).plan(4)) == 4
            assert len(ours(LMS, mode).plan(4)) == 4


# --- timesteps -----------------------------------------------------------------------------------

declared(
    "Timesteps",
    "a step ends a fixed stride below its timestep (DDIM, its inversion and PNDM), wherever the"
    " next one is",
    "it ends at the next timestep",
    "ddim_stride",
    "inverse_stride",
    "pndm_stride",
    copied="it ends a stride below",
)
declared(
    "Timesteps",
    "batch_step_no_noise of DDPM goes a stride down where step goes to the next timestep",
    "every row is what step makes of it",
    "ddpm_rows",
    "ddim_rows",
)
declared(
    "Timesteps",
    "times of levels between training steps are cut to integers",
    "fractional, as the level says",
    "truncated",
    "rounded",
    copied="cut, or rounded, as in the reference",
)


@decided(
    "Timesteps",
    "cut times repeat, and the second of two equal ones begins the run, which then reads past its"
    " end",
    "times are fractional and all different",
    "equal_times",
    "crowded",
    copied="times repeat as in the reference, and steps are counted; those of length zero change"
    " nothing",
)
def repeated_times() -> None:
    options = {**SD, "use_exponential_sigmas": True}
    with theirs(DPM, **options) as scheduler:
        scheduler.set_timesteps(19)
        assert len(set(scheduler.timesteps.tolist())) == 18
    for mode, different in zip(both(), (19, 18), strict=True):
        scheduler = ours(DPM, mode, **options)
        assert torch.isfinite(loop(scheduler, X, 19)).all()
        assert len(set(scheduler.timesteps.tolist())) == different


declared(
    "Timesteps",
    "a timestep that is not in the list is the last one (DPM-Solver) or an IndexError (Euler)",
    "raises, naming the timesteps",
    "unknown",
)


@decided(
    "Timesteps",
    "after the first step a hidden counter decides, whatever the timestep: the same one twice is"
    " two steps, and a second loop an IndexError",
    "steps are counted, and a number is compared (an array is not waited for): what does not fit"
    " raises, or is gone to where a sampler remembers nothing; a second loop raises and says so",
)
def counted_steps() -> None:
    def twice(scheduler: Any) -> list[torch.Tensor]:
        scheduler.set_timesteps(4)
        t = float(scheduler.timesteps[0])
        return [scheduler.step(EPS, t, X).prev_sample for _ in range(2)]

    with theirs(EULER) as scheduler:
        assert not close(*twice(scheduler))
        with pytest.raises(IndexError):
            again(scheduler, (X,))
    for mode in both():
        assert close(*twice(ours(EULER, mode)))
        with pytest.raises(ValueError, match="is not the one this step is at"):
            twice(ours(DPM, mode))
        scheduler = ours(EULER, mode)
        loop(scheduler, X, 4)
        with pytest.raises(ValueError, match="the loop is over"):
            scheduler.step(EPS, scheduler.timesteps[0], X)


@decided(
    "Timesteps",
    "a scheduler is the state of its one run: two runs cannot be interleaved, and rows of a batch"
    " cannot be at different steps",
    "a plan is immutable and a state a value: runs interleave, and an index may be one per row; an"
    " object's own `step` is for one loop at a time",
)
def interleaved() -> None:
    starts = X, EPS

    with theirs(DPM) as scheduler, pytest.raises(IndexError):
        again(scheduler, starts)
    for mode in both():
        plan = ours(DPM, mode).plan(4)
        alone = [cmsched.sample(lambda x, t: 0.1 * x, plan, x) for x in starts]
        states = [cmsched.init(plan, x) for x in starts]
        for _ in range(4):
            states = [cmsched.step(plan, s, 0.1 * s.sample) for s in states]
        assert all(close(s.sample, x) for s, x in zip(states, alone, strict=True))
        index = torch.tensor([0, 2])
        euler = ours(EULER, mode).plan(4)
        rows = cmsched.step(euler, cmsched.State(X, (), index), EPS).sample
        for row, i in enumerate((0, 2)):
            assert close(cmsched.step(euler, cmsched.State(X, (), i), EPS).sample[row], rows[row])


declared(
    "Timesteps",
    "LMS takes its order from the number of the entry where a run begins, without that history",
    "a run begins at order 1 wherever it begins",
    "later_history",
)


@decided(
    "Timesteps",
    "set_begin_index is missing in eleven of these classes, DDIM and PNDM among them",
    "every class has order, and every class with one `step` that counts has set_begin_index",
)
def begin_everywhere() -> None:
    assert not hasattr(diffusers.DDIMScheduler, "set_begin_index")
    for name, cls in cmsched.schedulers.CLASSES.items():
        scheduler = cls(**TOKENS.get(name, {}))
        assert scheduler.order >= 1
        habit = isinstance(scheduler, cmsched.schedulers.SchedulerMixin)
        assert hasattr(cls, "set_begin_index") == habit


# --- algorithms ----------------------------------------------------------------------------------

declared(
    "Algorithms",
    "Euler's churn comes after the network has seen the sample",
    "before; asked for at step, where it is too late, it raises",
    "churn",
    copied="after",
)
declared(
    "Algorithms",
    "a flow's churn is ignored, or is that of another frame",
    "that of the flow, before the evaluation; at step it raises",
    "churn_of_a_flow",
)


@decided(
    "Algorithms",
    "Heun has the code of churn, and no way to ask for it",
    "plan and set_timesteps take s_churn, s_tmin, s_tmax and s_noise",
)
def churn_of_heun() -> None:
    assert "s_churn" not in inspect.signature(diffusers.HeunDiscreteScheduler.step).parameters
    for mode in both():
        plans = [ours(("HeunDiscreteScheduler",), mode).plan(4, s_churn=c) for c in (0.0, 2.0)]
        assert not any(row.draws for row in plans[0].rows)
        assert any(row.draws for row in plans[1].rows)
        top = plans[0].points[0].sigma
        # arXiv:2206.00364, algorithm 2, line 5: gamma = min(s_churn / n, sqrt 2 - 1)
        assert close(plans[1].points[0].sigma, top * min(1.5, 2**0.5))


@decided(
    "Algorithms",
    "LMS integrates each weight by adaptive quadrature, at every step",
    "exact Gauss quadrature, before the loop",
)
def lms_weights() -> None:
    def exact(levels: Any, order: int, i: int, k: int) -> float:
        """The integral of a Lagrange polynomial (arXiv:2206.00364 has the variable)."""
        nodes = [float(levels[i - j]) for j in range(order)]
        basis = np.poly1d([1.0])
        for j in range(order):
            if j != k:
                basis *= np.poly1d([1.0, -nodes[j]]) / (nodes[k] - nodes[j])
        integral = basis.integ()
        return float(integral(float(levels[i + 1])) - integral(nodes[0]))

    with theirs(LMS) as scheduler:
        scheduler.set_timesteps(10)
        home = __import__(type(scheduler).__module__, fromlist=["integrate"])
        with mock.patch.object(home.integrate, "quad", wraps=home.integrate.quad) as quad:
            found = [scheduler.get_lms_coefficient(4, 5, k) for k in range(4)]
        assert quad.call_count == 4
    for mode in both():
        mine = ours(LMS, mode)
        mine.set_timesteps(10)
        for k in range(4):
            value = mine.get_lms_coefficient(4, 5, k)
            assert close(value, found[k], 1e-4)
            assert close(value, exact(mine.sigmas, 4, 5, k), 1e-8)


declared(
    "Algorithms",
    "UniPC's bh1, and its estimates of eps, are NaN in a last step to sigma = 0",
    "the limit of the formula",
    "last_step_of_unipc",
)


@decided(
    "Algorithms",
    "sde-dpmsolver of order 3 fails in its third step on a variable that was never set",
    "refused when it is constructed, with what to use",
)
def no_third_order() -> None:
    options = {
        "algorithm_type": "sde-dpmsolver",
        "solver_order": 3,
        "final_sigmas_type": "sigma_min",
    }
    with theirs(DPM, **options) as scheduler, pytest.raises(UnboundLocalError):
        loop(scheduler, X, 20)
    for mode in both():
        with pytest.raises(ValueError, match=r"solver_order=3 has no formula with .* use"):
            ours(DPM, mode, **options)


@decided(
    "Algorithms",
    "solver_order=4 of DPM-Solver silently means 3",
    "refused when it is constructed; UniPC has orders above 3",
)
def no_fourth_order() -> None:
    with theirs(DPM, solver_order=4) as four, theirs(DPM, solver_order=3) as three:
        assert close(loop(four, X, 20), loop(three, X, 20))
    for mode in both():
        with pytest.raises(ValueError, match="solver_order=4 is not one of 1, 2, 3"):
            ours(DPM, mode, solver_order=4)


declared(
    "Algorithms",
    "thresholding fails where DPM-Solver predicts noise, and UniPC ignores it there; TCD ignores"
    " clip_sample and thresholding",
    "all work",
    "threshold_of_noise",
    "noise_of_unipc",
    "tcd_projects",
)


@decided(
    "Algorithms",
    "LCM and TCD take timestep_spacing and steps_offset, and heed them nowhere",
    "kept in the configuration, and said once to have no effect",
)
def idle_options() -> None:
    for name in ("LCMScheduler", "TCDScheduler"):
        runs_ = []
        for spacing in ("leading", "trailing"):
            with theirs((name,), timestep_spacing=spacing) as scheduler:
                scheduler.set_timesteps(4)
                runs_.append(scheduler.timesteps.tolist())
        assert runs_[0] == runs_[1]
        for mode in both():
            with pytest.warns(UserWarning, match="timestep_spacing has no effect") as said:
                scheduler = ours((name,), mode, timestep_spacing="trailing")
            assert len(said) == 1
            scheduler.set_timesteps(4)
            assert scheduler.timesteps.tolist() == runs_[0]


declared(
    "Algorithms",
    "TCD's original_inference_steps= means all training steps",
    "that many, as in the configuration",
    "original_steps",
    copied="all training steps",
)
declared(
    "Algorithms",
    "noise is drawn in the last step with weight 0, or added there by a cut LCM run",
    "a step draws where its noise has a coefficient, and the last step of a cut run has none"
    " (`cmsched.interop.diffusers` draws and throws away, so that generators go on as they would)",
    "thrown_away",
    "lcm_strength",
    "tcd_strength",
)
declared(
    "Algorithms",
    "fixed_large_log is the root of a logarithm, learned that of what may be negative; learned"
    " variances are cut after three channels",
    "the variance is beta, or what the network says, of half the channels",
    "fixed_large_log",
    "learned",
    "three_channels",
)
declared(
    "Algorithms",
    "Euler's get_velocity looks its time up by the number of the step",
    "alpha and sigma of the time",
    "velocity",
)


@decided(
    "Algorithms",
    "flows have scale_noise and no add_noise",
    "both, with the levels of the flow",
)
def noise_of_flows() -> None:
    assert not hasattr(diffusers.FlowMatchEulerDiscreteScheduler, "add_noise")
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    for names, options in ((FLOW, {}), (DPM, flow), (UNIPC, flow)):
        for mode in both():
            scheduler = ours(names, mode, **options)
            scheduler.set_timesteps(4)
            noised = scheduler.add_noise(X, EPS, scheduler.timesteps[1:2])
            sigma = scheduler.sigmas[1]
            assert close(noised, (1 - sigma) * X + sigma * EPS, 1e-6)


@decided(
    "Algorithms",
    "DPMSolverSDE's noise cannot be given to step: a seed in the configuration makes a tree",
    "step takes generator and variance_noise as in every class; without them the seed counts",
)
def noise_of_sde() -> None:
    parameters = inspect.signature(diffusers.DPMSolverSDEScheduler.step).parameters
    assert "generator" not in parameters
    for mode in both():
        a, b, c = (loop(ours(SDE, mode), X, 4, generator=seed) for seed in (7, 7, 8))
        assert close(a, b)
        assert not close(a, c)
        a, b, c = (loop(ours(SDE, mode, noise_sampler_seed=seed), X, 4) for seed in (7, 7, 8))
        assert close(a, b)
        assert not close(a, c)


@decided(
    "Algorithms",
    "RePaint's undo_step draws once for every training step",
    "one draw, whose law is the same",
    "variance_of_a_jump",
    copied="as many draws as in the reference",
)
def draws_of_a_jump() -> None:
    def counted(scheduler: Any, **options: Any) -> None:
        scheduler.set_timesteps(10, jump_length=2, jump_n_sample=2)
        scheduler.undo_step(X, 600, **options)

    draws = Draws()
    with mock.patch.object(diffusers.schedulers.scheduling_repaint, "randn_tensor", draws):
        counted(diffusers.RePaintScheduler())
    assert len(draws.handed_over()) == 100
    for mode, count in zip(both(), (1, 100), strict=True):
        source = mock.Mock(side_effect=lambda *args: constant(0.1, *args))
        counted(ours(REPAINT, mode), generator=source)
        assert source.call_count == count


@decided(
    "Algorithms",
    "RePaint and Karras-VE draw noise of weight 0 between other draws",
    "a step draws where its noise has a coefficient",
    copied="as many draws as in the reference",
)
def draws_of_weight_zero() -> None:
    """At the end of a run of RePaint, which goes up again there, and where nothing is churned."""

    def counted(scheduler: Any, **options: Any) -> None:
        scheduler.set_timesteps(5)
        if hasattr(scheduler, "add_noise_to_input"):
            scheduler.add_noise_to_input(X, 0.01, **options)
        else:
            scheduler.step(X, 0, X, X, X, **options)

    for name in ("RePaintScheduler", "KarrasVeScheduler"):
        draws = Draws()
        with reference(name, draws, lifted=True) as cls:
            counted(cls())
        assert len(draws.handed_over()) == 1
        for mode, count in zip(both(), (0, 1), strict=True):
            source = mock.Mock(side_effect=lambda *args: constant(0.1, *args))
            counted(ours((name,), mode), generator=source)
            assert source.call_count == count


@decided(
    "Algorithms",
    "IPNDM keeps the derivative of every step of a run",
    "the three that its order needs",
)
def history() -> None:
    with theirs(IPNDM) as scheduler:
        scheduler.set_timesteps(20)
        x = X
        for t in scheduler.timesteps:
            x = scheduler.step(0.1 * x, t, x).prev_sample
        assert len(scheduler.ets) == 20
    for mode in both():
        plan = ours(IPNDM, mode).plan(20)
        assert len(plan.layout.slots) == 3
        state = cmsched.init(plan, X)
        for _ in range(19):
            state = cmsched.step(plan, state, 0.1 * state.sample)
        assert len(state.memory) == 3


@decided(
    "Algorithms",
    "UniPC and thresholding need a batch and a channel axis",
    "samples of any shape, batch first only where something is per sample",
)
def any_shape() -> None:
    options: dict[str, Any]
    for names, options in ((UNIPC, {}), (("DDIMScheduler",), {"thresholding": True})):
        x = torch.arange(5, dtype=torch.float64) / 5
        with theirs(names, **options) as scheduler, pytest.raises((RuntimeError, ValueError)):
            loop(scheduler, x, 4)
        for mode in both():
            assert loop(ours(names, mode, **options), x, 4).shape == (5,)
            assert loop(ours(names, mode, **options), x[None], 4).shape == (1, 5)


declared(
    "Algorithms",
    "dtypes change along the formulas of each class",
    "a result has the sample's dtype; half precision is accumulated in float32",
    "dtype",
)


@decided(
    "Algorithms",
    "multistep order 3 of DPM-Solver and DPM-Solver++ is of second order: its second difference has"
    " half the weight that the integral needs",
    'the published weight; third_order="exact" doubles it',
    "third_order_sign",
    copied="the same, with the reference's sign in the SDE's",
)
def half_a_weight() -> None:
    def third_step(scheduler: Any) -> tuple[torch.Tensor, float]:
        """The third step's part of an x0 that is a square in lam, and what it should be."""
        scheduler.set_timesteps(20)
        lams = -np.log(np.asarray(scheduler.sigmas[:4]))
        x = X
        for t, lam in zip(scheduler.timesteps[:3], lams[:3], strict=True):
            before, x = x, scheduler.step((lam - lams[2]) ** 2 + 0 * X, t, x).prev_sample
        alphas = 1 / np.sqrt(1 + np.exp(-2 * lams))
        h = lams[3] - lams[2]
        integral = h**2 - 2 * h - 2 * np.expm1(-h)  # of s^2 e^(s - h) from 0 to h
        kept = alphas[3] / alphas[2] * np.exp(-h) * before
        return (x - kept) / alphas[3], integral

    options = {"solver_order": 3, "prediction_type": "sample"}
    with theirs(DPM, **options) as scheduler:
        found, right = third_step(scheduler)
        assert close(found, 0.5 * right + 0 * found)
    for mode in both():
        for form, part in (("published", 0.5), ("exact", 1.0)):
            found, right = third_step(ours(DPM, mode, third_order=form, **options))
            assert close(found, part * right + 0 * found)


declared(
    "Algorithms",
    "RePaint's undo_step adds the noise of a stride above the one that is needed",
    "the noise from where the sample is to where it is needed",
    "variance_of_a_jump",
    copied="as in the reference",
)
declared(
    "Algorithms",
    "PNDM's Runge-Kutta evaluates one training step beside the sample where its stride is odd",
    "the timestep in the middle",
    "middle",
    copied="beside it",
)


# --- configurations ------------------------------------------------------------------------------


@decided(
    "Configurations",
    "a frozen dict can be written to; attributes and entries then disagree",
    "a write raises and says register_to_config",
)
def frozen() -> None:
    with theirs(EULER) as scheduler:
        scheduler.config.steps_offset = 1
        assert (scheduler.config.steps_offset, scheduler.config["steps_offset"]) == (1, 0)
    for mode in both():
        scheduler = ours(EULER, mode)
        with pytest.raises(TypeError, match="register_to_config"):
            scheduler.config.steps_offset = 1
        with pytest.raises(TypeError, match="register_to_config"):
            scheduler.config["steps_offset"] = 1
        scheduler.register_to_config(steps_offset=1)
        assert scheduler.config.steps_offset == scheduler.config["steps_offset"] == 1


declared(
    "Configurations",
    "set_timesteps changes the configuration: mu becomes flow_shift, and single-step solvers get"
    " another lower_order_final",
    "the configuration stays",
    "mu",
    "lower_order_final",
)


@decided(
    "Configurations",
    "UniPC keeps another scheduler, or any object, in its configuration",
    "solver_p is a scheduler of cmsched whose sampler can be corrected, or refused; saving names"
    " what JSON cannot hold",
)
def another_in_the_config() -> None:
    with theirs(UNIPC, solver_p="ddim") as scheduler:
        assert scheduler.config.solver_p == "ddim"
    for mode in both():
        with pytest.raises(TypeError, match="solver_p must be a scheduler of cmsched, got 'ddim'"):
            ours(UNIPC, mode, solver_p="ddim")
        with pytest.raises(ValueError, match="solver_p=HeunDiscreteScheduler cannot be corrected"):
            ours(UNIPC, mode, solver_p=cmsched.HeunDiscreteScheduler())
        scheduler = ours(UNIPC, mode, solver_p=cmsched.DDIMScheduler())
        with pytest.raises(TypeError, match=r"config\['solver_p'\] cannot be saved"):
            scheduler.to_json_string()


@decided(
    "Configurations",
    "options that a class does not have stay hidden in its configuration, and come back with the"
    " class that has them",
    "the same",
)
def hidden_options() -> None:
    def through_euler(classes: Any) -> tuple[Any, Any]:
        first = classes.DDIMScheduler(set_alpha_to_one=False)
        second = classes.EulerDiscreteScheduler.from_config(first.config)
        return second, classes.DDIMScheduler.from_config(second.config)

    for classes in (diffusers, cmsched):
        second, third = through_euler(classes)
        assert second.config["set_alpha_to_one"] is False
        assert third.config["set_alpha_to_one"] is False
        assert "set_alpha_to_one" not in inspect.signature(type(second)).parameters


@decided(
    "Configurations",
    "DDIMPipeline and PNDMPipeline rebuild the scheduler that they are given as their own class",
    "its configuration is understood there; a scheduler assigned to the pipeline afterwards stays",
)
def rebuilt_by_a_pipeline() -> None:
    unet = diffusers.UNet2DModel(
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=2,
        layers_per_block=1,
    )
    for mode in both():
        scheduler = cmsched.DDIMScheduler(beta_end=0.012, compatibility=mode)
        pipeline = diffusers.DDIMPipeline(unet, scheduler)
        assert type(pipeline.scheduler) is diffusers.DDIMScheduler
        assert pipeline.scheduler.config.beta_end == 0.012
        pipeline.scheduler = scheduler
        assert pipeline.scheduler is scheduler


# --- other programs ------------------------------------------------------------------------------


@decided(
    "Other programs",
    "k-diffusion's dpm_fast and dpm_adaptive refuse to go to sigma = 0",
    "they go there, by a last step to the estimate",
)
def to_zero() -> None:
    for name, call in (("dpm_fast", (0.0, 1.0, 5)), ("dpm_adaptive", (0.0, 1.0))):
        with pytest.raises(ValueError, match="must not be 0"):
            through(name, X, call, Draws())
    for name in ("DPM fast", "DPM adaptive"):
        for mode in both():
            plan = cmsched.from_a1111(name, compatibility=mode).plan(6)
            assert plan.grid.points[-1].sigma == 0
            end = cmsched.sample(lambda x, t: EPS, plan, EPS, rng=0)
            assert torch.isfinite(end).all()


@decided(
    "Other programs",
    "k-diffusion's euler and heun draw noise in every step, without churn too",
    "a row draws where its noise has a coefficient",
)
def quiet_without_churn() -> None:
    levels = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    drawn = []
    for name in ("euler", "heun"):
        _, model, _ = through(name, X, (levels,), Draws())
        drawn.append(sum(map(len, model.drawn)))
    assert drawn == [2, 2]
    for names in (EULER, ("HeunDiscreteScheduler",)):
        for mode in both():
            assert not ours(names, mode).plan(2).layout.draws


@decided(
    "Other programs",
    "ComfyUI's beta spacing leaves out levels that are equal once rounded, and takes fewer steps",
    "as many steps as were asked for, at different levels",
)
def all_beta_steps() -> None:
    for mode in both():
        plan = ours(EULER, mode, use_beta_sigmas=True).plan(500)
        assert len({p.sigma for p in plan.points}) == 500


@decided(
    "Other programs",
    "ComfyUI's linear betas are diffusers' scaled_linear, its sqrt_linear diffusers' linear",
    "diffusers' names: linear in beta, or in its root; a name that is not known raises",
)
def names_of_betas() -> None:
    ends = 0.00085, 0.012
    given = dict(zip(("beta_start", "beta_end"), ends, strict=True))
    roots = np.linspace(*np.sqrt(ends), 1000)
    for name, betas in (("linear", np.linspace(*ends, 1000)), ("scaled_linear", roots**2)):
        for mode in both():
            assert close(ours(DPM, mode, beta_schedule=name, **given).betas, betas)
            with pytest.raises(ValueError, match="beta_schedule='sqrt_linear'"):
                ours(DPM, mode, beta_schedule="sqrt_linear")


@decided(
    "Other programs",
    "ComfyUI's UniPC overwrites a last sigma of 0 in the caller's list",
    "arguments are never written to",
)
def arguments_stay() -> None:
    levels = np.array([0.9, 0.5, 0.1, 0.0])
    levels.flags.writeable = False
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    for mode in both():
        ours(UNIPC, mode, **flow).plan(sigmas=levels)
    assert levels.tolist() == [0.9, 0.5, 0.1, 0.0]


@decided(
    "Other programs",
    "ComfyUI's ancestral names are another formula where the model is a flow",
    "a registered name is one loop, written in alpha and sigma: it keeps the marginals of either",
)
def one_formula() -> None:
    for options in ({"schedule": "scaled_linear"}, {"schedule": "flow"}):
        for mode in both():
            kind = "flow_prediction" if options["schedule"] == "flow" else "epsilon"
            scheduler = cmsched.Scheduler(
                sampler="euler_ancestral", prediction_type=kind, compatibility=mode, **options
            )
            plan = scheduler.plan(5)
            assert plan.sampler == "euler_ancestral"
            state = cmsched.State(0 * X, (), 1)
            a, b = plan.points[1], plan.points[2]
            x = a.alpha * X + a.sigma * EPS
            says = EPS - X if kind == "flow_prediction" else EPS
            seen = cmsched.transition(plan, state._replace(sample=x), says)
            away = seen.mean - b.alpha * X
            assert close(away, (b.sigma**2 - float(seen.std) ** 2) ** 0.5 * EPS)


def table() -> str:
    """The whole table as Markdown."""
    head = (
        "| diffusers 0.42.1 | paper (default) | diffusers | shown by |\n| --- | --- | --- | --- |"
    )
    lines = []
    for part in PARTS:
        rows = [" | ".join(d.cells) for d in DECISIONS if d.part == part]
        lines += [f"## {part}", "", head, *(f"| {row} |" for row in rows), ""]
    return "\n".join(["# What cmsched does where implementations go wrong", "", *lines])


if __name__ == "__main__":
    print(table(), end="")
