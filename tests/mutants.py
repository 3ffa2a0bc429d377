"""Break the library on purpose, one line at a time: the tests must notice every time.

`python tests/mutants.py [NAME ...]` copies the package, makes one change, and runs the tests that
ought to fail, on NumPy alone (with numba, for what it compiles). A mutant that survives, or whose
line no longer exists, is a failure; so is it when one of these tests fails without any change.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One change, and the tests that notice it: files, or pytest's ids, without the .py."""

    name: str
    file: str
    before: str
    after: str
    tests: str


KEPT = "test_marginals::test_marginals_are_kept"
CONVERGES = "test_distribution::test_converges_to_the_data"
ORDER = "test_order::test_order"
EXECUTIONS = "test_engine::test_every_execution_agrees_with_the_loop"

FIRST, STAGES, STEPS = (f"samplers/{n}.py" for n in ("first_order", "runge_kutta", "multistep"))
ADAMS, UNIPC, ADAPTIVE = (f"samplers/{n}.py" for n in ("adams", "unipc", "adaptive"))
FORMULAS = "samplers/formulas.py"
BASE = "schedulers/base.py"
CORE, ROWS, TABLE, BATCHES = (f"engine/{n}.py" for n in ("__init__", "rows", "table", "batches"))
FUSED, ONE_PASS = "backends/fused.py", "test_fused"

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
        "h = b.lam - first.lam",
        "h = b.lam - a.lam",
        f"{ORDER}[dpmpp_singlestep-solver_order=3,lower_order_final=False-vp]",
    ),
    # exponential integrators
    Mutant(
        "multistep weight",
        FORMULAS,
        "0.5 * f if solver_type",
        "0.6 * f if solver_type",
        "test_schedules::test_weights_by_option",
    ),
    Mutant(
        "multistep third order",
        FORMULAS,
        '"exact": 2 * bend',
        '"exact": bend',
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
        "[(a.lam, m), *nodes]",
        "[(b.lam, m), *nodes]",
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
        UNIPC,
        "0.5 * scale * size * share",
        "0.5 * scale * size",
        f"{ORDER}[unipc-solver_order=2-vp]",
    ),
    Mutant(
        "corrector sign",
        UNIPC,
        "known + own * m",
        "known - own * m",
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
        "sigma * 1.5 * remainder(1, -h)",
        "sigma * 1.4 * remainder(1, -h)",
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
        "noised(b, to)",
        "noised(a, to)",
        f"{KEPT}[repaint-jump_length=2,jump_n_sample=2-vp]",
    ),
    # where
    Mutant(
        "zero terminal SNR",
        "schedules.py",
        "if math.isinf(b):  # alpha reaches",
        "if False:  # alpha reaches",
        "test_schedules::test_the_last_cell_at_zero_terminal_snr",
    ),
    Mutant(
        "velocity",
        "predictions.py",
        "(-scale * sigma, scale * alpha)",
        "(scale * sigma, scale * alpha)",
        "test_predictions::test_conversions_in_closed_form",
    ),
    Mutant(
        "boundary",
        "predictions.py",
        "t = at.t * self.timestep_scaling",
        "t = at.t + self.timestep_scaling",
        "test_predictions::test_lcm_boundary_condition",
    ),
    Mutant(
        "conversion",
        "predictions.py",
        "c_other * d - d_other",
        "c_other * d + d_other",
        "test_predictions::test_conversions_in_closed_form",
    ),
    Mutant(
        "levels of a batch",
        "conversion.py",
        "if shape == whole[:1]:",
        "if False:",
        "test_predictions::test_conversions_on_arrays",
    ),
    Mutant(
        "karras",
        "ramps.py",
        "(a + fractions * (b - a)) ** rho",
        "(b + fractions * (a - b)) ** rho",
        "test_spacings::test_karras",
    ),
    Mutant(
        "trailing",
        "spacings.py",
        "np.round(times + 1) - 1",
        "np.round(times)",
        "test_spacings::test_printed_lists",
    ),
    Mutant(
        "inversion's end",
        "spacings.py",
        "self.points[: k + 1]",
        "self.points[-k - 1 :]",
        "test_first_order::test_strength_of_an_inversion_leaves_the_noisiest_steps_out",
    ),
    Mutant(
        "guidance",
        "guidance.py",
        "unconditional + scale *",
        "conditional + scale *",
        "test_guidance::test_mixes_the_halves",
    ),
    # table
    Mutant(
        "residue kept",
        "tracing.py",
        "> ROUNDING * m",
        "> -1",
        "test_tracing::test_rounding_residue_is_no_term",
    ),
    Mutant(
        "infinite coefficient",
        "tracing.py",
        "if not (np.isfinite(c).all() if masked else math.isfinite(c)):",
        "if False:",
        "test_tracing::test_steps_that_cannot_be_taken_name_sampler_and_step",
    ),
    Mutant(
        "stale history",
        "plan.py",
        "stored[kind, rank, age - 1]",
        "stored[kind, rank, age]",
        EXECUTIONS,
    ),
    Mutant(
        "skip",
        "plan.py",
        "self.grid.skip(k)",
        "self.grid.skip(0)",
        "test_plan::test_skip_warms_a_multistep_method_up_again",
    ),
    Mutant(
        "stale plan",
        "plan.py",
        "key = entry, grid,",
        "key = sampler, grid,",
        "test_plan::test_a_name_registered_anew_means_the_new_loop",
    ),
    Mutant(
        "plans kept for ever",
        "plan.py",
        "if len(_kept) > KEPT:",
        "if False:",
        "test_plan::test_only_the_last_plans_are_kept",
    ),
    Mutant(
        "plans made twice at once",
        "plan.py",
        "with _lock:",
        "if True:",
        "test_plan::test_threads_that_ask_at_once_get_one_plan",
    ),
    # arrays
    Mutant(
        "finished rows",
        "tables.py",
        "[float(term == repeat) for term",
        "[0.0 for term",
        "test_engine::test_a_finished_row_stays_as_it_is",
    ),
    Mutant(
        "a row that starts anew at its end",
        "plan.py",
        "union[layout.following].add((SAMPLE, EVERYWHERE))",
        "union[layout.following].update()",
        f"{ONE_PASS}::test_rows_of_plans_are_the_chain[blocks-float64]",
    ),
    Mutant(
        "past the end",
        "tables.py",
        "where[0, begin : begin + n] += 1",
        "where[0, begin : begin + n + 1] += 1",
        "test_engine::test_a_finished_row_stays_as_it_is",
    ),
    Mutant(
        "where a plan begins",
        "tables.py",
        "= begins[:-1], -1",
        "= begins[1:], -1",
        "test_batches::test_where_plans_begin_and_end",
    ),
    Mutant(
        "draws of another plan",
        "tables.py",
        "where[1, begin : begin + n + 1] = np.arange(1, n + 2)",
        "where[1, begin : begin + n + 1] = np.arange(begin + 1, begin + n + 2)",
        "test_batches::test_rows_on_different_plans_equal_separate_runs",
    ),
    Mutant(
        "start of another plan",
        "tables.py",
        "start[:, begin : begin + n + 1] = ",
        "start[:, : n + 1] = ",
        "test_batches::test_rows_on_different_plans_equal_separate_runs",
    ),
    Mutant(
        "terms of the first plan",
        "tables.py",
        "tuple(sorted({*a, *b})) for a, b in pairs",
        "tuple(sorted({*a})) for a, b in pairs",
        "test_batches::test_terms_that_only_a_later_plan_has",
    ),
    Mutant(
        "index of rows taken",
        BATCHES,
        "index = backend.xp.take(index, rows, axis=0)",
        "index = index[: len(rows)]",
        "test_batches::test_take_and_join_are_indexing_and_concatenation",
    ),
    Mutant(
        "memory of rows taken",
        BATCHES,
        "tuple(backend.xp.take(x, rows, axis=0) for x in memory)",
        "memory",
        "test_batches::test_take_and_join_are_indexing_and_concatenation",
    ),
    Mutant(
        "index of rows joined",
        BATCHES,
        "else along([s.index for s in states])",
        "else along([first.index for s in states])",
        "test_batches::test_take_and_join_are_indexing_and_concatenation",
    ),
    # sums
    Mutant(
        "what is not looked at",
        "backends/base.py",
        "self.where(weight == 0, self.zeros_like(weight), term) * weight",
        "term * weight",
        "test_backends::test_combine_is_the_weighted_sum",
    ),
    Mutant(
        "not looked at in NumPy",
        "backends/numpy.py",
        "v if np.all(w) else",
        "v if np.any(w) else",
        "test_backends::test_combine_is_the_weighted_sum",
    ),
    Mutant(
        "a unit weight in another dtype",
        "backends/numpy.py",
        "            return np.asarray(first, dtype)\n        total",
        "            return first\n        total",
        "test_backends::test_a_single_value_of_another_dtype_is_converted",
    ),
    Mutant(
        "not looked at by blocks",
        FUSED,
        "if weight == 0:",
        "if weight == 9:",
        f"{ONE_PASS}::test_blocks_are_the_chain",
    ),
    Mutant(
        "weights of the first row",
        FUSED,
        "weight, x = weights[at, row], here[source]",
        "weight, x = weights[at, 0], here[source]",
        f"{ONE_PASS}::test_blocks_are_the_chain",
    ),
    Mutant(
        "one block for two results",
        FUSED,
        "here.setdefault(value, own[k, : stop - start])",
        "here.setdefault(value, own[1, : stop - start])",
        f"{ONE_PASS}::test_blocks_are_the_chain",
    ),
    Mutant(
        "a sum of nothing",
        FUSED,
        "                        out[:] = 0",
        "                        pass",
        f"{ONE_PASS}::test_blocks_are_the_chain",
    ),
    Mutant(
        "shapes in one pass",
        FUSED,
        "and v.shape == x.shape and",
        "and",
        f"{ONE_PASS}::test_what_suits",
    ),
    Mutant(
        "layouts in one pass",
        FUSED,
        " and v.flags.c_contiguous",
        "",
        f"{ONE_PASS}::test_what_suits",
    ),
    Mutant(
        "not looked at by numba",
        FUSED,
        "({x} * w{count} if w{count} != 0 else w{count})",
        "({x} * w{count})",
        f"{ONE_PASS}::test_rows_of_plans_are_the_chain[numba-float32]",
    ),
    Mutant(
        "weights of the first row by numba",
        FUSED,
        "w{k} = weights[{k}, row]",
        "w{k} = weights[{k}, 0]",
        f"{ONE_PASS}::test_rows_of_plans_are_the_chain[numba-float32]",
    ),
    Mutant(
        "not looked at in C++",
        FUSED,
        "(w{count} != 0 ? {x} * w{count} : w{count})",
        "({x} * w{count})",
        f"{ONE_PASS}::test_cpp_is_the_chain",
    ),
    Mutant(
        "image to image",
        TABLE,
        "combine([x0, noise], weights[1:3], acc)",
        "combine([noise, x0], weights[1:3], acc)",
        "test_engine::test_image_to_image_start",
    ),
    Mutant(
        "learned range",
        CORE,
        "learned_std(backend, variance, *wanted.log_range)",
        "learned_std(backend, variance, *wanted.log_range[::-1])",
        EXECUTIONS,
    ),
    Mutant(
        "stale state",
        CORE,
        "return State(values[layout.following], memory, index + 1)",
        "return State(values[layout.following], memory, index)",
        EXECUTIONS,
    ),
    Mutant(
        "noise of clean data",
        CORE,
        "combine([sample, mean], layout.prediction.noise(at), acc)",
        "combine([mean, sample], layout.prediction.noise(at), acc)",
        "test_first_order::test_the_first_step_is_from_clean_data",
    ),
    Mutant(
        "mask",
        ROWS,
        "value * mask if region == INSIDE",
        "value * mask if region != INSIDE",
        "test_engine::test_given_image_and_mask",
    ),
    Mutant(
        "clip",
        ROWS,
        "backend.clip(x0, -prediction.clip, prediction.clip)",
        "backend.clip(x0, 0.0, prediction.clip)",
        "test_engine::test_projections_are_their_formulas",
    ),
    Mutant(
        "broadcast output",
        "engine/checks.py",
        "if not prediction.variance_head or found != twice:",
        "if False:",
        "test_engine::test_wrong_outputs",
    ),
    # noise
    Mutant(
        "purpose",
        "noise.py",
        "START, STEP, BROWNIAN = 0, 1, 2",
        "START, STEP, BROWNIAN = 0, 0, 2",
        "test_noise::test_every_number_counts",
    ),
    Mutant(
        "row of a draw",
        CORE,
        "tuple(noise.shape), evaluation + 1",
        "tuple(noise.shape), 1",
        EXECUTIONS,
    ),
    Mutant(
        "frame's element",
        "backends/numpy.py",
        "part * (size // parts) for",
        "0 for",
        "test_noise::test_frames_of_a_sample_at_different_draws",
    ),
    Mutant(
        "path clock",
        "backends/brownian.py",
        "math.exp(-abs(lam))",
        "math.exp(-abs(lam) / 2)",
        "test_noise::test_path_law",
    ),
    Mutant(
        "path of a row",
        "tables.py",
        "where[k : k + 2, begin + i]",
        "where[3:5, begin]",
        "test_noise::test_every_execution_follows_the_path",
    ),
    # a step as a distribution
    Mutant(
        "density's scale",
        CORE,
        "(log_std + 0.5 * math.log(2 * math.pi))",
        "0.5 * math.log(2 * math.pi)",
        "test_transition::test_equals_a_hand_written_ddpo_step",
    ),
    Mutant(
        "draws that add up",
        ROWS,
        "total = total + coefficient * coefficient",
        "total = coefficient * coefficient",
        "test_transition::test_two_draws_add_their_variances",
    ),
    # tokens
    Mutant(
        "token marginal",
        "discrete.py",
        "step_c, *self.cumulative(s))",
        "step_c, *self.cumulative(t))",
        "test_discrete::test_the_posterior_is_bayes",
    ),
    Mutant(
        "gumbel sign",
        "discrete.py",
        "noise = -xp.log(",
        "noise = xp.log(",
        "test_discrete::test_sampled_frequencies_are_the_posterior",
    ),
    Mutant(
        "time of a token",
        "schedulers/vq_diffusion.py",
        "return len(self) - 1 - self._time(timestep)",
        "return self._time(timestep)",
        "test_discrete::test_the_stateful_habit_is_the_same_loop",
    ),
    # the stateful habit, configurations
    Mutant(
        "cursor",
        BASE,
        "run.entry + 1, after.memory",
        "run.entry, after.memory",
        "test_stateful::test_step_index_counts",
    ),
    Mutant(
        "stale memory",
        BASE,
        "after.memory, after.index, fresh",
        "run.memory, after.index, fresh",
        "test_stateful::test_equals_the_pure_functions",
    ),
    Mutant(
        "history of a lower order",
        BASE,
        "run.memory[have.index(slot)] for slot in need",
        "run.memory[~have.index(slot)] for slot in need",
        "test_sigma::test_lms_weights_after_a_fall_of_its_order",
    ),
    Mutant(
        "level between times",
        BASE,
        "xp.take(v, above - 1) * (1 - part)",
        "xp.take(v, above - 1) * part",
        "test_schedulers::test_add_noise_and_velocity_are_the_closed_form",
    ),
    Mutant(
        "strength",
        "schedulers/plans.py",
        "grid.skip(n - kept)",
        "grid.skip(kept)",
        "test_schedulers::test_strength",
    ),
    Mutant(
        "defaults of another class",
        "schedulers/config.py",
        '*(config.get("_use_default_values") or ())}',
        "}",
        "test_config::test_from_config_of_another_class_and_back",
    ),
    Mutant(
        "subfolder",
        "schedulers/files.py",
        'file = root / (subfolder or "") / name',
        "file = root / name",
        "test_config::test_from_pretrained_and_what_it_returns",
    ),
    Mutant(
        "fields of an output",
        "schedulers/outputs.py",
        "for name in self.fields)",
        "for name in self.fields[:1])",
        "test_stateful::test_outputs_are_mappings_that_can_be_made_copied_and_stored",
    ),
    # the named classes
    Mutant(
        "placement by name",
        "schedulers/a1111.py",
        "if ramp and ramp not in CLASSES[cls].options:",
        "if False:",
        "test_a1111::test_every_name_runs",
    ),
    Mutant(
        "betas of a table",
        "schedulers/betas.py",
        "np.concatenate([[1.0], bar[:-1]])",
        "np.concatenate([bar[:1], bar[:-1]])",
        "test_schedulers::test_tables_of_betas",
    ),
    Mutant(
        "shift of any sampler",
        "schedulers/generic.py",
        "spacings.shifted([p.sigma for p in points], config.shift)",
        "spacings.shifted([p.sigma for p in points], 1.0)",
        "test_any::test_parts_reach_the_plan",
    ),
    Mutant(
        "row of a timestep",
        "schedulers/first_order.py",
        "xp.argmin(off, axis=-1)",
        "xp.argmax(off, axis=-1)",
        "test_first_order::test_every_row_is_what_step_makes_of_it",
    ),
    Mutant(
        "the decoder's times",
        "schedulers/distilled.py",
        "min(t // apart + 1, top)",
        "min(t // apart, top)",
        "test_first_order::test_times_of_the_decoder",
    ),
    Mutant(
        "middle of a step",
        "schedulers/midpoint.py",
        "return math.sqrt(a.ratio * b.ratio)",
        "return 0.5 * (a.ratio + b.ratio)",
        "test_sigma::test_timesteps_of_all_evaluations_or_of_the_starts",
    ),
    Mutant(
        "lms nodes",
        "schedulers/variance_exploding.py",
        "sigmas[t - k] for k in range(order)",
        "sigmas[k] for k in range(order)",
        "test_sigma::test_lms_is_exact_for_polynomials",
    ),
    Mutant(
        "edm sign",
        "schedulers/edm.py",
        "sign = -1 if",
        "sign = 1 if",
        "test_sigma::test_edm_table_1",
    ),
    Mutant(
        "end of the warm-up",
        "schedulers/linear_multistep.py",
        "return 12 if plan.sampler",
        "return 11 if plan.sampler",
        "test_pndm::test_a_constant_eps_is_followed_exactly",
    ),
    Mutant(
        "inversion goes down",
        "schedulers/multistep.py",
        "return points[::-1][:n]",
        "return points[:n]",
        "test_solvers::test_inversion_goes_up",
    ),
    Mutant(
        "order of a stage",
        "schedulers/singlestep.py",
        "for stage in range(1, size + 1)]",
        "for stage in range(size)]",
        "test_solvers::test_stages",
    ),
    Mutant(
        "terminal forgotten",
        "schedulers/unipc.py",
        "sigmas = spacings.stretched(sigmas, config.shift_terminal)",
        "sigmas = 1.0 * sigmas",
        "test_solvers::test_ends_of_unipc",
    ),
    Mutant(
        "dynamic shift of a solver",
        "schedulers/solvers.py",
        "SHIFTS[config.time_shift_type](mu)",
        "float(mu)",
        "test_solvers::test_flow_shifts",
    ),
    Mutant(
        "tokens above",
        "schedulers/flow.py",
        "levels < now - 1e-6",
        "levels > now + 1e-6",
        "test_flow::test_diffusion_forcing",
    ),
    Mutant(
        "karras levels",
        "schedulers/score.py",
        "if self._copies else levels",
        "if True else 1",
        "test_score::test_karras_levels",
    ),
    Mutant(
        "same noise",
        "schedulers/parts.py",
        "row=self._draws",
        "row=0",
        "test_score::test_noise_of_parts",
    ),
    Mutant(
        "undone too little",
        "schedulers/repaint.py",
        "path = [grid.points[entry + 1], ",
        "path = [grid.points[entry], ",
        "test_score::test_undoing_steps_gives_the_marginals",
    ),
    # where people come from
    Mutant(
        "snr shift upside down",
        "schedules.py",
        "-np.log1p(self.snr_shift_scale * np.expm1(-log_bar))",
        "-np.log1p(np.expm1(-log_bar) / self.snr_shift_scale)",
        "test_cogvideox",
    ),
    Mutant(
        "cogvideox forgets",
        "schedulers/cogvideox.py",
        "memory = (sample if old is None else old,)",
        "memory = (sample,)",
        "test_cogvideox",
    ),
    Mutant(
        "flax name unknown",
        "schedulers/config.py",
        'name.removeprefix("Flax")',
        "name",
        "test_from_pretrained",
    ),
    Mutant(
        "pipeline's folder not found",
        "schedulers/config.py",
        'file = files.find(source, name, "scheduler", **where)',
        'file = files.find(source, name, "schedulers", **where)',
        "test_from_pretrained",
    ),
    Mutant(
        "registered framework draws by row alone",
        "backends/adapted.py",
        "counter = counter[0], on_host(counter[1])",
        "counter = 0, on_host(counter[1])",
        "test_anyframework",
    ),
]


def run(mutant: Mutant | None, tests: str) -> tuple[int, str]:
    """Run tests on a copy of the package with one change, and return pytest's status and its
    output."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            ROOT / "cmsched", Path(folder) / "cmsched", ignore=shutil.ignore_patterns("__pycache__")
        )
        if mutant is not None:
            path = Path(folder) / "cmsched" / mutant.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutant.before) != 1:
                return -1, f"found {text.count(mutant.before)} times: {mutant.before!r}"
            path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        parts = [test.partition("::") for test in tests.split()]
        nodes = [f"{ROOT / 'tests' / file}.py{colons}{rest}" for file, colons, rest in parts]
        settings = {
            "CMSCHED_BACKENDS": "numpy",
            "HYPOTHESIS_PROFILE": "mutants",
            "PYTHONPATH": folder,
        }
        options = [
            *("-x", "-q", "-p", "no:cacheprovider", "-m", "not peers"),
            *("-c", str(ROOT / "pyproject.toml")),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "--rootdir", str(ROOT), *nodes],
            cwd=folder,  # where `import cmsched` finds the copy
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr


def main() -> None:
    """Run all mutants, two at a time, and report the survivors."""
    names = sys.argv[1:]
    if unknown := set(names) - {m.name for m in MUTANTS}:
        sys.exit(f"no such mutants: {', '.join(sorted(unknown))}")
    chosen = [m for m in MUTANTS if not names or m.name in names]
    tests = " ".join(sorted({name for m in chosen for name in m.tests.split()}))
    status, output = run(None, tests)
    if status != 0:
        sys.exit(f"the tests fail without any change:\n{output[-3000:]}")
    failures = []
    with ThreadPoolExecutor(2) as pool:
        for mutant, (status, output) in zip(
            chosen, pool.map(lambda m: run(m, m.tests), chosen), strict=True
        ):
            killed = status == 1  # tests ran and failed
            print(
                f"{'killed  ' if killed else 'SURVIVED'}  {mutant.name} ({mutant.file})", flush=True
            )
            if not killed:
                failures.append(f"{mutant.name}: status {status}\n{output[-800:]}")
    if failures:
        sys.exit("\n".join(failures))
    print(f"{len(chosen)} mutants, none survived")


if __name__ == "__main__":
    main()
