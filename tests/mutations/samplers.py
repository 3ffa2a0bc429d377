"""Loops of the samplers, one line broken at a time."""

from .mutant import Mutant

KEPT = "test_marginals::test_marginals_are_kept"
CONVERGES = "test_distribution::test_converges_to_the_data"
ORDER = "test_order::test_order"

FIRST, STAGES, STEPS = (f"samplers/{n}.py" for n in ("first_order", "runge_kutta", "multistep"))
ADAMS, UNIPC, UNIC = (f"samplers/{n}.py" for n in ("adams", "unipc", "unic"))
ADAPTIVE, FORMULAS = "samplers/adaptive.py", "samplers/formulas.py"

MUTANTS = [
    # the loops: first order
    Mutant(
        "ddim sign",
        FIRST,
        "b.alpha * x0 + down * eps",
        "b.alpha * x0 - down * eps",
        f"{CONVERGES}[ddim-eta=0.6-vp]",
    ),
    Mutant(
        "ddim dropped draw",
        FIRST,
        "        if up > 0:",
        "        if up > 9:",
        f"{KEPT}[ddim-eta=0.6-vp]",
    ),
    Mutant(
        "ancestral alpha for sigma",
        FORMULAS,
        "up = b.sigma * min(",
        "up = b.alpha * min(",
        f"{KEPT}[euler_ancestral-defaults-vp]",
    ),
    Mutant(
        "ddpm mean",
        FIRST,
        "x = (b.alpha * fresh) * x0 + (b.sigma / a.sigma * rho) * x\n        if b.sigma > 0 or",
        "x = (a.alpha * fresh) * x0 + (b.sigma / a.sigma * rho) * x\n        if b.sigma > 0 or",
        "test_marginals::test_ddpm_noise_and_mean",
    ),
    Mutant(
        "churn variance",
        FIRST,
        "gamma * (2 + gamma)",
        "gamma * (1 + gamma)",
        "test_marginals::test_churn_levels",
    ),
    Mutant(
        "euler index",
        FIRST,
        "(b.sigma / a.sigma) * (x - a.alpha * x0)",
        "(b.sigma / a.sigma) * (x - b.alpha * x0)",
        f"{KEPT}[euler-defaults-vp]",
    ),
    Mutant(
        "consistency noise",
        FIRST,
        "b.ratio**2 - end**2)) * noise()",
        "b.ratio**2 + end**2)) * noise()",
        "test_marginals::test_consistency_noise_stops_at_the_last_level",
    ),
    Mutant(
        "tcd landing",
        FIRST,
        "grid.at_time((1 - eta) * b.t)",
        "grid.at_time(eta * b.t)",
        "test_first_order::test_what_tcd_shows_before_its_noise",
    ),
    Mutant(
        "euler-maruyama drift",
        FIRST,
        "(squared * step) * score",
        "(0.5 * squared * step) * score",
        f"{CONVERGES}[euler_maruyama-defaults-vp]",
    ),
    Mutant(
        "flow sde drift", FIRST, "(0.5 * odds) * eps", "odds * eps", "test_flow::test_flow_grpo"
    ),
    Mutant(
        "langevin score",
        FIRST,
        "score, z = -1 / a.sigma * eps, noise()",
        "score, z = 1 / a.sigma * eps, noise()",
        "test_score::test_ve_plan_is_the_published_loop",
    ),
    Mutant(
        "langevin noise",
        FORMULAS,
        "+ 2 * size * z",
        "+ size * z",
        "test_score::test_a_step_length_for_each_sample",
    ),
    # stages
    Mutant(
        "heun trapezium",
        STAGES,
        "0.5 * (1 - sa / sb)",
        "0.25 * (1 - sa / sb)",
        f"{KEPT}[heun-defaults-vp]",
    ),
    Mutant(
        "estimate of the middle",
        STAGES,
        "(b.alpha - part * a.alpha) * y0",
        "(b.alpha - part * a.alpha) * x0",
        f"{ORDER}[dpmpp_2s_ancestral-eta=0.0-vp]",
    ),
    Mutant(
        "one path of two stages",
        STAGES,
        "share = (a.ratio - mid.ratio) / (a.ratio - b.ratio)",
        "share = 0.5",
        f"{CONVERGES}[dpmpp_sde-eta=0.5,r=0.4-vp]",
    ),
    Mutant(
        "stages",
        STAGES,
        "sizes[-2:] = [solver_order - 1, 1]",
        "sizes[-2:] = [1, solver_order - 1]",
        "test_solvers::test_stages",
    ),
    Mutant(
        "length of a whole step",
        STAGES,
        "h = b.lam - first.lam\n"
        "            D = differences(stage_nodes(nodes, solver_type, h), h)\n"
        "            w = weights(len(D), (1 + eta) * h",
        "h = b.lam - a.lam\n"
        "            D = differences(stage_nodes(nodes, solver_type, h), h)\n"
        "            w = weights(len(D), (1 + eta) * h",
        f"{ORDER}[dpmpp_singlestep-solver_order=3,lower_order_final=False-vp]",
    ),
    # exponential integrators
    Mutant(
        "multistep weight",
        FORMULAS,
        '"midpoint": lambda k: -0.5 * phi_1(k)',
        '"midpoint": lambda k: -0.6 * phi_1(k)',
        "test_schedules::test_weights_by_option",
    ),
    Mutant(
        "multistep third order",
        FORMULAS,
        '"exact": lambda k: -2 * phi_3(k)',
        '"exact": lambda k: -phi_3(k)',
        "test_schedules::test_weights_keep_their_digits",
    ),
    Mutant(
        "multistep old step",
        FORMULAS,
        "r0 = (l0 - l1) / h",
        "r0 = 1.0",
        "test_schedules::test_differences_of_a_parabola",
    ),
    Mutant(
        "multistep level",
        STEPS,
        "[(a.lam, x0), *nodes]",
        "[(b.lam, x0), *nodes]",
        f"{ORDER}[dpmpp_multistep-solver_order=2-vp]",
    ),
    Mutant(
        "multistep sde decay",
        FORMULAS,
        "math.exp(-eta * h)",
        "math.exp(eta * h)",
        f"{KEPT}[dpmpp_multistep-solver_order=2,eta=1.0-vp]",
    ),
    Mutant(
        "order at the end",
        FORMULAS,
        "min(solver_order, left) if",
        "min(solver_order, left + 1) if",
        "test_order::test_lower_orders_at_the_end",
    ),
    # Adams
    Mutant(
        "lms ends",
        ADAMS,
        "integrals(levels, a.ratio, b.ratio)",
        "integrals(levels, b.ratio, a.ratio)",
        f"{ORDER}[lms-solver_order=2-vp]",
    ),
    Mutant(
        "deis exponential",
        ADAMS,
        "np.exp(b.lam - u)",
        "np.exp(a.lam - u)",
        f"{ORDER}[deis-solver_order=3-vp]",
    ),
    Mutant(
        "clipped deis",
        ADAMS,
        "eps = (x - a.alpha * x0) / a.sigma",
        "eps = 1.0 * eps",
        "test_solvers::test_thresholding_is_heard",
    ),
    Mutant(
        "equal steps",
        ADAMS,
        "-16 / 12, 5 / 12",
        "-15 / 12, 4 / 12",
        "test_pndm::test_ipndm_by_hand",
    ),
    Mutant(
        "pndm stages",
        ADAMS,
        "(mid, b, 1 / 3)",
        "(mid, b, 1 / 6)",
        "test_pndm::test_a_runge_kutta_step_by_hand",
    ),
    Mutant("plms average", ADAMS, "0.5 * (m + ahead)", "ahead", "test_pndm::test_plms_by_hand"),
    # UniPC
    Mutant(
        "unipc share",
        UNIC,
        "0.5 * scale * (sign * B(sign * h)) * share",
        "0.5 * scale * (sign * B(sign * h))",
        f"{ORDER}[unipc-solver_order=2-vp]",
    ),
    Mutant(
        "corrector sign",
        UNIC,
        "else rest + weight * m",
        "else rest - weight * m",
        "test_solvers::test_solver_p_corrected_by_its_own_order_is_unipc",
    ),
    Mutant(
        "corrector of another step",
        UNIPC,
        "off = disable_corrector is True or step - 1 in disable_corrector",
        "off = disable_corrector is True or step in disable_corrector",
        "test_solvers::test_disabled_corrector",
    ),
    # steps chosen by the sampler
    Mutant(
        "fast third order",
        ADAPTIVE,
        "sigma * 1.5 * phi_2(-h)",
        "sigma * 1.4 * phi_2(-h)",
        f"{ORDER}[dpm_fast-defaults-vp]",
    ),
    Mutant(
        "every step accepted",
        ADAPTIVE,
        "accepted = factor >= accept_safety",
        "accepted = True",
        "test_order::test_steps_chosen_by_their_error",
    ),
    Mutant(
        "error of a step",
        ADAPTIVE,
        "(lower - higher) / allowed",
        "(lower - before) / allowed",
        "test_order::test_steps_chosen_by_their_error",
    ),
    Mutant(
        "jump of repaint",
        "samplers/repaint.py",
        "forward_kernel(b, to)",
        "forward_kernel(a, to)",
        f"{KEPT}[repaint-jump_length=2,jump_n_sample=2-vp]",
    ),
]
