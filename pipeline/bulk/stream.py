"""The Ray Data pipeline of a bulk run. Its rows are shard numbers; after the predictors, a block holds one shard."""

import sys
from typing import Any

import pyarrow as pa
import ray.data
from tqdm import tqdm

from pipeline import cluster
from pipeline.bulk.config import BulkScaling
from pipeline.bulk.kind import RunKind
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.predict import ShardPredictor
from pipeline.bulk.quarantine import Quarantine
from pipeline.bulk.write import ShardWriter


def stream(kind: RunKind, run: str, shards: list[int], schema: pa.Schema, *, images: int) -> None:
    """Compute and write shards, with a progress bar.

    Args:
        kind: Kind of the run.
        run: Folder of the run, with its plan.
        shards: Numbers of the shards to do.
        schema: Schema of the table `images`.
        images: Number of images in these shards.

    Raises:
        UserError: The cluster cannot hold the run.
    """
    scaling = kind.config.scaling
    have = cluster.available()
    use_gpu = have.gpus > 0 if scaling.use_gpu is None else scaling.use_gpu
    actors = scaling.actors or min(len(shards), max(1, have.gpus if use_gpu else _cpu_actors(scaling, have.cpus)))
    if not scaling.wait_for_nodes:
        cluster.require(
            workers=actors,
            cpus_per_worker=scaling.cpus_per_actor,
            use_gpu=use_gpu,
            spare_cpus=1,  # for the writer
            noun="the run",
            flag="--scaling.actors",
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None  # a block is never split, because it is a shard
    plan = PlanReader(run)
    predicted = ray.data.from_items([{"shard": s} for s in shards], override_num_blocks=len(shards)).map_batches(
        ShardPredictor,
        fn_constructor_kwargs={"kind": kind, "plan": plan, "quarantine": Quarantine(run)},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            # Without GPUs, half of the predictors start first: importing PyTorch in all of them at once would take the
            # cores that Ray itself and the writers need, and the first row would come later.
            min_size=actors if use_gpu else max(1, actors // 2),
            max_size=actors,
            # Two calls at a time, so that an actor fetches one shard while it computes another.
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        num_cpus=scaling.cpus_per_actor,
        num_gpus=1 if use_gpu else None,
    )
    writer = ShardWriter(kind, run=run, plan=plan, schema=schema)
    written = kind.refine(predicted).map_batches(writer, batch_size=None, batch_format="pyarrow", num_cpus=1)
    _show(written, images=images)


def _cpu_actors(scaling: BulkScaling, cpus: int) -> int:
    """Return the number of predictors that leave CPUs for the light tasks."""
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
