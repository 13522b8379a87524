"""Ways to damage a file: what disks, transfers, broken writers and attackers do."""

from __future__ import annotations

import random
import re
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO

from tests.fuzz.seeds import zipped

Mutator = Callable[[bytes, random.Random], bytes]

VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV"
).split()
_SHORT = re.compile(rb"(?s)..\w?.(?:CS|DS|IS|LO|SH|UI|US|SS|FD|PN)(..)")
CODECS = (
    b"zlib",
    b"rot13",
    b"hex",
    b"base64",
    b"unicode_escape",
    b"utf_7",
    b"idna",
    b"punycode",
    b"undefined",
)
CHARACTER_SETS = (
    b"ISO 2022 IR 87",
    b"ISO 2022 IR 149",
    b"GB18030",
    b"ISO_IR 192",
    b"\\\\",
    b"ISO_IR 6\\zlib",
    b"",
)
NUMBERS = (
    b"1e308", b"-1e308", b"1e39", b"-1", b"0", b"1e-300", b"nan", b"inf", b"-inf", b"1e999", b"0x10",
    b"1_000", b"9" * 400, b"", b"\\\\\\", b"1\\2\\3\\4\\5\\6\\7", b"1,5", b"\xff\xfe", b"-0", b"2147483648",
    b"1e-45\\1e45",
)  # fmt: skip
DOUBLES = (float("nan"), float("inf"), -float("inf"), 1e308, -1.0, 5e-324, 0.0)


def bit_flips(data: bytes, rng: random.Random) -> bytes:
    """A few bits, anywhere."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def header_bytes(data: bytes, rng: random.Random) -> bytes:
    """Random bytes in the header."""
    out = bytearray(data)
    end = min(max(200, data.find(b"\xe0\x7f\x10\x00") + 12), len(out))
    for _ in range(rng.choice((1, 3, 30))):
        out[rng.randrange(min(128, end - 1), end)] = rng.randrange(256)
    return bytes(out)


def random_block(data: bytes, rng: random.Random) -> bytes:
    """A sector of junk, zeros or ones."""
    size = rng.choice((1, 16, 512))
    start = rng.randrange(len(data))
    junk = rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))
    return data[:start] + junk + data[start + size :]


def swap_vr(data: bytes, rng: random.Random) -> bytes:
    """Another value representation for an element, of any depth."""
    places = [found.start() for found in re.finditer(rb"(?:" + b"|".join(VRS) + rb")", data)]
    if not places:
        return data
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.choice(places)
        out[place : place + 2] = rng.choice(VRS)
    return bytes(out)


def damaged_groups(data: bytes, rng: random.Random) -> bytes:
    """Bits, bytes or value representations in the functional groups, where a lazy reader fails late."""
    start = max(data.find(b"\x00\x52\x29\x92"), 0)
    end = data.find(b"\xe0\x7f\x10\x00", start)
    end = len(data) if end < 0 else end
    part = rng.choice((swap_vr, bit_flips, random_block))(data[start:end], rng) if end > start else b""
    return data[:start] + part + data[end:]


def absurd_value(data: bytes, rng: random.Random) -> bytes:
    """An impossible number or text in place of a value; its length is right, its sequence's is not."""
    places = list(_SHORT.finditer(data))
    if not places:
        return data
    found = rng.choice(places)
    length = struct.unpack("<H", found.group(1))[0]
    start = found.end()
    if start + length > len(data):
        return data
    value = struct.pack("<d", rng.choice(DOUBLES)) if found.group()[4:6] == b"FD" else rng.choice(NUMBERS)
    value += b" " * (len(value) % 2)
    return data[: start - 2] + struct.pack("<H", len(value)) + value + data[start + length :]


def absurd_length(data: bytes, rng: random.Random) -> bytes:
    """A length that is wrong by any amount."""
    places = list(_SHORT.finditer(data))
    if not places:
        return data
    out = bytearray(data)
    at = rng.choice(places).end() - 2
    out[at : at + 2] = struct.pack("<H", rng.choice((0, 1, 3, 255, 65534, 65535)))
    return bytes(out)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """The file ends early."""
    return data[: rng.randrange(len(data))]


def remove_or_repeat(data: bytes, rng: random.Random) -> bytes:
    """Some bytes are missing, or there twice."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 2, 8, 100)))
    return data[:start] + rng.choice((b"", data[start:end] * 2)) + data[end:]


def nest(data: bytes, rng: random.Random) -> bytes:
    """Sequences in sequences, to any depth, of defined or undefined length, before the pixels."""
    depth = rng.choice((2, 60, 70, 1000, 10_000))
    tag = rng.choice((b"\x08\x00\x40\x11", b"\x29\x00\x10\x10", b"\x00\x52\x29\x92"))
    if rng.random() < 0.5:
        inner = (tag + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
    else:
        inner = b""
        for _ in range(min(depth, 1000)):
            body = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
            inner = tag + b"SQ\0\0" + struct.pack("<L", len(body)) + body
    at = data.find(b"\x00\x52\x29\x92")
    if at < 0:
        at = max(data.find(b"\xe0\x7f\x10\x00"), 0)
    return data[:at] + inner + data[at:]


def character_set(data: bytes, rng: random.Random) -> bytes:
    """A character set that is none, or does not fit, and text that is not ASCII."""
    for name in (b"ISO_IR 100", b"ISO_IR 192"):
        data = data.replace(name, rng.choice(CODECS + CHARACTER_SETS)[:10].ljust(10))
    text = rng.choice(
        (b"\xff\xfe\x1b$B", b"\x1b(J\xb1\xb2", b"\x80\x81\x82", b"%s\\x00", "ü漢".encode("utf-16"))
    )
    return data.replace(b"Acme", text[:4].ljust(4)).replace(b"Lunge", text[:5].ljust(5))


def many_frames(data: bytes, rng: random.Random) -> bytes:
    """A Number of Frames that the file cannot hold."""
    number = rng.choice((b"0", b"-1", b"2", b"4", b"65535", b"3000000", b"2000000000", b"1e9", b"9" * 60))
    number += b" " * (len(number) % 2)
    at = data.find(b"\x28\x00\x08\x00IS")
    if at < 0:
        at = data.find(b"\x28\x00\x10\x00US")
        return data[:at] + b"\x28\x00\x08\x00IS" + struct.pack("<H", len(number)) + number + data[at:]
    (length,) = struct.unpack("<H", data[at + 6 : at + 8])
    return data[: at + 6] + struct.pack("<H", len(number)) + number + data[at + 8 + length :]


def pixel_bytes(data: bytes, rng: random.Random) -> bytes:
    """Damage in the pixel data alone: what decoders see."""
    at = max(data.rfind(b"\xe0\x7f\x10\x00"), 0) + 12
    return data[:at] + rng.choice((bit_flips, random_block, remove_or_repeat))(data[at:] or b"\0", rng)


def splice(data: bytes, rng: random.Random) -> bytes:
    """One part of the file in place of another."""
    size = rng.randrange(1, 200)
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:target] + data[source : source + size] + data[target + size :]


def zip_bomb(data: bytes, rng: random.Random) -> bytes:
    """The file in an archive that promises or holds far too much."""
    kind = rng.randrange(5)
    if kind == 0:  # members that are one and the same bytes
        return _overlapping(data, rng.choice((2, 100, 3000)))
    if kind == 1:  # many empty frames
        head = data[: max(data.find(b"\xe0\x7f\x10\x00"), 200)]
        items = b"\xfe\xff\x00\xe0\0\0\0\0" * rng.choice((10, 200_000))
        return zipped({"x": head + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + items})
    if kind == 2:  # zeros, DICOM or not
        return zipped({"x": data + bytes(rng.choice((1 << 20, 1 << 24))), "y": bytes(1 << 22)})
    if kind == 3:  # millions of empty elements
        return zipped({"x": data[:400] + b"\x09\x00\x10\x10LO\0\0" * rng.choice((1000, 1_000_000))})
    archive = bytearray(zipped({"x": data, "y": data}))
    entry = archive.rindex(b"PK\1\2")
    field = rng.choice((10, 20, 24, 28, 42))  # method, sizes, name length, offset
    archive[entry + field : entry + field + 2] = rng.randbytes(2)
    return bytes(archive)


def _overlapping(data: bytes, count: int) -> bytes:
    """`count` directory entries for one member."""
    archive = zipped({"x": data})
    with zipfile.ZipFile(BytesIO(archive)) as opened:
        start = opened.start_dir
    entry = archive[start : archive.rindex(b"PK\5\6")]
    end = bytearray(archive[archive.rindex(b"PK\5\6") :])
    struct.pack_into("<HH", end, 8, count, count)
    struct.pack_into("<L", end, 12, len(entry) * count)
    return archive[:start] + entry * count + bytes(end)


MUTATORS: tuple[Mutator, ...] = (
    bit_flips,
    header_bytes,
    random_block,
    swap_vr,
    absurd_value,
    absurd_length,
    truncate,
    remove_or_repeat,
    nest,
    character_set,
    many_frames,
    pixel_bytes,
    splice,
)
RARE: tuple[Mutator, ...] = (zip_bomb,)  # each takes as long as a hundred others


def mutate(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One input: the names of the mutators and the bytes."""
    chosen = (
        [rng.choice(RARE)] if rng.random() < 0.01 else rng.choices(MUTATORS, k=rng.choice((1, 1, 1, 2, 3)))
    )
    for mutator in chosen:
        data = mutator(data, rng) or b"\0"
    return "+".join(mutator.__name__ for mutator in chosen), data
