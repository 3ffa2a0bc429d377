"""The tables of betas: with compatibility="diffusers" those of the reference, to the bit."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import cmsched

from .grid import given_betas
from .lifted import Draws, module, own_tables, reference
from .spaces import SPACES

pytestmark = pytest.mark.peers

ENDS = ((0.0001, 0.02), (0.00085, 0.012), (1e-6, 0.1))
COUNTS = (2, 7, 60, 1000)
CLASSES = [
    name
    for name, space in SPACES.items()
    if "alphas_cumprod" in space.tables and "Decoder" not in name
]


def configurations(name: str) -> list[dict[str, Any]]:
    """Every schedule of a class, with what else there is to its table."""
    cls = getattr(cmsched, name)
    kinds = cls.choices.get("beta_schedule", ())
    named = [
        {"beta_schedule": kind, "num_train_timesteps": n, "beta_start": low, "beta_end": high}
        for kind, n, (low, high) in itertools.product(kinds, COUNTS, ENDS)
    ]
    trained = [
        {"trained_betas": given_betas({"num_train_timesteps": n}), "num_train_timesteps": n}
        for n in COUNTS
    ]
    more: list[dict[str, Any]] = [{}]
    if "snr_shift_scale" in cls.options:
        more = [{"snr_shift_scale": scale} for scale in (3.0, 1.7)]
    if "rescale_betas_zero_snr" in cls.options:
        more += [{**each, "rescale_betas_zero_snr": True} for each in more]
    if "original_inference_steps" in cls.options:
        more = [{**each, "original_inference_steps": 2} for each in more]
    return [{**a, **b} for a in (*named, *trained) for b in more]


def pairs(name: str, options: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """The tables of this configuration by name: ours, of float64, and the reference's."""
    theirs = dict(options)
    if name == "RePaintScheduler" and "trained_betas" in options:
        theirs["trained_betas"] = np.array(options["trained_betas"])
    with reference(name, Draws(), lifted=False) as cls, own_tables(lifted=False):
        ref = cls(**theirs)
        mine = getattr(cmsched, name)(**options, compatibility="diffusers", xp="torch")
        for table in ("alphas_cumprod", "betas", "alphas"):
            if table in SPACES[name].tables:
                assert getattr(mine, table).dtype == torch.float64
                yield table, getattr(mine, table), getattr(ref, table)


@pytest.mark.parametrize("name", CLASSES)
def test_tables_are_those_of_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit where they are of float32; alphas are 1 - beta, and not rounded.

    But for an exponential that torch rounds otherwise now and then; and given a root that is
    rounded as IEEE 754 has it, which torch's is on some processors only.
    """
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: (x.double() ** 0.5).to(x.dtype))
    for options in configurations(name):
        for table, found, expected in pairs(name, options):
            if expected.dtype == torch.float64:
                assert torch.allclose(found, expected, rtol=1e-11, atol=1e-15), (options, table)
            elif options.get("beta_schedule") == "sigmoid":
                assert torch.allclose(found.float(), expected, rtol=1e-5, atol=1e-30), options
            else:
                found = found.float().double() if table == "alphas" else found
                assert torch.equal(found, expected.double()), (options, table)


def test_the_decoder_has_the_tables_of_the_reference() -> None:
    with own_tables(lifted=False):
        scheduler = cmsched.ConsistencyDecoderScheduler(compatibility="diffusers")
        found = scheduler.recipe().discretization.schedule.alphas_cumprod
    betas = module("ConsistencyDecoderScheduler").betas_for_alpha_bar(1024)
    np.testing.assert_array_equal(found, torch.cumprod(1 - betas, 0).double())


@pytest.mark.parametrize("name", CLASSES)
def test_tables_of_the_paper_are_of_float64(name: str) -> None:
    """And are those of the reference once it is lifted."""
    with own_tables(lifted=False), reference(name, Draws(), lifted=True) as cls:
        ref, mine = cls(), getattr(cmsched, name)(xp="torch")
        found, expected = mine.alphas_cumprod, ref.alphas_cumprod
    assert torch.allclose(found, expected, rtol=1e-11)
    assert not torch.equal(found, found.float().double())


def test_levels_are_of_float64() -> None:
    """What is made of a table is not rounded again."""
    with own_tables(lifted=False):
        scheduler = cmsched.DDIMScheduler(compatibility="diffusers")
        schedule, bar = scheduler.schedule, scheduler.alphas_cumprod
    for t in (0, 1, 500, 999):
        at = schedule.at(t=float(t))
        assert at.alpha**2 == pytest.approx(bar[t], rel=1e-15)
        assert at.sigma**2 == pytest.approx(1 - bar[t], rel=1e-12)
