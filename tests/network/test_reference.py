"""The reference noise: what is measured in the graph, and what a network must answer to what it is told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from n2q_edge.errors import ModelError
from n2q_edge.network import build
from n2q_edge.network.noise_level import NoiseLevel, noise_hu
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.spec import ModelSpec
from n2q_edge.training.start import inherit

SPEC = ModelSpec(
    name="told",
    version="t",
    network={"class": "compact", "widths": [8, 8, 16], "blocks": [1, 1, 1], "merge": True},
    inputs=("hu", "reference_noise_hu"),
    outputs=("quality_map", "dose_probabilities", "noise_map", "log_variance"),
    map_cell=8,
)
STUDENT = dataclasses.replace(SPEC, size_multiple=32, network={**SPEC.network, "trunk": 8})


def disk(noise: float, smooth: float = 0.0, seed: int = 0) -> np.ndarray:
    """A cylinder of 50 HU with noise of a standard deviation in HU, [256,256]."""
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    image = np.where(x**2 + y**2 < 0.64, 50.0, -1000.0)
    pattern = np.random.default_rng(seed).standard_normal(image.shape)
    if smooth:
        pattern = ndimage.gaussian_filter(pattern, smooth)
    return (image + noise * pattern / pattern.std()).clip(-1024, 3071).astype(np.float32)


def batch(*slices: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(slices)[:, None])


@pytest.mark.parametrize("noise", [4.0, 12.0, 40.0, 90.0])
def test_white_noise_is_measured_within_five_percent(noise: float) -> None:
    measured, amount = noise_hu(NoiseLevel(), batch(disk(noise)))
    assert measured.item() == pytest.approx(noise, rel=0.05)
    assert amount.item() == 1.0


@pytest.mark.parametrize("smooth", [0.0, 0.7, 1.2])
def test_it_is_the_noise_that_the_tool_reports(smooth: float) -> None:
    """Whatever the kernel: both look at patches of 6 mm, here of 9 and of 8 pixels."""
    hu = disk(15.0, smooth)
    spacing = (0.7, 0.7)
    expected = global_noise_level(hu, body_mask(hu, spacing), spacing)
    assert noise_hu(NoiseLevel(), batch(hu))[0].item() == pytest.approx(expected, rel=0.08)


def test_whiteness_is_one_minus_the_correlation_of_neighbors() -> None:
    """A Gaussian of sigma s correlates neighbors by exp(-1 / (4 s^2)): 0.78 at 1."""
    white, smooth = (float(NoiseLevel()(batch(disk(15.0, s))).whiteness) for s in (0.0, 1.0))
    assert white == pytest.approx(1.0, abs=0.1)
    assert smooth == pytest.approx(1.0 - 0.78, abs=0.06)


def test_air_has_nothing_to_measure() -> None:
    assert NoiseLevel()(batch(np.full((64, 64), -1000.0, np.float32))).amount.item() == 0.0


@pytest.mark.parametrize("spec", [SPEC, STUDENT])
def test_the_share_of_noise_is_the_references(spec: ModelSpec) -> None:
    """A twin of 20 HU and noise added to 40 HU: (20 / 40)^2 of the variance v is kept.

    With the first guess of 5.5 % of the rest taken for anatomy the flat tissue keeps 0.291, whatever the
    fresh network believes; the formula's SSIM is (2 v 0.291 + C2) / (v 1.291 + C2), v (40 / 300)^2 = 0.0178.
    """
    network = build(spec).eval()
    with torch.no_grad():
        told = network(batch(disk(40.0)), torch.tensor([20.0]))[0][0, 0, 96:160, 96:160]
        none = network(batch(disk(40.0)), torch.tensor([0.0]))[0][0, 0, 96:160, 96:160]
    v, c2 = 0.0178, 9e-4
    assert told.mean().item() == pytest.approx((2 * v * 0.291 + c2) / (v * 1.291 + c2), abs=0.05)
    assert (told - none).abs().mean() > 0.05


def test_more_reference_noise_is_more_quality() -> None:
    network = build(SPEC).eval()
    with torch.no_grad():
        quality = network(batch(*[disk(40.0)] * 4), torch.tensor([5.0, 10.0, 20.0, 35.0]))[0].mean(
            dim=(1, 2, 3)
        )
    assert (quality.diff() > 0.005).all()


def test_unknown_is_the_same_as_nothing_and_ruled_by_the_slice_alone() -> None:
    network = build(SPEC).eval()
    hu = batch(disk(10.0), disk(30.0))
    with torch.no_grad():
        for given, none in zip(network(hu, torch.zeros(2)), network(hu), strict=True):
            assert torch.equal(given, none)


def test_a_reference_means_nothing_where_no_noise_can_be_measured() -> None:
    network = build(SPEC).eval()
    lung = batch(disk(20.0) - 850.0).clamp(-1024, 3071)
    with torch.no_grad():
        assert torch.equal(network(lung, torch.tensor([10.0]))[0], network(lung, torch.tensor([0.0]))[0])


def test_the_dose_and_the_noise_map_follow_what_is_measured() -> None:
    """(10 / 40)^2 = 6 %: nearest to the level of 5 %. The map of noise is that of the slice, 40 HU."""
    network = build(SPEC).eval()
    with torch.no_grad():
        _, dose, noise, _ = network(batch(disk(40.0)), torch.tensor([10.0]))
    assert dose.argmax().item() == 0
    assert noise.shape == (1, 1, 32, 32)
    assert noise[0, 0, 12:20, 12:20].mean().item() == pytest.approx(40.0, rel=0.1)


def test_it_begins_with_the_weights_of_a_network_that_cannot_be_told() -> None:
    old_spec = dataclasses.replace(SPEC, inputs=("hu",))
    old, new = build(old_spec).eval(), build(SPEC).eval()
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    inherit(new, old.state_dict())
    hu = batch(disk(25.0))
    with torch.no_grad():
        assert torch.allclose(old(hu)[0], new(hu, torch.zeros(1))[0], atol=1e-6)


def test_bfloat16_layers_keep_the_answer() -> None:
    """Measured with n2q-plus 2: training loss within 1 % of that in float32."""
    network = build(SPEC).eval()
    with torch.no_grad():
        exact = network(batch(disk(25.0)), torch.tensor([10.0]))[0]
        network.autocast = torch.bfloat16
        fast = network(batch(disk(25.0)), torch.tensor([10.0]))[0]
    assert (fast - exact).abs().max() < 0.02
    assert fast.dtype == torch.float32


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        ({"class": "unet"}, SPEC.inputs),
        ({"class": "compact", "head": "direct"}, SPEC.inputs),
        ({"class": "compact", "trunk": 6}, ("hu",)),
        ({"class": "compact", "trunk": 8}, ("hu",)),  # needs multiples of 32
    ],
)
def test_what_cannot_be_built_is_refused(network: dict[str, object], inputs: tuple[str, ...]) -> None:
    with pytest.raises(ModelError):
        build(ModelSpec(name="x", version="t", network=network, inputs=inputs))
