"""Configuration: options, frozen configs, change of class, files and the Hub; diffusers as a peer.

The classes here are dummies. They live in a registry of their own, so that the library's is not
changed by them.
"""

import copy
import functools
import inspect
import json
import math
import operator
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar
from unittest import mock

import array_api_compat.numpy as compat_numpy
import numpy as np
import pytest

from cmsched.schedulers import config as module
from cmsched.schedulers.config import REQUIRED, ConfigMixin, FrozenDict

_before = dict(module.CLASSES)


class Base(ConfigMixin):
    """What the library's own base will be: a class without options, with an __init__ of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cursor = 0


def fits(config):
    if config.num_train_timesteps < 1 or config["third_order"] not in ("published", "exact"):
        raise ValueError(f"num_train_timesteps={config.num_train_timesteps}")


class Alpha(Base):
    options: ClassVar = {
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "trained_betas": None,
        "clip_sample": True,
        "lambda_min": -math.inf,
        "mask": [],
    }
    hidden_options: ClassVar = {"third_order": "published"}
    _compatibles: ClassVar = ["Beta", "Alpha", "NotInThisLibrary"]

    relations = (fits,)


class Beta(Base):
    options: ClassVar = {
        "num_train_timesteps": 500,
        "beta_schedule": "scaled_linear",
        "use_karras": False,
    }
    _compatibles: ClassVar = ["Alpha"]


class Gamma(Base):
    """Compatible with nobody."""

    options: ClassVar = {"shift": 1.0, "num_train_timesteps": 1000}


class Tokens(Base):
    options: ClassVar = {"num_tokens": REQUIRED, "num_train_timesteps": 100}


DUMMIES = {name: cls for name, cls in module.CLASSES.items() if _before.get(name) is not cls}
for _name in DUMMIES:
    del module.CLASSES[_name]
module.CLASSES.update(_before)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    classes = dict(DUMMIES)
    monkeypatch.setattr(module, "CLASSES", classes)
    return classes


def public(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


# --- FrozenDict ---------------------------------------------------------------------------------


def delete_item(d):
    del d["a"]


def delete_attribute(d):
    del d.a


WRITES = {
    "item": lambda d: operator.setitem(d, "a", 2),
    "attribute": lambda d: setattr(d, "a", 2),
    "new attribute": lambda d: setattr(d, "b", 2),
    "delete item": delete_item,
    "delete attribute": delete_attribute,
    "merge": lambda d: operator.ior(d, {"a": 2}),
    "pop": lambda d: d.pop("a"),
    "pop with default": lambda d: d.pop("b", None),
    "popitem": lambda d: d.popitem(),
    "update by keyword": lambda d: d.update(a=2),
    "update": lambda d: d.update({"a": 2}),
    "setdefault": lambda d: d.setdefault("b", 1),
    "setdefault of a known key": lambda d: d.setdefault("a", 1),
    "clear": lambda d: d.clear(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_frozen_dict_refuses_every_write(write):
    frozen = FrozenDict(a=1)
    with pytest.raises(TypeError, match=r"register_to_config\("):
        write(frozen)
    assert frozen == {"a": 1}
    assert frozen.a == 1


def test_frozen_dict_reads_as_dict_and_as_attributes():
    frozen = FrozenDict({"steps_offset": 1, "clip": None})
    assert isinstance(frozen, dict)
    assert frozen.steps_offset == frozen["steps_offset"] == frozen.get("steps_offset") == 1
    assert frozen.clip is None
    assert getattr(frozen, "missing", 7) == 7
    assert not hasattr(frozen, "missing")
    assert list(frozen) == ["steps_offset", "clip"]
    assert {**frozen} == dict(frozen) == {"steps_offset": 1, "clip": None}
    with pytest.raises(AttributeError, match=r"'step_offset'; did you mean 'steps_offset'\?"):
        frozen.step_offset  # noqa: B018
    assert type(frozen | {"a": 1}) is dict  # a copy that may be written to


def test_frozen_dict_copies_pickles_and_is_json():
    frozen = FrozenDict(a=[1, 2], b={"c": 3})
    for other in (copy.copy(frozen), copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert type(other) is FrozenDict
        assert other == frozen
        assert other is not frozen
    assert copy.deepcopy(frozen).a is not frozen.a
    assert copy.copy(frozen).a is frozen.a
    assert json.loads(json.dumps(frozen)) == frozen


# --- constructor --------------------------------------------------------------------------------


def test_signatures_show_options_and_defaults():
    names = [*Alpha.options, "third_order", "compatibility", "xp"]
    signature = inspect.signature(Alpha)
    assert list(signature.parameters) == names
    assert list(inspect.signature(Alpha.__init__).parameters) == ["self", *names]
    assert list(inspect.signature(Alpha(3).__init__).parameters) == names
    for name, default in Alpha.options.items():
        assert signature.parameters[name].default == default
        assert signature.parameters[name].kind.name == "POSITIONAL_OR_KEYWORD"
    for name in ("third_order", "compatibility", "xp"):
        assert signature.parameters[name].kind.name == "KEYWORD_ONLY"
    assert signature.parameters["third_order"].default == "published"
    assert list(inspect.signature(Beta).parameters)[:3] == list(Beta.options)
    assert inspect.signature(Tokens).parameters["num_tokens"].default is inspect.Parameter.empty
    assert Alpha.__init__.__qualname__ == "Alpha.__init__"


def test_init_binds_positions_names_and_defaults():
    scheduler = Alpha(50, "squared", clip_sample=False)
    assert public(scheduler.config) == {
        **Alpha.options,
        "num_train_timesteps": 50,
        "beta_schedule": "squared",
        "clip_sample": False,
    }
    assert list(public(scheduler.config)) == list(Alpha.options)
    assert scheduler.config._use_default_values == ["trained_betas", "lambda_min", "mask"]
    assert (scheduler.compatibility, scheduler.xp, scheduler.cursor) == ("paper", None, 0)
    assert "_use_default_values" not in Beta(1, "linear", True).config
    assert "compatibility" not in scheduler.config
    assert "xp" not in scheduler.config
    other = Alpha(compatibility="diffusers", xp=np)
    assert (other.compatibility, other.xp) == ("diffusers", np)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Alpha(clip_sampel=1), TypeError, r"no option 'clip_sampel'; did you mean 'clip_s"),
        (lambda: Alpha(use_karras=True), TypeError, r"'use_karras', it is one of Beta"),
        (lambda: Alpha(third_ordr="exact"), TypeError, r"did you mean 'third_order'"),
        (lambda: Alpha(*range(7)), TypeError, r"takes 6 options by position, got 7"),
        (lambda: Alpha(5, num_train_timesteps=5), TypeError, r"'num_train_timesteps' both by"),
        (lambda: Tokens(), TypeError, r"Tokens\(\) needs a value for 'num_tokens'"),
        (lambda: Base(3), TypeError, r"takes 0 options by position"),
        (lambda: Alpha(compatibility="paddle"), ValueError, r"compatibility='paddle'"),
        (lambda: Alpha(0), ValueError, r"num_train_timesteps=0"),
        (lambda: Alpha(third_order="wrong"), ValueError, r"num_train_timesteps"),
    ],
)
def test_init_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_failed_init_leaves_the_object_as_it_was():
    scheduler = Alpha(7, compatibility="diffusers", xp=np)
    before = dict(vars(scheduler))
    with pytest.raises(ValueError):
        scheduler.__init__(0)
    with pytest.raises(TypeError):
        scheduler.__init__(shift=2.0)
    assert vars(scheduler) == before


def test_checks_see_every_option_before_anything_is_stored():
    seen = []

    class Watching(Alpha):
        relations = (lambda config: seen.append(dict(config)),)

    Watching(5)
    own = {**Alpha.options, "num_train_timesteps": 5, "third_order": "published"}
    assert seen == [own]
    bare = object.__new__(Alpha)
    with pytest.raises(ValueError, match="num_train_timesteps=0"):
        bare.__init__(0)
    assert not vars(bare)


def test_hidden_options_stand_in_the_config_only_where_set():
    assert "third_order" not in Alpha().config
    assert "third_order" not in Alpha(third_order="published").config
    assert "third_order" not in Alpha().config._use_default_values
    scheduler = Alpha(third_order="exact")
    assert scheduler.config.third_order == "exact"
    scheduler.register_to_config(third_order="published")
    assert "third_order" not in scheduler.config
    assert "third_order" not in scheduler.to_json_string()


def test_values_are_plain_data_and_not_shared():
    betas, mask = np.linspace(0, 1, 3), [1, [2]]
    scheduler = Alpha(np.int64(9), trained_betas=betas, mask=mask, clip_sample=np.bool_(False))
    betas[:] = 5
    mask[1].append(3)
    assert scheduler.config.trained_betas == [0.0, 0.5, 1.0]
    assert scheduler.config.mask == [1, [2]]
    assert type(scheduler.config.num_train_timesteps) is int
    assert scheduler.config.clip_sample is False
    assert Alpha().config.mask is not Alpha().config.mask
    assert Alpha.options["mask"] == []


@pytest.mark.parametrize("text", ["-inf", "-Infinity", "-INF"])
def test_infinity_as_a_string(text):
    assert Alpha(lambda_min=text).config.lambda_min == -math.inf
    assert Alpha.from_config({"lambda_min": text}).config.lambda_min == -math.inf
    assert math.isnan(Alpha(lambda_min="nan").config.lambda_min)
    assert Alpha(beta_schedule=text).config.beta_schedule == text  # an option that is a string
    assert Alpha(lambda_min="1.5").config.lambda_min == "1.5"


def test_config_as_keywords_makes_the_same_scheduler():
    scheduler = Alpha(8, third_order="exact")
    assert Alpha(**scheduler.config).config == scheduler.config


def test_subclasses_inherit_extend_or_replace_the_constructor(registry):
    class Child(Alpha):
        pass

    class Wider(Alpha):
        options: ClassVar = {**Alpha.options, "extra": 1}

    class Own(Alpha):
        def __init__(self, steps, **kwargs):
            super().__init__(num_train_timesteps=2 * steps, **kwargs)

    assert Child(3).config.num_train_timesteps == 3
    assert inspect.signature(Child) == inspect.signature(Alpha)
    assert Wider(extra=4).config.extra == 4
    assert "extra" in inspect.signature(Wider).parameters
    assert Own(3).config.num_train_timesteps == 6
    assert list(inspect.signature(Own).parameters) == ["steps", "kwargs"]
    assert {"Child", "Wider", "Own"} <= registry.keys()


def test_registry_of_classes(registry):
    assert set(registry) == {"Alpha", "Beta", "Gamma", "Tokens"}  # Base has no options
    adapter = type("Alpha", (Alpha,), {})
    assert registry["Alpha"] is Alpha
    assert adapter().config == Alpha().config
    again = type("Gamma", (Base,), {"options": {"shift": 2.0}})  # a cell run again
    assert registry["Gamma"] is again


# --- config, register_to_config -----------------------------------------------------------------


def test_register_to_config_changes_all_or_nothing():
    scheduler = Alpha()
    old = scheduler.config
    scheduler.register_to_config(num_train_timesteps=7, beta_schedule="squared")
    assert (scheduler.config.num_train_timesteps, scheduler.config.beta_schedule) == (7, "squared")
    assert old.num_train_timesteps == 1000
    now = scheduler.config
    with pytest.raises(ValueError):
        scheduler.register_to_config(beta_schedule="linear", num_train_timesteps=0)
    assert scheduler.config is now
    with pytest.raises(TypeError, match=r"register_to_config\(clip_sample=value\)"):
        scheduler.config.clip_sample = False


def test_a_registered_value_is_no_default():
    scheduler = Alpha()
    scheduler.register_to_config(beta_schedule="linear")
    assert "beta_schedule" not in scheduler.config._use_default_values
    assert Beta.from_config(scheduler.config).config.beta_schedule == "linear"
    assert Beta.from_config(Alpha().config).config.beta_schedule == "scaled_linear"
    beta = Beta(use_karras=True)
    beta.register_to_config(num_train_timesteps=3, beta_schedule="linear")
    assert "_use_default_values" not in beta.config


def test_register_to_config_keeps_unknown_names_and_says_so():
    scheduler = Alpha()
    with pytest.warns(UserWarning, match=r"Alpha has no option 'sigma_data' \(kept"):
        scheduler.register_to_config(sigma_data=0.5)
    assert scheduler.config.sigma_data == 0.5
    scheduler.register_to_config(use_karras=True, _note=1)  # a compatible class's: no warning
    assert scheduler.config.use_karras is True


def test_replacing_the_internal_dict_takes_effect():
    scheduler = Alpha()
    for kind in (FrozenDict, dict):
        scheduler._internal_dict = kind({**scheduler.config, "clip_sample": kind.__name__})
        assert scheduler.config.clip_sample == kind.__name__
        assert type(scheduler.config) is FrozenDict


# --- from_config --------------------------------------------------------------------------------


def test_from_config_of_another_class_and_back():
    alpha = Alpha(40, clip_sample=False, lambda_min=-5.1, third_order="exact")
    beta = Beta.from_config(alpha.config)
    assert beta.config.num_train_timesteps == 40
    assert beta.config.beta_schedule == "scaled_linear"  # only a default there: the default here
    assert beta.config.clip_sample is False  # hidden
    assert beta.config._use_default_values == ["beta_schedule", "use_karras"]
    again = Alpha.from_config(beta.config)
    assert public(again.config) == public(alpha.config)
    assert "mask" not in beta.config  # a default there is not carried along


def test_hidden_keys_are_saved_and_come_back(tmp_path):
    beta = Beta.from_config(Alpha(40, clip_sample=False, third_order="exact").config)
    beta.save_config(tmp_path)
    loaded = Beta.from_pretrained(tmp_path)
    assert loaded.config.clip_sample is False
    alpha = Alpha.from_config(loaded.config)
    assert (alpha.config.clip_sample, alpha.config.third_order) == (False, "exact")


def test_the_class_named_in_a_config_is_known():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = Alpha.from_config(
            {"_class_name": "Gamma", "shift": 3.0, "_diffusers_version": 1}
        )
    assert scheduler.config.shift == 3.0
    assert scheduler.config._class_name == "Alpha"
    assert scheduler.config._diffusers_version == 1
    assert Gamma.from_config(
        Alpha.from_config({"_class_name": ["mod", "Gamma"], "shift": 3.0}).config
    )


def test_unknown_keys_are_kept_with_one_warning():
    with pytest.warns(UserWarning, match="has no option") as caught:
        scheduler = Alpha.from_config({"foo": 1, "bar": 2, "clip_sample": False})
    assert len(caught) == 1
    assert "'bar', 'foo' (kept in the config)" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert (scheduler.config.foo, scheduler.config.clip_sample) == (1, False)


def test_keywords_win_and_unknown_ones_are_named_or_returned():
    config = {"num_train_timesteps": 10, "_use_default_values": ["num_train_timesteps"]}
    assert Alpha.from_config(config).config.num_train_timesteps == 1000
    assert Alpha.from_config(config, num_train_timesteps=20).config.num_train_timesteps == 20
    scheduler = Alpha.from_config(config, compatibility="diffusers", xp=np, third_order="exact")
    assert (scheduler.compatibility, scheduler.xp) == ("diffusers", np)
    assert scheduler.config.third_order == "exact"
    with pytest.warns(UserWarning, match=r"'clip_sampel' \(ignored; did you mean 'clip_sample'"):
        scheduler = Alpha.from_config({}, clip_sampel=False)
    assert "clip_sampel" not in scheduler.config
    scheduler, unused = Alpha.from_config(
        {"_class_name": "Beta", "use_karras": True}, return_unused_kwargs=True, dtype="half"
    )
    assert unused == {"_class_name": "Alpha", "use_karras": True, "dtype": "half"}


def test_from_config_does_not_change_its_argument():
    config = {"_class_name": "Beta", "mask": [1], "_use_default_values": ["beta_schedule"]}
    before = copy.deepcopy(config)
    scheduler = Alpha.from_config(config, num_train_timesteps=3)
    config["mask"].append(2)
    assert scheduler.config.mask == [1]
    assert {**config, "mask": [1]} == before


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ("some/model", TypeError, r"Alpha\.from_pretrained"),
        (Path("folder"), TypeError, r"Alpha\.from_pretrained"),
        (Alpha(), TypeError, r"\.config"),
        (None, TypeError, r"takes a dict, got NoneType"),
        ([("a", 1)], TypeError, r"takes a dict, got list"),
        ({1: 2}, TypeError, r"keys of a config are strings, got \[1\]"),
        ({"_class_name": 3}, ValueError, r"_class_name must be .* got 3"),
        ({"num_train_timesteps": -1}, ValueError, r"num_train_timesteps=-1"),
        (
            {"_class_name": "UNet2DModel", "in_channels": 4, "num_train_timesteps": None},
            ValueError,
            r"config of UNet2DModel.*subfolder 'scheduler'",
        ),
    ],
)
def test_from_config_errors(config, error, message):
    with pytest.raises(error, match=message):
        Alpha.from_config(config)


def test_a_scheduler_of_unknown_name_loads_if_it_has_options():
    with pytest.warns(UserWarning, match="'own_option'"):
        scheduler = Alpha.from_config(
            {"_class_name": "Mine", "clip_sample": False, "own_option": 1}
        )
    assert scheduler.config.clip_sample is False


def test_compatibles():
    assert Alpha().compatibles == [Alpha, Beta]
    assert Beta().compatibles == [Beta, Alpha]
    assert Gamma._get_compatibles() == [Gamma]
    assert Alpha.has_compatibles


# --- copies and threads -------------------------------------------------------------------------


@pytest.mark.parametrize("space", [None, np, compat_numpy, "torch"])
def test_schedulers_copy_and_pickle(space):
    if space == "torch":
        pytest.importorskip("torch")
    scheduler = Alpha(5, mask=[1], third_order="exact", compatibility="diffusers", xp=space)
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert type(other) is Alpha
        assert vars(other) == vars(scheduler)
        assert other.xp is space or other.xp == "torch"
        other.register_to_config(num_train_timesteps=6)
        assert scheduler.config.num_train_timesteps == 5
    assert scheduler.xp is space


def test_threads(tmp_path):
    def work(i):
        alpha = Alpha(i + 1, trained_betas=[i])
        beta = Beta.from_config(alpha.config)
        beta.save_config(tmp_path)  # all to one file: a reader finds one of them, whole
        return i, beta.config, Alpha.from_pretrained(tmp_path).config

    with ThreadPoolExecutor(8) as pool:
        for i, config, read in pool.map(work, range(200)):
            assert (config.num_train_timesteps, config.trained_betas) == (i + 1, [i])
            assert read.trained_betas == [read.num_train_timesteps - 1]
    assert [path.name for path in tmp_path.iterdir()] == ["scheduler_config.json"]


# --- files --------------------------------------------------------------------------------------


def test_file_layout(tmp_path):
    scheduler = Alpha(12, trained_betas=np.array([0.5, 1]), lambda_min=np.float32(-2.5))
    scheduler.save_pretrained(tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "scheduler_config.json").read_text()
    assert text == scheduler.to_json_string()
    assert text.startswith('{\n  "_class_name": "Alpha",\n  "_cmsched_version": "')
    assert text.endswith("\n}\n")
    content = json.loads(text)
    assert list(content) == sorted(content)
    assert content["trained_betas"] == [0.5, 1.0]
    assert content["lambda_min"] == -2.5
    assert "_use_default_values" not in content
    assert "third_order" not in content
    assert repr(scheduler) == f"Alpha {text}"
    assert "_class_name" not in scheduler.config  # writing changes nothing
    scheduler.to_json_file(tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == text


def test_round_trip_with_infinities(tmp_path):
    scheduler = Alpha(12, lambda_min=-math.inf, mask=[math.inf, 1], third_order="exact")
    scheduler.save_config(tmp_path)
    assert '"lambda_min": -Infinity' in (tmp_path / "scheduler_config.json").read_text()
    loaded = Alpha.from_pretrained(tmp_path)
    assert public(loaded.config) == public(scheduler.config)
    loaded.save_config(tmp_path / "again")
    first, second = tmp_path / "scheduler_config.json", tmp_path / "again" / "scheduler_config.json"
    assert first.read_text() == second.read_text()


def test_bookkeeping_of_other_writers_is_preserved(tmp_path):
    given = {"_class_name": "Beta", "_diffusers_version": "0.6.0", "use_karras": True, "skip": 1}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(given))
    with pytest.warns(UserWarning, match="'skip'"):
        Alpha.from_pretrained(tmp_path).save_config(tmp_path)
    content = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert content["_class_name"] == "Alpha"
    assert content["_diffusers_version"] == "0.6.0"
    assert (content["use_karras"], content["skip"]) == (True, 1)


@pytest.fixture
def saved(tmp_path):
    """A pipeline's folder: a config in its subfolder 'scheduler'."""
    Beta(30, use_karras=True).save_config(tmp_path / "scheduler")
    return tmp_path


def test_load_config_and_what_it_returns(saved):
    config = Beta.load_config(saved, subfolder="scheduler")
    assert type(config) is dict
    assert config["num_train_timesteps"] == 30
    assert Beta.load_config(str(saved / "scheduler")) == config
    assert Beta.load_config(saved / "scheduler" / "scheduler_config.json") == config
    args = (saved / "scheduler",)
    assert Beta.load_config(*args, return_commit_hash=True) == (config, None)
    assert Beta.load_config(*args, return_unused_kwargs=True, foo=1) == (config, {"foo": 1})
    assert Beta.load_config(*args, True, True, foo=1) == (config, {"foo": 1}, None)
    assert Beta.load_config(*args, revision="x", token=None) == config
    with pytest.raises(TypeError, match=r"'revison'; did you mean 'revision'"):
        Beta.load_config(*args, revison="x")


def test_from_pretrained_and_what_it_returns(saved):
    scheduler = Beta.from_pretrained(saved, subfolder="scheduler", beta_schedule="linear")
    assert (scheduler.config.num_train_timesteps, scheduler.config.beta_schedule) == (30, "linear")
    hidden = {"_class_name": "Beta", "_cmsched_version": scheduler.config._cmsched_version}
    scheduler, unused = Beta.from_pretrained(saved, "scheduler", True, foo=1)
    assert unused == {**hidden, "foo": 1}
    alpha, info = Alpha.from_pretrained(saved, "scheduler", output_loading_info=True)
    assert type(alpha) is Alpha
    assert info == {
        "missing_keys": ["trained_betas", "clip_sample", "lambda_min", "mask"],
        "unexpected_keys": [],
        "error_msgs": [],
    }
    file = saved / "scheduler" / "scheduler_config.json"
    file.write_text('{"foo": 1, "num_train_timesteps": 3, "_x": 1}')
    with pytest.warns(UserWarning, match="'foo'"):
        beta, unused, info = Beta.from_pretrained(
            file, return_unused_kwargs=True, output_loading_info=True, bar=2
        )
    assert beta.config.num_train_timesteps == 3
    assert unused == {"foo": 1, "_x": 1, "bar": 2}
    assert info["unexpected_keys"] == ["foo"]


@pytest.mark.parametrize("keyword", ["resume_download", "proxies"])
def test_keywords_that_the_hub_client_dropped(saved, keyword):
    for call in (Alpha.from_pretrained, Alpha.load_config):
        with pytest.raises(TypeError, match=f"^{keyword}= is not supported"):
            call(saved, **{keyword: None})


def test_paths_that_hold_no_config(saved):
    with pytest.raises(OSError, match=r"no scheduler_config.json in .*for subfolder='scheduler'"):
        Alpha.from_pretrained(saved)
    with pytest.raises(OSError, match=rf"{saved}/scheduler/unet; there is one for subfolder=None"):
        Alpha.from_pretrained(saved / "scheduler", subfolder="unet")
    with pytest.raises(OSError, match=r"is a file, it has no subfolder 'a'"):
        Alpha.from_pretrained(saved / "scheduler" / "scheduler_config.json", subfolder="a")
    (saved / "empty").mkdir()
    with pytest.raises(OSError, match=r"no scheduler_config.json in .*empty$"):
        Alpha.from_pretrained(saved / "empty")
    for missing in ("./missing", "/no/such/place", "a/b/c", "", "C:\\x", "a\0b"):
        with pytest.raises(OSError, match="neither an existing path nor a model id"):
            Alpha.from_pretrained(missing)
    with pytest.raises(TypeError):
        Alpha.from_pretrained(None)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b'{"a": 1', OSError, "not a valid JSON file"),
        (b"", OSError, "not a valid JSON file"),
        (b"\xff\xfe{}", OSError, "not a valid JSON file"),
        (b"[" * 100_000, OSError, "not a valid JSON file"),
        (b"[1, 2]", ValueError, "must hold a JSON object, it holds a list"),
        (b"null", ValueError, "must hold a JSON object, it holds a NoneType"),
    ],
)
def test_files_that_are_no_configs(tmp_path, content, error, message):
    file = tmp_path / "scheduler_config.json"
    file.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        Alpha.from_pretrained(tmp_path)
    assert str(file) in str(caught.value)


def test_a_foreign_file_names_its_class(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"_class_name": "UNet2DConditionModel", "in_channels": 4, "sample_size": 64}'
    )
    with pytest.raises(ValueError, match="UNet2DConditionModel"):
        Alpha.from_pretrained(tmp_path / "config.json")


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    for target in ("file", "file/below"):
        with pytest.raises(OSError, match="file"):
            Alpha().save_config(tmp_path / target)
    assert (tmp_path / "file").read_text() == "old"

    with pytest.raises(TypeError, match=r"config\['mask'\] cannot be saved: JSON has no function"):
        Alpha(mask=lambda: 0).save_config(tmp_path / "new")
    with pytest.raises(TypeError, match=r"no keyword 'repoid'; did you mean 'repo_id'"):
        Alpha().save_config(tmp_path / "new", repoid="a/b")
    with pytest.raises(TypeError, match=r"repo_id= has no effect without push_to_hub=True"):
        Alpha().save_config(tmp_path / "new", repo_id="a/b")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        Alpha().save_config(tmp_path / "new", push_to_hub=True)
    assert not (tmp_path / "new").exists()

    Alpha(1).save_config(tmp_path / "there")
    text = (tmp_path / "there" / "scheduler_config.json").read_text()
    real = Path.write_text

    def disk_full(self, text, **kwargs):
        real(self, text[:9], **kwargs)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", disk_full)
        with pytest.raises(OSError, match=r"cannot write .*scheduler_config.json: No space left"):
            Alpha(2).save_config(tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["scheduler_config.json"]
    assert (tmp_path / "there" / "scheduler_config.json").read_text() == text

    with pytest.raises(FileNotFoundError, match=r"cannot write .*x.json: No such file"):
        Alpha().to_json_file(tmp_path / "nowhere" / "x.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        Alpha().to_json_file(tmp_path / "folder")


def test_repr_shows_what_cannot_be_saved():
    assert "<function" in repr(Alpha(mask=test_threads))


def test_saving_over_a_link_does_not_write_through_it(tmp_path):
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "scheduler_config.json").symlink_to("blob")
    Alpha().save_config(tmp_path)
    assert (tmp_path / "blob").read_text() == "{}"
    assert Alpha.load_config(tmp_path)["_class_name"] == "Alpha"


# --- the Hub ------------------------------------------------------------------------------------

HASH = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture
def cache(tmp_path):
    """The Hub client's cache folder, as it would have left it for two revisions of owner/name."""
    root = tmp_path / "models--owner--name"
    for revision, commit, steps in (("main", HASH, 11), ("v2", OTHER, 22)):
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / revision).write_text(commit)
        for folder, extra in (("", 0), ("scheduler", 100)):
            blob = root / "blobs" / f"{commit}{folder}"
            blob.parent.mkdir(exist_ok=True)
            blob.write_text(
                json.dumps({"_class_name": "Beta", "num_train_timesteps": steps + extra})
            )
            file = root / "snapshots" / commit / folder / "scheduler_config.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.symlink_to(blob)
    return {"cache_dir": tmp_path, "local_files_only": True}


@pytest.mark.parametrize(
    ("keywords", "steps", "commit"),
    [
        ({}, 11, HASH),
        ({"subfolder": "scheduler"}, 111, HASH),
        ({"revision": "v2"}, 22, OTHER),
        ({"revision": OTHER, "subfolder": "scheduler"}, 122, OTHER),
        ({"revision": HASH, "token": "hf_x", "force_download": False}, 11, HASH),
    ],
)
def test_model_ids_load_from_the_cache(cache, keywords, steps, commit):
    config, found = Beta.load_config("owner/name", return_commit_hash=True, **keywords, **cache)
    assert (config["num_train_timesteps"], found) == (steps, commit)
    assert (
        Beta.from_pretrained("owner/name", **keywords, **cache).config.num_train_timesteps == steps
    )


@pytest.mark.parametrize(
    ("model", "keywords"),
    [
        ("owner/other", {}),
        ("owner/name", {"subfolder": "vae"}),
        ("owner/name", {"revision": "v3"}),
        ("owner/name", {"revision": "a" * 40}),
    ],
)
def test_what_is_not_cached_is_an_oserror(cache, model, keywords):
    with pytest.raises(OSError, match=rf"{model}.*not in the cache, and the Hub was not reached"):
        Beta.from_pretrained(model, **keywords, **cache)


def test_hub_keywords_and_errors(monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    real, response = huggingface_hub.hf_hub_download, mock.Mock(headers={})
    cases = {
        r"there is no revision 'v9'": errors.RevisionNotFoundError("no", response=response),
        r"no path and no public model": errors.RepositoryNotFoundError("no", response=response),
        r"access is restricted": errors.GatedRepoError("no", response=response),
        r"is subfolder='scheduler' meant": errors.RemoteEntryNotFoundError("no", response=response),
        r"the Hub was not reached": errors.LocalEntryNotFoundError("no"),
        r"HFValidationError": errors.HFValidationError("no"),
        r"503": errors.HfHubHTTPError("503 Server Error", response=response),
        r"ConnectError": type("ConnectError", (Exception,), {})("no route"),
        r"OfflineModeIsEnabled": errors.OfflineModeIsEnabled("offline"),
    }
    for message, error in cases.items():
        download = mock.create_autospec(real, side_effect=error)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        with pytest.raises(
            OSError, match=rf"^cannot load s/scheduler_config.json of 'a/b'.*{message}"
        ):
            Alpha.from_pretrained("a/b", subfolder="s", revision="v9", token="t", cache_dir="c")
        download.assert_called_once_with(
            "a/b", "scheduler_config.json", subfolder="s", revision="v9", token="t", cache_dir="c"
        )


def test_invalid_model_ids_are_oserrors():
    with pytest.raises(OSError, match="HFValidationError"):
        Alpha.from_pretrained("a--b/c", local_files_only=True)


def test_without_the_hub_client(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert Beta.from_pretrained(saved, subfolder="scheduler").config.num_train_timesteps == 30
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        Alpha.from_pretrained("owner/name")
    with pytest.raises(OSError, match="neither an existing path"):
        Alpha.from_pretrained("./owner/name")


@pytest.fixture
def api(monkeypatch):
    """Stand-ins, checked by signature, for the two calls of the Hub's client that would go out."""
    import huggingface_hub

    create = mock.create_autospec(huggingface_hub.HfApi.create_repo)
    create.return_value.repo_id = "me/created"
    upload = mock.create_autospec(huggingface_hub.HfApi.upload_file)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_file", upload)
    return create, upload


def test_push_to_hub(tmp_path, api):
    create, upload = api
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "secret").write_text("not to be uploaded")
    Alpha(3).save_pretrained(tmp_path / "my-model", push_to_hub=True)
    (client, repo), keywords = create.call_args
    assert (repo, keywords) == ("my-model", {"exist_ok": True, "private": None})
    assert client.token is None
    file = tmp_path / "my-model" / "scheduler_config.json"
    assert upload.call_args.kwargs == {
        "path_or_fileobj": str(file),
        "path_in_repo": "scheduler_config.json",
        "repo_id": "me/created",
        "commit_message": "Upload scheduler",
        "create_pr": False,
    }
    assert Alpha.load_config(file)["num_train_timesteps"] == 3

    Alpha().save_config(
        tmp_path,
        push_to_hub=True,
        repo_id="org/x",
        commit_message="hello",
        private=True,
        token="hf_t",
        create_pr=True,
        subfolder="scheduler",
    )
    (client, repo), keywords = create.call_args
    assert (client.token, repo, keywords["private"]) == ("hf_t", "org/x", True)
    assert upload.call_count == 2
    assert upload.call_args.kwargs == {
        "path_or_fileobj": str(tmp_path / "scheduler_config.json"),
        "path_in_repo": "scheduler/scheduler_config.json",
        "repo_id": "me/created",
        "commit_message": "hello",
        "create_pr": True,
    }


def test_a_failed_push_says_what_was_saved(tmp_path, api):
    _create, upload = api
    upload.side_effect = RuntimeError("the wire is cut")
    with pytest.raises(OSError, match=r"saved .*, but cannot upload it to 'a/b': the wire is cut"):
        Alpha(3).save_config(tmp_path, push_to_hub=True, repo_id="a/b")
    assert Alpha.from_pretrained(tmp_path).config.num_train_timesteps == 3


def test_nothing_heavy_is_imported():
    code = (
        "import sys, cmsched.schedulers.config; "
        "print({'torch', 'diffusers', 'huggingface_hub'} & sys.modules.keys())"
    )
    root = Path(module.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


# --- diffusers ----------------------------------------------------------------------------------

NEEDED = {
    "AmusedScheduler": {"mask_token_id": 3},
    "VQDiffusionScheduler": {"num_vec_classes": 5},
}
FAMILY = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "LCMScheduler",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)


@functools.cache
def theirs():
    """Every scheduler class of diffusers that has a config, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        diffusers.utils.logging.set_verbosity_error()
        classes = {n: getattr(diffusers, n) for n in dir(diffusers) if n.endswith("Scheduler")}
    return {
        name: cls
        for name, cls in classes.items()
        if issubclass(cls, diffusers.SchedulerMixin) and issubclass(cls, diffusers.ConfigMixin)
    }


@pytest.fixture
def ours(monkeypatch):
    """Dummies with the names and options of diffusers' schedulers."""
    monkeypatch.setattr(module, "CLASSES", {})
    for name, cls in theirs().items():
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        options: ClassVar = {
            p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD
        }
        type(name, (Base,), {"options": options, "_compatibles": cls._compatibles})
    return module.CLASSES


def made(cls, name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**NEEDED.get(name, {}), **options)


@pytest.mark.peers
def test_files_of_every_class_go_both_ways(ours, tmp_path):
    done = 0
    for name, cls in theirs().items():
        if any(p.default is p.empty for p in inspect.signature(cls).parameters.values()) and (
            name not in NEEDED
        ):
            continue
        reference = made(cls, name)
        reference.save_pretrained(tmp_path / name)
        scheduler = ours[name].from_pretrained(tmp_path / name)
        assert public(scheduler.config) == public(reference.config), name
        assert "_use_default_values" not in scheduler.config
        scheduler.save_pretrained(tmp_path / name / "back")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            back = cls.from_pretrained(tmp_path / name / "back")
        assert public(back.config) == public(reference.config), name
        for key in ("_class_name", "_diffusers_version"):
            theirs_, ours_ = (
                ours[name].load_config(tmp_path / name / s)[key] for s in ("", "back")
            )
            assert theirs_ == ours_
        done += 1
    assert done >= 45


@pytest.mark.peers
def test_defaults_are_recorded_as_there(ours):
    for name in FAMILY:
        for options in ({}, {"num_train_timesteps": 77}):
            reference = made(theirs()[name], name, **options)
            scheduler = ours[name](**options)
            assert public(scheduler.config) == public(reference.config)
            assert set(scheduler.config._use_default_values) == set(
                reference.config._use_default_values
            )


SET = {
    "DDIMScheduler": {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1},
    "EulerDiscreteScheduler": {"use_karras_sigmas": True, "timestep_spacing": "trailing"},
    "LCMScheduler": {"beta_end": 0.012, "original_inference_steps": 25},
    "DPMSolverMultistepScheduler": {"solver_order": 3, "lambda_min_clipped": -5.1},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
}


@pytest.mark.peers
@pytest.mark.parametrize("through_json", [False, True])
@pytest.mark.parametrize("source", FAMILY)
@pytest.mark.parametrize("target", FAMILY)
def test_change_of_class_as_there(ours, source, target, through_json, tmp_path):
    """A -> B -> A gives the same configs as in diffusers, in memory and through files."""

    def chain(classes, folder):
        scheduler, configs = made(classes[source], source, **SET[source]), []
        for name in (target, source):
            config = scheduler.config
            if through_json:
                scheduler.save_pretrained(folder)
                config = classes[name].load_config(folder)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler = classes[name].from_config(config, num_train_timesteps=900)
            configs.append(scheduler.config)
        return configs

    for mine, reference in zip(
        chain(ours, tmp_path / "a"), chain(theirs(), tmp_path / "b"), strict=True
    ):
        assert public(mine) == public(reference)
        assert set(mine.get("_use_default_values", ())) == set(
            reference.get("_use_default_values", ())
        )


@pytest.mark.peers
def test_configs_in_memory_go_both_ways(ours):
    for name in FAMILY:
        reference = made(theirs()[name], name, **SET[name])
        scheduler = ours[name].from_config(reference.config)
        assert public(scheduler.config) == public(reference.config)
        back = theirs()[name].from_config(scheduler.config)
        assert public(back.config) == public(reference.config)


@pytest.mark.peers
def test_their_frozen_dict_may_replace_ours(ours):
    from diffusers.configuration_utils import FrozenDict as TheirFrozenDict

    scheduler = ours["DDIMScheduler"]()
    scheduler._internal_dict = TheirFrozenDict({**scheduler.config, "steps_offset": 1})
    assert scheduler.config.steps_offset == scheduler.config["steps_offset"] == 1


@pytest.mark.peers
def test_other_parts_of_a_pipeline_are_refused(ours, tmp_path):
    import diffusers

    unet = diffusers.UNet2DModel(
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=2,
        layers_per_block=1,
    )
    unet.save_config(tmp_path)
    for name in ours:
        with pytest.raises(ValueError, match="UNet2DModel"):
            ours[name].from_pretrained(tmp_path / "config.json")
