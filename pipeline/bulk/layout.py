"""How a bulk run lies on the cluster: predictors, and CPUs for the tasks beside them."""

import sys
from typing import Any, NamedTuple

from pipeline import allocator, cluster
from pipeline.bulk.kind import RunKind
from pipeline.cpu import warn_of_emulation


class Layout(NamedTuple):
    """How a run lies on the cluster.

    Attributes:
        actors: Predictors.
        cpus_per_actor: CPUs that each holds.
        helpers: Helper processes of each.
        use_gpu: Whether each holds a GPU.
        free_cpus: CPUs that no predictor will hold.
    """

    actors: int
    cpus_per_actor: int
    helpers: int
    use_gpu: bool
    free_cpus: int

    @property
    def shards_per_actor(self) -> int:
        """Shards that a predictor has at a time: a GPU is done with one soon, so that more are loaded and written."""
        return 8 if self.use_gpu else 2

    @property
    def tasks(self) -> int:
        """Tasks that will run at a time if many wait: half of the predictors without GPUs then do not start."""
        return self.free_cpus if self.use_gpu else max(self.free_cpus, self.actors * self.cpus_per_actor // 2)

    @property
    def runtime_env(self) -> dict[str, Any] | None:
        """Ray's runtime environment of the predictors."""
        return None if self.use_gpu else {"env_vars": allocator.keep_freed(allocator.BATCH_BYTES)}


def lay_out(kind: RunKind, *, shards: int = sys.maxsize) -> Layout:
    """Share out the cluster among the predictors of a run, and leave CPUs for its tasks."""
    scaling = kind.config.scaling
    have = cluster.available()
    use_gpu = cluster.use_gpus(scaling.use_gpu)
    if use_gpu:
        share = (have.cpus - cluster.SPARE_CPUS) // max(1, have.gpus)
        cpus = scaling.cpus_per_actor or max(1, 2 if kind.refines else share)
        actors = scaling.actors or min(shards, max(1, have.gpus))
        helpers = max(1, cpus - 1)  # one CPU is for the process that drives the GPU
    else:
        cpus = scaling.cpus_per_actor or 1
        actors = scaling.actors or min(shards, max(1, (have.cpus - cluster.SPARE_CPUS) // cpus))
        helpers = 1
    return Layout(actors, cpus, helpers, use_gpu, free_cpus=max(1, have.cpus - actors * cpus))


def check(layout: Layout, kind: RunKind) -> None:
    """Warn of a dtype that the predictors only emulate, and refuse what the cluster cannot hold.

    Raises:
        UserError: The cluster cannot hold the run.
    """
    if not layout.use_gpu:
        warn_of_emulation(kind.config.dtype)
    if not kind.config.scaling.wait_for_nodes:
        cluster.require(
            workers=layout.actors,
            cpus_per_worker=layout.cpus_per_actor,
            use_gpu=layout.use_gpu,
            spare_cpus=1,  # for the tasks that write, and for Ray Data's own
            noun="the run",
            flag="--scaling.actors",
        )
