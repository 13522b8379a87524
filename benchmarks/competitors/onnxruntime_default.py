"""(c) ONNX Runtime as its documentation shows it: no options."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.competitors.common import MapOf, main
from n2q_edge.runtimes.libraries import import_onnxruntime
from n2q_edge.spec import HU_MAX, HU_MIN


def prepare(options: dict[str, Any]) -> tuple[MapOf, str]:
    library = import_onnxruntime()
    session = library.InferenceSession(options["onnx"], providers=["CPUExecutionProvider"])

    def map_of(hu: np.ndarray) -> np.ndarray:
        clipped = np.clip(hu, HU_MIN, HU_MAX).astype(np.float32)
        return session.run(None, {"hu": clipped[None, None]})[0][0, 0]

    return map_of, f"onnxruntime {library.__version__}, defaults"


if __name__ == "__main__":
    main(prepare)
