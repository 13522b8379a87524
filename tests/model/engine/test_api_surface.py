"""Every attribute of TensorRT that the code touches exists in every version it is written for.

The versions' attributes stand in tests/data/api_surface/*.json, written by tests/helpers/api_surface.py. The
code is read, not run: an attribute of a variable named as in `CLASSES` is looked up in that class. One that
some version lacks must stand behind a `hasattr` of its name, or in code that only one library reaches.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

import pytest

from tests.helpers.paths import ROOT

SURFACES = {
    path.stem: json.loads(path.read_text()) for path in (ROOT / "tests/data/api_surface").glob("*.json")
}
FILES = (
    "model/engine/build.py",
    "runtimes/tensorrt_library.py",
    "runtimes/tensorrt.py",
    "runtimes/rtx_cache.py",
)
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "tensor": "ITensor",
    "timing_cache": "ITimingCache",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}
# Reached with `tensorrt_rtx` only: behind `flavor is RTX`, or behind the hasattr of what leads there.
RTX_ONLY = {
    "ComputeCapability",
    "num_compute_capabilities",
    "set_compute_capability",
    "create_runtime_cache",
    "set_runtime_cache",
    "serialize",
    "deserialize",
}
RTX_SURFACE = "tensorrt_rtx"


def uses() -> Iterator[tuple[str, int, str, str]]:
    """(file, line, class or "module" or "module.Enum", attribute) of each use; "guarded" ones included."""
    for name in FILES:
        for node in ast.walk(ast.parse((ROOT / "n2q_edge" / name).read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "trt":
                yield name, node.lineno, "module", node.attr
            elif (
                isinstance(owner, ast.Attribute)
                and isinstance(owner.value, ast.Name)
                and owner.value.id == "trt"
            ):
                yield name, node.lineno, owner.attr, node.attr
            elif isinstance(owner, ast.Name) and owner.id in CLASSES:
                yield name, node.lineno, CLASSES[owner.id], node.attr


def guarded() -> set[str]:
    """Names that stand in a `hasattr`."""
    found = set()
    for name in FILES:
        for node in ast.walk(ast.parse((ROOT / "n2q_edge" / name).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                assert isinstance(node.args[1], ast.Constant)
                found.add(node.args[1].value)
    return found


def has(surface: dict[str, object], owner: str, attribute: str) -> bool:
    if attribute.startswith("__"):  # dunder names are not in the listing
        return True
    if owner == "module":
        return attribute in surface["module"]  # type: ignore[operator]
    return attribute in surface["classes"].get(owner, ())  # type: ignore[attr-defined]


def test_the_snapshot_holds_the_four_versions() -> None:
    versions = {name: ".".join(surface["version"].split(".")[:2]) for name, surface in SURFACES.items()}
    assert versions == {
        "tensorrt-10.3": "10.3",  # JetPack 6
        "tensorrt-10.13": "10.13",  # JetPack 7
        "tensorrt-11.4": "11.4",  # workstations and data centres
        "tensorrt_rtx": "1.7",
    }


def test_the_snapshot_knows_what_moved() -> None:
    """Facts from NVIDIA's migration notes, so that an empty or mixed-up snapshot is seen."""

    def flags(name: str) -> list[str]:
        return SURFACES[name]["classes"]["BuilderFlag"]

    assert "FP16" in flags("tensorrt-10.3")
    assert "FP16" not in flags("tensorrt-11.4")
    assert "FP16" not in flags("tensorrt_rtx")
    assert "EXPLICIT_BATCH" not in SURFACES["tensorrt-11.4"]["classes"]["NetworkDefinitionCreationFlag"]
    assert "SM120" in SURFACES["tensorrt_rtx"]["classes"]["ComputeCapability"]
    assert "ComputeCapability" not in SURFACES["tensorrt-11.4"]["classes"]


def test_the_code_is_seen() -> None:
    seen = {(owner, attribute) for _, _, owner, attribute in uses()}
    assert len(seen) > 30
    assert ("Builder", "build_serialized_network") in seen
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in seen
    assert ("IExecutionContext", "execute_async_v3") in seen


@pytest.mark.parametrize("version", sorted(SURFACES))
def test_every_attribute_exists(version: str) -> None:
    surface = SURFACES[version]
    optional = guarded() if version == RTX_SURFACE else guarded() | RTX_ONLY
    missing = [
        f"{file}:{line}: {owner}.{attribute}"
        for file, line, owner, attribute in uses()
        if not has(surface, owner, attribute) and attribute not in optional
    ]
    assert missing == []


def test_what_is_guarded_exists_somewhere() -> None:
    """A misspelt hasattr would silently switch a feature off."""
    everywhere = {name for surface in SURFACES.values() for name in surface["module"]}
    for surface in SURFACES.values():
        for attributes in surface["classes"].values():
            everywhere.update(attributes)
    assert guarded() | RTX_ONLY <= everywhere


def test_the_installed_library_is_what_the_snapshot_says() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu12 (extra rtx)")
    surface = SURFACES[RTX_SURFACE]
    if trt.__version__ != surface["version"]:
        pytest.skip(f"the snapshot is of {surface['version']}, installed is {trt.__version__}")
    for owner, attribute in {(owner, attribute) for _, _, owner, attribute in uses()}:
        holder = trt if owner == "module" else getattr(trt, owner)
        assert hasattr(holder, attribute), f"{owner}.{attribute}"
