"""Training: it learns, it resumes where it stopped, and it stops when it is told."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.errors import ModelError, UsageError
from n2q_edge.model.recipe import ExportSettings, Recipe, TrainingSettings, load_recipe
from n2q_edge.network import build
from n2q_edge.spec import ModelSpec
from n2q_edge.training.loop import Progress, fit
from n2q_edge.training.losses import SMALLEST_LOG_VARIANCE, _variance_loss, joint_loss
from n2q_edge.training.sampling import Sampler
from tests.helpers.paths import ROOT

CPU = torch.device("cpu")
RECIPES = ROOT / "export"


def recipe(steps: int, **settings: object) -> Recipe:
    spec = ModelSpec(
        name="tiny",
        version="t",
        network={"class": "compact", "widths": [8, 8, 8], "blocks": [0, 0, 0]},
        outputs=("quality_map", "dose_probabilities", "noise_map"),
    )
    training = TrainingSettings(
        **{
            "steps": steps,
            "batch": 4,
            "crop": 32,
            "learning_rate": 5e-3,
            "doses": "continuous",
            "noise_weight": 0.1,
            "ema": 0.9,
            "ignore_edge": True,
            **settings,
        }  # type: ignore[arg-type]
    )
    return Recipe(Path("tiny.toml"), spec, training, ExportSettings())


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_the_loss_falls(cached_slices: list[CachedSlice], tmp_path: Path) -> None:
    one = recipe(100)
    sampler = Sampler(cached_slices, one.spec, one.training)
    run = fit(one, sampler, tmp_path / "state", device=CPU)
    history = run.progress.history
    assert [entry["step"] for entry in history] == [25, 50, 75, 100]
    assert history[-1]["map"] < 0.8 * history[0]["map"]
    assert history[-1]["noise"] < history[0]["noise"]


def test_a_loss_that_cannot_be_compiled_is_a_clear_error(
    cached_slices: list[CachedSlice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler may raise anything, and what it compiled may, too."""

    def broken(*_: object) -> None:
        raise UnboundLocalError("cannot access local variable 'relu_17'")

    monkeypatch.setattr(torch, "compile", lambda loss: broken)
    one = recipe(2)
    sampler = Sampler(cached_slices, one.spec, one.training)
    with pytest.raises(UsageError, match=r"'relu_17'.*: train without --compile"):
        fit(one, sampler, tmp_path / "state", device=CPU, compiled=True)


def test_the_loss_of_the_expected_error_has_a_floor() -> None:
    """Air has no error; without a floor its log variance would fall, and the loss with it, forever."""
    error = torch.zeros(1, 1, 8, 8)
    low, lower = (
        _variance_loss(torch.full((1, 1, 1, 1), value), error, 8) for value in (SMALLEST_LOG_VARIANCE, -100.0)
    )
    assert low == lower == SMALLEST_LOG_VARIANCE / 2
    # At the floor and above it is the normal's: half of log variance plus squared error over variance.
    found = _variance_loss(torch.zeros(1, 1, 1, 1), error + 0.5, 8)
    assert found.item() == pytest.approx(0.5 * 0.25)


def test_half_of_the_map_loss_is_the_distance_to_the_teacher(cached_slices: list[CachedSlice]) -> None:
    """To itself a network has none, so that half of the loss is left."""
    one = recipe(1)
    network = build(one.spec)
    batch = Sampler(cached_slices, one.spec, one.training).batch(np.random.default_rng(0), CPU)
    with torch.no_grad():
        alone = float(joint_loss(network, batch, one.training)["map"])
        taught = float(joint_loss(network, batch, one.training, teacher=network)["map"])
    assert alone > 0
    assert taught == pytest.approx(alone / 2)


def test_an_interrupted_run_ends_like_an_unbroken_one(
    cached_slices: list[CachedSlice], tmp_path: Path
) -> None:
    one = recipe(12, schedule="cosine")
    sampler = Sampler(cached_slices, one.spec, one.training)

    def interrupt(progress: Progress) -> None:
        if progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(one, sampler, tmp_path / "broken", device=CPU, on_step=interrupt)
    resumed = fit(one, sampler, tmp_path / "broken", device=CPU)
    unbroken = fit(one, sampler, tmp_path / "unbroken", device=CPU)
    assert resumed.progress.step == unbroken.progress.step == 12
    assert torch.allclose(weights(resumed.result), weights(unbroken.result), atol=1e-6)


def test_minutes_end_the_schedule(cached_slices: list[CachedSlice], tmp_path: Path) -> None:
    one = recipe(100_000)
    sampler = Sampler(cached_slices, one.spec, one.training)
    run = fit(one, sampler, tmp_path / "state", device=CPU, minutes=0.01)
    assert run.progress.fraction == 1.0
    assert 0 < run.progress.step < 100_000


def test_a_finished_run_goes_on_when_it_gets_more_minutes(
    cached_slices: list[CachedSlice], tmp_path: Path
) -> None:
    one = recipe(100_000)
    sampler = Sampler(cached_slices, one.spec, one.training)
    first = fit(one, sampler, tmp_path / "state", device=CPU, minutes=0.005)
    again = fit(one, sampler, tmp_path / "state", device=CPU, minutes=0.005)
    more = fit(one, sampler, tmp_path / "state", device=CPU, minutes=0.02)
    assert first.progress.step == again.progress.step < more.progress.step


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_project_loads(path: Path) -> None:
    from n2q_edge.network import build

    found = load_recipe(path)
    assert found.spec.name == path.stem
    build(found.spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model", "not a TOML recipe"),
        ("[model]\nname='x'\nversion='1'\n[network]\nclass='unet'\n", r"has no table \[training\]"),
        (
            "[model]\nname='x'\n[network]\nclass='unet'\n[training]\nsteps=1\nbatch=1",
            "toml: missing 1 required .* 'version'",
        ),
        ("[extra]\n", "unknown table 'extra'"),
        (
            "[model]\nname='x'\nversion='1'\n[network]\nclass='unet'\n[training]\nsteps=1\nbatch=1\nmap_loss='l3'",
            "map_loss",
        ),
        (
            "[model]\nname='x'\nversion='1'\n[network]\nclass='unet'\n[training]\nsteps=1\nbatch=1\nspeed=3",
            "speed",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        load_recipe(path)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")
