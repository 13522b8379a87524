from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from n2q_edge import released_models
from n2q_edge.errors import ExitCode, MissingDependencyError, ModelError, UsageError
from n2q_edge.runtimes import (
    RUNTIMES,
    libraries,
    open_model,
    openvino_cpu,
    ort,
    ort_cuda,
    ort_tensorrt,
    threads,
)
from n2q_edge.runtimes.checks import Choice
from n2q_edge.runtimes.model_file import read_model_file
from tests.helpers import tiny

ONNX_RUNTIMES = [name for name in ("onnxruntime", "openvino") if RUNTIMES[name].is_available()]
pytestmark = pytest.mark.skipif(not ONNX_RUNTIMES, reason="no runtime for ONNX files is installed")
needs_ort = pytest.mark.skipif(not ort.is_available(), reason="needs onnxruntime")
needs_both = pytest.mark.skipif(len(ONNX_RUNTIMES) < 2, reason="needs onnxruntime and openvino")


def one_line(error: pytest.ExceptionInfo[ModelError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert error.value.exit_code == ExitCode.MODEL


# --- files that are no model


@pytest.mark.parametrize("name", ONNX_RUNTIMES)
@pytest.mark.parametrize("damage", ["empty", "text", "half", "tail missing", "zeros"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    whole = tiny.onnx_bytes()
    data = {
        "empty": b"",
        "text": b"this is no model\n",
        "half": whole[: len(whole) // 2],
        "tail missing": whole[:-40],
        "zeros": bytes(2000),
    }[damage]
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError) as error:
        open_model(path, name)
    one_line(error, "bad.onnx")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        open_model(tmp_path / "none.onnx")
    one_line(error, "none.onnx", "does not exist")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError) as error:
        open_model(tmp_path / "folder.onnx")
    one_line(error, "folder.onnx", "cannot be read")


@pytest.mark.parametrize(("name", "words"), [("m.engine", "TensorRT"), ("m.bin", ".onnx"), ("m", ".onnx")])
def test_kinds_of_file_that_cannot_be_opened(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=words):
        open_model(tmp_path / name)


@pytest.mark.parametrize("name", ONNX_RUNTIMES)
def test_a_model_without_a_spec(tmp_path: Path, name: str) -> None:
    path = tiny.write_onnx(tmp_path / "plain.onnx", spec=None)
    with pytest.raises(ModelError) as error:
        open_model(path, name)
    one_line(error, "plain.onnx", "no n2q-edge model spec")


@pytest.mark.parametrize("name", ONNX_RUNTIMES)
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"input_name": "image"}, "image float32"),
        ({"input_shape": ("N", 3, "H", "W")}, "?,3,?,?"),
        ({"input_shape": ("N", 1, 512, 512)}, "?,1,512,512"),
        ({"input_shape": (1, 1, "H", "W")}, "1,1,?,?"),
        ({"output_names": ("quality_map", "dose")}, "'dose'"),
        ({"output_names": ("dose_probabilities", "quality_map")}, "dose_probabilities"),
        ({"levels": 4}, "?,4"),
        (
            {"spec": replace(tiny.SPEC, outputs=("quality_map", "dose_probabilities", "noise_map"))},
            "noise_map",
        ),
    ],
)
def test_a_graph_that_is_not_what_its_spec_says(
    tmp_path: Path, name: str, wrong: dict[str, object], words: str
) -> None:
    path = tiny.write_onnx(tmp_path / "wrong.onnx", **wrong)
    with pytest.raises(ModelError) as error:
        open_model(path, name)
    one_line(error, "wrong.onnx", words)


@pytest.mark.parametrize("name", ONNX_RUNTIMES)
def test_a_quality_map_that_is_no_ssim(tmp_path: Path, name: str) -> None:
    # offset 2 gives a map in [1.25, 2]: perhaps an error map, certainly not SSIM
    path = tiny.write_onnx(tmp_path / "model.onnx", offset=2.0)
    with open_model(path, name) as model, pytest.raises(ModelError, match=r"not in \[0, 1\]"):
        model.infer(np.zeros((1, 1, 32, 32), np.float32))


@pytest.mark.parametrize("name", ONNX_RUNTIMES)
def test_rounding_beyond_one_is_clipped(tmp_path: Path, name: str) -> None:
    path = tiny.write_onnx(tmp_path / "model.onnx", offset=1.0001)  # air: 1.0001 - 0.75 * 0
    with open_model(path, name) as model:
        assert model.infer(np.full((1, 1, 32, 32), -1000, np.float32)).quality_map.max() == 1.0


def test_sha256_is_of_the_file(onnx_file: Path) -> None:
    with open_model(onnx_file, ONNX_RUNTIMES[0]) as model:
        assert model.describe()["model_sha256"] == hashlib.sha256(onnx_file.read_bytes()).hexdigest()


def test_foreign_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    with pytest.raises(ModelError) as error:
        open_model(path)
    one_line(error, "weights.safetensors")


# --- the released model


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tiny.write_onnx(tmp_path / "released.onnx")
    record = {
        "onnx": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "checkpoint": "released.safetensors",
        "checkpoint_sha256": "0" * 64,
    }
    records = {"default": "first", "first": record, "second": {**record, "onnx": "second.onnx"}}
    (tmp_path / "released.json").write_text(json.dumps(records))
    released, names = released_models.released, released_models.names
    monkeypatch.setattr(released_models, "released", lambda name=None: released(name, tmp_path))
    monkeypatch.setattr(released_models, "names", lambda folder=tmp_path: names(folder))
    return path


def test_no_path_opens_the_released_model(released: Path) -> None:
    with open_model() as model:
        assert model.describe()["model_path"] == str(released)


def test_the_released_model_must_have_its_hash(released: Path) -> None:
    released.write_bytes(tiny.onnx_bytes(replace(tiny.SPEC, name="other")))
    with pytest.raises(ModelError) as error:
        open_model()
    one_line(error, "released.onnx", "SHA-256")
    with open_model(released) as model:  # named on purpose, it is a model like any other
        assert model.spec.name == "other"


def test_the_released_checkpoint_must_have_its_hash(released: Path) -> None:
    released.with_suffix(".safetensors").write_bytes(b"something else")
    with pytest.raises(ModelError, match="SHA-256"):
        open_model(runtime="torch")


def test_a_released_model_opens_by_its_name(released: Path) -> None:
    assert released_models.names() == ["first", "second"]
    (released.parent / "second.onnx").write_bytes(released.read_bytes())
    with open_model(Path("second")) as model:
        assert model.describe()["model_path"] == str(released.parent / "second.onnx")
    with pytest.raises(ModelError, match="'third': there are first, second"):
        released_models.released("third")


@pytest.mark.parametrize("text", [None, "[]", "{}", '{"default": "a"}', '{"default": "a", "a": {}}'])
def test_no_released_model(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "released.json").write_text(text)
    with pytest.raises(ModelError, match=r"released\.json"):
        released_models.released(folder=tmp_path)


def test_what_is_released_is_whole() -> None:
    """The files of the package, against the hashes beside them."""
    for name in released_models.names():
        model = released_models.released(name)
        assert hashlib.sha256(model.onnx.read_bytes()).hexdigest() == model.sha256
        assert hashlib.sha256(model.checkpoint.read_bytes()).hexdigest() == model.checkpoint_sha256


# --- choosing a runtime


def with_class(path: Path, name: str) -> Path:
    return tiny.write_onnx(path, spec=replace(tiny.SPEC, network={"class": name}))


@needs_both
@pytest.mark.parametrize(
    ("network", "fastest", "why"),
    [
        ("unet", "openvino", "measured"),
        ("compact", "onnxruntime", "measured"),
        ("new", "onnxruntime", "default"),
    ],
)
def test_auto_takes_the_measured_fastest_and_says_so(
    tmp_path: Path, network: str, fastest: str, why: str
) -> None:
    with open_model(with_class(tmp_path / "model.onnx", network)) as model:
        facts = model.describe()
    assert facts["name"] == fastest
    assert facts["chosen_by"] == "auto"
    assert why in facts["chosen_because"]
    assert network in facts["chosen_because"]


@needs_both
def test_auto_takes_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_class(tmp_path / "model.onnx", "compact")
    monkeypatch.setattr(ort, "is_available", lambda: False)
    with open_model(path) as model:
        assert model.describe()["name"] == "openvino"
        assert "only" in model.describe()["chosen_because"]
    monkeypatch.setattr(openvino_cpu, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"\[cpu\]"):
        open_model(path)


def test_auto_opens_a_checkpoint_with_torch(checkpoint_file: Path) -> None:
    with open_model(checkpoint_file) as model:
        assert model.describe()["name"] == "torch"
        assert model.describe()["chosen_by"] == "auto"


def test_unknown_runtime(onnx_file: Path) -> None:
    with pytest.raises(UsageError, match="onnxruntime-cuda"):
        open_model(onnx_file, "cuda")


def test_a_runtime_that_does_not_open_such_files(onnx_file: Path) -> None:
    with pytest.raises(UsageError, match=r"torch.*safetensors"):
        open_model(onnx_file, "torch")


def test_threads(onnx_file: Path) -> None:
    with pytest.raises(UsageError, match="threads"):
        open_model(onnx_file, threads=0)
    with open_model(onnx_file) as model:
        assert model.describe()["threads"] == threads.physical_cores()


@needs_ort
@pytest.mark.parametrize("module", [ort_cuda, ort_tensorrt])
def test_a_gpu_provider_never_becomes_the_cpu(onnx_file: Path, module: object) -> None:
    name, provider = module.NAME, module.PROVIDER  # type: ignore[attr-defined]
    if module.is_available():  # type: ignore[attr-defined]
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(ModelError) as error:
        open_model(onnx_file, name)
    one_line(error, provider, "[ort-gpu]")


@needs_ort
@pytest.mark.parametrize("module", [ort_cuda, ort_tensorrt])
def test_a_gpu_build_without_a_gpu_fails_too(onnx_file: Path, module: object) -> None:
    """As with onnxruntime-gpu and no GPU: the provider is on offer, the session starts on the CPU."""
    model = read_model_file(onnx_file)
    library = libraries.import_onnxruntime()
    provider = module.PROVIDER  # type: ignore[attr-defined]
    if provider in library.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(ModelError, match=f"{provider} did not start"):
        ort.OnnxRuntimeModel(library, "gpu", model, 1, Choice("test", ""), provider)


@needs_ort
def test_the_three_steps_of_a_gpu_run_give_the_same_answer(onnx_file: Path) -> None:
    """Copying to a device, computing and copying back, with the CPU as the device."""
    hu = np.random.default_rng(0).uniform(-300, 300, (2, 1, 32, 48)).astype(np.float32)
    with ort.open(read_model_file(onnx_file), 1, Choice("test", "")) as model:
        outputs, timing = model._run_on_device({"hu": hu}, "cpu")
    np.testing.assert_allclose(outputs[0], tiny.expected(hu)[0], atol=1e-6)
    np.testing.assert_allclose(outputs[1], tiny.expected(hu)[1], atol=1e-6)
    assert set(timing) == {"h2d", "compute", "d2h"}


# --- manners


OPEN_AND_RUN = """
import sys, numpy
from pathlib import Path
from n2q_edge.runtimes import open_model
with open_model(Path(sys.argv[1]), sys.argv[2]) as model:
    model.infer(numpy.zeros((1, 1, 32, 32), numpy.float32))
"""


@pytest.mark.parametrize("name", ONNX_RUNTIMES)
def test_nothing_is_printed_and_nobody_is_told(onnx_file: Path, tmp_path: Path, name: str) -> None:
    """The libraries' telemetry keeps an identifier in the home folder; no file there, no telemetry."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")
    }
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_RUN, str(onnx_file), name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_runtimes_imports_no_library() -> None:
    code = "import sys, n2q_edge.runtimes, n2q_edge.doctor; print(*HEAVY & {*sys.modules})"
    code = code.replace("HEAVY", "{'torch', 'onnxruntime', 'openvino', 'onnx', 'scipy', 'matplotlib'}")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""


# --- threads


def test_physical_cores_counts_hyper_threads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(threads, "_usable_cpus", lambda: {0, 1, 2, 3})
    assert threads.physical_cores(tmp_path, tmp_path) == 2
    monkeypatch.setattr(threads, "_usable_cpus", lambda: {0, 2})  # taskset -c 0,2: two threads of one core
    assert threads.physical_cores(tmp_path, tmp_path) == 1


@pytest.mark.parametrize(
    ("quota", "cores"), [("300000 100000", 3), ("50000 100000", 1), ("max 100000", 8), ("?", 8)]
)
def test_physical_cores_respects_a_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(threads, "_usable_cpus", lambda: set(range(8)))
    assert threads.physical_cores(tmp_path / "nothing", tmp_path) == cores
