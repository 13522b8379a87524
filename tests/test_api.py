"""What a notebook can rely on."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import n2q_edge
from n2q_edge import api
from n2q_edge.arrays import FloatArray
from n2q_edge.errors import MissingDependencyError, ModelError, UsageError
from n2q_edge.report.document import build
from n2q_edge.runtimes.base import Inference
from n2q_edge.spec import ModelSpec
from tests.helpers.fakes import SPACING_MM, TISSUE_HU, FakeRuntime, phantom, write_series

CtSeries = Callable[..., Path]
SPACING = (SPACING_MM, SPACING_MM)


def by_brightness(hu: FloatArray) -> FloatArray:
    """Quality in tissue = HU / 100."""
    return np.clip(hu / 100, 0, 1)


@pytest.fixture
def model() -> api.Model:
    return n2q_edge.Model(FakeRuntime(by_brightness))


def noisy(seed: int) -> FloatArray:
    noise = np.random.default_rng(seed).normal(0, 20, (256, 256))
    return np.clip(np.rint(phantom(256, 60) + noise), -1024, 3071).astype(np.float32)


def test_the_names_of_the_package() -> None:
    """What is here is kept; a name more or less is a decision."""
    assert sorted(n2q_edge.__all__) == [
        "Assessment",
        "Model",
        "N2QError",
        "__version__",
        "assess",
        "export",
        "load",
        "scan",
    ]
    assert all(getattr(n2q_edge, name) is not None for name in n2q_edge.__all__)
    assert set(n2q_edge.__all__) <= set(dir(n2q_edge))
    with pytest.raises(AttributeError, match="no attribute 'asess'"):
        n2q_edge.asess  # noqa: B018


def test_importing_the_package_loads_nothing_of_weight() -> None:
    probe = "import sys, n2q_edge; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    heavy = {"numpy", "scipy", "pydicom", "torch", "onnxruntime", "openvino", "matplotlib", "rich", "typer"}
    assert not heavy & set(done.stdout.split())


def test_the_example_of_the_documentation() -> None:
    pytest.importorskip("onnxruntime")
    tried = doctest.testmod(api)
    assert tried.attempted > 5
    assert tried.failed == 0


def test_the_host_process_is_left_as_it_is(model: api.Model, ct_series: CtSeries) -> None:
    """No allocator settings, no signal handlers, no log level, no warning filters."""
    probe = """
import ctypes, logging, signal, sys, warnings
from pathlib import Path
called = []
real = ctypes.CDLL
class Spy:
    def __init__(self, library): self.library = library
    def __getattr__(self, name):
        if name.startswith("mall"): called.append(name)
        return getattr(self.library, name)
ctypes.CDLL = lambda *args, **options: Spy(real(*args, **options))
def state():
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    return handlers, logging.getLogger().level, list(warnings.filters)
import numpy, scipy.ndimage, pydicom  # they have filters of their own
before = state()
import n2q_edge
from tests.helpers.fakes import FakeRuntime, phantom
model = n2q_edge.Model(FakeRuntime())
model.assess(phantom())
n2q_edge.assess(sys.argv[1], model=model).finish()
assert state() == before
assert called == [], called
"""
    done = subprocess.run(
        [sys.executable, "-c", probe, str(ct_series())], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr


class TestArrays:
    def test_a_slice(self, model: api.Model) -> None:
        hu = phantom(96, 30)
        result = model.assess(hu, spacing_mm=SPACING)
        assert result.quality == pytest.approx(0.3)
        assert result.quality_map.shape == (96, 96)
        assert result.quality_map == pytest.approx(np.clip(hu / 100, 0, 1))
        assert (result.body == (hu > -1000)).mean() > 0.99
        assert result.dose == 25
        assert result.dose_probabilities == pytest.approx((0.0, 0.1, 0.6, 0.2, 0.1))
        assert result.noise_map is None
        assert result.flags == ()

    def test_a_slice_is_what_its_file_is(self, model: api.Model, tmp_path: Path) -> None:
        images = [noisy(seed) for seed in range(3)]
        write_series(tmp_path, images)
        volume = model.assess(np.stack(images), spacing_mm=SPACING)
        (report,) = n2q_edge.assess(tmp_path, model=model).series
        assert len(volume) == len(report.slices) == 3
        for result, of_file in zip(volume, report.slices, strict=True):
            assert of_file.quality
            assert result.quality == of_file.quality.mean
            assert result.noise_hu == of_file.noise_hu
            assert result.scores
            assert result.scores.p05 == of_file.quality.p05

    def test_a_stack_has_its_numbers_as_arrays(self, model: api.Model) -> None:
        air = np.full((96, 96), -1000.0)
        volume = model.assess(np.stack([phantom(96, 10), air, phantom(96, 30)]), spacing_mm=SPACING)
        assert volume.quality == pytest.approx([0.1, np.nan, 0.3], nan_ok=True)
        assert volume.dose == pytest.approx([25, np.nan, 25], nan_ok=True)
        assert volume.quality_map.shape == (3, 96, 96)
        assert volume.noise_map is None
        assert volume.flags == ((), ("no_body",), ())
        assert volume[-1].quality == pytest.approx(0.3)

    def test_of_any_size_and_signed_type(self, model: api.Model) -> None:
        """A fake that takes multiples of 16 sees 112 x 96; 5000 HU are clipped, lists are arrays."""
        hu = np.full((97, 90), 40, dtype=np.int16)
        hu[0, 0] = 5000
        assert model.assess(hu).quality_map.shape == (97, 90)
        assert model.assess(hu.tolist()).quality_map[0, 0] == 1
        assert hu[0, 0] == 5000

    def test_without_a_spacing_there_is_no_noise(self, model: api.Model) -> None:
        assert model.assess(noisy(0)).noise_hu is None
        assert model.assess(noisy(0), SPACING).noise_hu == pytest.approx(20, rel=0.1)

    @pytest.mark.parametrize(
        ("hu", "message"),
        [
            (np.full((8, 8), np.nan), "NaN or infinity"),
            (np.full((8, 8), np.inf), "NaN or infinity"),
            (np.zeros(8), r"shape \[8\]"),
            (np.zeros((1, 2, 8, 8)), r"shape \[1, 2, 8, 8\]"),
            (np.zeros((0, 8)), r"shape \[0, 8\]"),
            (np.zeros((8, 8), np.uint16), "HU have a sign"),
            (np.zeros((8, 8), bool), "is bool"),
            (np.zeros((8, 8), complex), "is complex128"),
            ([["a"]], "is <U1"),
            ([[1, 2], [3]], "differ in length"),
        ],
    )
    def test_what_cannot_be_hu(self, model: api.Model, hu: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            model.assess(hu)

    @pytest.mark.parametrize("spacing", [(0, 1), (1, -1), (np.nan, 1), (1,), 0.7, ("a", "b"), (1, np.inf)])
    def test_what_cannot_be_a_spacing(self, model: api.Model, spacing: Any) -> None:
        with pytest.raises(UsageError, match="spacing_mm"):
            model.assess(phantom(), spacing)

    def test_noise_is_compared_whatever_the_model_takes(self, model: api.Model) -> None:
        """Twice the noise of the reference is a quarter of its dose; the model is not told."""
        noisy = phantom(160) + np.random.default_rng(0).normal(0, 20, (160, 160))
        plain = model.assess(noisy, (0.7, 0.7))
        compared = model.assess(noisy, (0.7, 0.7), reference_noise_hu=plain.noise_hu / 2)
        assert compared.comparison.ratio == pytest.approx(2)
        assert compared.comparison.equivalent_dose == pytest.approx(0.25)
        assert compared.quality == plain.quality
        assert plain.comparison is None

    def test_a_model_that_fails(self) -> None:
        bad = n2q_edge.Model(FakeRuntime(lambda hu: np.full_like(hu, np.nan)))
        with pytest.raises(ModelError, match="NaN or infinity in the model's output"):
            bad.assess(phantom())


class TestReference:
    class Knowing(FakeRuntime):
        """A model that takes the noise of the full-dose twin; its quality is that noise over 100."""

        def __init__(self) -> None:
            super().__init__()
            self._spec = ModelSpec("knowing", "1", {"class": "Fake"}, inputs=("hu", "reference_noise_hu"))

        def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
            value = 0 if reference_noise_hu is None else float(reference_noise_hu[0]) / 100
            self._quality = lambda hu: np.full_like(hu, value)
            return super().infer(hu)

    def test_one_for_all_or_one_for_each(self) -> None:
        model = n2q_edge.Model(self.Knowing())
        assert model.assess(phantom(), reference_noise_hu=12.5).quality == pytest.approx(0.125)
        assert model.assess(phantom()).quality == 0
        stack = np.stack([phantom()] * 2)
        assert model.assess(stack, reference_noise_hu=20).quality == pytest.approx([0.2, 0.2])
        assert model.assess(stack, reference_noise_hu=[20, 0]).quality == pytest.approx([0.2, 0])

    @pytest.mark.parametrize("value", [-1, np.nan, np.inf, 2000, [1, 2, 3], "loud"])
    def test_what_cannot_be_one(self, value: Any) -> None:
        with pytest.raises(UsageError, match="reference_noise_hu"):
            n2q_edge.Model(self.Knowing()).assess(np.stack([phantom()] * 2), reference_noise_hu=value)


class TestSeries:
    def test_slices_come_as_they_are_done(self, model: api.Model, tmp_path: Path) -> None:
        write_series(tmp_path, [phantom(96, hu) for hu in (10, 20, 30)])
        run = n2q_edge.assess(str(tmp_path), model=model)
        assert model.runtime.calls == []  # type: ignore[attr-defined]
        first = next(iter(run))
        assert (first.number, first.images is not None) == (1, True)
        assert not run.complete
        assert [result.number for result in run] == [2, 3]
        assert run.complete
        assert [result.number for result in run.series[0].slices] == [1, 2, 3]

    def test_one_that_ends_early_keeps_what_is_done(self, model: api.Model, tmp_path: Path) -> None:
        write_series(tmp_path, [phantom(96, hu) for hu in (10, 20, 30)])
        run = n2q_edge.assess(tmp_path, model=model)
        next(iter(run))
        run.close()
        assert not run.complete
        document = run.to_dict()
        assert document["complete"] is False
        assert document["series"][0]["summary"]["slices"] == 1

    def test_outcomes_name_what_was_rejected(self, tmp_path: Path) -> None:
        write_series(tmp_path, [phantom(96, 10), phantom(96, 50)])
        failing = n2q_edge.Model(FakeRuntime(fails_on=lambda hu: bool(hu.max() < 20)))
        kinds = [type(one).__name__ for one in n2q_edge.assess(tmp_path, model=failing).outcomes()]
        assert kinds == ["ModelRejected", "SliceResult"]
        (rejected,) = n2q_edge.assess(tmp_path, model=failing).rejected
        assert rejected.reason.value == "model_failed"

    def test_as_a_document_a_table_and_a_folder(self, model: api.Model, tmp_path: Path) -> None:
        pandas = pytest.importorskip("pandas")
        write_series(tmp_path / "in", [phantom(96, 10), np.full((96, 96), -1000, np.float32)])
        run = n2q_edge.assess(tmp_path / "in", model=model)
        document = run.to_dict()
        assert document == build(run.found)
        frame = run.to_dataframe()
        assert list(frame["quality_mean"]) == pytest.approx([0.1, np.nan], nan_ok=True)
        assert list(frame["flags"]) == ["", "no_body"]
        assert frame["sop_instance_uid"].map(type).eq(str).all()
        assert isinstance(frame, pandas.DataFrame)
        pictures = run.write(tmp_path / "new" / "out")
        assert pictures
        assert all(path.is_file() for path in pictures)
        assert json.loads((tmp_path / "new" / "out" / "report.json").read_text()) == document

    def test_without_pandas_the_message_names_the_extra(
        self, model: api.Model, ct_series: CtSeries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingDependencyError, match=r"\[pandas\]"):
            n2q_edge.assess(ct_series(), model=model).to_dataframe()

    def test_what_was_scanned_before(self, model: api.Model, ct_series: CtSeries) -> None:
        folders = [ct_series(number=1), str(ct_series(number=2))]
        seen: list[int] = []
        inventory = n2q_edge.scan(folders, on_file=seen.append)
        assert len(inventory.series) == 2
        assert seen == list(range(1, inventory.files_seen + 1))
        assert len(n2q_edge.assess(inventory, model=model).series) == 2

    def test_the_policy_may_be_a_file(self, model: api.Model, tmp_path: Path) -> None:
        write_series(tmp_path / "in", [phantom(96, TISSUE_HU)])
        rules = tmp_path / "policy.toml"
        rules.write_text(
            'schema_version = 1\nname = "x"\n[[rule]]\nname = "all"\nout_of_scope = "not ours"\n'
        )
        (report,) = n2q_edge.assess(tmp_path / "in", model=model, policy=rules).series
        assert report.summary.verdict.reasons == ("not ours",)

    def test_errors_have_one_base(self, model: api.Model, tmp_path: Path) -> None:
        with pytest.raises(n2q_edge.N2QError, match="nowhere"):
            n2q_edge.assess(tmp_path / "nowhere", model=model)
        with pytest.raises(n2q_edge.N2QError, match="batch is 0"):
            n2q_edge.assess(tmp_path, model=model, batch=0)
        with pytest.raises(n2q_edge.N2QError, match="no runtime 'fast'"):
            n2q_edge.load(runtime="fast")


def test_a_model_says_what_it_is(model: api.Model) -> None:
    assert repr(model) == "<Model fake 1 in fake on cpu>"
    with model:
        pass
    assert model.runtime.closed  # type: ignore[attr-defined]
