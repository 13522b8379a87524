"""Training and evaluation of the networks on simulated doses (extra `train`)."""
