"""Test-time augmentation: the mean of a network's probabilities over scaled and mirrored copies of an image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.preprocessing import TTAOptions


def averaged_scores(score: Callable[[Tensor], Tensor], images: Tensor, options: TTAOptions, *, stride: int) -> Tensor:
    """Return the logarithm of the mean probabilities over all scales, each as it is and mirrored if `options.flip`.

    The probabilities of a copy are interpolated at the positions of the score map's units in the image itself, so the
    result takes the place of the network's scores: no probabilities of the size of the image are held, and a CRF can
    follow.

    Args:
        score: Function from normalised images to logits [batch, classes, ceil(height / stride), ceil(width / stride)].
        images: Normalised images [batch, 3, height, width].
        options: Scales and mirroring.
        stride: Output stride of the network.

    Returns:
        float32 [batch, classes, ceil(height / stride), ceil(width / stride)]; NaN where a copy's logits are not finite.
    """
    height, width = images.shape[-2:]
    total: Tensor | None = None
    for scale in options.scales:
        copy = images
        if scale != 1:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            copy = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=scale < 1)
        for mirrored in (False, True) if options.flip else (False,):
            logits = score(copy.flip(3) if mirrored else copy).float()
            # Softmax would hide minus infinity. An error here would wait for the GPU, which no graph can record.
            p = logits.softmax(dim=1).where(logits.isfinite(), torch.nan)
            if mirrored or scale != 1:
                p = _at_units_of(p, (height, width), copy.shape[-2:], mirrored=mirrored, stride=stride)
            total = p if total is None else total.add_(p)
    assert total is not None
    return total.div_(len(options.scales) * (1 + options.flip)).clamp_(min=torch.finfo(total.dtype).tiny).log_()


def _at_units_of(p: Tensor, size: Sequence[int], copy_size: Sequence[int], *, mirrored: bool, stride: int) -> Tensor:
    """Interpolate a copy's map at the centres of the units of the image's map.

    The unit u of the image's map has its centre at the pixel (u + 1/2) stride - 1/2, which lies elsewhere in the copy.
    Unless the stride divides both sizes, it does not lie on the centre of a unit there.
    """
    positions = []
    for length, copy_length, units, mirror in zip(size, copy_size, p.shape[-2:], (False, mirrored), strict=True):
        at = (torch.arange(-(-length // stride), dtype=p.dtype, device=p.device) + 0.5) * (copy_length / length)
        if mirror:
            at = copy_length / stride - at
        positions.append(at * (2 / units) - 1)  # grid_sample counts from -1 to 1 between the borders of the map
    y, x = torch.meshgrid(*positions, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(p), -1, -1, -1)
    return F.grid_sample(p, grid, mode="bilinear", padding_mode="border", align_corners=False)
