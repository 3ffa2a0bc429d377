"""DPM-Solver and its kin."""

import math

from ..grid import (
    BETAS,
    BOTH,
    GIVEN,
    LATER,
    LOWEST,
    OFFSETS,
    PREDICTIONS,
    RAMPS,
    RUN,
    THRESHOLDING,
    TRAIN,
    WHOLE,
    Rule,
    Space,
    one_of,
    rampless,
)

TABLES = ("alphas_cumprod", "betas", "alphas", "timesteps", "alpha_t", "sigma_t", "lambda_t")

SPACES = [
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
        tables=TABLES,
        sigmas=True,
        doubled=lambda case: case["variance_type"] and case["prediction_type"] == "epsilon",
        cut_times=True,
    ),
]
