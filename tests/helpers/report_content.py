"""What a DICOM structured report says: its measurement groups and their numbers."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset


def walk(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from walk(item)


def name_of(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning) if "ConceptNameCodeSequence" in item else ""


def groups(dataset: Dataset) -> dict[str, Dataset]:
    """Measurement groups by their tracking identifier."""
    found = {}
    for item in walk(dataset):
        if name_of(item) == "Measurement Group":
            (label,) = [
                child.TextValue for child in item.ContentSequence if name_of(child) == "Tracking Identifier"
            ]
            found[label] = item
    return found


def numbers(group: Dataset) -> dict[tuple[str, str | None], float]:
    """Measurements by (code, derivation)."""
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            derivations = [
                each.ConceptCodeSequence[0].CodeMeaning for each in item.get("ContentSequence", [])
            ]
            code = item.ConceptNameCodeSequence[0].CodeValue
            value = float(item.MeasuredValueSequence[0].NumericValue)
            found[code, derivations[0] if derivations else None] = value
    return found
