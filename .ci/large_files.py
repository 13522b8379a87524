"""Refuse large files in git: history keeps every one of them for ever.

python .ci/large_files.py    # looks at what git tracks or is about to commit; exit code 1 names the files

A model that is not released is committed once, when it is final, as float16.
"""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

LIMIT_MB = 1.0
# Path pattern -> its own limit, MB.
ALLOWED_MB = {
    "n2q_edge/released_models/n2q-*.onnx": 4.0,
    "n2q_edge/released_models/n2q-*.safetensors": 4.0,
    "export/n2q-*.safetensors": 4.0,  # the released models' checkpoints
    **{
        f"export/{name}.safetensors": 8.0  # the paper's systems
        for name in ("ae", "n2q", "red-cnn", "u-con", "u-hpf", "u-net", "u-ssl")
    },
}


def limit_mb(path: str) -> float:
    """What a file may weigh."""
    return next((mb for pattern, mb in ALLOWED_MB.items() if fnmatch(path, pattern)), LIMIT_MB)


def too_large(root: Path) -> list[str]:
    """A line for each tracked file under `root` that is over its limit."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True)
    lines = []
    for path in filter(None, listed.stdout.split("\0")):
        megabytes = (root / path).stat().st_size / 1e6 if (root / path).is_file() else 0.0
        if megabytes > limit_mb(path):
            lines.append(f"{path} has {megabytes:.1f} MB, the limit is {limit_mb(path):g}")
    return lines


def main() -> int:
    """Print what is too large; the exit code."""
    lines = too_large(Path.cwd())
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        print("large files stay in the history for ever: keep them elsewhere, or", file=sys.stderr)
        print("give them a limit in .ci/large_files.py if they belong here", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
