"""Slices to HU, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from n2q_edge.dicom.archives import ARCHIVE_ERRORS, Opener, os_detail
from n2q_edge.dicom.codecs import decode
from n2q_edge.dicom.fragments import Fragment, index_frames, read_frame
from n2q_edge.dicom.header import DEFLATED, NATIVE_SYNTAXES, inflated
from n2q_edge.dicom.hounsfield import native_values, to_hu
from n2q_edge.dicom.nifti import Volume, is_nifti, load_slice, open_volume
from n2q_edge.dicom.reasons import Reason, Refusal, Rejected, unexpected
from n2q_edge.dicom.records import LoadedSlice, Series, SliceRef, Source


def iter_slices(series: Series) -> Iterator[LoadedSlice | Rejected]:
    """Load the slices of a series in order, one at a time; memory does not grow with their number."""
    with SliceReader() as reader:
        for ref in series.slices:
            yield reader.load(ref)


@dataclass
class _OpenFile:
    """The file a reader has open, and where its compressed frames are once they were looked for."""

    source: Source
    data: IO[bytes]
    frames: list[list[Fragment]] | None = None


class SliceReader:
    """Loads slices; keeps a multi-frame file and a zip archive open between them. One thread, one reader."""

    def __init__(self) -> None:
        self._opener = Opener()
        self._file: _OpenFile | None = None
        self._volume: Volume | None = None  # of the NIfTI file last read from

    def load(self, ref: SliceRef) -> LoadedSlice | Rejected:
        """Read and decode one slice; a `Rejected` if it cannot be."""
        try:
            start = perf_counter_ns()
            if ref.source.member is None and is_nifti(ref.source.file):
                self._volume = open_volume(ref.source.file, ref.stamp)
                read = perf_counter_ns()
                hu = load_slice(self._volume, ref)
                decoded = perf_counter_ns()
                return _loaded(ref, hu, start, read, decoded)
            data = self._read(ref)
            read = perf_counter_ns()
            if ref.layout.transfer_syntax in NATIVE_SYNTAXES:
                values = native_values(data, ref.layout)
            else:
                values = decode(data, ref.layout)
            hu = to_hu(values, ref.layout, ref.slope, ref.intercept)
            decoded = perf_counter_ns()
        except Refusal as refusal:
            return _rejected(ref, refusal.reason, refusal.detail)
        except Exception as error:  # whatever was not thought of costs this slice, never the run
            self._close_file()
            return _rejected(ref, Reason.DECODE_FAILED, unexpected(error))
        return _loaded(ref, hu, start, read, decoded)

    def close(self) -> None:
        """Close what is open. Closing twice is harmless."""
        self._close_file()
        self._volume = None
        self._opener.close()

    def __enter__(self) -> SliceReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, ref: SliceRef) -> bytes:
        """The bytes of one frame."""
        try:
            file = self._open(ref)
            data = _frame_bytes(file, ref)
        except OSError as error:
            self._close_file()
            raise Refusal(Reason.UNREADABLE, os_detail(error)) from None
        except ARCHIVE_ERRORS as error:
            self._close_file()
            raise Refusal(Reason.CORRUPT_ARCHIVE, str(error)) from None
        if ref.frame is None:
            self._close_file()
        return data

    def _open(self, ref: SliceRef) -> _OpenFile:
        if self._file is None or self._file.source != ref.source:
            self._close_file()
            data, stamp = self._opener.open(ref.source)
            if ref.layout.transfer_syntax == DEFLATED:
                packed = data
                data = inflated(packed)
                packed.close()
            self._file = _OpenFile(ref.source, data)
            if stamp != ref.stamp:
                self._close_file()
                raise Refusal(Reason.UNREADABLE, "the file changed after it was listed")
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.data.close()
            self._file = None


def _loaded(ref: SliceRef, hu: NDArray[np.float32], start: int, read: int, decoded: int) -> LoadedSlice:
    return LoadedSlice(ref, hu, ref.pixel_spacing_mm, (read - start) / 1e6, (decoded - read) / 1e6)


def _rejected(ref: SliceRef, reason: Reason, detail: str) -> Rejected:
    return Rejected(ref.path, reason, detail, ref.sop_instance_uid or None, ref.frame)


def _frame_bytes(file: _OpenFile, ref: SliceRef) -> bytes:
    layout, index = ref.layout, (ref.frame or 1) - 1
    if ref.length is None:
        if file.frames is None:
            file.frames = index_frames(file.data, ref.offset, layout.frames)
        return read_frame(file.data, file.frames[index])
    size = layout.rows * layout.columns * layout.bits_allocated // 8
    file.data.seek(ref.offset + index * size)
    data = file.data.read(size)
    if len(data) < size:
        raise Refusal(Reason.TRUNCATED, f"{len(data)} of {size} bytes of pixel data are there")
    return data
