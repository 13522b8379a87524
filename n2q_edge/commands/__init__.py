"""The commands of the command line, a module for each kind; `n2q_edge.cli` registers them."""
