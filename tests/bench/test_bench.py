"""`n2q-edge bench` as a whole, on the released model and a small slice. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")

from n2q_edge.bench import compare, document
from n2q_edge.bench.inputs import made_up_slice, padded
from n2q_edge.bench.loadgen import parse_summary, run
from n2q_edge.bench.measure import Candidate, Plan, measure
from n2q_edge.cli import main
from n2q_edge.errors import ModelError, UsageError
from n2q_edge.released_models import released
from n2q_edge.runtimes import open_model
from n2q_edge.spec import HU_MIN

QUICK = ["--slices", "4", "--rounds", "2", "--size", "64", "--threads", "1"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the command line, on two candidates."""
    file = tmp_path_factory.mktemp("bench") / "result.json"
    model = str(released().onnx)
    wanted = ["--runtime", "onnxruntime", "--runtime", "auto", "--mode", "latency", "--mode", "throughput"]
    plot = str(file.with_suffix(".png"))
    assert main(["bench", model, *wanted, *QUICK, "--json", str(file), "--plot", plot, "--quiet"]) == 0
    return file


@pytest.fixture(scope="module")
def found(result: Path) -> dict[str, Any]:
    return document.read(result)


def test_the_document_names_machine_model_and_runtime(found: dict[str, Any]) -> None:
    first = found["candidates"][0]
    assert found["schema_version"] == 1
    assert found["machine"]["cpu"]
    assert first["model"]["sha256"] == released().sha256
    assert first["runtime"]["name"] == "onnxruntime"
    assert "model_path" not in first["runtime"]  # it may name the user
    assert first["start_ms"]["to_first_result"] > first["start_ms"]["open"]


def test_every_sample_is_counted(found: dict[str, Any]) -> None:
    for candidate in found["candidates"]:
        for load in ("saturated", "idle"):
            total = candidate["latency_ms"][load]["total"]
            assert total["n"] == 4
            assert 0 < total["minimum"] <= total["p50"] <= total["p90"] <= total["maximum"]
            assert total["p99"] is None
        assert candidate["latency_ms"]["saturated"]["h2d"] is None  # a CPU copies nothing
        assert [row["batch"] for row in candidate["throughput"]] == [1, 2, 4, 8]


def test_the_first_candidate_is_the_baseline(found: dict[str, Any]) -> None:
    ratios = found["comparison"]["time_ratio"]
    assert (ratios[0]["median"], ratios[0]["low"], ratios[0]["high"]) == (1.0, 1.0, 1.0)
    assert ratios[1]["rounds"] == 2


def test_energy_is_null_with_reasons_where_nothing_can_be_read(found: dict[str, Any]) -> None:
    if found["sensors"]["read"]:
        pytest.skip("this machine has a power sensor")
    assert all(candidate["energy"] is None for candidate in found["candidates"])
    assert set(found["sensors"]["not_readable"]) == {"nvml", "ina", "rapl"}


def test_the_plot_is_a_picture(result: Path) -> None:
    assert result.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_result_compared_to_itself(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--compare", str(result), str(result)]) == 0
    assert "1.00" in capsys.readouterr().out


def test_twice_the_time_is_a_ratio_of_two(found: dict[str, Any]) -> None:
    slower = json.loads(json.dumps(found))
    for candidate in slower["candidates"]:
        candidate["latency_ms"]["saturated"]["total"]["p50"] *= 2
    (pair,) = compare.pairs(found, slower)
    assert pair["time_ratio"] == pytest.approx(2.0)
    assert pair["same_file"]


def test_machines_with_other_precisions_are_compared(found: dict[str, Any]) -> None:
    gpu = json.loads(json.dumps(found))
    for candidate in gpu["candidates"]:
        candidate["model"] |= {"precision": "fp16-norm32", "sha256": "0" * 64}
    (pair,) = compare.pairs(found, gpu)
    assert not pair["same_file"]
    assert pair["second"]["how"].startswith("fp16-norm32 ")


def test_other_sizes_are_not_compared(found: dict[str, Any]) -> None:
    other = found | {"input": {"shape": [1, 1, 512, 512], "made_up": True}}
    with pytest.raises(UsageError, match="--size"):
        compare.pairs(found, other)


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "something"}'])
def test_a_file_that_is_no_benchmark(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    assert main(["bench", "--compare", str(file), str(file)]) == 2


def test_an_error_of_the_child_is_the_error_of_the_command(tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"junk\.onnx"):
        measure([Candidate(junk, "onnxruntime")], Plan(slices=1, rounds=1, size=64))


@pytest.mark.parametrize(
    "arguments",
    [["--mode", "stream"], ["--mode", "fast"], ["--runtime", "none"], ["--plot", "x.txt"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert main(["bench", *arguments, *QUICK, "--quiet"]) == 2


def test_padding_is_air_and_repeats_the_slice() -> None:
    batch = padded(made_up_slice(50, 70), 16, batch=2)
    assert batch.shape == (2, 1, 64, 80)
    assert (batch[:, :, 50:] == HU_MIN).all()
    assert (batch[0] == batch[1]).all()


def test_loadgen_summary() -> None:
    lines = ["SUT name : PySUT", "Result is : VALID", "90.00 percentile latency (ns)   : 25000000"]
    assert parse_summary(lines) == {
        "SUT name": "PySUT",
        "Result is": "VALID",
        "90.00 percentile latency (ns)": 25_000_000.0,
    }


def test_loadgen_drives_a_runtime() -> None:
    pytest.importorskip("mlperf_loadgen")
    with open_model(runtime="onnxruntime", threads=1) as runtime:
        found = run(runtime, made_up_slice(64, 64), "SingleStream", seconds=0.2, queries=3)
    assert found["Scenario"] == "SingleStream"
    assert float(found["90.00 percentile latency (ns)"]) > 0


def test_stream_is_assess(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    assert main(["phantom", str(tmp_path / "series"), "--slices", "2", "--quiet"]) == 0
    plan = Plan(modes=("stream",), slices=2, rounds=1, series=tmp_path / "series")
    (candidate,) = measure([Candidate(runtime="onnxruntime", threads=1)], plan)["candidates"]
    assert (candidate["stream"]["slices"], candidate["stream"]["rejected"]) == (2, 0)
    assert candidate["stream"]["stages_ms"]["total"]["n"] == 2
