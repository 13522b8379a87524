from __future__ import annotations

from pathlib import Path

import pytest

from n2q_edge.errors import ModelError, UsageError
from n2q_edge.model.engine import targets
from n2q_edge.model.engine.targets import find_target, load_target, parse_size, profiles

GOOD = (targets._folder() / "rtx-4090.toml").read_text()

# NVIDIA, "CUDA GPU Compute Capability", https://developer.nvidia.com/cuda-gpus
CAPABILITIES = {
    "jetson-orin-nano": "8.7",
    "jetson-orin-nx": "8.7",
    "jetson-agx-orin": "8.7",
    "jetson-thor": "11.0",
    "rtx-3060": "8.6",
    "rtx-a4000": "8.6",
    "rtx-4070": "8.9",
    "rtx-4090": "8.9",
    "rtx-6000-ada": "8.9",
    "rtx-5090": "12.0",
    "rtx-pro-6000": "12.0",
    "l4": "8.9",
    "a100": "8.0",
    "h100": "9.0",
    "h200": "9.0",
    "t4": "7.5",
    "dgx-spark": "12.1",
}


def test_the_profiles() -> None:
    assert {target.name: target.compute_capability for target in profiles()} == CAPABILITIES


@pytest.mark.parametrize("target", profiles(), ids=lambda target: target.name)
def test_every_fact_has_a_source(target: targets.Target) -> None:
    facts = {"compute_capability", "memory_gib", "flavors", "tensorrt", "precision", "workspace_mib", "shape"}
    assert set(target.sources) == facts
    assert all(target.sources.values())
    assert target.workspace_mib / 1024 < target.memory_gib / 2


def test_by_name_or_by_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(GOOD.replace("4090", "4091"))
    assert find_target(str(mine)).gpu.endswith("4091")
    assert find_target(str(mine)).name == "mine"
    with pytest.raises(UsageError, match=r"no target 'rtx-9999'.*rtx-4090"):
        find_target("rtx-9999")
    with pytest.raises(ModelError, match="cannot be read"):
        find_target(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("gpu = ", "gpu ", "no TOML"),
        ("gpu = ", "gpus = ", "gpus"),
        ('"fp16-norm32"', '"fp8"', "fp8"),
        ('["tensorrt-rtx", "tensorrt"]', '["cuda"]', "cuda"),
        ("batch = 1", "batch = 0", "positive"),
    ],
)
def test_wrong_profiles(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ModelError, match=complaint) as failure:
        load_target(path)
    assert "bad.toml" in str(failure.value)


def test_sizes() -> None:
    assert parse_size("512x768") == (512, 768)
    for wrong in ("512", "x", "0x512", "-1x5", "512x512x1", "ax512"):
        with pytest.raises(UsageError, match="HEIGHTxWIDTH"):
            parse_size(wrong)
