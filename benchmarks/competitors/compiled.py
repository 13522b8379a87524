"""(b) torch.compile with its defaults; the preprocessing is part of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.competitors.common import MapOf, main
from n2q_edge.model import checkpoint
from n2q_edge.spec import HU_MAX, HU_MIN


def prepare(options: dict[str, Any]) -> tuple[MapOf, str]:
    torch.set_num_threads(options["threads"])
    file = Path(options["checkpoint"])
    _, network = checkpoint.load_network(file, file.read_bytes())
    compiled = torch.compile(network.eval())

    def map_of(hu: np.ndarray) -> np.ndarray:
        clipped = np.clip(hu, HU_MIN, HU_MAX).astype(np.float32)
        with torch.inference_mode():
            return compiled(torch.from_numpy(clipped)[None, None])[0][0, 0].numpy()

    return map_of, f"torch {torch.__version__} compiled"


if __name__ == "__main__":
    main(prepare)
