"""Base of the Flax schedulers: the configuration, and states made from it."""

import inspect
import operator
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..backends import named
from ..plan import Plan
from ..recipe import Recipe
from ..schedulers import CLASSES
from ..schedulers.config_values import class_name
from ..schedules import Schedule
from .flax_state import CommonSchedulerState, FlaxSchedulerOutput, FlaxSchedulerState, output_class

__all__ = ["JAX", "FlaxScheduler", "adapted", "unlisted"]

Array = Any
JAX = named("jax")


def adapted(cls: Any, meaning: Callable[..., Recipe] | None = None, /, **defaults: Any) -> Any:
    """Return a named class with other defaults of its options, or another meaning of them.

    It keeps its name, and the files it writes are that class's.
    """
    space: dict[str, Any] = {"options": {**cls.options, **defaults}, "__doc__": cls.__doc__}
    if meaning is not None:
        space["meaning"] = staticmethod(meaning)
    return type(cls.__name__, (cls,), space)


def unlisted(cls: Any) -> Any:
    """Take a class out of the list of the package's: only the Flax schedulers have it."""
    CLASSES.pop(cls.__name__, None)
    return cls


class FlaxScheduler:
    """Base of the Flax classes: the configuration, and states made from it.

    Class attributes of a scheduler:
        named: the class of cmsched that it stands for, whose options are its own.
        shown: levels that its state shows, attributes of the named class.
        former: options under the names that they had, and the names of today.
        output_class: what `step` returns.
    """

    named: ClassVar[Any] = None
    shown: ClassVar[tuple[str, ...]] = ("sigmas",)
    former: ClassVar[Mapping[str, str]] = {
        "rescale_zero_terminal_snr": "rescale_betas_zero_snr",
    }
    output_class: ClassVar[type[FlaxSchedulerOutput]] = FlaxSchedulerOutput
    has_state: ClassVar[bool] = True
    has_compatibles: ClassVar[bool] = True
    config_name: ClassVar[str] = "scheduler_config.json"
    ignore_for_config: ClassVar[list[str]] = ["dtype"]
    _deprecated_kwargs: ClassVar[list[str]] = []
    _compatibles: ClassVar[list[str]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give a class a constructor that shows its options, and its own output."""
        super().__init_subclass__(**kwargs)
        if "named" not in cls.__dict__:
            return
        if "output_class" not in cls.__dict__:
            cls.output_class = output_class(cls.__name__)

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            FlaxScheduler.__init__(self, *args, **kwargs)

        p = inspect.Parameter
        own = {"dtype": jnp.float32, "compatibility": "diffusers"}
        shown = [p("self", p.POSITIONAL_OR_KEYWORD)]
        shown += [p(k, p.POSITIONAL_OR_KEYWORD, default=v) for k, v in cls.named.options.items()]
        shown += [p(k, p.KEYWORD_ONLY, default=v) for k, v in own.items()]
        __init__.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        __init__.__qualname__ = f"{cls.__qualname__}.__init__"
        cls.__init__ = __init__  # type: ignore[method-assign]

    def __init__(
        self,
        *args: Any,
        dtype: Any = jnp.float32,
        compatibility: str = "diffusers",
        **kwargs: Any,
    ) -> None:
        """Take the options of the named class.

        Args:
            *args: options by position.
            dtype: of the start scale, of `common` and of stored arrays. A step is computed in it,
                or for half precision in float32, or in the sample's if that is wider.
            compatibility: "diffusers" for the numbers, types and keys of the former classes and of
                MaxDiffusion, "paper" where flax.md and the README say that it differs.
            **kwargs: options by name.
        """
        kwargs = self._renewed(kwargs)
        self._hold(self.named(*args, compatibility=compatibility, xp=None, **kwargs), dtype)

    def _hold(self, scheduler: Any, dtype: Any) -> None:
        self.dtype = JAX.dtype(np.dtype(dtype).name)
        self._acc = JAX.accumulation(self.dtype)
        self._named = self._last = scheduler
        self.as_reference = bool(scheduler.as_reference)  # numbers, types, keys of the former ones
        self._tables: dict[Any, Any] = {}

    @classmethod
    def _renewed(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options under the names that they have today."""
        have = cls.named.options
        to = {old: new for old, new in cls.former.items() if new in have and old not in have}
        return {to.get(name, name): value for name, value in options.items()}

    @property
    def compatibles(self) -> list[type]:
        """The Flax schedulers that this configuration is meant for, this one first."""
        names = {f"Flax{name}" for name in self.named._compatibles}
        found = [cls for cls in _subclasses(FlaxScheduler) if cls.__name__ in names]
        return [type(self), *(cls for cls in found if cls is not type(self))]

    # configuration

    @property
    def config(self) -> Any:
        """The present values of the options, frozen."""
        return self._named.config

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        return_unused_kwargs: bool = False,
        *,
        dtype: Any = jnp.float32,
        compatibility: str = "diffusers",
        **kwargs: Any,
    ) -> Any:
        """Return the scheduler of a config, which may be another class's; keywords win over it."""
        scheduler = cls.__new__(cls)
        if isinstance(config, dict):
            config = cls._renewed(config)
            if class_name(config) == cls.named.__name__:  # it need not be one of the package's
                del config["_class_name"]
        kwargs = {"compatibility": compatibility, **cls._renewed(kwargs)}
        made = cls.named.from_config(config, return_unused_kwargs, **kwargs)
        held, *unused = made if return_unused_kwargs else (made,)
        scheduler._hold(held, dtype)
        return (scheduler, *unused) if return_unused_kwargs else scheduler

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Return (scheduler, state) of a folder, a file or a model id, and keywords not used."""
        config, kwargs = cls.named.load_config(
            pretrained_model_name_or_path, return_unused_kwargs=True, subfolder=subfolder, **kwargs
        )
        made = cls.from_config(config, return_unused_kwargs, **kwargs)
        scheduler, *unused = made if return_unused_kwargs else (made,)
        return (scheduler, scheduler.create_state(), *unused)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the config into a folder, as that of the named class, which diffusers has too."""
        self._named.save_pretrained(save_directory, **kwargs)

    save_config = save_pretrained

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Read a config from a folder, a file or the Hub; see `DDIMScheduler.load_config`."""
        return cls.named.load_config(*args, **kwargs)

    def to_json_string(self) -> str:
        """Return the text of the config file."""
        return self._named.to_json_string()  # type: ignore[no-any-return]

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the config file at this path."""
        self._named.to_json_file(json_file_path)

    def __repr__(self) -> str:
        """Show the config."""
        return f"Flax{self._named!r}"

    # states

    def create_state(self, common: CommonSchedulerState | None = None) -> FlaxSchedulerState:
        """Return a state without timesteps, for `add_noise` and `set_timesteps`.

        Args:
            common: that of another state of the same betas, to share its arrays.

        Raises:
            ValueError: other betas than this scheduler's.
        """
        own = self._common()
        if common is not None:
            self._check_common(common, own)
        return self._state(None, common or own)

    def set_timesteps(
        self,
        state: FlaxSchedulerState,
        num_inference_steps: int | None = None,
        shape: tuple[int, ...] | None = (),
        **options: Any,
    ) -> FlaxSchedulerState:
        """Return the state at the start of a run; inside `jit` too.

        Args:
            state: any state of this scheduler.
            num_inference_steps: the number of steps, static.
            shape: the sample's, to make the stored arrays now. Needed where `step` is called inside
                a compiled loop and the sampler remembers; otherwise the first step makes them.
            **options: those of the named class's `plan`: `timesteps` or `sigmas` in place of the
                number, `strength`, `eta`, `s_churn`, ...

        Raises:
            ValueError, TypeError: as `plan`.
        """
        plan = self._named.plan(count_of(num_inference_steps), **options)
        return self._state(plan, state.common, tuple(shape or ()))

    def _state(
        self, plan: Plan | None, common: Any, shape: tuple[int, ...] = ()
    ) -> FlaxSchedulerState:
        """Return a state whose arrays are new ones, so that it may be donated."""
        at = self._with(plan)
        levels = {name: getattr(at, name) for name in self.shown}
        return FlaxSchedulerState(
            plan,
            at.num_inference_steps,
            common=common,
            init_noise_sigma=jnp.array(at.init_noise_sigma, self.dtype),
            timesteps=self._times(at.timesteps, plan is None),
            **{k: None if v is None else jnp.array(v, self._acc) for k, v in levels.items()},
            **self._loop(plan, shape),
        )

    def _times(self, times: np.ndarray | None, training: bool = False) -> Array | None:
        """Return timesteps as the state has them: whole ones int32, others as numbers are."""
        if times is None:
            return None
        whole = times.dtype.kind == "i" or (training and not np.any(times % 1))
        return jnp.array(times, np.int32 if whole else self._acc)

    def _loop(self, plan: Plan | None, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the fields that a class with one `step` has."""
        return {}

    def _with(self, plan: Plan | None) -> Any:
        """Return the named class with this plan set; the last one is kept, for its tables."""
        have = self._last.timeline
        if (None if have is None else have.plan) is not plan:
            if plan is not None:
                self._check(plan)
            self._last = self._named.with_plan(plan)
        return self._last

    def _check(self, plan: Plan) -> None:
        """Raise unless a plan is one of this scheduler's, but for what a run may be given."""
        own = self._named.recipe()
        same = (own.sampler, own.prediction) == (plan.sampler, plan.prediction)
        if not same or not self._agree(own.discretization.schedule, plan.grid.schedule):
            raise ValueError(
                f"the state is of another class or configuration than this {type(self).__name__}:"
                f" its sampler is {plan.sampler!r}, here {own.sampler!r}, or its schedule or"
                " prediction differs; make it with this scheduler,"
                " scheduler.set_timesteps(scheduler.create_state(), ...)"
            )

    def _agree(self, own: Schedule, given: Schedule) -> bool:
        """Return whether a state's schedule may be this one."""
        return given == own

    def _common(self) -> CommonSchedulerState | None:
        if not hasattr(self._named, "alphas_cumprod"):
            return None
        names = CommonSchedulerState._fields
        return CommonSchedulerState(
            *(jnp.array(getattr(self._named, k), self.dtype) for k in names)
        )

    def _check_common(self, common: Any, own: CommonSchedulerState | None) -> None:
        name = type(self).__name__
        if own is None:
            raise ValueError(f"common: {name} has no betas that a state could share; leave it out")
        if JAX.traced(*jax.tree_util.tree_leaves(common)):
            raise ValueError("common must be known: call create_state outside jit")
        near = float(jnp.finfo(self.dtype).eps) * len(own.betas)
        given, mine = (np.asarray(c.alphas_cumprod, np.float64) for c in (common, own))
        if given.shape != mine.shape or not np.allclose(given, mine, rtol=near, atol=near):
            raise ValueError(
                f"common holds other betas than this {name}'s config; make the scheduler with"
                " trained_betas= or beta_schedule= of these"
            )

    # the parts of a step that all classes have

    def scale_model_input(
        self, state: FlaxSchedulerState, sample: Array, timestep: Any = None
    ) -> Array:
        """Return the network's input, which is the sample unless the class scales it."""
        return sample

    def add_noise(
        self, state: FlaxSchedulerState, original_samples: Array, noise: Array, timesteps: Any
    ) -> Array:
        """Return alpha x0 + sigma noise at timesteps: one for all rows, or one per row."""
        at, (x, noise) = self._with(state.plan), self._widened(original_samples, noise)
        return at.add_noise(x, noise, self._asked(state.plan, timesteps))

    def _widened(self, sample: Array, *others: Array) -> tuple[Array, ...]:
        """Return arrays of JAX, the sample in the dtype that the former classes computed in."""
        arrays = (sample, *others)
        if all([isinstance(x, jax.Array) and x.dtype is self.dtype for x in arrays]):  # mostly
            return arrays
        arrays = tuple([x if JAX.owns(type(x)) else jnp.asarray(x) for x in arrays])
        if self.as_reference:
            wanted = jnp.result_type(*(x.dtype for x in arrays), self.dtype)
            arrays = tuple([JAX.astype(x, wanted) for x in arrays])
        return arrays

    def _asked(self, plan: Plan | None, timesteps: Any) -> Any:
        """Return the times that timesteps stand for, on one axis, as the reference flattens."""
        many = len(getattr(timesteps, "shape", ())) > 1
        return timesteps.reshape(-1) if many else timesteps


def count_of(number: Any) -> Any:
    """Return a number of steps as an int, of NumPy's and JAX's as well; others as they are."""
    if not isinstance(number, int) and getattr(number, "shape", None) == ():
        return operator.index(number)
    return number


def _subclasses(cls: type) -> list[type]:
    own: list[type] = cls.__subclasses__()
    return [found for one in own for found in (one, *_subclasses(one))]
