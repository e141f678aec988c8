"""Programs that benchmarks run in fresh interpreters; each prints one line of JSON."""
