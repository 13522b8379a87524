"""PyCUDA built as docs/how-to/gpu.md says, against a stub of the driver: has it every name that is used?

There is no GPU and no driver on a development machine: the stub defines the driver's functions, and each says
that there is no device. So the module loads and its names can be looked at, and nothing is computed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from n2q_edge.runtimes import cuda_pycuda
from tests.helpers.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("BUILD_PYCUDA"), reason="takes minutes: BUILD_PYCUDA=1 runs it"),
]
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE, cuda.h
HEADERS = "cuda-headers/nvidia/cu13"


def documented() -> list[str]:
    """The commands of the page, from the headers to PyCUDA."""
    page = (ROOT / "docs" / "how-to" / "gpu.md").read_text("utf-8")
    (block,) = re.findall(r"```sh\n(pip install --target cuda-headers.*?)```", page, re.DOTALL)
    return [line for line in block.splitlines() if line]


def make_stub(folder: Path) -> None:
    """`libcuda.so` with every function that the driver's headers declare."""
    include = folder / HEADERS / "include"
    header = "".join((include / name).read_text("latin-1") for name in ("cuda.h", "cudaProfiler.h"))
    names = set(re.findall(r"CUresult\s+CUDAAPI\s+(cu\w+)\s*\(", header))
    renamed = r"#define\s+cu\w+\s+(?:__CUDA_API_PTSZ\()?(cu\w+?)\)?\s*$"  # cuMemAlloc is cuMemAlloc_v2
    names |= set(re.findall(renamed, header, re.MULTILINE))
    assert len(names) > 200
    source = folder / "stub.c"
    source.write_text("".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in sorted(names)))
    library = folder / HEADERS / "lib" / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", source, "-o", library]
    subprocess.run(command, check=True, capture_output=True)
    (library.parent / "libcuda.so").symlink_to(library.name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A Python that has PyCUDA, and the environment it needs. Takes minutes and the network."""
    if not shutil.which("gcc") or not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("pycuda")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    environment["LD_LIBRARY_PATH"] = str(folder / HEADERS / "lib")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy"], check=True)
    headers, link, build = documented()
    for command in (headers, link, "stub", build):
        if command == "stub":
            make_stub(folder)
            continue
        run = ["sh", "-c", command]
        done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode and "No matching distribution" in done.stderr + done.stdout:
            pytest.skip("needs the package index")
        assert done.returncode == 0, done.stderr[-2000:]
    return python, environment


def used() -> set[str]:
    """What n2q_edge/runtimes/cuda_pycuda.py takes from `pycuda.driver`, with the parts of its objects."""
    tree = ast.parse(Path(cuda_pycuda.__file__).read_text("utf-8"))
    chains = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {chain.removeprefix("self._driver.") for chain in chains if chain.startswith("self._driver.")}


METHODS = {
    "Device": ("compute_capability", "get_attribute", "name", "retain_primary_context", "total_memory"),
    "Context": ("get_current", "push", "detach"),
    "Stream": ("handle", "synchronize"),
    "Event": ("record", "time_since"),
    "DeviceAllocation": ("free", "__int__"),
    "PagelockedHostAllocation": ("get_device_pointer",),
}
"""Of the objects it gets from there."""


def test_the_built_module_has_every_name_that_is_used(built: tuple[Path, dict[str, str]]) -> None:
    python, environment = built
    names = sorted(used() | {f"{kind}.{name}" for kind, methods in METHODS.items() for name in methods})
    assert "Stream" in names
    assert "host_alloc_flags.DEVICEMAP" in names
    code = (
        "import functools, json, sys, pycuda, pycuda.driver as driver\n"
        "def has(name):\n"
        "    try: functools.reduce(getattr, name.split('.'), driver)\n"
        "    except AttributeError: return False\n"
        "    return True\n"
        "print(json.dumps([name for name in json.loads(sys.argv[1]) if not has(name)]))\n"
        "print(pycuda.VERSION_TEXT)"
    )
    command = [str(python), "-c", code, json.dumps(names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing, _version = done.stdout.splitlines()
    assert json.loads(missing) == []
