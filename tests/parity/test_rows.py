"""Steps of many rows at once, and their variances, against diffusers."""

import itertools

import pytest

import cmsched

from . import runs
from .lifted import Draws, reference
from .test_parity import INSTALLED, LIFTED, error, size

pytestmark = pytest.mark.peers

OPTIONS = [
    {"prediction_type": kind, "timestep_spacing": spacing, **projection}
    for (kind, spacing), projection in zip(
        itertools.product(("epsilon", "sample", "v_prediction"), ("leading", "trailing")),
        itertools.cycle(
            [{}, {"clip_sample": False}, {"thresholding": True, "sample_max_value": 1.5}]
        ),
        strict=False,
    )
]
VARIANCES = ("fixed_small", "fixed_large", "learned_range")


@pytest.mark.parametrize("lifted", [True, False], ids=["lifted", "installed"])
@pytest.mark.parametrize("name", ["DDIMParallelScheduler", "DDPMParallelScheduler"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_batch_step_no_noise(name: str, options: dict, lifted: bool) -> None:
    """20 divides 1000: where a stride is not the next timestep, it is a declared difference."""
    dtype = runs.dtype_of(lifted)
    for variance, n in zip(VARIANCES, (1, 5, 20), strict=True):
        more = {"variance_type": variance} if name.startswith("DDPM") else {}
        double = 2 if more and variance.startswith("learned") else 1
        mine = getattr(cmsched, name)(**options, **more, compatibility="diffusers", xp="torch")
        x = runs.normal((2 * n, 3, 5, 4), dtype, 1)
        m = runs.normal((2 * n, 3 * double, 5, 4), dtype, 2)
        with reference(name, Draws(), lifted=lifted) as cls:
            ref = cls(**options, **more)
            for scheduler in (ref, mine):
                scheduler.set_timesteps(n)
            t = ref.timesteps.repeat(2)
            choices: list[dict] = [{}]
            if name.startswith("DDIM"):
                choices.append({"use_clipped_model_output": True})
            for choice in choices:
                expected = ref.batch_step_no_noise(m, t, x, **choice)
                found = mine.batch_step_no_noise(m, t, x, **choice)
                assert found.dtype == expected.dtype
                scale = max(size(expected), size(x))
                assert error(found, expected, scale) <= (LIFTED if lifted else INSTALLED)


@pytest.mark.parametrize("name", ["DDIMParallelScheduler", "DDPMParallelScheduler"])
def test_variance(name: str) -> None:
    with reference(name, Draws(), lifted=True) as cls:
        ref, mine = cls(), getattr(cmsched, name)(compatibility="diffusers", xp="torch")
        for scheduler in (ref, mine):
            scheduler.set_timesteps(30)
        for t in ref.timesteps:
            assert mine._get_variance(t) == pytest.approx(float(ref._get_variance(t)), rel=1e-9)
            if name.startswith("DDIM"):
                for other in (int(t) - 7, -1):
                    found, expected = mine._get_variance(t, other), ref._get_variance(t, other)
                    assert found == pytest.approx(float(expected), rel=1e-9)
        assert mine._is_ode_scheduler == ref._is_ode_scheduler
