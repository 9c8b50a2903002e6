"""Compiled batches give the network's result, and a shape that cannot be compiled is computed as it is."""

import torch
from torch import nn

from pipeline.predict import compiled
from pipeline.predict.compiled import Compiled


def test_a_compiled_function_gives_the_same_scores():
    """The backend runs the captured graph, so the test needs no C++ compiler."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    function = Compiled(network, backend=backend)
    with torch.inference_mode():
        for shape in [(2, 3, 8, 9), (2, 3, 7, 7), (2, 3, 8, 9)]:
            x = torch.rand(shape)
            torch.testing.assert_close(function(x), network(x))
    assert len(graphs) == 2


def test_a_shape_that_cannot_be_compiled_is_computed_and_said_once(capsys):
    def backend(graph, inputs):
        if inputs[-1].shape[-1] == 5:
            raise RuntimeError("no kernel for this")
        return graph.forward

    function = Compiled(lambda x: x * 2, backend=backend)
    for _ in range(3):
        assert function(torch.ones(5)).tolist() == [2.0] * 5
    assert function(torch.ones(6)).tolist() == [2.0] * 6
    assert capsys.readouterr().err.count("not compiled") == 1


def test_shapes_beyond_the_bound_are_computed_as_they_are(monkeypatch):
    monkeypatch.setattr(compiled, "MOST_SHAPES", 1)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    function = Compiled(lambda x: x + 1, backend=backend)
    assert [function(torch.zeros(n)).sum().item() for n in (3, 4, 3)] == [3, 4, 3]
    assert len(graphs) == 1
