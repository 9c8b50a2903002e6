"""The Triton kernels against their oracle, by Triton's interpreter, which needs no GPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROGRAM = """
import torch
from pipeline.crf.gpu import fused
from pipeline.crf.gpu.lists import Lists, by_length
from pipeline.crf.gpu.sums import list_sums, row_sums

random = torch.Generator().manual_seed(0)
lengths = [0, 3, 37, 1, 129, 0]  # an empty list first and last, and one that is longer than the others of its tile
offsets = torch.tensor([0, *lengths]).cumsum(0).int()
rows = torch.randint(0, 50, (sum(lengths),), generator=random).int()
weights = torch.rand(sum(lengths), generator=random)
for images, lanes in ((1, 8), (3, 5), (2, 21), (1, 1100)):
    values = torch.rand(images, sum(lengths), lanes, generator=random)
    for lists in (Lists(rows, weights, offsets, by_length(offsets)), Lists(None, None, offsets, by_length(offsets))):
        torch.testing.assert_close(fused.list_sums(values, lists), list_sums(values, lists))
    for count in (1, 300):  # less than a tile, and no multiple of one
        table = torch.randint(0, 50, (count, 6), generator=random).int()
        factors = torch.rand(count, 6, generator=random)
        torch.testing.assert_close(fused.row_sums(values, table, factors), row_sums(values, table, factors))
beside = values.transpose(0, 1).contiguous().transpose(0, 1)  # not contiguous
torch.testing.assert_close(fused.row_sums(beside, table, factors), row_sums(values, table, factors))
print("equal")
"""


def test_equals_the_sums_of_pytorch():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "equal", done.stderr
