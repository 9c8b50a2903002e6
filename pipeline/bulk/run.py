"""A bulk run from the driver: plan, stream through predictors and writers, finish. A repeated command resumes it."""

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.bulk import plan as planning
from pipeline.bulk.finish import finish
from pipeline.bulk.kind import RunKind
from pipeline.bulk.results import read_file
from pipeline.bulk.shards import parts

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
    plan = planning.existing_plan(run, identity)
    if plan is not None and storage.exists(storage.join(run, planning.MANIFEST)):
        place = storage.redact(run)
        print(f"{place} is complete already; --run-id NAME starts another run, --since {place} an update")
        return run
    if config.dry_run:
        plan = planning.make_plan(config, planning.list_wanted(config), kind.truth) if plan is None else plan
        print(format_plan(plan, run))
        return None
    resumed = plan is not None
    if plan is None:
        storage.check_writable(config.output)
        plan = _plan_beside_ray(kind, run, identity)
    print(format_plan(plan, run))
    if plan.num_rows == 0:
        print("nothing to do: no image is new, changed or failed")
    done = {shard for shards in parts(run).values() for shard in shards}
    left = sorted(set(plan["shard"].unique().to_pylist()) - done)
    schema = kind.images_schema({"run_id": run_id, "ignore_index": kind.classes.ignore_index} | identity)
    if left:
        if done:
            print(f"resuming: {len(done)} shards are done, {len(left)} left")
        if resumed:
            _start_ray(kind)
        from pipeline.bulk.stream import stream

        images = pc.sum(pc.is_in(plan["shard"], pa.array(left, pa.int32()))).as_py()
        stream(kind, run, left, schema, images=images)
    finish(run, run_id=run_id, plan=plan, schema=schema, kind=kind)
    return run


def _plan_beside_ray(kind: RunKind, run: str, identity: dict[str, Any]) -> pa.Table:
    """Make and store the plan while Ray starts; a mistake that shows before Ray is imported is reported without it."""
    images = planning.list_wanted(kind.config)

    def make_and_store() -> pa.Table:
        plan = planning.make_plan(kind.config, images, kind.truth)
        planning.store_plan(run, plan, identity)
        return plan

    with ThreadPoolExecutor(1) as background:
        planned = background.submit(make_and_store)
        if images:
            import ray  # noqa: F401  (its import takes longer than a short plan)

            if planned.done():
                planned.result()
            background.submit(importlib.import_module, "pipeline.bulk.stream")
            _start_ray(kind)  # in this thread, because Ray sets signal handlers
        return planned.result()


def _start_ray(kind: RunKind) -> None:
    """Start or join Ray, and let the processes of the tasks import and compile what they will need."""
    import ray

    from pipeline import cluster

    cluster.connect(ray_logs=kind.config.scaling.wait_for_nodes)
    if kind.refines:
        task = ray.remote(num_cpus=1)(_warm_up)
        for _ in range(min(MOST_WARM, cluster.available().cpus)):
            task.remote(kind)  # nobody waits for it: if it fails, the first task does its work


def _warm_up(kind: RunKind) -> None:
    importlib.import_module("ray.data")
    from pipeline.bulk.refine import helper_of_task

    helper_of_task(kind).submit("warm_up", [None], seconds=600).result()


def format_plan(plan: pa.Table, run: str) -> str:
    """Describe what a run is going to do, in one line."""
    sizes = plan["bytes"].to_pylist()
    shards = len(plan["shard"].unique())
    total = sum(sizes)
    text = f"{storage.redact(run)}: {plan.num_rows:,} images, {_format_bytes(total)} in {shards:,} shards"
    if total:
        text += f" of {_format_bytes(total / shards)}; the largest image is {_format_bytes(max(sizes))}"
    known = plan.num_rows - plan["truth"].null_count
    return text + (f"; {known:,} with ground truth" if known else "")


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
