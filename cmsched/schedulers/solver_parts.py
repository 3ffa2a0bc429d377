"""One step of an exponential integrator taken apart, for code that takes it apart."""

from collections.abc import Sequence
from typing import Any, ClassVar

from .. import engine, samplers
from ..backends import resolve
from ..engine.checks import check_like, check_output
from ..frozen import FrozenDict
from ..grids import Grid, GridRun
from ..schedules import Point
from .betas import EXCHANGEABLE
from .habit import Run, SchedulerMixin
from .outputs import SchedulerOutput

__all__ = ["SolverScheduler", "every_age"]


def every_age(run: Run) -> Sequence[int]:
    """Return the ages of the outputs that the next step may need: all that the run has seen."""
    return range(1, run.entry - run.first + 1)


def integrates_x0(c: FrozenDict) -> bool:
    """Return whether estimates of x0 are integrated, not of eps."""
    return bool(c.get("predict_x0", str(c.get("algorithm_type")).endswith("++")))


class SolverScheduler(SchedulerMixin):
    """Base of the solvers that integrate the ODE's exponential and estimates of x0, or of eps.

    Class attributes of a scheduler, beside those of `SchedulerMixin`:
        eps_slot: kind and rank of the plan's slots that hold estimates of eps.
        ages: the ages of the outputs that the next step of a run may need.
    """

    output_class = SchedulerOutput
    _compatibles: ClassVar = EXCHANGEABLE
    eps_slot: ClassVar[tuple[str, int]] = ("k", 0)
    ages: ClassVar[Any] = staticmethod(every_age)

    @property
    def lower_order_nums(self) -> int:
        """How many outputs the run has seen, at most solver_order."""
        run = self.run
        return 0 if run is None else min(run.entry - run.first, self.filled_config.solver_order)

    @property
    def history_slot(self) -> tuple[str, int]:
        """Kind and rank of the plan's slots that hold the converted outputs."""
        return ("d", 0) if integrates_x0(self.meant(self.filled_config)) else self.eps_slot

    @property
    def model_outputs(self) -> list[Any]:
        """The converted outputs that the next step may need, the newest last; None for others."""
        outputs = [None] * self.filled_config.solver_order
        if (run := self.run) is not None:
            slots = zip(run.plan.layout.slots, run.memory, strict=False)
            ages, place = type(self).ages(run), self.history_slot
            for (*kind, age), array in slots:
                if (*kind,) == place and age in ages:
                    outputs[-age] = array
        return outputs

    def convert_model_output(self, model_output: Any, *, sample: Any) -> Any:
        """Return what the solver integrates: the estimate of x0, or that of eps."""
        run = self.run_at(None)
        i = run.entry - run.first
        check_output(resolve(sample), sample, model_output, run.plan.prediction)
        x0, at = engine.estimate_x0(run.plan, i, sample, model_output), run.plan.points[i]
        if integrates_x0(self.meant(self.filled_config)):
            return x0
        return (sample - at.alpha * x0) / at.sigma

    def update_of(self, outputs: Sequence[Any], sample: Any, noise: Any = None) -> Any:
        """Return the sample after a step of the order len(outputs) from converted outputs."""
        run, order = self.run_at(None), len(outputs)
        plan, i = run.plan, run.entry - run.first
        if i + 1 < order or any(m is None for m in outputs):
            raise ValueError(f"a step of order {order} needs {order} outputs, this run has {i + 1}")
        if plan.options.get("eta") and noise is None:
            raise ValueError(f'algorithm_type="{self.config["algorithm_type"]}" needs noise=')
        for m in outputs:
            check_like(resolve(sample), sample, "model_output", m)
        points = plan.grid.points[i + 1 - order : i + 2]
        return self.replay(points, [(sample, m) for m in outputs], noise)

    def replay(
        self, points: Sequence[Point], seen: Sequence[tuple[Any, Any]], noise: Any, **options: Any
    ) -> Any:
        """Run the sampler's own loop along points, told at each (sample, converted output).

        In place of a sample None leaves the loop's own.
        """
        plan = self.run_at(None).plan
        whole = {"ramp_down": False, "euler_at_final": False, "lower_order_final": False}
        changed = {"solver_order": len(points) - 1, "disable_corrector": True, **whole, **options}
        known = {k: changed.get(k, value) for k, value in plan.options.items()}
        walk, given, reply = GridRun(Grid(tuple(points), plan.grid.schedule)), iter(seen), None
        loop = samplers.get(plan.sampler).start(seen[0][0], walk, lambda *_: noise, known)
        data = integrates_x0(self.meant(self.filled_config))
        while True:
            try:
                asked = loop.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(asked, samplers.Store):
                reply = asked.x
                continue
            (x, m), (own, at, wants_eps) = next(given), samplers.Evaluate(*asked)
            x = own if x is None else x
            x0 = m if data else (x - at.sigma * m) / at.alpha
            eps = (x - at.alpha * m) / at.sigma if data else m
            reply = (x, x0, eps) if wants_eps else (x, x0)
