"""A segmentation run in which an image ends the processes that compute it. Helper processes import this module."""

import ctypes
import os
import signal
from pathlib import Path

from pipeline.bulk.segmentation.run import SegmentationRun

DEADLY = (255, 0, 0)


class Deadly(SegmentationRun):
    """A run in which an image ends the process that does one step of it, as a crash in a C library would.

    Args:
        kind: The run without deaths.
        step: "prepare", "row" or "predict"; "lose" is an image after which the device computes nothing.
        deaths: Folder in which each death leaves a file.
        how: Signal that ends the process.
        times: Deaths after which the step succeeds.
    """

    def __init__(self, kind: SegmentationRun, *, step: str, deaths: Path, how: int = signal.SIGSEGV, times: int = 99):
        super().__init__(kind.config, kind.card, kind.classes)
        self.step, self.deaths, self.how, self.times = step, deaths, how, times

    def die(self) -> None:
        count = len(list(self.deaths.iterdir()))
        if count < self.times:
            (self.deaths / str(count)).touch()
            if self.how == signal.SIGSEGV:
                ctypes.string_at(0)  # reads address 0
            os.kill(os.getpid(), self.how)

    def prepare(self, pixels):
        if self.step == "prepare" and (pixels[0, 0] == DEADLY).all():
            self.die()
        return super().prepare(pixels)

    def row(self, fetched, result):
        if self.step == "row" and fetched.image_id == "2.png":
            self.die()
        return super().row(fetched, result)

    def load_predictor(self, images):
        from pipeline.bulk.segmentation.predictor import SegmentationPredictor

        kind = self

        class DeadlyPredictor(SegmentationPredictor):
            lost = False

            def __call__(self, images, truths):
                is_deadly = any((image[0, 0] == DEADLY).all() for image in images)
                if kind.step == "predict" and is_deadly:
                    kind.die()
                self.lost |= kind.step == "lose" and is_deadly
                if self.lost:
                    raise RuntimeError("an illegal memory access was encountered")
                return super().__call__(images, truths)

            def is_lost(self):
                return self.lost

        return DeadlyPredictor(self.config, images=images)
