"""The sidecar: a JSON file beside an engine that says what went into it.

An engine cannot be trusted by its bytes: two builds of one model differ, and it does not hold the model's
spec. So its identity is the hash of its inputs, and the sidecar ties them to the file by SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from n2q_edge.errors import ModelError
from n2q_edge.spec import ModelSpec

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Sidecar:
    """What went into an engine.

    Attributes:
        engine_sha256: of the engine file.
        engine_bytes: its length.
        onnx_name: file name of the ONNX file it was built from.
        onnx_sha256: of that file.
        spec: the model's spec.
        flavor: `tensorrt` or `tensorrt-rtx`.
        version: of the library that built it.
        capabilities: compute capabilities it runs on, e.g. `8.6`.
        shapes: of its inputs and outputs, by name.
        flags: builder flags that differ from the library's defaults, e.g. `-TF32`.
        targets: names of the target profiles it was built for; empty for "the GPU present".
        workspace_mib: limit of the builder's scratch memory.
        device: the GPU it was built on, None without one.
        build_seconds: how long the build took.
        built_at: when, UTC, ISO 8601.
        n2q_edge: version of this package.
    """

    engine_sha256: str
    engine_bytes: int
    onnx_name: str
    onnx_sha256: str
    spec: ModelSpec
    flavor: str
    version: str
    capabilities: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    flags: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    workspace_mib: int = 0
    device: str | None = None
    build_seconds: float = 0.0
    built_at: str = ""
    n2q_edge: str = ""
    identity: str = field(init=False, default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", self._identity())

    def _identity(self) -> str:
        inputs = {
            "onnx_sha256": self.onnx_sha256,
            "flavor": self.flavor,
            "version": self.version,
            "capabilities": sorted(self.capabilities),
            "shapes": {name: list(shape) for name, shape in sorted(self.shapes.items())},
            "flags": sorted(self.flags),
            "workspace_mib": self.workspace_mib,
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The sidecar as indented JSON."""
        fields = asdict(self)
        fields["spec"] = json.loads(self.spec.to_json())
        return json.dumps({"schema_version": SCHEMA_VERSION, **fields}, indent=1, sort_keys=True) + "\n"

    def rebuild_command(self, engine: Path) -> str:
        """The command line that builds this engine again from the ONNX file."""
        shape = self.shapes["hu"]
        words = ["n2q-edge", "build", self.onnx_name, "--flavor", self.flavor]
        for target in self.targets:
            words += ["--target", target]
        if (shape[2], shape[3]) != (512, 512):
            words += ["--size", f"{shape[2]}x{shape[3]}"]
        if shape[0] != 1:
            words += ["--batch", str(shape[0])]
        return shlex.join([*words, "-o", str(engine)])


def sidecar_path(engine: Path) -> Path:
    """Where an engine's sidecar is: `X.engine` -> `X.engine.json`."""
    return engine.with_name(engine.name + ".json")


def read_sidecar(engine: Path) -> Sidecar:
    """Read the sidecar of an engine.

    Raises:
        ModelError: missing, damaged, or of another schema version.
    """
    path = sidecar_path(engine)
    again = "build the engine again with 'n2q-edge build', which writes both"
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{engine} has no sidecar {path.name} beside it: copy it, too, or {again}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"sidecar {path} cannot be read ({type(error).__name__}): {again}") from None
    try:
        return _from_fields(fields)
    except (ModelError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"sidecar {path} is damaged or of another version ({error}): {again}") from None


def _from_fields(fields: dict[str, Any]) -> Sidecar:
    schema = fields.pop("schema_version")
    if schema != SCHEMA_VERSION:
        raise ModelError(f"schema version {schema}, this n2q-edge reads {SCHEMA_VERSION}")
    identity = fields.pop("identity")
    fields["spec"] = ModelSpec.from_json(json.dumps(fields["spec"]))
    fields["shapes"] = {name: tuple(map(int, shape)) for name, shape in fields["shapes"].items()}
    for name in ("capabilities", "flags", "targets"):
        fields[name] = tuple(map(str, fields[name]))
    sidecar = Sidecar(**fields)
    if set(sidecar.spec.inputs) - set(sidecar.shapes):
        raise ModelError(f"no shape of the inputs {list(sidecar.spec.inputs)}")
    if "hu" not in sidecar.shapes or len(sidecar.shapes["hu"]) != 4:
        raise ModelError("no shape of the input 'hu'")
    for name in ("engine_sha256", "onnx_name", "onnx_sha256", "flavor", "version"):
        if not isinstance(getattr(sidecar, name), str):
            raise ModelError(f"{name} is not text")
    if not isinstance(sidecar.engine_bytes, int):
        raise ModelError("engine_bytes is not a number")
    if sidecar.identity != identity:
        raise ModelError("its identity is not the hash of its inputs")
    return sidecar


def check_file(engine: Path, data_sha256: str, length: int, sidecar: Sidecar) -> None:
    """Hold an engine file against its sidecar.

    Raises:
        ModelError: it is not the file the sidecar was written for.
    """
    if data_sha256 == sidecar.engine_sha256:
        return
    rebuild = sidecar.rebuild_command(engine)
    if length < sidecar.engine_bytes:
        raise ModelError(
            f"{engine} is truncated ({length} of {sidecar.engine_bytes} bytes): copy it again or build it "
            f"again: {rebuild}"
        )
    raise ModelError(
        f"{engine} is not the file its sidecar describes (SHA-256 {data_sha256[:12]}..., expected "
        f"{sidecar.engine_sha256[:12]}...): copy both again or build it again: {rebuild}"
    )
