"""Write the page of a finished bulk run again, or a page about what differs between two runs.

A page is computed from the tables of a run. Its pictures are read where the run found them; those that are gone are
shown by their masks alone. docs/report.md explains the page and the tests for drift.

Examples:
    segpipe report s3://masks/run_id=2026-11-26
    segpipe report runs/run_id=a --output page.html
    segpipe report --compare runs/run_id=2026-11-25 runs/run_id=2026-11-26 --output changes.html
"""

from pipeline import cli
from pipeline.bulk.report_config import ReportConfig

CONFIG = ReportConfig


def main(argv: list[str]) -> None:
    """Write the page, and print where it is."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline import storage

    if config.compare:
        from pipeline.bulk.comparison.page import write_comparison

        assert config.output is not None
        earlier, later = config.runs
        print(f"comparison: {storage.redact(write_comparison(earlier, later, config.output))}")
    else:
        from pipeline.bulk.rebuild import write_page

        print(f"report: {storage.redact(write_page(config.runs[0], config.output))}")
