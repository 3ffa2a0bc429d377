"""The machinery of the grid: options with the values to visit, combined pairwise, run by run.

A case is a flat dict: constructor options by their names, `set_timesteps` options as "set.name",
`step` options as "step.name", and how the run goes ("n", "shape", "start"). GIVEN stands for an
array or list that the case makes itself. "as.name" is what a declared difference makes of a case.

To add a class, when `cmsched.NameScheduler` exists:

1. Append its `Space` to SPACES of its family in tests/parity/spaces/: every option of the
   reference's `__init__`, of `set_timesteps` ("set.name") and of `step` ("step.name") with the
   values to visit, the default first; share RUN, BETAS, THRESHOLDING, CLIPPING, RAMPS. Nothing else
   knows the class: every field of its output is compared, each step, float64 and as installed.
2. `Rule(names, holds)` forbids combinations; its third argument is a case against it which the
   reference cannot run and we must reject (tested).
3. Where the class is unlike the others, a field of `Space` says so, see its docstring. What one
   class alone uses stands beside its Space.
4. Where numbers differ, declare it in tests/parity/declared/<family>.py with who is right and a
   proof. Is it a theme of declared/shared.py? Then add to that from your file:
   `THEME.concerns(classes, where=..., scope=..., translate=...)` and `@THEME.proves`. At most 40
   entries in all.
5. `pytest tests/parity -k NameScheduler`; one case is `-k NameScheduler-7-`, its dict
   `SPACES["NameScheduler"].cases[7]`. Stay under about 40 cases: their number is about the product
   of the two longest factors. TRAIN with SMALL training steps visits every one of them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .pairwise import Case, Rule, all_pairs

GIVEN = "given"
SMALL = 60  # training steps of the cases that take all of them
TRAIN = "n_train"
LOWEST = -5.1  # of lam: cuts the noisiest steps of every schedule

RUN = {
    "n": (1, 2, 3, 7, 20, TRAIN),
    "shape": ((2, 3, 5, 7), (1, 1, 4, 6), (2, 1, 3, 2, 2)),
    "start": ("whole", "begin", "begin_later", "slice"),
    "set.device": (None, "cpu"),
}
BETAS = {
    "num_train_timesteps": (1000, SMALL),
    "beta_start": (0.0001, 0.00085),
    "beta_end": (0.02, 0.012),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": (None, GIVEN),
}
SPACINGS = ("leading", "trailing", "linspace")
OFFSETS = (0, 1)
BOTH = (False, True)
PREDICTIONS = ("epsilon", "sample", "v_prediction")
THRESHOLDING = {
    "thresholding": BOTH,
    "dynamic_thresholding_ratio": (0.995, 0.9),
    "sample_max_value": (1.0, 1.5),
}
CLIPPING = {"clip_sample": BOTH, "clip_sample_range": (1.0, 0.7)}
RAMPS = {"use_karras_sigmas": BOTH, "use_exponential_sigmas": BOTH, "use_beta_sigmas": BOTH}

# what the cases themselves need
WHOLE = Rule(("n", "num_train_timesteps"), lambda n, train: n != TRAIN or train == SMALL)
LATER = Rule(("n", "start"), lambda n, start: n != 1 or start in ("whole", "begin"))

# what neither library can run
OFFSET = Rule(
    ("n", "timestep_spacing", "steps_offset", "set.timesteps"),
    lambda n, spacing, offset, given: (
        given == GIVEN or n != TRAIN or spacing != "leading" or not offset
    ),
    {"n": TRAIN, "num_train_timesteps": SMALL, "timestep_spacing": "leading", "steps_offset": 1},
)
PAST = dataclasses.replace(OFFSET, rejected=None)  # the reference runs it: a declared difference
ZERO_SNR = Rule(
    ("rescale_betas_zero_snr", "prediction_type"),
    lambda rescale, kind: not rescale or kind != "epsilon",
    {
        "rescale_betas_zero_snr": True,
        "prediction_type": "epsilon",
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "n": 3,
    },
)


def one_of(names: Sequence[str], *, rejected: bool = True) -> list[Rule]:
    """At most one of these switches is on."""
    return [
        Rule((a, b), lambda a, b: not (a and b), {a: True, b: True} if rejected else None)
        for a, b in itertools.combinations(names, 2)
    ]


def rampless(given: str) -> list[Rule]:
    """Explicit timesteps exclude every ramp."""
    return [
        Rule(
            (given, name),
            lambda given, asked: given is None or not asked,
            {given: GIVEN, name: True},
        )
        for name in RAMPS
    ]


def stepping(
    scheduler: Any,
    case: Case,
    x: torch.Tensor,
    start: int,
    says: Callable[[int, torch.Tensor], torch.Tensor],
    options: Callable[[int], Mapping[str, Any]],
) -> Iterator[tuple[torch.Tensor, Mapping[str, torch.Tensor]]]:
    """The loop everyone writes, on a scheduler of the reference or of ours.

    Args:
        scheduler: after `set_timesteps`.
        case: the case; `case["shape"]` is the sample's.
        x: the start noise times `init_noise_sigma`.
        start: the entry of `timesteps` to begin with.
        says: the network, given the number of the evaluation and what it sees.
        options: further options of the call that takes the network's output number i; asked for
            once per evaluation and in turn, for it hands over the noise.

    Yields:
        For each evaluation what the network saw, and the output of the step, by field.
    """
    for i, t in enumerate(scheduler.timesteps[start:]):
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        out = scheduler.step(says(i, seen), t, x, **options(i))
        x = out.prev_sample
        yield seen, out


def plain_noise(scheduler: Any, x0: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """`add_noise` as most classes have it."""
    return scheduler.add_noise(x0, z, t)


@dataclass(frozen=True)
class Space:
    """One class: its options, the rules between them, and where it is unlike the others.

    Args:
        name: the class, here and in diffusers.
        factors: every option with the values to visit, the default first.
        rules: between options.
        doubled: whether the network's output has variance channels in a case.
        step_draws_last: the reference's last step draws noise and multiplies it by zero.
        tables: attributes to compare before `set_timesteps`.
        sigmas: the reference has `sigmas`, compared after `set_timesteps`.
        cut_times: the reference cuts times that lie between training steps to integers.
        velocity: the reference has `get_velocity`.
        add_noise: how noise is added to clean samples at times; None where it cannot be.
        usual: a number of steps that the class takes.
        fresh: what a case is changed to before tables are compared, where what the reference shows
            then is a declared difference.
        reference_only: public names of the reference that are its own affair, with the reason.
        loop_gives: parameters of `step` that `loop` fills in.
        parts: methods that take the place of `step`, or stand beside it.
        given: the arrays that a plan takes in `given=`, of a case and a dtype.
        output: what the network says, of a case, the evaluation, and unit normals of its shape.
        making: how GIVEN is made, by factor, of a case.
        draws: the reference's draws, a list per evaluation, as our plan takes them: a list per
            evaluation, with one more in front where the plan's start draws.
        loop: how a run goes.
    """

    name: str
    factors: Mapping[str, Sequence[Any]]
    rules: Sequence[Rule] = ()
    doubled: Callable[[Case], bool] = lambda case: False
    step_draws_last: bool = False
    tables: Sequence[str] = ("alphas_cumprod", "betas", "alphas", "timesteps")
    sigmas: bool = False
    cut_times: bool = False
    velocity: bool = False
    add_noise: Callable[..., torch.Tensor] | None = plain_noise
    usual: int = 4
    fresh: Mapping[str, Any] = field(default_factory=dict)
    reference_only: Mapping[str, str] = field(default_factory=dict)
    loop_gives: Sequence[str] = ()
    parts: Sequence[str] = ()
    given: Callable[[Case, torch.dtype], Mapping[str, torch.Tensor] | None] = lambda case, dtype: (
        None
    )
    output: Callable[[Case, int, torch.Tensor], torch.Tensor] = lambda case, i, m: m
    making: Mapping[str, Callable[[Case], Any]] = field(default_factory=dict)
    draws: Callable[[Case, list[list[torch.Tensor]]], list[list[torch.Tensor]]] = (
        lambda case, draws: draws
    )
    loop: Callable[..., Iterator[tuple[torch.Tensor, Mapping[str, torch.Tensor]]]] = stepping

    @functools.cached_property
    def cases(self) -> list[Case]:
        """The cases to run, visiting every pair of values."""
        return all_pairs(self.factors, self.rules)

    @property
    def default(self) -> Case:
        """The first value of every factor."""
        return {name: values[0] for name, values in self.factors.items()}

    def made(self, case: Case, factor: str) -> Any:
        """A value of a case, made if it is GIVEN."""
        value = case.get(factor)
        return {**MAKING, **self.making}[factor](case) if is_given(value) else value

    def options(self, case: Case) -> Case:
        """The constructor's options."""
        return {k: self.made(case, k) for k in case if "." not in k and k not in RUN}

    def calls(self, case: Case) -> Case:
        """The options of `set_timesteps`."""
        chosen = {k.removeprefix("set."): self.made(case, k) for k in case if k.startswith("set.")}
        chosen = {k: v for k, v in chosen.items() if v is not None}
        if cut := case.get("as.cut"):
            n = count(case)
            chosen["timesteps"] = chosen["timesteps"][n - int(n * cut) :]
        if "timesteps" not in chosen and "sigmas" not in chosen:
            chosen["num_inference_steps"] = count(case)
        return chosen


def is_given(value: Any) -> bool:
    """Whether a case makes this value itself."""
    return isinstance(value, str) and value == GIVEN


def count(case: Case) -> int:
    """The number of steps that a case asks for."""
    return case["num_train_timesteps"] if case["n"] == TRAIN else case["n"]


def given_betas(case: Case) -> list[float]:
    """Betas unlike those of every named schedule."""
    return (np.linspace(0.03, 0.12, case["num_train_timesteps"]) ** 2).tolist()


def given_timesteps(case: Case) -> list[int]:
    """Training steps picked by chance."""
    n = count(case)
    picked = np.random.default_rng(n).choice(case["num_train_timesteps"], n, replace=False)
    return sorted(picked.tolist(), reverse=True)


def given_sigmas(case: Case) -> list[float]:
    """Levels of a curve, and the end."""
    return [*np.geomspace(0.9, 0.07, count(case)).tolist(), 0.0]


MAKING: Mapping[str, Callable[[Case], Any]] = {
    "trained_betas": given_betas,
    "set.timesteps": given_timesteps,
    "set.sigmas": given_sigmas,
}
