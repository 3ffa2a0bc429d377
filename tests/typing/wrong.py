"""What does not run: every checker must reject every statement below the marker."""

from typing import Any

import numpy as np
import numpy.typing as npt

import cmsched

Host = npt.NDArray[np.float32]


def model(x: Host, t: Any) -> Host:
    return x


noise: Host = np.zeros((2, 3), dtype=np.float32)
plan = cmsched.DDIMScheduler().plan(4)
state = cmsched.init(plan, noise)
euler = cmsched.EulerDiscreteScheduler()

# wrong from here on

cmsched.LCMScheduler(beta_shedule="linear")
cmsched.LCMScheduler(beta_schedule="lineer")
cmsched.LCMScheduler(num_train_timesteps="abc")
cmsched.LCMScheduler(num_train_timesteps=10.5)
cmsched.LCMScheduler(beta_start="0.1")
cmsched.LCMScheduler(prediction_type=3)
cmsched.LCMScheduler(compatibility="paper ")
cmsched.DPMSolverMultistepScheduler(solver_order=4)
cmsched.DPMSolverMultistepScheduler(algorithm_type="dpm")
cmsched.VQDiffusionScheduler()
cmsched.Scheduler(samplers="euler")
cmsched.Scheduler(sampler_options=3)
cmsched.LCMScheduler().plan(num_steps=3)
cmsched.LCMScheduler().plan("3")
euler.plan(20, eta=1.0)
euler.plan(20, s_churn="much")
euler.plan(20, strength="half")
euler.set_timesteps(steps=20)
euler.step(noise, 1, noise, etta=1.0)
euler.step(noise, 1, noise, s_churn="much")
cmsched.sample(model, plan, noise, seed=0)
cmsched.sample(model, cmsched.DDIMScheduler(), noise)
cmsched.sample(plan, model, noise)
cmsched.step(plan, noise, noise)
cmsched.init(plan, noise, x_0=noise)
cmsched.step(plan, state, noise).samples
cmsched.LCMSheduler
