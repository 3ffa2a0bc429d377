"""ONNX Runtime sessions as networks, and the noise of a plan as one array; see `onnx.md`."""

from collections.abc import Callable
from os import PathLike, fspath
from typing import Any

import numpy as np

from ..checks import nearest
from ..noise import standard_normal
from ..plan import Plan

__all__ = ["network", "normals"]


def network(
    session: Any, *, sample: str | None = None, time: str | None = None, **inputs: Any
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return `model(x, t)` of an ONNX Runtime session, for `cmsched.sample` on NumPy arrays.

    Every array is given in the dtype that the session declares, the time also in the shape (one for
    all, or one a row), and the first output comes back in the dtype of x.

    Args:
        session: an `onnxruntime.InferenceSession`, or the path of a file to make one of.
        sample: the name of the input that takes x; by default the first that is not named here.
        time: that of the input that takes t; by default the next.
        inputs: its other inputs by name, alike at every step: `encoder_hidden_states=array`.

    Raises:
        ValueError: an input is missing, or the session has none of that name; the sample's is of
            integers, or of another rank than x; called with times that the session does not take
            (fractional ones as integers, or several as one).
        TypeError: sample or time is no name; an input of a type that NumPy does not have; called
            with x that is no NumPy array.
    """
    if isinstance(session, str | PathLike):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "a network from a file needs ONNX Runtime: pip install onnxruntime"
            ) from error
        session = onnxruntime.InferenceSession(fspath(session))
    elif not hasattr(session, "get_inputs"):
        raise TypeError(
            "session must be an onnxruntime.InferenceSession or the path of an ONNX file, got"
            f" {type(session).__name__}"
        )
    ports = {port.name: port for port in session.get_inputs()}
    own = [name for name in (sample, time) if name is not None]
    for name in (*own, *inputs):
        if not isinstance(name, str):
            kind = type(name).__name__
            raise TypeError(f"sample= and time= name inputs of the session, got {kind}: pass a str")
        if name not in ports:
            raise ValueError(f"the session has no input {name!r}{nearest(name, ports)}")
        if [*own, *inputs].count(name) > 1:
            raise ValueError(f"the session's input {name!r} is given twice; each has one meaning")
    free = [name for name in ports if name not in own and name not in inputs]
    if len(own) + len(free) < 2:
        raise ValueError(
            f"of the session's inputs {[*ports]} only {own + free} are left for the sample and the"
            " time: leave two out; for a network without a time, write the function model(x, t)"
            " yourself"
        )
    x_port, t_port = (ports[free.pop(0) if name is None else name] for name in (sample, time))
    if free:
        raise ValueError(
            f"the session's inputs {free} are missing: besides the sample ({x_port.name!r}) and the"
            f" time ({t_port.name!r}) each is given by name, network(session, {free[0]}=array)"
        )
    dtypes = {name: _dtype(port) for name, port in ports.items()}
    cure = f"say which inputs of {[*ports]} are meant, network(session, sample=name, time=name)"
    if dtypes[x_port.name].kind != "f":
        raise ValueError(
            f"the session's input {x_port.name!r} is taken for the sample, but is a {x_port.type}:"
            f" {cure}"
        )
    # an empty shape may also be one that is not declared
    rank = None if sample is not None and not x_port.shape else len(x_port.shape)
    fixed = {name: np.asarray(value, dtypes[name]) for name, value in inputs.items()}
    first = [session.get_outputs()[0].name]

    def model(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        if not isinstance(x, np.ndarray):
            kind = type(x)
            raise TypeError(
                f"x must be a NumPy array, got {kind.__module__}.{kind.__qualname__}: start the"
                " loop from one, cmsched.sample(model, plan, numpy.asarray(noise)), and convert its"
                " result"
            )
        if rank not in (None, x.ndim):
            raise ValueError(
                f"x has shape {x.shape}, but the session's input {x_port.name!r}, which is taken"
                f" for the sample, {tuple(x_port.shape)}: {cure}"
            )
        feeds = {
            x_port.name: np.asarray(x, dtypes[x_port.name]),
            t_port.name: _time(t_port, dtypes[t_port.name], t, x.shape),
            **fixed,
        }
        output: np.ndarray = session.run(first, feeds)[0]
        return output.astype(x.dtype, copy=False)

    return model


def _dtype(port: Any) -> "np.dtype[Any]":
    """Return the dtype of an input, which declares it as "tensor(float16)"."""
    name = port.type.removeprefix("tensor(").removesuffix(")")
    try:
        dtype: np.dtype[Any] = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    except TypeError:
        raise TypeError(
            f"the session's input {port.name!r} is a {port.type}, which NumPy does not have: export"
            " the network with float32 or float16 inputs"
        ) from None
    return dtype


def _time(port: Any, dtype: "np.dtype[Any]", t: np.ndarray, sample: tuple[int, ...]) -> np.ndarray:
    """Return times in an input's dtype and shape; its open axes are as long as the sample's."""
    if dtype.kind in "iu" and np.any(t != np.rint(t)):
        raise ValueError(
            f"t={t} is not whole, but the session's input {port.name!r} is a {port.type}: use"
            " timesteps that the network was trained at, or export it with a float time"
        )
    if t.ndim and np.all(t == t[(0,) * t.ndim]):  # rows at one time fit everywhere
        t = t[(0,) * t.ndim]
    lengths = zip(port.shape, (*sample, *port.shape), strict=False)
    shape = tuple(wide if isinstance(wide, int) else long for wide, long in lengths)
    ahead = (*np.shape(t), *(1,) * (len(shape) - np.ndim(t)))
    try:
        return np.broadcast_to(np.reshape(t, ahead), shape).astype(dtype)
    except ValueError:
        raise ValueError(
            f"t has shape {np.shape(t)}, the session's input {port.name!r} {tuple(port.shape)}:"
            " rows of a batch at different times need a network that takes one time a row"
        ) from None


def normals(plan: Plan, noise: np.ndarray, rng: Any) -> np.ndarray:
    """Return all that a plan draws, (evaluations + 1, draws of a row, *shape), zeros in between.

    Row 0 comes before the first evaluation, row i + 1 after evaluation i: what `sample` draws with
    the same `rng` (the portable ones; of a generator, draws in the same order).

    Args:
        plan: the plan, of a sampler with a table.
        noise: a NumPy array like the sample, for shape and dtype.
        rng: see `cmsched.draw`.

    Raises:
        TypeError: the sampler has no table.
    """
    _ = plan.layout  # which raises where there is no table
    each = [plan.start.draws, *(row.draws for row in plan.rows)]
    draws = [(i, d) for i, row in enumerate(each) for _, d in row]
    ranks = 1 + max((d.rank for _, d in draws), default=-1)
    drawn = np.zeros((len(plan) + 1, ranks, *noise.shape), noise.dtype)
    for i, d in draws:
        drawn[i, d.rank] = standard_normal(rng, noise, i, rank=d.rank, interval=d.interval)
    return drawn
