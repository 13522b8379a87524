"""The spec survives every file it travels in."""

import json
from dataclasses import replace

import pytest

from n2q_edge.errors import ModelError
from n2q_edge.spec import SPEC_KEY, FeatureLimits, ModelSpec

SPEC = ModelSpec(
    name="n2q",
    version="1",
    network={"class": "unet", "inputs": ["slice"]},
    outputs=("quality_map", "dose_probabilities", "noise_map"),
    training={"steps": 3},
)


def test_json_round_trip() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize("optional", [(), ("noise_map",), ("log_variance", "noise_map")])
def test_only_the_quality_map_is_required(optional: tuple[str, ...]) -> None:
    spec = ModelSpec("map", "1", {}, outputs=("quality_map", *optional))
    assert ModelSpec.from_json(spec.to_json()).outputs == ("quality_map", *optional)
    assert spec.predicted_doses == ()
    assert SPEC.predicted_doses == SPEC.dose_levels


def test_the_domain_travels_and_old_files_have_none() -> None:
    domain = {"fat": FeatureLimits((0.1, 0.5), (0.05, 0.55))}
    assert ModelSpec.from_json(replace(SPEC, domain=domain).to_json()).domain == domain
    old = json.loads(SPEC.to_json())
    del old["domain"]
    assert ModelSpec.from_json(json.dumps(old)).domain is None


def test_the_inputs_travel_and_old_files_have_one() -> None:
    told = replace(SPEC, inputs=("hu", "reference_noise_hu"), map_cell=8)
    assert ModelSpec.from_json(told.to_json()) == told
    assert told.takes_reference
    old = json.loads(SPEC.to_json())
    del old["inputs"], old["map_cell"]
    assert ModelSpec.from_json(json.dumps(old)) == SPEC
    assert not SPEC.takes_reference


def test_metadata_without_a_spec_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.onnx carries no n2q-edge model spec"):
        ModelSpec.from_metadata({"author": "x"}, "model.onnx")


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"window_width": 0},
        {"outputs": ["dose_probabilities", "quality_map"]},
        {"outputs": ["quality_map", "dose_probabilities", "mystery"]},
        {"outputs": ["quality_map", "noise_map", "noise_map"]},
        {"outputs": ["dose_probabilities"]},
        {"dose_levels": []},
        {"unknown_field": 1},
        {"network": "unet"},
        {"network": {"class": 7}},
        {"network": None},
        {"name": 7},
        {"version": None},
        {"training": []},
        {"precision": 16},
        {"window_center": float("inf")},
        {"window_width": float("nan")},
        {"window_width": float("inf")},
        {"window_width": "300"},
        {"size_multiple": 1.5},
        {"size_multiple": 10**9},
        {"dose_levels": [0.5, 0.25]},
        {"dose_levels": [float("nan")]},
        {"dose_levels": [0.5, 2.0]},
        {"outputs": ["quality_map", ["noise_map"]]},
        {"ssim": {"sigma": float("nan")}},
        {"ssim": {"window": "11"}},
        {"domain": {"fat": {"training": [0.1, 0.5], "limits": [float("-inf"), 0.6]}}},
        {"ssim": {"window": 11, "surprise": 1}},
        {"domain": []},
        {"domain": {"fat": [0.1, 0.5]}},
        {"domain": {"fat": {"training": [0.1], "limits": [0, 1]}}},
        {"inputs": ["reference_noise_hu"]},
        {"map_cell": 3},
        {"map_cell": 8, "size_multiple": 4},
        {"domain": {"fat": {"training": [0.1, 0.5], "limits": [0.2, 0.6]}}},
        {"domain": {"fat": {"training": [0.1, 0.5], "limits": [float("nan"), 0.6]}}},
    ],
)
def test_a_wrong_spec_is_refused(change: dict[str, object]) -> None:
    text = json.dumps({**json.loads(SPEC.to_json()), **change})
    with pytest.raises(ModelError):
        ModelSpec.from_metadata({SPEC_KEY: text}, "x")


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "not json", "[" * 100_000, '{"schema_version": 1}'])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        ModelSpec.from_json(text)
