"""A bulk run from the driver: plan, stream through predictors and writers, finish. A repeated command resumes it."""

import importlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipeline import faults, retry, storage
from pipeline.bulk import plan as planning
from pipeline.bulk.config import LAST
from pipeline.bulk.earlier import Earlier, changed_options, find_earlier, read_earlier, with_earlier
from pipeline.bulk.finish import finish
from pipeline.bulk.kind import PlacedByDevice, RunKind
from pipeline.bulk.lease import lease
from pipeline.bulk.limits import Alarm, check_error_rate, deadline
from pipeline.bulk.outcome import Outcome
from pipeline.bulk.results import read_file
from pipeline.bulk.selection import Selection
from pipeline.bulk.shards import parts
from pipeline.errors import IncompleteError
from pipeline.progress import waiting
from pipeline.stop import stop_on_sigterm, stoppable
from pipeline.units import format_bytes

MOST_WARM = 64  # tasks that are warmed up; on a larger cluster, the others warm up with their first shard


def run_bulk(kind: RunKind, outcome: Outcome | None = None) -> str | None:
    """Compute a run, or resume the one in the output.

    Args:
        kind: What is computed, and its configuration.
        outcome: Filled in while the run goes on.

    Returns:
        The folder of the finished run; None after a dry run.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
        IncompleteError: The run has stopped before its end, and the same command goes on with it.
        TooManyErrors: More images have failed than the configuration accepts, before all were computed.
    """
    outcome = outcome or Outcome()

    def progress() -> str:
        return _progress(outcome)

    with stoppable(progress), deadline(kind.config.deadline, progress) as alarm:
        return _compute(kind, outcome, alarm)


def _progress(outcome: Outcome) -> str:
    if not outcome.images:
        return "the plan is not made yet"
    left = outcome.images - outcome.written
    return f"{outcome.written:,} of {outcome.images:,} images are written, {left:,} are left"


def _compute(kind: RunKind, outcome: Outcome, alarm: Alarm) -> str | None:
    config = kind.config
    identity = planning.run_identity(config, kind.card, kind.classes)
    earlier = None if config.run_id else find_earlier(config)
    run_id = config.run_id or planning.default_run_id(identity, kind.card, earlier)
    run = storage.join(config.output, f"run_id={run_id}")
    outcome.run, outcome.run_id = run, run_id
    plan = planning.existing_plan(run, identity)
    if plan is not None and _is_complete(run):
        return run
    if plan is None and config.run_id:
        earlier = find_earlier(config)
    if config.dry_run:
        _print_plan(kind, run, plan, earlier)
        return None
    if plan is None:
        storage.check_writable(config.output)
    with _resumable(run), lease(run) as held:
        plan = planning.existing_plan(run, identity)  # another driver may have held the lease until now
        if plan is not None and _is_complete(run):
            return run
        resumed = plan is not None
        plan = _planned(kind, run, identity, plan, earlier)
        retry.be_patient(config.store.patience)
        schema = kind.images_schema({"run_id": run_id, "ignore_index": kind.classes.ignore_index} | identity)
        _compute_shards(kind, run, schema, plan, outcome, driver=held.owner, starts_ray=resumed)
        alarm.cancel()  # the end takes little time and would have to be repeated as a whole
        try:
            with faults.store_faults(run):
                finish(run, run_id=run_id, schema=schema, kind=kind, still_ours=held.check)
        except Exception:
            held.check()  # a driver that was stopped for minutes finds its files moved by the next one
            raise
    return run


def _is_complete(run: str) -> bool:
    """Tell whether a run is finished, and say so."""
    if not storage.exists(storage.join(run, planning.MANIFEST)):
        return False
    place = storage.redact(run)
    print(f"{place} is complete already; --run-id NAME starts another run, --since {place} an update")
    return True


def _print_plan(kind: RunKind, run: str, plan: planning.PlanSummary | None, earlier: str | None) -> None:
    """Print what a run would do."""
    if plan is None:
        images = Selection(with_earlier(kind.config, earlier))
        plan = planning.summarize(planning.make_plan(kind.config, images, kind.truth, slow=_is_slow(kind)))
        _print(kind, run, plan, Earlier(earlier, images.removed))
        _print_changes(kind, earlier)
    else:
        _print(kind, run, plan, read_earlier(run))
    if isinstance(kind, PlacedByDevice):
        _, note = kind.placed(use_gpu=kind.config.scaling.use_gpu)
        print(note, end="\n" if note else "")


def _planned(
    kind: RunKind, run: str, identity: dict[str, Any], plan: planning.PlanSummary | None, earlier: str | None
) -> planning.PlanSummary:
    """Return the plan. If there is none yet, it is made and stored, while Ray starts."""
    if plan is None:
        began = time.time()
        images = Selection(with_earlier(kind.config, earlier), run=run)
        rows = planning.make_plan(kind.config, images, kind.truth, slow=_is_slow(kind))
        plan = _store_beside_ray(kind, run, rows, identity, began=began)
        _print(kind, run, plan, Earlier(earlier, images.removed))
        _print_changes(kind, earlier)
    else:
        _print(kind, run, plan, read_earlier(run))
    if plan.images == 0:
        print("nothing to do: no image is new, changed or failed")
    return plan


def _print(kind: RunKind, run: str, plan: planning.PlanSummary, continued: Earlier) -> None:
    if kind.config.since == LAST and continued.run is None:
        print("--since last: the output has no finished run of this job over these images, so all are processed")
    print(format_plan(plan, run, continued, retries=kind.config.retry_errors is not None))


def _print_changes(kind: RunKind, earlier: str | None) -> None:
    """Say in which options an update differs from the run that it continues."""
    if earlier is None or kind.config.since is None:
        return
    changed = changed_options(earlier, planning.run_identity(kind.config, kind.card, kind.classes))
    if changed:
        print(
            f"other than in the earlier run: {', '.join(changed)}. Images that it has computed keep their results; "
            "without --since, all are computed"
        )


def _compute_shards(
    kind: RunKind,
    run: str,
    schema: pa.Schema,
    plan: planning.PlanSummary,
    outcome: Outcome,
    *,
    driver: str,
    starts_ray: bool,
) -> None:
    """Compute the shards that are left."""
    outcome.images = plan.images
    done = set(parts(run).values())
    left = [shard for shard in range(len(plan.shard_images)) if shard not in done]
    left_images = sum(plan.shard_images[shard] for shard in left)
    outcome.written = plan.images - left_images
    if not left:
        return
    if done:
        print(f"resuming: {len(done)} shards are done, {len(left)} left")
    if starts_ray:
        _start_ray(kind)
    kind, note = _placed(kind)
    print(note, end="\n" if note else "")
    from pipeline.bulk.stream import stream

    def on_shard(shard: dict[str, Any]) -> None:
        outcome.add(shard)
        check_error_rate(outcome, kind.config.max_error_rate)

    stream(kind, run, left, schema, images=left_images, driver=driver, on_shard=on_shard)


@contextmanager
def _resumable(run: str) -> Iterator[None]:
    """Say in one line how to go on when the run stops before its end."""
    try:
        yield
    except IncompleteError as error:
        error.args = (f"{error}. {storage.redact(run)} is incomplete; the same command goes on with it",)
        raise


def _store_beside_ray(
    kind: RunKind, run: str, rows: Iterator[pa.Table], identity: dict[str, Any], *, began: float
) -> planning.PlanSummary:
    """Make and store the plan while Ray starts; a mistake that shows before Ray is imported is reported without it."""
    with ThreadPoolExecutor(1) as background, waiting("the list of images and the plan"):
        planned = background.submit(planning.store_plan, run, rows, identity, planned=began)
        import ray  # noqa: F401  (its import takes longer than a short plan)

        if not planned.done() or planned.result().images:
            background.submit(importlib.import_module, "pipeline.bulk.stream")
            _start_ray(kind)  # in this thread, because Ray sets signal handlers
        return planned.result()


def _start_ray(kind: RunKind) -> None:
    """Start or join Ray, and let the processes of the tasks import and compile what they will need."""
    import ray

    from pipeline import cluster
    from pipeline.bulk.layout import lay_out

    cluster.connect(ray_logs=kind.config.scaling.wait_for_nodes)
    stop_on_sigterm()  # Ray has set a handler of its own
    placed, _ = _placed(kind)
    if placed.refines:
        task = ray.remote(num_cpus=1)(_warm_up)
        for _ in range(min(MOST_WARM, lay_out(placed).tasks)):
            task.remote(kind)  # nobody waits for it: if it fails, the first task does its work


def _is_slow(kind: RunKind) -> bool:
    """Tell whether an image takes long: a dense CRF, or region proposals."""
    return kind.refines or kind.seconds_per_image > 0


def _placed(kind: RunKind) -> tuple[RunKind, str]:
    """Return the kind for the predictors of this cluster, and a line for the user; see `kind.PlacedByDevice`."""
    if not isinstance(kind, PlacedByDevice):
        return kind, ""
    from pipeline import cluster

    return kind.placed(use_gpu=cluster.use_gpus(kind.config.scaling.use_gpu))


def _warm_up(kind: RunKind) -> None:
    importlib.import_module("ray.data")
    from pipeline.bulk.refine import helper_of_task

    helper_of_task(kind).submit("warm_up", [None], seconds=600).result()


def format_plan(plan: planning.PlanSummary, run: str, earlier: Earlier | None = None, *, retries: bool = False) -> str:
    """Describe what a run is going to do, in one line.

    Args:
        plan: Summary of its plan.
        run: Folder of the run.
        earlier: What it continues; None for nothing.
        retries: Whether it computes the errors of the earlier run.
    """
    shards = len(plan.shard_images)
    text = f"{storage.redact(run)}: {plan.images:,} images, {format_bytes(plan.bytes)} in {shards:,} shards"
    if plan.bytes:
        text += f" of {format_bytes(plan.bytes / shards)}; the largest image is {format_bytes(plan.largest)}"
    if plan.with_truth:
        text += f"; {plan.with_truth:,} with ground truth"
    if earlier is not None and earlier.run is not None:
        text += f"; {'the errors of' if retries else 'new or changed since'} {storage.redact(earlier.run)}"
        text += f"; {earlier.removed:,} images of the earlier run are no longer there" if earlier.removed else ""
    return text


def format_run(run: str, format_tables: Callable[[dict[str, pa.Table]], str]) -> str:
    """Describe a finished run: its report tables, and where its outputs lie.

    Args:
        run: Folder of the run.
        format_tables: Formats the report tables, by name; called if there are any, and any images.
    """
    manifest = planning.read_manifest(run)
    lines = []
    if manifest["tables"] and manifest["images"]:
        tables = {path.split("/")[0]: read_file(run, path) for path in manifest["tables"]}
        lines += ["", format_tables(tables)]
    lines += ["", f"{manifest['images']:,} images, {manifest['errors']:,} errors"]
    places = {"rows": "images/*.parquet", "report": manifest["report"], "sheet": manifest["sheet"]}
    lines += [f"{name + ':':<8} {storage.redact(storage.join(run, place))}" for name, place in places.items() if place]
    return "\n".join(lines)
