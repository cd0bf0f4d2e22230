"""Measurements of a bundle on this machine: parity, tuning, benchmarks, doctor."""
