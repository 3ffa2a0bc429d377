"""ONNX Runtime as the network, plans as JSON, loops as ONNX graphs; the pages keep their word."""

import itertools
import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import array_api_compat.numpy as anp
import ndonnx as ndx
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from onnx import TensorProto, helper
from problems import (
    HARD,
    PROJECTIONS,
    a_plan,
    given_of,
    network,
    plans,
    start_of,
    traced_variants,
)
from spox._future import ValuePropBackend, value_prop_backend

import cmsched
import cmsched.interop.onnx as interop

PAGE = Path(interop.__file__).with_name("onnx.md")
PORTING = Path(cmsched.__file__).parents[1] / "docs" / "porting.md"
SPECIFIED = PORTING.read_text(encoding="utf-8").partition("## Portable noise")[0]
TEXT = PAGE.read_text(encoding="utf-8") + SPECIFIED
CODE = {name: code for name, code in re.findall(r"^```python (\w+)\n(.*?)^```$", TEXT, re.M | re.S)}
SHAPE = (2, 3, 4, 4)
LOOP: dict = {}
exec(compile(CODE["loop"], str(PAGE), "exec"), LOOP)


def ran(model, inputs):
    """The first output of a graph in ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, inputs)[0]


# the plan as JSON


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_the_loop_on_json_makes_the_same_samples(sampler, options):
    @settings(max_examples=8)
    @given(plans(sampler, options))
    def check(plan):
        noise, own = start_of(SHAPE), given_of(plan, SHAPE)
        model, z = network(anp, plan.prediction), interop.normals(plan, noise, 5)
        for x0 in (None, start_of(SHAPE, 1)):
            made = LOOP["sample"](plan.to_json(), model_of(model), noise, z, own, x0)
            with np.errstate(over="ignore"):
                wanted = cmsched.sample(model, plan, noise, x0=x0, given=own, rng=5)
            np.testing.assert_allclose(made, wanted, rtol=1e-9, atol=1e-11 * np.abs(wanted).max())

    check()


def model_of(model):
    """The same network, for a caller whose times are plain numbers."""
    return lambda x, t: model(x, np.asarray(t))


def test_the_loop_keeps_single_precision():
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, projection="threshold")
    noise = start_of(SHAPE).astype(np.float32)
    model, z = network(anp, plan.prediction), interop.normals(plan, noise, 5)
    made = LOOP["sample"](plan.to_json(), model_of(model), noise, z)
    assert made.dtype == z.dtype == np.float32
    np.testing.assert_allclose(
        made, cmsched.sample(model, plan, noise, rng=5), rtol=1e-4, atol=1e-5
    )


def keys_of(value, path=""):
    """Every key of JSON data, lists as [], not looking into the recipe."""
    if isinstance(value, list):
        for entry in value:
            yield from keys_of(entry, f"{path}[]")
    elif isinstance(value, dict):
        for key, below in value.items():
            here = f"{path}.{key}".lstrip(".")
            yield here
            if here not in ("grid", "options", "prediction", "rows[].next", "start.next"):
                yield from keys_of(below, here)


def test_every_key_is_documented():
    rows = re.findall(r"^\| (`.*?) \|", TEXT, re.M)
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    found = set()
    for sampler, options in [p.values for p in traced_variants()]:
        data = json.loads(a_plan(sampler, options).to_json())
        found |= set(keys_of(data))
    found -= {key for key in found if re.match(r"start\.(draws|sums)\[\]", key)}  # as in a row
    assert documented - found == {f"prediction.{k}" for k in ("clip", "threshold", "variance_head")}
    assert found <= documented


def test_names_are_defined_before_they_are_used():
    """By every row, on every schedule: what a program that is not lenient would stumble over."""
    for sampler, options in [p.values for p in traced_variants()]:
        data = json.loads(a_plan(sampler, options, n=6).to_json())
        known = {"start", *data["given"]}
        for row in [data["start"], *data["rows"]]:
            known |= {"output", "x0"} if "t" in row else set()
            known |= {draw["name"] for draw in row["draws"]}
            for total in row["sums"]:
                assert total["terms"]
                assert {term["value"] for term in total["terms"]} <= known, sampler
                known.add(total["name"])
            assert set(row["next"].values()) <= known
            known |= set(row["next"])
            assert set(row["next"]) <= {"x", *data["memory"]}
            kept = {"x", *data["given"], *data["memory"]} & known
            known = kept  # nothing else passes from row to row


def test_infinite_levels_are_null():
    seen = set()
    for sampler, options in [p.values for p in traced_variants()]:
        for schedule in ("scaled_linear", *HARD):
            try:
                plan = a_plan(sampler, options, schedule=schedule, end="zero", kind="v_prediction")
            except ValueError:
                continue
            rows = json.loads(plan.to_json())["rows"]
            assert [row["t"] for row in rows] == plan.timesteps.tolist()
            for row, told in zip(plan.rows, rows, strict=True):
                lam = row.point.lam
                assert told["lam"] == (None if math.isinf(lam) else lam)
                assert type(told["t"]) is int
                for (_, draw), one in zip(row.draws, told["draws"], strict=True):
                    ends = one["interval"] or ()
                    seen.add(tuple(end is None for end in ends))
                    pairs = zip(ends, (-math.inf, math.inf), strict=False)
                    read = [infinite if end is None else end for end, infinite in pairs]
                    assert tuple(read) == (draw.interval or ())
    assert seen >= {(), (False, False), (True, False), (False, True)}


def test_a_sampler_without_a_table_has_no_rows():
    plan = cmsched.Scheduler(sampler="dpm_adaptive").plan(5)
    data = json.loads(plan.to_json())
    assert data["rows"] is data["start"] is None
    assert cmsched.Plan.from_json(plan.to_json()) == plan
    with pytest.raises(TypeError, match="no table"):
        interop.normals(plan, start_of(SHAPE), 0)


def test_normals_are_those_that_sample_draws():
    plan = a_plan("dpmpp_sde")
    noise, drawn = start_of(SHAPE), []

    def rng(shape, dtype, interval):
        drawn.append(np.full(shape, len(drawn) + 1.0))
        return drawn[-1]

    z = interop.normals(plan, noise, rng)
    assert z.shape == (len(plan) + 1, 1 + max(r for r, _ in plan.layout.draws), *SHAPE)
    state = cmsched.init(plan, noise)
    model, counted = network(anp, plan.prediction), itertools.count(1.0)
    for i, row in enumerate(plan.rows, 1):
        for _, draw in row.draws:
            assert np.all(z[i, draw.rank] == next(counted))
        state = cmsched.step(plan, state, model(*cmsched.model_input(plan, state)), rng=0)
    assert next(counted) == len(drawn) + 1


# networks in ONNX Runtime


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.outer = torch.nn.Conv2d(8, 4, 3, padding=1)
        self.time = torch.nn.Linear(1, 8)

    def forward(self, sample, timestep):
        shift = self.time(timestep.to(sample.dtype).reshape(-1, 1) / 1000)[:, :, None, None]
        return self.outer(torch.tanh(self.inner(sample) + shift))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network in PyTorch, and the folder where network.onnx is the same."""
    torch.manual_seed(0)
    net, folder = Network().eval(), tmp_path_factory.mktemp("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer export needs more packages
        torch.onnx.export(
            net,
            (torch.zeros(2, 4, 8, 8), torch.tensor([1])),
            folder / "network.onnx",
            input_names=["sample", "timestep"],
            output_names=["output"],
            dynamic_axes={"sample": {0: "batch"}, "output": {0: "batch"}},
            dynamo=False,
        )
    return net, folder


def said_by(net):
    """What a network of PyTorch says to NumPy arrays."""

    def model(x, t):
        with torch.inference_mode():
            return net(torch.tensor(x), torch.tensor(t).reshape(1)).numpy()

    return model


def test_sampling_needs_no_torch(exported):
    net, folder = exported
    code = CODE["session"] + (
        "\nimport sys\nassert 'torch' not in sys.modules\nassert x.dtype == np.float32\n"
        "np.save('made.npy', x)\n"
    )
    root = str(Path(cmsched.__file__).parents[1])
    environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=environment)
    noise = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
    plan = cmsched.DPMSolverMultistepScheduler().plan(num_inference_steps=20)
    wanted = cmsched.sample(said_by(net), plan, noise)
    np.testing.assert_allclose(np.load(folder / "made.npy"), wanted, rtol=1e-4, atol=1e-4)


def session_of(*inputs, **options):
    """A session of `file_of`."""
    return onnxruntime.InferenceSession(file_of(*inputs, **options))


def file_of(sample, time, *extra, first="x"):
    """A network that says sample times time, plus its further inputs; inputs as (type, shape)."""
    inputs = [
        helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape)
        for name, (kind, shape) in zip(["x", "when", *"abc"], [sample, time, *extra], strict=False)
    ]
    inputs.sort(key=lambda port: port.name != first)
    kind = getattr(TensorProto, sample[0])
    column = [-1, *(1,) * (len(sample[1] or BATCH[1]) - 1)]
    shape = helper.make_tensor("shape", TensorProto.INT64, [len(column)], column)
    nodes = [
        helper.make_node("Cast", ["when"], ["t"], to=kind),
        helper.make_node("Reshape", ["t", "shape"], ["column"]),
        helper.make_node("Mul", ["x", "column"], ["product"]),
    ]
    last = "product"
    for k in range(len(extra)):
        nodes.append(helper.make_node("Add", [last, "abc"[k]], [f"sum{k}"]))
        last = f"sum{k}"
    output = helper.make_tensor_value_info(last, kind, sample[1])
    graph = helper.make_graph(nodes, "g", inputs, [output], initializer=[shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


BATCH = ("FLOAT", ["batch", 3])
TIMES = [
    (kind, shape)
    for kind in ("FLOAT", "DOUBLE", "FLOAT16", "INT32", "INT64")
    for shape in ([], [1], ["batch"], ["batch", 1], [1, 1], [2])
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("time", TIMES, ids=str)
def test_the_time_has_the_declared_dtype_and_shape(time, dtype):
    x = start_of((2, 3)).astype(dtype)
    plan = a_plan("ddim")
    for kind in ("FLOAT", "FLOAT16"):
        model = interop.network(session_of((kind, ["batch", 3]), time))
        for index in (0, np.asarray(0), np.zeros(2, np.int32)):
            scaled, t = cmsched.model_input(plan, cmsched.init(plan, x, index=index))
            said = model(scaled, t)
            assert said.dtype == x.dtype
            wanted = scaled.astype(np.float64) * 999.0
            np.testing.assert_allclose(said, wanted, rtol=2e-3 if "16" in kind + dtype else 1e-6)


def test_rows_at_different_times():
    x, t = start_of((2, 3)), np.array([3, 5])
    for shape in (["batch"], ["batch", 1], [2]):
        model = interop.network(session_of(BATCH, ("INT64", shape)))
        np.testing.assert_allclose(model(x, t), x * t[:, None], rtol=1e-6)
    for shape in ([], [1], [1, 1]):
        model = interop.network(session_of(BATCH, ("INT64", shape)))
        with pytest.raises(ValueError, match=r"t has shape \(2,\).*'when'.*one time a row"):
            model(x, t)


def test_a_network_from_a_file(tmp_path):
    path, x = tmp_path / "network.onnx", start_of((2, 3))
    path.write_bytes(file_of(BATCH, ("INT64", [])))
    for place in (path, str(path)):
        np.testing.assert_allclose(interop.network(place)(x, np.asarray(2)), 2 * x, rtol=1e-6)
    with pytest.raises(TypeError, match=r"an onnxruntime\.InferenceSession or the path of an ONNX"):
        interop.network(7)


def test_inputs_that_do_not_fit():
    two = session_of(BATCH, ("INT64", []))
    four = session_of(BATCH, ("INT64", []), ("FLOAT", [3]), ("FLOAT", [1]))
    x = start_of((2, 3))
    model = interop.network(four, a=np.ones(3), b=[2])
    np.testing.assert_allclose(model(x, np.asarray(2)), 2 * x + 3, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"inputs \['b'\] are missing.*'x'.*'when'.*b=array"):
        interop.network(four, a=np.ones(3))
    with pytest.raises(ValueError, match=r"no input 'wen'; did you mean 'when'"):
        interop.network(two, wen=1)
    with pytest.raises(ValueError, match=r"only \['when'\] are left"):
        interop.network(two, x=x)
    with pytest.raises(TypeError, match=r"x must be a NumPy array, got torch.Tensor: .*asarray"):
        interop.network(two)(torch.tensor(x), torch.tensor(2))
    with pytest.raises(ValueError, match=r"t=2.5 is not whole.*'when'.*int64"):
        interop.network(two)(x, np.asarray(2.5))
    odd = [SimpleNamespace(name=name, type="tensor(bfloat17)", shape=[1]) for name in "xt"]
    with pytest.raises(TypeError, match=r"'x' is a tensor.*export"):
        interop.network(SimpleNamespace(get_inputs=lambda: odd))


@pytest.mark.parametrize("time", [("INT64", []), ("INT32", [1]), ("FLOAT", [1]), ("FLOAT", [])])
def test_sample_and_time_by_name(time):
    """Where the time comes first: an error says so, and names set it right."""
    session = session_of(BATCH, time, ("FLOAT", [3]), first="when")
    x, t, a = start_of((2, 3)), np.asarray(2), np.ones(3)
    with pytest.raises(ValueError, match=r"'when'.*taken for the sample.*sample=name, time=name"):
        interop.network(session, a=a)(x, t)
    for names in ({"sample": "x", "time": "when"}, {"time": "when"}, {"sample": "x"}):
        model = interop.network(session, **names, a=a)
        np.testing.assert_allclose(model(x, t), 2 * x + 1, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 1\).*'x'.*\('batch', 3\)"):
        interop.network(session, sample="x", a=a)(x[..., None], t)
    with pytest.raises(ValueError, match="no input 'wen'; did you mean 'when'"):
        interop.network(session, sample="wen")
    with pytest.raises(TypeError, match=r"name inputs of the session, got ndarray"):
        interop.network(session, sample=x)
    for twice in ({"sample": "x", "time": "x"}, {"time": "x", "x": x}):
        with pytest.raises(ValueError, match="'x' is given twice"):
            interop.network(session, **twice)
    with pytest.raises(ValueError, match=r"only \['when'\] are left"):
        interop.network(session, time="when", x=x, a=a)
    with pytest.raises(ValueError, match=r"\['a'\] are missing: besides the sample \('x'\)"):
        interop.network(session, time="when")


def test_a_sample_of_no_declared_shape():
    """Which ONNX Runtime shows like that of a single number: it has to be named."""
    session = session_of(("FLOAT", []), ("FLOAT", [1]))
    x, t = start_of((2, 3)), np.asarray(2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3\).*'x'.*sample=name"):
        interop.network(session)(x, t)
    np.testing.assert_allclose(interop.network(session, sample="x")(x, t), 2 * x, rtol=1e-6)


# whole loops as graphs


LAST = {p.values[0]: p.values[1] for p in traced_variants()}  # of each sampler


@pytest.fixture(autouse=True)
def quick_constants():
    """Let spox fold constants by onnx's own evaluator: with sessions it takes longer."""
    with value_prop_backend(ValuePropBackend.REFERENCE):
        yield


@pytest.mark.parametrize("sampler", LAST)
def test_a_loop_is_a_graph(sampler):
    """On a batch of any length, with the normals as an input."""
    projection = [*PROJECTIONS][[*LAST].index(sampler) % len(PROJECTIONS)]
    plan = a_plan(sampler, LAST[sampler], n=3, projection=projection)
    noise, own = start_of(SHAPE).astype(np.float32), given_of(plan, SHAPE) or {}
    own = {name: array.astype(np.float32) for name, array in own.items()}
    z = interop.normals(plan, noise, 3)
    lengths = (None, *SHAPE[1:])
    inputs = {name: ndx.argument(shape=lengths, dtype=ndx.float32) for name in ("noise", *own)}
    arrays = {"noise": noise, **own}
    rng = None
    if z.size:
        rng = inputs["z"] = ndx.argument(shape=(*z.shape[:2], *lengths), dtype=ndx.float32)
        arrays["z"] = z
    x = cmsched.sample(
        *(network(ndx, plan.prediction), plan, inputs["noise"]),
        rng=rng,
        given={name: inputs[name] for name in own} or None,
    )
    graph = ndx.build(inputs, {"sample": x})
    assert [node.op_type for node in graph.graph.node].count("Loop") == 1
    wanted = cmsched.sample(network(anp, plan.prediction), plan, noise, rng=3, given=own or None)
    scale = max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(ran(graph, arrays), wanted, rtol=0, atol=1e-5 * scale)


STOCHASTIC = [
    ("ddpm", {"variance": "learned_range"}),
    ("dpmpp_sde", {}),
    ("repaint", {"jump_length": 2, "jump_n_sample": 2}),
]


@pytest.mark.parametrize(("sampler", "options"), STOCHASTIC)
def test_portable_noise_inside_the_graph(sampler, options):
    plan = a_plan(sampler, options, n=3)
    noise, own = start_of(SHAPE).astype(np.float32), given_of(plan, SHAPE) or {}
    own = {name: array.astype(np.float32) for name, array in own.items()}
    inputs = {name: ndx.argument(shape=SHAPE, dtype=ndx.float32) for name in ("noise", *own)}
    x = cmsched.sample(
        *(network(ndx, plan.prediction), plan, inputs["noise"]),
        rng=3,
        given={name: inputs[name] for name in own} or None,
    )
    made = ran(ndx.build(inputs, {"sample": x}), {"noise": noise, **own})
    wanted = cmsched.sample(network(anp, plan.prediction), plan, noise, rng=3, given=own or None)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=2e-5)


def test_image_to_image_in_another_precision():
    plan = a_plan("unipc", projection="clip")
    for dtype, tolerance in (("float64", 1e-12), ("float16", 3e-3)):
        kind = getattr(ndx, dtype)
        inputs = {name: ndx.argument(shape=SHAPE, dtype=kind) for name in ("noise", "image")}
        x = cmsched.sample(
            network(ndx, plan.prediction), plan, inputs["noise"], x0=inputs["image"], unroll=True
        )
        arrays = {name: start_of(SHAPE, k).astype(dtype) for k, name in enumerate(inputs)}
        made = ran(ndx.build(inputs, {"sample": x}), arrays)
        wanted = cmsched.sample(
            network(anp, plan.prediction), plan, arrays["noise"], x0=arrays["image"]
        )
        assert made.dtype == wanted.dtype == np.dtype(dtype)
        np.testing.assert_allclose(made, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_an_exported_network_inside_the_graph(exported, monkeypatch):
    net, folder = exported
    monkeypatch.chdir(folder)
    made = {}
    exec(compile(CODE["graph"], str(PAGE), "exec"), made)
    plan, noise = made["plan"], made["start"]
    wanted = cmsched.sample(said_by(net), plan, noise, rng=0)
    scale = float(np.abs(wanted).max())
    np.testing.assert_allclose(made["images"], wanted, rtol=0, atol=1e-5 * scale)
    nodes = onnx.load("loop.onnx").graph.node
    (loop,) = [node for node in nodes if node.op_type == "Loop"]
    body = [node.op_type for node in loop.attribute[0].g.node]
    assert body.count("Conv") == 2  # once, whatever the number of steps

    def model(x, t):  # a batch of any length
        (output,) = made["inside"](
            sample=x.unwrap_spox(), timestep=ndx.reshape(t, (1,)).unwrap_spox()
        ).values()
        return ndx.asarray(output)

    z = interop.normals(plan, noise, 0)
    start = ndx.argument(shape=(None, *noise.shape[1:]), dtype=ndx.float32)
    rng = ndx.argument(shape=(*z.shape[:2], None, *noise.shape[1:]), dtype=ndx.float32)
    x = cmsched.sample(model, plan, start, rng=rng)
    graph = ndx.build({"noise": start, "z": rng}, {"sample": x})
    np.testing.assert_allclose(ran(graph, {"noise": noise, "z": z}), wanted, atol=1e-5 * scale)


def test_what_a_graph_cannot_do():
    plan = a_plan("ddpm")
    noise = ndx.argument(shape=("batch", 3), dtype=ndx.float32)
    model = network(ndx, plan.prediction)
    with pytest.raises(ValueError, match=r"known shape, got \(None, 3\).*normals"):
        cmsched.sample(model, plan, noise, rng=0)
    still = ndx.argument(shape=(2, 3), dtype=ndx.float32)
    with pytest.raises(ValueError, match=r"shape \(2, 3\): give all the normals"):
        cmsched.sample(model, plan, noise, rng=still)
    with pytest.raises(ValueError, match=r"path=True.*normals"):
        cmsched.sample(model, plan, still, rng=cmsched.Rng(0, path=True))
    with pytest.raises(ValueError, match="callback and progress need concrete arrays"):
        cmsched.sample(model, plan, noise, rng=0, callback=print)
