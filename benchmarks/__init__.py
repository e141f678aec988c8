"""Benchmarks: calotype beside its peers, in one run. `python -m benchmarks --list` says what there is."""
