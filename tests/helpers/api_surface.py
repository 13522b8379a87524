"""Write tests/data/api_surface/*.json: what the Python bindings of each TensorRT offer.

    python tests/helpers/api_surface.py

needs Linux x86-64, gcc, pip and PyPI; no GPU. The wheels of `tensorrt-cu12-bindings` hold a compiled module
whose libraries (libnvinfer, gigabytes) need not be there: the module takes nine functions from them and calls
none when it is imported. So each wheel is unpacked beside empty libraries of the right names that define
these functions, imported in a process of its own, and listed. `tensorrt_rtx` is imported as it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OUT = Path(__file__).parents[1] / "data" / "api_surface"
TENSORRT = {"tensorrt-10.3": "10.3.0", "tensorrt-10.13": "10.13.3.9", "tensorrt-11.4": "11.4.0.106"}
RTX = "1.7.1.116"
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LIST = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))
classes = {name: public(thing) for name, thing in vars(module).items() if isinstance(thing, type)}
json.dump({"version": module.__version__, "module": public(module), "classes": classes}, sys.stdout)
"""


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for name, version in TENSORRT.items():
        with tempfile.TemporaryDirectory() as folder:
            _write(name, _list_bindings(Path(folder), version))
    with tempfile.TemporaryDirectory() as folder:
        _pip(
            "install",
            "--target",
            folder,
            f"tensorrt-rtx-cu12-bindings=={RTX}",
            f"tensorrt-rtx-cu12-libs=={RTX}",
        )
        _write("tensorrt_rtx", _list("tensorrt_rtx_bindings", Path(folder)))


def _list_bindings(folder: Path, version: str) -> str:
    _pip("download", "--dest", str(folder), f"tensorrt-cu12-bindings=={version}")
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    major = version.split(".")[0]
    for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        # beside the module: its run path starts with its own folder
        soname = f"lib{library}.so.{major}"
        target = folder / "tensorrt_bindings" / soname
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", target, source], check=True)
    return _list("tensorrt_bindings", folder)


def _pip(command: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments], check=True)


def _list(module: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIST, module], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def _write(name: str, listing: str) -> None:
    found = json.loads(listing)
    (OUT / f"{name}.json").write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    print(name, found["version"], len(found["module"]), "names,", len(found["classes"]), "classes")


if __name__ == "__main__":
    main()
