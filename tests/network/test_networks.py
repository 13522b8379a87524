"""The networks against the paper's figures and against independent arithmetic."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from torch.nn import functional as F

from n2q_edge.errors import ModelError
from n2q_edge.network import build
from n2q_edge.network.authors import convert
from n2q_edge.network.compact import BLOCK, LocalVariance
from n2q_edge.network.preprocess import HighPass, Window
from n2q_edge.spec import ModelSpec, SsimDefinition

N2Q = ModelSpec(name="n2q", version="t", network={"class": "unet"})
SMALL = ModelSpec(
    name="small",
    version="t",
    network={"class": "compact", "widths": [24, 32, 64], "blocks": [1, 1, 2], "merge": True},
    outputs=("quality_map", "dose_probabilities", "noise_map", "log_variance"),
)
PLUS = dataclasses.replace(
    SMALL,
    name="plus",
    network={"class": "compact", "widths": [32, 48, 64], "blocks": [1, 1, 2], "merge": True},
)
REDCNN = ModelSpec(name="red-cnn", version="t", network={"class": "redcnn"}, outputs=("quality_map",))
TILED = ModelSpec(name="tiled", version="t", network={"class": "unet", "tile": 32})
AE = ModelSpec(
    name="ae",
    version="t",
    network={"class": "unet", "inputs": ["slice"], "skips": False, "dose_head": False},
    outputs=("quality_map",),
)


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_one_channel_n2q_has_the_published_number_of_parameters() -> None:
    spec = dataclasses.replace(N2Q, network={"class": "unet", "inputs": ["slice"]})
    assert parameters(build(spec)) == 1_963_622  # of the authors' notebook


def test_n2q_adds_one_input_channel_to_that() -> None:
    assert parameters(build(N2Q)) == 1_963_622 + 16 * 3 * 3


@pytest.mark.parametrize(("spec", "gflop"), [(N2Q, 28.0), (SMALL, 1.68), (PLUS, 2.56)])
def test_arithmetic_of_a_512_slice(spec: ModelSpec, gflop: float) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network = build(spec).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, 512, 512))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.02)


def test_red_cnn_has_the_published_layers() -> None:
    """Ten 5x5 layers: 1 to 96, eight of 96 to 96, 96 to 1, with biases."""
    assert parameters(build(REDCNN)) == (25 * 96 + 96) + 8 * (25 * 96 * 96 + 96) + (25 * 96 + 1)


def test_red_cnn_sees_no_farther_than_it_says() -> None:
    network = build(REDCNN).eval()
    radius = network.reach
    hu = torch.zeros(1, 1, 96, 96)
    changed = hu.clone()
    changed[..., 48, 48] = 100.0
    with torch.no_grad():
        moved = (network(hu)[0] != network(changed)[0])[0, 0].nonzero()
    assert (moved - 48).abs().max() == radius == 20


def test_an_autoencoder_has_no_skips() -> None:
    """Its decoder convolutions take what comes from below alone: 256, 128, 64 and 32 channels."""
    network = build(AE)
    inputs = [getattr(network, f"dconv_up{level}")[0].in_channels for level in (4, 3, 2, 1)]
    assert inputs == [256, 128, 64, 32]


def test_a_tiled_network_treats_every_tile_on_its_own() -> None:
    network = build(TILED).eval()
    hu = 200.0 * torch.randn(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        quality, dose = network(hu)
        tile_quality, tile_dose = network(hu[1:, :, 32:, 64:])
        tile_doses = [
            network(hu[1:, :, row : row + 32, column : column + 32])[1]
            for row in (0, 32)
            for column in (0, 32, 64)
        ]
    assert torch.allclose(quality[1:, :, 32:, 64:], tile_quality, atol=1e-6)
    assert torch.allclose(dose[1:], torch.stack(tile_doses).mean(dim=0), atol=1e-6)
    assert torch.allclose(tile_dose, tile_doses[-1])


@pytest.mark.parametrize("spec", [N2Q, SMALL, PLUS, REDCNN, AE, TILED], ids=lambda spec: spec.name)
def test_outputs_keep_their_contract(spec: ModelSpec) -> None:
    hu = 2000.0 * torch.randn(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = dict(zip(spec.outputs, build(spec).eval()(hu), strict=True))
    quality = outputs["quality_map"]
    assert quality.shape == (2, 1, 64, 96)
    assert quality.min() >= 0
    assert quality.max() <= 1
    if "dose_probabilities" in outputs:
        dose = outputs["dose_probabilities"]
        assert dose.shape == (2, 5)
        assert torch.allclose(dose.sum(dim=1), torch.ones(2))
    if "log_variance" in outputs:
        assert outputs["log_variance"].shape == quality.shape
    if "noise_map" in outputs:
        assert outputs["noise_map"].shape == quality.shape
        assert outputs["noise_map"].min() > 0


def test_window_maps_its_edges_to_zero_and_one() -> None:
    """Width 300, centre 40: -110 HU to 190 HU."""
    hu = torch.tensor([-1000.0, -110.0, 40.0, 190.0, 3000.0])
    assert Window(40.0, 300.0)(hu).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_high_pass_keeps_edges_and_drops_flat_areas() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = 1.0
    high = HighPass()(image)[0, 0]
    assert high[:, :10].abs().max() < 1e-6
    assert high[:, 22:].abs().max() < 1e-6
    assert high[16, 16] > 0.2 > -0.2 > high[16, 15]


def test_local_variance_in_the_space_to_depth_domain_is_exact() -> None:
    """Against scipy's Gaussian filter with the SSIM's 11 taps, sigma 1.5."""
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    cells = LocalVariance(SsimDefinition())(F.pixel_unshuffle(image, BLOCK))
    found = F.pixel_shuffle(cells, BLOCK)[0, 0].numpy()
    exact = image[0, 0].double().numpy()
    mean = ndimage.gaussian_filter(exact, 1.5, radius=5)
    expected = ndimage.gaussian_filter(exact**2, 1.5, radius=5) - mean**2
    inner = (slice(12, -12),) * 2  # borders are padded differently
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-6)


def test_formula_head_gives_the_ssim_of_flat_tissue() -> None:
    """No noise share: SSIM 1 before the luminance factor. All noise: C2 / (v + C2)."""
    network = build(SMALL)
    variance = torch.full((1, 16, 2, 2), 4e-3)
    luminance = torch.full((1, 1, 2, 2), 50.0)
    c2 = 0.03**2
    for logit, expected in ((50.0, 1.0), (-50.0, c2 / (4e-3 + c2))):
        found = network._ssim(torch.full((1, 16, 2, 2), logit), luminance, variance).numpy()
        assert found == pytest.approx(expected, abs=1e-5)


def authors_state_dict(channels: int) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of the authors' notebook, written out by hand."""
    widths = [16, 32, 64, 128, 256]
    blocks = {"dconv_down1": (channels, 16)}
    blocks |= {f"dconv_down{i + 1}": (widths[i - 1], widths[i]) for i in range(1, 5)}
    blocks |= {f"dconv_up{i}": (widths[i] + widths[i - 1], widths[i - 1]) for i in range(4, 0, -1)}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (inputs, outputs) in blocks.items():
        for index, source in ((0, inputs), (3, outputs)):
            state[f"{name}.{index}.weight"] = 0.1 * torch.randn(outputs, source, 3, 3, generator=generator)
            state[f"{name}.{index}.bias"] = torch.zeros(outputs)
    state |= {"fc.weight": torch.zeros(5, 256), "fc.bias": torch.zeros(5)}
    state |= {"conv_last.weight": torch.zeros(1, 16, 1, 1), "conv_last.bias": torch.zeros(1)}
    return state


@pytest.mark.parametrize(
    ("channels", "name", "inputs"), [(1, "u-ssl", ["slice"]), (2, "n2q", ["slice", "high_pass"])]
)
def test_authors_weights_load_as_they_are(channels: int, name: str, inputs: list[str]) -> None:
    spec, state = convert(authors_state_dict(channels))
    assert spec.name == name
    assert spec.network["inputs"] == inputs
    network = build(spec)
    network.load_state_dict(state)
    # conv_last is zero: tanh(0) = 0 in [-1, 1] is 0.5 in [0, 1]; fc is zero: five equal probabilities.
    quality, dose = network.eval()(torch.zeros(1, 1, 32, 32))
    assert quality.detach().numpy() == pytest.approx(0.5)
    assert dose.detach().numpy() == pytest.approx(0.2)


@pytest.mark.parametrize("damage", ["missing", "shape", "foreign"])
def test_other_weights_are_refused(damage: str) -> None:
    state = authors_state_dict(2)
    if damage == "missing":
        del state["fc.bias"]
    elif damage == "shape":
        state["conv_last.weight"] = torch.zeros(3, 16, 1, 1)
    else:
        state = {"layer1.weight": torch.zeros(3)}
    with pytest.raises(ModelError, match="not the authors' network"):
        convert(state)


def test_unknown_network_class_is_refused() -> None:
    with pytest.raises(ModelError, match="network class 'resnet'"):
        build(dataclasses.replace(N2Q, network={"class": "resnet"}))


def test_unknown_network_argument_is_refused() -> None:
    with pytest.raises(ModelError, match="arguments do not fit"):
        build(dataclasses.replace(N2Q, network={"class": "unet", "depth": 3}))
