"""CUDA graphs for the batches that recur: one call of Python in place of hundreds.

A predictor's process also receives, sends and writes images, on threads that take turns with Python's lock. Each of a
network's operations takes that lock anew, so a batch that a GPU computes in 18 ms took 41 ms to launch. A graph records
the operations for a shape once, and replays them all in one call, with the same results to the last bit.
"""

import sys
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.errors import one_line

MOST_SHAPES = 8

Outputs = tuple[Tensor, ...]
Function = Callable[[Tensor], Outputs]


class CUDAGraph:
    """The recorded operations of a function, for inputs of one shape.

    Graphs that share their memory must be called one after the other.

    Args:
        function: Function of a tensor that returns tensors.
        x: An input.
        other: An earlier graph whose memory this one uses too.
    """

    def __init__(self, function: Function, x: Tensor, other: "CUDAGraph | None" = None):
        self._input = x.clone()
        self._graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream()
        # Memory belongs to the stream of its recording, so graphs that share it are recorded on one stream.
        self._stream: torch.cuda.Stream = torch.cuda.Stream() if other is None else other._stream
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            function(self._input)  # makes this thread's handles of cuDNN and cuBLAS, which a recording cannot
        # When the outputs of the last call are copied.
        self._copied: torch.cuda.Event = torch.cuda.Event() if other is None else other._copied
        pool = None if other is None else other._graph.pool()
        try:
            # Other threads go on using the GPU meanwhile.
            with torch.cuda.graph(self._graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = function(self._input)
        finally:
            torch.cuda.set_stream(before)  # where a recording that fails leaves its own stream in place

    def __call__(self, x: Tensor) -> Outputs:
        """Return the function of a tensor, as tensors that later calls leave alone."""
        stream = torch.cuda.current_stream()
        stream.wait_event(self._copied)
        try:
            self._input.copy_(x)
            self._graph.replay()
            return tuple(output.clone() for output in self._outputs)
        finally:
            self._copied.record(stream)


class Graphed:
    """Calls a function of a tensor on a GPU, by a graph from the second call with a shape on.

    One call at a time replays a graph, so all graphs share the memory of one batch. A shape whose operations cannot be
    recorded, and those after the first `MOST_SHAPES`, are computed as they are. Nothing is recorded while another
    thread makes the first call with a shape: compiling waits for the whole GPU, which would spoil the recording.

    Args:
        function: Function of a tensor that returns tensors.
        record: Records the function for an input, with the memory of an earlier graph if there is one.
    """

    def __init__(self, function: Function, *, record: Callable[..., Function] = CUDAGraph):
        self._function = function
        self._record = record
        self._graphs: dict[torch.Size, Function] = {}
        self._seen: dict[torch.Size, bool] = {}  # whether a shape can be recorded, as far as is known
        self._first_calls = 0  # at this moment
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Outputs:
        """Return the function of a tensor."""
        with self._lock:
            if self._seen.get(x.shape) and x.shape not in self._graphs and not self._first_calls:
                self._try_to_record(x)
            if x.shape in self._graphs:
                return self._graphs[x.shape](x)
            is_first = x.shape not in self._seen and len(self._seen) < MOST_SHAPES
            self._first_calls += is_first
        try:
            outputs = self._function(x)  # a first call, which chooses algorithms or compiles, cannot be recorded
        finally:
            with self._lock:
                self._first_calls -= is_first
        if is_first:
            with self._lock:
                self._seen.setdefault(x.shape, True)
        return outputs

    def _try_to_record(self, x: Tensor) -> None:
        try:
            self._graphs[x.shape] = self._record(self._function, x, next(iter(self._graphs.values()), None))
        except Exception as error:  # an operation that waits for the GPU, or too little memory, for example
            self._seen[x.shape] = False
            print(f"batches of shape {tuple(x.shape)} have no CUDA graph: {one_line(error)}", file=sys.stderr)
