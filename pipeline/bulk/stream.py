"""The Ray Data pipeline of a bulk run. Its rows are shard numbers; after the predictors, a block holds one shard."""

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray.data
from ray.exceptions import RayError, RayTaskError

from pipeline.bulk.kind import RunKind
from pipeline.bulk.layout import Layout, check, lay_out
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.predict import ShardPredictor
from pipeline.bulk.refine import RefiningWriter
from pipeline.bulk.write import ShardWriter
from pipeline.errors import IncompleteError, one_line
from pipeline.progress import Progress

DEATHS_AT_START = 10  # predictors in a row that die while they load the model: then something is wrong with it


def stream(
    kind: RunKind,
    run: str,
    shards: list[int],
    schema: pa.Schema,
    *,
    images: int,
    driver: str,
    on_shard: Callable[[dict[str, Any]], None],
) -> None:
    """Compute and write shards, and show the progress.

    Args:
        kind: Kind of the run.
        run: Folder of the run, with its plan.
        shards: Numbers of the shards to do.
        schema: Schema of the table `images`.
        images: Number of images in these shards.
        driver: Name of this driver, in letters and digits.
        on_shard: Called with what `ShardWriter.write` returns for each shard; it may raise to stop the run.

    Raises:
        UserError: The cluster cannot hold the run.
        IncompleteError: Shards are left undone, or Ray has failed.
    """
    layout = lay_out(kind, shards=len(shards))
    check(layout, kind)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None  # a block is never split, because it is a shard
    context.max_consecutive_actor_init_deaths = DEATHS_AT_START
    plan = PlanReader(run)
    writer = ShardWriter(run=run, schema=schema)
    written = ray.data.from_items([{"shard": s} for s in shards], override_num_blocks=len(shards)).map_batches(
        ShardPredictor,
        fn_constructor_kwargs={
            "kind": kind,
            "plan": plan,
            "writer": writer,
            "run": run,
            "driver": driver,
            "helpers": layout.helpers,
            "use_gpu": layout.use_gpu,
        },
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            # Without GPUs, half of the predictors start first: importing PyTorch in all of them at once would take the
            # cores that Ray itself needs, and the first row would come later.
            min_size=layout.actors if layout.use_gpu else max(1, layout.actors // 2),
            max_size=layout.actors,
            # An actor loads one shard and writes another while it computes a third.
            max_concurrent_calls_per_actor=layout.shards_per_actor,
            enable_true_multi_threading=True,
        ),
        num_cpus=layout.cpus_per_actor,
        num_gpus=1 if layout.use_gpu else None,
        runtime_env=layout.runtime_env,
    )
    if kind.refines:
        refining = RefiningWriter(writer, kind=kind, plan=plan)
        written = written.map_batches(refining, batch_size=None, batch_format="pyarrow", num_cpus=1)
    try:
        _show(written, images=images, layout=layout, refines=kind.refines, on_shard=on_shard)
    except RayError as error:
        if isinstance(error, RayTaskError):  # a mistake of the user, or of this program
            raise
        raise IncompleteError(f"Ray has failed ({type(error).__name__}: {one_line(error)})") from None


def _show(
    written: Any, *, images: int, layout: Layout, refines: bool, on_shard: Callable[[dict[str, Any]], None]
) -> None:
    """Pull the written shards through, and show the progress.

    Raises:
        IncompleteError: Shards are left undone. If these are as many in a row as the predictors have at a time, the
            others are not tried.
    """
    undone: list[dict[str, Any]] = []
    in_a_row = 0
    waiting_for = "the predictors to load the model and compute the first shard"
    with Progress(total=images, waiting_for=waiting_for) as progress:
        for shard in written.iter_rows():
            if shard["reason"] is not None:
                undone.append(shard)
                in_a_row += 1
                progress.update(undone=shard["images"])
                if in_a_row >= layout.actors * layout.shards_per_actor:
                    break
                continue
            in_a_row = 0
            if refines and progress.done == 0 and shard["errors"] < shard["images"]:
                progress.write(_pace(shard, layout))
            progress.update(shard["images"], failed=shard["errors"])
            on_shard(shard)
    if undone:
        raise IncompleteError(f"{images - progress.done:,} images are left undone: {undone[0]['reason']}")


def _pace(shard: dict[str, Any], layout: Layout) -> str:
    """Say how many CPUs the stage after the predictors needs to keep up with them, by the first shard."""
    done = shard["images"] - shard["errors"]
    needed = math.ceil(shard["describe_ms"] / shard["infer_ms"] * layout.actors)
    network, crf = shard["infer_ms"] / done, shard["describe_ms"] / done
    return (
        f"an image takes the network {network:.0f} ms and the CRF {crf:.0f} ms. "
        f"CPUs that keep up with the predictors: {needed}; CPUs of the cluster for the CRF: {layout.tasks}"
    )
