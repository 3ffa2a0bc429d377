"""Classifier-free guidance against its formulas."""

import numpy as np
import pytest

import cmsched
from cmsched.guidance import guide, rescale_guidance


def pair(x, t):
    """A model whose unconditional half is x / 2 and whose conditional half is x + t."""
    n = x.shape[0] // 2
    return np.concatenate([0.5 * x[:n], x[n:] + t])


def test_mixes_the_halves(xp):
    host = np.random.default_rng(0).standard_normal((3, 2, 4))

    def model(x, t):
        assert x.shape == (6, 2, 4)
        return xp.xp.concat([x[:3, ...] * 0.5, x[3:, ...] + t])

    x = xp.asarray(host)
    for scale in (0.0, 1.0, 7.5):
        found = xp.numpy(guide(model, scale)(x, xp.asarray(np.asarray(2.0))))
        np.testing.assert_allclose(found, 0.5 * host + scale * (host + 2 - 0.5 * host), rtol=1e-6)


def test_times_per_row_are_doubled():
    seen = []

    def model(x, t):
        seen.append(t)
        return x

    guide(model, 2.0)(np.ones((2, 3)), np.array([5, 7]))
    assert seen[0].tolist() == [5, 7, 5, 7]


def test_rescaling_gives_the_conditional_spread(xp):
    rng = np.random.default_rng(1)
    guided, conditional = 5 * rng.standard_normal((2, 3, 8)), rng.standard_normal((2, 3, 8))
    full = xp.numpy(rescale_guidance(xp.asarray(guided), xp.asarray(conditional), 1.0))
    np.testing.assert_allclose(full.std(axis=(1, 2)), conditional.std(axis=(1, 2)), rtol=1e-6)
    part = xp.numpy(rescale_guidance(xp.asarray(guided), xp.asarray(conditional), 0.7))
    np.testing.assert_allclose(part, 0.7 * full + 0.3 * guided, rtol=1e-6)


@pytest.mark.peers
def test_agrees_with_diffusers():
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    a, b = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(rescale_guidance(a, b, 0.7), rescale_noise_cfg(a, b, 0.7))
    found = cmsched.guidance.rescale_noise_cfg(noise_cfg=a, noise_pred_text=b, guidance_rescale=0.7)
    torch.testing.assert_close(found, rescale_noise_cfg(a, b, 0.7))
    torch.testing.assert_close(cmsched.guidance.rescale_noise_cfg(a, b), a)


@pytest.mark.parametrize("rescale", [-0.1, 1.5])
def test_bad_rescale(rescale):
    with pytest.raises(ValueError, match=r"rescale must lie in \[0, 1\]"):
        guide(pair, 3.0, rescale=rescale)


def test_output_without_both_halves():
    with pytest.raises(ValueError, match="batch of 4"):
        guide(lambda x, t: x[:2], 3.0)(np.ones((2, 3)), np.asarray(1))
