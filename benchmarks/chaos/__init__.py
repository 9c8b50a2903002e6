"""Faults injected into bulk runs, and the proof that no row is lost, doubled or different: `benchmarks.chaos`."""
