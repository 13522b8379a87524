"""Files in, results out: run, lanes, one slice, results; every stage timed."""
