"""A Flax network sharded over eight devices: the schedulers add no communication.

The devices are virtual ones of the CPU, which JAX makes when it is loaded: so the checks run in a
process of their own, this file.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

DEVICES = 8
NAMES = ["ddpm", "dpm", "euler", "plms"]
STEPS = 4


def test_eight_devices_make_the_images_of_one():
    tests = Path(__file__).parents[1]
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_cpu_multi_thread_eigen=false"
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(tests.parent), os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [*NAMES, "cmsched", "bfloat16"]


def main():
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import cmsched
    from cmsched.interop import flax as interop

    latent = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    classes = {
        "ddpm": interop.FlaxDDPMScheduler(**latent),
        "dpm": interop.FlaxDPMSolverMultistepScheduler(**latent),
        "euler": interop.FlaxEulerDiscreteScheduler(**latent),
        "plms": interop.FlaxPNDMScheduler(**latent, skip_prk_steps=True),
    }

    class UNet(nnx.Module):
        """One level down and up, with a skip connection and the time."""

        def __init__(self, rngs, dtype):
            conv = dict(kernel_size=(3, 3), rngs=rngs, dtype=dtype, param_dtype=dtype)
            self.enter, self.leave = nnx.Conv(3, 8, **conv), nnx.Conv(16, 3, **conv)
            self.down, self.up = nnx.Conv(8, 16, strides=2, **conv), nnx.Conv(16, 8, **conv)
            self.time = nnx.Linear(1, 8, rngs=rngs, dtype=dtype, param_dtype=dtype)

        def __call__(self, x, t):
            x = jnp.moveaxis(x, 1, -1)
            t = jnp.reshape(t, (-1, 1)).astype(x.dtype) / 1000
            high = nnx.silu(self.enter(x) + self.time(t)[:, None, None])
            low = nnx.silu(self.up(nnx.silu(self.down(high))))
            low = jnp.repeat(jnp.repeat(low, 2, axis=1), 2, axis=2)
            return jnp.moveaxis(self.leave(jnp.concatenate([high, low], axis=-1)), -1, 1)

    def placements(axis_type):
        mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(axis_type,))
        return NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())

    shape = (DEVICES, 3, 8, 8)
    collectives = ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter")

    def none_in(program):
        return not [name for name in collectives if name in program.compile().as_text()]

    def one_step(scheduler, key, apply, i, carry):
        x, state = carry
        t = state.timesteps[i]
        output = apply(scheduler.scale_model_input(state, x, t), jnp.broadcast_to(t, x.shape[:1]))
        noise = {"key": key} if "key" in scheduler.step_options else {}
        return scheduler.step(state, output, t, x, **noise).to_tuple()

    def check(name, scheduler, dtype, tolerance, axis_type=AxisType.Explicit):
        rows, everywhere = placements(axis_type)

        def sharded(tree):
            return jax.tree.map(
                lambda leaf: jax.device_put(leaf, rows if leaf.shape == shape else everywhere), tree
            )

        network, parameters = nnx.split(UNet(nnx.Rngs(0), dtype))
        key = jax.random.key(1)
        x = jax.random.normal(jax.random.key(2), shape, dtype)
        state = scheduler.set_timesteps(scheduler.create_state(), STEPS, shape=shape)

        def loop(parameters, x, state):
            apply = nnx.merge(network, parameters)
            body = lambda i, c: one_step(scheduler, key, apply, i, c)  # noqa: E731
            return jax.lax.fori_loop(0, len(state.timesteps), body, (x, state))[0]

        x = x * state.init_noise_sigma.astype(dtype)
        alone = jax.jit(loop)(parameters, x, state)
        parts = jax.device_put(x, rows)
        spread = jax.device_put(parameters, everywhere)
        whole = jax.jit(loop)(spread, parts, sharded(state))
        assert whole.dtype == dtype
        assert len(whole.addressable_shards) == DEVICES
        assert whole.addressable_shards[0].data.shape == (1, *shape[1:])
        scale = jnp.abs(alone).max()
        assert jnp.isfinite(scale)
        assert float(jnp.abs(whole - alone).max()) <= tolerance * float(scale), name

        def step(x, state, output, t):
            noise = {"key": key} if "key" in scheduler.step_options else {}
            x = scheduler.scale_model_input(state, x, t)
            return scheduler.step(state, output, t, x, **noise).to_tuple()

        # the scheduler's part alone, its arguments given away
        donated = jax.jit(step, donate_argnums=(0, 1))
        times = state.timesteps.tolist()
        output, at = jax.device_put(jnp.ones(shape, dtype), rows), sharded(state)
        assert none_in(donated.lower(parts, at, output, at.timesteps[0]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as: some donated buffers were not usable
            for t in times[:2]:
                before = parts, at
                parts, at = donated(*before, output, jnp.asarray(t))
                assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), name
                assert parts.sharding.is_equivalent_to(rows, parts.ndim)
        # and the check can fail: a mean over the batch needs all devices
        assert not none_in(jax.jit(lambda x: x - x.mean()).lower(output))

    for name in NAMES:
        check(name, classes[name], jnp.float32, 1e-5)
        print(name)

    # the same the plain way
    rows, everywhere = placements(AxisType.Auto)
    plan = cmsched.DPMSolverMultistepScheduler(**latent).plan(STEPS)
    network, parameters = nnx.split(UNet(nnx.Rngs(0), jnp.float32))
    noise = jax.random.normal(jax.random.key(2), shape)

    @jax.jit
    def generate(parameters, table, noise):
        return cmsched.sample(nnx.merge(network, parameters), table, noise)

    alone = generate(parameters, plan.on(noise), noise)
    spread, parts = jax.device_put(parameters, everywhere), jax.device_put(noise, rows)
    whole = generate(spread, plan.on(parts), parts)
    assert len(whole.addressable_shards) == DEVICES
    assert float(jnp.abs(whole - alone).max()) <= 1e-5 * float(jnp.abs(alone).max())
    print("cmsched")

    # of the scheduler; the samples are bfloat16, and by default the wider dtype is given back
    for own in ({"dtype": jnp.float32, "compatibility": "paper"}, {"dtype": jnp.bfloat16}):
        scheduler = interop.FlaxDPMSolverMultistepScheduler(**latent, **own)
        check("bfloat16", scheduler, jnp.bfloat16, 0.05, AxisType.Auto)
    print("bfloat16")


if __name__ == "__main__":
    main()
