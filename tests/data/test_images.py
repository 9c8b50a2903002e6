"""Decoding of valid, damaged and hostile files, and round trips of masks."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, ImageSequence

from pipeline.data.images import (
    ImageError,
    boxes_from_upright,
    colourize,
    decode_image,
    decode_mask,
    decode_raw_label,
    default_palette,
    encode_mask,
    fit,
    from_upright,
    pack_rgb,
    to_upright,
)

ORIENTATIONS = range(1, 9)
EXIF_ORIENTATION = 0x0112
# The options with which each format is lossless.
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
}


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_oriented(image: Image.Image, kind: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(image, kind, exif=exif, **options)


def smooth(height: int = 20, width: int = 30) -> np.ndarray:
    """Return an image of three asymmetric gradients, which JPEG hardly changes."""
    y, x = np.mgrid[:height, :width] / (height + width)
    return (255 * np.stack([x, y, 0.2 + 0.7 * (x * x + y) / 2], axis=-1)).astype(np.uint8)


def noise(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def png(rows: list[list[int]], *, depth: int, kind: int = 0, size: tuple[int, int] | None = None) -> bytes:
    """Build a PNG (kind 0: grey, 2: RGB) with bit depths and wrong sizes that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width, height = size or (len(rows[0]), len(rows))
    raw = b""
    for row in rows:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        raw += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


# --- orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_as_in_pillow(kind: str, orientation: int) -> None:
    options: dict[str, Any] = LOSSLESS.get(kind, {"quality": 95})
    data = encode_oriented(Image.fromarray(smooth()), kind, orientation, **options)

    decoded = decode_image(data)

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert difference(decoded.pixels, np.asarray(expected)) == 0


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_from_upright_restores_the_stored_pixels(kind: str, orientation: int) -> None:
    stored = noise(7, 5)
    decoded = decode_image(encode_oriented(Image.fromarray(stored), kind, orientation, **LOSSLESS[kind]))
    assert decoded.orientation == orientation
    np.testing.assert_array_equal(from_upright(decoded.pixels, decoded.orientation), stored)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
def test_from_upright_is_the_inverse_of_to_upright(orientation: int, shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(from_upright(to_upright(pixels, orientation), orientation), pixels)
    np.testing.assert_array_equal(to_upright(from_upright(pixels, orientation), orientation), pixels)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation: int) -> None:
    decoded = decode_image(encode_oriented(Image.fromarray(noise()), "PNG", orientation))
    assert decoded.orientation == 1
    np.testing.assert_array_equal(decoded.pixels, noise())


def test_a_damaged_exif_block_is_ignored() -> None:
    data = encode(Image.fromarray(noise()), "PNG", exif=b"Exif\0\0neither II nor MM")
    np.testing.assert_array_equal(decode_image(data).pixels, noise())


# --- formats and modes


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_exact_pixels(kind: str) -> None:
    decoded = decode_image(encode(Image.fromarray(noise()), kind, **LOSSLESS[kind]))
    np.testing.assert_array_equal(decoded.pixels, noise())


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_gives_close_pixels(progressive: bool) -> None:
    data = encode(Image.fromarray(smooth()), "JPEG", quality=95, progressive=progressive)
    assert difference(decode_image(data).pixels, smooth()) <= 12


def test_cmyk_jpeg_is_not_inverted() -> None:
    data = encode(Image.fromarray(smooth()).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert difference(decode_image(data).pixels, smooth()) <= 16


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_several_frames_or_pages_the_first_is_decoded(kind: str) -> None:
    first, second = (Image.new("RGB", (6, 4), colour) for colour in [(200, 10, 30), (0, 250, 0)])
    data = encode(first, kind, save_all=True, append_images=[second])
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 2
    assert difference(decode_image(data).pixels, np.asarray(first)) <= 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind: str) -> None:
    wide = np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30)
    pixels = decode_image(encode(Image.fromarray(wide), kind)).pixels
    np.testing.assert_array_equal(pixels, np.repeat((wide >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 1])
def test_a_palette_is_applied_and_its_transparency_dropped(transparency: int | None) -> None:
    colours = np.array([[10, 20, 30], [255, 0, 0], [7, 99, 200]], np.uint8)
    indices = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode_image(encode(image, "PNG", **options)).pixels, colours[indices])


def test_alpha_is_dropped_not_blended() -> None:
    alpha = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30, 1)
    rgba = encode(Image.fromarray(np.concatenate([noise(), alpha], axis=2)), "PNG")
    grey_alpha = encode(Image.fromarray(np.concatenate([noise()[:, :, :1], alpha], axis=2)), "PNG")
    np.testing.assert_array_equal(decode_image(rgba).pixels, noise())
    np.testing.assert_array_equal(decode_image(grey_alpha).pixels, np.repeat(noise()[:, :, :1], 3, axis=2))


def test_bilevel_images_become_black_and_white() -> None:
    bits = np.random.default_rng(0).random((5, 9)) < 0.5
    pixels = decode_image(encode(Image.fromarray(bits), "PNG")).pixels
    np.testing.assert_array_equal(pixels, np.repeat(bits[:, :, None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_an_image_may_have_a_single_pixel(mode: str) -> None:
    assert decode_image(encode(Image.new(mode, (1, 1)), "PNG")).pixels.tolist() == [[[0, 0, 0]]]


def test_pixels_turned_upright_are_contiguous() -> None:
    pixels = decode_image(encode_oriented(Image.fromarray(noise()), "PNG", 6)).pixels
    assert pixels.flags.c_contiguous
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_tall_images_are_converted_in_strips_with_the_same_result(mode: str, orientation: int) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (1000, 7), dtype=np.uint16))
        stored = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    else:
        image = Image.fromarray(noise(1000, 7)).convert(mode)
        stored = np.asarray(image.convert("RGB"))
    pixels = decode_image(encode_oriented(image, "PNG", orientation)).pixels
    np.testing.assert_array_equal(pixels, to_upright(stored, orientation))
    assert pixels.flags.c_contiguous


def test_decoding_takes_little_more_python_memory_than_the_result() -> None:
    """Pillow's own memory, of which there is one copy of the image, is not counted."""
    data = encode(Image.new("RGB", (2000, 2000)), "BMP")
    decode_image(data)
    tracemalloc.start()
    pixels = decode_image(data).pixels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * pixels.nbytes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70_000]], np.int32), "32-bit pixels"),
        (np.array([[0, 255]], np.int32), "32-bit pixels"),
        (np.array([[0.5, 1.0]], np.float32), "floating-point"),
    ],
)
def test_pixels_without_a_defined_range_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(encode(Image.fromarray(values), "TIFF"))


# --- damaged and hostile files


@pytest.mark.parametrize("decode", [decode_image, decode_raw_label])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"Not an image, but a text.\n" * 20, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not an image"),
        (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
    ],
    ids=["empty", "text", "eps", "pdf", "signature only"],
)
def test_files_that_are_no_images_are_refused(decode: Callable[[bytes], Any], data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode(data)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "JPEG2000", "AVIF"])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = encode(Image.fromarray(noise(40, 60)), kind)
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode_image(data[: int(share * len(data))])


@pytest.mark.parametrize("numbers", ["1 2 3 x y z", "1 2 3 999 5 6", "1 2 3"])
def test_invalid_pixel_values_are_refused(numbers: str) -> None:
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode_image(f"P3\n2 1\n255\n{numbers}\n".encode())


@pytest.mark.parametrize("side", [50_000, 12_000])
def test_a_decompression_bomb_is_refused_before_memory_is_allocated(side: int) -> None:
    data = png([[0]], depth=8, size=(side, side)) if side > 20_000 else encode(Image.new("1", (side, side)), "PNG")
    assert len(data) < 100_000
    decode_image(encode(Image.new("RGB", (2, 2)), "PNG"))  # imports the plug-ins
    tracemalloc.start()
    images_before = Image.core.get_stats()["new_count"]
    for decode in (decode_image, decode_raw_label):
        with pytest.raises(ImageError, match="allowed 100,000,000 pixels"):
            decode(data)
    images_after = Image.core.get_stats()["new_count"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images_after == images_before  # Pillow's own memory, which tracemalloc does not see
    assert peak < 2_000_000


def test_the_limit_of_pillow_does_not_forbid_what_ours_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses 201 pixels
    data = encode(Image.fromarray(noise(20, 30)), "PNG")
    with pytest.raises(ImageError, match="allowed 90 pixels"):
        decode_image(data, max_pixels=90)
    assert Image.MAX_IMAGE_PIXELS == 100
    np.testing.assert_array_equal(decode_image(data, max_pixels=600).pixels, noise(20, 30))


def test_the_pixel_limit_is_inclusive() -> None:
    data = encode(Image.new("L", (10, 10)), "PNG")
    assert decode_image(data, max_pixels=100).pixels.shape == (10, 10, 3)
    with pytest.raises(ImageError, match="10x10 is more than the allowed 99 pixels"):
        decode_image(data, max_pixels=99)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_corrupted_bytes_give_pixels_or_an_image_error(kind: str) -> None:
    rng = np.random.default_rng(7)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    good = np.frombuffer(encode_oriented(Image.fromarray(smooth()), kind, 6, **options), np.uint8)
    decoders: list[tuple[Callable[[bytes], np.ndarray], type]] = [
        (lambda data: decode_image(data, max_pixels=100_000).pixels, np.uint8),
        (lambda data: decode_raw_label(data, max_pixels=100_000), np.int32),
    ]
    refusals = []
    for case in range(80):
        bad = good.copy()
        reach = len(bad) if case % 2 else min(len(bad), 200)  # every other case corrupts the header
        places = rng.integers(0, reach, rng.integers(1, 12))
        bad[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
        for decode, dtype in decoders:
            try:
                pixels = decode(bad.tobytes())
            except ImageError as error:
                refusals.append(str(error))
            else:
                assert 0 < pixels.shape[0] * pixels.shape[1] <= 100_000
                assert pixels.dtype == dtype
    assert refusals
    assert not [message for message in refusals if "\n" in message]


# --- label maps


def test_indexed_and_grey_labels_are_the_stored_values() -> None:
    labels = np.array([[0, 1, 2, 20], [255, 254, 7, 0]], np.uint8)
    indexed = Image.fromarray(labels).convert("P")
    indexed.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    for image in (Image.fromarray(labels), indexed):
        raw = decode_raw_label(encode(image, "PNG"))
        assert raw.dtype == np.int32
        np.testing.assert_array_equal(raw, labels)


def test_16_bit_labels_are_the_stored_values() -> None:
    labels = np.array([[0, 255, 256], [999, 40_000, 65535]], np.uint16)
    np.testing.assert_array_equal(decode_raw_label(encode(Image.fromarray(labels), "PNG")), labels)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_labels_of_few_bits_are_not_scaled(depth: int) -> None:
    """Pillow decodes a 4-bit grey value v as 17 v, and PNG optimisers write such files."""
    rows = [[0, 1, 2**depth - 1, 0, 1], [1, 0, 1, 2**depth - 1, 0]]
    assert decode_raw_label(png(rows, depth=depth)).tolist() == rows


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_labels_become_packed_colours(mode: str) -> None:
    colours = np.array([[[0, 0, 0], [0, 0, 1], [255, 255, 255]], [[1, 2, 3], [128, 0, 64], [0, 255, 0]]], np.uint8)
    raw = decode_raw_label(encode(Image.fromarray(colours).convert(mode), "PNG"))
    assert raw.dtype == np.int32
    assert [[f"{v:x}" for v in row] for row in raw.tolist()] == [
        ["1000000", "1000001", "1ffffff"],
        ["1010203", "1800040", "100ff00"],
    ]
    np.testing.assert_array_equal(raw, pack_rgb(colours))


@pytest.mark.parametrize("mode", ["LA", "CMYK"])
def test_label_maps_of_other_modes_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode {mode}; expected indexed"):
        decode_raw_label(encode(Image.new(mode, (2, 2)), "TIFF"))


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_orientation_of_a_label_map_is_not_applied(kind: str, orientation: int) -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    raw = decode_raw_label(encode_oriented(Image.fromarray(labels), kind, orientation))
    assert raw.tolist() == labels.tolist()


# --- masks


@pytest.mark.parametrize("count", [1, 2, 21, 256, 257, 300, 1000])
def test_masks_round_trip(count: int) -> None:
    labels = np.random.default_rng(count).integers(0, count, (23, 17))
    labels[0, 0], labels[0, 1] = 0, count - 1
    data = encode_mask(labels, default_palette(count))
    np.testing.assert_array_equal(decode_mask(data), labels)


@pytest.mark.parametrize(("count", "mode"), [(256, "P"), (257, "I;16")])
def test_masks_are_indexed_for_up_to_256_classes_and_16_bit_for_more(count: int, mode: str) -> None:
    assert Image.open(io.BytesIO(encode_mask(np.zeros((2, 2), int), default_palette(count)))).mode == mode


def test_masks_decode_as_images_in_the_colours_of_the_palette() -> None:
    palette = default_palette(21)
    labels = np.arange(21).reshape(3, 7)
    np.testing.assert_array_equal(decode_image(encode_mask(labels, palette)).pixels, palette[labels])


@pytest.mark.parametrize("count", [21, 300])
@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::-2]], ids=["T", "rows", "step"])
def test_masks_that_are_views_round_trip(count: int, view: Callable[[np.ndarray], np.ndarray]) -> None:
    dtype = np.uint8 if count <= 256 else np.uint16
    labels = view(np.random.default_rng(0).integers(0, count, (9, 14)).astype(dtype))
    np.testing.assert_array_equal(decode_mask(encode_mask(labels, default_palette(count))), labels)


# --- colours


@pytest.mark.parametrize("count", [0, 1, 21, 1000])
def test_default_palette_has_distinct_colours(count: int) -> None:
    palette = default_palette(count)
    assert palette.shape == (count, 3)
    assert len({tuple(c) for c in palette.tolist()}) == count


def test_default_palettes_start_with_the_same_colours() -> None:
    np.testing.assert_array_equal(default_palette(1000)[:21], default_palette(21))


def test_colourize_paints_classes_and_other_values() -> None:
    palette = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    painted = colourize(np.array([[0, 1], [255, -1]]), palette, other=(9, 8, 7))
    assert painted.tolist() == [[[1, 2, 3], [4, 5, 6]], [[9, 8, 7], [9, 8, 7]]]


@pytest.mark.parametrize("shape", [(10, 100), (100, 10), (1, 1), (640, 480)])
def test_fit_gives_the_exact_size_and_keeps_the_whole_image(shape: tuple[int, int]) -> None:
    canvas = fit(np.full((*shape, 3), 50, np.uint8), 40, 30)
    assert canvas.size == (40, 30)
    dark = np.asarray(canvas)[:, :, 0] == 50
    rows, columns = dark.any(axis=1).sum(), dark.any(axis=0).sum()
    scale = min(30 / shape[0], 40 / shape[1])
    assert rows == pytest.approx(shape[0] * scale, abs=1)
    assert columns == pytest.approx(shape[1] * scale, abs=1)


def test_fit_without_smoothing_adds_no_colour_but_white() -> None:
    painted = default_palette(5)[np.random.default_rng(0).integers(0, 5, (40, 60))]
    fitted = np.asarray(fit(painted, 33, 22, smooth=False)).reshape(-1, 3)
    assert {tuple(c) for c in fitted.tolist()} <= {tuple(c) for c in default_palette(5).tolist()} | {(255, 255, 255)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_masks_do(orientation: int) -> None:
    box = np.array([[2, 1, 5, 4]], np.float32)
    upright = np.zeros((7, 11), bool)
    upright[1:4, 2:5] = True
    ((left, top, right, bottom),) = boxes_from_upright(box, (7, 11), orientation).astype(int)
    stored = from_upright(np.zeros((7, 11), bool), orientation).copy()
    stored[top:bottom, left:right] = True
    np.testing.assert_array_equal(stored, from_upright(upright, orientation))
