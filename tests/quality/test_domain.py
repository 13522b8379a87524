"""Features from slices whose truth is known by construction, and what limits make of them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import NO_BODY
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import LoadedSlice, SliceReader, scan
from n2q_edge.quality import domain
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.domain import OUT_OF_DOMAIN, Deviation, deviations, measure, series_text
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.spec import FeatureLimits
from tests.helpers.fakes import FakeRuntime, disk, phantom, write_series
from tests.helpers.paths import ROOT

CtSeries = Callable[..., Path]
SPACING = (0.8, 0.8)
SHARP = {"noise_correlation": FeatureLimits((0.2, 0.6), (0.15, 0.65))}
THIN = {"slice_mm": FeatureLimits((1.0, 3.0), (0.9, 3.3))}  # what `fakes.write_slice` writes is 5 mm


def features(hu: FloatArray, spacing: tuple[float, float] | None = SPACING) -> dict[str, float]:
    body = body_mask(hu, spacing)
    return measure(hu, body, spacing, 5.0, global_noise_level(hu, body, spacing))


def noisy(hu: FloatArray, blur: float, sd: float = 20.0, seed: int = 0) -> FloatArray:
    """A slice with Gaussian noise of a grain of `blur` pixels (0: white) and a deviation of `sd` HU."""
    noise = np.random.default_rng(seed).standard_normal(hu.shape)
    noise = ndimage.gaussian_filter(noise, blur) if blur else noise
    return (hu + noise * (sd / noise.std())).astype(np.float32)


def correlation_by_loops(hu: FloatArray, row: int, column: int) -> tuple[float, float]:
    """Neighbour products and squares of one 8x8 tile less its least-squares plane, by another way."""
    tile = hu[row : row + 8, column : column + 8].astype(float)
    y, x = np.mgrid[:8, :8]
    design = np.stack([np.ones(64), y.ravel(), x.ravel()], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, tile.ravel(), rcond=None)
    rest = tile - (design @ coefficients).reshape(8, 8)
    products = sum(rest[i, j] * rest[i + 1, j] for i in range(7) for j in range(8))
    products += sum(rest[i, j] * rest[i, j + 1] for i in range(8) for j in range(7))
    return products / 112, float((rest**2).sum()) / 64  # 56 pairs each way, 64 pixels


# -------------------------------------------------------------------------------------------------- features


def test_a_round_body_of_known_size() -> None:
    found = features(phantom(256, 40))  # a disk of 0.6 x 256 pixels of 0.8 mm
    assert found["diameter_mm"] == pytest.approx(0.6 * 256 * 0.8, rel=0.01)
    assert found["width_to_depth"] == pytest.approx(1.0)
    assert (found["pixel_mm"], found["slice_mm"]) == (pytest.approx(0.8), 5.0)


def test_width_and_depth_are_in_millimetres() -> None:
    found = features(phantom(256, 40), (0.8, 1.6))
    assert found["width_to_depth"] == pytest.approx(2.0)
    assert found["pixel_mm"] == pytest.approx((0.8 * 1.6) ** 0.5)


def test_tissue_shares_are_shares_of_the_body() -> None:
    hu = phantom(256, 40)
    hu[96:128, 96:160] = -100  # on the grid of blocks: 2048 pixels of fat
    hu[128:144, 96:128] = 700  # 512 of bone
    hu[128:144, 128:144] = 3000  # 256 of metal, which is bone, too
    hu[144:160, 96:160] = -850  # 1024 of lung
    found = features(hu)
    body = np.count_nonzero(disk(256, 0.3 * 256))
    for name, pixels in (("fat", 2048), ("dense_bone", 512 + 256), ("metal", 256), ("lung", 1024)):
        assert found[name] == pytest.approx(pixels / body, rel=0.08), name  # blocks on the rim do not count
    assert found["soft_tissue"] == pytest.approx(1 - (2048 + 512 + 256 + 1024) / body, rel=0.08)


@pytest.mark.parametrize("blur", [0.0, 0.6, 0.8])
def test_noise_correlation_of_known_noise(blur: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tiles of noise whose covariance is known: tr(N P C P) over tr(P C P), with the plane projected out.

    C is the covariance of white noise smoothed by `blur`, P takes out the plane, N sums over neighbours.
    """
    monkeypatch.setattr(domain, "FLAT_SHARE", 0.999)
    impulse = np.zeros((33, 33))
    impulse[16, 16] = 1.0
    kernel = ndimage.gaussian_filter(impulse, blur) if blur else impulse
    autocorrelation = ndimage.correlate(kernel, kernel, mode="constant")
    y, x = (axis.ravel() for axis in np.mgrid[:8, :8])
    covariance = autocorrelation[16 + y[:, None] - y, 16 + x[:, None] - x]
    plane, _ = np.linalg.qr(np.stack([np.ones(64), y, x], axis=1))
    rest = np.eye(64) - plane @ plane.T
    neighbours = (abs(y[:, None] - y) + abs(x[:, None] - x)) == 1  # each of the 112 pairs twice
    left = rest @ covariance @ rest
    expected = (neighbours * left).sum() / 224 / (np.trace(left) / 64)
    hu = noisy(np.full((512, 512), 40, np.float32), blur)
    found = measure(hu, np.ones(hu.shape, bool), SPACING, None, None)["noise_correlation"]
    assert found == pytest.approx(expected, abs=0.02)


def test_sharper_noise_correlates_less() -> None:
    found = [features(noisy(phantom(512, 40), blur))["noise_correlation"] for blur in (0.0, 0.5, 0.7, 1.0)]
    assert found == sorted(found)
    assert found[0] < 0.0 < 0.5 < found[-1]


def test_noise_correlation_does_not_depend_on_the_noise_level_or_on_edges() -> None:
    hu = phantom(512, 40)
    hu[disk(512, 60)] = -100
    levels = [features(noisy(hu, 0.7, sd))["noise_correlation"] for sd in (5.0, 20.0, 80.0)]
    assert max(levels) - min(levels) < 0.03
    assert levels[0] == pytest.approx(features(noisy(phantom(512, 40), 0.7))["noise_correlation"], abs=0.03)


def test_noise_correlation_is_that_of_its_tiles() -> None:
    """Against a least-squares fit and loops, on a body whose tiles are all flat: the quietest quarter."""
    hu = noisy(np.full((64, 64), 40, np.float32), 0.7)
    found = measure(hu, np.ones(hu.shape, bool), SPACING, None, None)["noise_correlation"]
    tiles = [correlation_by_loops(hu, row, column) for row in range(0, 64, 8) for column in range(0, 64, 8)]
    limit = sorted(power for _, power in tiles)[16]  # a quarter of 64 tiles, and the next
    kept = [(product, power) for product, power in tiles if power <= limit]
    expected = sum(product for product, _ in kept) / sum(power for _, power in kept)
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_cannot_be_measured_is_absent() -> None:
    assert features(np.full((96, 96), -1000, np.float32)) == {}
    without_spacing = features(phantom(256, 40), None)
    assert not {"pixel_mm", "diameter_mm", "noise_hu"} & set(without_spacing)
    assert "noise_correlation" not in without_spacing  # no noise, no texture
    hu = phantom(256, 40)
    body = body_mask(hu, SPACING)
    assert "slice_mm" not in measure(hu, body, SPACING, None, None)


@pytest.mark.parametrize("shape", [(5, 5), (8, 8), (37, 50), (513, 511)])
def test_any_size_of_image(shape: tuple[int, int]) -> None:
    found = measure(np.full(shape, 40, np.float32), np.ones(shape, bool), SPACING, 1.0, 3.0)
    assert found["width_to_depth"] == pytest.approx(shape[1] / shape[0])
    assert found.get("soft_tissue", 1.0) == 1.0


# ---------------------------------------------------------------------------------------------------- reasons


def test_reasons_say_what_was_measured_and_what_was_learned() -> None:
    domain = {**SHARP, **THIN, "fat": FeatureLimits((0.09, 0.5), (0.03, 0.55))}
    found = deviations({"noise_correlation": 0.05, "slice_mm": 10.0, "fat": 0.004}, domain)
    assert [each.text for each in found] == [
        "sharp kernel: noise correlation 0.05, training 0.2 to 0.6",
        "little fat: fat 0 %, training 9 to 50 %",
        "thick slice: slice thickness 10 mm, training 1 to 3 mm",
    ]


def test_zero_has_no_sign() -> None:
    (found,) = deviations({"noise_correlation": -0.003}, SHARP)
    assert found.text == "sharp kernel: noise correlation 0, training 0.2 to 0.6"


def test_only_what_is_beyond_the_margin_is_a_reason() -> None:
    assert deviations({"noise_correlation": 0.15}, SHARP) == ()
    assert deviations({"noise_correlation": 0.65}, SHARP) == ()
    assert [each.code for each in deviations({"noise_correlation": 0.66}, SHARP)] == ["smooth_kernel"]


def test_little_of_some_things_is_never_strange() -> None:
    assert deviations({"lung": 0.0}, {"lung": FeatureLimits((0.2, 0.4), (0.15, 0.45))}) == ()


def test_features_that_only_one_side_knows_are_left_out() -> None:
    assert deviations({"fat": 0.9}, SHARP) == ()
    assert deviations({}, {**SHARP, "of the future": FeatureLimits((0, 1), (0, 1))}) == ()


def test_a_series_in_one_sentence() -> None:
    low = Deviation("sharp_kernel", "noise_correlation", 0.07, (0.2, 0.6))
    high = Deviation("sharp_kernel", "noise_correlation", 0.12, (0.2, 0.6))
    thick = Deviation("thick_slice", "slice_mm", 10.0, (1.0, 3.0))
    assert series_text([(), None]) is None
    assert series_text([(), (low,)]) == (
        "1 of 2 slices is out of domain: sharp kernel (noise correlation 0.07, training 0.2 to 0.6)"
    )
    assert series_text([(), (thick,), (low, thick), (high, thick)]) == (
        "3 of 4 slices are out of domain: "
        "thick slice in 3 (slice thickness 10 mm, training 1 to 3 mm), "
        "sharp kernel in 2 (noise correlation 0.07 to 0.12, training 0.2 to 0.6)"
    )


def test_a_sentence_names_three_reasons_and_counts_the_others() -> None:
    found = tuple(Deviation(feature.high, name, 9.0, (1.0, 2.0)) for name, feature in domain.FEATURES.items())
    text = series_text([found])
    assert text is not None
    assert text.endswith(f"and {len(found) - 3} more")


def test_the_page_lists_every_code() -> None:
    page = (ROOT / "docs" / "explanation" / "out-of-domain.md").read_text()
    for name, feature in domain.FEATURES.items():
        assert f"`{name}`" in page
        for code in (feature.low, feature.high):
            assert code is None or f"`{code}`" in page


# ---------------------------------------------------------------------------------------------------- assess


def test_a_strange_slice_is_flagged_and_keeps_its_numbers(tmp_path: Path) -> None:
    body = phantom(256, 40)
    write_series(tmp_path, [noisy(body, 0.0), noisy(body, 0.7)])
    (report,) = assess(scan([tmp_path]), FakeRuntime(domain=SHARP)).series
    sharp, smooth = report.slices
    assert OUT_OF_DOMAIN in sharp.flags
    assert sharp.out_of_domain is not None
    assert [each.code for each in sharp.out_of_domain] == ["sharp_kernel"]
    assert sharp.quality is not None
    assert smooth.flags == ()
    assert smooth.out_of_domain == ()


def test_a_model_without_a_domain_cannot_tell(ct_series: CtSeries) -> None:
    (report,) = assess(scan([ct_series()]), FakeRuntime()).series
    assert {result.out_of_domain for result in report.slices} == {None}
    assert OUT_OF_DOMAIN not in report.slices[0].flags


def test_the_thickness_of_the_header_counts(ct_series: CtSeries) -> None:
    (report,) = assess(scan([ct_series(slices=1)]), FakeRuntime(domain=THIN)).series
    assert report.slices[0].out_of_domain == (Deviation("thick_slice", "slice_mm", 5.0, (1.0, 3.0)),)


def test_air_is_no_body_and_nothing_else(tmp_path: Path) -> None:
    write_series(tmp_path, [np.full((96, 96), -1000, np.float32)])
    (report,) = assess(scan([tmp_path]), FakeRuntime(domain=THIN)).series
    assert report.slices[0].flags == (NO_BODY,)
    assert report.slices[0].out_of_domain == ()


# ---------------------------------------------------------------------------------------------- real slices


def measured(path: Path) -> list[dict[str, float]]:
    with SliceReader() as reader:
        loaded = [reader.load(ref) for ref in scan([path]).slices()]
    return [
        measure(
            one.hu,
            body := body_mask(one.hu, one.pixel_spacing_mm),
            one.pixel_spacing_mm,
            one.ref.slice_thickness_mm,
            global_noise_level(one.hu, body, one.pixel_spacing_mm),
        )
        for one in loaded
        if isinstance(one, LoadedSlice)
    ]


def test_a_lung_kernel_is_sharper_than_a_standard_one(shared_dir: Path) -> None:
    with (shared_dir / "ct" / "index.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    kernels = {}
    for kernel in ("LUNG", "STANDARD"):
        paths = [row["path"] for row in rows if row["kernel"] == kernel][::8]
        kernels[kernel] = [measured(shared_dir / "ct" / path)[0]["noise_correlation"] for path in paths]
    assert max(kernels["LUNG"]) < min(kernels["STANDARD"])


def test_heads_are_small_narrow_and_bony(shared_dir: Path) -> None:
    heads = measured(shared_dir / "zoo" / "dcm_qa_ct")
    heads = [found for found in heads if found.get("diameter_mm", 0) > 150]
    assert len(heads) > 5
    for found in heads:
        assert found["width_to_depth"] < 1.05
        assert found["diameter_mm"] < 195
        assert found["dense_bone"] > 0.045
