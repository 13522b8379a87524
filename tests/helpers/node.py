"""A whole node, started as its users start it, and the peers it talks to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from n2q_edge.service.revisions import Manifest, Results

ORTHANC = shutil.which("Orthanc") or next(
    (path for path in ("/usr/sbin/Orthanc",) if os.access(path, os.X_OK)), None
)
STORESCU = shutil.which("storescu")
CHROMIUM = shutil.which("chromium")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `holds` returns when it is true."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, f"{what} within {seconds:g} s"
        time.sleep(0.05)
    return value


class Node:
    """`n2q-edge listen` in processes of its own."""

    def __init__(self, folder: Path, more: str = "", **sections: dict[str, Any]) -> None:
        self.folder, self.port, self.web = folder, free_port(), free_port()
        self.data = folder / "data"
        tables: dict[str, dict[str, Any]] = {
            "node": {"port": self.port, "data": str(self.data), "max_associations": 8},
            "spool": {"reserve_mb": 1, "hold_s": 1},
            "series": {"quiet_s": 1.5},
            "assess": {"worst": 1, "nice": 0},
            "status": {"port": self.web},
            "retry": {"first_s": 0.3, "longest_s": 1},
        }
        for name, keys in sections.items():
            tables.setdefault(name, {}).update(keys)
        lines = []
        for name, keys in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self.config = folder / "n2q-edge.toml"
        self.config.write_text("\n".join(lines) + "\n" + more)
        self.log = folder / "log.json"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: bool = True) -> Node:
        command = [sys.executable, "-m", "n2q_edge", "listen", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if ready:
            wait_for("the node is ready", self.ready, 90)
        return self

    def ready(self) -> bool:
        assert self.process is None or self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return bool(json.loads(self.get("readyz"))["ready"])
        except OSError:
            return False

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/{path}", timeout=20) as answer:
            return str(answer.read().decode())

    def pid(self, name: str) -> int | None:
        """Of a child that lives; None while there is none."""
        try:
            pid = int(json.loads((self.data / "run" / f"{name}.json").read_text())["pid"])
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid

    def kill(self, name: str) -> None:
        """kill -9."""
        if name == "supervisor":
            assert self.process is not None
            self.process.kill()
            self.process.wait()
        elif pid := self.pid(name):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(45)

    def manifests(self) -> list[Manifest]:
        if not (self.data / "results").exists():
            return []
        results = Results(self.data)
        return [
            results.read(path.parent) for path in sorted((self.data / "results").glob("*/r*/manifest.json"))
        ]

    def latest(self) -> list[Manifest]:
        """The newest result of every series."""
        return list({each.series_key: each for each in self.manifests()}.values())

    def undelivered(self) -> int:
        return len(list((self.data / "outbox" / "pending").glob("*.json")))

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(45)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Orthanc:
    """An Orthanc server with an empty store."""

    def __init__(self, folder: Path, node_port: int | None = None, lua: str = "", **more: Any) -> None:
        self.http, self.port = free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        if lua:
            (folder / "script.lua").write_text(lua)
        config = {
            "Name": "test",
            "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
            "HttpPort": self.http,
            "DicomPort": self.port,
            "DicomAet": "PACS",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomCheckModalityHost": False,
            "StableAge": 2,
            "LuaScripts": [str(folder / "script.lua")] if lua else [],
            "DicomModalities": {"n2q": ["N2Q-EDGE", "127.0.0.1", node_port]} if node_port else {},
            "OverwriteInstances": True,
            **more,
        }
        (folder / "orthanc.json").write_text(json.dumps(config))
        assert ORTHANC
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
        wait_for("Orthanc answers", self._answers, 30)

    def _answers(self) -> bool:
        try:
            self.get("system")
        except OSError:
            return False
        return True

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def uids(self, modality: str | None = None) -> list[str]:
        """SOP Instance UIDs of everything stored."""
        instances = [self.get(f"instances/{name}/simplified-tags") for name in self.get("instances")]
        return [tags["SOPInstanceUID"] for tags in instances if modality in (None, tags.get("Modality"))]

    def send(self, path: Path) -> None:
        """Put a file into its store."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/instances", data=path.read_bytes(), method="POST"
        )
        urllib.request.urlopen(request, timeout=10).close()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def __enter__(self) -> Orthanc:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def destination(port: int, **more: Any) -> str:
    """TOML of a DICOM destination named pacs."""
    keys = {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": port, "ae_title": "PACS", **more}
    return (
        "[[destination]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()) + "\n"
    )


def storescu(folder: Path, port: int) -> set[str]:
    """Send a folder with dcmtk; the names of the files that were acknowledged."""
    command = [
        "storescu",
        "-v",
        "-aet",
        "CT1",
        "-aec",
        "N2Q-EDGE",
        "127.0.0.1",
        str(port),
        "+sd",
        str(folder),
    ]
    done = subprocess.run(
        command,
        env={"TCP_NODELAY": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    acknowledged, current = set(), ""
    for line in (done.stdout + done.stderr).splitlines():
        if "Sending file: " in line:
            current = line.partition("Sending file: ")[2].strip()
        elif "Received Store Response (Success)" in line:
            acknowledged.add(Path(current).name)
    return acknowledged
