"""Classifier-free guidance around a model, on any framework."""

from collections.abc import Callable
from typing import Any

from .backends import A, resolve

__all__ = ["guide", "rescale_guidance", "rescale_noise_cfg"]

Array = Any


def guide(model: Callable[[A, A], A], scale: Any, *, rescale: float = 0.0) -> Callable[[A, A], A]:
    """Return a model(x, t) whose output is u + scale (c - u) (arXiv:2207.12598, eq. 6).

    Args:
        model: called once with a batch of twice the size, [x, x]; returns its outputs, the
            unconditional half u first, then the conditional half c (close over the two conditions,
            in this order).
        scale: 0 gives u, 1 gives c; usual values are 3 to 10. Or an array of one for each sample,
            of shape (batch,), or of what broadcasts to the outputs.
        rescale: see `rescale_guidance`; 0 for none, 0.7 is usual with zero terminal SNR.

    Raises:
        ValueError: rescale outside [0, 1], or an output without twice the batch.
    """
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(f"rescale must lie in [0, 1], got {rescale}")

    def guided(x: Array, t: Array) -> Array:
        backend = resolve(x)
        xp, batch = backend.xp, x.shape[0]
        output = model(xp.concat([x, x]), xp.concat([t, t]) if len(t.shape) else t)
        if output.shape[0] != 2 * batch:
            raise ValueError(
                f"a guided model gets a batch of {2 * batch} ([x, x]) and must return as many"
                f" outputs, got {output.shape[0]}"
            )
        unconditional, conditional = output[:batch, ...], output[batch:, ...]
        shape = tuple(getattr(scale, "shape", ()))
        each = shape == (batch,) and len(x.shape) > 1
        size = xp.reshape(scale, (batch, *(1,) * (len(x.shape) - 1))) if each else scale
        mixed = unconditional + size * (conditional - unconditional)
        return rescale_guidance(mixed, conditional, rescale) if rescale else mixed

    return guided


def rescale_guidance(guided: A, conditional: A, rescale: float) -> A:
    """Return the guided output with each sample's spread moved towards the conditional one's.

    rescale * (guided std(conditional) / std(guided)) + (1 - rescale) * guided (arXiv:2305.08891,
    eq. 15 and 16).

    Args:
        guided: output with guidance, of shape (batch, ...).
        conditional: output of the condition alone, like guided.
        rescale: 0 leaves guided, 1 gives each sample the spread of conditional; 0.7 is usual.
    """
    xp = resolve(guided).xp
    axes = tuple(range(1, len(guided.shape)))
    ratio = xp.std(conditional, axis=axes, keepdims=True) / xp.std(guided, axis=axes, keepdims=True)
    moved: A = guided * (rescale * ratio + (1.0 - rescale))
    return moved


def rescale_noise_cfg(
    noise_cfg: Array, noise_pred_text: Array, guidance_rescale: float = 0.0
) -> Array:
    """Do `rescale_guidance` under the name and with the arguments that pipelines have for it."""
    return rescale_guidance(noise_cfg, noise_pred_text, guidance_rescale)
