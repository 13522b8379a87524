from __future__ import annotations

from typing import Any

import pytest

from n2q_edge.spec import ModelSpec

torch = pytest.importorskip("torch")

from n2q_edge.model.precision import in_precision
from n2q_edge.network import build

UNET = ModelSpec(name="u", version="1", network={"class": "unet", "width": 4}, size_multiple=32)
COMPACT = ModelSpec(
    name="c",
    version="1",
    network={"class": "compact"},
    outputs=("quality_map", "dose_probabilities", "noise_map"),
)


def seen_types(network: Any, hu: Any) -> dict[str, tuple[Any, Any]]:
    """Types of the input and output of every module that has no children, by the name of its class."""
    types: dict[str, tuple[Any, Any]] = {}

    def note(module: Any, inputs: Any, output: Any) -> None:
        types[type(module).__name__] = (inputs[0].dtype, output.dtype)

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    with torch.inference_mode():
        outputs = network(hu)
    assert all(output.dtype == torch.float32 for output in outputs)
    return types


@pytest.fixture
def hu() -> Any:
    torch.manual_seed(0)
    return torch.randint(-1024, 1500, (1, 1, 64, 64)).float()


def test_fp32_is_the_network_itself() -> None:
    network = build(COMPACT)
    assert in_precision(network, "fp32") is network


@pytest.mark.parametrize("spec", [UNET, COMPACT], ids=["unet", "compact"])
@pytest.mark.parametrize("precision", ["fp16", "fp16-norm32"])
def test_the_original_is_left_alone(spec: ModelSpec, precision: str, hu: Any) -> None:
    network = build(spec).eval()
    before = network(hu)
    lowered = in_precision(network, precision)(hu)
    for old, new, low in zip(before, network(hu), lowered, strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)
        assert low.shape == old.shape


def test_fp16_is_float16_throughout(hu: Any) -> None:
    types = seen_types(in_precision(build(UNET).eval(), "fp16"), hu)
    half = (torch.float16, torch.float16)
    assert types["Conv2d"] == types["InstanceNorm2d"] == types["Linear"] == types["Window"] == half


def test_norm32_normalises_in_float32(hu: Any) -> None:
    types = seen_types(in_precision(build(UNET).eval(), "fp16-norm32"), hu)
    assert types["InstanceNorm2d"] == (torch.float32, torch.float32)
    assert types["Conv2d"] == types["Linear"] == types["LeakyReLU"] == (torch.float16, torch.float16)
    assert types["Window"] == types["HighPass"] == (torch.float32, torch.float32)


def test_norm32_keeps_the_variance_in_float32(hu: Any) -> None:
    types = seen_types(in_precision(build(COMPACT).eval(), "fp16-norm32"), hu)
    assert types["LocalVariance"] == types["Cells"] == (torch.float32, torch.float32)
    assert types["Conv2d"] == types["Linear"] == (torch.float16, torch.float16)


def test_a_variance_has_no_digits_in_float16() -> None:
    """Why there is a fp16-norm32: the true variance is 1e-4, float16 steps near E[x^2] = 0.06 are 3e-5.

    The image is 0.25 +- 0.01; noise of 3 HU in a window of 300 HU is 0.01.
    """
    from n2q_edge.network.compact import LocalVariance

    torch.manual_seed(0)
    cells = 0.25 + 0.01 * torch.randn(1, 16, 32, 32)
    variance = LocalVariance(COMPACT.ssim)
    inner = (..., slice(2, -2), slice(2, -2))  # beyond the edge is air
    exact = variance(cells)[inner]
    assert exact.mean() == pytest.approx(1e-4, rel=0.1)
    rough = LocalVariance(COMPACT.ssim).half()(cells.half()).float()[inner]
    assert (rough - exact).abs().mean() > 0.1 * exact.mean()
