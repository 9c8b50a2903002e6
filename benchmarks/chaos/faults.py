"""The faults: each hits the processes of a run or its store, and some are undone after a while."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.chaos.cluster import RayCluster, kill
from benchmarks.chaos.disk import FILLER, clear, fill
from benchmarks.chaos.job import Job
from benchmarks.chaos.proxy import Effect, FaultProxy, Rule

IMAGES, RUNS = "images/", "runs/"  # keys of the bucket
READS, WRITES, LISTS = frozenset({"GET", "HEAD"}), frozenset({"PUT", "POST", "COPY"}), frozenset({"LIST"})
OUTAGE = (5.0, 15.0)  # seconds that a fault of the store or the disk lasts
STOPPED = 130.0  # seconds; a lease passes on after 90
EVERY = READS | WRITES | LISTS | {"DELETE"}


@dataclass
class World:
    """What faults can hit.

    Attributes:
        rng: Source of all choices.
        proxy: The proxy in front of the store.
        cluster: The Ray cluster.
        job: The job.
        start_job: Starts the same command once more.
        others: Jobs that a fault has started.
        disk: Small disk of the run; None if it has none.
    """

    rng: random.Random
    proxy: FaultProxy
    cluster: RayCluster
    job: Job
    start_job: Callable[[], Job]
    others: list[Job]
    disk: Path | None


class Injection(NamedTuple):
    """A fault that was injected.

    Attributes:
        what: What was hit.
        seconds: Time after which it is undone.
        undo: Undoes it; None if it cannot be undone.
    """

    what: str
    seconds: float = 0.0
    undo: Callable[[], None] | None = None


class Fault(NamedTuple):
    """A kind of fault.

    Attributes:
        inject: Injects it; returns None if what it hits does not exist at the moment.
        any_time: Whether it also makes sense before the first image and after the last one.
    """

    inject: Callable[[World], Injection | None]
    any_time: bool = False


def _kill_process(world: World, *, words: tuple[str, ...]) -> Injection | None:
    found = world.cluster.processes(*words)
    if not found:
        return None
    victim = world.rng.choice(found)
    kill(victim.pid)
    return Injection(f"process {victim.pid}, {victim.command[:60]}")


def _stop_process(world: World, *, words: tuple[str, ...], seconds: float) -> Injection | None:
    found = world.cluster.processes(*words)
    if not found:
        return None
    victim = world.rng.choice(found)
    kill(victim.pid, signal.SIGSTOP)
    return Injection(f"process {victim.pid}", seconds, partial(kill, victim.pid, signal.SIGCONT))


def _lose_node(world: World) -> Injection | None:
    if world.cluster.nodes < 3:  # the one before it has not been replaced yet
        return None
    world.cluster.lose_node(world.rng.randrange(2))
    return Injection("raylet", 5.0, world.cluster.add_node)


def _restart_gcs(world: World) -> Injection | None:
    if not world.cluster.alive:
        return None
    return Injection("gcs_server", 3.0, world.cluster.kill_gcs())


def _lose_head(world: World) -> Injection:
    world.cluster.lose_head()
    return Injection("all processes of the head")


def _kill_driver(world: World) -> Injection | None:
    if world.job.code is not None:
        return None
    world.job.kill()
    return Injection("driver")


def _kill_child(world: World) -> Injection | None:
    return Injection("driver") if world.job.kill_child() else None


def _terminate_driver(world: World) -> Injection | None:
    if world.job.code is not None or world.job.terminated is not None or not world.job.handles_sigterm:
        return None  # before it handles the signal, it has not begun
    world.job.terminate()
    return Injection("driver")


def _start_second_driver(world: World) -> Injection:
    world.others.append(world.start_job())
    return Injection("the same command")


def _stop_driver(world: World) -> Injection | None:
    """Stop the driver for longer than its lease lasts, so that a second one takes over and the first wakes up late."""
    if world.job.code is not None:
        return None
    world.job.send(signal.SIGSTOP)
    world.others.append(world.start_job())
    return Injection("driver", STOPPED, partial(world.job.send, signal.SIGCONT))


def _fill_disk(world: World) -> Injection | None:
    if world.disk is None or (world.disk / FILLER).exists():
        return None
    fill(world.disk)
    return Injection("all of its space", world.rng.uniform(*OUTAGE), partial(clear, world.disk))


def _break_store(world: World, *, effect: Effect, operations: frozenset[str], prefix: str, share: float) -> Injection:
    rule = Rule(effect, operations, prefix, share)
    world.proxy.rules.append(rule)
    what = f"{share:.0%} of {'/'.join(sorted(operations))} below '{prefix}'"
    return Injection(what, world.rng.uniform(*OUTAGE), partial(world.proxy.rules.remove, rule))


def _store(
    effect: Effect,
    operations: frozenset[str],
    *,
    prefix: str = "",
    share: float = 1.0,
    any_time: bool = False,
) -> Fault:
    inject = partial(_break_store, effect=effect, operations=operations, prefix=prefix, share=share)
    return Fault(inject, any_time)


PREDICTOR = ("ray::", "ShardPredictor")
FAULTS: dict[str, Fault] = {
    "predictor killed": Fault(partial(_kill_process, words=PREDICTOR)),
    "helper process killed": Fault(partial(_kill_process, words=("pipeline.bulk.helper_process",))),
    "CRF task killed": Fault(partial(_kill_process, words=("ray::", "RefiningWriter"))),
    "predictor stopped for 20 s": Fault(partial(_stop_process, words=PREDICTOR, seconds=20.0)),
    "node lost, another added after 5 s": Fault(_lose_node),
    "GCS killed, restarted after 3 s": Fault(_restart_gcs),
    "head lost": Fault(_lose_head),
    "driver killed": Fault(_kill_driver, any_time=True),
    "driver killed beside its supervisor": Fault(_kill_child, any_time=True),
    "driver terminated (SIGTERM)": Fault(_terminate_driver, any_time=True),
    "second driver started": Fault(_start_second_driver),
    "driver stopped for 130 s, second driver started": Fault(_stop_driver),
    "images: 503": _store(Effect.UNAVAILABLE, READS, prefix=IMAGES),
    "images: 403": _store(Effect.FORBIDDEN, READS, prefix=IMAGES),
    "images: half of the connections reset": _store(Effect.RESET, READS, prefix=IMAGES, share=0.5),
    "images: 10% answered after 30 s": _store(Effect.STALLED, READS, prefix=IMAGES, share=0.1),
    "images: 30% at 1 KB/s": _store(Effect.SLOW, READS, prefix=IMAGES, share=0.3),
    "images: 30% cut, Content-Length to fit": _store(Effect.CUT, READS, prefix=IMAGES, share=0.3),
    "images: 30% shorter than Content-Length": _store(Effect.SHORT, READS, prefix=IMAGES, share=0.3),
    "all requests: 30% throttled (429)": _store(Effect.THROTTLED, EVERY, share=0.3, any_time=True),
    "all requests: 10% reset": _store(Effect.RESET, EVERY, share=0.1, any_time=True),
    "all requests: credentials expired (400)": _store(Effect.EXPIRED, EVERY, any_time=True),
    "all requests: clock refused (403 RequestTimeTooSkewed)": _store(Effect.SKEWED, EVERY, any_time=True),
    "listings: 503": _store(Effect.UNAVAILABLE, LISTS, any_time=True),
    "output: 503": _store(Effect.UNAVAILABLE, WRITES, prefix=RUNS, any_time=True),
    "output: read-only bucket (403)": _store(Effect.FORBIDDEN, WRITES, prefix=RUNS, any_time=True),
    "output: store full (507)": _store(Effect.FULL, WRITES, prefix=RUNS, any_time=True),
    "disk of output and temporary files full": Fault(_fill_disk, any_time=True),
}
