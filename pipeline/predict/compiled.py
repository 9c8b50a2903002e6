"""A network that is compiled for the shapes that recur."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import one_line

MOST_SHAPES = 8  # compiling one takes up to a minute, and each keeps its kernels
WORTHWHILE_IMAGES = 100_000


def worth_compiling(images: int, device: torch.device) -> bool:
    """Tell whether compiling pays for a number of images: on a GPU it takes a minute and saves a quarter."""
    return device.type == "cuda" and images >= WORTHWHILE_IMAGES


class Compiled:
    """Compiles a function by `torch.compile`, a shape at a time, and calls it as it is where that fails.

    Shapes are compiled in the order in which they occur; those after the first `MOST_SHAPES` are not. Results of a
    compiled function can differ in their last bits.

    Args:
        function: Function of a tensor.
        backend: Backend of `torch.compile`.
        freeze: Let inductor rearrange the weights for oneDNN; they may no longer change.
    """

    def __init__(
        self, function: Callable[[Tensor], Any], *, backend: str | Callable = "inductor", freeze: bool = False
    ):
        self._function = function
        options: dict[str, Any] | None = {"freezing": True} if freeze else None
        self._compiled = torch.compile(function, backend=backend, options=options, dynamic=False)
        self._ready: dict[torch.Size, bool] = {}  # whether a shape has been compiled or cannot be
        self._compiling = threading.Lock()

    def __call__(self, x: Tensor) -> Any:
        """Return the function of a tensor."""
        ready = self._ready.get(x.shape)
        if ready is None:
            return self._first(x)
        return self._compiled(x) if ready else self._function(x)

    def _first(self, x: Tensor) -> Any:
        with self._compiling:
            if x.shape in self._ready or len(self._ready) >= MOST_SHAPES:
                return self._compiled(x) if self._ready.get(x.shape) else self._function(x)
            try:
                result = self._compiled(x)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever the compiler raises
                self._ready[x.shape] = False
                print(f"batches of shape {tuple(x.shape)} are not compiled: {one_line(error)}", file=sys.stderr)
                return self._function(x)
            self._ready[x.shape] = True
            return result
