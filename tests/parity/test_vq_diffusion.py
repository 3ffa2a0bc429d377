"""VQ-Diffusion against diffusers' class: every step, the same Gumbel noise, tables, defects.

Its float32 is lifted to float64 by rebinding `torch` inside its module; what it draws, uniforms, is
then fed by a queue, and handed to the other side as 1 - u.
"""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import cmsched
from cmsched import discrete

from .lifted import StandIn

pytestmark = pytest.mark.peers

TABLES = [f"log_{kind}{name}" for kind in ("", "cumprod_") for name in ("at", "bt", "ct")]
CHAINS = {
    "paper": {"num_vec_classes": 7},
    "wide": {"num_vec_classes": 4097, "num_train_timesteps": 12},
    "short": {"num_vec_classes": 3, "num_train_timesteps": 5},
    "strong": {
        **{"num_vec_classes": 6, "num_train_timesteps": 20, "alpha_cum_start": 0.9},
        **{"alpha_cum_end": 0.1, "gamma_cum_start": 0.04, "gamma_cum_end": 0.7},
    },
    "no mask at first": {"num_vec_classes": 4, "num_train_timesteps": 9, "gamma_cum_start": 0.0},
    "all lost": {"num_vec_classes": 4, "num_train_timesteps": 9, "alpha_cum_end": 0.0},
}
chains = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
precisions = pytest.mark.parametrize("lifted", [True, False], ids=["lifted", "installed"])


class Uniforms:
    """Replaces `torch.rand`: float32 uniforms, kept."""

    def __init__(self):
        self.rng, self.last = np.random.default_rng(0), None

    def __call__(self, shape, **_):
        self.last = torch.from_numpy(self.rng.random(tuple(shape), np.float32))
        return self.last


class Lifted(torch.Tensor):
    """A tensor whose `float` keeps float64."""

    def float(self):
        return self.double()


@contextmanager
def reference(chain, lifted, draws=None):
    """The reference with its tables and one-hot vectors in float64, or as installed."""
    import diffusers.schedulers.scheduling_vq_diffusion as module

    names = {} if draws is None else {"rand": draws}
    functional = module.F
    if lifted:
        names["tensor"] = lambda *args: torch.tensor(*args).as_subclass(Lifted)
        module.F = StandIn(
            functional, one_hot=lambda *args: functional.one_hot(*args).as_subclass(Lifted)
        )
    module.torch = StandIn(torch, **names)
    try:
        with np.errstate(divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield module.VQDiffusionScheduler(**chain)
    finally:
        module.torch, module.F = torch, functional


def outputs(ours, pixels=6, seed=0):
    """Log probabilities and tokens, masked and not, of the likeliest class and the unlikeliest."""
    rng = np.random.default_rng(seed)
    x = 2.0 * rng.standard_normal((2, ours.mask_class, pixels))
    p = x - np.log(np.sum(np.exp(x), axis=1, keepdims=True))
    tokens = rng.integers(0, ours.num_embed, (2, pixels))
    tokens[:, 0] = ours.mask_class
    tokens[:, 1], tokens[:, 2] = np.argmax(p[:, :, 1], axis=1), np.argmin(p[:, :, 2], axis=1)
    return torch.from_numpy(p), torch.from_numpy(tokens)


def share_tables(theirs, ours):
    """Give the reference our tables: its own beta has lost digits, see below."""
    for name in TABLES:
        setattr(theirs, name, torch.from_numpy(np.asarray(getattr(ours, name))))


def close(found, expected, tolerance):
    """Where its log 0 is -inf, ours is below log 1e-26, which no Gumbel noise makes up for."""
    zero = expected == -torch.inf
    assert torch.all(found[zero] < -60)
    torch.testing.assert_close(found[~zero], expected[~zero], rtol=tolerance, atol=tolerance)


@precisions
@chains
def test_the_posterior(chain, lifted):
    ours = cmsched.VQDiffusionScheduler(**chain)
    p, x = outputs(ours)
    p = p if lifted else p.float()
    with reference(chain, lifted) as theirs:
        if lifted:
            share_tables(theirs, ours)
        for t in range(1, len(ours)):
            expected, found = theirs.q_posterior(p, x, t), ours.q_posterior(p, x, t)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            tolerance = 1e-9 if lifted else 1e-4
            close(found, expected, tolerance)
            for cumulative in (True, False):
                hot = torch.log(torch.nn.functional.one_hot(x, ours.num_embed).clamp(min=1e-30))
                hot = hot.permute(0, 2, 1).to(p.dtype)
                args = {"t": t, "x_t": x, "log_onehot_x_t": hot, "cumulative": cumulative}
                expected = theirs.log_Q_t_transitioning_to_known_class(**args)
                found = ours.log_Q_t_transitioning_to_known_class(**args)
                close(found, expected, tolerance)
        for t in range(-1, len(ours)):
            expected = theirs.apply_cumulative_transitions(p, t)
            found = ours.apply_cumulative_transitions(p, t)
            close(found, expected, tolerance)


@precisions
@chains
def test_every_step(chain, lifted):
    """The tokens of a whole loop, with the same noise; the reference's own tables as well."""
    ours, draws = cmsched.VQDiffusionScheduler(**chain), Uniforms()
    with reference(chain, lifted, draws) as theirs:
        for n in sorted({len(ours), len(ours) // 2}):
            for scheduler in (ours, theirs):
                scheduler.set_timesteps(n, "cpu")
            assert torch.equal(ours.timesteps, theirs.timesteps)
            assert ours.num_inference_steps == theirs.num_inference_steps
            _, x = outputs(ours)
            for i, t in enumerate(ours.timesteps):
                p = outputs(ours, seed=i)[0]
                p = p if lifted else p.float()
                expected = theirs.step(p, t, x)
                noise = lambda *_: 1 - draws.last  # noqa: E731
                found = ours.step(p, t, x, generator=noise)
                assert torch.equal(found.prev_sample, expected.prev_sample), t
                assert torch.equal(ours.step(p, t, x, noise, False)[0], expected[0])
                x = expected.prev_sample
            assert torch.all(x < ours.mask_class)


def test_the_same_generator_gives_the_same_tokens():
    """As installed, nothing patched: a torch.Generator and the reference's pipeline's loop."""
    with reference({"num_vec_classes": 33}, False) as theirs:
        ours = cmsched.VQDiffusionScheduler.from_config(dict(theirs.config))
        tokens = []
        for scheduler in (ours, theirs):
            generator = torch.Generator().manual_seed(5)
            scheduler.set_timesteps(20, device="cpu")
            x = torch.full((3, 40), 32)
            for i, t in enumerate(scheduler.timesteps):
                p = outputs(ours, 40, i)[0].float()
                p = torch.cat([p, p[:1]]).clamp(-70)
                x = scheduler.step(p, timestep=t, sample=x, generator=generator).prev_sample
            tokens.append(x)
        assert torch.equal(*tokens)


@chains
def test_the_tables_and_what_the_reference_loses(chain):
    """In float64 they agree but for beta of a step, its 1 - alpha - gamma: that is 1e-8 wrong."""
    ours = cmsched.VQDiffusionScheduler(**chain)
    with reference(chain, True) as theirs:
        for name in TABLES:
            expected, found = getattr(theirs, name).numpy(), np.asarray(getattr(ours, name))
            assert expected.dtype == np.float64
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if "bt" in name else 1e-9)
        if chain == CHAINS["paper"]:
            lost = np.abs(theirs.log_bt.numpy() - np.asarray(ours.log_bt))
            assert np.max(lost) > 1e-9
    with reference(chain, False) as theirs:
        for name in TABLES:
            expected, found = getattr(theirs, name).numpy(), np.asarray(getattr(ours, name))
            np.testing.assert_allclose(found, expected, rtol=2e-7, atol=2e-6)


def test_rows_of_the_reference_and_ours():
    """float32, 4096 classes: its rows sum to one as ours do, and no better."""
    chain = {"num_vec_classes": 4097}
    ours = cmsched.VQDiffusionScheduler(**chain)
    p, x = outputs(ours)
    with reference(chain, False) as theirs:
        worst = {}
        for name, scheduler in (("ours", ours), ("theirs", theirs)):
            q = [scheduler.q_posterior(p.float(), x, t).double() for t in range(1, 100)]
            worst[name] = max(float((q.exp().sum(dim=1) - 1).abs().max()) for q in q)
    assert worst["ours"] < 1e-5
    assert worst["ours"] < 1.5 * worst["theirs"]


def test_where_the_reference_gives_nan():
    """Processes it accepts: nothing replaced, or a single time. Here they are errors."""
    for chain in ({"alpha_cum_start": 0.5, "gamma_cum_start": 0.5}, {"num_train_timesteps": 1}):
        chain = {"num_vec_classes": 4, **chain}
        with reference(chain, False) as theirs:
            p, x = torch.log(torch.full((1, 3, 1), 1 / 3)), torch.tensor([[0]])
            assert not torch.all(torch.isfinite(theirs.q_posterior(p, x, 0)))
        with pytest.raises(ValueError, match=r"alpha_cum_start|num_train_timesteps"):
            cmsched.VQDiffusionScheduler(**chain)


def test_the_noise_formulas_agree():
    """Its 1e-30 does nothing where u is in (0, 1): float32 has no such u."""
    u = torch.rand(10000, generator=torch.Generator().manual_seed(0)).clamp(min=2.0**-24)
    theirs = -torch.log(-torch.log(u + 1e-30) + 1e-30)
    ours = -torch.log(-torch.log1p(-(1 - u)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert float(torch.log(torch.tensor(1e-30, dtype=torch.float64))) == discrete.LOG_ZERO
