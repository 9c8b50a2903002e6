"""Decoding and encoding of images, label maps, masks and heatmaps; orientation, colours and sizes."""

import colorsys
import io
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.data.formats import MAX_PIXELS, ImageError, load_image, open_image
from pipeline.data.preprocessing import View

_STRIP = 256  # rows of an image that are converted at a time

_EXIF_ORIENTATION = 0x0112
# Operations that turn the stored pixels upright (EXIF 2.3, tag 0x0112): whether to transpose, to flip rows and to flip
# columns, in this order.
_UPRIGHT = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: Upright RGB image, uint8 [height, width, 3].
        orientation: EXIF orientation 1-8 of the stored pixels, with which `from_upright` turns a mask back. The
            stored pixels are those that Pillow decodes: an AVIF is not turned yet, while those of a HEIC are upright.
    """

    pixels: NDArray[np.uint8]
    orientation: int


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode JPEG, PNG, WebP, TIFF, BMP, GIF, JPEG 2000, PPM, AVIF or HEIC to upright 8-bit RGB.

    Of several pages or frames, the first is decoded (of a HEIC, the primary image). 16-bit grey is reduced to its high
    byte, as libpng does (Pillow alone would saturate it). CMYK and palettes are converted to RGB. Alpha is dropped.

    The peak memory of most formats is that of Pillow's image (4 bytes per pixel for colours, 1 for greys and palettes)
    and that of the result (3 bytes); JPEG 2000 and WebP need more.

    Args:
        data: The encoded file.
        max_pixels: Images with more pixels are refused once their header is read.

    Raises:
        ImageError: The file is empty, truncated, too large, or no image.
    """
    return decode_pillow(open_image(data, max_pixels=max_pixels))


def decode_pillow(image: Image.Image) -> DecodedImage:
    """Decode an open Pillow image as `decode_image` does.

    Raises:
        ImageError: It is truncated or damaged, or its pixels have no defined 8-bit value.
    """
    tiff_orientation = _tiff_orientation(image)
    load_image(image)
    orientation = _orientation(image) if tiff_orientation == 1 else 1  # Pillow has turned such a TIFF upright
    _check_range(image)
    transposed = _UPRIGHT[orientation][0]
    pixels = np.empty((*(image.size if transposed else image.size[::-1]), 3), np.uint8)
    stored = from_upright(pixels, orientation)  # a view
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        stored[top : top + _STRIP] = _to_rgb(strip)
    return DecodedImage(pixels, orientation if tiff_orientation == 1 else tiff_orientation)


def _orientation(image: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # the pixels may be good although the EXIF block is damaged
        orientation = 1
    return orientation if orientation in _UPRIGHT else 1


def _tiff_orientation(image: Image.Image) -> int:
    """Return the orientation of a TIFF that is not loaded yet: loading it turns it upright and removes the tag."""
    return _orientation(image) if image.format == "TIFF" else 1


def _check_range(image: Image.Image) -> None:
    """Refuse pixels that have no defined 8-bit value."""
    if image.mode == "F":
        raise ImageError("floating-point pixels have no defined range; save it with 8 or 16 bits per channel")
    if image.mode == "I":
        low, high = (int(value) for value in image.getextrema())  # type: ignore[arg-type]  # one channel
        if low < 0 or high > 65535:
            raise ImageError(f"32-bit pixels from {low} to {high}; save it with 8 or 16 bits per channel")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def to_upright(pixels: NDArray, orientation: int) -> NDArray:
    """Turn stored pixels [height, width, …] upright by their EXIF orientation (1-8)."""
    transpose, rows, columns = _UPRIGHT[orientation]
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]


def boxes_to_upright(boxes: NDArray, orientation: int, *, height: int, width: int) -> NDArray:
    """Turn boxes [n, 4] of left, top, right, bottom in stored pixels as `to_upright` turns the pixels.

    Args:
        boxes: Boxes with exclusive right and bottom.
        orientation: EXIF orientation 1-8.
        height: Height of the upright image.
        width: Its width.
    """
    transpose, rows, columns = _UPRIGHT[orientation]
    left, top, right, bottom = boxes.T
    if transpose:
        left, top, right, bottom = top, left, bottom, right
    if rows:
        top, bottom = height - bottom, height - top
    if columns:
        left, right = width - right, width - left
    return np.stack([left, top, right, bottom], axis=1)


def from_upright(pixels: NDArray, orientation: int) -> NDArray:
    """Turn a mask of the upright image back onto the stored pixels; the inverse of `to_upright`."""
    transpose, rows, columns = _UPRIGHT[orientation]
    pixels = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return pixels.swapaxes(0, 1) if transpose else pixels


def boxes_from_upright(boxes: NDArray, size: tuple[int, int], orientation: int) -> NDArray:
    """Return boxes in an upright image as boxes on the stored pixels.

    Args:
        boxes: Left, top, right, bottom with exclusive right and bottom, [n, 4].
        size: Height and width of the upright image.
        orientation: EXIF orientation (1-8) of the stored pixels.
    """
    transpose, rows, columns = _UPRIGHT[orientation]
    left, top, right, bottom = boxes.T
    if columns:
        left, right = size[1] - right, size[1] - left
    if rows:
        top, bottom = size[0] - bottom, size[0] - top
    corners = (top, left, bottom, right) if transpose else (left, top, right, bottom)
    return np.stack(corners, axis=1).astype(boxes.dtype)


def decode_raw_label(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.int32]:
    """Decode a label map to its stored values, without applying orientation or palette.

    Args:
        data: An indexed (P), grey (1, L, 16-bit) or RGB(A) image.
        max_pixels: Label maps with more pixels are refused.

    Returns:
        int32 [height, width] of indices, grey values, or RGB colours as 0x1RRGGBB, which differ from every index.

    Raises:
        ImageError: The file cannot be decoded, or its pixels are of another kind.
    """
    image = open_image(data, max_pixels=max_pixels, labels=True)
    tiff_orientation = _tiff_orientation(image)
    grey_factor = _grey_factor(image)
    load_image(image)
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        raw = np.asarray(image).astype(np.int32) // grey_factor
        if raw.size and raw.max() >= 1 << 24:
            raise ImageError(f"a label map of values up to {raw.max()}; expected at most {(1 << 24) - 1}")
        return from_upright(raw, tiff_orientation)
    if image.mode in ("RGB", "RGBA"):
        return from_upright(pack_rgb(np.asarray(image.convert("RGB"))), tiff_orientation)
    raise ImageError(f"a label map of mode {image.mode}; expected indexed, grey, 16-bit or RGB")


def _grey_factor(image: Image.Image) -> int:
    """Return the factor by which Pillow multiplies grey values of 2 or 4 bits to fill the range 0..255."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return {"L;2": 85, "L;4": 17}.get(str(raw_mode), 1)


def pack_rgb(colours: NDArray) -> NDArray[np.int32]:
    """Pack colours [..., 3] with channels 0..255 into int32 0x1RRGGBB [...]."""
    wide = np.asarray(colours).astype(np.int32)
    return (1 << 24) | (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def encode_mask(labels: NDArray, palette: NDArray[np.uint8]) -> bytes:
    """Encode class indices as PNG: indexed with the palette for up to 256 classes, 16-bit grey for more.

    Masks consist of runs of one value, so zlib looks for runs only: beside its default level that takes a third of the
    time, for up to a fifth more bytes on smooth masks and a tenth fewer on ragged ones.

    Args:
        labels: Class indices, integers [height, width].
        palette: Colours of the classes, uint8 [classes, 3].

    Returns:
        The PNG file, from which `decode_mask` restores the labels.

    Raises:
        ValueError: A label has no colour in the palette. The PNG would change it, because the size of the palette
            determines the bits per pixel.
    """
    if labels.size and labels.max() >= len(palette):
        raise ValueError(f"label {labels.max()} has no colour in a palette of {len(palette)}")
    buffer = io.BytesIO()
    if len(palette) <= 256:
        image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
        image.putpalette(palette.tobytes())
    else:
        image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint16))
    image.save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def count_pixels(labels: NDArray, classes: int) -> list[int]:
    """Return the number of pixels of each class in a mask, uint8 or uint16 [height, width]."""
    if labels.dtype == np.uint8:  # in half the time of NumPy's, which counts int64
        return Image.fromarray(labels).histogram()[:classes]
    return np.bincount(labels.ravel(), minlength=classes).tolist()


def decode_mask(data: bytes) -> NDArray[np.int32]:
    """Decode a PNG of `encode_mask` to class indices, int32 [height, width]."""
    return decode_raw_label(data)


def encode_heatmap(heatmap: NDArray) -> tuple[bytes, float, float]:
    """Encode a map [height, width] as an 8-bit grey PNG.

    Returns:
        The PNG file, and the scale and offset of value = offset + scale * grey.
    """
    low, high = float(heatmap.min()), float(heatmap.max())
    scale = (high - low) / 255
    grey = np.round((heatmap - low) / scale) if scale > 0 else np.zeros(heatmap.shape)
    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue(), scale, low


def decode_heatmap(data: bytes, scale: float, offset: float) -> NDArray[np.float32]:
    """Decode a map of `encode_heatmap`, float32 [height, width]; its values are accurate to half of `scale`."""
    return (decode_raw_label(data) * scale + offset).astype(np.float32)


def default_palette(count: int) -> NDArray[np.uint8]:
    """Return `count` distinct colours, uint8 [count, 3].

    Hues advance by the golden ratio, while saturation and brightness cycle, so that successive colours differ clearly.
    """
    colours: dict[tuple[int, ...], None] = {}
    step = 0
    while len(colours) < count:
        hue = (step * 0.61803398875) % 1.0
        rgb = colorsys.hsv_to_rgb(hue, (0.75, 0.5, 0.9)[step % 3], (0.9, 0.7, 0.5)[step // 3 % 3])
        colours[tuple(round(255 * c) for c in rgb)] = None
        step += 1
    return np.array(list(colours), dtype=np.uint8).reshape(-1, 3)


def colourize(
    labels: NDArray, palette: NDArray[np.uint8], *, other: tuple[int, int, int] = (0, 0, 0)
) -> NDArray[np.uint8]:
    """Paint labels [height, width] as uint8 RGB, with the colour `other` for values outside the palette."""
    table = np.vstack([palette, np.array([other], dtype=np.uint8)])
    inside = (labels >= 0) & (labels < len(palette))
    return table[np.where(inside, labels, len(palette))]


def resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image [h, w, 3] to a size (height, width), antialiased; its aspect ratio may change."""
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def changed_view(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Return an image [h, w, 3] unchanged, in grey (ITU-R 601 luma), or at half or twice its resolution."""
    if view == "as_is":
        return pixels
    if view == "grey":
        return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
    height, width = pixels.shape[:2]
    factor = 0.5 if view == "half" else 2.0
    return resize(pixels, (max(1, round(height * factor)), max(1, round(width * factor))))


def fit(pixels: NDArray[np.uint8], width: int, height: int, *, smooth: bool = True) -> Image.Image:
    """Scale an image to fit a white canvas of exactly `width` x `height`, and centre it there.

    Args:
        pixels: The image, uint8 [h, w, 3].
        width: Width of the canvas in pixels.
        height: Height of the canvas in pixels.
        smooth: Interpolate between pixels. Painted label maps need False, which keeps their exact colours.
    """
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return ImageOps.pad(Image.fromarray(np.ascontiguousarray(pixels)), (width, height), method, color=(255, 255, 255))
