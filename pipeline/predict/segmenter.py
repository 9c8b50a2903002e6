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
from pipeline.predict.canvas import Canvas, certainty, check_finite, compact_scores, labels_of
from pipeline.predict.compiled import Compiled
from pipeline.predict.crf import DeviceCRF
from pipeline.predict.device import Normalisation, autocast, place, upload
from pipeline.predict.fitting import FittingBatches
from pipeline.predict.graphs import Function, Graphed
from pipeline.predict.instances import choose, instance_scores
from pipeline.predict.prediction import Prediction
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
        batch_pixels: Largest number of pixels in a batch of windows; a batch of images with so many is full.
        keep_scores: Return the score maps as well.
        crf: Dense CRF that refines the labels on the device; None for none.
        compile: Compile the network for the shapes of full batches; see `compiled.Compiled`. On a GPU they are recorded
            as graphs in any case; see `graphs.Graphed`.
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
        crf: DeviceCRF | None = None,
        compile: bool = False,
    ):
        self.model = place(model, device)
        self._normalise = Normalisation(preprocessing, device)
        self.device = device
        self.dtype = dtype
        self.instances = instances or Instances()
        self.windows = windows or Windows()
        self.tta = tta or TTAOptions()
        self._plain = self.tta == TTAOptions()  # here, because torch.compile cannot trace the comparison
        self.batch_pixels = batch_pixels
        self.keep_scores = keep_scores
        self.crf = crf
        self._fit = FittingBatches()
        self._full_outputs: Function = self._outputs
        if compile:
            self._full_outputs = Compiled(self._outputs, freeze=device.type == "cpu")
        if device.type == "cuda":
            self._full_outputs = Graphed(self._full_outputs)

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
            return self._fit(self._whole, images, pixels=height * width)
        if height * width * self.tta.enlargement <= self.windows.above:
            try:
                return self._fit(self._whole, images, pixels=height * width)
            except torch.OutOfMemoryError:
                pass
            torch.cuda.empty_cache()
        return [self._in_windows(image) for image in images]

    def _whole(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        batch = upload(images, self.device)
        if self.instances.proposals:
            stride = 1
            labels, confidence, entropy, logits = self._describe(self._scores_of_boxes(images, batch), batch, stride)
        else:
            stride = self.model.output_stride
            height, width = images[0].shape[:2]
            full = (len(images) + 1) * height * width > min(self.batch_pixels, self._fit.most_pixels)
            outputs = self._full_outputs if full else self._outputs
            labels, confidence, entropy, logits = outputs(batch)
        check_finite(entropy)
        scores = compact_scores(logits).cpu().numpy() if self.keep_scores else [None] * len(images)
        by_image = zip(labels.cpu().numpy(), confidence.tolist(), entropy.tolist(), scores, strict=True)
        predictions = [Prediction(*image_outputs, stride) for image_outputs in by_image]
        return (
            predictions if self.crf is None else self.crf.of_batch(predictions, images, batch, compact_scores(logits))
        )

    def _outputs(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return labels, mean confidence, mean entropy and logits of a batch uint8 [batch, height, width, 3]."""
        return self._describe(self._scores(batch), batch, self.model.output_stride)

    def _describe(self, logits: Tensor, batch: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        confidence, entropy = (values.mean(dim=(1, 2)) for values in certainty(logits))
        labels = labels_of(logits, (batch.shape[1], batch.shape[2]), stride=stride)
        return labels, confidence, entropy, logits

    def _in_windows(self, image: NDArray[np.uint8]) -> Prediction:
        stride: int = self.model.output_stride
        height, width = image.shape[:2]
        rows, columns = (lay_out(length, self.windows, stride=stride) for length in (height, width))
        canvas = Canvas((height, width), stride=stride, keep_scores=self.keep_scores or self.crf is not None)
        mosaic = Mosaic(width=columns[-1].end)
        spans = itertools.product(rows, columns)
        for (row, column), scores in zip(spans, self._window_scores(image, rows, columns), strict=True):
            canvas.add(row, column, mosaic.add(row, column, scores))
        prediction = canvas.prediction()
        return prediction if self.crf is None else self.crf.of_large_image(prediction, image, self.device)

    def _window_scores(self, image: NDArray[np.uint8], rows: list[Span], columns: list[Span]) -> Iterator[Tensor]:
        """Yield the scores of the windows row by row; only the last window of a row has another shape."""
        stride = self.model.output_stride
        for row in rows:
            windows = [image[row.pixels(stride), column.pixels(stride)] for column in columns]
            for batch in micro_batches([window.shape for window in windows], max_pixels=self.batch_pixels):
                pixels = windows[batch[0]].shape[0] * windows[batch[0]].shape[1]
                yield from self._fit(self._scores_of_windows, [windows[i] for i in batch], pixels=pixels)

    def _scores_of_windows(self, windows: Sequence[NDArray[np.uint8]]) -> list[Tensor]:
        return list(self._scores(upload(windows, self.device)).float())

    def _scores(self, batch: Tensor) -> Tensor:
        """Return the logits of a batch at the network's output stride."""
        x = self._normalise(batch)
        with autocast(self.device, self.dtype):
            if self._plain:
                return self.model(x).logits
            stride = self.model.output_stride
            return averaged_scores(lambda copies: self.model(copies).logits, x, self.tta, stride=stride)

    def _scores_of_boxes(self, images: Sequence[NDArray[np.uint8]], batch: Tensor) -> Tensor:
        """Return the scores of instance-wise inference at each pixel."""
        stride = self.model.output_stride

        def score(crops: Tensor) -> Tensor:
            return upsample(self.model(crops).logits, (crops.shape[-2], crops.shape[-1]), stride=stride)

        boxes = [choose(selective_search(pixels), self.instances) for pixels in images]
        x = self._normalise(batch)
        with autocast(self.device, self.dtype):
            return torch.stack([instance_scores(score, one, b) for one, b in zip(x, boxes, strict=True)])
