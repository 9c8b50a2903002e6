"""An episode: one run with its faults at random moments, its command repeated until the run is complete."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.cluster import RayCluster
from benchmarks.chaos.faults import FAULTS, IMAGES, RUNS, Injection, World
from benchmarks.chaos.job import Job, judge
from benchmarks.chaos.proxy import Counts, FaultProxy

PART = re.compile(r"/part-\d+\.parquet$")  # of one shard; a merged file has two numbers
POLL_SECONDS = 0.1
BETWEEN = (0.5, 3.0)  # seconds between two faults
AT_THE_ENDS = (0.0, 8.0)  # seconds after the start of the job, or after its last image
SPARE_ROUNDS = 3


@dataclass(frozen=True)
class Episode:
    """A run and the faults that it meets.

    Args:
        name: Its name.
        faults: How often each fault is injected, by its name in `FAULTS`.
        crf: Whether the job refines its masks by the CRF.
        options: Other options of the job, which change no row.
        on_disk: Whether the output, and the driver's temporary files, lie on a small disk in place of the store.
    """

    name: str
    faults: dict[str, int]
    crf: bool = False
    options: tuple[str, ...] = ()
    on_disk: bool = False


@dataclass
class Outcome:
    """What happened in an episode, in a form that JSON takes.

    Attributes:
        name: Name of the episode.
        injected: How often each fault was injected.
        events: Time since the start in seconds, fault and target of each injection.
        findings: What was wrong: endings, or a run that was never complete.
        rounds: How often the command was run.
        seconds: Wall time until the run was complete.
        failed_requests: Number of requests that each effect of the proxy hit.
        recomputed: Parts that were written more than once, once for each time; None if the store does not hold them.
        refetched: Images that were read more often than in the undisturbed run, once for each time.
        seconds_lost: Wall time beyond that of the undisturbed run.
        lost: Images without a row.
        doubled: Rows too many.
        different: Images whose row is not that of the undisturbed run.
    """

    name: str
    injected: dict[str, int]
    events: list[tuple[float, str, str]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    rounds: int = 0
    seconds: float = 0.0
    failed_requests: dict[str, int] = field(default_factory=dict)
    recomputed: int | None = None
    refetched: int = 0
    seconds_lost: float = 0.0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Number of rows that are lost, doubled or different."""
        return len(self.lost) + len(self.doubled) + len(self.different)

    def as_json(self) -> dict[str, Any]:
        """Return everything as values of JSON."""
        return asdict(self)


@dataclass
class _Scheduled:
    """A fault to come: at a share of the images read, and some seconds later."""

    moment: float
    name: str
    delay: float


def run_episode(
    episode: Episode,
    *,
    rng: random.Random,
    proxy: FaultProxy,
    cluster: RayCluster,
    start_job: Callable[[], Job],
    images: int,
    disk: Path | None,
    round_seconds: float,
) -> Outcome:
    """Run a job among faults, and repeat it until it is complete.

    Args:
        episode: The faults.
        rng: Source of their moments and targets.
        proxy: The proxy in front of the store; its counts are reset.
        cluster: The Ray cluster; a dead one is replaced before the next round.
        start_job: Starts the command.
        images: Number of images of the run.
        disk: The small disk, if there is one.
        round_seconds: Time after which a job hangs, without what the faults themselves take.
    """
    proxy.counts = Counts()
    world = World(rng=rng, proxy=proxy, cluster=cluster, job=start_job(), start_job=start_job, others=[], disk=disk)
    outcome = Outcome(episode.name, injected=dict.fromkeys(episode.faults, 0))
    run = _Run(world, outcome, _schedule(episode, rng), images)
    most_rounds = SPARE_ROUNDS + 2 * sum(episode.faults.values())
    start = time.monotonic()
    try:
        while True:
            outcome.rounds += 1
            overdue = run.watch(round_seconds)
            ending = judge(world.job, overdue=overdue)
            if ending.finding:
                outcome.findings.append(f"round {outcome.rounds}: {ending.finding}")
            if ending.finished or outcome.rounds == most_rounds:
                break
            run.settle(round_seconds)
            if not cluster.alive:
                cluster.restart()
            world.job = start_job()
        outcome.seconds = time.monotonic() - start
        run.settle(round_seconds)
    finally:
        for job in [world.job, *world.others]:
            job.end()
    if not ending.finished:
        outcome.findings.append(f"not complete after {outcome.rounds} rounds")
    if not episode.on_disk:
        parts = {key: n for key, n in proxy.counts.keys("PUT", RUNS).items() if PART.search(key)}
        outcome.recomputed = sum(n - 1 for n in parts.values())
    outcome.refetched = sum(n - 1 for n in proxy.counts.keys("GET", IMAGES).values())
    outcome.failed_requests = {effect.value: n for effect, n in proxy.counts.failed.items()}
    return outcome


def _schedule(episode: Episode, rng: random.Random) -> list[_Scheduled]:
    """Draw the moments of all faults, in order; those that make sense at any time also come at the ends of the run."""
    scheduled = []
    for name, times in episode.faults.items():
        for _ in range(times):
            moment = rng.uniform(-0.3, 1.3) if FAULTS[name].any_time else rng.uniform(0.02, 0.9)
            moment = min(1.0, max(0.0, moment))
            delay = rng.uniform(*AT_THE_ENDS) if moment in (0.0, 1.0) else 0.0
            scheduled.append(_Scheduled(moment, name, delay))
    return sorted(scheduled, key=lambda one: (one.moment, one.delay))


class _Run:
    """Watches the rounds of an episode, injects its faults and undoes them."""

    def __init__(self, world: World, outcome: Outcome, pending: list[_Scheduled], images: int):
        self._world = world
        self._outcome = outcome
        self._pending = pending
        self._images = images
        self._active: list[tuple[float, Injection]] = []  # with the times at which they are undone
        self._start = time.monotonic()
        self._next = 0.0  # no fault before that time
        self._all_read: float | None = None

    def watch(self, seconds: float) -> bool:
        """Inject faults until the job ends; return whether it had to be killed because it hung."""
        job = self._world.job
        end = time.monotonic() + seconds
        while job.code is None:
            now = time.monotonic()
            if self._undo(now):
                end = max(end, now + seconds)
            if now >= self._next and self._inject(now):
                self._next = now + self._world.rng.uniform(*BETWEEN)
                end = now + seconds
            if now > end:
                job.end()
                return True
            time.sleep(POLL_SECONDS)
        return False

    def settle(self, seconds: float) -> None:
        """Wait until all faults are undone, and until the jobs that they started have ended or hang."""
        while self._active:
            time.sleep(POLL_SECONDS)
            self._undo(time.monotonic())
        while self._world.others:
            other = self._world.others.pop()
            end = time.monotonic() + seconds
            while other.code is None and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            overdue = other.code is None
            other.end()
            if finding := judge(other, overdue=overdue).finding:
                self._outcome.findings.append(f"second driver: {finding}")

    def _inject(self, now: float) -> bool:
        """Inject the first fault whose moment has come and whose target exists."""
        for one in self._pending:
            if not self._due(one, now):
                return False
            injection = FAULTS[one.name].inject(self._world)
            if injection is not None:
                self._pending.remove(one)
                self._outcome.injected[one.name] += 1
                now = time.monotonic()  # undoing another fault may have taken its time
                self._outcome.events.append((round(now - self._start, 1), one.name, injection.what))
                if injection.undo is not None:
                    self._active.append((now + injection.seconds, injection))
                return True
        return False

    def _due(self, one: _Scheduled, now: float) -> bool:
        if one.moment == 0.0:
            return now - self._world.job.started >= one.delay
        read = len(self._world.proxy.counts.keys("GET", IMAGES)) / self._images
        if read >= 1.0 and self._all_read is None:
            self._all_read = now
        if one.moment == 1.0:
            return self._all_read is not None and now - self._all_read >= one.delay
        return read >= one.moment

    def _undo(self, now: float) -> bool:
        """Undo the faults whose time is over; return whether any fault is still active."""
        for entry in list(self._active):
            end, injection = entry
            if now >= end and injection.undo is not None:
                self._active.remove(entry)
                injection.undo()
        return bool(self._active)
