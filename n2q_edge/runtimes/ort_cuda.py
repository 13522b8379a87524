"""ONNX Runtime on an NVIDIA GPU through its CUDA provider."""

from __future__ import annotations

from n2q_edge.runtimes import ort
from n2q_edge.runtimes.checks import Choice
from n2q_edge.runtimes.model_file import ModelFile

NAME = "onnxruntime-cuda"
EXTRA = "ort-gpu"
SUFFIXES = ort.SUFFIXES
PROVIDER = "CUDAExecutionProvider"

version = ort.version


def is_available() -> bool:
    """The installed ONNX Runtime has the provider."""
    return ort.has_provider(PROVIDER)


def open(model: ModelFile, threads: int, choice: Choice) -> ort.OnnxRuntimeModel:
    """Open an ONNX file on the GPU; see `ort.open_on_gpu`."""
    return ort.open_on_gpu(NAME, model, threads, choice, PROVIDER)
