"""One list of cases that every runtime must get right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from n2q_edge.errors import ModelError
from n2q_edge.runtimes import RUNTIMES, Runtime, open_model
from tests.helpers import tiny


def noise(*shape: int, seed: int = 0) -> tiny.FloatArray:
    return np.random.default_rng(seed).uniform(-300, 300, shape).astype(np.float32)


CASES = {
    "one slice": noise(1, 1, 64, 64),
    "a batch of different slices": np.concatenate(
        [noise(1, 1, 32, 32), np.full((2, 1, 32, 32), 40, np.float32)]
    ),
    "wide": noise(1, 1, 16, 96),
    "tall": noise(2, 1, 80, 32),
    "air": np.full((1, 1, 32, 32), -1024, np.float32),
    "both ends of the range": np.where(np.arange(1024).reshape(1, 1, 32, 32) % 2, -1024, 3071).astype(
        np.float32
    ),
    "not contiguous": noise(1, 1, 64, 128)[:, :, ::2, ::2],
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_arithmetic(runtime: Runtime, case: str) -> None:
    hu = CASES[case]
    quality, dose = tiny.expected(hu)
    result = runtime.infer(hu)
    np.testing.assert_allclose(result.quality_map, quality, atol=1e-6)
    np.testing.assert_allclose(result.dose_probabilities, dose, atol=1e-6)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_model_without_a_dose_head(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not RUNTIMES[name].is_available():
        pytest.skip(f"{name} is not installed")
    if name == "torch":
        request.getfixturevalue("tiny_network")
        file = tiny.write_checkpoint(tmp_path / "map.safetensors", tiny.MAP_ONLY)
    else:
        file = tiny.write_onnx(tmp_path / "map.onnx", spec=tiny.MAP_ONLY)
    hu = CASES["a batch of different slices"]
    with open_model(file, name, threads=1) as model:
        result = model.infer(hu)
    np.testing.assert_allclose(result.quality_map, tiny.expected(hu)[0], atol=1e-6)
    assert result.dose_probabilities is None


def test_outputs_are_what_the_contract_says(runtime: Runtime) -> None:
    result = runtime.infer(CASES["tall"])
    assert result.quality_map.dtype == result.dose_probabilities.dtype == np.float32
    assert result.quality_map.shape == (2, 1, 80, 32)
    assert result.dose_probabilities.shape == (2, 5)
    assert result.quality_map.min() >= 0
    assert result.quality_map.max() <= 1
    np.testing.assert_allclose(result.dose_probabilities.sum(axis=1), 1, atol=1e-6)
    assert result.noise_map is None
    assert result.log_variance is None


def test_sizes_may_change_from_call_to_call(runtime: Runtime) -> None:
    for shape in [(1, 1, 64, 64), (3, 1, 16, 48), (1, 1, 64, 64), (2, 1, 128, 32)]:
        hu = noise(*shape)
        np.testing.assert_allclose(runtime.infer(hu).quality_map, tiny.expected(hu)[0], atol=1e-6)


def test_a_result_is_the_callers(runtime: Runtime) -> None:
    hu = CASES["one slice"].copy()
    first = runtime.infer(hu)
    kept = first.quality_map.copy()
    runtime.infer(np.full_like(hu, 190))
    np.testing.assert_array_equal(first.quality_map, kept)
    first.quality_map[:] = 0  # writable, and of no consequence for the next
    np.testing.assert_array_equal(runtime.infer(hu).quality_map, kept)
    np.testing.assert_array_equal(hu, CASES["one slice"])


def test_the_same_input_gives_the_same_answer(runtime: Runtime) -> None:
    hu = CASES["one slice"]
    np.testing.assert_array_equal(runtime.infer(hu).quality_map, runtime.infer(hu).quality_map)


def test_timing_adds_up(runtime: Runtime) -> None:
    timing = runtime.infer(CASES["one slice"]).timing
    assert timing.h2d is None
    assert timing.d2h is None
    assert timing.compute is not None
    assert 0 < timing.compute <= timing.total


def test_describes_itself(runtime: Runtime) -> None:
    facts = runtime.describe()
    assert facts["name"] in ("onnxruntime", "openvino", "torch")
    assert facts["version"][0].isdigit()
    assert facts["device"] == "cpu"
    assert facts["threads"] == 1
    assert facts["chosen_by"] == "user"
    assert len(facts["model_sha256"]) == 64
    assert facts["model_path"].endswith(("tiny.onnx", "tiny.safetensors"))
    facts["name"] = "changed"
    assert runtime.describe()["name"] != "changed"
    assert runtime.spec == tiny.SPEC


@pytest.mark.parametrize(
    ("hu", "complaint"),
    [
        (np.zeros((1, 1, 64, 64)), "float64"),
        (np.zeros((1, 1, 64, 64), np.int16), "int16"),
        (np.zeros((64, 64), np.float32), r"\[64, 64\]"),
        (np.zeros((1, 3, 64, 64), np.float32), r"\[1, 3, 64, 64\]"),
        (np.zeros((1, 1, 64, 60), np.float32), "multiples of 16"),
        (np.zeros((0, 1, 64, 64), np.float32), "N > 0"),
        (np.full((1, 1, 64, 64), np.nan, np.float32), "clip"),
        (np.full((1, 1, 64, 64), -2000, np.float32), "clip"),
        (np.full((1, 1, 64, 64), 4000, np.float32), "clip"),
        ([[0.0]], "list"),
    ],
)
def test_refuses_what_the_model_does_not_take(runtime: Runtime, hu: tiny.FloatArray, complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        runtime.infer(hu)
    quality, _ = tiny.expected(CASES["one slice"])  # and is fit for the next slice
    np.testing.assert_allclose(runtime.infer(CASES["one slice"]).quality_map, quality, atol=1e-6)


def test_closing_twice_is_harmless_and_a_closed_model_says_so(runtime: Runtime) -> None:
    runtime.close()
    runtime.close()
    with pytest.raises(ModelError, match="closed"):
        runtime.infer(CASES["one slice"])


# --- reference noise


def told_model(tmp_path: Path, cell: int = 8) -> Path:
    """An untrained network that takes a reference noise, exported."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from n2q_edge.model.checkpoint import save
    from n2q_edge.model.export import export_model
    from n2q_edge.network import build
    from n2q_edge.spec import ModelSpec

    spec = ModelSpec(
        name="told",
        version="t",
        network={"class": "compact", "widths": [8, 8, 8], "blocks": [0, 0, 0]},
        inputs=("hu", "reference_noise_hu"),
        outputs=("quality_map", "dose_probabilities", "noise_map", "log_variance"),
        map_cell=cell,
    )
    file = tmp_path / "told.safetensors"
    save(file, spec, build(spec).state_dict())
    export_model(file, tmp_path / "told.onnx")
    return file


def soft_tissue(count: int) -> tiny.FloatArray:
    return (50 + 30 * np.random.default_rng(3).standard_normal((count, 1, 96, 64))).astype(np.float32)


def test_every_runtime_takes_a_reference_and_gives_maps_on_the_models_grid(tmp_path: Path) -> None:
    file = told_model(tmp_path)
    hu = soft_tissue(3)
    reference = np.array([0.0, 10.0, 25.0], np.float32)
    found = {}
    for name in ("torch", "onnxruntime", "openvino"):
        if not RUNTIMES[name].is_available():
            continue
        path = file if name == "torch" else file.with_suffix(".onnx")
        with open_model(path, name, threads=1) as model:
            found[name] = model.infer(hu, reference)
            nothing, zeros = model.infer(hu), model.infer(hu, np.zeros(3, np.float32))
        assert np.array_equal(nothing.quality_map, zeros.quality_map)
        assert found[name].quality_map[0] == pytest.approx(nothing.quality_map[0], abs=1e-5)
        assert found[name].quality_map[1].mean() < found[name].quality_map[2].mean() - 0.02
        assert found[name].noise_map is not None
        assert found[name].noise_map.shape == (3, 1, 12, 8)
        np.testing.assert_allclose(found[name].quality_map, found["torch"].quality_map, atol=1e-4)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (np.zeros(2, np.float32), "one value a slice"),
        (np.full(1, -1.0, np.float32), "lies in"),
        (np.full(1, np.nan, np.float32), "lies in"),
        (np.full(1, 10.0, np.float32), "takes no reference noise"),
    ],
)
def test_what_is_no_reference_is_refused(runtime: Runtime, reference: tiny.FloatArray, message: str) -> None:
    """The tiny model cannot be told any: unknown is all it takes."""
    hu = CASES["one slice"]
    with pytest.raises(ModelError, match=message):
        runtime.infer(hu, reference)
    runtime.infer(hu, np.zeros(1, np.float32))


def test_a_coarse_map_is_enlarged_as_pytorch_does() -> None:
    torch = pytest.importorskip("torch")
    from n2q_edge.runtimes.grid import enlarge

    cells = np.random.default_rng(0).random((2, 1, 5, 3), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(cells), scale_factor=8.0, mode="bilinear", align_corners=False
    ).numpy()
    np.testing.assert_allclose(enlarge(cells, 8), expected, atol=1e-6)
    assert enlarge(cells, 1) is cells
