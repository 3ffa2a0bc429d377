"""What samplers are worth: the answers against closed forms, and the ranking that papers claim."""

import math

import numpy as np
import pytest
from problems import registered

from cmsched import samplers
from cmsched.demo import cli, pictures, quality
from cmsched.demo.quality import Case, Mixture, measure

pytestmark = pytest.mark.host

pytest.importorskip("scipy", reason="exact solutions need SciPy (extra: plot)")

ALL = quality.cases()
BY_LABEL = {case.label: case for case in ALL}
ONE = Mixture(weights=(1.0,), radius=0.0, stds=(0.5,))


# the answers


def test_the_flow_of_one_gaussian_scales():
    """u goes with the spread sqrt(std^2 + r^2)."""
    u = np.random.default_rng(0).normal(size=(50, 2))
    expected = u * 0.5 / math.hypot(0.5, 3.0)
    np.testing.assert_allclose(ONE.solve(u, 3.0), expected, rtol=1e-9)
    there = ONE.solve(expected, 0.0, 3.0)
    np.testing.assert_allclose(there, u, rtol=1e-8)


def test_the_slope_is_that_of_the_density():
    """-r grad log p_r by differences, of the density written out."""
    data, ratio, rng = Mixture(), 0.7, np.random.default_rng(1)
    angle = 2 * np.pi * np.arange(5) / 5 + 0.3
    means = 1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def log_p(u):
        spread = np.array(data.stds) ** 2 + ratio**2
        away = np.sum((u[:, None] - means) ** 2, axis=2)
        return np.log(np.sum(np.array(data.weights) / spread * np.exp(-away / 2 / spread), axis=1))

    u = rng.normal(size=(40, 2))
    for axis in (0, 1):
        step = 1e-5 * np.eye(2)[axis]
        gradient = (log_p(u + step) - log_p(u - step)) / 2e-5
        np.testing.assert_allclose(data.slope(u, ratio)[:, axis], -ratio * gradient, atol=1e-8)


def test_the_solution_keeps_the_distribution():
    """Exact samples with noise, followed down, are as good as exact samples."""
    problem = quality.distribution(2000)
    x = problem.data.sample(2000, 5) + 3.0 * np.random.default_rng(6).normal(size=(2000, 2))
    assert problem.error(problem.data.solve(x, 3.0)) < 2 * quality.floor(problem)
    assert problem.error(x) > 20 * quality.floor(problem)


def test_the_consistency_function_is_the_flow():
    u = np.random.default_rng(2).normal(size=(200, 2))
    for start in (80.0, 2.0, 0.05):
        away = Mixture().consistency(start * u, start) - Mixture().solve(start * u, start)
        assert np.sqrt(np.mean(away**2)) < 1e-3


def test_quantiles_are_those_of_the_projections():
    q = np.array([0.03, 0.5, 0.9])
    directions = np.array([[1.0, 0.0], [0.6, 0.8]])
    found = Mixture().quantiles(directions, q)
    projected = directions @ Mixture().sample(200_000, 3).T
    for values, levels in zip(projected, found, strict=True):
        below = np.mean(values[:, None] < levels, axis=0)
        np.testing.assert_allclose(below, q, atol=4 * 0.5 / math.sqrt(200_000))
    # a normal's own, from its table
    np.testing.assert_allclose(ONE.quantiles(directions, q[2:]), 0.5 * 1.2815515655446, rtol=1e-10)


def test_more_exact_samples_are_nearer():
    small, large = (quality.floor(quality.distribution(n)) for n in (500, 8000))
    assert 2.5 < small / large < 6.5  # sixteen times the samples, four times nearer


# what is compared


def test_every_sampler_is_compared():
    compared = {case.sampler for case in ALL} | {*quality.SAME}
    assert compared >= {*samplers.REGISTRY}
    assert len(BY_LABEL) == len(ALL)


def test_another_sampler_joins_by_itself():
    with registered("newcomer"):

        @samplers.register("newcomer", paper="arXiv:2010.02502, eq. 12")
        def newcomer(x, grid, noise):
            for a, b in grid.steps():
                x, x0 = yield x, a
                x = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
            return x

        (case,) = (c for c in quality.cases() if c.sampler == "newcomer")
        few = quality.paths(64)
        assert quality.alike(measure(case, (8,), few), measure(ALL[0], (8,), few))


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.label)
def test_budgets_are_kept_and_errors_fall(case):
    problem = quality.distribution(2000) if case.stochastic else quality.paths(64)
    few, many = measure(case, (8, 64) if not case.jumps else (4, 8), problem).points
    assert many is not None
    assert many[0] <= 64
    assert few is None or few[0] <= 8
    if not case.jumps and few is not None:
        assert many[1] < 0.5 * few[1]
    if case.label != "TCD":  # its noise is not that of its network's trajectory
        assert many[1] < 0.25


# what papers claim, at equal evaluations


@pytest.fixture(scope="module")
def error():
    """The error of a label within a budget."""
    few = quality.paths(128)

    def find(label, budget):
        ((_, found),) = measure(BY_LABEL[label], (budget,), few).points
        return found

    return find


@pytest.mark.parametrize(
    ("better", "worse", "budgets"),
    [
        ("DPM++ 2M", "DDIM, Euler", (8, 12, 16, 24, 64)),
        ("UniPC 2", "DPM++ 2M", (12, 16, 24, 64)),
        ("UniPC 3", "UniPC 2", (16, 24, 64)),
        ("DPM++ 3M published", "DPM++ 2M", (16, 24, 32)),
        ("DPM++ 3M exact", "DPM++ 2M", (16, 24, 64)),
        ("DPM++ 3M exact", "DPM++ 3M published", (64, 128)),
        ("DPM++ 3S", "DPM++ 2S", (24, 48)),
        ("Heun", "DDIM, Euler", (48, 64)),
        ("DDIM, Euler", "Heun", (8, 12)),
        ("DDIM + UniC", "DDIM, Euler", (12, 24, 64)),
        ("DPM++ 2M + UniC", "DPM++ 2M", (12, 24, 64)),
        ("LMS 4 + UniC", "LMS 4", (12, 24, 64)),
        ("DEIS 3 + UniC", "DEIS 3", (16, 24, 64)),
    ],
)
def test_ranking(error, better, worse, budgets):
    for budget in budgets:
        assert error(better, budget) < error(worse, budget), budget


def test_the_reference_sign_costs():
    """At eta = 1, 24 evaluations: the sign that is copied is many times farther off."""
    some = quality.distribution(8000)
    labels = ("DPM++ 3M SDE reference", "DPM++ 3M SDE exact")
    reference, exact = (measure(BY_LABEL[name], (24,), some).points[0][1] for name in labels)
    assert reference > 2 * exact


def test_unipc_2_is_dpmpp_2m_corrected():
    """One line where two samplers are one, as the paper says."""
    few = quality.paths(32)
    names = ("DPM++ 2M", "DPM++ 2M + UniC", "UniPC 2")
    curves = [measure(BY_LABEL[name], (8, 16), few) for name in names]
    labels = [label for label, _ in quality.merged(curves)]
    assert labels == ["DPM++ 2M", "DPM++ 2M + UniC, UniPC 2"]


# showing


def test_table_shows_the_errors():
    curves = [
        quality.Curve(Case("one", "ddim"), ((4, 0.5), (6, 0.0123))),
        quality.Curve(Case("two", "heun"), (None, (5, 0.00123))),
    ]
    assert quality.table(curves, (4, 6)).splitlines() == [
        "| evaluations | 4 | 6 |",
        "|---|---|---|",
        "| one | **0.5** | **0.012** |",
        "| two |  | **1.2e-3** |",
    ]


def test_labels_do_not_overlap():
    places = pictures.spread([0.0, 0.0, 0.1, 5.0], -10.0, 10.0, 1.0)
    assert min(np.diff(places)) > 0.99
    assert places[3] == 5.0


def test_plot_draws_both_panels(capsys, tmp_path, monkeypatch):
    image = pytest.importorskip("matplotlib.image", reason="pictures need matplotlib (extra: plot)")
    chosen = [BY_LABEL[name] for name in ("DDIM, Euler", "UniPC 2", "DPM++ 2M SDE", "LCM")]
    monkeypatch.setattr(quality, "CASES", tuple(chosen))
    monkeypatch.setattr(quality, "cases", lambda: chosen)
    monkeypatch.setattr(quality, "BUDGETS", (4, 8))
    monkeypatch.setattr(quality.measure, "__defaults__", ((4, 8), None))
    monkeypatch.setattr(quality.expected, "__defaults__", ((4, 8), None))
    whole = quality.distribution
    monkeypatch.setattr(quality, "distribution", lambda: whole(512))
    out = tmp_path / "quality.png"
    cli.main(["plot", "quality", "--all", "--out", str(out)])
    picture = image.imread(out)
    colours = np.unique(np.round(picture[..., :3].reshape(-1, 3), 1), axis=0)
    for _, colour in (pictures.FAMILIES[case.family] for case in chosen):
        wanted = tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        assert np.abs(colours - wanted).max(axis=1).min() < 0.2, colour
    assert "4 samplers" in capsys.readouterr().out


def test_six_in_one_panel(capsys, tmp_path, monkeypatch):
    image = pytest.importorskip("matplotlib.image", reason="pictures need matplotlib (extra: plot)")
    whole = quality.distribution
    monkeypatch.setattr(quality, "distribution", lambda: whole(256))
    out = tmp_path / "quality.png"
    cli.main(["plot", "quality", "--out", str(out)])
    picture = image.imread(out)
    assert picture.shape[1] < 800  # a page's width
    colours = np.unique(np.round(picture[..., :3].reshape(-1, 3), 1), axis=0)
    for colour in pictures.SIX:
        wanted = tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        assert np.abs(colours - wanted).max(axis=1).min() < 0.1, colour
    assert "6 samplers" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["scipy", "matplotlib"])
def test_plot_names_its_package(capsys, monkeypatch, tmp_path, module):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == module else True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main(["plot", "quality"])
    assert left.value.code == 2
    assert f"plot needs {module}: pip install {module}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
