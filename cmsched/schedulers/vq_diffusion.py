"""The stateful habit over tokens: VQ-Diffusion."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import discrete
from ..backends import Backend, resolve
from ..checks import check_count, host
from ..discrete import TokenPlan
from ..engine.checks import at_hand
from ..frozen import FrozenDict
from .config import REQUIRED, ConfigMixin
from .outputs import SchedulerOutput, VQDiffusionSchedulerOutput

__all__ = ["VQDiffusionScheduler"]

Array = Any


def _table(kind: int, cumulative: bool) -> Any:
    """Return the property that shows one table of the process."""
    what = ("is kept", "becomes a given class", "is masked")[kind]
    until = (
        "from the data to each step of the chain, the data last" if cumulative else "in each step"
    )
    doc = f"Log of the probability that a token {what} {until}."
    return property(lambda self: self.show(self._logs(cumulative)[kind]), doc=doc)


def is_chain(c: FrozenDict) -> None:
    """Raise where the options are those of no chain."""
    TokenPlan(**c)


class VQDiffusionScheduler(ConfigMixin):
    """VQ-Diffusion (arXiv:2111.14822): tokens are kept, replaced or masked, see `cmsched.discrete`.

    A step has no memory, and `step` may be called at any time of the chain. As in the reference, n
    steps are the last n of the chain, from time n - 1: their exact start is the same for every n,
    tokens that are all masked. The reference's tables are attributes: `log_at`, `log_bt` and
    `log_ct` of each step, `log_cumprod_at` ... of the marginals, where the last entry is the data.
    """

    order: ClassVar[int] = 1
    meanings: ClassVar = {
        "num_train_timesteps": "length of the chain.",
    }
    options: ClassVar = {
        "num_vec_classes": REQUIRED,
        "num_train_timesteps": 100,
        "alpha_cum_start": 0.99999,
        "alpha_cum_end": 0.000009,
        "gamma_cum_start": 0.000009,
        "gamma_cum_end": 0.99999,
    }
    relations = (is_chain,)
    output_class: ClassVar[type[SchedulerOutput]] = VQDiffusionSchedulerOutput

    _fresh: tuple[Backend | None, Any] = (None, None)  # the generator made of fresh entropy

    log_at, log_bt, log_ct = (_table(kind, False) for kind in range(3))
    log_cumprod_at, log_cumprod_bt, log_cumprod_ct = (_table(kind, True) for kind in range(3))

    @property
    def _whole(self) -> TokenPlan:
        """The whole chain: entry i is at time num_train_timesteps - 1 - i."""
        config = self.filled_config
        return _chain(*(config[name] for name in self.options))

    def plan(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[int] | None = None
    ) -> TokenPlan:
        """Return the steps of a run, for `discrete.sample` and `discrete.step`.

        Args:
            num_inference_steps: the last so many steps of the chain.
            timesteps: instead the times to visit, decreasing. Where some are left out, steps are
                longer (the paper's fast inference strategy).

        Raises:
            TypeError: a value of another kind.
            ValueError: both or neither are given, or they are not within the chain.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("plan takes exactly one of num_inference_steps and timesteps")
        if timesteps is None:
            n = check_count("num_inference_steps", num_inference_steps, len(self), FEWER)
            return replace(self._whole, timesteps=tuple(range(n))[::-1])
        times = np.asarray(host(timesteps))
        if times.ndim != 1 or not times.size:
            raise ValueError(f"timesteps must be a list of at least one time, got {timesteps!r}")
        return replace(self._whole, timesteps=tuple(times.tolist()))

    def set_timesteps(
        self, num_inference_steps: int, device: Any = None, *, xp: Any = None
    ) -> None:
        """Set the times of a run, before the loop: num_inference_steps - 1, ..., 1, 0.

        Args:
            num_inference_steps: at most the length of the chain.
            device: where `timesteps` go (a string or torch.device means PyTorch).
            xp: their framework, by default the constructor's, else the device's, else NumPy.

        Raises:
            ValueError, TypeError: the scheduler is unchanged then.
        """
        backend = self.framework(device, xp)
        n = check_count("num_inference_steps", num_inference_steps, len(self), FEWER)
        self.set_times(backend, np.arange(n - 1, -1, -1), device)
        self.num_inference_steps, self._fresh = n, (None, None)

    @property
    def timesteps(self) -> Array:
        """Times of a run, decreasing to 0; before `set_timesteps` the whole chain."""
        if self._timesteps is None:
            return self.show(np.arange(len(self) - 1, -1, -1))
        return self._timesteps

    @property
    def num_embed(self) -> int:
        """Number of classes, the mask among them."""
        return self._whole.num_vec_classes

    @property
    def mask_class(self) -> int:
        """The class of masked tokens, the last one."""
        return self._whole.mask_class

    def _logs(self, cumulative: bool) -> np.ndarray:
        """Return log alpha, log beta / K and log gamma at every time and, if cumulative, the data.

        Host float64, (3, times); -inf where a probability is 0.
        """
        chain, n = self._whole, len(self)
        if cumulative:
            rows = [chain.cumulative(t) for t in (*range(n), -1)]
        else:
            rows = [chain.between(t, t - 1) for t in range(n)]
        with np.errstate(divide="ignore"):
            logs: np.ndarray = np.log(np.array(rows).T)
        return logs

    def step(
        self,
        model_output: Array,
        timestep: Any,
        sample: Array,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Sample the tokens at the previous time.

        Args:
            model_output: the network's log probabilities of the clean classes, without the mask,
                floating (batch, num_vec_classes - 1, ...).
            timestep: the time, an int or an array of shape () or (batch,). At 0 the classes are
                drawn from the network's output itself.
            sample: the present tokens, integers (batch, ...).
            generator: where noise comes from: a native generator or key, a list with one per
                sample, an int or `cmsched.Rng`; None draws from fresh entropy (kept as `last_seed`;
                an error under JAX).
            return_dict: False for a tuple.

        Returns:
            An object with prev_sample, or a tuple.

        Raises:
            ValueError, TypeError: see `discrete.step`; the scheduler is unchanged then.
        """
        index = self._entry(timestep)
        seed, fresh = None, self._fresh
        if generator is None:
            backend = resolve(sample)
            if fresh[0] is not backend:
                generator, seed = self.noise_source(backend, backend.device(sample))
                fresh = backend, generator
            generator = fresh[1]
        drawn = discrete.step(self._whole, index, sample, model_output, rng=generator)
        if seed is not None:
            self.last_seed, self._fresh = seed, fresh
        return self.output_class(drawn) if return_dict else (drawn,)

    def q_posterior(self, log_p_x_0: Array, x_t: Array, t: Any) -> Array:
        """Return log p(x_{t-1} | x_t), (batch, num_vec_classes, ...); see `discrete.posterior`."""
        return discrete.posterior(self._whole, self._entry(t), log_p_x_0, x_t)

    def log_Q_t_transitioning_to_known_class(
        self, *, t: Any, x_t: Array, log_onehot_x_t: Array, cumulative: bool
    ) -> Array:
        """Return log q(x_t | each class) for the given x_t.

        Args:
            t: the time, an int or an array of shape () or (batch,).
            x_t: tokens (batch, ...).
            log_onehot_x_t: 0 at the class of each token and far below elsewhere, floating
                (batch, num_vec_classes, ...).
            cumulative: given x_0, (batch, num_vec_classes - 1, ...), instead of given x_{t-1},
                (batch, num_vec_classes, ...).
        """
        backend = discrete.check_tokens(self._whole, x_t)
        args = "log_onehot_x_t", log_onehot_x_t, self.num_embed
        one_hot = discrete.check_classes(backend, x_t, *args)
        masked = discrete.known(backend, x_t, self.mask_class)[1]
        same, other, _, mask = self._numbers(t, one_hot, cumulative)
        hot = one_hot[:, :-1, ...] > discrete.LOG_ZERO / 2
        log_q = discrete.log_transitions(backend, hot, masked, same, other, mask)
        return log_q if cumulative else backend.xp.concat([log_q, one_hot[:, -1:, ...]], axis=1)

    def apply_cumulative_transitions(self, q: Array, t: Any) -> Array:
        """Return log q(x_t), (batch, num_vec_classes, ...), for log probabilities q of x_0.

        t is a time, where -1 is the data itself.
        """
        backend = resolve(q)
        q = discrete.check_classes(backend, q[:, 0, ...], "q", q, self.mask_class)
        _, beta, alpha, gamma = self._numbers(t, q, True, -1)
        return discrete.spread(backend, q, alpha, beta, gamma)

    def _numbers(self, t: Any, like: Array, cumulative: bool, least: int = 0) -> list[Array]:
        """Return log alpha + beta / K, beta / K, alpha and gamma at t, to broadcast with `like`."""
        backend, (a, b, c) = resolve(like), self._logs(cumulative)
        table = np.maximum(np.stack([np.logaddexp(a, b), b, a, c], axis=1), discrete.LOG_ZERO)
        row = discrete.entry(
            backend,
            backend.to_device_of(table, like, like.dtype),
            self._time(t, least) % len(table),
        )
        shape = (-1,) + (1,) * (len(like.shape) - 1)
        return [backend.xp.reshape(row[..., k], shape) for k in range(4)]

    def _entry(self, timestep: Any) -> Any:
        """Return the number of the step of the whole chain at a time."""
        return len(self) - 1 - self._time(timestep)

    def _time(self, timestep: Any, least: int = 0) -> Any:
        """Return a time as an int where that waits for no device, or as the array it is."""
        t = timestep
        if hasattr(t, "shape") and hasattr(t, "dtype"):
            backend = resolve(t)
            if "int" not in backend.dtype_name(t.dtype):
                raise TypeError(f"timestep has dtype {t.dtype}: times of tokens are integers")
            if not at_hand(backend, t) or 0 in t.shape:
                return t
        elif isinstance(t, bool) or not isinstance(t, int):
            raise TypeError(f"timestep must be an integer or an array of integers, got {t!r}")
        low, high = (t, t) if isinstance(t, int) else (int(t.min()), int(t.max()))
        if low < least or high >= len(self):
            raise ValueError(
                f"timestep {low if low < least else high} is outside the chain: times are {least}"
                f" to {len(self) - 1}"
            )
        return low if isinstance(t, int) or t.shape == () else t

    def __len__(self) -> int:
        """Return the length of the chain."""
        return self._whole.num_train_timesteps


FEWER = ", the length of the chain (num_train_timesteps)"


@lru_cache(maxsize=64)
def _chain(*options: Any) -> TokenPlan:
    return TokenPlan(*options)
