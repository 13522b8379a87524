"""Damaged files end in a rejection: never an exception, never a wrong number."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from n2q_edge.dicom import LoadedSlice, Reason, Rejected, SliceReader, scan
from tests.helpers.dicom_files import (
    assert_accounted,
    compress,
    ct_dataset,
    jpeg2000,
    load_all,
    load_one,
    rejection,
    save,
    stored_values,
)

SYNTAXES = [RLELossless, JPEGLSLossless, JPEG2000Lossless]
VALUES = stored_values(128, 128)


def compressed(syntax: str, change: Any = None) -> Any:
    data = compress(ct_dataset(VALUES), syntax)
    if change is not None:
        frame = change(get_frame(data.PixelData, 0, number_of_frames=1))
        data.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
    return data


def test_truncated_anywhere(tmp_path: Path) -> None:
    """Whatever a file is cut to, it is accounted for and gives no slice."""
    whole = save(ct_dataset(), tmp_path / "x.dcm").read_bytes()
    path = tmp_path / "cut.dcm"
    reasons = set()
    for size in [*range(0, 1000, 7), *range(1000, len(whole), 500), len(whole) - 1]:
        path.write_bytes(whole[:size])
        inventory = scan([path])
        assert not inventory.series
        assert_accounted(inventory)
        reasons |= {each.reason for each in inventory.rejected}
        reasons |= {each.reason for each in inventory.skipped}
        if size > 1000:
            assert [each.reason for each in inventory.rejected] == [Reason.TRUNCATED]
    # Cut before the SOP Class UID nothing tells a CT image; between two elements nothing tells a cut.
    assert reasons <= {
        Reason.TRUNCATED,
        Reason.EMPTY_FILE,
        Reason.NOT_DICOM,
        Reason.NOT_AN_IMAGE,
        Reason.MISSING_PIXEL_DATA,
    }


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("left", [0.1, 0.5, 0.99])
def test_truncated_compressed_file(tmp_path: Path, syntax: str, left: float) -> None:
    path = save(compressed(syntax), tmp_path / "x.dcm")
    raw = path.read_bytes()
    start = raw.index(b"\xe0\x7f\x10\x00") + 28
    path.write_bytes(raw[: start + int((len(raw) - start) * left)])
    assert rejection(path).reason is Reason.TRUNCATED
    assert_accounted(scan([path]))


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("left", [0.2, 0.5, 0.9])
def test_truncated_codestream_in_a_whole_file(tmp_path: Path, syntax: str, left: float) -> None:
    data = compressed(syntax, lambda frame: frame[: int(len(frame) * left)])
    reason = rejection(save(data, tmp_path / "x.dcm")).reason
    assert reason in (Reason.CORRUPT_PIXEL_DATA, Reason.DECODE_FAILED)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_missing_end_marker(tmp_path: Path, syntax: str) -> None:
    data = compressed(syntax, lambda frame: frame[: frame.rindex(b"\xff\xd9")])
    assert rejection(save(data, tmp_path / "x.dcm")).reason.kind == "rejected"


def overwritten(frame: bytes, size: int, fill: str, seed: int) -> bytes:
    random.seed(seed)
    start = random.randrange(len(frame) // 4, len(frame) - size - 64)
    junk = {"random": random.randbytes(size), "zero": bytes(size), "ones": b"\xff" * size}[fill]
    return frame[:start] + junk + frame[start + size :]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("fill", "size"), [("random", 4096), ("zero", 4096), ("ones", 512)])
def test_overwritten_sectors(tmp_path: Path, syntax: str, fill: str, size: int) -> None:
    """What a bad disk or a broken transfer leaves. OpenJPEG decodes all of it without a word."""
    for seed in range(4):
        data = compressed(syntax, lambda frame, seed=seed: overwritten(frame, size, fill, seed))
        path = save(data, tmp_path / f"{seed}.dcm")
        if syntax == RLELossless and fill != "ones":
            outcome = load_all(scan([path]))[0]  # bytes that RLE can mean, if the lengths happen to fit
            assert isinstance(outcome, Rejected) or not np.array_equal(outcome.hu, VALUES - 1024)
        else:
            assert rejection(path).reason in (Reason.CORRUPT_PIXEL_DATA, Reason.DECODE_FAILED)


def rle_frame(*segments: bytes) -> bytes:
    starts = np.cumsum([64, *(len(segment) for segment in segments[:-1])])
    return np.array([len(segments), *starts, *[0] * (15 - len(segments))], "<u4").tobytes() + b"".join(
        segments
    )


def literal(values: bytes) -> bytes:
    """PS3.5 G.3.1: one byte of length - 1 before up to 128 bytes."""
    parts = [values[at : at + 128] for at in range(0, len(values), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


@pytest.mark.parametrize("extra", [True, False], ids=["fast", "default"])
def test_rle_segments_of_a_wrong_length(
    tmp_path: Path, extra: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Told without a word of the decoder's: the whole-frame decoder of the default install panics on some."""
    from n2q_edge.dicom import codecs

    if extra:
        pytest.importorskip("imagecodecs")
    else:
        monkeypatch.setattr(codecs, "_imagecodecs", lambda: None)
    values = stored_values(16, 16)
    high, low = (values >> 8).astype("u1").tobytes(), (values & 255).astype("u1").tobytes()
    frames = {
        "sound": (rle_frame(literal(high), literal(low)), True),
        "padded": (rle_frame(literal(high) + b"\0\0", literal(low) + b"\x80\x80\0\0"), True),
        "short": (rle_frame(literal(high[:-9]), literal(low)), False),
        "long": (rle_frame(literal(high + b"abc"), literal(low)), False),
        "long at the end": (rle_frame(literal(high), literal(low + b"abcdef")), False),
        "cut": (rle_frame(literal(high), literal(low)[:-6]), False),
        "one segment": (rle_frame(literal(high)), False),
    }
    for name, (frame, sound) in frames.items():
        data = compress(ct_dataset(values), RLELossless)
        data.PixelData = encapsulate([frame])
        path = save(data, tmp_path / "x.dcm")
        if sound:
            np.testing.assert_array_equal(load_one(path).hu, values - 1024, err_msg=name)
        else:
            assert rejection(path).reason in (Reason.CORRUPT_PIXEL_DATA, Reason.DECODE_FAILED), name
    assert capfd.readouterr().err == ""


def test_bytes_missing_inside_jpeg2000(tmp_path: Path) -> None:
    data = compressed(JPEG2000Lossless, lambda frame: frame[:3000] + frame[3100:])
    assert rejection(save(data, tmp_path / "x.dcm")).reason is Reason.CORRUPT_PIXEL_DATA


def test_sound_jpeg2000_with_layers_and_trailing_bytes(tmp_path: Path) -> None:
    """The structure check must not reject what is right."""
    data = jpeg2000(ct_dataset(VALUES), compression_ratios=[20, 5, 1])
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([frame + bytes(6)])
    hu = load_one(save(data, tmp_path / "x.dcm")).hu
    assert np.abs(hu - (VALUES - 1024)).max() <= 1  # quality layers are lossy, here by rounding only


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_codestream_of_another_size_than_the_header(tmp_path: Path, syntax: str) -> None:
    data = compressed(syntax)
    data.Rows, data.Columns = 64, 256
    if syntax == RLELossless:  # RLE has no size of its own; the same number of pixels cannot be told apart
        data.Columns = 128
    reason = rejection(save(data, tmp_path / "x.dcm")).reason
    assert reason in (Reason.CORRUPT_PIXEL_DATA, Reason.DECODE_FAILED)


def test_codestream_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    def claim(frame: bytes) -> bytes:
        size = frame.index(b"\xff\x51")
        huge = (60000).to_bytes(4, "big") * 2
        return frame[: size + 6] + huge + frame[size + 14 :]

    data = compressed(JPEG2000Lossless, claim)
    assert rejection(save(data, tmp_path / "x.dcm")).reason is Reason.CORRUPT_PIXEL_DATA


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_random_bytes_are_rejected(tmp_path: Path, syntax: str) -> None:
    data = compressed(syntax, lambda frame: random.Random(1).randbytes(len(frame)))
    assert rejection(save(data, tmp_path / "x.dcm")).reason.kind == "rejected"


def test_damaged_jpeg_lossless_is_told_and_stderr_stays_clean(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.helpers.dicom_files import gdcm_transcoded

    path = gdcm_transcoded(save(ct_dataset(VALUES), tmp_path / "x.dcm"), "JPEGLosslessProcess14_1")
    np.testing.assert_array_equal(load_one(path).hu, VALUES - 1024)
    raw = path.read_bytes()
    start = raw.index(b"\xff\xd8") + 1000
    for junk in (bytes(2048), random.Random(1).randbytes(2048), b"\xff" * 2048):
        path.write_bytes(raw[:start] + junk + raw[start + 2048 :])
        assert rejection(path).reason in (Reason.CORRUPT_PIXEL_DATA, Reason.DECODE_FAILED)
    path.write_bytes(raw[: len(raw) - 3000])
    assert rejection(path).reason is Reason.TRUNCATED
    assert capfd.readouterr().err == ""


def test_pixel_items_that_are_no_items(tmp_path: Path) -> None:
    path = save(compressed(JPEGLSLossless), tmp_path / "x.dcm")
    raw = path.read_bytes()
    start = raw.index(b"\xe0\x7f\x10\x00") + 12
    path.write_bytes(raw[:start] + b"\1\2\3\4" + raw[start + 4 :])
    assert rejection(path).reason is Reason.CORRUPT_PIXEL_DATA


def test_empty_fragment(tmp_path: Path) -> None:
    data = compressed(JPEGLSLossless)
    data.PixelData = encapsulate([b"\0\0"])
    assert rejection(save(data, tmp_path / "x.dcm")).reason is Reason.CORRUPT_PIXEL_DATA


def test_a_deflated_file_cut_and_damaged(tmp_path: Path) -> None:
    data = ct_dataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    path = save(data, tmp_path / "x.dcm")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert rejection(path).reason is Reason.TRUNCATED
    path.write_bytes(raw[:1000] + b"\xff" * 100 + raw[1100:])
    assert rejection(path).reason.kind == "rejected"


def test_random_headers_never_raise(tmp_path: Path) -> None:
    """Flip bytes all over the header; every file stays accounted for."""
    whole = bytearray(save(ct_dataset(), tmp_path / "x.dcm").read_bytes())
    end = whole.index(b"\xe0\x7f\x10\x00") + 12
    random.seed(3)
    path = tmp_path / "damaged.dcm"
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(random.choice((1, 3, 30))):
            raw[random.randrange(128, end)] = random.randrange(256)
        path.write_bytes(raw)
        assert_accounted(scan([path]))


def test_deeply_nested_sequences(tmp_path: Path) -> None:
    nested = b"\x29\x00\x10\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path = tmp_path / "x.dcm"
    head = save(ct_dataset(PixelData=None), path).read_bytes()
    path.write_bytes(head + nested * 100_000)
    assert rejection(path).reason is Reason.CORRUPT_HEADER


def test_a_slice_that_fails_to_load_does_not_stop_the_others(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        data = ct_dataset(VALUES, number=number)
        jpeg2000(data)
        path = save(data, tmp_path / f"{number}.dcm")
        if number == 2:
            path.write_bytes(path.read_bytes()[:-2000])
    inventory = scan([tmp_path])
    kinds = [type(each) for each in load_all(inventory)]
    assert kinds == [LoadedSlice, Rejected, LoadedSlice]
    assert_accounted(inventory)


def test_a_file_that_changes_or_goes_after_the_scan(tmp_path: Path) -> None:
    changed = save(ct_dataset(number=1), tmp_path / "1.dcm")
    gone = save(ct_dataset(number=2), tmp_path / "2.dcm")
    inventory = scan([tmp_path])
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    gone.unlink()
    with SliceReader() as reader:
        outcomes = [reader.load(ref) for ref in inventory.slices()]
    assert all(isinstance(each, Rejected) and each.reason is Reason.UNREADABLE for each in outcomes)
    assert outcomes[0].sop_instance_uid  # type: ignore[union-attr]
