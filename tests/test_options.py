"""Nothing public is unexplained: options, names, methods; and what is made of the tables is new."""

import dataclasses
import inspect
import re

import generated
import pytest

import cmsched
from cmsched import predictions, samplers, schedules, spacings
from cmsched.schedulers import explained, meanings
from cmsched.schedulers.base import run_options

pytestmark = pytest.mark.host

CLASSES = generated.own_classes()
PAPER = re.compile(r"arXiv:\d{4}\.\d{4,5}|k-diffusion|github\.com|ComfyUI")
SHAPES = re.compile(r"shape|like|batch|any array|arrays? of|per row|element")


@pytest.mark.parametrize("path", generated.FILES, ids=lambda path: path.name)
def test_what_is_made_of_the_tables_is_new(path):
    text = path.read_text(encoding="utf-8")
    assert text == generated.FILES[path](), f"{path} is old: run {generated.COMMAND}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_option_is_explained(name):
    cls = CLASSES[name]
    for option, default in generated.options_of(cls).items():
        assert explained.meaning_of(cls, option), option
        shown = "required" if default is inspect.Parameter.empty else repr(default)
        assert f"\n    {option} ({shown}): " in cls.__doc__, option
    placing = run_options(cls.meaning) if hasattr(cls, "meaning") else ()
    for option, (_, text) in explained.call_options(cls):
        assert text, option
    assert all(option in meanings.CALLS for option in placing)
    assert PAPER.search(cls.__doc__), "no source"
    assert max(map(len, cls.__doc__.splitlines())) <= 100


def test_meanings_are_of_options():
    """No explanation is left over, and none of a class's own is of another's option."""
    known = {option for cls in CLASSES.values() for option in generated.options_of(cls)}
    assert meanings.OPTIONS.keys() <= known | {"compatibility", "xp"}
    for cls in CLASSES.values():
        assert {name.rstrip("=") for name in cls.meanings} <= {*generated.options_of(cls)}
    own = generated.own_samplers()
    named = {option for entry in own.values() for option in entry.options}
    for key in meanings.SAMPLERS:
        sampler, _, option = key.rpartition(":")
        assert option in (own[sampler].options if sampler else named)


@pytest.mark.parametrize("name", generated.own_samplers())
def test_every_option_of_a_sampler_is_explained(name):
    for option in samplers.REGISTRY[name].options:
        assert explained.sampler_meaning(name, option), option


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (meanings.SCHEDULES, schedules.OWN),
        (meanings.SPACINGS, spacings.OWN),
        (meanings.PREDICTIONS, predictions.OWN),
    ],
    ids=["schedules", "spacings", "predictions"],
)
def test_every_part_is_explained(texts, names):
    assert texts.keys() == {*names}
    assert all(f"\n    {name}: " in cmsched.Scheduler.__doc__ for name in names)


@pytest.mark.parametrize(
    "table",
    [schedules.SCHEDULES, spacings.SPACINGS, spacings.SHIFTS, predictions.OUTPUTS],
    ids=["schedules", "spacings", "shifts", "outputs"],
)
def test_tables_say_what_they_are(table):
    assert table.__doc__ != dict.__doc__
    assert "by name" in inspect.getdoc(table)


def public():
    """Every public name, and every public method of a public class."""
    for name in cmsched.__all__:
        thing = getattr(cmsched, name)
        yield name, thing
        if inspect.isclass(thing):
            for member, value in inspect.getmembers_static(thing):
                fields = getattr(thing, "_fields", ())
                if not member.startswith("_") and is_code(value) and member not in fields:
                    yield f"{name}.{member}", value


def is_code(value):
    kinds = (property, classmethod, staticmethod)
    return inspect.isfunction(value) or isinstance(value, kinds)


def test_every_public_name_has_a_docstring():
    assert [name for name, thing in public() if not inspect.getdoc(thing)] == []


FUNCTIONS = [name for name in cmsched.__all__ if inspect.isfunction(getattr(cmsched, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_say_what_they_take(name):
    """Every argument is named, and where there are arrays what they are like."""
    function = getattr(cmsched, name)
    doc, signature = inspect.getdoc(function), inspect.signature(function)
    arrays = []
    for parameter in signature.parameters.values():
        assert re.search(rf"\b{parameter.name}\b", doc) or "in `" in doc, parameter.name
        if re.search(r"(^|\W)A(\W|$)|Array", str(parameter.annotation)):
            arrays.append(parameter.name)
    if arrays:
        assert SHAPES.search(doc) or "see `" in doc or "in `" in doc, arrays


def test_dataclasses_say_what_their_fields_are():
    for name in cmsched.__all__:
        cls = getattr(cmsched, name)
        if inspect.isclass(cls) and dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                if not field.name.startswith("_"):
                    assert re.search(rf"\b{field.name}\b", cls.__doc__), f"{name}.{field.name}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"eta": 1.0}, r"no option 'eta'; known: (?!.*\boptions\b)"),
        ({"steps": 20}, "did you mean 'num_inference_steps'"),
        ({"num_steps": 20}, "did you mean 'num_inference_steps'"),
        ({"s_chrn": 20}, "did you mean 's_churn'"),
    ],
    ids=["eta", "steps", "num_steps", "s_chrn"],
)
def test_plan_names_what_was_meant(given, said):
    with pytest.raises(TypeError, match=said):
        cmsched.EulerDiscreteScheduler().plan(20, **given)
