"""Small pipelines with random weights, made of diffusers' own models without a download.

A `Case` is a pipeline and a call of it; each family has a file here, with its cases in `CASES`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch

import cmsched.interop.diffusers as ours

THREADS = 1


@dataclass(frozen=True)
class Case:
    """A pipeline and a call of it, with one scheduler or several."""

    name: str
    build: Callable[[Any], Any]  # a new pipeline around a scheduler
    call: Callable[..., Any]  # of pipeline and generator: images in [0, 1], or latents
    schedulers: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # of the scheduler
    place: str = "scheduler"  # the scheduler in question, as `convert` names it
    seed: int = 0

    def __str__(self) -> str:
        return self.name


@dataclass
class Seen:
    """What a run did."""

    result: np.ndarray
    steps: int
    seconds: list[float]
    pipeline: Any


def held(pipeline: Any, place: str) -> Any:
    """The scheduler of a pipeline by its name."""
    for name, owner, attribute, _ in ours.places(pipeline):
        if name == place:
            return getattr(owner, attribute)
    raise LookupError(place)


@contextmanager
def counted(cls: type) -> Iterator[list[float]]:
    """How long each call of a class's `step` took, or of the methods that stand for it."""
    seconds: list[float] = []

    def counts(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)  # with its signature, which pipelines look at
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(self, *args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)

        return step

    names = [name for name in ("step", "step_pred", "step_correct") if hasattr(cls, name)]
    with mock.patch.multiple(cls, **{name: counts(getattr(cls, name)) for name in names}):
        yield seconds


def as_array(result: Any) -> np.ndarray:
    """Images, audio or latents of a pipeline's output, as one array."""
    for name in ("images", "frames", "audios", "image_embeds", "sample"):
        if hasattr(result, name):
            result = getattr(result, name)
            break
    if isinstance(result, tuple):
        result = result[0]
    if isinstance(result, torch.Tensor):
        return result.detach().float().numpy()
    return np.asarray(result, dtype=np.float32)


def run(case: Case, scheduler: str, *, converted: bool, **changes: Any) -> Seen:
    """Build a case's pipeline and call it, with diffusers' scheduler or with ours.

    `changes` are for calls that take any.
    """
    theirs = ours.reference_of(scheduler)(**case.options)
    torch.manual_seed(case.seed)
    pipeline = case.build(theirs)
    pipeline.set_progress_bar_config(disable=True)
    if converted:
        done = ours.convert(pipeline)
        assert case.place in done
    else:
        # pipelines rebuild what they are given
        assert type(held(pipeline, case.place)) is type(theirs)
    wanted = getattr(ours, scheduler) if converted else type(theirs)
    assert type(held(pipeline, case.place)) is wanted
    torch.manual_seed(case.seed + 1)
    with counted(wanted) as seconds:
        result = case.call(pipeline, torch.Generator().manual_seed(case.seed + 2), **changes)
    assert type(held(pipeline, case.place)) is wanted
    return Seen(as_array(result), len(seconds), seconds, pipeline)


@cache
def cases() -> tuple[Case, ...]:
    """All of them."""
    from . import flow, stable, unconditional, video

    parts = (unconditional, stable, flow, video)
    return tuple(case for part in parts for case in part.CASES)


KARRAS = tuple(member.name for member in diffusers.schedulers.KarrasDiffusionSchedulers)
