"""A plan and a model as the sampler of a job."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backends import named
from ..engine import sample
from ..noise import Rng

__all__ = ["Sampler"]


class Sampler:
    """A plan and a model as the sampler of a job: of numbered noise, numbered samples.

    Any function of a `cmsched.Rng`, whose `sample` are the numbers, to a dict of arrays does as
    well; a method `describe()`, if it has one, says what belongs to the job, and an attribute `xp`
    which framework its bits depend on.

    Args:
        plan: the plan.
        model: of (x, t), or with classes of (x, t, labels).
        shape: of one sample.
        xp: the framework: "numpy", "torch", "jax", ...
        dtype: of the noise.
        device: as the framework takes it.
        finish: what becomes of the samples, such as decoding to uint8.
        classes: how many; then samples have the label number % classes, also stored as `label`.
        name: says which model it is, in the store; include a digest of its weights.
    """

    def __init__(
        self,
        plan: Any,
        model: Callable[..., Any],
        shape: tuple[int, ...],
        *,
        xp: str = "numpy",
        dtype: str = "float32",
        device: Any = None,
        finish: Callable[[Any], Any] | None = None,
        classes: int | None = None,
        name: str = "",
    ) -> None:
        self.plan, self.model, self.shape = plan, model, tuple(shape)
        self.xp, self.dtype, self.device = xp, dtype, device
        self.finish, self.classes, self.name = finish, classes, name

    def describe(self) -> dict[str, Any]:
        """Return what belongs to the job."""
        found: dict[str, Any] = {
            "name": self.name,
            "shape": self.shape,
            "xp": self.xp,
            "dtype": self.dtype,
            "classes": self.classes,
        }
        if getattr(self.plan, "traced", False):
            text = self.plan.to_json()
            found["plan"] = hashlib.sha256(text.encode()).hexdigest()
        else:
            found["plan"] = repr(self.plan)
        return found

    def __call__(self, rng: Rng) -> dict[str, Any]:
        """Make the samples of these numbers."""
        numbers = np.asarray(rng.sample)
        backend = named(self.xp)
        shape = (len(numbers), *self.shape)
        noise = rng.normal(shape, xp=self.xp, dtype=self.dtype, device=self.device)
        if self.classes is None:
            x = sample(self.model, self.plan, noise, rng=rng)
            made = {"samples": x}
        else:
            labels = numbers % self.classes
            own = backend.to_device_of(labels, noise, backend.default_int)
            x = sample(lambda x, t: self.model(x, t, own), self.plan, noise, rng=rng)
            made = {"samples": x, "label": labels}
        return made if self.finish is None else {**made, "samples": self.finish(x)}
