"""Systems, baselines and the best possible predictor on the same cases: scores and pages (extra `train`)."""
