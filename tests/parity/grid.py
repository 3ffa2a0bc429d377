"""Every option of the eight reference classes with the values to visit, combined pairwise.

A case is a flat dict: constructor options by their names, `set_timesteps` options as "set.name",
`step` options as "step.name", and how the run goes ("n", "shape", "start"). GIVEN stands for an
array or list that the case makes itself. "as.name" is what a declared difference makes of a case.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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


@dataclass(frozen=True)
class Space:
    """One class: its options, the rules between them, and what it has beyond `add_noise`."""

    name: str
    factors: Mapping[str, Sequence[Any]]
    rules: Sequence[Rule] = ()
    step_draws_last: bool = False  # the reference's last step draws noise and multiplies it by zero
    tables: Sequence[str] = ("alphas_cumprod", "betas", "alphas")
    sigmas: bool = False  # the reference has them
    velocity: bool = False
    calls: Sequence[str] = field(default=("num_inference_steps", "device"))

    @functools.cached_property
    def cases(self) -> list[Case]:
        """The cases to run, visiting every pair of values."""
        return all_pairs(self.factors, self.rules)

    @property
    def default(self) -> Case:
        """The first value of every factor."""
        return {name: values[0] for name, values in self.factors.items()}


SPACES = {
    space.name: space
    for space in (
        Space(
            "CMStochasticIterativeScheduler",
            {
                **RUN,
                "num_train_timesteps": (40, SMALL),
                "sigma_min": (0.002, 0.01),
                "sigma_max": (80.0, 20.0),
                "sigma_data": (0.5, 1.0),
                "s_noise": (1.0, 1.007),
                "rho": (7.0, 3.0),
                "clip_denoised": BOTH,
                "set.timesteps": (None, GIVEN),
            },
            [WHOLE, LATER],
            step_draws_last=True,
            tables=(),
            sigmas=True,
        ),
        Space(
            "LCMScheduler",
            {
                **RUN,
                **BETAS,
                "original_inference_steps": (50, 40),
                **CLIPPING,
                "set_alpha_to_one": BOTH,
                "steps_offset": OFFSETS,
                "prediction_type": PREDICTIONS,
                **THRESHOLDING,
                "timestep_spacing": SPACINGS,
                "timestep_scaling": (10.0, 1.0),
                "rescale_betas_zero_snr": BOTH,
                "set.original_inference_steps": (None, 30, SMALL),
                "set.timesteps": (None, GIVEN),
                "set.strength": (1.0, 0.8),
            },
            [
                WHOLE,
                LATER,
                ZERO_SNR,
                Rule(
                    ("n", "set.original_inference_steps", "set.timesteps"),
                    lambda n, original, given: n != TRAIN or given == GIVEN or original == SMALL,
                    {"n": TRAIN, "num_train_timesteps": SMALL},
                ),
                Rule(
                    ("n", "set.strength", "set.timesteps"),
                    lambda n, strength, given: strength == 1.0 or (n != TRAIN and n != 1),
                    {"n": TRAIN, "num_train_timesteps": SMALL, "set.strength": 0.8},
                ),
            ],
            tables=("alphas_cumprod", "betas", "alphas", "final_alpha_cumprod"),
            velocity=True,
        ),
        Space(
            "DDIMScheduler",
            {
                **RUN,
                **BETAS,
                "clip_sample": BOTH,
                "set_alpha_to_one": BOTH,
                "steps_offset": OFFSETS,
                "prediction_type": PREDICTIONS,
                **THRESHOLDING,
                "clip_sample_range": (1.0, 0.7),
                "timestep_spacing": SPACINGS,
                "rescale_betas_zero_snr": BOTH,
                "step.eta": (0.0, 0.5, 1.0),
                "step.use_clipped_model_output": BOTH,
                "step.variance_noise": (None, GIVEN),
            },
            [
                WHOLE,
                LATER,
                ZERO_SNR,
                Rule(
                    ("n", "timestep_spacing", "steps_offset"),
                    lambda n, spacing, offset: n != TRAIN or spacing != "leading" or not offset,
                    OFFSET.rejected,
                ),
                Rule(
                    ("step.variance_noise", "step.eta"),
                    lambda noise, eta: noise is None or eta > 0,
                ),
                # where a coefficient is zero, the reference takes the root of a rounding residue
                Rule(
                    ("rescale_betas_zero_snr", "step.eta", "timestep_spacing", "n"),
                    lambda rescale, eta, spacing, n: (
                        not rescale or eta < 1 or (spacing == "leading" and n != TRAIN)
                    ),
                ),
            ],
            step_draws_last=True,
            tables=("alphas_cumprod", "betas", "alphas", "final_alpha_cumprod"),
            velocity=True,
        ),
        Space(
            "DDPMScheduler",
            {
                **RUN,
                **BETAS,
                "beta_schedule": (*BETAS["beta_schedule"], "laplace", "sigmoid"),
                "variance_type": (
                    "fixed_small",
                    "fixed_small_log",
                    "fixed_large",
                    "fixed_large_log",
                    "learned",
                    "learned_range",
                ),
                **CLIPPING,
                "prediction_type": PREDICTIONS,
                **THRESHOLDING,
                "timestep_spacing": SPACINGS,
                "steps_offset": OFFSETS,
                "rescale_betas_zero_snr": BOTH,
                "set.timesteps": (None, GIVEN),
            },
            [WHOLE, LATER, ZERO_SNR, OFFSET],
            velocity=True,
        ),
        Space(
            "EulerDiscreteScheduler",
            {
                **RUN,
                **BETAS,
                "prediction_type": (*PREDICTIONS, "original_sample"),
                "interpolation_type": ("linear", "log_linear"),
                **RAMPS,
                "sigma_min": (None, 0.05),
                "sigma_max": (None, 0.9),
                "timestep_spacing": SPACINGS,
                "timestep_type": ("discrete", "continuous"),
                "steps_offset": OFFSETS,
                "rescale_betas_zero_snr": BOTH,
                "final_sigmas_type": ("zero", "sigma_min"),
                "set.timesteps": (None, GIVEN),
                "set.sigmas": (None, GIVEN),
                "step.s_churn": (0.0, 5.0, 40.0),
                "step.s_tmin": (0.0, 0.5),
                "step.s_tmax": (math.inf, 8.0),
                "step.s_noise": (1.0, 1.007),
            },
            [
                WHOLE,
                LATER,
                *one_of(tuple(RAMPS)),
                PAST,
                *rampless("set.timesteps"),
                Rule(
                    ("set.timesteps", "set.sigmas"),
                    lambda times, sigmas: times is None or sigmas is None,
                    {"set.timesteps": GIVEN, "set.sigmas": GIVEN},
                ),
                Rule(
                    ("set.timesteps", "timestep_type", "prediction_type"),
                    lambda times, kind, prediction: (
                        times is None or kind == "discrete" or prediction != "v_prediction"
                    ),
                    {
                        "set.timesteps": GIVEN,
                        "timestep_type": "continuous",
                        "prediction_type": "v_prediction",
                    },
                ),
            ],
            step_draws_last=True,
            sigmas=True,
            velocity=True,
        ),
        Space(
            "EulerAncestralDiscreteScheduler",
            {
                **RUN,
                **BETAS,
                "prediction_type": ("epsilon", "v_prediction", "sample"),
                "timestep_spacing": SPACINGS,
                "steps_offset": OFFSETS,
                "rescale_betas_zero_snr": BOTH,
            },
            [
                WHOLE,
                LATER,
                Rule(
                    ("n", "timestep_spacing", "steps_offset"),
                    lambda n, spacing, offset: n != TRAIN or spacing != "leading" or not offset,
                ),
            ],
            step_draws_last=True,
            sigmas=True,
        ),
        Space(
            "HeunDiscreteScheduler",
            {
                **RUN,
                **BETAS,
                "beta_schedule": (*BETAS["beta_schedule"], "exp"),
                "prediction_type": PREDICTIONS,
                **RAMPS,
                **CLIPPING,
                "timestep_spacing": SPACINGS,
                "steps_offset": OFFSETS,
                "set.num_train_timesteps": (None, 45),
                "set.timesteps": (None, GIVEN),
            },
            [
                WHOLE,
                LATER,
                *one_of(tuple(RAMPS)),
                PAST,
                *rampless("set.timesteps"),
                Rule(
                    ("n", "set.num_train_timesteps", "set.timesteps"),
                    lambda n, train, given: n != TRAIN or train is None or given == GIVEN,
                ),
            ],
            sigmas=True,
        ),
        Space(
            "DPMSolverMultistepScheduler",
            {
                **RUN,
                **BETAS,
                "solver_order": (2, 3, 1),
                "prediction_type": (*PREDICTIONS, "flow_prediction"),
                **THRESHOLDING,
                "algorithm_type": (
                    "dpmsolver++",
                    "dpmsolver",
                    "sde-dpmsolver",
                    "sde-dpmsolver++",
                    "deis",
                ),
                "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
                "lower_order_final": (True, False),
                "euler_at_final": BOTH,
                **RAMPS,
                "use_lu_lambdas": BOTH,
                "use_flow_sigmas": BOTH,
                "flow_shift": (1.0, 3.0),
                "final_sigmas_type": ("zero", "sigma_min"),
                "lambda_min_clipped": (-math.inf, LOWEST),
                "variance_type": (None, "learned", "learned_range"),
                "timestep_spacing": ("linspace", "leading", "trailing"),
                "steps_offset": OFFSETS,
                "rescale_betas_zero_snr": BOTH,
                "use_dynamic_shifting": BOTH,
                "time_shift_type": ("exponential",),
                "set.mu": (None, 0.7),
                "set.timesteps": (None, GIVEN),
                "step.variance_noise": (None, GIVEN),
            },
            [
                WHOLE,
                LATER,
                # the reference runs it upwards in noise: a declared difference
                Rule(
                    ("n", "use_flow_sigmas", "final_sigmas_type"),
                    lambda n, flow, final: n != TRAIN or not flow or final == "zero",
                ),
                # where times cut to integers repeat, the reference starts at the wrong step
                *(
                    Rule(
                        ("n", "start", name),
                        lambda n, start, asked: (
                            not asked or n not in (20, TRAIN) or start.startswith("begin")
                        ),
                    )
                    for name in (*RAMPS, "use_lu_lambdas")
                ),
                *one_of((*RAMPS, "use_lu_lambdas", "use_flow_sigmas"), rejected=False),
                *one_of(tuple(RAMPS)),
                *rampless("set.timesteps"),
                Rule(
                    ("set.timesteps", "use_lu_lambdas"),
                    lambda given, asked: given is None or not asked,
                    {"set.timesteps": GIVEN, "use_lu_lambdas": True},
                ),
                Rule(
                    ("algorithm_type", "final_sigmas_type"),
                    lambda algorithm, final: algorithm.endswith("++") or final == "sigma_min",
                    {"algorithm_type": "dpmsolver", "final_sigmas_type": "zero"},
                ),
                Rule(
                    ("algorithm_type", "solver_order"),
                    lambda algorithm, order: algorithm != "sde-dpmsolver" or order < 3,
                    {
                        "algorithm_type": "sde-dpmsolver",
                        "final_sigmas_type": "sigma_min",
                        "solver_order": 3,
                        "n": 20,
                    },
                ),
                Rule(
                    ("prediction_type", "use_flow_sigmas", "algorithm_type"),
                    lambda kind, flow, algorithm: (
                        kind != "flow_prediction" or (flow and algorithm.endswith(("++", "deis")))
                    ),
                    {
                        "prediction_type": "flow_prediction",
                        "algorithm_type": "dpmsolver",
                        "final_sigmas_type": "sigma_min",
                    },
                ),
                Rule(
                    ("set.mu", "use_dynamic_shifting"),
                    lambda mu, dynamic: mu is None or dynamic,
                    {"set.mu": 0.7},
                ),
                Rule(("set.mu", "use_flow_sigmas"), lambda mu, flow: mu is None or flow),
                Rule(
                    ("set.timesteps", "use_flow_sigmas"),
                    lambda given, flow: given is None or not flow,
                    {"set.timesteps": GIVEN, "use_flow_sigmas": True},
                ),
                Rule(
                    ("n", "timestep_spacing", "steps_offset", "set.timesteps", "use_flow_sigmas"),
                    lambda n, spacing, offset, given, flow: (
                        n != TRAIN or given == GIVEN or flow or spacing == "trailing"
                    ),
                ),
                # the reference cuts the output at three channels, and only of epsilon
                Rule(
                    ("variance_type", "shape"),
                    lambda variance, shape: variance is None or shape[1] == 3,
                ),
                Rule(
                    ("step.variance_noise", "algorithm_type"),
                    lambda noise, algorithm: noise is None or algorithm.startswith("sde"),
                ),
            ],
            step_draws_last=True,
            tables=("alphas_cumprod", "betas", "alphas", "alpha_t", "sigma_t", "lambda_t"),
            sigmas=True,
        ),
    )
}

NAMED = [name for name in SPACES]


def count(case: Case) -> int:
    """The number of steps that a case asks for."""
    return case["num_train_timesteps"] if case["n"] == TRAIN else case["n"]


def options(case: Case) -> Case:
    """The constructor's options."""
    chosen = {k: v for k, v in case.items() if "." not in k and k not in RUN}
    if chosen.get("trained_betas") == GIVEN:
        train = case["num_train_timesteps"]
        chosen["trained_betas"] = (np.linspace(0.03, 0.12, train) ** 2).tolist()
    return chosen


def calls(case: Case) -> Case:
    """The options of `set_timesteps`."""
    chosen = {k.removeprefix("set."): v for k, v in case.items() if k.startswith("set.")}
    chosen = {k: v for k, v in chosen.items() if v is not None}
    n, rng = count(case), np.random.default_rng(count(case))
    train = case["num_train_timesteps"]
    if chosen.get("timesteps") == GIVEN:
        chosen["timesteps"] = sorted(rng.choice(train, n, replace=False).tolist(), reverse=True)
    if cut := case.get("as.cut"):
        chosen["timesteps"] = chosen["timesteps"][n - int(n * cut) :]
    if chosen.get("sigmas") == GIVEN:
        chosen["sigmas"] = [*np.geomspace(0.9, 0.07, n).tolist(), 0.0]
    if "timesteps" not in chosen and "sigmas" not in chosen:
        chosen["num_inference_steps"] = n
    return chosen
