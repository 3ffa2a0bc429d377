"""What runs: no checker may reject a line of this."""

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import cmsched
from cmsched import DDIMScheduler, LCMScheduler, Plan, Rng, Scheduler, State

Host = npt.NDArray[np.float32]


def model(x: Host, t: Any) -> Host:
    return x * np.float32(0.5)


noise: Host = np.zeros((2, 3), dtype=np.float32)

scheduler = LCMScheduler(beta_schedule="linear", original_inference_steps=25, beta_end=1)
assert_type(scheduler.plan(4), Plan)
LCMScheduler(prediction_type="V", trained_betas=np.full(1000, 0.01), clip_sample=None)
LCMScheduler(1000, 0.001, 0.01, "linear", compatibility="diffusers", xp="numpy")
plan = DDIMScheduler().plan(20, eta=0.5, use_clipped_model_output=True, strength=0.5)
cmsched.EulerDiscreteScheduler().plan(sigmas=[10.0, 1.0], s_churn=2)
cmsched.EulerDiscreteScheduler(sigma_max=80, use_karras_sigmas=True)
cmsched.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).plan(4, mu=1)
cmsched.UniPCMultistepScheduler(disable_corrector=[0, 1], solver_p=DDIMScheduler())
cmsched.DPMSolverMultistepScheduler(algorithm_type="deis", solver_type="bh2", variance_type=None)
cmsched.VQDiffusionScheduler(num_vec_classes=10)
Scheduler("euler", "identity", spacing="karras", spacing_options={"rho": 5.0}, sigma_max=80)
Scheduler(recipe=DDIMScheduler().recipe())
assert_type(LCMScheduler.from_config({}), LCMScheduler)
assert_type(DDIMScheduler.from_pretrained("folder", subfolder="scheduler"), DDIMScheduler)
DDIMScheduler.from_config(dict(scheduler.config), beta_end=0.01)
DDIMScheduler.from_config({}, return_unused_kwargs=True)[1]

assert_type(cmsched.sample(model, plan, noise, rng=0), Host)
assert_type(cmsched.sample(lambda x, t: x, plan.on(noise), noise, rng=Rng(0)), Host)
state = cmsched.init(plan, noise, x0=noise)
assert_type(state, State[Host])
x, t = cmsched.model_input(plan, state)
assert_type(x, Host)
assert_type(cmsched.step(plan, state, model(x, t), rng=0).sample, Host)
assert_type(cmsched.estimate(plan, state, noise).x0, Host)
assert_type(cmsched.take(state, slice(1)), State[Host])
for step in cmsched.trajectory(model, plan, noise):
    assert_type(step.sample, Host)

scheduler.set_timesteps(4, "cpu", original_inference_steps=20)
scheduler.set_timesteps(num_inference_steps=4, xp="numpy")
scheduler.set_timesteps(timesteps=[999, 499])
for t in scheduler.timesteps:
    assert_type(scheduler.step(noise, t, noise, generator=0).prev_sample, Host)
    assert_type(scheduler.step(noise, t, noise, return_dict=False), tuple[Host, ...])
    DDIMScheduler().step(noise, t, noise, 0.5, False, None, None, False)


def annotated(state: State, plan: Plan) -> State:  # no argument is asked for
    return state
