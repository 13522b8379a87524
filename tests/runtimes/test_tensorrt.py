"""The TensorRT runtime on a GPU that is not there (`fake_gpu`), and the rest of it where one is."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.errors import ModelError
from n2q_edge.model.inspect import explain
from n2q_edge.runtimes import cuda, cuda_pycuda, tensorrt, tensorrt_library
from n2q_edge.runtimes.checks import Choice
from n2q_edge.runtimes.engine_header import read_header, same_version
from n2q_edge.runtimes.model_file import ModelFile, read_model_file
from n2q_edge.runtimes.sidecar import Sidecar, sidecar_path
from tests.helpers import fake_gpu, tiny

SIDE = 64
CHOICE = Choice("test", "")


def shapes(batch: int) -> dict[str, tuple[int, ...]]:
    return {
        "hu": (batch, 1, SIDE, SIDE),
        "quality_map": (batch, 1, SIDE, SIDE),
        "dose_probabilities": (batch, 5),
    }


VERSIONS = {"tensorrt-rtx": (1, 7, 1, 116), "tensorrt": (10, 3, 0, 26)}


def plan(version: tuple[int, ...], magic: bytes = b"vtrt", length: int = 64) -> bytes:
    """64 bytes with an engine's header."""
    return magic + bytes(12) + length.to_bytes(8, "little") + bytes(version) + bytes(36)


def write_engine(
    folder: Path,
    *,
    batch: int = 1,
    flavor: str = "tensorrt-rtx",
    data: bytes | None = None,
    **fields: Any,
) -> ModelFile:
    """A file with an engine's header (or other bytes), and its sidecar."""
    version = VERSIONS[flavor]
    data = plan(version) if data is None else data
    sidecar = Sidecar(
        **{  # type: ignore[arg-type]
            "engine_sha256": hashlib.sha256(data).hexdigest(),
            "engine_bytes": len(data),
            "onnx_name": "tiny.onnx",
            "onnx_sha256": "0" * 64,
            "spec": tiny.SPEC,
            "flavor": flavor,
            "version": ".".join(map(str, version)),
            "capabilities": ("8.6",),
            "shapes": shapes(batch),
            **fields,
        }
    )
    path = folder / "tiny.engine"
    path.write_bytes(data)
    sidecar_path(path).write_text(sidecar.to_json())
    return read_model_file(path)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "n2q-edge"


class Bench:
    """A fake GPU with an engine on it."""

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        *,
        batch: int = 1,
        rtx: bool = True,
        data: bytes | None = None,
        **gpu: Any,
    ):
        self.gpu = fake_gpu.FakeCuda(**gpu)
        kind = fake_gpu.RtxEngine if rtx else fake_gpu.Engine
        self.engine = kind(self.gpu, shapes(batch))
        version = fake_gpu.VERSION if rtx else "10.3.0.26"
        library = fake_gpu.library(self.engine, version=version)
        patch.setattr(tensorrt_library, "load", lambda flavor: library)
        flavor = "tensorrt-rtx" if rtx else "tensorrt"
        self.file = write_engine(folder, batch=batch, flavor=flavor, data=data)

    def open(self) -> tensorrt.TensorRTModel:
        return tensorrt.open_with("tensorrt", lambda: self.gpu, self.file, CHOICE)


def slices(count: int, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    return random.uniform(-300, 300, (count, 1, SIDE, SIDE)).astype(np.float32)


def check(model: tensorrt.TensorRTModel, hu: Any) -> None:
    result = model.infer(hu)
    quality, dose = tiny.expected(hu)
    np.testing.assert_allclose(result.quality_map, quality, atol=1e-6)
    np.testing.assert_allclose(result.dose_probabilities, dose, atol=1e-6)


@pytest.mark.parametrize("rtx", [True, False])
@pytest.mark.parametrize("integrated", [True, False])
@pytest.mark.parametrize("graphs", [True, False])
def test_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rtx: bool, integrated: bool, graphs: bool
) -> None:
    bench = Bench(tmp_path, monkeypatch, rtx=rtx, integrated=integrated, graphs=graphs)
    with bench.open() as model:
        for seed in range(3):  # the buffers are used again
            check(model, slices(1, seed))
        assert model.describe()["cuda_graph"] == ("yes" if graphs else "no: fake 1.0 has none")
        assert model.describe()["mapped_memory"] == integrated
    assert bench.gpu.closed


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_any_number_of_slices_on_an_engine_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    bench = Bench(tmp_path, monkeypatch, batch=2)
    with bench.open() as model:
        before = bench.gpu.launches
        check(model, slices(count))
        assert bench.gpu.launches - before == (count + 1) // 2


def test_a_model_without_a_dose_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    have = {name: shape for name, shape in shapes(1).items() if name != "dose_probabilities"}
    bench.engine.shapes, bench.engine.num_io_tensors = have, 2
    bench.file = write_engine(tmp_path, spec=tiny.MAP_ONLY, shapes=have)
    with bench.open() as model:
        result = model.infer(slices(2))
    np.testing.assert_allclose(result.quality_map, tiny.expected(slices(2))[0], atol=1e-6)
    assert result.dose_probabilities is None


def test_one_launch_a_slice_and_no_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    with bench.open() as model:
        launches, allocated = bench.gpu.launches, bench.gpu.allocated
        for seed in range(5):
            check(model, slices(1, seed))
        assert bench.gpu.launches - launches == 5
        assert bench.gpu.allocated == allocated == 3


def test_the_stages_are_timed_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The fake takes 1 ms to copy in, 2 to compute, 0.5 for each of the two outputs.
    with Bench(tmp_path, monkeypatch).open() as model:
        timing = model.infer(slices(3)).timing
        assert (timing.h2d, timing.compute, timing.d2h) == (3.0, 6.0, 3.0)
        assert timing.total > 0


def test_shared_memory_has_nothing_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(tmp_path, monkeypatch, integrated=True).open() as model:
        timing = model.infer(slices(1)).timing
        assert (timing.h2d, timing.compute, timing.d2h) == (None, 2.0, None)


def test_an_engine_that_cannot_be_captured_runs_without_a_graph_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(tmp_path, monkeypatch, capturable=False).open() as model:
        assert "CAPTURE_INVALIDATED" in model.describe()["cuda_graph"]
        check(model, slices(1))


def test_results_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(tmp_path, monkeypatch).open() as model:
        first = model.infer(slices(1, 0)).quality_map
        kept = first.copy()
        model.infer(slices(1, 1))
        np.testing.assert_array_equal(first, kept)


def test_each_thread_has_a_context_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    with bench.open() as model:
        threads = [threading.Thread(target=check, args=(model, slices(1, seed))) for seed in range(4)]
        for thread in threads:  # one after the other: the fake's capture is not thread-safe
            thread.start()
            thread.join()
        assert bench.engine.contexts == 5  # four, and the one that opened it
        assert bench.gpu.allocated == 15
    assert bench.gpu.memory == {}


def test_two_engines_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = Bench(tmp_path / "a", monkeypatch).open()
    two = Bench(tmp_path / "b", monkeypatch, batch=2).open()
    check(one, slices(1))
    check(two, slices(2))
    one.close()
    check(two, slices(2, 1))
    two.close()


def test_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Bench(tmp_path, monkeypatch).open()
    model.close()
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model.infer(slices(1))


# --- the runtime cache of TensorRT for RTX


def test_compiled_kernels_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    bench.open().close()
    assert bench.engine.loaded == []  # type: ignore[attr-defined]
    (file,) = cache_folder.iterdir()
    assert file.read_bytes() == b"compiled kernels"
    assert "NVIDIA-Fake-3060" in file.name
    again = Bench(tmp_path, monkeypatch)
    with again.open() as model:
        assert again.engine.loaded == [b"compiled kernels"]  # type: ignore[attr-defined]
        assert model.describe()["runtime_cache"] == str(file)


def test_a_cache_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    cache_folder.parent.write_text("in the way")
    with Bench(tmp_path, monkeypatch).open() as model:
        check(model, slices(1))


def test_tensorrt_has_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    with Bench(tmp_path, monkeypatch, rtx=False).open() as model:
        assert model.describe()["runtime_cache"].startswith("none")
    assert not cache_folder.exists()


# --- refusals


def test_another_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch, capability="8.9")
    with pytest.raises(
        ModelError, match=r"capability 8\.6, this GPU \(NVIDIA Fake 3060\) has 8\.9"
    ) as failure:
        bench.open()
    assert "n2q-edge build tiny.onnx --flavor tensorrt-rtx -o " in str(failure.value)
    assert bench.gpu.closed


def test_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    library = fake_gpu.library(bench.engine, version="1.8.0.1")
    monkeypatch.setattr(tensorrt_library, "load", lambda flavor: library)
    with pytest.raises(ModelError, match=r"1\.7\.1\.116, installed is 1\.8\.0\.1.*n2q-edge build tiny\.onnx"):
        bench.open()


def test_an_engine_the_library_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    library = fake_gpu.library(None)
    monkeypatch.setattr(tensorrt_library, "load", lambda flavor: library)
    with pytest.raises(
        ModelError, match=r"cannot load it \(Serialization assertion failed\): build it again"
    ):
        bench.open()
    assert bench.gpu.closed


def test_an_engine_with_other_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    bench.engine.shapes = shapes(2)
    with pytest.raises(ModelError, match="its tensors are"):
        bench.open()


def test_an_engine_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    bench.engine.answers = False
    with pytest.raises(ModelError, match="TensorRT failed"):
        bench.open()


def test_slices_of_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(tmp_path, monkeypatch).open() as model:
        with pytest.raises(ModelError, match=r"takes slices of 64x64, got 32x48: .*--size 32x48"):
            model.infer(np.zeros((1, 1, 32, 48), np.float32))
        with pytest.raises(ModelError, match="clip"):
            model.infer(np.full((1, 1, SIDE, SIDE), 5000, np.float32))


# --- the real libraries, as far as they go without a GPU


def test_cuda_bindings_have_every_name_that_is_used() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings (extra rtx)")
    source = Path(cuda.__file__).read_text()
    import re

    names = set(re.findall(r'_call\(\s*"(cu\w+)"', source)) | {"cuStreamEndCapture"}
    assert len(names) > 20
    assert [name for name in sorted(names) if not hasattr(driver, name)] == []
    for enum, member in re.findall(r"_api\.(CU\w+)\.(CU_\w+)", source):
        assert hasattr(getattr(driver, enum), member), member
    for member in ("COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "INTEGRATED"):
        assert hasattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{member}")
    assert int(driver.CU_MEMHOSTALLOC_DEVICEMAP) == 2  # cuda.h


@pytest.mark.parametrize("access", [cuda, cuda_pycuda])
def test_without_a_driver_it_says_so(access: Any) -> None:
    if not access.is_available():
        pytest.skip("not installed")
    if any(Path("/dev").glob("nvidia*")) or Path("/etc/nv_tegra_release").exists():
        pytest.skip("there is a GPU here")
    with pytest.raises(ModelError, match="no NVIDIA GPU can be used here"):
        access.open()


# --- versions in engine headers


@pytest.mark.parametrize(
    ("numbers", "version", "same"),
    [
        ((10, 3, 0, 26), "10.3.0", True),  # JetPack 6: the module says less than the header
        ((10, 3, 0, 26), "10.3.0.26", True),
        ((10, 13, 3, 9), "10.13.3.9.post1", True),  # a repackaged wheel
        ((10, 13, 3, 9), "10.13.2.6", False),
        ((1, 7, 1, 116), "1.7.1.116", True),
        ((1, 7, 1, 116), "1.6.1.120", False),
        ((11, 0, 0, 44), "11.0.0.300", True),  # 300 = 256 + 44: a byte holds no more
    ],
)
def test_versions(numbers: tuple[int, int, int, int], version: str, same: bool) -> None:
    header = read_header(plan(numbers))
    assert header
    assert same_version(header, version) == same


@pytest.mark.parametrize("magic", [b"vtrt", b"ftrt"])  # of TensorRT for RTX 1.7; of tensorrt 10
def test_what_a_header_tells(magic: bytes) -> None:
    assert str(read_header(plan((10, 13, 3, 9), magic))) == "tensorrt 10.13.3.9"
    assert str(read_header(plan((8, 6, 1, 6), magic))) == "tensorrt 8.6.1.6"
    assert str(read_header(plan((1, 7, 1, 116), magic))) == "tensorrt-rtx 1.7.1.116"


# What no header can be read from: another magic, no length where it should be, less than a header.
UNKNOWN = {
    "magic": plan((0, 0, 0, 0), b"qtrt"),
    "layout": plan((0, 0, 0, 0), b"ftrt", length=7),
    "short": b"ftrt" + bytes(20),
}


@pytest.mark.parametrize("data", UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize("rtx", [True, False])
def test_a_header_nobody_knows_is_left_to_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, rtx: bool
) -> None:
    assert read_header(data) is None
    bench = Bench(tmp_path, monkeypatch, rtx=rtx, data=data)
    with bench.open() as model:
        check(model, slices(1))
    found = explain(bench.file.path)
    assert found["problems"] == []
    assert found["header"] == "of an unknown layout"


@pytest.mark.parametrize("raises", [True, False])
def test_and_the_library_may_refuse_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raises: bool) -> None:
    bench = Bench(tmp_path, monkeypatch, rtx=False, data=UNKNOWN["magic"])
    library = fake_gpu.library(None, version="10.3.0.26")
    if raises:

        def broken(runtime: Any, data: bytes) -> None:
            raise RuntimeError("Serialization assertion failed")

        monkeypatch.setattr(library.Runtime, "deserialize_cuda_engine", broken)
    monkeypatch.setattr(tensorrt_library, "load", lambda flavor: library)
    with pytest.raises(
        ModelError,
        match=r"tensorrt cannot load it \(Serialization assertion failed\): build it again: n2q-edge build "
        r"tiny\.onnx --flavor tensorrt --size 64x64 -o ",
    ):
        bench.open()
    assert bench.gpu.closed


@pytest.mark.parametrize("magic", [b"vtrt", b"ftrt"])
@pytest.mark.parametrize("version", [(10, 13, 3, 9), (8, 6, 1, 6), (1, 7, 1, 116), (12, 0, 0, 0)])
def test_a_header_of_another_version_is_refused_without_a_gpu(
    tmp_path: Path, version: tuple[int, ...], magic: bytes
) -> None:
    file = write_engine(tmp_path, flavor="tensorrt", data=plan(version, magic))  # its sidecar says 10.3.0.26
    numbers = r"\.".join(map(str, version))
    with pytest.raises(
        ModelError,
        match=rf"written by tensorrt\S* {numbers}, its sidecar says tensorrt 10\.3\.0\.26: build it again: "
        r"n2q-edge build tiny\.onnx --flavor tensorrt --size 64x64 -o ",
    ):
        tensorrt.check_engine(file)


@pytest.mark.parametrize("data", [*UNKNOWN.values(), b"junk"])
def test_without_a_sidecar_a_header_nobody_knows_is_no_engine(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lonely.engine"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="no TensorRT engine"):
        tensorrt.check_engine(read_model_file(path))
