from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import tiny


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    return tiny.write_onnx(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
