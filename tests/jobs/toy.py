"""Samplers of jobs that tests run in other processes; what goes wrong is said by the environment.

TOY_FATAL is a folder: who makes one of the chunks that files in it name dies, once, by -9.
TOY_PIDS is a folder where each process leaves its number. TOY_SLOW is seconds a call.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np

import cmsched
from cmsched import jobs

NUMBER, CHUNK, BATCH = 150, 8, 4
SHAPE = (2, 3)


def model(x, t, labels):
    return 0.5 * np.tanh(x + 0.1 * labels.reshape(-1, 1, 1))


def sampler(**options):
    plan = cmsched.EulerAncestralDiscreteScheduler(**options).plan(5)
    return jobs.Sampler(plan, model, SHAPE, classes=3, name="toy")


class Troubled:
    """The sampler of `build`, and what the environment wants to happen."""

    def __init__(self):
        self.inner = sampler()
        self.describe, self.xp = self.inner.describe, self.inner.xp
        if folder := os.environ.get("TOY_PIDS"):
            (Path(folder) / str(os.getpid())).touch()

    def __call__(self, rng):
        time.sleep(float(os.environ.get("TOY_SLOW", 0)))
        if folder := os.environ.get("TOY_FATAL"):
            fatal = Path(folder) / str(rng.sample[0] // CHUNK)
            if fatal.exists():
                fatal.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(rng)


def build(place):
    return Troubled()


def other(place):
    """A sampler of another plan."""
    return sampler(beta_schedule="scaled_linear")


def open_job(path, build=build, **options):
    return jobs.open(
        path, **{"number": NUMBER, "chunk": CHUNK, "batch": BATCH, **options}, build=build
    )


def expected():
    """The arrays of the whole job, made at once, by no job."""
    plan = cmsched.EulerAncestralDiscreteScheduler().plan(5)
    rng = cmsched.Rng(0, sample=range(NUMBER))
    labels = np.arange(NUMBER) % 3
    noise = rng.normal((NUMBER, *SHAPE), dtype="float32")
    x = cmsched.sample(lambda x, t: model(x, t, labels), plan, noise, rng=rng)
    return {"samples": x, "label": labels}


if __name__ == "__main__":  # a driver that another process kills
    import sys

    print(jobs.run(open_job(sys.argv[1]), build, sys.argv[2], workers=2))
