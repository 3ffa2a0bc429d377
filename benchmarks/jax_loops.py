"""JAX's contestants of the loop benchmark; JAX is imported when they are made."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from by_hand import scanned_by_hand, weights, written_out

import cmsched

Model = Callable[[Any, Any], Any]
Loop = Callable[[], Any]
LONG = 50  # steps of the loop whose compilation is timed
JAX = [
    *("by hand", "unroll", "unroll, table", "scan by hand", "scan", "scan, table"),
    *("interop.flax", "Python loop"),
]
AGAINST = {
    "unroll": "by hand",
    "unroll, table": "by hand",
    "scan": "scan by hand",
    "scan, table": "scan by hand",
    "interop.flax": "scan, table",
}


def jax_networks() -> dict[str, Model]:
    """Return the same networks in JAX."""
    import jax
    import jax.numpy as jnp

    first, mix, last = map(jnp.asarray, weights())

    def convolve(x: Any, kernel: Any) -> Any:
        return jax.lax.conv(x, kernel, (1, 1), "SAME")

    def small(x: Any, t: Any) -> Any:
        hidden = jnp.tanh(convolve(x, first) + t * 1e-3)
        return convolve(jnp.tanh(jnp.einsum("oc,bchw->bohw", mix, hidden)), last)

    return {"trivial": lambda x, t: jnp.tanh(x), "small": small}


def flax_scheduler(class_name: str, settings: Mapping[str, Any]) -> Any:
    """Return the Flax class with the named class's numbers."""
    from cmsched.interop import flax

    same = {"final_sigmas_type": "zero"} if class_name.startswith("DPM") else {}
    return getattr(flax, f"Flax{class_name}")(**same, **settings, compatibility="paper")


def flax_loop(
    class_name: str, settings: Mapping[str, Any], steps: int, model: Model, x: Any
) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Return a state, and the loop of the former pipelines from unit noise and it."""
    import jax

    scheduler = flax_scheduler(class_name, settings)
    state = scheduler.set_timesteps(scheduler.create_state(), steps, x.shape)

    def body(i: Any, carry: Any) -> Any:
        x, state = carry
        t = state.timesteps[i]
        output = model(scheduler.scale_model_input(state, x, t), t)
        return scheduler.step(state, output, t, x, return_dict=False)

    def loop(x: Any, state: Any) -> Any:
        start = x * state.init_noise_sigma, state
        return jax.lax.fori_loop(0, len(state.timesteps), body, start)[0]

    return state, loop


def jax_loops(
    class_name: str, settings: Mapping[str, Any], steps: int, model: Model, x: Any
) -> dict[str, Loop]:
    """Return JAX's contestants."""
    import jax
    import jax.numpy as jnp

    plan = getattr(cmsched, class_name)(**settings).plan(steps)
    times = [jnp.asarray(t) for t in plan.timesteps.tolist()]
    hand, table, network = written_out(plan, "jax"), plan.on(x), jax.jit(model)

    @jax.jit
    def by_hand(x: Any) -> Any:
        return hand(model, x, times, jnp.zeros_like(x))

    by_hand_scan = jax.jit(scanned_by_hand(plan, model))
    unrolled = jax.jit(lambda x: cmsched.sample(model, plan, x, unroll=True))
    scanned = jax.jit(lambda x: cmsched.sample(model, plan, x))
    unrolled_table = jax.jit(lambda table, x: cmsched.sample(model, table, x, unroll=True))
    scanned_table = jax.jit(lambda table, x: cmsched.sample(model, table, x))
    state, through_flax = flax_loop(class_name, settings, steps, model, x)
    flax = jax.jit(through_flax)
    return {
        "by hand": lambda: by_hand(x).block_until_ready(),
        "unroll": lambda: unrolled(x).block_until_ready(),
        "unroll, table": lambda: unrolled_table(table, x).block_until_ready(),
        "scan by hand": lambda: by_hand_scan(x).block_until_ready(),
        "scan": lambda: scanned(x).block_until_ready(),
        "scan, table": lambda: scanned_table(table, x).block_until_ready(),
        "interop.flax": lambda: flax(x, state).block_until_ready(),
        "Python loop": lambda: cmsched.sample(network, plan, x).block_until_ready(),
    }


def compile_times(
    class_name: str, settings: Mapping[str, Any], model: Model, x: Any
) -> dict[str, tuple[float, float]]:
    """Return the milliseconds to trace and to compile each loop, the best of three."""
    import jax
    import jax.numpy as jnp

    plan = getattr(cmsched, class_name)(**settings).plan(LONG)
    times = [jnp.asarray(t) for t in plan.timesteps.tolist()]
    hand, table = written_out(plan, "jax"), plan.on(x)
    state, through_flax = flax_loop(class_name, settings, LONG, model, x)
    loops: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "by hand": (lambda x: hand(model, x, times, jnp.zeros_like(x)), (x,)),
        "unroll": (lambda x: cmsched.sample(model, plan, x, unroll=True), (x,)),
        "scan by hand": (scanned_by_hand(plan, model), (x,)),
        "scan, table": (lambda table, x: cmsched.sample(model, table, x), (table, x)),
        "interop.flax": (through_flax, (x, state)),
    }

    def once(loop: Callable[..., Any], given: tuple[Any, ...]) -> tuple[float, float]:
        jax.clear_caches()
        begun = time.perf_counter()
        lowered = jax.jit(lambda *given: loop(*given)).lower(*given)
        traced = time.perf_counter()
        lowered.compile()
        return 1e3 * (traced - begun), 1e3 * (time.perf_counter() - traced)

    found = {name: [once(*loop) for _ in range(3)] for name, loop in loops.items()}
    return {
        name: (min(t for t, _ in each), min(c for _, c in each)) for name, each in found.items()
    }


def flax_steps(class_name: str, settings: Mapping[str, Any], x: Any) -> dict[str, Loop]:
    """Return one step in the middle of a run, by `cmsched.step` and through `interop.flax`."""
    import jax.numpy as jnp

    scheduler = flax_scheduler(class_name, settings)
    state = scheduler.set_timesteps(scheduler.create_state(), LONG, x.shape)
    table, t = state.plan.on(x), state.timesteps[LONG // 2]
    core, own = cmsched.init(table, x, index=jnp.int32(0)), state
    for i in range(LONG // 2):
        core = cmsched.step(table, core, x)
        own = scheduler.step(own, x, state.timesteps[i], x).state
    return {
        "cmsched.step": lambda: cmsched.step(table, core, x).sample.block_until_ready(),
        "interop.flax": lambda: scheduler.step(own, x, t, x).prev_sample.block_until_ready(),
    }
