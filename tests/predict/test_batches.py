"""Batches hold images of one shape, each image once, and depend on shapes and order alone."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.predict.batches import Batches, micro_batches

SHAPES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=60)


@given(SHAPES, st.integers(1, 40), st.integers(0, 100))
def test_batches_contain_each_image_once_within_both_bounds(shapes, max_pixels, max_waiting):
    batches = Batches(max_pixels=max_pixels, max_waiting=max_waiting)
    found: list[list[int]] = []
    for i, shape in enumerate(shapes):
        found += batches.add(i, shape)
        waiting = set(range(i + 1)) - {j for batch in found for j in batch}
        assert sum(shapes[j][0] * shapes[j][1] for j in waiting) <= max_waiting
    found += batches.rest()
    assert sorted(i for batch in found for i in batch) == list(range(len(shapes)))
    for batch in found:
        assert len({shapes[i] for i in batch}) == 1
        assert batch == sorted(batch)
        assert len(batch) == 1 or len(batch) * shapes[batch[0]][0] * shapes[batch[0]][1] <= max_pixels


@given(SHAPES, st.integers(1, 40))
def test_without_a_bound_on_waiting_only_the_last_batch_of_a_shape_is_not_full(shapes, max_pixels):
    by_shape: dict[tuple[int, int], list[int]] = {}
    for batch in micro_batches(shapes, max_pixels=max_pixels):
        by_shape.setdefault(shapes[batch[0]], []).append(len(batch))
    for (height, width), sizes in by_shape.items():
        full = max(1, max_pixels // (height * width))
        assert all(size == full for size in sizes[:-1])
