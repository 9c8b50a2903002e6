"""Speed and quality against peers, as ratios measured in one run: `python -m benchmarks.NAME`."""
