"""`cmsched.from_pretrained`: the class that a file names, wherever the file lies."""

import json
import warnings

import pytest

import cmsched
from cmsched import schedulers

# other tests define classes too
CLASSES = {k: v for k, v in schedulers.CLASSES.items() if v.__module__.startswith("cmsched.")}
NEEDED = {"VQDiffusionScheduler": {"num_vec_classes": 5}}


def write(folder, **config):
    """A config file in a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "scheduler_config.json"
    file.write_text(json.dumps(config))
    return file


@pytest.fixture(autouse=True)
def no_warning():
    """Nothing that is published warns."""
    with warnings.catch_warnings(action="error"):
        yield


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_comes_back(name, tmp_path):
    """By folder, by file, as a string, and from a pipeline's folder."""
    saved = CLASSES[name](**NEEDED.get(name, {}))
    saved.save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    folder = tmp_path / "scheduler"
    for place in (tmp_path, folder, str(folder), folder / "scheduler_config.json"):
        loaded = cmsched.from_pretrained(place)
        assert type(loaded) is CLASSES[name]
        options = {key: loaded.config[key] for key in loaded.options}
        assert options == {key: saved.config[key] for key in loaded.options}


def test_a_folder_with_a_config_of_its_own(tmp_path):
    """It wins over that of a pipeline in it; a subfolder that is asked for over both."""
    write(tmp_path, _class_name="DDIMScheduler")
    write(tmp_path / "scheduler", _class_name="LCMScheduler")
    write(tmp_path / "prior", _class_name="TCDScheduler")
    for subfolder, name in ((None, "DDIM"), ("scheduler", "LCM"), ("prior", "TCD")):
        loaded = cmsched.from_pretrained(tmp_path, subfolder)
        assert type(loaded).__name__ == f"{name}Scheduler"


@pytest.mark.parametrize("name", CLASSES)
def test_flax_names(name, tmp_path):
    """The classes of Flax that diffusers had were these, and their files are still there."""
    write(tmp_path, _class_name=f"Flax{name}", **NEEDED.get(name, {}))
    assert type(cmsched.from_pretrained(tmp_path)) is CLASSES[name]
    assert type(CLASSES[name].from_pretrained(tmp_path)) is CLASSES[name]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("DPMSolverMultistepInverse", "DPMSolverMultistepInverseScheduler"),
        (["scheduler.my_code", "DDIMScheduler"], "DDIMScheduler"),
    ],
)
def test_former_names(written, name, tmp_path):
    write(tmp_path, _class_name=written, num_train_timesteps=500)
    loaded = cmsched.from_pretrained(tmp_path)
    assert type(loaded) is CLASSES[name]
    assert loaded.config.num_train_timesteps == 500


@pytest.mark.parametrize(("said", "meant"), [(True, "epsilon"), (False, "sample")])
def test_keys_of_the_first_files(said, meant, tmp_path):
    """What they said by predict_epsilon is what prediction_type says; its own word wins."""
    old = {"_class_name": "DDPMScheduler", "predict_epsilon": said, "tensor_format": "pt"}
    write(tmp_path, **old)
    loaded = cmsched.from_pretrained(tmp_path)
    assert loaded.config.prediction_type == meant
    assert not {"predict_epsilon", "tensor_format"} & loaded.config.keys()
    write(tmp_path, **old, prediction_type="v_prediction")
    assert cmsched.from_pretrained(tmp_path).config.prediction_type == "v_prediction"


def test_keywords_are_those_of_the_classes(tmp_path):
    write(tmp_path / "prior", _class_name="DDIMScheduler", steps_offset=1, beta_odd=3)
    with pytest.warns(UserWarning, match="'beta_odd'"):
        loaded, unused, info = cmsched.from_pretrained(
            tmp_path,
            subfolder="prior",
            set_alpha_to_one=False,
            compatibility="diffusers",
            return_unused_kwargs=True,
            output_loading_info=True,
            odd=4,
        )
    assert loaded.config.steps_offset == 1
    assert loaded.config.set_alpha_to_one is False
    assert loaded.compatibility == "diffusers"
    assert {key: unused[key] for key in unused if key[0] != "_"} == {"beta_odd": 3, "odd": 4}
    assert info["unexpected_keys"] == ["beta_odd"]


def test_what_is_left_of_training_does_not_warn(tmp_path):
    """A model's own file may have keys of other classes; keys that nobody knows are told of."""
    write(tmp_path, _class_name="LCMScheduler", skip_prk_steps=True, interpolation_type="linear")
    loaded = cmsched.from_pretrained(tmp_path)
    assert loaded.config.skip_prk_steps is True
    write(tmp_path, _class_name="LCMScheduler", skip_prk_stepz=True)
    with pytest.warns(UserWarning, match="skip_prk_stepz"):
        cmsched.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("UnCLIPScheduler", "EDMDPMSolverMultistepScheduler", "DDPMWuerstchenScheduler"),
        *("SASolverScheduler", "CosineDPMSolverMultistepScheduler", "SCMScheduler"),
        *("FlowMapEulerDiscreteScheduler", "StableDiffusionPipeline", "UNet2DModel"),
    ],
)
def test_a_class_that_is_not_here(name, tmp_path):
    file = write(tmp_path, _class_name=name, num_train_timesteps=1000)
    with pytest.raises(ValueError, match=f"{name}, which is no scheduler of cmsched") as caught:
        cmsched.from_pretrained(tmp_path)
    said = str(caught.value)
    assert str(file) in said
    assert "cmsched.DDIMScheduler.from_pretrained(...)" in said
    assert "did you mean" not in said  # another class is no slip of the pen
    assert "known: " in said


def test_the_nearest_class_is_named(tmp_path):
    write(tmp_path, _class_name="DDIMSheduler")
    with pytest.raises(ValueError, match="did you mean 'DDIMScheduler'"):
        cmsched.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [{}, {"_class_name": None}, {"_class_name": ""}])
def test_no_class(config, tmp_path):
    write(tmp_path, num_train_timesteps=1000, **config)
    with pytest.raises(ValueError, match="names no class"):
        cmsched.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", [3, [], {"a": 1}, ["a", 3]])
def test_a_class_that_is_no_name(name, tmp_path):
    write(tmp_path, _class_name=name)
    with pytest.raises(ValueError, match="_class_name must be a string"):
        cmsched.from_pretrained(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no scheduler_config\.json"):
        cmsched.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither an existing path nor a model id"):
        cmsched.from_pretrained(tmp_path / "nowhere")
    write(tmp_path / "prior_scheduler", _class_name="DDIMScheduler")
    write(tmp_path / "super_res_scheduler", _class_name="DDIMScheduler")
    with pytest.raises(FileNotFoundError, match="'prior_scheduler' or 'super_res_scheduler'"):
        cmsched.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="subfolder='prior_scheduler'"):
        cmsched.from_pretrained(tmp_path, "scheduler")
    with pytest.raises(NotADirectoryError, match="has no subfolder"):
        cmsched.from_pretrained(tmp_path / "prior_scheduler/scheduler_config.json", "x")
    for bad in (3, None, b"model"):
        for load in (cmsched.from_pretrained, cmsched.DDIMScheduler.from_pretrained):
            with pytest.raises(TypeError, match=f"^pretrained_model_name_or_path .*got {bad!r}"):
                load(bad)


def test_no_json(tmp_path):
    (tmp_path / "scheduler_config.json").write_text("{")
    with pytest.raises(OSError, match="not a valid JSON file"):
        cmsched.from_pretrained(tmp_path)


class Hub:
    """Stands for the Hub's client: files by (model, path), and what was asked for."""

    def __init__(self, **files):
        self.files, self.asked = files, []

    def download(self, model, name, subfolder=None, **where):
        from huggingface_hub import errors

        self.asked.append((subfolder, where))
        if (subfolder or "") in self.files:
            return str(self.files[subfolder or ""] / name)
        raise errors.LocalEntryNotFoundError("not there")


@pytest.mark.parametrize("subfolder", ["scheduler", ""])
def test_a_model_of_the_hub(subfolder, tmp_path, monkeypatch):
    """A pipeline's repository, or one that is a scheduler's alone."""
    hub = pytest.importorskip("huggingface_hub")
    write(tmp_path, _class_name="LCMScheduler")
    client = Hub(**{subfolder: tmp_path})
    monkeypatch.setattr(hub, "hf_hub_download", client.download)
    loaded = cmsched.from_pretrained("an-owner/a-model", revision="main", xp="numpy")
    assert type(loaded) is cmsched.LCMScheduler
    assert all(where == {"revision": "main"} for _, where in client.asked)
    with pytest.raises(OSError, match="cannot load"):
        cmsched.from_pretrained("an-owner/a-model", "elsewhere")
