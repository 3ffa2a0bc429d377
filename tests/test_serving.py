"""What a server does with a batch: plans of any kind come and leave, nothing grows, nothing mixes.

Each result is held against the request's separate run, by the sampler's own loop in float64.
"""

import numpy as np
import pytest
from problems import a_plan, network
from test_batches import HOST, SHAPE, advance, condition, off, same, separate, start_of, three

import cmsched
from cmsched import Rng

SEEDS = [11, 12, 13, 14]
MIXED = {  # plans that do not stack, and what pads them
    "eta 0 beside 1": [("ddim", {}, {}), ("ddim", {"eta": 1.0}, {"n": 7})],
    "clipped beside not": [("ddim", {}, {}), ("ddim", {}, {"projection": "clip", "n": 7})],
    "20 beside 2 steps": [
        ("unipc", {"solver_order": 3}, {"n": 20}),
        ("unipc", {"solver_order": 3}, {"n": 2}),
    ],
    "Euler beside DPM++": [
        ("euler", {}, {"n": 6}),
        ("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}, {}),
    ],
    "churn beside none": [("heun", {"s_churn": 5.0}, {}), ("euler", {}, {})],
    "learned variance": [("ddpm", {"variance": "learned_range"}, {}), ("ddim", {}, {})],
    "boundary": [("lcm", {}, {"projection": "boundary"}), ("ddim", {}, {"projection": "clip"})],
    "four": [
        ("lms", {"solver_order": 4}, {"n": 6}),
        ("dpmpp_sde", {"eta": 1.0}, {}),
        ("pndm", {}, {"n": 8}),
        ("dpmpp_multistep", {"solver_order": 3}, {"projection": "clip"}),
    ],
}


def plans_of(kinds):
    return [a_plan(name, options, **more) for name, options, more in kinds]


def output_of(plans, stacked, state, xp):
    """What each row's own network says, as the outputs of a batch."""
    x, t = cmsched.model_input(stacked, state)
    found = []
    for k in range(x.shape[0]):
        plan = plans[k % len(plans)]
        own = network(HOST, plan.prediction)
        out = own(xp.numpy(x[k : k + 1, ...]), np.asarray(xp.numpy(t)[k]))
        wide = stacked.layout.prediction.variance_head and not plan.prediction.variance_head
        found.append(np.concatenate([out, np.zeros_like(out)], axis=1) if wide else out)
    return xp.asarray(np.concatenate(found))


@pytest.mark.parametrize("mixed", MIXED)
def test_unlike_plans_in_one_batch_equal_separate_runs(xp, mixed):
    plans, start = plans_of(MIXED[mixed]), start_of(SHAPE)
    if mixed != "boundary":
        with pytest.raises(ValueError, match="pad=True"):
            cmsched.stack(plans)
    stacked = cmsched.stack(plans, capacity=80, pad=True)
    kinds = [k % len(plans) for k in range(len(SEEDS))]
    rng = SEEDS if stacked.layout.stochastic else None
    state = cmsched.init(stacked, xp.asarray(start), which=kinds, rng=rng)
    for _ in range(len(stacked)):
        output = output_of(plans, stacked, state, xp)
        state = cmsched.step(stacked, state, output, rng=rng)
    for k, kind in enumerate(kinds):
        plan = plans[kind]
        expected = separate(plan, start[k : k + 1], SEEDS[k])
        assert off(xp, state.sample[k : k + 1, ...], expected) <= 1e-12 * condition(plan), k


def test_padding_says_what_cannot_be():
    plans = plans_of([("ddim", {}, {}), ("ddim", {}, {})])
    other = cmsched.DDIMScheduler(thresholding=True, clip_sample=False).plan(5)
    with pytest.raises(ValueError, match=r"plans\[2\] cannot stand beside .*thresholdings differ"):
        cmsched.stack([*plans, other], pad=True)


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_remaining_is_counted_on_the_device(xp, shape):
    plans = three("ddim", {})
    stacked, x = cmsched.stack(plans, capacity=30), xp.asarray(np.ones((*shape, 2)))
    which = np.resize([0, 1, 2], shape)
    state = cmsched.init(stacked, x, which=which)
    for i in range(8):
        for program in (stacked, stacked.on(x)):
            left = cmsched.remaining(program, state)
            assert left.dtype == xp.xp.int32
            expected = np.maximum(np.array([5, 7, 6])[which] - i, 0)
            assert np.array_equal(xp.numpy(left), expected)
        state = cmsched.step(stacked, state, x)


def test_remaining_of_one_plan(xp):
    plan, x = cmsched.DDIMScheduler().plan(2), xp.asarray(np.ones((2, 3)))
    state, found = cmsched.init(plan, x), []
    for _ in range(2):
        found.append(int(cmsched.remaining(plan, state)))
        state = cmsched.step(plan, state, x)
    assert [*found, int(cmsched.remaining(plan, state))] == [2, 1, 0]


# plans that leave


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_multistep"])
def test_rows_go_on_after_a_move(xp, sampler):
    plans, start = three(sampler, {}), start_of((3, 3, 2))
    old = cmsched.stack(plans, capacity=60)
    state = cmsched.init(old, xp.asarray(start), which=[0, 1, 2])
    for _ in range(5):
        state = advance(old, state)  # plan 0 is over
    other = a_plan(sampler, {}, n=9, projection="boundary")
    new = cmsched.stack([plans[2], other, plans[1]], capacity=60)
    moved = cmsched.move(state, old, new)
    assert xp.numpy(cmsched.remaining(new, moved)).tolist() == [0, 2, 1]
    late = cmsched.init(new, xp.asarray(start[:1]), which=[1])
    moved = cmsched.join([moved, late])
    for _ in range(9):
        state, moved = advance(old, state), advance(new, moved)
    assert same(xp, cmsched.take(moved, slice(3)).sample, state.sample)
    expected = separate(other, start[:1], None)
    assert off(xp, moved.sample[3:, ...], expected) <= 1e-12 * condition(other)


def test_a_move_brings_what_the_other_layout_stores(xp):
    first, second = plans_of(MIXED["Euler beside DPM++"])
    start = start_of((1, 3, 2))
    old, both = cmsched.stack([second]), cmsched.stack([first, second], pad=True)
    state = cmsched.init(old, xp.asarray(start), which=[0])
    state = cmsched.step(old, state, output_of([second], old, state, xp), rng=SEEDS[:1])
    for here, there in [(old, both), (both, old)]:
        state = cmsched.move(state, here, there)
        assert len(state.memory) == len(there.layout.slots)
        state = cmsched.step(there, state, output_of([second], there, state, xp), rng=SEEDS[:1])
    for _ in range(2):
        state = cmsched.step(old, state, output_of([second], old, state, xp), rng=SEEDS[:1])
    assert off(xp, state.sample, separate(second, start, SEEDS[0])) <= 1e-12 * condition(second)


def looked_at(xp, state):
    """Whether an index of this framework can be looked at without waiting."""
    return xp.backend in ("numpy", "torch") and "cpu" in str(getattr(state.index, "device", "cpu"))


def test_a_stack_in_another_order_is_refused(xp):
    a, b, c = three("ddim", {})
    x = xp.asarray(np.ones((2, 3)))
    right = cmsched.stack([a, b])
    state = cmsched.step(right, cmsched.init(right, x, which=[0, 1]), x)
    longer = cmsched.step(cmsched.stack([a, b, c]), state, x)  # which only has one more
    assert np.all(np.isfinite(xp.numpy(longer.sample)))
    for wrong in (cmsched.stack([b, a]), cmsched.stack([c, a, b]), cmsched.stack([c])):
        for program in (wrong, wrong.on(x)):
            if looked_at(xp, state):
                for call in (cmsched.step, lambda p, s, _: cmsched.model_input(p, s)):
                    with pytest.raises(ValueError, match=r"rows \[.*\] of the state run plans"):
                        call(program, state, x)
            else:
                assert np.any(np.isnan(xp.numpy(cmsched.step(program, state, x).sample)))


def test_the_same_plan_at_another_place_is_refused(xp):
    a, b, c = three("ddim", {})
    x = xp.asarray(np.ones((1, 3)))
    right, wrong = cmsched.stack([a, b]), cmsched.stack([c, b])  # one column further
    state = cmsched.step(right, cmsched.init(right, x, which=[1]), x)
    if looked_at(xp, state):
        with pytest.raises(ValueError, match=r"rows \[0\] of the state run plans"):
            cmsched.step(wrong, state, x)
    else:
        assert np.all(np.isnan(xp.numpy(cmsched.step(wrong, state, x).sample)))


def test_a_row_whose_plan_is_missing(xp):
    a, b, _ = three("ddim", {})
    x, old, new = xp.asarray(np.ones((2, 3))), cmsched.stack([a, b]), cmsched.stack([b])
    state = cmsched.init(old, x, which=[0, 1])
    if looked_at(xp, state):
        with pytest.raises(ValueError, match=r"rows \[0\] run plans that new lacks"):
            cmsched.move(state, old, new)
    else:
        sample = xp.numpy(cmsched.step(new, cmsched.move(state, old, new), x).sample)
        assert np.isnan(sample).any(axis=1).tolist() == [True, False]
    with pytest.raises(TypeError, match="new must be a Stack"):
        cmsched.move(state, old, new.on(x))


# what belongs to the rows


def test_what_is_carried_goes_along(xp):
    plans = three("ddim", {})
    stacked, start = cmsched.stack(plans), start_of((3, 2))
    text = xp.asarray(np.arange(12.0).reshape(3, 4))
    carry = {"text": text, "both": (["a", "b", "c"], np.array([1, 2, 3])), "none": None}
    state = cmsched.init(stacked, xp.asarray(start), which=[0, 1, 2])
    taken, mine = cmsched.take(state, [2, 0], carry)
    assert mine["both"][0] == ["c", "a"]
    assert mine["both"][1].tolist() == [3, 1]
    assert np.array_equal(xp.numpy(mine["text"]), np.arange(12.0).reshape(3, 4)[[2, 0]])
    assert mine["none"] is None
    rest, others = cmsched.take(state, [1], carry)
    back, mine = cmsched.join([taken, rest], [mine, others])
    assert mine["both"][0] == ["c", "a", "b"]
    assert mine["both"][1].tolist() == [3, 1, 2]
    assert np.array_equal(xp.numpy(mine["text"]), np.arange(12.0).reshape(3, 4)[[2, 0, 1]])
    assert back.sample.shape[0] == 3
    device = xp.asarray(np.array([1], np.int32))
    assert xp.numpy(cmsched.take(state, device, text)[1])[0].tolist() == [4, 5, 6, 7]
    if xp.backend != "numpy":
        with pytest.raises(TypeError, match="rows is on a device"):
            cmsched.take(state, device, [1, 2, 3])
    with pytest.raises(ValueError, match="2 entries for a batch of 3"):
        cmsched.take(state, [0], ["a", "b"])
    with pytest.raises(TypeError, match="not alike"):
        cmsched.join([state, state], [{"a": text}, {"b": text}])


# the first request, and states on disk


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_sde", "ddpm"])
def test_warm_runs_everything_once(xp, sampler):
    options = {"ddim": {}, "dpmpp_sde": {"eta": 1.0}, "ddpm": {"variance": "learned_range"}}
    plans = three(sampler, options[sampler])
    x = xp.asarray(start_of((2, 2, 2)))
    cmsched.warm(plans[0], x)
    stacked = cmsched.stack(plans)
    cmsched.warm(stacked, x)
    assert len(stacked._tables) == 1
    if not xp.numpy(x).size or xp.backend == "jax":
        return
    assert {index for _, index, *_ in plans[0]._kernels} == set(range(len(plans[0])))
    with pytest.raises(TypeError, match="a table is on its device"):
        cmsched.warm(stacked.on(x), x)


def test_states_are_saved_as_plain_tensors(torch, tmp_path):
    plan = cmsched.DPMSolverMultistepScheduler().plan(3)
    state = cmsched.init(plan, torch.ones(2, 3))
    state = cmsched.step(plan, state, torch.ones(2, 3))
    torch.save(state._asdict(), tmp_path / "state.pt")
    loaded = cmsched.State(**torch.load(tmp_path / "state.pt", weights_only=True))
    assert loaded.index == 1
    following = [cmsched.step(plan, s, torch.ones(2, 3)).sample for s in (state, loaded)]
    assert torch.equal(*following)


# a server


def test_a_server_of_free_plans_does_not_grow(xp):
    """Step counts, strengths and shifts as the client likes; the table stays as large as it is."""
    random, most, count, capacity = np.random.default_rng(0), 4, 40, 64
    wanted = []
    for k in range(count):
        scheduler = cmsched.FlowMatchEulerDiscreteScheduler(shift=float(random.uniform(1, 5)))
        strength = float(random.choice([1.0, 0.5]))
        wanted.append((scheduler.plan(int(random.integers(2, 12)), strength=strength), Rng(k)))
    waiting, going, layouts, turns = list(enumerate(wanted)), [], set(), 0
    state = stacked = None
    start = start_of((count, 2, 3))
    model = network(xp.xp, wanted[0][0].prediction)
    results = {}
    while waiting or going:
        new = [waiting.pop(0) for _ in range(min(most - len(going), len(waiting)))]
        if new:
            plans = list(dict.fromkeys(plan for _, (plan, _) in [*going, *new]))
            following = cmsched.stack(plans, capacity)
            kept = [cmsched.move(state, stacked, following)] if going else []
            stacked = following
            layouts.add((stacked.layout, stacked.on(xp.asarray(start)).numbers.shape))
            x = xp.asarray(start[[k for k, _ in new]])
            which = [plans.index(plan) for _, (plan, _) in new]
            state = cmsched.join([*kept, cmsched.init(stacked, x, which=which)])
            going += new
        state = cmsched.step(stacked, state, model(*cmsched.model_input(stacked, state)))
        left = xp.numpy(cmsched.remaining(stacked, state))
        for row in np.flatnonzero(left == 0):
            results[going[row][0]] = cmsched.take(state, [row]).sample
        state, going = cmsched.take(state, left > 0, going)
        turns += 1
    assert len(layouts) == 1  # one compilation
    assert turns < sum(len(plan) for plan, _ in wanted) / 3
    for k, (plan, _) in enumerate(wanted):
        expected = separate(plan, start[k : k + 1], None)
        assert off(xp, results[k], expected) <= 1e-12 * condition(plan)
