"""`n2q-edge evaluate`: what is scored once is not scored again; the page and its JSON say the same."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from n2q_edge.cli import main
from n2q_edge.dataset import cache
from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.dataset.collect import kernels
from n2q_edge.errors import ExitCode, UsageError
from n2q_edge.evaluation import comparison, figures, systems
from n2q_edge.evaluation.cases import Case, slice_cases
from n2q_edge.evaluation.comparison import Comparison, Row, Source, run
from n2q_edge.evaluation.oracle import PhantomSlice
from n2q_edge.evaluation.predictions import Answer, Prediction
from n2q_edge.evaluation.results import command_line, document
from n2q_edge.evaluation.results_page import markdown
from n2q_edge.evaluation.systems import System, per_patient
from n2q_edge.model import checkpoint
from n2q_edge.network import build
from n2q_edge.network.device import pick_device
from n2q_edge.simulation.series import PhantomScan, write_scan
from n2q_edge.spec import ModelSpec

SPEC = ModelSpec(name="t", version="t", network={"class": "compact"})

RECIPE = """
[model]
name = "{name}"
version = "1"
outputs = ["quality_map", "dose_probabilities", "noise_map"]
window_width = {width}
[network]
class = "compact"
widths = [8, 8, 8]
blocks = [0, 0, 0]
[training]
steps = 1
batch = 1
"""


class Counting:
    """A system that says 0.5 everywhere and counts how often it is asked."""

    def __init__(self, name: str = "half", digest: str = "1", value: float = 0.5) -> None:
        self.asked = 0
        self.value = np.float32(value)
        self.system = System(name, systems.NETWORK, digest, self.answer, {"parameters": 1, "gflop": 0.0})

    def answer(self, case: Case) -> Answer:
        self.asked += 1
        probabilities = np.full(5, 0.2, np.float32) if self.value > 0.4 else None
        native = Prediction(np.full_like(case.scan.hu, self.value), probabilities)
        return Answer(native, np.full((256, 256), self.value))


def sources(slices: list[CachedSlice]) -> list[Source]:
    def source(item: CachedSlice) -> Source:
        return Source(item.key, lambda: slice_cases(item, SPEC))

    return [source(item) for item in slices]


def test_stored_scores_are_not_computed_again(cached_slices: list[CachedSlice], tmp_path: Path) -> None:
    first, other = Counting(), Counting("other")
    found = run([first.system], sources(cached_slices), SPEC, tmp_path)
    again = run([first.system, other.system], sources(cached_slices), SPEC, tmp_path)
    assert (first.asked, other.asked) == (10, 10)
    assert again["half"] == found["half"]


def test_other_weights_are_scored_anew(cached_slices: list[CachedSlice], tmp_path: Path) -> None:
    run([Counting().system], sources(cached_slices), SPEC, tmp_path)
    changed = Counting(digest="2")
    run([changed.system], sources(cached_slices), SPEC, tmp_path)
    assert changed.asked == 10


def test_an_interrupted_run_goes_on_after_the_last_slice(
    cached_slices: list[CachedSlice], tmp_path: Path
) -> None:
    def interrupted() -> Iterator[Case]:
        raise KeyboardInterrupt

    system = Counting()
    good, second = sources(cached_slices)
    with pytest.raises(KeyboardInterrupt):
        run([system.system], [good, replace(second, make=interrupted)], SPEC, tmp_path)
    run([system.system], [good, second], SPEC, tmp_path)
    assert system.asked == 10


def test_slices_of_a_patient_are_spread(cached_slices: list[CachedSlice]) -> None:
    one = [replace(cached_slices[0], key=f"{n}", patient="a") for n in range(9)]
    few = [replace(cached_slices[0], key=f"b{n}", patient="b") for n in range(2)]
    assert [item.key for item in per_patient([*one, *few], 3)] == ["1", "4", "7", "b0", "b1"]


@pytest.fixture(scope="module")
def compared(cached_slices: list[CachedSlice], tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two systems, a baseline and the oracle on two slices and a phantom."""
    folder = tmp_path_factory.mktemp("evaluate")
    phantom = PhantomSlice(5, 10.0, size=96)
    networks = [Counting("half", value=0.5).system, Counting("low", value=0.3).system]
    baseline = replace(Counting("constant", value=0.6).system, kind=systems.BASELINE, about={})
    rows = []
    for system in [*networks, baseline, systems.load_oracle(SPEC)]:
        phantoms = [Source(phantom.key, lambda: phantom.cases(SPEC, folder / "phantoms"))]
        test = [] if system.kind == systems.ORACLE else sources(cached_slices)
        rows.append(
            Row(
                system,
                run([system], test, SPEC, folder)[system.name],
                run([system], phantoms, SPEC, folder)[system.name],
            )
        )
    return Comparison(SPEC, rows, cached_slices, available=2, slices_per_patient=None)


def test_the_document_holds_every_system(compared: Comparison) -> None:
    kernels = {compared.slices[0].key: "B31f"}
    found = json.loads(json.dumps(document(compared, "n2q-edge evaluate", kernels)))
    assert [system["name"] for system in found["systems"]] == ["half", "low", "constant", "oracle"]
    assert found["best_network"] == "half"  # the truth's mean is above 0.5
    assert found["data"]["patients"] == {"patient-0": ["B31f"], "patient-1": ["unknown"]}
    half, low, _, oracle = found["systems"]
    assert "body_mae_above_best" not in half
    assert low["body_mae_above_best"][0] > 0
    assert oracle["test"] is None
    assert oracle["phantom"]["body"]["rmse"] < half["phantom"]["body"]["rmse"]


def test_the_page_marks_the_best_and_dashes_what_is_not_told(compared: Comparison) -> None:
    found = document(compared, "n2q-edge evaluate export/a.toml", {})
    page = markdown(found)
    assert "do not edit" in page.splitlines()[0]
    assert "    n2q-edge evaluate export/a.toml" in page
    best = f"{found['systems'][2]['test']['body']['mae']:.3f}"
    row = next(
        line for line in page.splitlines() if line.startswith("| *constant*") and f"**{best}**" in line
    )
    assert row
    slices = page.partition("dose accuracy")[2].splitlines()
    assert next(line for line in slices if line.startswith("| low ")).count("–") == 2
    for table in page.split("\n\n"):  # every table is a rectangle
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_figures_are_small_pictures(
    compared: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "phantom_slices", lambda: [PhantomSlice(5, 10.0, size=96)] * 6)
    for path in figures.write_figures(compared, tmp_path / "phantoms", tmp_path / "figures"):
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size < 400_000


def test_the_command_names_no_folder_of_this_machine() -> None:
    recipes, data = [Path("/home/me/export/a.toml"), Path("/home/me/export/b.toml")], [Path("/home/me/ct")]
    found = command_line(recipes, data, 2)
    assert found == "n2q-edge evaluate export/a.toml export/b.toml --data DIR --slices-per-patient 2"


def save_network(folder: Path, name: str, width: int = 300) -> Path:
    """A recipe and an untrained checkpoint."""
    recipe = folder / f"{name}.toml"
    recipe.write_text(RECIPE.format(name=name, width=width))
    loaded = systems.load_recipe(recipe)
    spec = replace(loaded.spec, training={"steps": 1, "minutes": 0.1, "test": {"body": {}}})
    checkpoint.save(recipe.with_suffix(".safetensors"), spec, build(loaded.spec).state_dict())
    return recipe


def test_by_the_command_line(
    cached_slices: list[CachedSlice],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = save_network(tmp_path, "tiny")
    phantoms = [PhantomSlice(5, 10.0, size=96)]
    monkeypatch.setattr(comparison, "collect", lambda *_: cached_slices)
    monkeypatch.setattr(comparison, "phantom_slices", lambda: phantoms)
    monkeypatch.setattr(figures, "phantom_slices", lambda: phantoms * 6)
    data = tmp_path / "data"
    data.mkdir()
    arguments = ["evaluate", str(recipe), "--data", str(data), "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "| tiny" in out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    names = ["tiny", "constant", "noise-level", "closed-form", "denoise", "oracle"]
    assert [system["name"] for system in found["systems"]] == names
    tiny = found["systems"][0]
    assert (tiny["test"]["slices"], tiny["phantom"]["slices"]) == (1, 1)
    assert tiny["about"]["training"] == {"steps": 1, "minutes": 0.1}
    assert (tmp_path / "out" / "RESULTS.md").read_text().startswith("<!-- Generated")


def test_an_untrained_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = save_network(tmp_path, "tiny")
    recipe.with_suffix(".safetensors").unlink()
    assert main(["evaluate", str(recipe), "--data", str(tmp_path), "--quiet"]) == ExitCode.MODEL
    assert "n2q-edge train" in capsys.readouterr().err


def test_systems_that_predict_different_things_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = [save_network(tmp_path, "tiny"), save_network(tmp_path, "wide", width=400)]
    assert main(["evaluate", *map(str, recipes), "--data", str(tmp_path), "--quiet"]) == ExitCode.USAGE
    assert "differ in window" in capsys.readouterr().err


def test_a_recipe_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(save_network(tmp_path, "tiny"))
    assert main(["evaluate", recipe, recipe, "--data", str(tmp_path), "--quiet"]) == ExitCode.USAGE
    assert "two systems of one name" in capsys.readouterr().err


def test_operations_are_those_of_the_readme() -> None:
    """N2Q: about 28 GFLOP per slice of 512x512, two per multiply-add of its convolutions."""
    spec = ModelSpec(name="n2q", version="1", network={"class": "unet"})
    assert systems._gflop(spec) == pytest.approx(28.0, abs=0.2)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match="use auto, cpu or cuda"):
        pick_device("tpu")
    assert pick_device("cpu").type == "cpu"


def test_kernels_are_found_by_slice(tmp_path: Path) -> None:
    scan = PhantomScan(slices=1, dose=1.0, seed=1, size=64)
    (files,) = write_scan(tmp_path, scan, full_dose=True)
    key = cache.slice_key(str(pydicom.dcmread(files[0]).SOPInstanceUID))
    assert kernels([tmp_path]) == {key: "SOFT"}
