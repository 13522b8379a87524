"""The slices of one series until its objects are written: results in memory, pixels in files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import SliceResult
from n2q_edge.dicom_out.overlay import caption, overlay_picture
from n2q_edge.errors import OutputError
from n2q_edge.runtimes.grid import enlarge


@contextlib.contextmanager
def output(path: Path) -> Iterator[None]:
    """Trouble in writing a file is an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; free some space or choose another folder"
        ) from None


class Collected:
    """The slices of one series: results in memory, pixels in files of the hidden folder."""

    def __init__(self, folder: Path, *, pictures: bool) -> None:
        """Make the hidden folder; `pictures` says whether overlays are drawn."""
        self.folder, self._pictures = folder, pictures
        self.results: list[SliceResult] = []
        self.has_noise = False
        with output(folder):
            folder.mkdir()
            self._files = {
                name: (folder / f"{name}.raw").open("w+b") for name in ("quality", "noise", "overlay")
            }

    def add(self, result: SliceResult, window: tuple[float, float]) -> None:
        """Take a slice with its pixels; `window` is (center, width) in HU."""
        images = result.images
        assert images is not None
        self._append("quality", images.quality_map)
        if images.noise_map is not None:
            self.has_noise = True
            rows, columns = images.hu.shape
            self._append("noise", enlarge(images.noise_map, images.map_cell)[:rows, :columns])
        if self._pictures:
            picture = overlay_picture(images, window, caption(result))
            with output(self.folder):
                self._files["overlay"].write(picture.tobytes())
        self.results.append(replace(result, images=None))

    def _append(self, name: str, pixels: FloatArray) -> None:
        with output(self.folder):
            self._files[name].write(pixels.astype("<f4", copy=False).tobytes())

    def end(self) -> None:
        """No more slices come."""
        with output(self.folder):
            for file in self._files.values():
                file.flush()

    def read(self, name: str, index: int, size: int) -> bytes:
        """The bytes of one slice, of `size` each."""
        with output(self.folder):
            self._files[name].seek(index * size)
            return self._files[name].read(size)

    def remove_pixels(self) -> None:
        """Remove the files of pixels."""
        for name, file in self._files.items():
            with contextlib.suppress(OSError):
                file.close()
            (self.folder / f"{name}.raw").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the hidden folder with all that is in it."""
        self.remove_pixels()
        shutil.rmtree(self.folder, ignore_errors=True)
