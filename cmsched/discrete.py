"""Samplers over tokens, which no linear combination describes: VQ-Diffusion (arXiv:2111.14822).

A token is a class 0 .. K - 1 or the mask, class K. The process keeps it, replaces it by a random
class, or masks it, and what is masked stays so (eq. 7 and 8 of the paper):

    q(x_t = i | x_0 = j) = alpha [i = j] + beta / K,   q(x_t = mask | x_0) = gamma,

alpha + beta + gamma = 1, each linear in t. Here x_0 is the data, and time t has been through t + 1
steps of noise. A network gives log p(x_0 | x_t) over the K classes, and a step samples

    p(x_s | x_t) = q(x_t | x_s) sum_j q(x_s | x_0 = j) p(x_0 = j | x_t) / q(x_t | x_0 = j),   s < t

(eq. 11) by adding Gumbel noise to its logarithm and taking the largest; the last step samples
p(x_0 | x_t) itself. Arrays of tokens are (batch, ...), arrays over classes (batch, classes, ...).
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .backends import Backend, resolve
from .checks import check_count, check_nonnegative
from .engine.checks import at_hand, backend_of, check_index, check_kind
from .noise import standard_uniform

__all__ = ["TokenPlan", "log_transitions", "posterior", "sample", "spread", "step"]

Array = Any
Model = Callable[[Array, Array], Array]

LOG_ZERO = math.log(1e-30)  # stands for log 0 in arrays, as in the reference: no inf - inf
VERSION = "token plan 1"  # of its JSON
MOST = 1_000_000  # times
LEAST = 1e-12  # a smaller beta is what rounding left over


class Row(NamedTuple):
    """Logarithms of one step from time t to the earlier s."""

    same: float  # q(x_t = j | x_0 = j)
    other: float  # q(x_t = i | x_0 = j) for one i != j
    mask: float  # q(x_t = mask | x_0)
    step_same: float  # the same for q(x_t | x_s)
    step_other: float
    step_mask: float
    alpha: float  # of the marginal at s
    beta: float  # divided by K
    gamma: float


@dataclass(frozen=True)
class TokenPlan:
    """Which steps are taken, of which process: host numbers, immutable, hashable, picklable.

    Attributes:
        num_vec_classes: K + 1, the mask being the last one.
        num_train_timesteps: how many times there are.
        alpha_cum_start, alpha_cum_end: alpha at the first time and the last one.
        gamma_cum_start, gamma_cum_end: gamma there.
        timesteps: the times of the evaluations, decreasing; empty for all.

    Raises:
        TypeError: a value of another kind.
        ValueError: the numbers are not those of such a process, or times are not in it.
    """

    num_vec_classes: int
    num_train_timesteps: int
    alpha_cum_start: float
    alpha_cum_end: float
    gamma_cum_start: float
    gamma_cum_end: float
    timesteps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check."""
        if check_count("num_vec_classes", self.num_vec_classes) < 2:
            raise ValueError("num_vec_classes=1 is the mask alone: it must be at least 2")
        if (n := check_count("num_train_timesteps", self.num_train_timesteps, MOST)) < 2:
            raise ValueError("num_train_timesteps=1 has no first and last time: it must be over 1")
        for kind, end in itertools.product(("alpha", "gamma"), ("start", "end")):
            name = f"{kind}_cum_{end}"
            object.__setattr__(self, name, check_nonnegative(name, getattr(self, name)))
        for end, beta in zip(("start", "end"), self._beta, strict=True):
            if not beta > LEAST:
                raise ValueError(
                    f"alpha_cum_{end} + gamma_cum_{end} is {1 - beta}: it must be below 1, because"
                    " replaced tokens have the rest (say 1e-6), and it may not be 0"
                )
        if self.gamma_cum_start > self.gamma_cum_end:
            raise ValueError(
                f"gamma_cum_end={self.gamma_cum_end} is below gamma_cum_start="
                f"{self.gamma_cum_start}: no token is unmasked by the process"
            )
        if self.alpha_cum_start == 0.0 or self._replacing < -LEAST:
            raise ValueError(
                f"alpha_cum_start={self.alpha_cum_start}, alpha_cum_end={self.alpha_cum_end}: the"
                " ratio of tokens replaced (1 - alpha - gamma) to those kept (alpha) must not"
                " fall; lower alpha_cum_end or raise alpha_cum_start"
            )
        times = tuple(self.timesteps) or tuple(range(n))[::-1]
        if not all(isinstance(t, int | np.integer) and not isinstance(t, bool) for t in times):
            raise TypeError(f"timesteps must be integers, got {self.timesteps!r}")
        rising = any(t <= s for t, s in itertools.pairwise(times))
        if times[0] >= n or times[-1] < 0 or rising:
            raise ValueError(f"timesteps must decrease, from at most {n - 1} to at least 0")
        object.__setattr__(self, "timesteps", tuple(map(int, times)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the numbers, and no array."""
        return TokenPlan, tuple(getattr(self, field.name) for field in fields(self))

    def __len__(self) -> int:
        """Return the number of evaluations."""
        return len(self.timesteps)

    def to_json(self) -> str:
        """Return the plan as JSON, from which `from_json` makes an equal one.

        The rows are for readers without cmsched: see `docs/porting.md`.
        """
        made_of = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = [row._asdict() for row in self.rows]
        return json.dumps({"cmsched": VERSION, **made_of, "rows": rows}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "TokenPlan":
        """Return the plan that `to_json` wrote; a text that is not one raises ValueError."""
        try:
            data = json.loads(text)
            if data["cmsched"] != VERSION:
                raise ValueError(f'expected "cmsched": "{VERSION}", got {data["cmsched"]!r}')
            made_of = {field.name: data[field.name] for field in fields(cls)}
            return cls(**{**made_of, "timesteps": tuple(made_of["timesteps"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not a token plan: {type(error).__name__}: {error}") from error

    @property
    def mask_class(self) -> int:
        """The class of masked tokens."""
        return self.num_vec_classes - 1

    def skip(self, k: int) -> "TokenPlan":
        """Return the plan without its first k steps; the others draw the same noise as before."""
        if not 0 <= k < len(self):
            raise ValueError(f"k={k}: a plan of {len(self)} steps can skip 0 to {len(self) - 1}")
        return replace(self, timesteps=self.timesteps[k:])

    # the process; time -1 is the data

    @cached_property
    def _beta(self) -> tuple[float, float]:
        """Beta at the first time and the last one, to the last bit."""
        return (
            math.fsum((1.0, -self.alpha_cum_start, -self.gamma_cum_start)),
            math.fsum((1.0, -self.alpha_cum_end, -self.gamma_cum_end)),
        )

    @property
    def _replacing(self) -> float:
        return self.alpha_cum_start * self._beta[1] - self._beta[0] * self.alpha_cum_end

    def cumulative(self, t: int) -> tuple[float, float, float]:
        """Return alpha, beta / K and gamma of q(x_t | x_0)."""
        if t < 0:
            return 1.0, 0.0, 0.0
        w = t / (self.num_train_timesteps - 1)
        alpha = (1 - w) * self.alpha_cum_start + w * self.alpha_cum_end
        beta = (1 - w) * self._beta[0] + w * self._beta[1]
        gamma = (1 - w) * self.gamma_cum_start + w * self.gamma_cum_end
        return alpha, beta / self.mask_class, gamma

    def between(self, t: int, s: int) -> tuple[float, float, float]:
        """Return alpha, beta / K and gamma of q(x_t | x_s) for s < t.

        1 - alpha - gamma would be rounding alone: differences are taken of the linear functions.
        """
        if s < 0:
            return self.cumulative(t)
        alpha, beta, _ = self.cumulative(s)
        left = alpha + self.mask_class * beta  # not masked at s
        w = (t - s) / (self.num_train_timesteps - 1)
        replaced = w * max(self._replacing, 0.0) / (alpha * left)
        masked = w * (self.gamma_cum_end - self.gamma_cum_start) / left
        return self.cumulative(t)[0] / alpha, replaced / self.mask_class, masked

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row per evaluation."""
        rows = []
        for t, s in zip(self.timesteps, (*self.timesteps[1:], -1), strict=True):
            (a, b, c), (step_a, step_b, step_c) = self.cumulative(t), self.between(t, s)
            numbers = (a + b, b, c, step_a + step_b, step_b, step_c, *self.cumulative(s))
            rows.append(Row(*map(log, numbers)))
        return tuple(rows)

    # on devices

    @cached_property
    def _placed(self) -> dict[Any, Any]:
        return {}

    def rows_on(self, like: Array) -> Array:
        """Return the rows beside `like`, (evaluations, 9) in its accumulation dtype."""
        return self._on("rows", like, resolve(like).accumulation(like.dtype))

    def times_on(self, like: Array) -> Array:
        """Return the timesteps beside `like`, in the framework's default integer dtype."""
        return self._on("timesteps", like, resolve(like).default_int)

    def _on(self, name: str, like: Array, dtype: Any) -> Array:
        backend = resolve(like)
        key = (name, backend.name, str(dtype), str(backend.device(like)))
        if key not in self._placed:
            placed = backend.to_device_of(np.array(getattr(self, name)), like, dtype)
            if backend.traced(placed):
                return placed  # made inside a trace: must not outlive it
            self._placed[key] = placed
        return self._placed[key]


def log(p: float) -> float:
    """Return the logarithm of a probability, of 0 as LOG_ZERO."""
    return max(math.log(p), LOG_ZERO) if p > 0.0 else LOG_ZERO


def posterior(plan: TokenPlan, index: int | Array, log_p_x0: Array, tokens: Array) -> Array:
    """Return log p(x_s | x_t), (batch, K + 1, ...), in the accumulation dtype of `log_p_x0`.

    Args:
        plan: the plan.
        index: which of its steps: an int, or an array of shape () or (batch,).
        log_p_x0: log probabilities of the clean classes, (batch, K, ...), finite; what is added to
            all K is added to the result.
        tokens: x_t, integers (batch, ...).

    Raises:
        TypeError, ValueError: see `step`.
    """
    backend = _checked(plan, tokens, log_p_x0)
    index = _index(plan, backend, index, tokens, log_p_x0)
    rows = plan.rows_on(log_p_x0)
    return backend.execute(_posterior, None, rows, index, log_p_x0, tokens)


def _posterior(_: None, rows: Array, index: Any, log_p_x0: Array, tokens: Array) -> Array:
    backend = resolve(log_p_x0)
    xp, acc = backend.xp, backend.accumulation(log_p_x0.dtype)
    row = entry(backend, rows, index)
    same, other, mask, step_same, step_other, step_mask, *at_s = (
        xp.reshape(row[..., k], (-1,) + (1,) * len(tokens.shape)) for k in range(rows.shape[1])
    )
    hot, masked = known(backend, tokens, log_p_x0.shape[1])
    q = backend.astype(log_p_x0, acc) - log_transitions(backend, hot, masked, same, other, mask)
    top = xp.max(q, axis=1, keepdims=True)
    total = top + xp.log(xp.sum(xp.exp(q - top), axis=1, keepdims=True))
    step = log_transitions(backend, hot, masked, step_same, step_other, step_mask)
    from_mask = (1 - xp.astype(masked, acc)) * LOG_ZERO
    return spread(backend, q - total, *at_s) + xp.concat([step, from_mask], axis=1) + total


def known(backend: Backend, tokens: Array, num_unmasked: int) -> tuple[Array, Array]:
    """Return whether a token is of each class (batch, K, ...), and masked (batch, 1, ...)."""
    xp, tokens = backend.xp, backend.xp.expand_dims(tokens, axis=1)
    place = backend.device(tokens)
    classes = xp.arange(num_unmasked, dtype=tokens.dtype, device=place)
    hot = xp.reshape(classes, (-1,) + (1,) * (len(tokens.shape) - 2)) == tokens
    return hot, tokens == num_unmasked


def log_transitions(
    backend: Backend, hot: Array, masked: Array, same: Array, other: Array, mask: Array
) -> Array:
    """Return log q(the known token | each class) from the logarithms of the three possible values.

    hot (batch, K, ...) and masked (batch, 1, ...) are those of `known`; the numbers broadcast.
    """
    return backend.where(masked, mask, backend.where(hot, same, other))


def spread(backend: Backend, log_q: Array, alpha: Array, beta: Array, gamma: Array) -> Array:
    """Return log of alpha q + beta over the K classes, and gamma for the mask (eq. 8).

    log_q (batch, K, ...) is normalised, the numbers are logarithms and broadcast.
    """
    xp = backend.xp
    hidden = xp.broadcast_to(gamma, (log_q.shape[0], 1, *log_q.shape[2:]))
    return xp.concat([xp.logaddexp(log_q + alpha, beta), hidden], axis=1)


def gumbel_max(backend: Backend, log_p: Array, uniform: Array) -> Array:
    """Return one class drawn from p, over axis 1; `uniform` is in (0, 1), like log_p.

    The Gumbel noise is -log(-log(1 - u)), large where u is small and floats are dense. (The
    reference's u is 1 - u here: it has only multiples of 2^-24 where noise is large.)
    """
    xp = backend.xp
    noise = -xp.log(-xp.log1p(-backend.astype(uniform, log_p.dtype)))
    return xp.argmax(log_p + noise, axis=1)


def step(
    plan: TokenPlan,
    index: int | Array,
    tokens: Array,
    output: Array,
    *,
    rng: Any = None,
    noise: Array | None = None,
) -> Array:
    """Return the tokens at the next time, of the dtype of these.

    Args:
        plan: the plan.
        index: which of its steps: an int, or an integer array of shape () or (batch,), where a row
            past the end keeps its tokens.
        tokens: x_t, integers (batch, ...): classes 0 .. K - 1 or the mask K.
        output: the network's log p(x_0 | x_t), floating (batch, K, ...).
        rng: where noise comes from, see `cmsched.draw`; a function returns float uniforms in
            (0, 1). Draws are numbered by time, so that a loop resumed has the same ones.
        noise: these uniforms themselves, of the shape that is drawn: (batch, K + 1, ...), and in
            the last step by an int index, except under JAX, (batch, K, ...) as in the reference.

    Raises:
        TypeError: tokens that are not integers, another framework, an index of another kind.
        ValueError: a wrong shape, dtype or device; no such step; tokens outside 0 .. K (where that
            is known without waiting for a device).
    """
    backend = _checked(plan, tokens, output)
    index = _index(plan, backend, index, tokens, output)
    last = isinstance(index, int) and index == len(plan) - 1
    wanted = (tokens.shape[0], output.shape[1] + (not last), *tokens.shape[1:])
    if noise is not None:
        if rng is not None:
            raise ValueError("pass either rng or noise, not both")
        check_kind(backend, output, "noise", noise)
        if tuple(noise.shape) != wanted:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, this step draws {wanted}")
    elif rng is None:
        raise ValueError(
            "this step draws noise: pass rng= (an int, cmsched.Rng, a generator or key, a list with"
            " one per sample, or a callable), or noise="
        )
    else:
        at = plan.timesteps[index] if isinstance(index, int) else _time(plan, output, index)
        noise = standard_uniform(rng, wanted, output, row=at)
    if last:
        acc = backend.accumulation(output.dtype)
        drawn = gumbel_max(backend, backend.astype(output, acc), noise)
        return backend.astype(drawn, tokens.dtype)
    return backend.execute(_advance, None, plan.rows_on(output), index, tokens, output, noise)


def _advance(_: None, rows: Array, index: Any, tokens: Array, output: Array, noise: Array) -> Array:
    backend = resolve(output)
    log_p = _posterior(None, rows, index, output, tokens)
    drawn = backend.astype(gumbel_max(backend, log_p, noise), tokens.dtype)
    if isinstance(index, int):
        return drawn
    finished = backend.xp.reshape(index, (-1,) + (1,) * (len(tokens.shape) - 1)) >= rows.shape[0]
    return backend.where(finished, tokens, drawn)


def sample(model: Model, plan: TokenPlan, tokens: Array, rng: Any) -> Array:
    """Return the tokens that the whole loop makes.

    A Python loop on concrete arrays, a `scan` where JAX traces it.

    Args:
        model: `model(tokens, t) -> output`, see `step`; t is an integer array of shape ().
        plan: the plan.
        tokens: where the loop starts: all of them `plan.mask_class`, whatever the first time, since
            a mask tells nothing of the data; or x_t of given tokens.
        rng: see `step`.

    Raises:
        TypeError, ValueError: see `step`.
    """
    backend = check_tokens(plan, tokens)

    def body(state: tuple[Array, Any]) -> tuple[Array, Any]:
        tokens, index = state
        output = model(tokens, _time(plan, tokens, index))
        return step(plan, index, tokens, output, rng=rng), index + 1

    if backend.traced(tokens):
        first = backend.to_device_of(np.zeros((), np.int32), tokens)
        return backend.scan(body, (tokens, first), len(plan))[0]
    for index in range(len(plan)):
        tokens, _ = body((tokens, index))
    return tokens


def _time(plan: TokenPlan, like: Array, index: Any) -> Array:
    return entry(resolve(like), plan.times_on(like), index)


def entry(backend: Backend, table: Array, index: Any) -> Array:
    """Return an entry of a table: by an int or, one per element, by an array within its ends."""
    if isinstance(index, int):
        return table[index, ...]
    at = backend.clip(index, 0, table.shape[0] - 1)
    entries = backend.xp.take(table, backend.xp.reshape(at, (-1,)), axis=0)
    return backend.xp.reshape(entries, (*index.shape, *table.shape[1:]))


def check_tokens(plan: TokenPlan, tokens: Array) -> Backend:
    """Return the backend, or raise unless these are tokens of the plan."""
    backend = backend_of("tokens", tokens)
    if "int" not in backend.dtype_name(tokens.dtype):
        raise TypeError(
            f"tokens have dtype {tokens.dtype}, but are numbers of classes: convert them to int64"
        )
    if len(tokens.shape) < 1:
        raise ValueError("tokens have shape (): the first axis is the batch")
    if backend.xp.iinfo(tokens.dtype).max < plan.mask_class:
        raise ValueError(
            f"tokens have dtype {tokens.dtype}, too narrow for class {plan.mask_class}"
        )
    if at_hand(backend, tokens) and math.prod(tokens.shape):
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high > plan.mask_class:
            raise ValueError(
                f"tokens hold {low if low < 0 else high}: classes are 0 to {plan.mask_class}, the"
                " last one being the mask"
            )
    return backend


def check_classes(backend: Backend, tokens: Array, name: str, x: Array, count: int) -> Array:
    """Return x in its accumulation dtype, or raise unless it has so many classes on axis 1."""
    check_kind(backend, tokens, name, x)
    wanted = (tokens.shape[0], count, *tokens.shape[1:])
    if tuple(x.shape) != wanted:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, for tokens {tuple(tokens.shape)} it must be"
            f" {wanted}: a log probability of every class (with none for the mask in the network's"
            " output), on axis 1"
        )
    return backend.astype(x, backend.accumulation(x.dtype))


def _checked(plan: TokenPlan, tokens: Array, output: Array) -> Backend:
    """Return the backend, or raise unless tokens and output belong together."""
    backend = check_tokens(plan, tokens)
    check_classes(backend, tokens, "output", output, plan.mask_class)
    return backend


def _index(plan: TokenPlan, backend: Backend, index: Any, tokens: Array, output: Array) -> Any:
    """Return the index as a Python int or, under JAX and if it is one, as an array."""
    if isinstance(index, int | np.integer) and not isinstance(index, bool):
        if not 0 <= index < len(plan):
            raise ValueError(f"index {index} is none of the {len(plan)} steps of this plan")
        if backend.index_on_device:
            return backend.to_device_of(np.asarray(index, np.int32), output)
        return int(index)
    if backend_of("index", index) is not backend or "int" not in backend.dtype_name(index.dtype):
        raise TypeError(
            f"index must be an int or an integer array of {backend.name}, got"
            f" {type(index).__name__} of dtype {index.dtype}"
        )
    if len(index.shape) > 1:
        raise ValueError(f"index has shape {tuple(index.shape)}: use () or (batch,)")
    check_index(backend, tokens, index)
    return index
