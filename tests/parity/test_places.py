"""Where k-diffusion and diffusers put their noise levels, and what they make of an output."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
    SCMScheduler,
)
from diffusers.schedulers.scheduling_utils import AysSchedules

from cmsched import convert
from cmsched.predictions import Prediction
from cmsched.schedules import VPSDE, Betas, Cosine, Flow, Logarithmic, TrigFlow
from cmsched.spacings import SHIFTS, SPACINGS, place, shifted, stretched

from . import kdiffusion

pytestmark = pytest.mark.peers

COUNTS = (2, 3, 7, 20, 100)
# of levels up to 16 that end at 0, in the precision of the reference; "vp" starts ten times higher
ROUNDING = {"float32": 16 * 2**-23, "float64": 16 * 2**-52}
LATENT = Betas(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@pytest.fixture
def wide():
    """PyTorch in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize(
    ("ramp", "options"),
    [
        ("karras", {}),
        ("karras", {"rho": 3.0}),
        ("exponential", {}),
        ("polyexponential", {}),
        ("polyexponential", {"rho": 2.5}),
    ],
)
def test_k_diffusion_ramps(ramp, options, n):
    theirs = getattr(kdiffusion.load("sampling"), f"get_sigmas_{ramp}")
    expected = theirs(n, 0.03, 14.6, **options).numpy()
    found, off = [*SPACINGS[ramp].rule(n, 14.6, 0.03, **options), 0.0], ROUNDING["float64"]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=off)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("n", COUNTS)
def test_k_diffusion_vp(n):
    theirs = kdiffusion.load("sampling").get_sigmas_vp
    sde = VPSDE(beta_min=0.1, beta_max=20.0)
    for options in ({}, {"beta_d": 19.9, "beta_min": 0.1, "eps_s": 0.01}):
        ends = sde.at(t=1.0).ratio, sde.at(t=options.get("eps_s", 1e-3)).ratio
        got = [*SPACINGS["vp"].rule(n, *ends), 0.0]
        expected, off = theirs(n, **options).numpy(), 10 * ROUNDING["float64"]
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=off)
        by_time = [p.ratio for p in place("normal", n, sde)]  # the same thing, by time
        if not options:
            np.testing.assert_allclose(by_time, got[:-1], rtol=1e-10)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("n", COUNTS)
def test_k_diffusion_normal(n):
    """Its own times are float32."""
    external = kdiffusion.load("external")
    theirs = external.DiscreteSchedule(torch.tensor(np.array(LATENT.ratios)), quantize=False)
    points = place("normal", n, LATENT)
    levels = theirs.get_sigmas(n).numpy()
    found, off = [*(p.ratio for p in points), 0.0], ROUNDING["float32"]
    np.testing.assert_allclose(found, levels, rtol=1e-6, atol=off)
    times = theirs.sigma_to_t(torch.tensor([p.ratio for p in points])).numpy()
    np.testing.assert_allclose([p.t for p in points], times, atol=1e-9)


def test_align_your_steps():
    for ours, theirs in (
        ("ays_sd15", "StableDiffusion"),
        ("ays_sdxl", "StableDiffusionXL"),
        ("ays_svd", "StableDiffusionVideo"),
    ):
        points = place(ours, 10, LATENT)
        got, levels = [*(p.ratio for p in points), 0.0], [*AysSchedules[f"{theirs}Sigmas"]]
        if ours == "ays_sdxl":  # 0.113 beside timestep 13, where the schedule has 0.1114
            assert (levels.pop(9), got.pop(9)) == (
                0.113,
                pytest.approx(LATENT.ratios[13], rel=1e-5),
            )
        np.testing.assert_allclose(got, levels, rtol=4e-3, atol=ROUNDING["float32"])
        if f"{theirs}Timesteps" in AysSchedules:
            times = AysSchedules[f"{theirs}Timesteps"]
            np.testing.assert_allclose([p.t for p in points], times, atol=0.1)


@pytest.mark.parametrize("n", [1, *COUNTS])
def test_ipndm(n):
    theirs = IPNDMScheduler()
    theirs.set_timesteps(n)
    points = place("ipndm", n, Cosine())
    np.testing.assert_allclose([p.sigma for p in points], theirs.betas[:-1], atol=2e-7)
    np.testing.assert_allclose([p.alpha for p in points], theirs.alphas[:-1], atol=2e-4)
    np.testing.assert_allclose([p.t for p in points], theirs.timesteps, atol=2e-4)
    x, m = torch.randn(3), torch.randn(3)
    for point in points:  # what its history holds is the eps of a v-prediction
        x64, m64 = x.double().numpy(), m.double().numpy()
        eps = convert(m64, x64, point, "v_prediction", "epsilon")
        expected, off = x64 * point.sigma + m64 * point.alpha, ROUNDING["float64"]
        np.testing.assert_allclose(eps, expected, rtol=1e-12, atol=off)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("ramp", [None, "karras", "exponential", "beta"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shift": 3.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"shift": 2.0, "shift_terminal": 0.1},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_flow_matching(n, ramp, options):
    """Shift, stretch, then a ramp between the ends of that."""
    theirs = FlowMatchEulerDiscreteScheduler(
        **options, **({f"use_{ramp}_sigmas": True} if ramp else {})
    )
    mu = 0.7 if "use_dynamic_shifting" in options else None
    theirs.set_timesteps(n, mu=mu)
    shift = options.get("shift", 1.0)
    if mu:
        shift = SHIFTS[options.get("time_shift_type", "exponential")](mu)
    # its constructor shifts once, and set_timesteps a second time between the ends of that
    first = [p.sigma for p in place("linspace", 1000, Flow())]
    top, low = (shifted(first, shift) if mu is None else np.array(first))[[0, -1]]
    levels = shifted(np.linspace(top, low, n), shift)
    if "shift_terminal" in options:
        levels = stretched(levels, options["shift_terminal"])
    if ramp:
        levels = SPACINGS[ramp].rule(n, levels[0], levels[-1])
    np.testing.assert_allclose([*levels, 0.0], theirs.sigmas, rtol=2e-5, atol=2**-22)


def test_trigflow():
    """sCM: x0 = cos(t) x - sin(t) m."""
    theirs = SCMScheduler(sigma_data=0.5)
    theirs.set_timesteps(2)
    ours = TrigFlow(sigma_data=0.5)
    x, m = np.random.default_rng(0).normal(size=(2, 50))
    for t in (1.3, 0.4):
        at = ours.at(t=t)
        theirs.set_timesteps(1, timesteps=[t, 0.0], max_timesteps=None, intermediate_timesteps=None)
        out = theirs.step(torch.tensor(m), torch.tensor(t), torch.tensor(x))
        got = convert(m, x, at, Prediction("trigflow", sigma_data=0.5), "sample")
        np.testing.assert_allclose(got, out.pred_original_sample.numpy(), rtol=1e-6, atol=1e-6)
        assert (at.alpha, at.sigma) == pytest.approx((math.cos(t), 0.5 * math.sin(t)), rel=1e-12)


def test_edm():
    """EDM's scalings and times, and those of the cosine class."""
    edm, cosine = EDMEulerScheduler(), CosineDPMSolverMultistepScheduler(sigma_data=1.0)
    x, m = np.random.default_rng(1).normal(size=(2, 50))
    for sigma in (80.0, 3.0, 0.4, 0.002):
        at = Logarithmic(sigma_data=0.5).at(sigma=sigma)
        expected = edm.precondition_outputs(torch.tensor(x), torch.tensor(m), sigma).numpy()
        near = {"rtol": 1e-12, "atol": ROUNDING["float64"]}
        np.testing.assert_allclose(convert(m, x, at, "edm", "sample"), expected, **near)
        np.testing.assert_allclose(at.scale * x, edm.precondition_inputs(torch.tensor(x), sigma))
        assert at.t == pytest.approx(edm.precondition_noise(sigma).item(), rel=1e-6)
        at = Cosine(frame="ve", sigma_data=1.0).at(sigma=sigma)
        expected = cosine.precondition_outputs(torch.tensor(x), torch.tensor(m), sigma).numpy()
        np.testing.assert_allclose(convert(m, x, at, "v_prediction", "sample"), expected, **near)
        assert at.t == pytest.approx(cosine.precondition_noise(sigma).item(), rel=1e-6)
