"""What options mean: said once, for docstrings, `cmsched show` and the page of options.

By name, where a name means the same in every class; a class's own meaning is in its `meanings`.
Levels are sigma / alpha, of flows sigma; times are those that the network is told.
"""

from collections.abc import Mapping

__all__ = ["CALLS", "OPTIONS", "PREDICTIONS", "SAMPLERS", "SCHEDULES", "SPACINGS"]

_CHURN_RANGE = "level {} which noise is added (EDM's S_{})."

# of constructors
OPTIONS: Mapping[str, str] = {
    "num_train_timesteps": "training steps that the network knows: times lie in [0, this).",
    "beta_start": "variance that the first, least noisy training step adds; as in training.",
    "beta_end": "variance that the last, noisiest training step adds; as in training.",
    "beta_schedule": 'how betas go from one to the other, as in training: "linear"; '
    '"scaled_linear", linear in the square root (Stable Diffusion); "squaredcos_cap_v2", the '
    'cosine schedule (arXiv:2102.09672), which has no ends to give; "sigmoid", "laplace", "exp" '
    "where the class has them.",
    "trained_betas": "the betas themselves, one per training step, in place of the three before.",
    "prediction_type": 'what the network says: "epsilon", the noise; "sample", the clean sample; '
    '"v_prediction", alpha eps - sigma x0 (arXiv:2202.00512); "flow_prediction", eps - x0 '
    "(where the class has it). It is the network's, never a matter of taste.",
    "interpolation_type": 'between training levels: "linear", in sigma; "log_linear", even in '
    "log sigma, whose levels no longer belong to the times. For checkpoints that ask for it.",
    "use_karras_sigmas": "place levels by EDM's ramp, rho = 7 (arXiv:2206.00364, eq. 5): more "
    "steps where there is little noise. Often better on 10 to 30 steps.",
    "use_exponential_sigmas": "place levels evenly in log sigma.",
    "use_beta_sigmas": "place levels at quantiles of Beta(0.6, 0.6), denser at both ends "
    "(arXiv:2407.12173); needs SciPy.",
    "use_lu_lambdas": "place levels evenly in lambda = log(alpha / sigma), as DPM-Solver does "
    "(arXiv:2206.00927).",
    "sigma_min": "lowest level of a ramp; None for that of the least noisy training step.",
    "sigma_max": "highest level of a ramp; None for that of the noisiest training step.",
    "timestep_spacing": 'which training steps are visited: "linspace", even, both ends among '
    'them; "leading", multiples of a whole stride from 0 up, so that the noisiest are left out; '
    '"trailing", strides from the noisiest down, best on few steps (arXiv:2305.08891, table 2).',
    "timestep_type": 'what the network is told: "discrete", the training step; "continuous", '
    "log(sigma) / 4 (EDM's c_noise), of networks trained so, with v_prediction.",
    "steps_offset": 'training steps to add to those of timestep_spacing="leading"; 1 in Stable '
    "Diffusion's files.",
    "rescale_betas_zero_snr": "change the betas so that the last training step is noise alone "
    "(arXiv:2305.08891, algorithm 1): for networks fine-tuned so, which say v; they can paint "
    "very dark and very bright pictures.",
    "final_sigmas_type": 'the level after the last step: "zero", a clean sample; "sigma_min", '
    "that of the least noisy training step, for solvers that cannot reach 0.",
    "clip_sample": "clamp the estimate of x0 to [-clip_sample_range, clip_sample_range]: for "
    "pixels, not for latents.",
    "clip_sample_range": "the bound of clip_sample, in units of the sample.",
    "sampler": "name of the method, in `cmsched.samplers.REGISTRY`.",
    "sampler_options": "dict of the sampler's own keywords (eta, solver_order, ...).",
    "set_alpha_to_one": "whether the last step goes to the clean sample (alpha = 1); else to the "
    "level of training step 0, as Stable Diffusion's DDIM does.",
    "thresholding": "project each estimate of x0 by dynamic thresholding (arXiv:2205.11487, "
    "section 2.3), against colours that burn out at high guidance: for pixels, not for latents.",
    "dynamic_thresholding_ratio": "the quantile of |x0| of each sample that thresholding clamps "
    "to, in (0, 1].",
    "sample_max_value": "the most that this quantile may be, in units of the sample.",
    "variance_type": 'variance of a DDPM step: "fixed_small", of the posterior; "fixed_large", '
    'beta; with "_log" by way of its logarithm; "learned", "learned_range": said by the network, '
    "in a second half of its channels (arXiv:2102.09672).",
    "snr_shift_scale": "what the signal-to-noise ratios alpha^2 / sigma^2 of the betas are divided "
    "by: more noise at every time (CogVideoX).",
    "sigma_data": "standard deviation of the data that the network's scalings were made for.",
    "s_noise": "factor of the noise that is added; 1 is what the method says.",
    "rho": "exponent of the ramp of levels (arXiv:2206.00364, eq. 5): 7 has more steps near the "
    "sample, 1 is even.",
    "clip_denoised": "clamp the network's sample to [-1, 1]: for pixels.",
    "original_inference_steps": "number of even training steps that the network was distilled "
    "on; a run visits some of these and no others, so it is the most steps there can be.",
    "timestep_scaling": "factor k of the time in the boundary condition c_skip(k t) x + "
    "c_out(k t) x0, which makes the network's function the identity at t = 0 (arXiv:2310.04378, "
    "section 4.1); as in training.",
    "sigma_schedule": 'how levels go down: "karras", by rho; "exponential", even in log sigma.',
    "shift": "move levels to more noise, sigma -> shift sigma / (1 + (shift - 1) sigma) "
    "(arXiv:2403.03206, eq. 23): 3 in Stable Diffusion 3, more for larger pictures; 1 for none.",
    "use_dynamic_shifting": "take the shift from `mu` of `set_timesteps` or `plan`, which "
    "pipelines compute from the size of the picture (Flux).",
    "base_shift": "mu at base_image_seq_len; only pipelines read it.",
    "max_shift": "mu at max_image_seq_len; only pipelines read it.",
    "base_image_seq_len": "tokens of the smallest picture; only pipelines read it.",
    "max_image_seq_len": "tokens of the largest picture; only pipelines read it.",
    "invert_sigmas": "the network is told 1 - sigma and says x0 - eps, and `sigmas` shows "
    "1 - sigma (Mochi).",
    "shift_terminal": "stretch the shifted levels so that the last step starts here, in [0, 1) "
    "(LTX-Video); None for no stretch.",
    "time_shift_type": 'how mu becomes the shift: "exponential", e^mu; "linear", mu.',
    "stochastic_sampling": "go to the end in one jump, then noise up to the next level "
    "(arXiv:2303.01469, algorithm 1): for distilled flows.",
    "sde_eta": "noise of the SDE with the flow's law (arXiv:2505.05470, eq. 9), whose steps have "
    "a density; 0 for the ODE. For reinforcement learning.",
    "schedule": "name of the noise levels over time: a table of betas (as beta_schedule), or one "
    "of `cmsched.schedules.SCHEDULES`.",
    "spacing": "name of the rule that places the steps, in `cmsched.spacings.SPACINGS`.",
    "schedule_options": "dict of the schedule's fields (beta_start, frame, sigma_max, ...).",
    "spacing_options": "dict of the spacing's keywords (rho, mu, ...).",
    "recipe": "the whole meaning in place of all other options: `other.recipe()` of any "
    "scheduler, or one put together from its parts. Files have no such option.",
    "s_churn": "amount of noise added over the whole run, EDM's S_churn (arXiv:2206.00364, "
    "algorithm 2): 0 for none; at each of n steps the level goes up by the factor "
    "1 + min(s_churn / n, 0.414) first.",
    "s_min": _CHURN_RANGE.format("above", "tmin"),
    "s_max": _CHURN_RANGE.format("below", "tmax"),
    "skip_prk_steps": "begin with two evaluations in the first step (PLMS, Stable Diffusion) "
    "instead of three Runge-Kutta steps of four.",
    "variable_step": 'weights of the steps as they lie in sigma / alpha ("ipndm_v"), of fourth '
    "order; else those of even steps.",
    "noise_sampler_seed": "seed of the Brownian path that the stateful habit takes its noise "
    "from, or one per sample; None for fresh entropy.",
    "solver_order": "order of the solver: how many estimates a step is made from. 2 for guided "
    "sampling, 3 without guidance.",
    "algorithm_type": 'what is integrated: "dpmsolver", eps; "dpmsolver++", x0, which is stabler '
    'under guidance; with "sde-" in front the SDE, which draws noise.',
    "solver_type": 'form of the second-order step: "midpoint", or "heun" with the difference '
    "weighted by its exact integral.",
    "lower_order_final": "lower the order in the last steps where they are fewer than 15 in all, "
    "which is stabler.",
    "euler_at_final": "take the last step with order 1, whatever the number of steps.",
    "use_flow_sigmas": "samples are (1 - sigma) x0 + sigma eps, as flow matching has them, and "
    "levels are even in sigma: for networks of flows, with flow_prediction.",
    "flow_shift": "shift of use_flow_sigmas, sigma -> shift sigma / (1 + (shift - 1) sigma): more "
    "noise, for larger pictures and videos.",
    "lambda_min_clipped": "lowest log(alpha / sigma) to start from: -5.1 for the cosine schedule, "
    "whose noisiest training steps break solvers that integrate eps; -inf for all.",
    "third_order": 'formula of order 3: "published", in use everywhere, which is of second '
    'order; "exact", with twice the weight of its second difference, of third.',
    "eta": "part of the ancestral noise: 0 is deterministic (DDIM), 1 is DDPM.",
    "snr": "signal-to-noise ratio of a Langevin step, which says how long it is.",
    "sampling_eps": "the last time, in (0, 1), a little above 0, where the score is unbounded.",
    "correct_steps": "Langevin steps at each level; 0 for the predictor alone.",
    "per_sample": "let each sample have a Langevin step of its own length, instead of one for "
    "the batch as published: needed where the batch is split.",
    "beta_min": "beta(0) of the SDE, per unit of time.",
    "beta_max": "beta(1) of the SDE, per unit of time.",
    "predict_x0": "integrate x0, which is stabler under guidance; else eps.",
    "disable_corrector": "numbers of the steps, from 0, after which the prediction is left as it "
    "is: the first few at high guidance.",
    "solver_p": "another scheduler, whose sampler is the predictor, along the levels of this "
    "one; None for UniP.",
    "num_vec_classes": "number of classes of a token, the last of which is the mask.",
    "alpha_cum_start": "probability, after the first step of the chain, that a token was neither "
    "replaced nor masked; linear from there to the end.",
    "alpha_cum_end": "the same after the last step.",
    "gamma_cum_start": "probability, after the first step of the chain, that a token was masked.",
    "gamma_cum_end": "the same after the last step.",
    "compatibility": '"paper", or "diffusers" for the numbers of that library where they depart '
    "from the paper. No part of the configuration.",
    "xp": "framework of `timesteps` and tables, a name or a namespace; None for that of the "
    "device, else NumPy. No part of the configuration.",
}

# of methods: `plan`, `set_timesteps`, `step`
CALLS: Mapping[str, str] = {
    "num_inference_steps": "number of steps; in place of it timesteps or sigmas.",
    "timesteps": "explicit times that the network is told, decreasing.",
    "sigmas": "explicit levels, decreasing.",
    "strength": "part of the steps to take, the last ones, in (0, 1]: image to image.",
    "device": "where `timesteps` go; a string or torch.device means PyTorch.",
    "xp": "framework of `timesteps`, a name or a namespace.",
    "mu": "what use_dynamic_shifting makes the shift of; pipelines compute it.",
    "original_inference_steps": "as in the constructor, for this run.",
    "num_train_timesteps": "as in the constructor, for this run.",
    "sampling_eps": "as in the constructor, for this run.",
    "generator": "where noise comes from: a native generator or key, one per sample in a list, "
    "an int or `cmsched.Rng`; None for fresh entropy.",
    "variance_noise": "the noise itself, like the sample.",
    "return_dict": "False for a tuple.",
    "order": "order of the multistep formula, from 1; lower in the first steps anyway.",
    "pred_original_sample": "an estimate of x0 in place of the network's output.",
    "per_token_timesteps": "times of each token, (batch, tokens), of which each steps down to its "
    "own next one.",
}

_ETA = "factor of the ancestral noise: 0 is deterministic, 1 the SDE's own."
_SOLVER_TYPE = OPTIONS["solver_type"]
_START = (
    "keep the sample that a step began with instead of reading it back out of later ones: an array"
    " more, for results that differ by roundings."
)

# of samplers; after the name of one of them what it means there
SAMPLERS: Mapping[str, str] = {
    **{k: OPTIONS[k] for k in ("s_churn", "s_noise", "solver_order", "solver_type", "third_order")},
    **{k: OPTIONS[k] for k in ("euler_at_final", "predict_x0", "disable_corrector", "sigma_data")},
    **{k: OPTIONS[k] for k in ("snr", "correct_steps", "per_sample", "lower_order_final")},
    "s_tmin": _CHURN_RANGE.format("above", "tmin"),
    "s_tmax": _CHURN_RANGE.format("below", "tmax"),
    "eta": _ETA,
    "ddim:eta": "part of the ancestral noise: 0 is deterministic, 1 is DDPM.",
    "repaint:eta": "part of the ancestral noise: 0 is deterministic, 1 is DDPM.",
    "tcd:eta": "gamma in the paper: how far below its end, as a part of its time, the "
    "deterministic part of a step goes before noise is added; 0 is deterministic.",
    "flow_sde:eta": "amount of noise, a in the paper; the law of the samples is the same.",
    "use_clipped_model_output": "whether eps is that of the clipped estimate.",
    "variance": 'variance of a step: "fixed_small", "fixed_large", "learned", ...; see '
    "variance_type of DDPMScheduler.",
    "draw_last": "also draw in a step that ends at a clean sample, as the reference does unless "
    "it starts at time 0.",
    "prediction_type": "what the network says, since its output is taken for the slope.",
    "spare": "levels that the reference counts as steps and does not take.",
    "dt": "length of every step; 0 for the distance of its times.",
    "corrector": 'None, or "unic": use each evaluation to correct the step before as well, one '
    "order more at no cost (arXiv:2302.04867); with options, as pairs.",
    "unipc:solver_type": 'the function B(h) of the paper: "bh1", h; "bh2", e^h - 1, better but '
    "on very few steps.",
    "ramp_down": "lower the order towards the end, to 1 in the last step.",
    "predict_v": "combine v where the network says it, not eps, as published code does.",
    "idle": "let the second evaluation wait where it is at the next step already.",
    "from_start": _START,
    "half_step": "where the middles of Runge-Kutta steps lie, in time from the ends; None for the "
    "middle.",
    "variable": 'what Heun\'s step is taken in: "ratio", sigma / alpha; "flow", sigma.',
    "late": "time by which the noise of jumps lies later, as in the reference.",
    "jump_length": "steps that a jump back to more noise goes up.",
    "jump_n_sample": "how often each stretch of jump_length is gone through; 1 for no jumps.",
    "aligned": "after a late start go on with the groups of the whole run.",
    "r": "where the middle of a step lies, as a part of it in lambda.",
    "rtol": "relative error that a step may make.",
    "atol": "absolute error that a step may make, in units of the sample.",
    "h_init": "length of the first step, in lambda.",
    "pcoeff": "proportional coefficient of the step-size controller.",
    "icoeff": "integral coefficient of the step-size controller.",
    "dcoeff": "derivative coefficient of the step-size controller.",
    "accept_safety": "least factor by which a step may shrink and still be accepted.",
}

# the parts of `cmsched.Scheduler`, by name
SCHEDULES: Mapping[str, str] = {
    "linear": "betas linear in the training step (DDPM, most pixel models).",
    "scaled_linear": "betas linear in their square roots (Stable Diffusion, SDXL).",
    "squaredcos_cap_v2": "betas of the cosine schedule (arXiv:2102.09672), at most 0.999.",
    "sigmoid": "betas on a sigmoid (GeoDiff).",
    "laplace": "betas of a Laplace distribution of log SNR (arXiv:2407.03297).",
    "exp": "betas of alpha_bar = exp(-12 t) (Shap-E).",
    "betas": "any of these, or betas of one's own: schedule_options trained_betas, beta_schedule, "
    "frame.",
    "cosine": "alpha = cos(pi t / 2), t in [0, 1]: continuous v models (arXiv:2202.00512).",
    "flow": "x = (1 - sigma) x0 + sigma eps, told num_train_timesteps sigma: rectified flow, "
    "Stable "
    "Diffusion 3, Flux.",
    "identity": "x = x0 + sigma eps, told sigma itself: EDM's D(x, sigma), with "
    'prediction_type="sample" (arXiv:2206.00364).',
    "logarithmic": "x = x0 + sigma eps, told factor log(sigma): 0.25 for EDM's raw network, with "
    'prediction_type="edm"; 250 for consistency models (arXiv:2303.01469).',
    "trigflow": "alpha = cos t, sigma = sigma_data sin t: sCM (arXiv:2410.11081).",
    "vp_sde": "variance-preserving SDE, t in [0, 1] (arXiv:2011.13456).",
    "ve_sde": "variance-exploding SDE, t in [0, 1] (arXiv:2011.13456).",
}
SPACINGS: Mapping[str, str] = {
    "linspace": "even in time, both ends among them.",
    "leading": "multiples of a whole stride of training steps, from 0 up.",
    "trailing": "even strides from the noisiest training step down: a good first choice.",
    "simple": "the same rounded to training steps (ComfyUI).",
    "ddim_uniform": 'as "leading" with steps_offset=1 (ComfyUI).',
    "normal": 'as "linspace", log-linear in sigma between training steps (k-diffusion).',
    "sgm_uniform": "even in time, the last of n + 1 left out (Stability AI).",
    "karras": "EDM's ramp with rho (arXiv:2206.00364, eq. 5): a good choice with sigma models.",
    "exponential": "even in log sigma.",
    "polyexponential": "log sigma is the power rho of an even ramp (k-diffusion).",
    "beta": "quantiles of Beta(a, b), denser at both ends (arXiv:2407.12173); needs SciPy.",
    "lu": "even in lambda = log(alpha / sigma), the solvers' name of exponential.",
    "laplace": "quantiles of Laplace(mu, beta) in log sigma (arXiv:2407.03297).",
    "kl_optimal": "even in atan sigma (arXiv:2404.14507, theorem 3.1).",
    "vp": "even in the time of the VP SDE (k-diffusion).",
    "linear_quadratic": "first even, then quadratic in sigma: flows of videos (Mochi, LTX-Video).",
    "ipndm": "levels of IPNDMScheduler, sin(pi s / 2)^2.",
    "ays_sd15": "a table optimised for Stable Diffusion 1.5 (arXiv:2404.14507), few steps.",
    "ays_sdxl": "the same for SDXL.",
    "ays_svd": "the same for Stable Video Diffusion.",
}
PREDICTIONS: Mapping[str, str] = {
    "epsilon": "the noise eps: Stable Diffusion 1, SDXL.",
    "sample": "the clean sample x0: EDM's D(x, sigma), distilled models.",
    "v_prediction": "alpha eps - sigma x0 of the scaled input (arXiv:2202.00512): Stable "
    "Diffusion 2, video models.",
    "flow_prediction": "eps - x0, the velocity of a flow whose time is noise: Stable Diffusion 3, "
    "Flux.",
    "data_flow_prediction": "x0 - eps, the velocity of a flow whose time is data: torchcfm, Mochi.",
    "score": "gradient of the log density, -eps / sigma (arXiv:2011.13456).",
    "scaled_score": "sigma times the score, -eps.",
    "trigflow": "sigma_data F of TrigFlow (arXiv:2410.11081).",
    "edm": "EDM's raw network F: x0 = c_skip x + c_out F (arXiv:2206.00364, table 1).",
    "edm_v": "the negative of it.",
    "consistency": "raw network of a consistency model, whose x0 is x at sigma_min "
    "(arXiv:2303.01469, appendix C).",
}
