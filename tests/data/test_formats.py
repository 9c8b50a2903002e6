"""Formats that need care: TIFFs whose numbers are no colours, and AVIF and HEIC with their orientations."""

import io
import struct
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from pipeline.bulk.listing import list_input
from pipeline.data import formats
from pipeline.data.formats import ImageError
from pipeline.data.images import decode_image, decode_raw_label, from_upright, to_upright

UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # sample formats of a TIFF
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # photometric interpretations
ALPHA = 2  # unassociated alpha, a kind of extra sample
EXIF_ORIENTATION = 0x0112
TYPES = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}


def tiff(pixels: np.ndarray, *, photometric: int = BLACK_IS_ZERO, extra: int | None = None, planar: int = 1) -> bytes:
    """Build an uncompressed little-endian TIFF of pixels [height, width, samples], of kinds that Pillow does not write.

    Pillow reads files with 64-bit samples and with many bands not at all.
    """
    height, width, samples = pixels.shape
    planes = np.moveaxis(pixels, -1, 0) if planar == 2 else pixels[None]
    strips = [np.ascontiguousarray(plane).tobytes() for plane in planes]
    offsets = list(np.cumsum([8, *map(len, strips)]))
    bits = 8 * pixels.itemsize
    tags: dict[int, tuple[int, list[int]]] = {  # number -> type (3: 16 bits, 4: 32 bits) and values
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, offsets[:-1]),
        277: (3, [samples]),
        278: (4, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [planar]),
        339: (3, [TYPES[pixels.dtype.kind]] * samples),
    }
    if extra is not None:
        tags[338] = (3, [extra] * (samples - (3 if photometric == RGB else 1)))
    place = int(offsets[-1])
    values = b""
    entries = b""
    for number, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            entries += struct.pack("<HHII", number, kind, len(numbers), place + len(values))
            values += packed
        else:
            entries += struct.pack("<HHI", number, kind, len(numbers)) + packed.ljust(4, b"\0")
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", place + len(values)) + b"".join(strips) + values + directory


def noise(kind: str, samples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind[0] == "f":
        return rng.random((5, 7, samples)).astype(kind)
    return rng.integers(0, np.iinfo(kind).max, (5, 7, samples), dtype=kind)


@pytest.mark.parametrize(
    ("kind", "samples", "photometric", "message"),
    [
        ("f4", 1, BLACK_IS_ZERO, "floating-point pixels have no defined range; save it with 8 or 16 bits"),
        ("f2", 1, BLACK_IS_ZERO, "floating-point"),
        ("f8", 3, RGB, "floating-point"),
        ("f4", 5, BLACK_IS_ZERO, "floating-point"),
        ("u1", 2, BLACK_IS_ZERO, "2 bands, none of which is declared as a colour; save three of them as RGB"),
        ("u1", 3, BLACK_IS_ZERO, "3 bands"),
        ("u1", 5, BLACK_IS_ZERO, "5 bands"),
        ("u2", 12, BLACK_IS_ZERO, "12 bands"),
        ("u1", 7, RGB, "a TIFF of 7 x 8 bits, which is not read"),
        ("i1", 1, BLACK_IS_ZERO, "signed 8-bit pixels are not read as colours; save it with 8 or 16 unsigned bits"),
        ("i2", 1, BLACK_IS_ZERO, "signed 16-bit"),
        ("u4", 1, BLACK_IS_ZERO, "32-bit"),
        ("i4", 1, BLACK_IS_ZERO, "signed 32-bit"),
        ("u4", 3, RGB, "32-bit"),
        ("u8", 1, BLACK_IS_ZERO, "64-bit"),
        ("u2", 1, WHITE_IS_ZERO, "of which 0 is white are not read; save it with 0 as black"),
    ],
)
def test_tiffs_whose_numbers_are_no_colours_are_refused_with_advice(
    kind: str, samples: int, photometric: int, message: str
) -> None:
    with pytest.raises(ImageError, match=message) as error:
        decode_image(tiff(noise(kind, samples), photometric=photometric, extra=0 if samples > 1 else None))
    assert "\n" not in str(error.value)


def test_12_bit_grey_which_pillow_would_make_nearly_black_is_refused() -> None:
    data = tiff(noise("u2", 1))
    bits = struct.pack("<HHI", 258, 3, 1)
    assert data.count(bits + struct.pack("<H", 16)) == 1
    with pytest.raises(ImageError, match="12-bit pixels are not read"):
        decode_image(data.replace(bits + struct.pack("<H", 16), bits + struct.pack("<H", 12)))


def test_16_bit_planes_are_refused_unless_pillow_reads_them() -> None:
    with pytest.raises(ImageError, match=r"16-bit channels in separate planes are not read; save them interleaved"):
        decode_image(tiff(noise("u2", 3), photometric=RGB, planar=2))
    pixels = noise("u1", 3)
    np.testing.assert_array_equal(decode_image(tiff(pixels, photometric=RGB, planar=2)).pixels, pixels)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize(("samples", "photometric", "extra"), [(3, RGB, None), (4, RGB, ALPHA), (4, RGB, 0)])
def test_the_first_three_bands_of_an_rgb_tiff_are_its_colours(
    kind: str, samples: int, photometric: int, extra: int | None
) -> None:
    pixels = noise(kind, samples)
    decoded = decode_image(tiff(pixels, photometric=photometric, extra=extra)).pixels
    np.testing.assert_array_equal(decoded, (pixels[..., :3] >> 8 * (pixels.itemsize - 1)).astype(np.uint8))


def test_alpha_beside_grey_is_no_second_band() -> None:
    pixels = noise("u1", 2)
    decoded = decode_image(tiff(pixels, extra=ALPHA)).pixels
    np.testing.assert_array_equal(decoded, np.repeat(pixels[..., :1], 3, axis=2))


def test_label_maps_may_be_32_bit_tiffs_but_not_floating_point() -> None:
    labels = np.array([[0, 70_000], [3, 255]], np.int32)
    np.testing.assert_array_equal(decode_raw_label(tiff(labels[..., None])), labels)
    with pytest.raises(ImageError, match="floating-point"):
        decode_raw_label(tiff(labels[..., None].astype(np.float32)))


@pytest.mark.filterwarnings("error")
def test_a_damaged_tiff_header_warns_nobody() -> None:
    data = bytearray(tiff(noise("u1", 3), photometric=RGB))
    for place in range(len(data) - 60, len(data)):
        for value in (0, 255):
            damaged = data.copy()
            damaged[place] = value
            with suppress(ImageError):
                decode_image(bytes(damaged), max_pixels=10_000)


# --- AVIF and HEIC


def quarters() -> np.ndarray:
    """Four colours, one in each quarter: lossy formats keep them apart, and no two orientations look the same."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24, 0] = pixels[:16, 24:, 1] = pixels[16:, :24, 2] = 250
    return pixels


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


def similar(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.abs(one.astype(int) - other).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_an_avif_lies_on_the_pixels_that_pillow_decodes(orientation: int) -> None:
    """Pillow reports the rotation of the file as an EXIF orientation, and does not apply it."""
    data = encode(quarters(), "AVIF", exif=exif(orientation))
    decoded = decode_image(data)
    assert decoded.orientation == orientation
    assert similar(decoded.pixels, to_upright(quarters(), orientation))
    stored = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(from_upright(decoded.pixels, orientation), stored)


def test_the_rotation_of_an_avif_prevails_over_its_exif_orientation() -> None:
    data = encode(quarters(), "AVIF", exif=exif(6))
    contradicted = data.replace(b"irot\x03", b"irot\x00")
    assert contradicted != data
    assert decode_image(contradicted).orientation == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_a_heic_lies_on_the_pixels_that_pillow_decodes(orientation: int) -> None:
    """libheif applies the rotation of the file, as the standard demands; the EXIF orientation only repeats it."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = encode(quarters(), "HEIF", exif=exif(orientation).tobytes())
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    decoded = decode_image(data)
    assert decoded.orientation == 1
    assert similar(decoded.pixels, to_upright(quarters(), orientation))
    np.testing.assert_array_equal(decoded.pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_the_exif_orientation_of_a_heic_alone_turns_nothing() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = encode(quarters(), "HEIF", exif=exif(6))
    assert b"irot" not in data
    decoded = decode_image(data)
    assert decoded.orientation == 1
    assert similar(decoded.pixels, quarters())


def test_of_several_images_in_a_heic_the_primary_one_is_decoded() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    second = Image.fromarray(quarters()[::-1])
    data = encode(quarters(), "HEIF", save_all=True, append_images=[second], primary_index=1)
    assert similar(decode_image(data).pixels, quarters()[::-1])


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_heic_is_refused(share: float) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "HEIF")
    with pytest.raises(ImageError):
        decode_image(data[: int(share * len(data))])


def test_without_its_package_a_heic_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats._register_heif.cache_clear()
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"msf1\0\0\0\0msf1hevc"):
        with pytest.raises(ImageError, match=r"pip install 'segpipe\[heic\]'"):
            decode_image(b"\0\0\0\x18ftyp" + brands + bytes(100))
    formats._register_heif.cache_clear()


def test_an_avif_that_names_no_codec_first_is_no_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = encode(quarters(), "AVIF")
    assert data[4:12] == b"ftypavif"
    assert similar(decode_image(data.replace(b"ftypavif", b"ftypmif1", 1)).pixels, quarters())


def test_avif_and_heic_are_listed(tmp_path) -> None:
    for name in ("a.avif", "b.heic", "c.HEIF"):
        (tmp_path / name).write_bytes(b"x")
    (table,) = list_input(str(tmp_path))
    assert table["image_id"].to_pylist() == ["a.avif", "b.heic", "c.HEIF"]
