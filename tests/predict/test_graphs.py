"""Graphs are recorded for shapes that recur, and change no result."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from pipeline.predict import graphs
from pipeline.predict.graphs import Graphed


class Recorder:
    """Stands for `CUDAGraph`: it cannot record inputs with five columns."""

    def __init__(self):
        self.recorded: list[tuple[int, ...]] = []
        self.shares_memory: list[bool] = []
        self.replayed = 0

    def __call__(self, function, x, other=None):
        self.recorded.append(tuple(x.shape))
        self.shares_memory.append(other is not None)
        if x.shape[-1] == 5:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay(x: Tensor):
            self.replayed += 1
            return function(x)

        return replay


def double(x: Tensor) -> tuple[Tensor]:
    return (x * 2,)


def test_a_shape_is_recorded_once_when_it_recurs():
    recorder = Recorder()
    function = Graphed(double, record=recorder)
    for columns in (3, 4, 3, 3, 4):
        assert function(torch.ones(columns))[0].tolist() == [2.0] * columns
    assert recorder.recorded == [(3,), (4,)]
    assert recorder.shares_memory == [False, True]
    assert recorder.replayed == 3


def test_a_shape_that_cannot_be_recorded_is_computed_and_reported_once(capsys):
    recorder = Recorder()
    function = Graphed(double, record=recorder)
    for columns in (5, 5, 5, 6, 6):
        assert function(torch.ones(columns))[0].tolist() == [2.0] * columns
    assert recorder.recorded == [(5,), (6,)]
    assert recorder.replayed == 1
    assert capsys.readouterr().err.count("have no CUDA graph") == 1


def test_shapes_beyond_the_bound_are_computed_as_they_are(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_SHAPES", 1)
    recorder = Recorder()
    function = Graphed(double, record=recorder)
    assert [len(function(torch.ones(n))[0]) for n in (3, 4, 3, 4)] == [3, 4, 3, 4]
    assert recorder.recorded == [(3,)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_computes_what_the_network_does_on_many_threads_and_streams():
    device = torch.device("cuda")
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval().to(device)
    graphed = Graphed(lambda x: (network(x), network(x).argmax(dim=1)))

    def is_equal(seed: int) -> bool:
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
            size = 32 if seed % 3 else 48
            x = torch.rand(4, 3, size, size, generator=torch.Generator(device).manual_seed(seed), device=device)
            scores, labels = graphed(x)
            expected = network(x)
            return torch.equal(scores, expected) and torch.equal(labels, expected.argmax(dim=1))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_equal, range(200)))
