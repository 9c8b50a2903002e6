"""Remove whole bulk runs by age, number or size, after a look at what would go.

Without --yes it only prints what it would remove. A run stays if another run that stays was begun with --since or
--retry-errors of it, if a driver is at work on it, if it is unfinished (but see --unfinished), or if it is among the
newest of its input (--keep). A run of --retry-errors goes together with the run that it retried. Only folders run_id=…
with _run/config.json are touched.

Examples:
    segpipe prune s3://masks --older-than 90d
    segpipe prune s3://masks --keep 7 --max-size 500GiB --yes
"""

from pipeline import cli
from pipeline.bulk.upkeep_config import PruneConfig

CONFIG = PruneConfig


def main(argv: list[str]) -> None:
    """Print what would be removed, and remove it if asked to."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline.bulk.prune import format_pruning, plan_pruning, remove_run

    pruning = plan_pruning(config)
    for line in format_pruning(pruning):
        print(line)
    if not config.yes:
        print("nothing was removed; --yes removes")
        return
    for run in reversed(pruning.removed):  # a run before those that it needs
        is_removed = remove_run(run)
        print(f"removed {run.name}" if is_removed else f"kept {run.name}: a driver has begun to work on it")
