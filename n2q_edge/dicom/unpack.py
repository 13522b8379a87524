"""Unpack deflated data sets, within a budget."""

from __future__ import annotations

import tempfile
import zlib
from typing import IO

from n2q_edge.dicom.reasons import Reason, Refusal

SPOOL_IN_MEMORY = 8 * 1024 * 1024  # unpacked data larger than this goes to a temporary file
MAX_UNPACKED = 4 * 1024**3  # a deflated file or zip member beyond this is taken for a bomb
# Deflate packs at best 1032:1 and blank images come near that, so a ratio alone does not make a bomb.
BOMB_BYTES = 64 * 1024**2
BOMB_RATIO = 200

_READ, _WRITE = 1 << 18, 1 << 22


def is_bomb(packed: int, unpacked: int, limit: int | None = MAX_UNPACKED) -> bool:
    """Whether so many bytes from so few are more than any image needs."""
    over = limit is not None and unpacked > limit
    return over or (unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * max(packed, 1))


def inflate(file: IO[bytes], position: int) -> IO[bytes]:
    """Unpack a raw deflate stream (PS3.5 A.5) that starts at `position`; a temporary file if large.

    Raises:
        Refusal: the stream is damaged, ends early or is a bomb.
    """
    # The caller keeps and closes it.
    unpacked = tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY)  # noqa: SIM115
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    file.seek(position)
    taken = 0
    try:
        while not stream.eof:
            packed = stream.unconsumed_tail
            if not packed:
                packed = file.read(_READ)
                taken += len(packed)
            if not packed:
                raise Refusal(Reason.TRUNCATED, "the deflated data set ends early")
            unpacked.write(stream.decompress(packed, _WRITE))
            if is_bomb(taken, unpacked.tell()):
                raise Refusal(
                    Reason.CORRUPT_HEADER,
                    f"the deflated data set unpacks from {taken} to over {unpacked.tell()} bytes",
                )
    except zlib.error as error:
        unpacked.close()
        raise Refusal(Reason.CORRUPT_HEADER, f"the deflated data set is damaged: {error}") from None
    except BaseException:
        unpacked.close()
        raise
    unpacked.seek(0)
    return unpacked
