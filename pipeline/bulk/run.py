"""A bulk run from the driver: plan, stream through predictors and writers, finish. A repeated command resumes it."""

import importlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipeline import retry, storage
from pipeline.bulk import plan as planning
from pipeline.bulk.finish import finish
from pipeline.bulk.kind import RunKind
from pipeline.bulk.lease import Lease, lease
from pipeline.bulk.results import read_file
from pipeline.bulk.selection import Selection
from pipeline.bulk.shards import parts
from pipeline.bulk.stop import stop_on_sigterm
from pipeline.errors import IncompleteError

MOST_WARM = 64  # tasks that are warmed up; on a larger cluster, the others warm up with their first shard


def run_bulk(kind: RunKind) -> str | None:
    """Compute a run, or resume the one in the output.

    Args:
        kind: What is computed, and its configuration.

    Returns:
        The folder of the finished run; None after a dry run.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
    """
    config = kind.config
    identity = planning.run_identity(config, kind.card, kind.classes)
    run_id = config.run_id or planning.default_run_id(identity, kind.card)
    run = storage.join(config.output, f"run_id={run_id}")
    stop_on_sigterm()
    plan = planning.existing_plan(run, identity)
    if plan is not None and storage.exists(storage.join(run, planning.MANIFEST)):
        place = storage.redact(run)
        print(f"{place} is complete already; --run-id NAME starts another run, --since {place} an update")
        return run
    if config.dry_run:
        images = Selection(config)
        summary = plan or planning.summarize(planning.make_plan(config, images, kind.truth, refines=kind.refines))
        print(format_plan(summary, run, removed=images.removed))
        return None
    if plan is None:
        storage.check_writable(config.output)
    with lease(run) as held, _resumable(run):
        _run(kind, run, run_id, identity, plan, held)
    return run


def _run(
    kind: RunKind, run: str, run_id: str, identity: dict[str, Any], plan: planning.PlanSummary | None, held: Lease
) -> None:
    """Make the plan if there is none yet, compute the shards that are left, and finish."""
    removed = None
    resumed = plan is not None
    if plan is None:
        images = Selection(kind.config)
        rows = planning.make_plan(kind.config, images, kind.truth, refines=kind.refines)
        plan = _store_beside_ray(kind, run, rows, identity, began=time.time())
        removed = images.removed
    print(format_plan(plan, run, removed=removed))
    if plan.images == 0:
        print("nothing to do: no image is new, changed or failed")
    retry.be_patient(kind.config.store.patience)
    done = set(parts(run).values())
    left = [shard for shard in range(len(plan.shard_images)) if shard not in done]
    schema = kind.images_schema({"run_id": run_id, "ignore_index": kind.classes.ignore_index} | identity)
    if left:
        if done:
            print(f"resuming: {len(done)} shards are done, {len(left)} left")
        if resumed:
            _start_ray(kind)
        from pipeline.bulk.stream import stream

        images_left = sum(plan.shard_images[shard] for shard in left)
        stream(kind, run, left, schema, images=images_left, driver=held.owner)
    with retry.store_faults(run):
        finish(run, run_id=run_id, schema=schema, kind=kind, still_ours=held.check)


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
    with ThreadPoolExecutor(1) as background:
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

    cluster.connect(ray_logs=kind.config.scaling.wait_for_nodes)
    stop_on_sigterm()  # Ray has set a handler of its own
    if kind.refines:
        task = ray.remote(num_cpus=1)(_warm_up)
        for _ in range(min(MOST_WARM, cluster.available().cpus)):
            task.remote(kind)  # nobody waits for it: if it fails, the first task does its work


def _warm_up(kind: RunKind) -> None:
    importlib.import_module("ray.data")
    from pipeline.bulk.refine import helper_of_task

    helper_of_task(kind).submit("warm_up", [None], seconds=600).result()


def format_plan(plan: planning.PlanSummary, run: str, *, removed: int | None = None) -> str:
    """Describe what a run is going to do, in one line.

    Args:
        plan: Summary of its plan.
        run: Folder of the run.
        removed: Images of the run that `--since` names that the input no longer has.
    """
    shards = len(plan.shard_images)
    text = f"{storage.redact(run)}: {plan.images:,} images, {_format_bytes(plan.bytes)} in {shards:,} shards"
    if plan.bytes:
        text += f" of {_format_bytes(plan.bytes / shards)}; the largest image is {_format_bytes(plan.largest)}"
    if plan.with_truth:
        text += f"; {plan.with_truth:,} with ground truth"
    return text + (f"; {removed:,} images of the earlier run are no longer there" if removed else "")


def _format_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_run(run: str, format_tables: Callable[[dict[str, pa.Table]], str]) -> str:
    """Describe a finished run: its report tables, and where its outputs lie.

    Args:
        run: Folder of the run.
        format_tables: Formats the report tables, by name; called if there are any.
    """
    manifest = planning.read_manifest(run)
    lines = []
    if manifest["tables"]:
        tables = {path.split("/")[0]: read_file(run, path) for path in manifest["tables"]}
        lines += ["", format_tables(tables)]
    lines += ["", f"{manifest['images']:,} images, {manifest['errors']:,} errors"]
    places = {"rows": "images/*.parquet", "report": manifest["report"], "sheet": manifest["sheet"]}
    lines += [f"{name + ':':<8} {storage.redact(storage.join(run, place))}" for name, place in places.items() if place]
    return "\n".join(lines)
