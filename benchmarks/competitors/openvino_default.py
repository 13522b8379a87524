"""(d) OpenVINO as its documentation shows it: no options.

On a CPU with bfloat16 its default computes in bfloat16; benchmarks/against.py shows what that does to the
map.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.competitors.common import MapOf, main
from n2q_edge.runtimes.libraries import import_openvino
from n2q_edge.spec import HU_MAX, HU_MIN


def prepare(options: dict[str, Any]) -> tuple[MapOf, str]:
    library = import_openvino()
    compiled = library.Core().compile_model(options["onnx"], "CPU")
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def map_of(hu: np.ndarray) -> np.ndarray:
        clipped = np.clip(hu, HU_MIN, HU_MAX).astype(np.float32)
        return compiled(clipped[None, None])[0][0, 0]

    return map_of, f"openvino {library.__version__.partition('-')[0]}, defaults ({precision})"


if __name__ == "__main__":
    main(prepare)
