"""The registry of samplers: what is known of each, all of it tested, and its options."""

import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..checks import Named, check_choice, check_count, check_nonnegative, nearest
from .unic import corrected

__all__ = ["REGISTRY", "Loop", "Sampler", "get", "register"]

Loop = Callable[..., Generator[Any, Any, Any]]


@dataclass(frozen=True, eq=False)
class Sampler:
    """A registry entry: what is known of a sampler, all of it tested.

    Args:
        name: the short name.
        loop: the generator function.
        paper: source, with its algorithm or equation.
        order: of convergence, or a function of the options.
        smooth: whether that order needs steps whose lengths in lam vary smoothly, or a function of
            the options.
        jumps: whether the network is a consistency function, which goes to the end of the grid.
        stored: arrays kept between evaluations at most, or a function of the options.
        evaluations: network calls per step.
        stochastic: whether it draws, or a function of the options.
        exact: whether, with exact estimates, every step keeps the marginals exact, or a function
            of the options.
        singular: whether it can start where alpha = 0 and end where sigma = 0, or a function of the
            options.
        given: names of arrays the caller passes in `given=`.
        traced: False for a loop whose control flow depends on data.
        options: defaults of the loop's keyword options, read from its signature.
        choices: the values that an option may have; one whose default is a float may have any
            number of at least 0, an integer any of at least 1.
        variants: option sets that the tests visit.

    A deterministic sampler of one evaluation a step also has the option `corrector`: "unic" raises
    its order by one (arXiv:2302.04867), see `unic.corrected`; options of the sampler "unipc", as
    pairs, say which UniC.
    """

    name: str
    loop: Loop
    paper: str
    order: float | Callable[[Mapping[str, Any]], float] = 1
    smooth: bool | Callable[[Mapping[str, Any]], bool] = False
    jumps: bool = False
    stored: int | Callable[[Mapping[str, Any]], int] = 0
    evaluations: int = 1
    stochastic: bool | Callable[[Mapping[str, Any]], bool] = False
    exact: bool | Callable[[Mapping[str, Any]], bool] = True
    singular: bool | Callable[[Mapping[str, Any]], bool] = True
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
            if name == "corrector" and isinstance(value, tuple | list | Mapping):
                continue  # below
            if name in self.choices:
                check_choice(name, value, self.choices[name])
                complete[name] = self.choices[name][self.choices[name].index(value)]
            elif isinstance(self.options[name], float):
                complete[name] = check_nonnegative(name, value)
            elif type(self.options[name]) is int:
                complete[name] = check_count(name, value)
            elif isinstance(self.options[name], bool) and not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        if not isinstance(complete.get("corrector"), str | None):
            complete["corrector"] = tuple(self._corrector(complete).items()) or None
        if complete.get("corrector") and self.trait("stochastic", {**complete, "corrector": None}):
            raise ValueError(
                f"corrector={complete['corrector']!r} needs a deterministic step, but {self.name!r}"
                " draws noise with these options; set eta (or s_churn) to 0"
            )
        return complete

    def trait(self, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """Return a trait (order, smooth, stored, stochastic, exact, singular) for these options."""
        value, complete = getattr(self, name), self.complete(options or {})
        value = value(complete) if callable(value) else value
        unic = self._corrector(complete)
        if name == "order":
            if unic and unic["disable_corrector"] is not True:
                value = min(value, unic["solver_order"]) + 1
            last = complete.get("ramp_down") or complete.get("euler_at_final")  # of order 1
            return min(value, 2) if last else value
        return value + unic["solver_order"] if unic and name == "stored" else value

    def _corrector(self, complete: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the corrector, by default of the same order; none if it is off."""
        chosen = complete.get("corrector")
        if not chosen:
            return {}
        own = {} if chosen == "unic" else dict(chosen)
        order = int(self.trait("order", {**complete, "corrector": None}))
        return REGISTRY["unipc"].complete({"solver_order": max(order, 1), **own})

    def start(
        self, x: Any, grid: Any, noise: Any, options: Mapping[str, Any], **given: Any
    ) -> Generator[Any, Any, Any]:
        """Return the loop, begun on x, with its corrector if the options name one."""
        unic = self._corrector(options)
        plain = {name: value for name, value in options.items() if name != "corrector"}
        loop = self.loop(x, grid, noise, **given, **plain)
        return corrected(loop, grid, **unic) if unic else loop


REGISTRY: dict[str, Sampler] = Named(
    "The samplers by name, and what is known of each; `cmsched.register` adds one's own."
)


def register(name: str, **traits: Any) -> Callable[[Loop], Loop]:
    """Return a decorator that enters a loop into the registry.

    Args:
        name: the short name.
        traits: fields of `Sampler`; `defaults`, which overrides those of the loop's signature; and
            `correctable=False` where `corrector` makes no sense (see `Sampler`).
    """
    given = traits.get("given", ())
    defaults = traits.pop("defaults", {})
    if traits.pop("correctable", not given and traits.get("evaluations", 1) == 1):
        defaults = {**defaults, "corrector": None}
        traits["choices"] = {**traits.get("choices", {}), "corrector": (None, "unic")}

    def enter(loop: Loop) -> Loop:
        parameters = inspect.signature(loop).parameters.values()
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        options = {p.name: p.default for p in keywords if p.name not in given} | defaults
        REGISTRY[name] = Sampler(name, loop, options=MappingProxyType(options), **traits)
        return loop

    return enter


def get(name: str) -> Sampler:
    """Return a registered sampler; an unknown name raises ValueError with the nearest one."""
    check_choice("sampler", name, REGISTRY)
    return REGISTRY[name]
