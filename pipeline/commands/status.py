"""Show how far a bulk run is, from storage alone: while it goes on, after its driver died, or once it is finished.

Prints progress, speed, time left, the errors by cause, whether a driver is at work, and what to do next.

Examples:
    segpipe status s3://masks/run_id=2026-11-26 --watch
    segpipe status runs/run_id=a --format json
"""

import sys
import time

from pipeline import cli
from pipeline.bulk.upkeep_config import StatusConfig

CONFIG = StatusConfig


def main(argv: list[str]) -> None:
    """Print the status of a run, once or until it is finished."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline.bulk.status import StatusReader
    from pipeline.bulk.status_text import format_status, to_json

    reader = StatusReader(config.run)
    clear = "\x1b[H\x1b[2J" if config.watch and config.format == "text" and sys.stdout.isatty() else ""
    while True:
        status = reader.read()
        text = to_json(status) if config.format == "json" else format_status(status, causes=config.causes)
        print(clear + text, flush=True)
        if not config.watch or status.state == "finished":
            return
        try:
            time.sleep(config.every)
        except KeyboardInterrupt:
            return
