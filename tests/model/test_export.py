from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import n2q_edge
from n2q_edge import released_models
from n2q_edge.errors import ExitCode, ModelError, ParityError, UsageError
from n2q_edge.model import checkpoint, export
from n2q_edge.model.parity import compare, hold, parity_slices
from n2q_edge.runtimes import RUNTIMES, open_model
from n2q_edge.runtimes.model_file import ModelFile, read_model_file
from n2q_edge.spec import SPEC_KEY, ModelSpec
from tests.helpers.paths import ROOT

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SPEC = ModelSpec(
    name="tiny",
    version="1",
    network={"class": "tiny"},
    size_multiple=16,
    outputs=("quality_map", "dose_probabilities", "noise_map"),
    training={"data": "none"},
)
SOURCE = ModelFile(Path("tiny.safetensors"), b"", "0" * 64)


class Tiny(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Convolution, normalisation, resampling: what a real network exports, small."""

    def __init__(self, spec: ModelSpec | None = None) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.norm = torch.nn.InstanceNorm2d(16)
        self.dropout = torch.nn.Dropout(0.5)
        self.dose = torch.nn.Linear(16, 5)

    def forward(self, hu: Any) -> tuple[Any, Any, Any]:
        functional = torch.nn.functional
        windowed = ((hu + 110) / 300).clamp(0, 1)
        features = self.dropout(self.norm(self.conv(functional.pixel_unshuffle(windowed, 4))))
        coarse = functional.max_pool2d(features, 2)
        features = features + functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        return (
            functional.pixel_shuffle(features, 4).sigmoid(),
            self.dose(coarse.amax(dim=(2, 3))).softmax(dim=1),
            functional.pixel_shuffle(features, 4).exp(),
        )


class Sabotaged(Tiny):
    """Is wrong, either only once exported or only in PyTorch."""

    def __init__(self, error: tuple[float, float, float], exported: bool) -> None:
        super().__init__()
        self.error, self.exported = error, exported

    def forward(self, hu: Any) -> tuple[Any, Any, Any]:
        quality, dose, noise = super().forward(hu)
        if torch.compiler.is_exporting() == self.exported:
            quality = (quality + self.error[0]).clamp(0, 1)
            dose = dose.roll(1, dims=1) if self.error[1] else dose
            noise = noise * (1 + self.error[2])
        return quality, dose, noise


@pytest.fixture(scope="module", autouse=True)
def tiny_class() -> Iterator[None]:
    from n2q_edge import network

    network.NETWORKS["tiny"] = Tiny
    yield
    del network.NETWORKS["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def source(folder: Path, tiny_class: None) -> Path:
    torch.manual_seed(0)
    path = folder / "tiny.safetensors"
    checkpoint.save(path, SPEC, Tiny().state_dict())
    return path


@pytest.fixture(scope="module")
def report(folder: Path, source: Path) -> export.ExportReport:
    return export.export_model(source, folder / "tiny.onnx")


def test_one_file_with_everything_in_it(report: export.ExportReport, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.onnx", "tiny.safetensors"]
    model = onnx.load(report.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert ModelSpec.from_metadata(metadata, "") == SPEC
    assert set(metadata) == {SPEC_KEY}


def test_names_and_dynamic_sizes(report: export.ExportReport) -> None:
    graph = onnx.load(report.path).graph
    assert [port.name for port in graph.input] == ["hu"]
    assert [port.name for port in graph.output] == list(SPEC.outputs)
    batch, channel, height, width = graph.input[0].type.tensor_type.shape.dim
    assert channel.dim_value == 1
    assert all(size.dim_param for size in (batch, height, width))
    assert len({batch.dim_param, height.dim_param, width.dim_param}) == 3


def test_the_exporting_machine_leaves_no_trace(report: export.ExportReport) -> None:
    data = report.path.read_bytes()
    assert str(ROOT).encode() not in data
    assert b"site-packages" not in data


def test_report(report: export.ExportReport, source: Path) -> None:
    data = report.path.read_bytes()
    assert report.sha256 == hashlib.sha256(data).hexdigest()
    assert report.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert report.size_bytes == len(data)
    assert [parity.shape for parity in report.parity] == [(1, 1, 512, 512), (2, 1, 320, 448)]
    for parity in report.parity:
        assert 0 <= parity.mean_difference <= parity.max_difference < 1e-4
        assert parity.same_dose
    assert report.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_file_computes_what_the_checkpoint_does(
    report: export.ExportReport, source: Path, name: str
) -> None:
    if not RUNTIMES[name].is_available():
        pytest.skip(f"{name} is not installed")
    with open_model(report.path, name) as model, open_model(source, "torch") as reference:
        for hu in (parity_slices(16)[1], np.full((3, 1, 64, 160), 37, np.float32)):
            actual, expected = model.infer(hu), reference.infer(hu)
            np.testing.assert_allclose(actual.quality_map, expected.quality_map, atol=1e-4)
            np.testing.assert_allclose(actual.dose_probabilities, expected.dose_probabilities, atol=1e-4)
            np.testing.assert_allclose(actual.noise_map, expected.noise_map, rtol=1e-3)  # type: ignore[arg-type]


def test_a_sabotaged_export_is_not_written(tmp_path: Path) -> None:
    old = tmp_path / "model.onnx"
    old.write_bytes(b"the old model")
    with pytest.raises(ParityError, match="SSIM") as failure:
        export.export_network(Sabotaged((0.01, 0, 0), exported=True), SPEC, old, source=SOURCE)
    assert failure.value.exit_code == ExitCode.MODEL
    assert "\n" not in str(failure.value)
    assert old.read_bytes() == b"the old model"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        ((0.01, 0, 0), "max .* SSIM; mean .* SSIM"),
        ((0, 1, 0), "another dose level"),
        ((0, 0, 0.01), "noise_map"),
        ((float("nan"), 0, 0), "SSIM"),
    ],
)
def test_the_gate_sees_every_output(
    report: export.ExportReport, error: tuple[float, float, float], complaint: str
) -> None:
    network = Sabotaged(error, exported=False)
    network.load_state_dict(checkpoint.load(report.source)[1])
    parity = compare(read_model_file(report.path), network.eval(), SPEC)[0]
    with pytest.raises(ParityError, match=complaint):
        hold(parity, report.tolerances, report.path)


class MapOnly(Tiny):
    def forward(self, hu: Any) -> tuple[Any, ...]:
        return super().forward(hu)[:1]


def test_a_network_without_a_dose_head(tmp_path: Path) -> None:
    spec = replace(SPEC, outputs=("quality_map",))
    made = export.export_network(MapOnly(), spec, tmp_path / "map.onnx", source=SOURCE)
    assert [port.name for port in onnx.load(made.path).graph.output] == ["quality_map"]
    assert [(parity.same_dose, parity.relative_difference) for parity in made.parity] == [(None, {})] * 2


class Lone(Tiny):
    """A network of somebody else's: one tensor, no tuple."""

    def forward(self, hu: Any) -> Any:
        return super().forward(hu)[0]


def test_a_network_in_memory(tmp_path: Path) -> None:
    """The file gives what the network gives, by any runtime."""
    network = Lone().eval()
    made = n2q_edge.export(network, replace(SPEC, outputs=("quality_map",)), tmp_path / "mine.onnx")
    assert (made.source, made.source_sha256) == (None, None)
    hu = parity_slices(16)[0]
    with n2q_edge.load(made.path) as model, torch.inference_mode():
        expected = network(torch.from_numpy(hu)).numpy()[0, 0]
        np.testing.assert_allclose(model.assess(hu[0, 0]).quality_map, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, hu: (hu, hu), "gives 2 tensors, its spec names 1: quality_map"),
        (lambda self, hu: hu[:, :, ::2], "must have one value per pixel"),
        (lambda self, hu: hu.reshape(3, 5), "fails on HU"),
        (lambda self, hu: None, "gives 0 tensors"),
    ],
)
def test_a_network_that_does_not_keep_the_contract(tmp_path: Path, forward: Any, message: str) -> None:
    foreign = type("Foreign", (torch.nn.Module,), {"forward": forward})
    with pytest.raises(ModelError, match=message) as failure:
        n2q_edge.export(foreign(), replace(SPEC, outputs=("quality_map",)), tmp_path / "mine.onnx")
    assert "\n" not in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_exported(tmp_path: Path) -> None:
    class Branching(Tiny):
        def forward(self, hu: Any) -> tuple[Any, Any, Any]:
            return super().forward(hu if hu.mean().item() > 0 else -hu)

    with pytest.raises(ModelError, match="cannot be exported") as failure:
        export.export_network(Branching(), SPEC, tmp_path / "model.onnx", source=SOURCE)
    assert "\n" not in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_only_fp32_yet(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fp32"):
        export.export_network(Tiny(), replace(SPEC, precision="int8"), tmp_path / "m.onnx", source=SOURCE)


# --- sources


RECIPE = """
[model]
name = "tiny"
version = "1"
[network]
class = "tiny"
[training]
steps = 1
batch = 1
[export]
max_map_difference = {tolerance}
"""


def test_a_recipe_names_checkpoint_and_tolerances(tmp_path: Path, source: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(tolerance=0.0))  # nothing is that equal
    with pytest.raises(ModelError, match=r"tiny\.safetensors does not exist"):
        export.export_model(recipe, tmp_path / "out.onnx")
    (tmp_path / "tiny.safetensors").write_bytes(source.read_bytes())
    with pytest.raises(ParityError, match=r"> 0\.00e\+00 SSIM"):
        export.export_model(recipe, tmp_path / "out.onnx")


def test_wrong_recipes(tmp_path: Path) -> None:
    for text in ("no toml", "[export]\nunknown = 1\n"):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ModelError, match=r"bad\.toml"):
            export.export_model(tmp_path / "bad.toml", tmp_path / "out.onnx")


def test_no_source_is_the_released_checkpoint_and_nothing_is_printed(
    tmp_path: Path,
    source: Path,
    report: export.ExportReport,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    released = released_models.ReleasedModel(tmp_path / "none.onnx", "", source, sha256)
    monkeypatch.setattr(released_models, "released", lambda _: released)
    again = export.export_model(None, tmp_path / "out.onnx")
    assert capfd.readouterr() == ("", "")
    assert again.source == source
    assert again.sha256 == report.sha256  # the same checkpoint gives the same file
    monkeypatch.setattr(released_models, "released", lambda _: replace(released, checkpoint_sha256="0" * 64))
    with pytest.raises(ModelError, match="SHA-256"):
        export.export_model(None, tmp_path / "other.onnx")


def test_the_file_must_be_called_onnx(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.onnx"):
        export.export_model(source, tmp_path / "model.pb")


def test_the_folder_must_exist(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        export.export_model(source, tmp_path / "none" / "model.onnx")


# --- the slices of the parity gate


def test_parity_slices_are_ct_like() -> None:
    first, second = parity_slices(48)
    assert first.shape == (1, 1, 528, 528)  # the next multiple of 48 above 512
    assert second.shape == (2, 1, 336, 480)
    for hu in (first, second):
        assert hu.dtype == np.float32
        assert hu.min() >= -1024
        assert hu.max() <= 3071
        assert (hu < -900).any()
        assert (hu > 800).any()
    flat = second[:, 0, 168, 100:140]  # a row through the liver
    assert np.std(flat[1]) > 1.5 * np.std(flat[0])  # twice the noise
    np.testing.assert_array_equal(first, parity_slices(48)[0])
