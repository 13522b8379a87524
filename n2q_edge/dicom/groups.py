"""The functional groups of an enhanced image (PS3.3 C.7.6.16); a classic image has none."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import MutableMapping
from typing import cast

from n2q_edge.dicom import tags
from n2q_edge.dicom.header import Header
from n2q_edge.dicom.reasons import Reason, Refusal
from n2q_edge.dicom.values import Elements

_NONE: frozenset[int] = frozenset()


class FunctionalGroups:
    """What the header says of each frame."""

    def __init__(self, header: Header, frames: int) -> None:
        """Read them, all at once.

        Raises:
            Refusal: they are damaged, or not of as many frames as the image has.
        """
        self._header = header
        self._shared = next(iter(header.items(tags.SHARED_GROUPS, _NONE, tags.MACROS)), None)
        self._per_frame = list(header.items(tags.FRAME_GROUPS, _NONE, tags.MACROS))
        if self._per_frame and len(self._per_frame) != frames:
            raise Refusal(
                Reason.CORRUPT_HEADER,
                f"functional groups of {len(self._per_frame)} frames for {frames} frames",
            )

    def frame(self, index: int) -> Elements:
        """The elements that hold for a frame: its own, else the shared ones, else those of the image."""
        groups = self._per_frame[index : index + 1] + ([self._shared] if self._shared else [])
        if not groups:
            return self._header
        maps = [cast(MutableMapping[int, bytes], each.values) for each in (*groups, self._header)]
        return Elements(ChainMap(*maps), self._header.little, self._header.character_set)

    def has_own(self, index: int, tag: int) -> bool:
        """Whether a functional group, not only the image, has an element for a frame."""
        own = self._per_frame[index : index + 1]
        return any(tag in each for each in own) or (self._shared is not None and tag in self._shared)
