"""The samplers: loops over a grid, written as their papers print them, and the registry of them.

A sampler is a generator `loop(x, grid, noise, **options)`. It yields where it wants the network
evaluated and gets back the array that stands there and the network's clean-sample estimate:

    x, x0      = yield x, a             evaluate at point a
    x, x0, raw = yield Raw(x, a)        the estimate without clipping as well
    x          = yield Keep(x)          store this as one array (a hint: it changes no result)
    z          = noise(a, b)            Brownian increment from a to b, as a unit normal
    z          = noise()                an independent unit normal

and returns the final sample. It may use only +, -, * and / by numbers on arrays; whatever depends
on the step is decided on the host. Loops are in native (alpha, sigma) form, so they hold in every
frame.
"""

import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from .._messages import choose, nearest, nonnegative
from ..schedules import Point

__all__ = ["REGISTRY", "Keep", "Loop", "Raw", "Sampler", "get", "register"]

Loop = Callable[..., Generator[Any, Any, Any]]


class Raw(NamedTuple):
    """A request for an evaluation that also returns the unprojected estimate."""

    x: Any
    point: Point


class Keep(NamedTuple):
    """A request to store a combination as one array."""

    x: Any


@dataclass(frozen=True)
class Sampler:
    """A registry entry: what is known of a sampler, all of it tested.

    Args:
        name: the short name.
        loop: the generator function.
        paper: source, with its algorithm or equation.
        order: of convergence, or a function of the options.
        stored: arrays kept between evaluations at most, or a function of the options.
        evaluations: network calls per step.
        stochastic: whether it draws, or a function of the options.
        exact: whether, with exact estimates, every step keeps the marginals exact, or a function
            of the options.
        singular: whether it can start where alpha = 0 and end where sigma = 0.
        given: names of arrays the caller passes in `given=`.
        traced: False for a loop whose control flow depends on data.
        options: defaults of the loop's keyword options, read from its signature.
        choices: the values that an option may have; one whose default is a float may have any
            number of at least 0.
        variants: option sets that the tests visit.
    """

    name: str
    loop: Loop
    paper: str
    order: float | Callable[[Mapping[str, Any]], float] = 1
    stored: int | Callable[[Mapping[str, Any]], int] = 0
    evaluations: int = 1
    stochastic: bool | Callable[[Mapping[str, Any]], bool] = False
    exact: bool | Callable[[Mapping[str, Any]], bool] = True
    singular: bool = True
    given: tuple[str, ...] = ()
    traced: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    variants: tuple[Mapping[str, Any], ...] = ({},)

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options with defaults filled in.

        Raises:
            TypeError: an unknown option, or not a number where one is needed.
            ValueError: a value that the option cannot have.
        """
        for name in options:
            if name not in self.options:
                close = nearest(name, self.options)
                raise TypeError(f"sampler {self.name!r} has no option {name!r}{close}")
        complete = {**self.options, **options}
        for name, value in complete.items():
            if name in self.choices:
                choose(name, value, self.choices[name])
                complete[name] = self.choices[name][self.choices[name].index(value)]
            elif isinstance(self.options[name], float):
                complete[name] = nonnegative(name, value)
        return complete

    def trait(self, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """Return a trait (order, stored, stochastic, exact) for these options."""
        value = getattr(self, name)
        return value(self.complete(options or {})) if callable(value) else value


REGISTRY: dict[str, Sampler] = {}


def register(name: str, **traits: Any) -> Callable[[Loop], Loop]:
    """Return a decorator that enters a loop into the registry.

    Args:
        name: the short name.
        traits: fields of `Sampler`, and `defaults`, which overrides those of the loop's signature.
    """
    given = traits.get("given", ())
    defaults = traits.pop("defaults", {})

    def enter(loop: Loop) -> Loop:
        parameters = inspect.signature(loop).parameters.values()
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in given]
        options = {p.name: p.default for p in keywords} | defaults
        REGISTRY[name] = Sampler(name, loop, options=MappingProxyType(options), **traits)
        return loop

    return enter


def get(name: str) -> Sampler:
    """Return a registered sampler; an unknown name raises ValueError with the nearest one."""
    choose("sampler", name, REGISTRY)
    return REGISTRY[name]


from . import first_order, heun, multistep  # noqa: E402, F401  (the families register themselves)
