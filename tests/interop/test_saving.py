"""Schedulers and pipelines of ours in files, on the Hub, and read where cmsched is not."""

import json
import logging
import os
import subprocess
import sys
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import cmsched
import cmsched.interop.diffusers as ours
from interop.pipelines import as_array, cases, held
from interop.wild import COUNTERPARTS, NAMES, loop, made, off

# a pipeline, its scheduler, and options to change from the defaults
SAVED = {
    "StableDiffusionPipeline": "DPMSolverMultistepScheduler",
    "StableDiffusion3Pipeline": "FlowMatchEulerDiscreteScheduler",
    "DDPMPipeline": "DDPMScheduler",
}
# what another process prints: a line for each pipeline, then what diffusers logged
READER = """
import json, logging, sys
sys.modules["cmsched"] = None  # as if it were not installed
import diffusers
from diffusers import DiffusionPipeline
lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
diffusers.utils.logging.add_handler(handler)
for path in sys.argv[1:]:
    with open(path + "/model_index.json", encoding="utf-8") as file:
        absent = {name: None for name, part in json.load(file).items() if part == [None, None]}
    pipeline = DiffusionPipeline.from_pretrained(path, **absent)
    kind = type(pipeline.scheduler)
    print(json.dumps([kind.__module__, kind.__name__, dict(pipeline.scheduler.config)]))
print(json.dumps(lines))
"""


@pytest.fixture
def logged():
    """What diffusers logs from warnings on."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    # the pipelines here have no text encoders, which has nothing to do with the scheduler
    handler.addFilter(lambda record: "=None of type" not in record.getMessage())
    handler.emit = lambda record: lines.append(record.getMessage())
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_warning()
    diffusers.utils.logging.add_handler(handler)
    yield lines
    diffusers.utils.logging.remove_handler(handler)
    diffusers.utils.logging.set_verbosity(level)


def case_of(name):
    return next(case for case in cases() if case.name == name)


def built(name, *, converted=True):
    """A case's pipeline with its scheduler in `SAVED`."""
    scheduler, case = SAVED[name], case_of(name)
    pipeline = case.build(ours.reference_of(scheduler)(**case.options))
    pipeline.set_progress_bar_config(disable=True)
    if converted:
        ours.convert(pipeline)
    return pipeline


def images(name, pipeline):
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    return as_array(case_of(name).call(pipeline, torch.Generator().manual_seed(1)))


def loaded(folder, like, **parts):
    """A saved pipeline; diffusers wants to be told what it has not."""
    absent = {name: None for name, part in like.components.items() if part is None}
    return DiffusionPipeline.from_pretrained(folder, **absent, **parts)


def public(config):
    """What of a config is meant for readers."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def test_saved_pipelines_load_anywhere(tmp_path, logged):
    expected = []
    for name, scheduler in SAVED.items():
        pipeline = built(name)
        before = images(name, pipeline)
        pipeline.save_pretrained(tmp_path / name)
        again = loaded(tmp_path / name, pipeline)
        theirs = ours.reference_of(scheduler)
        assert type(again.scheduler) is theirs  # any reader may have it
        assert np.abs(images(name, again) - before).max() <= 1e-4
        assert ours.convert(again) == {
            "scheduler": f"{scheduler} of diffusers -> of cmsched",
        }
        assert np.array_equal(images(name, again), before)
        expected.append([theirs.__module__, scheduler, public(pipeline.scheduler.config)])
    assert logged == []
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    paths = [str(tmp_path / name) for name in SAVED]
    command = [sys.executable, "-c", READER, *paths]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *found, lines = map(json.loads, done.stdout.splitlines())
    assert [[module, name, public(config)] for module, name, config in found] == expected
    assert lines == []
    assert "cheduler" not in done.stderr


def test_a_pipeline_takes_our_scheduler(tmp_path, logged):
    """As an argument of `from_pretrained`, and by assignment."""
    name = "StableDiffusionPipeline"
    pipeline = built(name, converted=False)
    pipeline.save_pretrained(tmp_path)
    mine = ours.DPMSolverMultistepScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert type(mine) is ours.DPMSolverMultistepScheduler
    given = loaded(tmp_path, pipeline, scheduler=mine)
    assert given.scheduler is mine
    pipeline.scheduler = ours.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    assert np.array_equal(images(name, given), images(name, pipeline))
    assert type(pipeline.scheduler) is type(mine)
    assert logged == []


def test_another_class_from_a_config(logged):
    """The usual line by which people change the sampler, either way and back."""
    pipeline = built("StableDiffusionPipeline")
    config = pipeline.scheduler.config
    euler = ours.EulerDiscreteScheduler.from_config(config)
    assert euler.config.beta_start == config.beta_start
    theirs = diffusers.EulerDiscreteScheduler.from_config(config)
    assert public(theirs.config) == public(euler.config)
    again = ours.DPMSolverMultistepScheduler.from_config(euler.config)
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(theirs.config)
    assert public(theirs.config) == public(again.config)
    assert again.config.beta_start == config.beta_start
    assert logged == []


@pytest.mark.parametrize("name", NAMES)
def test_schedulers_in_files(name, tmp_path, logged):
    theirs, mine = made(name)
    mine.save_pretrained(tmp_path / "mine")
    theirs.save_pretrained(tmp_path / "theirs")
    texts = [(tmp_path / side / "scheduler_config.json").read_text() for side in ("mine", "theirs")]
    assert texts[0] == texts[1]
    cls = COUNTERPARTS[name]
    for found in (cls.from_pretrained(tmp_path / "theirs"), cls.from_config(theirs.config)):
        assert type(found) is cls
        assert public(found.config) == public(theirs.config)
        found.set_timesteps(4)
        theirs.set_timesteps(4)
        assert off(loop(found), loop(theirs)) <= 1e-4
    assert type(cls._reference.from_pretrained(tmp_path / "mine")) is cls._reference
    # and without diffusers
    core = cmsched.from_pretrained(tmp_path / "mine")
    assert type(core) is getattr(cmsched, name)
    assert logged == []


def test_own_options_are_the_ones_to_be_warned_of(tmp_path, logged):
    mine = ours.DPMSolverMultistepScheduler(third_order="exact")
    mine.save_pretrained(tmp_path)
    again = ours.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert again.config.third_order == "exact"
    assert logged == []
    diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert len(logged) == 1
    assert "third_order" in logged[0]


@pytest.mark.parametrize("what", ["scheduler", "pipeline"])
def test_push_to_hub(what):
    """Nothing is sent, but what would be is looked at."""
    pipeline, sent = built("DDPMPipeline"), {}

    def upload(*, repo_id, folder_path, **_):
        for root, _, files in os.walk(folder_path):
            for file in files:
                if file.endswith(".json"):
                    with open(os.path.join(root, file), encoding="utf-8") as opened:
                        sent[file] = json.load(opened)
        return repo_id

    hub = "diffusers.utils.hub_utils."
    pushed = pipeline.scheduler if what == "scheduler" else pipeline
    with (
        mock.patch(hub + "upload_folder", side_effect=upload),
        mock.patch(hub + "create_repo") as create,
        mock.patch(hub + "load_or_create_model_card"),
        mock.patch(hub + "populate_model_card"),
    ):
        create.return_value.repo_id = "someone/something"
        assert pushed.push_to_hub("something") == "someone/something"
    assert sent["scheduler_config.json"]["_class_name"] == "DDPMScheduler"
    if what == "pipeline":
        assert sent["model_index.json"]["scheduler"] == ["diffusers", "DDPMScheduler"]


def test_convert_and_back():
    pipeline = built("StableDiffusionPipeline", converted=False)
    theirs = pipeline.scheduler
    assert ours.convert(pipeline, back=True) == {}
    assert pipeline.scheduler is theirs
    done = "DPMSolverMultistepScheduler of diffusers -> of cmsched"
    assert ours.convert(pipeline, only=["scheduler"]) == {"scheduler": done}
    mine = pipeline.scheduler
    assert ours.convert(pipeline) == {}
    assert pipeline.scheduler is mine
    mine.config.beta_end = 0.01  # as pipelines change options
    done = "DPMSolverMultistepScheduler of cmsched -> of diffusers"
    assert ours.convert(pipeline, back=True) == {"scheduler": done}
    assert type(pipeline.scheduler) is type(theirs)
    assert public(pipeline.scheduler.config) == {**public(theirs.config), "beta_end": 0.01}
    assert type(held(pipeline, "scheduler")) is type(theirs)


WRONG = {
    "no pipeline": (lambda p: ours.convert(p.scheduler), TypeError, "takes a DiffusionPipeline"),
    "another name": (
        lambda p: ours.convert(p, only=["prior"]),
        ValueError,
        "only='prior': this DDPMPipeline holds no such scheduler, but scheduler",
    ),
}


@pytest.mark.parametrize(("call", "kind", "text"), WRONG.values(), ids=WRONG)
def test_convert_refuses(call, kind, text):
    pipeline = built("DDPMPipeline", converted=False)
    theirs = pipeline.scheduler
    with pytest.raises(kind, match=text):
        call(pipeline)
    assert pipeline.scheduler is theirs


def test_convert_without_a_counterpart():
    """Either way, and a configuration that is refused; the pipeline stays as it was."""
    pipeline = built("DDPMPipeline", converted=False)
    for scheduler, back, text in (
        (diffusers.UnCLIPScheduler(), False, "a UnCLIPScheduler, which cmsched does not have"),
        (ours.Scheduler("euler", schedule="betas"), True, "a Scheduler, which diffusers does not"),
    ):
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=text):
            ours.convert(pipeline, back=back)
        assert pipeline.scheduler is scheduler
    wrong = diffusers.DDPMScheduler(beta_schedule="linear")
    wrong.config.beta_schedule = "no such schedule"
    pipeline.scheduler = wrong
    with pytest.raises(ValueError, match="scheduler: DDPMScheduler does not take this config"):
        ours.convert(pipeline)
    assert pipeline.scheduler is wrong
