"""Zip archives: every way to store a member, and damaged and hostile archives."""

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.bulk.archives import zip as zip_module
from pipeline.bulk.archives.archive import list_archive, read_member
from pipeline.bulk.archives.member import MemberError
from tests.support.archives import contents, zip_of

IMAGES = {"a.jpg": b"a" * 5000, "deep/b.png": bytes(range(256)) * 9, "Überblick 日本.webp": b"", "z.JPG": b"z"}


class Unseekable(io.RawIOBase):
    """What a pipe is to `zipfile`: it writes sizes and checksums after the data of each member."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.written += data
        return len(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("form", ["usual", "streamed", "zip64", "commented", "self-extracting"])
def test_members_have_their_bytes(tmp_path, method, form):
    members = {**IMAGES, "notes.txt": b"no image"}
    if form in ("streamed", "zip64"):
        stream = Unseekable() if form == "streamed" else io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, data in members.items():
                with archive.open(name, "w", force_zip64=form == "zip64") as file:
                    file.write(data)
        packed = bytes(stream.written) if isinstance(stream, Unseekable) else stream.getvalue()
    else:
        buffer = io.BytesIO(b"MZ" * 1000 if form == "self-extracting" else b"")
        with zipfile.ZipFile(buffer, "a", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
            archive.comment = b"c" * 60_000 if form == "commented" else b""
        packed = buffer.getvalue()
    found, notes = contents(tmp_path / "photos.zip", packed)
    assert found == {f"/{name}": data for name, data in IMAGES.items()}
    assert notes == []


def test_one_request_reads_a_member_unless_its_name_is_very_long(tmp_path, monkeypatch):
    names = ["short.jpg", f"{'n' * 500}.jpg", f"{'n' * 3000}.jpg"]
    (tmp_path / "photos.zip").write_bytes(zip_of({name: name.encode() * 9 for name in names}))
    images, _ = list_archive("", str(tmp_path / "photos.zip"), (tmp_path / "photos.zip").stat().st_size)
    requests = []
    read_range = storage.read_range

    def counting(*call):
        requests.append(call)
        return read_range(*call)

    monkeypatch.setattr(storage, "read_range", counting)
    for image in images:
        requests.clear()
        name = image.image_id[1:]
        assert read_member(str(tmp_path / "photos.zip"), image.offset, image.size) == name.encode() * 9
        assert len(requests) == (2 if len(name) > 3000 else 1)


def test_only_files_that_are_visible_images_are_listed(tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder.jpg/", b"")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("__MACOSX/._a.jpg", b"resource fork")
        archive.writestr("a.txt", b"")
        archive.writestr("a.jpg", b"1")
    assert contents(tmp_path / "photos.zip", buffer.getvalue()) == ({"/a.jpg": b"1"}, [])


def test_names_do_not_leave_the_archive(tmp_path):
    names = {"../up.jpg": "up.jpg", "/abs.jpg": "abs.jpg", "a\\..\\..\\b.jpg": "b.jpg", "c\\d.jpg": "c/d.jpg"}
    found, _ = contents(tmp_path / "photos.zip", zip_of({name: name.encode() for name in names}))
    assert found == {f"/{safe}": name.encode() for name, safe in names.items()}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_repeated_name_gets_an_id_of_its_own(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"first")
        archive.writestr("a.jpg", b"second")
    found, notes = contents(tmp_path / "photos.zip", buffer.getvalue())
    assert found == {"/a.jpg": b"first", "/a#offset=40.jpg": b"second"}
    assert len(notes) == 1


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")])
def test_other_compression_is_an_error_of_the_image(tmp_path, method, name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"good")
        archive.writestr("b.jpg", b"bad" * 100, compress_type=method)
    found, notes = contents(tmp_path / "photos.zip", buffer.getvalue())
    assert found["/a.jpg"] == b"good"
    assert str(found["/b.jpg"]) == f"this member is compressed by method {method} ({name}): pack it stored or deflated"
    assert notes == []


def test_an_encrypted_member_is_an_error_of_the_image(tmp_path):
    data = bytearray(zip_of({"a.jpg": b"secret"}))
    data[6] |= 1  # the flag in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1
    found, _ = contents(tmp_path / "photos.zip", bytes(data))
    assert str(found["/a.jpg"]) == "this member of the archive is encrypted: pack it without a password"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_data_are_an_error_of_the_image(tmp_path, method):
    data = bytearray(zip_of({"a.bmp": bytes(range(256)) * 4, "b.bmp": b"good"}, method=method))
    data[150] ^= 1
    found, _ = contents(tmp_path / "photos.zip", bytes(data))
    assert "damaged" in str(found["/a.bmp"])
    assert found["/b.bmp"] == b"good"


def test_deflated_data_that_end_early_are_an_error_of_the_image(tmp_path):
    body = zlib.compress(b"x" * 5000, wbits=-15)[:-4]
    data = zip_of({"a.bmp": body})
    for header in (0, data.index(b"PK\x01\x02")):
        place = header + (8 if header == 0 else 10)
        data = data[:place] + struct.pack("<H", zipfile.ZIP_DEFLATED) + data[place + 2 :]
    assert "end early" in str(contents(tmp_path / "photos.zip", data)[0]["/a.bmp"])


def test_a_member_that_inflates_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_module, "LARGEST", 10_000)
    data = zip_of({"a.bmp": bytes(10_000), "bomb.bmp": bytes(10_001)}, method=zipfile.ZIP_DEFLATED)
    found, _ = contents(tmp_path / "photos.zip", data)
    assert found["/a.bmp"] == bytes(10_000)
    assert str(found["/bomb.bmp"]).startswith("this member inflates to more than 10,000 bytes (")


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b" * 40, zip_of(IMAGES)[100:]], ids=["empty", "gzip", "begins late"])
def test_a_file_that_is_no_zip_is_a_row_that_fails(tmp_path, data):
    found, _ = contents(tmp_path / "photos.zip", data)
    assert found
    assert all(isinstance(one, MemberError) or one in IMAGES.values() for one in found.values())
    assert any(isinstance(one, MemberError) for one in found.values())


def test_a_zip_cut_anywhere_is_one_row_that_fails(tmp_path):
    data = zip_of(IMAGES)
    for cut in [*range(0, len(data), 61), len(data) - 1]:
        found, notes = contents(tmp_path / "photos.zip", data[:cut])
        assert list(found) == [f"#offset={max(0, cut - 1)}"], cut
        assert isinstance(next(iter(found.values())), MemberError), cut
        assert notes[0].startswith("its directory cannot be read ("), cut


def test_entries_beyond_the_archive_are_rows_that_fail(tmp_path):
    data = bytearray(zip_of({"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"}))
    first = data.index(b"PK\x01\x02")
    data[first + 20 : first + 24] = struct.pack("<I", 10**9)  # its size
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = struct.pack("<I", 10**9)  # its offset
    found, _ = contents(tmp_path / "photos.zip", bytes(data))
    assert isinstance(found.pop("/a.jpg"), MemberError)
    assert isinstance(found.pop("/b.jpg"), MemberError)
    assert found == {"/c.jpg": b"3"}


GOOD = zip_of({f"{i}.jpg": b"x" * (300 * i) for i in range(6)}, method=zipfile.ZIP_DEFLATED)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_corrupted_bytes_give_images_or_their_errors(tmp_path, changes):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    found, notes = contents(tmp_path / "photos.zip", bytes(data))
    assert found or not notes
    assert all("\n" not in note for note in notes)


def test_names_that_are_not_utf_8_cost_no_image(tmp_path):
    """One name claims to be UTF-8 and is not, one is empty; all are read, with the bytes of the first written out."""
    data = zip_of({"é.jpg": b"1", "Überblick/b.jpg": b"2", "c.jpg": b"3", "d.jpg": b"4"})
    damaged = data.replace("é".encode(), b"\xff\xfe").replace(b"d.jpg", b"\0.jpg")
    found, _ = contents(tmp_path / "photos.zip", damaged)
    assert found == {"/\\xff\\xfe.jpg": b"1", "/Überblick/b.jpg": b"2", "/c.jpg": b"3"}


def test_a_member_that_inflates_a_thousandfold_is_refused(tmp_path):
    data = zip_of({"bomb.png": bytes(70 * 2**20), "a.png": b"1"}, method=zipfile.ZIP_DEFLATED)
    assert len(data) < 80_000
    found, _ = contents(tmp_path / "photos.zip", data)
    assert found["/a.png"] == b"1"
    assert "inflates to more than 67,108,864 bytes (a decompression bomb?): pack it stored" in str(found["/bomb.png"])
