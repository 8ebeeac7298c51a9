"""The judge against the policies that people use, on the same simulated requests: `python -m benchmarks.judge`."""
