"""What callers see of a video pipeline while it runs, with diffusers' scheduler and with ours."""

import pytest
import torch

import cmsched.interop.diffusers as ours
from interop.pipelines import held, video

PAIRS = [(case, case.schedulers[0]) for case in video.CASES]


def seen(case, scheduler, *, converted):
    """How far the bar came, what a callback is given at each step, and the pipeline."""
    pipeline = case.build(ours.reference_of(scheduler)(**case.options))
    if converted:
        ours.convert(pipeline)
    bars, steps = [], []

    class Bar:
        def __init__(self, total):
            self.total, self.count = total, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n=1):
            self.count += n

    def callback(pipeline, i, t, given):
        steps.append((i, float(t), given["latents"].clone()))
        return given

    pipeline.progress_bar = lambda iterable=None, total=None: Bar(total)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    case.call(pipeline, generator, callback_on_step_end=callback)
    return bars, steps, pipeline


@pytest.mark.parametrize(("case", "scheduler"), PAIRS, ids=str)
def test_callbacks_and_progress(case, scheduler):
    theirs, mine = (seen(case, scheduler, converted=converted) for converted in (False, True))
    assert [(bar.total, bar.count) for bar in mine[0]] == [(b.total, b.count) for b in theirs[0]]
    assert mine[0][0].total == mine[0][0].count == held(mine[2], case.place).num_inference_steps
    assert len(mine[1]) == len(theirs[1]) == len(held(mine[2], case.place).timesteps)
    for (i, t, latents), (j, s, others) in zip(mine[1], theirs[1], strict=True):
        assert i == j
        assert t == pytest.approx(s, rel=1e-5, abs=1e-3)
        assert latents.shape == others.shape
        assert latents.dtype == others.dtype
        assert (latents - others).abs().max() <= 1e-4 * max(1.0, others.abs().max())


def test_frames_are_dropped_within_a_run():
    """The case of ChronoEdit does what it is there for: slice what the solver keeps."""
    case = next(case for case in video.CASES if case.name == "ChronoEditPipeline")
    _, steps, pipeline = seen(case, case.schedulers[0], converted=True)
    assert [latents.shape[2] for *_, latents in steps] == [3, 3, 3, 2, 2, 2]
    shapes = {tuple(m.shape) for m in pipeline.scheduler.model_outputs if m is not None}
    assert shapes == {tuple(steps[-1][-1].shape)}


def test_cosmos_2_ends_where_its_last_step_begins():
    """It registers levels up to 80 after the scheduler is made, and overwrites the last one."""
    case = next(case for case in video.CASES if case.name == "Cosmos2TextToImagePipeline")
    *_, pipeline = seen(case, case.schedulers[0], converted=True)
    sigmas = pipeline.scheduler.sigmas
    assert sigmas[0] == pytest.approx(80.0)
    assert float(sigmas[-1]) == float(sigmas[-2]) == pytest.approx(0.002)
