"""Refuse ONNX files that keep tensors in other files.

Such a tensor names a path, which a library looks up when it opens the model, from memory in the working
directory: what is computed would then not be what was hashed. The package `onnx` is not part of the smallest
install, so the few levels of the file's format that lead to tensors are walked here.

Source: onnx.proto3 of ONNX 1.17 (field numbers) and the Protocol Buffers encoding (wire types).
"""

from __future__ import annotations

from collections.abc import Iterator

from n2q_edge.errors import ModelError

VARINT, BYTES = 0, 2  # wire types
FIXED = {1: 8, 5: 4}  # wire types with their bytes; the groups (3, 4) occur in no ONNX file

# By message: the fields that hold messages which lead to a tensor.
FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor; a location of 0 is the file itself


def refuse_external_data(data: bytes, source: str) -> None:
    """See that all tensors of an ONNX file are in it.

    Args:
        data: the file.
        source: its name, for messages.

    Raises:
        ModelError: one is not, or the file is not whole.
    """
    todo = [("Model", memoryview(data))]
    try:
        while todo:
            kind, message = todo.pop()
            for number, value in _fields(message):
                if kind == "Tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
                    raise ModelError(
                        f"{source} keeps weights in another file, which its SHA-256 does not cover: save it "
                        "as one file, for example with 'n2q-edge export'"
                    )
                inner = FIELDS[kind].get(number)
                if inner and isinstance(value, memoryview):
                    todo.append((inner, value))
    except (IndexError, ValueError):
        raise ModelError(f"{source} is not a whole ONNX file: copy or export it again") from None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field: an integer, or the bytes of what has a length.

    Raises:
        IndexError: the message ends within a field.
        ValueError: not the encoding.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in FIXED:
            length = FIXED[kind]
        else:
            raise ValueError
        if at + length > end:
            raise IndexError
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the lowest first; and where it ends."""
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError
