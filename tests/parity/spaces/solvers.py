"""DPM-Solver and its kin."""

import math

import numpy as np

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
    Case,
    Rule,
    Space,
    count,
    one_of,
    rampless,
)

TABLES = ("alphas_cumprod", "betas", "alphas", "timesteps", "alpha_t", "sigma_t", "lambda_t")

FLOW = {"use_flow_sigmas": BOTH, "flow_shift": (1.0, 3.0)}
FLOWING = (*PREDICTIONS, "flow_prediction")
SHIFTING = {
    "use_dynamic_shifting": BOTH,
    "time_shift_type": ("exponential",),
    "set.mu": (None, 0.7),
}
# ramps whose times repeat once cut: the reference starts at the wrong step
REPEATED = [
    Rule(
        ("n", "start", name),
        lambda n, start, asked: not asked or n not in (7, 20, TRAIN) or start.startswith("begin"),
    )
    for name in RAMPS
]
ONE_RAMP = [*one_of((*RAMPS, "use_flow_sigmas"), rejected=False), *one_of(tuple(RAMPS))]
MU = [
    Rule(
        ("set.mu", "use_dynamic_shifting"),
        lambda mu, dynamic: mu is None or dynamic,
        {"set.mu": 0.7},
    ),
    Rule(("set.mu", "use_flow_sigmas"), lambda mu, flow: mu is None or flow),
]
FLOW_PREDICTION = Rule(
    ("prediction_type", "use_flow_sigmas"),
    lambda kind, flow: kind != "flow_prediction" or flow,
)


def learned(case: Case) -> bool:
    """Whether the network's output has variance channels: the reference knows only of epsilon."""
    return bool(case["variance_type"] and case["prediction_type"] == "epsilon")


def below_one(case: Case) -> np.ndarray:
    """Sigmas of a flow before the shift, without their end."""
    return np.geomspace(0.97, 0.07, count(case))


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
    Space(
        "DPMSolverMultistepInverseScheduler",
        {
            **RUN,
            **BETAS,
            "solver_order": (2, 3, 1),
            "prediction_type": FLOWING,
            **THRESHOLDING,
            "algorithm_type": ("dpmsolver++", "dpmsolver", "deis"),
            "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
            "lower_order_final": (True, False),
            "euler_at_final": BOTH,
            **RAMPS,
            **FLOW,
            "lambda_min_clipped": (-math.inf, LOWEST),
            "variance_type": (None, "learned", "learned_range"),
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": OFFSETS,
            "step.variance_noise": (None,),
        },
        [
            WHOLE,
            LATER,
            *ONE_RAMP,
            FLOW_PREDICTION,
            Rule(
                ("algorithm_type",),
                lambda algorithm: not algorithm.startswith("sde"),
                {"algorithm_type": "sde-dpmsolver++", "n": 3},
            ),
            Rule(
                ("prediction_type", "algorithm_type"),
                lambda kind, algorithm: kind != "flow_prediction" or algorithm != "dpmsolver",
                {"prediction_type": "flow_prediction", "algorithm_type": "dpmsolver"},
            ),
            Rule(
                ("n", "timestep_spacing", "use_flow_sigmas"),
                lambda n, spacing, flow: n != TRAIN or flow or spacing == "trailing",
            ),
            # times repeat: the reference leaves them out, or starts at the wrong step
            *(
                Rule(("n", name), lambda n, asked: not asked or n not in (20, TRAIN))
                for name in RAMPS
            ),
            Rule(
                ("variance_type", "shape"),
                lambda variance, shape: variance is None or shape[1] == 3,
            ),
        ],
        tables=TABLES,
        sigmas=True,
        doubled=learned,
        cut_times=True,
    ),
    Space(
        "DPMSolverSinglestepScheduler",
        {
            **RUN,
            **BETAS,
            "solver_order": (2, 3, 1),
            "prediction_type": FLOWING,
            **THRESHOLDING,
            "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "deis"),
            "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
            "lower_order_final": BOTH,
            **RAMPS,
            **FLOW,
            "final_sigmas_type": ("zero", "sigma_min"),
            "lambda_min_clipped": (-math.inf, LOWEST),
            "variance_type": (None, "learned", "learned_range"),
            **SHIFTING,
            "set.timesteps": (None, GIVEN),
        },
        [
            WHOLE,
            LATER,
            *REPEATED,
            *ONE_RAMP,
            *MU,
            *rampless("set.timesteps"),
            FLOW_PREDICTION,
            # the reference runs it upwards in noise: a declared difference
            Rule(
                ("n", "use_flow_sigmas", "final_sigmas_type"),
                lambda n, flow, final: n != TRAIN or not flow or final == "zero",
            ),
            Rule(
                ("algorithm_type", "final_sigmas_type"),
                lambda algorithm, final: algorithm.endswith("++") or final == "sigma_min",
                {"algorithm_type": "dpmsolver", "final_sigmas_type": "zero"},
            ),
            # where the reference raises, and we do not: a declared difference
            Rule(
                ("algorithm_type", "thresholding"),
                lambda algorithm, asked: algorithm != "dpmsolver" or not asked,
            ),
            Rule(
                ("prediction_type", "algorithm_type"),
                lambda kind, algorithm: kind != "flow_prediction" or algorithm != "dpmsolver",
                {
                    "prediction_type": "flow_prediction",
                    "algorithm_type": "dpmsolver",
                    "final_sigmas_type": "sigma_min",
                },
            ),
            Rule(
                ("set.timesteps", "use_flow_sigmas"),
                lambda given, flow: given is None or not flow,
            ),
            Rule(
                ("n", "set.timesteps", "use_flow_sigmas", *RAMPS),
                lambda n, given, *placed: n != TRAIN or given == GIVEN or any(placed),
            ),
            Rule(
                ("variance_type", "shape"),
                lambda variance, shape: variance is None or shape[1] == 3,
            ),
        ],
        step_draws_last=True,
        tables=TABLES,
        sigmas=True,
        doubled=learned,
        cut_times=True,
        reference_only={"sample": "the base of a step, kept between its stages"},
    ),
    Space(
        "DEISMultistepScheduler",
        {
            **RUN,
            **BETAS,
            "solver_order": (2, 3, 1),
            "prediction_type": FLOWING,
            **THRESHOLDING,
            "algorithm_type": ("deis", "dpmsolver", "dpmsolver++"),
            "solver_type": ("logrho", "midpoint", "heun", "bh1", "bh2"),
            "lower_order_final": (True, False),
            **RAMPS,
            **FLOW,
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": OFFSETS,
            **SHIFTING,
        },
        [
            WHOLE,
            LATER,
            *REPEATED,
            *ONE_RAMP,
            *MU,
            FLOW_PREDICTION,
            Rule(
                ("n", "timestep_spacing", "use_flow_sigmas"),
                lambda n, spacing, flow: n != TRAIN or flow or spacing == "trailing",
            ),
        ],
        tables=TABLES,
        sigmas=True,
        cut_times=True,
    ),
    Space(
        "UniPCMultistepScheduler",
        {
            **RUN,
            **BETAS,
            "solver_order": (2, 3, 1, 4),
            "prediction_type": FLOWING,
            **THRESHOLDING,
            "predict_x0": (True, False),
            "solver_type": ("bh2", "bh1", "midpoint", "heun", "logrho"),
            "lower_order_final": (True, False),
            "disable_corrector": ([], [0], [1, 2]),
            "solver_p": (None,),
            **RAMPS,
            **FLOW,
            "timestep_spacing": ("linspace", "leading", "trailing"),
            "steps_offset": OFFSETS,
            "final_sigmas_type": ("zero", "sigma_min"),
            "rescale_betas_zero_snr": BOTH,
            "use_dynamic_shifting": BOTH,
            "time_shift_type": ("exponential", "linear"),
            "sigma_min": (None, 0.05),
            "sigma_max": (None, 20.0),
            "shift_terminal": (None, 0.05),
            "set.sigmas": (None, GIVEN),
            "set.mu": (None, 0.7),
        },
        [
            WHOLE,
            LATER,
            *REPEATED,
            *one_of(tuple(RAMPS)),
            FLOW_PREDICTION,
            # the reference takes the levels of betas for those of a flow
            *one_of(("use_exponential_sigmas", "use_flow_sigmas"), rejected=False),
            *one_of(("use_beta_sigmas", "use_flow_sigmas"), rejected=False),
            Rule(
                ("n", "timestep_spacing", "use_flow_sigmas"),
                lambda n, spacing, flow: n != TRAIN or flow or spacing == "trailing",
            ),
            # at sigma = 1 epsilon says nothing about x0, at the reference's 1 - 1e-6 little
            Rule(
                ("use_flow_sigmas", "prediction_type"),
                lambda flow, kind: not flow or kind != "epsilon",
            ),
            # where the reference's last step is not finite: a declared difference
            Rule(
                (
                    "final_sigmas_type",
                    "solver_type",
                    "predict_x0",
                    "solver_order",
                    "lower_order_final",
                ),
                lambda final, solver, data, order, lower: (
                    final == "sigma_min" or (solver != "bh1" and data and (order == 1 or lower))
                ),
            ),
            # the reference raises, or ignores the option: declared differences
            Rule(
                ("predict_x0", "prediction_type", "thresholding"),
                lambda data, kind, asked: data or (kind != "flow_prediction" and not asked),
            ),
            Rule(
                ("use_dynamic_shifting", "set.mu"),
                lambda dynamic, mu: not dynamic or mu is not None,
                {
                    "use_dynamic_shifting": True,
                    "use_flow_sigmas": True,
                    "prediction_type": "flow_prediction",
                },
            ),
            Rule(
                ("shift_terminal", "use_flow_sigmas"),
                lambda end, flow: end is None or flow,
                {"shift_terminal": 0.05},
            ),
            Rule(
                ("shift_terminal", "n", "set.sigmas"),
                lambda end, n, given: end is None or n != 1 or given == GIVEN,
                {
                    "shift_terminal": 0.05,
                    "n": 1,
                    "use_flow_sigmas": True,
                    "prediction_type": "flow_prediction",
                },
            ),
            # the reference takes them for others, or puts a ramp between them
            Rule(("set.sigmas", "use_flow_sigmas"), lambda given, flow: given is None or flow),
            *(
                Rule(("set.sigmas", name), lambda given, asked: given is None or not asked)
                for name in RAMPS
            ),
        ],
        tables=TABLES,
        sigmas=True,
        cut_times=True,
        making={"set.sigmas": below_one},
        reference_only=dict.fromkeys(
            ("last_sample", "this_order", "timestep_list"), "kept from step to step"
        ),
    ),
]
