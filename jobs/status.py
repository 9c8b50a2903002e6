#!/usr/bin/env python3
"""Show how far a bulk run is, from storage alone: while it goes on, after its driver died, or once it is finished.

jobs/status.py OUTPUT/run_id=… [--watch] [--format json]

Prints progress, speed, time left, the errors by cause, whether a driver is at work, and what to do next.
"""

import sys
import time

from pipeline import cli
from pipeline.bulk.upkeep_config import StatusConfig


def main(argv: list[str]) -> None:
    config = cli.parse(StatusConfig, argv, description=__doc__ or "")
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


if __name__ == "__main__":
    cli.run(main)
