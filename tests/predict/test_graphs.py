"""Graphs are recorded for shapes that recur, and change no result."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data.preprocessing import Preprocessing, TTAOptions
from pipeline.models import ARCHITECTURES
from pipeline.predict import graphs
from pipeline.predict.graphs import Graphed
from pipeline.predict.segmenter import Segmenter


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


def test_nothing_is_recorded_while_another_thread_makes_a_first_call():
    """Compiling waits for the whole device, which would spoil a recording."""
    recorder, compiling, compiled = Recorder(), threading.Event(), threading.Event()

    def compute(x: Tensor) -> tuple[Tensor]:
        if x.shape[-1] == 4:
            compiling.set()
            assert compiled.wait(60)
        return double(x)

    function = Graphed(compute, record=recorder)
    function(torch.ones(3))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(function, torch.ones(4))
        assert compiling.wait(60)
        function(torch.ones(3))
        assert recorder.recorded == []
        compiled.set()
        first.result()
    function(torch.ones(3))
    assert recorder.recorded == [(3,)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_computes_what_the_network_does_on_many_threads_and_streams(capsys):
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
    assert len(graphed._graphs) == 2
    assert capsys.readouterr().err == ""


class Watch(TorchDispatchMode):
    """Notes operations that cannot be recorded: copying a number or a list to the GPU, and waiting for a result."""

    FORBIDDEN = ("lift_fresh", "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal")

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found |= {func.overloadpacket.__name__} & set(self.FORBIDDEN)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tta", [TTAOptions(), TTAOptions(scales=(0.75, 1.0), flip=True)], ids=["plain", "tta"])
def test_a_network_needs_nothing_from_the_host(name, tta):
    config = ARCHITECTURES[name]
    config = config.model_copy(update={"width": 0.125}) if hasattr(config, "width") else config
    segmenter = Segmenter(
        config.build(5).eval(), preprocessing=Preprocessing(), device=torch.device("cpu"), tta=tta, batch_pixels=1
    )
    images = torch.zeros(1, *((224, 224) if name.startswith("deconvnet") else (64, 96)), 3, dtype=torch.uint8)
    with torch.no_grad():  # in inference mode, `Watch` would not see what composite operations such as item() call
        segmenter._outputs(images)  # the first call may make what later ones use
        with Watch() as watch:
            segmenter._outputs(images)
    assert watch.found == set()
