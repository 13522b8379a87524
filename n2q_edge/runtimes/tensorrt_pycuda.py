"""TensorRT engines with PyCUDA as the access to the GPU; see `tensorrt`."""

from __future__ import annotations

from n2q_edge.runtimes import cuda_pycuda, tensorrt
from n2q_edge.runtimes.checks import Choice
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.runtimes.tensorrt_library import any_installed

NAME = "tensorrt-pycuda"
EXTRA = "pycuda"
SUFFIXES = tensorrt.SUFFIXES

version = tensorrt.version


def is_available() -> bool:
    """A TensorRT and PyCUDA are installed; says nothing about a GPU."""
    return cuda_pycuda.is_available() and any_installed()


def open(model: ModelFile, threads: int, choice: Choice) -> tensorrt.TensorRTModel:
    """Open an engine on GPU 0; see `tensorrt.open`."""
    return tensorrt.open_with(NAME, cuda_pycuda.open, model, choice)
