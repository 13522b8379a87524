"""Weights of one network in another: narrower, wider or deeper."""

import pytest

torch = pytest.importorskip("torch")

from n2q_edge.errors import UsageError
from n2q_edge.network import build
from n2q_edge.spec import ModelSpec
from n2q_edge.training.start import inherit


def network(
    widths: tuple[int, int, int], blocks: tuple[int, int, int] = (1, 1, 2), seed: int = 0
) -> torch.nn.Module:
    torch.manual_seed(seed)
    arguments = {"class": "compact", "widths": widths, "blocks": blocks, "merge": True}
    made = build(ModelSpec("t", "t", arguments)).eval()
    with torch.no_grad():  # the second layers of blocks and the context begin with zeros
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made


def test_the_same_network_gets_the_same_weights() -> None:
    source, target = network((8, 8, 8)), network((8, 8, 8), seed=1)
    inherit(target, source.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_channels_that_do_nothing_are_the_ones_left_out() -> None:
    """A narrow network inside a wide one, among channels of zeros: what is kept computes the same."""
    narrow, wide = network((8, 8, 16)), network((12, 16, 24))
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.zero_()
        for name, weights in narrow.state_dict().items():
            place = tuple(slice(size) for size in weights.shape)
            wide.state_dict()[name][place] = weights
    found = network((8, 8, 16), seed=1)
    inherit(found, wide.state_dict())
    hu = 200.0 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for expected, actual in zip(narrow(hu), found(hu), strict=True):
            assert torch.allclose(expected, actual, atol=1e-6)


@pytest.mark.parametrize(("widths", "blocks"), [((12, 8, 20), (1, 1, 2)), ((12, 16, 24), (3, 2, 2))])
def test_a_larger_network_begins_as_the_same_function(
    widths: tuple[int, int, int], blocks: tuple[int, int, int]
) -> None:
    source = network((8, 8, 16))
    larger = build(
        ModelSpec("t", "t", {"class": "compact", "widths": widths, "blocks": blocks, "merge": True})
    )
    inherit(larger, source.state_dict())
    hu = 200.0 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for expected, actual in zip(source(hu), larger.eval()(hu), strict=True):
            assert torch.allclose(expected, actual, atol=1e-5)


def test_new_channels_learn() -> None:
    """What they write is not nothing, or no gradient would ever reach them."""
    source = network((8, 8, 16))
    larger = build(ModelSpec("t", "t", {"class": "compact", "widths": (12, 8, 16), "merge": True}))
    inherit(larger, source.state_dict())
    larger(200.0 * torch.randn(1, 1, 64, 64))[0].sum().backward()
    gradient = dict(larger.named_parameters())["down_middle.weight"].grad
    assert gradient is not None
    assert (gradient[:, 8:].abs().sum(dim=(0, 2, 3)) > 0).all()


def test_a_network_of_fewer_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match="blocks"):
        inherit(network((8, 8, 8), (0, 1, 2)), network((8, 8, 8)).state_dict())


def test_another_layer_is_not_a_block() -> None:
    """A refinement of the middle stage would not begin as nothing."""
    plain = build(ModelSpec("t", "t", {"class": "compact", "widths": (8, 8, 8)}))
    with pytest.raises(UsageError, match="blocks"):
        inherit(network((8, 8, 8)), plain.state_dict())


def test_a_unet_is_refused() -> None:
    unet = build(ModelSpec("t", "t", {"class": "unet"}))
    with pytest.raises(UsageError, match="compact"):
        inherit(unet, unet.state_dict())
