"""Stored values to HU: every rule of the standard, expected values by arithmetic."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from n2q_edge.dicom import LoadedSlice, Reason
from tests.helpers.dicom_files import (
    compress,
    ct_dataset,
    dataset_bytes,
    gdcm_transcoded,
    jpeg2000,
    load_one,
    rejection,
    save,
    stored_values,
)


def hu_of(tmp_path: Path, **changes: Any) -> Any:
    return load_one(save(ct_dataset(**changes), tmp_path / "x.dcm")).hu


def test_slope_and_intercept(tmp_path: Path) -> None:
    values = stored_values()
    hu = hu_of(tmp_path, values=values, RescaleSlope="0.5", RescaleIntercept="-500")
    assert hu.dtype == np.float32
    np.testing.assert_array_equal(hu, values * 0.5 - 500)


def test_result_is_clipped_to_the_range_of_the_models(tmp_path: Path) -> None:
    values = stored_values()
    values[0, :3] = (0, 1, 65535)  # -3024, -3023 and 62511 HU
    hu = hu_of(tmp_path, values=values, RescaleIntercept="-3024")
    assert list(hu[0, :3]) == [-1024, -1024, 3071]


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_vendor_padding_below_air_is_air(tmp_path: Path, padding: int) -> None:
    values = stored_values(low=-1024, high=1000)
    values[:5] = padding
    data = ct_dataset(values, PixelRepresentation=1, RescaleIntercept="0")
    data.PixelData = values.astype("<i2").tobytes()
    hu = load_one(save(data, tmp_path / "x.dcm")).hu
    assert (hu[:5] == -1024).all()
    np.testing.assert_array_equal(hu[5:], values[5:])


def test_signed_12_bit_values_are_sign_extended(tmp_path: Path) -> None:
    values = stored_values(low=-1000, high=1000)
    data = ct_dataset(values, PixelRepresentation=1, BitsStored=12, HighBit=11, RescaleIntercept="0")
    data.PixelData = (values & 0x0FFF).astype("<u2").tobytes()  # two's complement of 12 bits, high bits 0
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values)


def test_overlay_bits_above_bits_stored_are_masked(tmp_path: Path) -> None:
    values = stored_values()
    data = ct_dataset(values, BitsStored=12, HighBit=11)
    overlay = (np.indices(values.shape).sum(0) % 2).astype("<u2") << 12
    data.PixelData = (values.astype("<u2") | overlay).tobytes()
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values - 1024)


def test_8_bit(tmp_path: Path) -> None:
    values = stored_values(rows=31, columns=33, high=256)  # 1023 bytes: one of padding
    data = ct_dataset(values, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope="4")
    data.PixelData = values.astype("u1").tobytes() + b"\0"
    data["PixelData"].VR = "OB"
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values * 4 - 1024)


def test_32_bit(tmp_path: Path) -> None:
    values = stored_values() + 100_000_000  # beyond what float32 holds exactly
    data = ct_dataset(values, BitsAllocated=32, BitsStored=32, HighBit=31, RescaleIntercept="-100000000")
    data.PixelData = values.astype("<u4").tobytes()
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values - 100_000_000)


def test_monochrome1_does_not_change_hu(tmp_path: Path) -> None:
    # PS3.3 C.7.6.3.1.2: it says that the lowest value is displayed white, not what values mean.
    np.testing.assert_array_equal(
        hu_of(tmp_path, PhotometricInterpretation="MONOCHROME1"),
        hu_of(tmp_path, PhotometricInterpretation="MONOCHROME2"),
    )


@pytest.mark.parametrize(
    ("padding", "limit", "low", "high"), [(500, None, 500, 500), (500, 700, 500, 700), (700, 500, 500, 700)]
)
def test_pixel_padding_is_air(tmp_path: Path, padding: int, limit: int | None, low: int, high: int) -> None:
    values = stored_values()
    values[3, :4] = (499, 500, 700, 701)
    data = ct_dataset(values, PixelPaddingValue=padding)
    if limit is not None:
        data.PixelPaddingRangeLimit = limit
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")[: 2 if limit else 1]:
        data[keyword].VR = "US"
    expected = np.where((values >= low) & (values <= high), -1024, values - 1024)
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, expected)


def test_padding_value_written_in_the_other_signedness(tmp_path: Path) -> None:
    values = stored_values(low=-100, high=1000)
    values[:4] = -2000
    data = ct_dataset(values, PixelRepresentation=1, RescaleIntercept="1000", PixelPaddingValue=65536 - 2000)
    data.PixelData = values.astype("<i2").tobytes()
    data["PixelPaddingValue"].VR = "US"
    hu = load_one(save(data, tmp_path / "x.dcm")).hu
    assert (hu[:4] == -1024).all()
    np.testing.assert_array_equal(hu[4:], values[4:] + 1000)


def test_padding_that_only_bits_allocated_can_hold(tmp_path: Path) -> None:
    values = stored_values()
    values[:4] = 0xF830  # -2000 in 16 bits; in 12 bits it would be 48 and hit real pixels
    values[5, 5] = 0x30
    data = ct_dataset(values, BitsStored=12, HighBit=11, PixelPaddingValue=0xF830, RescaleIntercept="0")
    data["PixelPaddingValue"].VR = "US"
    hu = load_one(save(data, tmp_path / "x.dcm")).hu
    assert (hu[:4] == -1024).all()
    assert hu[5, 5] == 0x30


@pytest.mark.parametrize("rows_columns", [(48, 64), (37, 53)])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_transfer_syntaxes(
    tmp_path: Path, syntax: str, signed: bool, rows_columns: tuple[int, int]
) -> None:
    low = -900 if signed else 0
    values = stored_values(*rows_columns, low=low, high=low + 2000)
    data = ct_dataset(
        values, BitsStored=12, HighBit=11, PixelRepresentation=int(signed), RescaleIntercept="10"
    )
    if syntax == ExplicitVRBigEndian:
        data.PixelData = values.astype(">i2").tobytes()
    else:
        data.PixelData = values.astype("<i2").tobytes()
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        compress(data, syntax)
    data.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values + 10)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14"])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_lossless(tmp_path: Path, syntax: str, signed: bool) -> None:
    low = -900 if signed else 0
    values = stored_values(low=low, high=low + 2000)
    data = ct_dataset(values, PixelRepresentation=int(signed), RescaleIntercept="10")
    data.PixelData = values.astype("<i2").tobytes()
    path = gdcm_transcoded(save(data, tmp_path / "x.dcm"), syntax)
    np.testing.assert_array_equal(load_one(path).hu, values + 10)


def test_12_bit_lossy_jpeg_is_close_and_flagged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    y, x = np.mgrid[:48, :64]
    values = 8 * (y + x)
    path = save(ct_dataset(values, BitsStored=12, HighBit=11), tmp_path / "x.dcm")
    path = gdcm_transcoded(path, "JPEGExtendedProcess2_4")
    capfd.readouterr()
    loaded = load_one(path)
    assert np.abs(loaded.hu - (values - 1024)).max() <= 8
    assert "lossy_compressed" in loaded.ref.flags
    assert capfd.readouterr().err == ""  # libjpeg has something to say about 12 bits


def test_lossy_jpeg_is_close_and_flagged(tmp_path: Path) -> None:
    y, x = np.mgrid[:48, :64]
    values = (y + x).astype("u1")  # smooth: JPEG keeps it to a few units
    data = ct_dataset(
        values, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope="1", RescaleIntercept="0"
    )
    data.PixelData = values.tobytes()
    data["PixelData"].VR = "OB"
    loaded = load_one(gdcm_transcoded(save(data, tmp_path / "x.dcm"), "JPEGBaselineProcess1"))
    assert np.abs(loaded.hu - values).max() <= 4
    assert "lossy_compressed" in loaded.ref.flags


# 16 x 16 values 7 * (16 * row + column), reversible, encoded by OpenJPH 0.26.3.
HTJ2K = base64.b64decode(
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
    "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAHYAAf+TwAAmv/sFB3QAAMAAEsAAEoD+AId0"
    "AP4Ch3QAwAASwAATAN4AAnQA/PMAg1QAwAATwAAVQO7uoKfCdQD27e3twDGB7LYAwAAq4AAWiCRJkufAp6enQngA3l6v1+v1ev2I"
    "QHv2IQHsugD/2Q=="
)


@pytest.mark.parametrize("extra", [True, False], ids=["fast", "default"])
def test_high_throughput_jpeg2000(tmp_path: Path, extra: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenJPEG decodes it from 2.5 on, which every install has; no encoder is needed here."""
    from pydicom.encaps import encapsulate

    from n2q_edge.dicom import codecs

    if extra:
        pytest.importorskip("imagecodecs")
    else:
        monkeypatch.setattr(codecs, "_imagecodecs", lambda: None)
    values = 7 * np.arange(256).reshape(16, 16)
    data = ct_dataset(values)
    data.PixelData = encapsulate([HTJ2K])
    data.file_meta.TransferSyntaxUID = HTJ2KLossless
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values - 1024)


def test_jpeg2000_written_as_unsigned_for_signed_pixels(tmp_path: Path) -> None:
    """The codestream says unsigned 12 bit, the header says signed: the bits are two's complement."""
    values = stored_values(low=-900, high=1100)
    data = ct_dataset(values & 0x0FFF, BitsStored=12, HighBit=11)
    jpeg2000(data)
    data.PixelRepresentation = 1
    data.RescaleIntercept = "0"
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values)


def test_jpeg2000_sign_that_cannot_be_told_is_rejected(tmp_path: Path) -> None:
    """12 unsigned bits for 16 signed ones: 3000 may be 3000 or -1096."""
    data = ct_dataset(stored_values(high=4096), BitsStored=12, HighBit=11)
    jpeg2000(data)
    data.PixelRepresentation, data.BitsStored, data.HighBit = 1, 16, 15
    assert rejection(save(data, tmp_path / "x.dcm")).reason is Reason.CORRUPT_PIXEL_DATA


def test_several_fragments_a_frame(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate, get_frame

    values = stored_values()
    data = ct_dataset(values)
    data.compress(JPEGLSLossless)
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=False)
    np.testing.assert_array_equal(load_one(save(data, tmp_path / "x.dcm")).hu, values - 1024)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_fast_extra_gives_the_same_values(
    tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imagecodecs")
    from n2q_edge.dicom import codecs

    values = stored_values(low=-900, high=1100)
    data = ct_dataset(values, PixelRepresentation=1, BitsStored=13, HighBit=12)
    data.PixelData = values.astype("<i2").tobytes()
    compress(data, syntax)
    path = save(data, tmp_path / "x.dcm")
    fast = load_one(path).hu
    monkeypatch.setattr(codecs, "_imagecodecs", lambda: None)
    np.testing.assert_array_equal(load_one(path).hu, fast)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_data_set_without_meta_information(tmp_path: Path, syntax: str) -> None:
    """Length and Bits Allocated fit uncompressed pixels exactly, so reading them is safe; it is flagged."""
    values = stored_values()
    data = ct_dataset(values)
    if syntax == ExplicitVRBigEndian:
        data.PixelData = values.astype(">u2").tobytes()
    del data.file_meta
    path = tmp_path / "x"
    path.write_bytes(dataset_bytes(data, syntax))
    loaded = load_one(path)
    np.testing.assert_array_equal(loaded.hu, values - 1024)
    assert "no_transfer_syntax" in loaded.ref.flags


def test_compressed_pixels_without_transfer_syntax_are_rejected(tmp_path: Path) -> None:
    data = ct_dataset()
    data.compress(JPEGLSLossless)
    del data.file_meta
    path = tmp_path / "x"
    path.write_bytes(dataset_bytes(data, ExplicitVRLittleEndian))
    assert rejection(path).reason is Reason.MISSING_TRANSFER_SYNTAX


def test_header_in_another_vr_than_the_transfer_syntax_says(tmp_path: Path) -> None:
    values = stored_values()
    path = save(ct_dataset(values), tmp_path / "x.dcm")
    data = path.read_bytes()
    wrong = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0")
    path.write_bytes(wrong)
    np.testing.assert_array_equal(load_one(path).hu, values - 1024)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("RescaleSlope", None),
        ("RescaleIntercept", None),
        ("RescaleSlope", ""),
        ("RescaleIntercept", ""),
        ("RescaleSlope", "0"),
    ],
)
def test_no_usable_rescale_is_a_rejection(tmp_path: Path, keyword: str, value: Any) -> None:
    path = save(ct_dataset(**{keyword: value}), tmp_path / "x.dcm")
    assert rejection(path).reason is Reason.MISSING_RESCALE


@pytest.mark.parametrize("text", [b"nan", b"1,0", b"abc"])
def test_rescale_that_is_no_number_is_a_rejection(tmp_path: Path, text: bytes) -> None:
    path = save(ct_dataset(RescaleSlope="777"), tmp_path / "x.dcm")
    path.write_bytes(path.read_bytes().replace(b"777", text))
    assert rejection(path).reason is Reason.MISSING_RESCALE


def test_timing_and_spacing_are_given(tmp_path: Path) -> None:
    loaded = load_one(save(ct_dataset(), tmp_path / "x.dcm"))
    assert isinstance(loaded, LoadedSlice)
    assert loaded.pixel_spacing_mm == (0.75, 0.5)  # rows apart, columns apart: not square
    assert loaded.read_ms > 0
    assert loaded.decode_ms > 0
