"""`python -m n2q_edge` is `n2q-edge`."""

from n2q_edge.cli import entry

entry()
