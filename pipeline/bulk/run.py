"""A bulk run from the driver: plan, stream through predictors and writers, finish. Resumes by itself."""

import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from tqdm import tqdm

from pipeline import cluster, storage
from pipeline.bulk import plan as planning
from pipeline.bulk.config import Scaling
from pipeline.bulk.finish import finish
from pipeline.bulk.kind import Kind
from pipeline.bulk.predict import Predictor
from pipeline.bulk.results import read_file
from pipeline.bulk.shards import parts
from pipeline.bulk.write import ShardWriter


def run_bulk(kind: Kind) -> str | None:
    """Compute a run, or go on with the one that lies in the output.

    Args:
        kind: what is computed, and its configuration.

    Returns:
        the folder of the finished run; None after a dry run.

    Raises:
        UserError: anything that the user has to mend, where possible before a worker starts.
    """
    config = kind.config
    what = planning.identity(config, kind.card, kind.classes)
    run_id = config.run_id or planning.default_run_id(what, kind.card)
    run = storage.join(config.output, f"run_id={run_id}")
    plan = planning.existing_plan(run, what)
    if plan is not None and storage.exists(storage.join(run, planning.MANIFEST)):
        print(f"{storage.redact(run)} is complete already; --run-id NAME starts another run, --since {run} an update")
        return run
    fresh = plan is None
    if plan is None:
        if not config.dry_run:
            storage.check_writable(config.output)
        plan = planning.make_plan(config, kind.truth)
    print(describe_plan(plan, run))
    if config.dry_run:
        return None
    if plan.num_rows == 0:
        print("nothing to do: no image is new, changed or failed")
    if fresh:
        planning.store_plan(run, plan, what)
    done = {shard for shards in parts(run).values() for shard in shards}
    left = sorted(set(plan["shard"].unique().to_pylist()) - done)
    schema = kind.schema({"run_id": run_id, "ignore_index": kind.classes.ignore_index} | what)
    if left:
        if done:
            print(f"resuming: {len(done)} shards are done, {len(left)} left")
        cluster.connect(ray_logs=config.scaling.wait_for_nodes)
        _stream(kind, plan, run, left, schema)
    finish(run, run_id=run_id, plan=plan, schema=schema, kind=kind)
    return run


def describe_plan(plan: pa.Table, run: str) -> str:
    """What is to be done, for the terminal."""
    sizes = plan["bytes"].to_pylist()
    shards = len(plan["shard"].unique())
    total = sum(sizes)
    text = f"{storage.redact(run)}: {plan.num_rows:,} images, {_bytes(total)} in {shards:,} shards"
    if total:
        text += f" of {_bytes(total / shards)}; the largest image is {_bytes(max(sizes))}"
    known = plan.num_rows - plan["truth"].null_count
    return text + (f"; {known:,} with ground truth" if known else "")


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _stream(kind: Kind, plan: pa.Table, run: str, shards: list[int], schema: pa.Schema) -> None:
    """The pipeline: a row is a shard, a block is a shard, from actor to writer."""
    scaling = kind.config.scaling
    have = cluster.available()
    use_gpu = have.gpus > 0 if scaling.use_gpu is None else scaling.use_gpu
    actors = scaling.actors or min(len(shards), max(1, have.gpus if use_gpu else _cpu_actors(scaling, have.cpus)))
    if not scaling.wait_for_nodes:
        cluster.require(
            workers=actors, cpus_per_worker=scaling.cpus_per_actor, use_gpu=use_gpu, spare_cpus=1, what="the run"
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None  # a block is never split: it is a shard
    predicted = ray.data.from_items([{"shard": s} for s in shards], override_num_blocks=len(shards)).map_batches(
        Predictor,
        fn_constructor_kwargs={"kind": kind, "run": run},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=actors,
            # Two calls at a time, so that an actor fetches one shard while it computes another.
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        num_cpus=scaling.cpus_per_actor,
        num_gpus=1 if use_gpu else None,
    )
    writer = ShardWriter(kind, run=run, plan=ray.put(plan), schema=schema)
    written = kind.refine(predicted).map_batches(writer, batch_size=None, batch_format="pyarrow", num_cpus=1)
    _show(written, images=sum(pc.is_in(plan["shard"], pa.array(shards, pa.int32())).to_pylist()))


def _cpu_actors(scaling: Scaling, cpus: int) -> int:
    return (cpus - cluster.SPARE_CPUS) // scaling.cpus_per_actor


def _show(written: Any, *, images: int) -> None:
    """Pull the written shards through, with a progress bar on a terminal and a line now and then in a log."""
    terminal = sys.stderr.isatty()
    errors = 0
    with tqdm(total=images, unit="images", mininterval=0.2 if terminal else 30, dynamic_ncols=terminal) as bar:
        for shard in written.iter_rows():
            errors += shard["errors"]
            bar.set_postfix(errors=errors, refresh=False)
            bar.update(shard["images"])


def summarise(run: str, format_tables: Callable[[dict[str, pa.Table]], str]) -> str:
    """The tables of a finished run, and where its outputs lie.

    Args:
        run: its folder.
        format_tables: the tables by name as text; called where there are some.
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
