"""A segmentation network on a device: label maps of decoded images of any size."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.preprocessing import DType, Instances, Preprocessing, TTAOptions, Windows
from pipeline.data.proposals import selective_search
from pipeline.models.upsampling import upsample
from pipeline.predict.augmentation import averaged_scores
from pipeline.predict.batches import micro_batches
from pipeline.predict.device import autocast, normalise, place
from pipeline.predict.fitting import FittingBatches
from pipeline.predict.instances import choose, instance_scores
from pipeline.predict.prediction import Canvas, Prediction, certainty, check_finite, kept_scores, labels_of
from pipeline.predict.windows import Mosaic, Span, lay_out


class Segmenter:
    """Segments images with a network, as a whole or, if they are large, in windows.

    An image in windows takes, besides its own 3 bytes and the label's 1 or 2 bytes per pixel, the memory of the network
    for a batch of windows, a few times 4 · classes · size² bytes for the interpolated scores of a window, and
    4 · classes · (overlap / 2 / stride + 1) · width / stride bytes for the scores that the next row of windows
    continues. The latter two do not grow with the height of the image. With `keep_scores` there are also
    2 · classes · height · width / stride² bytes.

    Args:
        model: Network in eval mode; it is moved to the device.
        preprocessing: Normalisation of the input.
        device: Device to run on.
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        instances: Options of instance-wise inference; None to segment whole images.
        windows: Options of sliding windows; None for the defaults.
        tta: Options of test-time augmentation; None to segment the image alone.
        batch_pixels: Largest number of pixels in a batch of windows.
        keep_scores: Return the score maps as well.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: DType = "float32",
        instances: Instances | None = None,
        windows: Windows | None = None,
        tta: TTAOptions | None = None,
        batch_pixels: int = 1_000_000,
        keep_scores: bool = False,
    ):
        self.model = place(model, device)
        self.preprocessing = preprocessing
        self.device = device
        self.dtype = dtype
        self.instances = instances or Instances()
        self.windows = windows or Windows()
        self.tta = tta or TTAOptions()
        self.batch_pixels = batch_pixels
        self.keep_scores = keep_scores
        self._fit = FittingBatches()

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Segment images of one shape, each uint8 [height, width, 3].

        A batch that does not fit the GPU's memory is halved until it does, and later batches are no larger. If an image
        does not fit alone, the images are segmented in windows; so a device with more memory can give other labels,
        unless `windows.above` is low enough for both.

        Raises:
            NotFiniteError: The scores of an image are not finite.
            torch.OutOfMemoryError: A window does not fit the memory of the device.
        """
        height, width = images[0].shape[:2]
        if self.instances.proposals:
            return self._fit(self._whole, images)
        if height * width * self.tta.enlargement <= self.windows.above:
            try:
                return self._fit(self._whole, images)
            except torch.OutOfMemoryError:
                pass
            torch.cuda.empty_cache()
        return [self._in_windows(image) for image in images]

    def _whole(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        with autocast(self.device, self.dtype):
            logits, stride = self._scores(images)
        confidence, entropy = (values.mean(dim=(1, 2)) for values in certainty(logits))
        check_finite(entropy)
        height, width = images[0].shape[:2]
        labels = labels_of(logits, (height, width), stride=stride).cpu().numpy()
        scores = kept_scores(logits) if self.keep_scores else [None] * len(images)
        by_image = zip(labels, confidence.tolist(), entropy.tolist(), scores, strict=True)
        return [Prediction(*image_outputs, stride) for image_outputs in by_image]

    def _in_windows(self, image: NDArray[np.uint8]) -> Prediction:
        stride: int = self.model.output_stride
        height, width = image.shape[:2]
        rows, columns = (lay_out(length, self.windows, stride=stride) for length in (height, width))
        canvas = Canvas((height, width), stride=stride, keep_scores=self.keep_scores)
        mosaic = Mosaic(width=columns[-1].end)
        spans = itertools.product(rows, columns)
        for (row, column), scores in zip(spans, self._window_scores(image, rows, columns), strict=True):
            canvas.add(row, column, mosaic.add(row, column, scores))
        return canvas.prediction()

    def _window_scores(self, image: NDArray[np.uint8], rows: list[Span], columns: list[Span]) -> Iterator[Tensor]:
        """Yield the scores of the windows row by row; only the last window of a row has another shape."""
        stride = self.model.output_stride
        for row in rows:
            windows = [image[row.pixels(stride), column.pixels(stride)] for column in columns]
            for batch in micro_batches([window.shape for window in windows], max_pixels=self.batch_pixels):
                yield from self._fit(self._scores_of_windows, [windows[i] for i in batch])

    def _scores_of_windows(self, windows: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        with autocast(self.device, self.dtype):
            return list(self._scores(windows)[0].float())

    def _scores(self, images: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, int]:
        """Return the logits of images of one shape and their stride."""
        stride: int = self.model.output_stride
        batch = normalise(torch.from_numpy(np.stack(images)).to(self.device), self.preprocessing)
        if self.instances.proposals:

            def score(crops: Tensor) -> Tensor:
                return upsample(self.model(crops).logits, (crops.shape[-2], crops.shape[-1]), stride=stride)

            boxes = [choose(selective_search(pixels), self.instances) for pixels in images]
            return torch.stack([instance_scores(score, x, b) for x, b in zip(batch, boxes, strict=True)]), 1
        if self.tta == TTAOptions():
            return self.model(batch).logits, stride
        return averaged_scores(lambda copies: self.model(copies).logits, batch, self.tta, stride=stride), stride
