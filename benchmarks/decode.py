"""What compressed input costs: decoding alone, and whole series against inference alone.

The phantom series is written in every lossless syntax that pydicom can encode. All take turns.

    python -m benchmarks.decode --json benchmarks/results/decode-NAME.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pydicom
from pydicom import uid

from benchmarks import prepare
from n2q_edge.bench import document, sensors
from n2q_edge.bench.inputs import middle_slice
from n2q_edge.bench.process import Process
from n2q_edge.bench.statistics import summarise
from n2q_edge.dicom import LoadedSlice, SliceReader, scan

SYNTAXES = (
    "ExplicitVRLittleEndian",
    "DeflatedExplicitVRLittleEndian",
    "RLELossless",
    "JPEGLosslessSV1",
    "JPEGLSLossless",
    "JPEG2000Lossless",
)
ROUNDS = 5


def transcoded(source: Path, target: Path, keyword: str) -> Path:
    """The series in another syntax; made once."""
    files = sorted(source.rglob("*.dcm"))
    syntax = getattr(uid, keyword)
    if target.is_dir() and len(list(target.iterdir())) == len(files):
        return target
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        if keyword == "JPEGLosslessSV1":
            _with_gdcm(file, target / file.name)
            continue
        dataset = pydicom.dcmread(file)
        if keyword == "JPEG2000Lossless":
            _with_openjpeg(dataset)
        elif syntax.is_encapsulated:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(target / file.name)
    return target


def _with_openjpeg(dataset: pydicom.Dataset) -> None:
    """pydicom reaches this encoder only through a package that is no dependency."""
    from openjpeg.utils import encode_pixel_data
    from pydicom.encaps import encapsulate

    codestream = encode_pixel_data(
        dataset.PixelData,
        rows=dataset.Rows,
        columns=dataset.Columns,
        samples_per_pixel=1,
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsStored,
        pixel_representation=dataset.PixelRepresentation,
        is_signed=bool(dataset.PixelRepresentation),
        photometric_interpretation="MONOCHROME2",
    )
    dataset.PixelData = encapsulate([bytes(codestream)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def _with_gdcm(source: Path, target: Path) -> None:
    """pydicom has no encoder for JPEG Lossless, GDCM has."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    writer = gdcm.ImageWriter()
    if not reader.Read():
        raise SystemExit(f"GDCM cannot read {source}")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise SystemExit(f"GDCM cannot compress {source}")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(target))
    if not writer.Write():
        raise SystemExit(f"GDCM cannot write {target}")


def decode_ms(series: Path) -> list[float]:
    """Reading, decoding and conversion to HU of every slice; inflating counts as reading."""
    times = []
    with SliceReader() as reader:
        for ref in (ref for found in scan([series]).series for ref in found.slices):
            loaded = reader.load(ref)
            if not isinstance(loaded, LoadedSlice):
                raise SystemExit(f"{loaded.path}: {loaded.detail}")
            times.append(loaded.read_ms + loaded.decode_ms)
    return times


def run(work: Path) -> dict[str, Any]:
    source = prepare.series(work)
    folders = {keyword: transcoded(source, work / keyword, keyword) for keyword in SYNTAXES}
    decode: dict[str, list[float]] = {keyword: [] for keyword in SYNTAXES}
    stream: dict[str, list[float]] = {keyword: [] for keyword in SYNTAXES}
    alone: list[float] = []
    score: list[float] = []
    before = sensors.state()
    file = work / "slice.npy"
    np.save(file, middle_slice(source))
    with Process({"model": None, "runtime": "auto", "threads": None, "input": str(file)}) as process:
        process.ask("stream", series=str(source))
        for _ in range(ROUNDS):
            done = process.ask("throughput", slices=prepare.SLICES)
            alone.append(done["wall_ms"] / done["slices"])
            for keyword, folder in folders.items():
                decode[keyword] += decode_ms(folder)
                done = process.ask("stream", series=str(folder))
                stream[keyword].append(1000 * done["seconds"] / done["slices"])
                score += done["stages"]["score"]
    rows = [_row(keyword, folders, decode, stream, alone, score) for keyword in SYNTAXES]
    return {
        **document.header("n2q-edge decode"),
        "state_before": before,
        "state_after": sensors.state(),
        "slices": prepare.SLICES,
        "rounds": ROUNDS,
        "inference_only_ms": _figures(alone),
        "score_ms_in_stream": _figures(score),
        "rows": rows,
    }


def _row(
    keyword: str,
    folders: dict[str, Path],
    decode: dict[str, list[float]],
    stream: dict[str, list[float]],
    alone: list[float],
    score: list[float],
) -> dict[str, Any]:
    infer, work = median(alone), median(decode[keyword]) + median(score)
    shares = [mine / whole for mine, whole in zip(alone, stream[keyword], strict=True)]
    sizes = [file.stat().st_size for file in folders[keyword].iterdir() if file.is_file()]
    size = sum(sizes) / len(sizes) if sizes else None
    return {
        "syntax": keyword,
        "kb_a_slice": None if size is None else size / 1000,
        "read_and_decode_ms": _figures(decode[keyword]),
        "stream_ms": _figures(stream[keyword]),
        "throughput_of_inference_only": _figures(shares),
        "bound": infer / (infer + work / prepare.threads()),
    }


def _figures(values: list[float]) -> dict[str, Any]:
    found = summarise(values)
    return {
        "p50": found.p50,
        "p90": found.p90,
        "minimum": found.minimum,
        "maximum": found.maximum,
        "n": found.n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=prepare.WORK)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    document.write(run(options.work), options.json)


if __name__ == "__main__":
    main()
