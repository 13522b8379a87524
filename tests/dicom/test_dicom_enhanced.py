"""Multi-frame: Enhanced CT keeps rescale and geometry in functional groups, not at the root."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless

from n2q_edge.dicom import LoadedSlice, Reason, Rejected, SliceReader, iter_slices, scan
from tests.helpers.dicom_files import (
    assert_accounted,
    ct_dataset,
    enhanced_dataset,
    item,
    load_all,
    save,
    stored_values,
)

FRAMES = np.stack([stored_values(seed=seed) for seed in range(4)])


def test_rescale_and_geometry_come_from_the_functional_groups(tmp_path: Path) -> None:
    (series,) = scan([save(enhanced_dataset(FRAMES), tmp_path / "x.dcm")]).series
    # Frame i + 1 lies at 10 - i, so the order in space is the reverse of that in the file.
    assert [ref.frame for ref in series.slices] == [4, 3, 2, 1]
    assert [ref.position_mm for ref in series.slices] == [7, 8, 9, 10]
    assert series.flags == ()
    for ref, loaded in zip(series.slices, iter_slices(series), strict=True):
        assert isinstance(loaded, LoadedSlice)
        assert ref.frame is not None
        np.testing.assert_array_equal(loaded.hu, FRAMES[ref.frame - 1] * 2.0 - 1000)
        assert loaded.pixel_spacing_mm == (0.75, 0.5)
    protocol = series.protocol
    assert (protocol["kvp"], protocol["tube_current_ma"], protocol["ctdivol"]) == (100, 210.5, 7.25)
    assert (protocol["kernel"], protocol["slice_thickness_mm"]) == ("Br40", 1)


def test_rescale_of_each_frame(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    for index, groups in enumerate(data.PerFrameFunctionalGroupsSequence):
        groups.PixelValueTransformationSequence = [item(RescaleSlope=1, RescaleIntercept=-1000 - index)]
    for loaded in load_all(scan([save(data, tmp_path / "x.dcm")])):
        assert isinstance(loaded, LoadedSlice)
        assert loaded.ref.frame is not None
        index = loaded.ref.frame - 1
        np.testing.assert_array_equal(loaded.hu, FRAMES[index] - 1000.0 - index)


def test_frames_without_rescale_are_rejected_alone(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    shared = data.SharedFunctionalGroupsSequence[0]
    transformation = shared.PixelValueTransformationSequence
    del shared.PixelValueTransformationSequence
    for index in (0, 1, 3):
        data.PerFrameFunctionalGroupsSequence[index].PixelValueTransformationSequence = transformation
    data.PerFrameFunctionalGroupsSequence[3].CTImageFrameTypeSequence = [
        item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])
    ]
    inventory = scan([save(data, tmp_path / "x.dcm")])
    assert sorted(ref.frame or 0 for ref in inventory.slices()) == [1, 2]
    assert [(each.reason, each.frame) for each in inventory.rejected] == [(Reason.MISSING_RESCALE, 3)]
    assert [(each.reason, each.frame) for each in inventory.skipped] == [(Reason.LOCALIZER, 4)]
    assert_accounted(inventory)


def test_no_rescale_at_all_is_one_rejection(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    del data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    inventory = scan([save(data, tmp_path / "x.dcm")])
    assert [(each.reason, each.frame) for each in inventory.rejected] == [(Reason.MISSING_RESCALE, None)]
    assert_accounted(inventory)


def test_missing_plane_position_is_flagged(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    del data.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    (series,) = scan([save(data, tmp_path / "x.dcm")]).series
    assert [(ref.frame, ref.position_mm) for ref in series.slices] == [(4, 7), (2, 9), (1, 10), (3, None)]
    assert "no_positions" in series.flags


def test_functional_groups_of_too_few_frames(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    del data.PerFrameFunctionalGroupsSequence[3]
    (rejected,) = scan([save(data, tmp_path / "x.dcm")]).rejected
    assert rejected.reason is Reason.CORRUPT_HEADER


@pytest.mark.parametrize(
    ("frame_type", "rescale_type"),
    [("DERIVED\\PRIMARY\\PERFUSION\\RCBF", "HU"), ("DERIVED\\PRIMARY\\VOLUME\\NONE", "US")],
)
def test_maps_are_not_hu(tmp_path: Path, frame_type: str, rescale_type: str) -> None:
    data = enhanced_dataset(FRAMES)
    shared = data.SharedFunctionalGroupsSequence[0]
    shared.CTImageFrameTypeSequence[0].FrameType = frame_type.split("\\")
    shared.PixelValueTransformationSequence[0].RescaleType = rescale_type
    inventory = scan([save(data, tmp_path / "x.dcm")])
    assert [(each.reason, each.frame) for each in inventory.skipped] == [(Reason.NOT_HU, None)]


def test_undefined_length_sequences_and_big_endian(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    data["SharedFunctionalGroupsSequence"].is_undefined_length = True
    data["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    for groups in data.PerFrameFunctionalGroupsSequence:
        groups.is_undefined_length_sequence_item = True
    data.PixelData = FRAMES.astype(">u2").tobytes()
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    first = load_all(scan([save(data, tmp_path / "x.dcm")]))[-1]
    assert isinstance(first, LoadedSlice)
    np.testing.assert_array_equal(first.hu, FRAMES[0] * 2.0 - 1000)


@pytest.mark.parametrize(("has_table", "fragments"), [(True, 1), (False, 1), (True, 3), (False, 3)])
def test_compressed_frames_with_and_without_offset_table(
    tmp_path: Path, has_table: bool, fragments: int
) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    data = enhanced_dataset(FRAMES)
    data.compress(JPEGLSLossless)
    frames = list(generate_frames(data.PixelData, number_of_frames=4))
    data.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=has_table)
    for loaded in load_all(scan([save(data, tmp_path / "x.dcm")])):
        assert isinstance(loaded, LoadedSlice)
        assert loaded.ref.frame is not None
        np.testing.assert_array_equal(loaded.hu, FRAMES[loaded.ref.frame - 1] * 2.0 - 1000)


def test_a_cut_file_loses_only_the_frames_that_are_cut(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    data = enhanced_dataset(FRAMES)
    data.compress(JPEGLSLossless)
    frames = list(generate_frames(data.PixelData, number_of_frames=4))
    data.PixelData = encapsulate(frames)
    path = save(data, tmp_path / "x.dcm")
    path.write_bytes(path.read_bytes()[: -8 - len(frames[3]) // 2])
    inventory = scan([path])
    outcomes = {each.frame: each for each in load_all(inventory) if isinstance(each, Rejected)}
    assert {frame: each.reason for frame, each in outcomes.items()} == {4: Reason.TRUNCATED}
    assert_accounted(inventory)


def test_number_of_frames_that_the_file_cannot_hold(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    data.compress(JPEGLSLossless)
    data.NumberOfFrames = 2_000_000_000
    (rejected,) = scan([save(data, tmp_path / "x.dcm")]).rejected
    assert rejected.reason is Reason.TRUNCATED


def test_classic_image_with_several_frames_has_no_position_for_each(tmp_path: Path) -> None:
    data = ct_dataset(FRAMES, NumberOfFrames=4)
    (series,) = scan([save(data, tmp_path / "x.dcm")]).series
    assert [(ref.frame, ref.position_mm) for ref in series.slices] == [(i, None) for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("kind", ["plain", "zip", "deflated"])
def test_memory_does_not_grow_with_frames(tmp_path: Path, kind: str) -> None:
    """60 frames of 512 KB are 31 MB; no more than a few frames may be in memory at once."""
    volume = np.zeros((60, 512, 512), "<u2") + np.arange(60, dtype="<u2")[:, None, None]
    data = enhanced_dataset(volume)
    if kind == "deflated":
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(data, tmp_path / "x.dcm")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as out:
            out.write(path, "x.dcm")
        path = tmp_path / "x.zip"
    del volume, data
    tracemalloc.start()
    inventory = scan([path])
    with SliceReader() as reader:
        for ref in inventory.slices():
            loaded = reader.load(ref)
            assert isinstance(loaded, LoadedSlice)
            assert ref.frame is not None
            assert loaded.hu[0, 0] == max(2 * (ref.frame - 1) - 1000, -1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
