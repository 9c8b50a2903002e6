"""A bulk job from its options to its exit code, the same for every kind of run."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa

from pipeline import faults, storage
from pipeline.bulk.config import BulkConfig, OnEnd
from pipeline.bulk.earlier import read_earlier
from pipeline.bulk.limits import check_finished
from pipeline.bulk.on_end import announce, check_on_end
from pipeline.bulk.outcome import Outcome
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.run import format_run
from pipeline.errors import find_user_error

INTERRUPTED = 130

Config = TypeVar("Config", bound=BulkConfig)


def run_job(
    config: Config,
    compute: Callable[[Config, Outcome], str | None],
    format_tables: Callable[[dict[str, pa.Table]], str],
) -> None:
    """Compute a run, print its report, and announce its end, whatever its outcome.

    Args:
        config: Options of the job.
        compute: Computes the run, as `run_bulk` does.
        format_tables: Formats the report tables, by name; called if there are any.

    Raises:
        UserError: The user has to change something, or the run is incomplete or has too many errors.
    """
    check_on_end(config.on_end)
    start = time.monotonic()
    shares_ray = _is_connected()
    outcome = Outcome()
    run = None
    end: dict[str, Any] = {"job": config.job, "exit_code": 0, "message": None}
    try:
        # The workers, to which the configuration is sent, need no webhook.
        run = compute(config.model_copy(update={"on_end": OnEnd()}), outcome)
        if run is None:
            return  # a dry run, which announces nothing
        print(format_run(run, format_tables))
        manifest = read_manifest(run)
        end |= {"images": manifest["images"], "written": manifest["images"], "errors": manifest["errors"]}
        end |= {"removed": read_earlier(run).removed, "report": storage.redact(storage.join(run, manifest["report"]))}
        check_finished(manifest["images"], manifest["errors"], config.max_error_rate, run=storage.redact(run))
    except (Exception, KeyboardInterrupt) as error:
        code, message = _explain(error)
        end |= {"exit_code": code, "message": message}
        raise
    finally:
        if run is not None or end["exit_code"]:
            _end(config, outcome, end | {"seconds": round(time.monotonic() - start, 1)}, shares_ray=shares_ray)


def _is_connected() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code of an error and its message in one line."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    mistake = find_user_error(error)
    return (1, faults.explain(error)) if mistake is None else (mistake.exit_code, str(mistake))


def _end(config: BulkConfig, outcome: Outcome, known: dict[str, Any], *, shares_ray: bool) -> None:
    """Announce the end of a run, and print the last line."""
    end = {
        "run": storage.redact(outcome.run) if outcome.run else None,
        "run_id": outcome.run_id,
        "images": outcome.images,
        "written": outcome.written,
        "errors": outcome.errors,
        "removed": None,
        "report": None,
    } | known
    announce(config.on_end, end)
    if config.last_line == "json" or (config.last_line == "auto" and not sys.stdout.isatty()):
        output = sys.stdout
        if _is_connected() and not shares_ray:
            sys.stdout = sys.stderr  # to which Ray prints messages of its own until this process ends
        print(json.dumps(end), file=output, flush=True)
