"""(a) The authors' way: PyTorch eager; windowing, resizing and the high-pass channel by scikit-image.

`side` 512 computes at the slice's own resolution. `side` 256 resizes first, as the authors did: a quarter of
the arithmetic, on a slice whose noise the resizing has changed.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.filters import gaussian
from skimage.transform import downscale_local_mean, resize

from benchmarks.competitors.common import MapOf, main
from n2q_edge.model import checkpoint
from n2q_edge.network.preprocess import HIGH_PASS_SIGMA, HIGH_PASS_SIZE


def prepare(options: dict[str, Any]) -> tuple[MapOf, str]:
    torch.set_num_threads(options["threads"])
    file = Path(options["checkpoint"])
    spec, network = checkpoint.load_network(file, file.read_bytes())
    network.eval()
    # The channels are made below, outside the network.
    network.encode_input = lambda channels: channels  # type: ignore[assignment]
    low, side = spec.window_center - spec.window_width / 2, options["side"]

    def map_of(hu: np.ndarray) -> np.ndarray:
        image = np.clip((hu - low) / spec.window_width, 0, 1)
        if image.shape != (side, side):
            image = resize(image, (side, side), anti_aliasing=True)
        channels = np.stack([(image - 0.5) / 0.5, high_pass((image - 0.5) / 0.5)])[None]
        with torch.no_grad():
            quality, _ = network(torch.from_numpy(channels.astype(np.float32)))
        return quality[0, 0].numpy()

    return map_of, f"torch {torch.__version__} eager, skimage {version('scikit-image')}"


def high_pass(image: np.ndarray) -> np.ndarray:
    """x - up2(down2(gauss5x5(x))), sigma 4."""
    truncate = (HIGH_PASS_SIZE // 2) / HIGH_PASS_SIGMA
    blurred = gaussian(image, sigma=HIGH_PASS_SIGMA, truncate=truncate, mode="mirror")
    return image - resize(downscale_local_mean(blurred, (2, 2)), image.shape, order=1, mode="edge")


if __name__ == "__main__":
    main(prepare)
