"""The faults benchmark: prepares the store and the cluster, and runs the undisturbed runs and the episodes."""

import os
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.chaos.cluster import HERE, RayCluster
from benchmarks.chaos.collection import store_images, store_network
from benchmarks.chaos.disk import small_disk
from benchmarks.chaos.episode import Episode, Outcome, run_episode
from benchmarks.chaos.faults import IMAGES
from benchmarks.chaos.job import Job
from benchmarks.chaos.proxy import FaultProxy
from benchmarks.chaos.rows import Row, compare, read_rows
from benchmarks.swift import SwiftServer
from pipeline import storage

NODES, CPUS, ACTORS = 3, 2, 3  # a node may be lost: two nodes hold the predictors and a task
LEAST_SECONDS, TIMES_UNDISTURBED = 300.0, 10.0  # a job hangs if it takes longer than both


@dataclass
class _Undisturbed:
    """The run without faults to which others are compared; it reads some images twice, for its sheet of pictures."""

    rows: list[Row]
    seconds: float
    refetched: int


def run_chaos(
    episodes: Sequence[Episode],
    *,
    seed: int,
    images: int,
    pace: float,
    server: SwiftServer,
    folder: Path,
    show: Callable[[str], None],
) -> list[Outcome]:
    """Run episodes, and the undisturbed runs that they are compared with.

    Args:
        episodes: The episodes.
        seed: Seed of the faults.
        images: Images of each run.
        pace: Most images per second that the proxy hands out.
        server: The store.
        folder: Folder for the logs of the jobs.
        show: Takes a line about what happens.
    """
    bucket = server.make_bucket(f"chaos-{uuid.uuid4().hex[:12]}")
    show(f"seed {seed}: storing {images} images")
    with _environment(server.environment):
        store_images(storage.join(bucket, "images"), images)
        store_network(storage.join(bucket, "model"))
        proxy = FaultProxy(server.endpoint, seed=seed, pace=pace, paced=IMAGES)
        # Helpers and workers import this checkout, whichever is installed.
        python_path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"AWS_ENDPOINT_URL": proxy.endpoint, "PYTHONPATH": python_path}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
        with (
            proxy,
            small_disk(folder / "disk") as disk,
            RayCluster(nodes=NODES, cpus=CPUS, environment=environment) as cluster,
        ):
            laboratory = _Laboratory(seed, bucket, images, proxy, cluster, environment, folder, disk, show)
            return [laboratory.disturbed(episode) for episode in episodes if laboratory.can_run(episode)]


@dataclass
class _Laboratory:
    """All that an episode needs."""

    seed: int
    bucket: str
    images: int
    proxy: FaultProxy
    cluster: RayCluster
    environment: dict[str, str]
    folder: Path
    disk: Path | None
    show: Callable[[str], None]
    undisturbed: dict[bool, _Undisturbed] = field(default_factory=dict)

    def can_run(self, episode: Episode) -> bool:
        """Tell whether this machine has what an episode needs."""
        if episode.on_disk and self.disk is None:
            self.show(f"{episode.name}: left out, because only root may mount the small disk that it fills")
            return False
        return True

    def disturbed(self, episode: Episode) -> Outcome:
        """Run an episode, and compare its rows with those of the undisturbed run, with the CRF or without it."""
        if episode.crf not in self.undisturbed:
            self.undisturbed[episode.crf] = self._undisturbed(crf=episode.crf)
        expected = self.undisturbed[episode.crf]
        outcome, rows = self._run(episode, round_seconds=max(LEAST_SECONDS, TIMES_UNDISTURBED * expected.seconds))
        outcome.lost, outcome.doubled, outcome.different = compare(expected.rows, rows)
        outcome.refetched -= expected.refetched
        outcome.seconds_lost = outcome.seconds - expected.seconds
        self._report(outcome)
        return outcome

    def _undisturbed(self, *, crf: bool) -> _Undisturbed:
        episode = Episode("undisturbed-crf" if crf else "undisturbed", {}, crf=crf)
        outcome, rows = self._run(episode, round_seconds=4 * LEAST_SECONDS)
        masks = {row.mask for row in rows if row.mask is not None}
        if outcome.findings or len(rows) != self.images or len(masks) < self.images / 2:
            raise RuntimeError(
                f"the undisturbed run is no reference: {len(rows)} rows of {self.images} images, {len(masks)} "
                f"different masks, {outcome.findings}"
            )
        self._report(outcome)
        return _Undisturbed(rows, outcome.seconds, outcome.refetched)

    def _run(self, episode: Episode, *, round_seconds: float) -> tuple[Outcome, list[Row]]:
        output = storage.join(str(self.disk) if episode.on_disk else self.bucket, "runs", episode.name)
        arguments = ["--model", storage.join(self.bucket, "model"), "--images", storage.join(self.bucket, "images")]
        arguments += ["--output", output, "--run-id", "chaos", f"--scaling.actors={ACTORS}", *episode.options]
        arguments += ["--crf"] if episode.crf else []
        logs = (self.folder / f"{episode.name}-{i}.log" for i in count(1))

        def start_job() -> Job:
            environment = self.environment | {"RAY_ADDRESS": self.cluster.address}
            if episode.on_disk:
                environment["TMPDIR"] = str(self.disk)
            return Job(arguments, environment=environment, log=next(logs))

        outcome = run_episode(
            episode,
            rng=random.Random(f"{self.seed} {episode.name}"),
            proxy=self.proxy,
            cluster=self.cluster,
            start_job=start_job,
            images=self.images,
            disk=self.disk if episode.on_disk else None,
            round_seconds=round_seconds,
        )
        return outcome, read_rows(storage.join(output, "run_id=chaos"))

    def _report(self, outcome: Outcome) -> None:
        for seconds, name, what in outcome.events:
            self.show(f"  {seconds:6.1f} s  {name}: {what}")
        for finding in outcome.findings:
            self.show(f"  {finding}")
        self.show(
            f"{outcome.name}: {outcome.seconds:.0f} s in {outcome.rounds} rounds; {len(outcome.lost)} lost, "
            f"{len(outcome.doubled)} doubled, {len(outcome.different)} different"
        )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables in a `with` block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
