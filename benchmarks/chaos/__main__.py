"""Faults in bulk runs: `python -m benchmarks.chaos [--seed 1] [--images 2000] [--faults 60] [--short]`.

Three Ray nodes on this machine segment images from an S3 server behind a proxy of ours. Processes are killed and
stopped, nodes are lost, and the store fails, at random moments that follow from the seed. The command is repeated as a
scheduler would repeat it, until the run is complete. Then its rows are compared with those of an undisturbed run.

The exit code is 1 unless nothing is lost, doubled or different. docs/faults.md explains the table.
"""

import json
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.chaos.config import ChaosConfig
from benchmarks.chaos.table import format_outcomes
from benchmarks.swift import swift_server
from pipeline import cli

PAGE = 1000  # keys on a page of a listing, as S3 has


def main(argv: list[str]) -> int:
    """Run the episodes and print the table."""
    config = cli.parse(ChaosConfig, argv, description=__doc__ or "")
    episodes = config.episodes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the context managers, which end all processes
    from benchmarks.chaos.benchmark import run_chaos

    with TemporaryDirectory(prefix="segpipe-chaos-") as name:
        folder = Path(name)
        with swift_server(folder / "swift", page=PAGE) as server:
            outcomes = run_chaos(
                episodes,
                seed=config.seed,
                images=config.image_count,
                pace=config.images_per_second,
                server=server,
                folder=folder,
                show=_show,
            )
    planned = sum(sum(episode.faults.values()) for episode in episodes)
    print(format_outcomes(outcomes, seed=config.seed, planned=planned))
    if config.output is not None:
        content = {"options": config.model_dump(mode="json"), "episodes": [one.as_json() for one in outcomes]}
        config.output.write_text(json.dumps(content, indent=2))
    return 1 if any(one.wrong for one in outcomes) else 0


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
