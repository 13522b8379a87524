"""What only a GPU can show. Each way to run the tiny model gives the answers that arithmetic gives."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.errors import N2QError
from n2q_edge.model.engine.build import build
from n2q_edge.runtimes import RUNTIMES, cuda, open_model, tensorrt_library
from n2q_edge.runtimes.sidecar import sidecar_path
from tests.helpers import tiny

pytestmark = pytest.mark.gpu
SIZE = (64, 96)


@pytest.fixture(scope="module", autouse=True)
def device() -> cuda.Device:
    try:
        access = cuda.open()
    except N2QError as error:
        pytest.skip(str(error))
    access.close()
    return access.device


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "n2q-edge"


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def engine(request: pytest.FixtureRequest, onnx_file: Path, device: cuda.Device, tmp_path: Path) -> Path:
    flavor = tensorrt_library.flavor_named(request.param)
    if not tensorrt_library.is_installed(flavor):
        pytest.skip(f"{flavor.name} is not installed")
    known = tensorrt_library.capabilities(flavor, tensorrt_library.load(flavor))
    if known is not None and device.capability not in known:
        pytest.skip(f"{flavor.name} does not support compute capability {device.capability}")
    return build(onnx_file, tmp_path / "tiny.engine", flavor=flavor.name, size=SIZE, batch=2).path


def check(model: Any, seed: int = 0, count: int = 3) -> None:
    hu = np.random.default_rng(seed).uniform(-300, 300, (count, 1, *SIZE)).astype(np.float32)
    result = model.infer(hu)
    quality, dose = tiny.expected(hu)
    np.testing.assert_allclose(result.quality_map, quality, atol=1e-5)
    np.testing.assert_allclose(result.dose_probabilities, dose, atol=1e-5)


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-pycuda"])
def test_engines(engine: Path, runtime: str) -> None:
    if not RUNTIMES[runtime].is_available():
        pytest.skip(f"{runtime} is not installed")
    with open_model(engine, runtime) as model:
        for seed in range(5):
            check(model, seed)
        timing = model.infer(np.zeros((1, 1, *SIZE), np.float32)).timing
        assert timing.compute is not None
        assert timing.compute > 0


def test_the_whole_slice_is_one_graph(engine: Path) -> None:
    with open_model(engine) as model:
        assert model.describe()["cuda_graph"] == "yes"


def test_threads(engine: Path) -> None:
    failures: list[BaseException] = []

    def work(model: Any, seed: int) -> None:
        try:
            for step in range(20):
                check(model, seed * 100 + step)
        except BaseException as error:
            failures.append(error)

    with open_model(engine) as model:
        threads = [threading.Thread(target=work, args=(model, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_beside_pytorch(engine: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    ones = torch.ones(4, device="cuda")
    with open_model(engine) as model:
        check(model)
        assert float(ones.sum()) == 4
        check(model)
    assert float((ones + 1).sum()) == 8


def test_the_runtime_cache_is_used_again(engine: Path, cache_folder: Path) -> None:
    with open_model(engine) as model:
        check(model)
    if "tensorrt-rtx" not in sidecar_path(engine).read_text():
        pytest.skip("tensorrt has no runtime cache")
    (file,) = cache_folder.glob("*.rtxcache")
    file.write_bytes(b"junk")  # refused by the library, then made anew
    with open_model(engine) as model:
        check(model)
    assert file.stat().st_size > 4


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"])
def test_onnx_runtime(onnx_file: Path, runtime: str) -> None:
    if not RUNTIMES[runtime].is_available():
        pytest.skip(f"{runtime} is not installed")
    with open_model(onnx_file, runtime) as model:
        for seed in range(3):
            check(model, seed)
