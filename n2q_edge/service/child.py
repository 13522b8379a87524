"""`python -m n2q_edge.service.child receiver|worker|outbox`: one process of the supervisor."""

from __future__ import annotations

import sys
from importlib import import_module

from n2q_edge.service.process import run_child

NAMES = ("receiver", "worker", "outbox")

if __name__ == "__main__":
    name = sys.argv[1]
    if name not in NAMES:
        raise SystemExit(f"no process {name!r}: {', '.join(NAMES)}")
    sys.exit(run_child(name, import_module(f"n2q_edge.service.{name}").work))
