"""Measurements of bundles on this machine: parity, tuning, benchmarks, and the doctor's checks."""
