from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.runtimes import RUNTIMES, Runtime, open_model
from tests.helpers import tiny


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `tiny.SPEC` buildable in PyTorch."""
    pytest.importorskip("torch")
    import torch
    from torch import nn

    from n2q_edge import network

    class Tiny(nn.Module):
        def __init__(self, spec: Any) -> None:
            super().__init__()
            self.spec = spec
            self.gain = nn.Parameter(torch.zeros(()))
            self.slopes = nn.Parameter(torch.zeros(5))

        def forward(self, hu: torch.Tensor) -> tuple[torch.Tensor, ...]:
            windowed = ((hu - float(tiny.LOW)) / float(tiny.WIDTH)).clamp(0, 1)
            logits = windowed.mean(dim=(1, 2, 3))[:, None] * self.slopes
            outputs = 1 - self.gain * windowed, logits.softmax(dim=1)
            return outputs[: len(self.spec.outputs)]

    monkeypatch.setitem(network.NETWORKS, "tiny", Tiny)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def checkpoint_file(tiny_network: None, tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "tiny.safetensors")


@pytest.fixture(params=["onnxruntime", "openvino", "torch"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """The tiny model, opened by every CPU runtime that is installed."""
    if not RUNTIMES[request.param].is_available():
        pytest.skip(f"{request.param} is not installed")
    file = request.getfixturevalue("checkpoint_file" if request.param == "torch" else "onnx_file")
    with open_model(file, request.param, threads=1) as model:
        yield model
