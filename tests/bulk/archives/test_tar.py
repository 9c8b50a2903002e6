"""Tar archives of every format, damaged and hostile ones: no image before the damage is lost, and none escapes."""

import gzip
import io
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bulk.archives.archive import list_archive, read_member
from pipeline.bulk.archives.member import MemberError
from pipeline.errors import UserError
from tests.support.archives import contents, tar_of, tar_of_infos

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def info(name: str, **fields: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry


def data_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


@pytest.mark.parametrize("kind", FORMATS)
def test_images_have_the_bytes_that_tarfile_extracts(tmp_path, kind):
    folder = "long folder name/" * 8  # 136 characters: ustar needs its prefix, GNU and pax an extended header
    members = {f"{folder}{i:03}.{suffix}": f"{suffix} {i}".encode() * i for i in range(9) for suffix in ("jpg", "json")}
    members["empty.png"] = b""
    if kind != "ustar":
        members[f"{'x' * 300}/Überblick 日本.png"] = b"long and not ASCII"
    data = tar_of(members, kind=FORMATS[kind])
    found, notes = contents(tmp_path / "shard.tar", data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        extracted = {f"/{m.name}": data_of(archive, m) for m in archive if m.name.endswith(("jpg", "png"))}
    assert found == extracted
    assert notes == []


def test_only_files_that_are_visible_images_are_listed(tmp_path):
    entries = [
        (info("a.jpg"), b"1"),
        (info("folder.jpg", type=tarfile.DIRTYPE), b""),
        (info("soft.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (info("hard.jpg", type=tarfile.LNKTYPE, linkname="a.jpg"), b""),
        (info("pipe.jpg", type=tarfile.FIFOTYPE), b""),
        (info("volume.jpg", type=b"V"), b"a vendor's type with data"),
        (info("._a.jpg"), b"2"),
        (info(".cache/b.jpg"), b"3"),
        (info("a.json"), b"{}"),
        (info("old.jpg", type=tarfile.AREGTYPE), b"4"),
        (info("z.JPG", type=tarfile.CONTTYPE), b"5"),
    ]
    found, notes = contents(tmp_path / "shard.tar", tar_of_infos(*entries))
    assert found == {"/a.jpg": b"1", "/old.jpg": b"4", "/z.JPG": b"5"}
    assert notes == []


def test_names_do_not_leave_the_archive(tmp_path):
    names = ["../../up.jpg", "/etc/abs.jpg", "a/../../b.jpg", "./c//d.jpg", "//e.jpg", "f/./g.jpg", "...jpg/h.jpg"]
    found, _ = contents(tmp_path / "shard.tar", tar_of({name: name.encode() for name in names}))
    assert found == {
        "/up.jpg": b"../../up.jpg",
        "/etc/abs.jpg": b"/etc/abs.jpg",
        "/b.jpg": b"a/../../b.jpg",
        "/c/d.jpg": b"./c//d.jpg",
        "/e.jpg": b"//e.jpg",
        "/f/g.jpg": b"f/./g.jpg",
    }


def test_a_repeated_name_gets_an_id_of_its_own(tmp_path):
    entries = [(info("a.jpg"), b"1"), (info("./a.jpg"), b"2"), (info("a#offset=1024.jpg"), b"3"), (info("b.jpg"), b"4")]
    found, notes = contents(tmp_path / "shard.tar", tar_of_infos(*entries))
    assert found == {
        "/a.jpg": b"1",
        "/a#offset=1024.jpg": b"2",
        "/a#offset=1024#offset=2048.jpg": b"3",
        "/b.jpg": b"4",
    }
    assert notes == ["2 images have the name of an earlier one; their ids contain #offset=N"]


def test_names_that_are_not_utf8_stay_distinct(tmp_path):
    data = tar_of({os.fsdecode(name): name for name in (b"\xe9.jpg", b"\xea.jpg")})
    assert contents(tmp_path / "shard.tar", data)[0] == {"/\\xe9.jpg": b"\xe9.jpg", "/\\xea.jpg": b"\xea.jpg"}


@pytest.mark.parametrize(
    "entry",
    [
        info("holes.jpg", type=tarfile.GNUTYPE_SPARSE),
        info("GNUSparseFile.1/holes.jpg", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "holes.jpg"}),
        info("holes.jpg", pax_headers={"GNU.sparse.size": "9999", "GNU.sparse.map": "0,3"}),
    ],
    ids=["gnu", "pax 1.0", "pax 0.1"],
)
def test_sparse_files_are_listed_and_refused(tmp_path, entry):
    entries = [(info("a.jpg"), b"1"), (entry, b"abc"), (info("z.jpg"), b"2")]
    kind = tarfile.PAX_FORMAT if entry.pax_headers else tarfile.GNU_FORMAT
    found, notes = contents(tmp_path / "shard.tar", tar_of_infos(*entries, kind=kind))
    assert list(found) == ["/a.jpg", "/holes.jpg", "/z.jpg"]
    assert "pack it without --sparse" in str(found["/holes.jpg"])
    assert found["/z.jpg"] == b"2"
    assert notes == []


def test_the_map_of_a_gnu_sparse_file_may_need_further_blocks(tmp_path):
    data = bytearray(tar_of_infos((info("holes.jpg", type=tarfile.GNUTYPE_SPARSE), b"abc"), (info("z.jpg"), b"2")))
    data[482] = 1  # `isextended`, which the checksum must include
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 256)
    more = bytearray(1024)
    more[504] = 1
    found, notes = contents(tmp_path / "shard.tar", bytes(data[:512] + more + data[512:]))
    assert found["/z.jpg"] == b"2"
    assert notes == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tar_cut_anywhere_keeps_the_images_before_the_cut(tmp_path, kind):
    """At each block's edges and elsewhere: what is whole is read, what is cut is a row that fails, with one note."""
    folder = "f" * 90 + "/" + "g" * 30  # needs an extended header
    members = {name: name[-5:].encode() * 200 for name in ("a.jpg", f"{folder}/b.jpg", "c.jpg", "m.json", "z.jpg")}
    data = tar_of(members, kind=FORMATS[kind])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        spans = {m.name: (m.offset, m.offset_data, m.offset_data + m.size) for m in archive}
    last = spans["z.jpg"][2]
    for cut in sorted({edge + near for edge in range(512, len(data), 512) for near in (-1, 0, 1, 100)}):
        found, notes = contents(tmp_path / "shard.tar", data[:cut])
        for name, (_, _, end) in spans.items():
            if end <= cut and name.endswith(".jpg"):
                assert found.pop(f"/{name}") == members[name], cut
        expected = []
        for name, (start, body, end) in spans.items():
            if start < cut < body:
                expected = [f"#offset={start}"]
            elif body <= cut < end:
                expected = [f"/{name}" if name.endswith(".jpg") else f"#offset={body - 512}"]
        assert list(found) == expected, cut
        assert all(isinstance(error, MemberError) for error in found.values()), cut
        assert len(notes) == (cut < -(-last // 512) * 512 + 512), cut  # the missing end mark is told, too


def test_a_damaged_header_ends_the_listing(tmp_path):
    data = bytearray(tar_of({f"{i}.jpg": b"x" * 700 for i in range(5)}))
    data[3 * 1536 + 5] ^= 1  # in the name of the fourth member
    found, notes = contents(tmp_path / "shard.tar", bytes(data))
    assert list(found) == ["#offset=4608", "/0.jpg", "/1.jpg", "/2.jpg"]
    assert "no member begins at byte 4608 of the archive" in str(found["#offset=4608"])
    assert notes == ["damaged at byte 4608 (bad checksum): nothing after it is read"]


@pytest.mark.parametrize("size", [b"\xff" * 12, b"-0000000001\0", b"\x80" + b"\x7f" * 11, b"12345x\0".ljust(12)])
def test_an_impossible_size_ends_the_listing(tmp_path, size):
    data = bytearray(tar_of({"0.jpg": b"x" * 700, "1.jpg": b"y"}))
    data[1536 + 124 : 1536 + 136] = size
    data[1536 + 148 : 1536 + 156] = b"%06o\0 " % (sum(data[1536 : 1536 + 148]) + sum(data[1536 + 156 : 2048]) + 256)
    found, notes = contents(tmp_path / "shard.tar", bytes(data))
    assert found["/0.jpg"] == b"x" * 700
    assert [type(one) for one in found.values()].count(MemberError) == 1
    assert len(notes) == 1


def test_a_size_in_base_256_is_read(tmp_path):
    data = bytearray(tar_of({"0.jpg": b"x" * 700}))
    data[124:136] = b"\x80" + (700).to_bytes(11)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 256)
    assert contents(tmp_path / "shard.tar", bytes(data)) == ({"/0.jpg": b"x" * 700}, [])


@pytest.mark.parametrize("records", [b"5 a\n", b"99 path=a\n", b"x path=a\n", b"0 a=b\n", b"-7 a=b\n", b"7a=b\n\n\n"])
def test_a_broken_pax_header_ends_the_listing(tmp_path, records):
    data = tar_of_infos((info("a.jpg"), b"1"), (info("x", type=tarfile.XHDTYPE), records), (info("b.jpg"), b"2"))
    found, notes = contents(tmp_path / "shard.tar", data)
    assert list(found) == ["#offset=1024", "/a.jpg"]
    assert "no member begins at byte 1024" in str(found["#offset=1024"])
    assert notes[0].startswith("damaged at byte 1024 (")


def test_an_extended_header_of_absurd_size_is_not_read(tmp_path):
    data = tar_of_infos((info("a.jpg"), b"1"), (info("x", type=tarfile.GNUTYPE_LONGNAME), b"n" * (2**20 + 1)))
    assert contents(tmp_path / "shard.tar", data)[1] == [
        "damaged at byte 1024 (an extended header of 1048577 bytes): nothing after it is read"
    ]


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"<html>" * 200, bytes(100)], ids=["empty", "zip", "html", "short"]
)
def test_a_file_that_is_no_tar_is_one_row_that_fails(tmp_path, data):
    found, notes = contents(tmp_path / "shard.tar", data)
    assert list(found) == ["#offset=0"]
    assert isinstance(found["#offset=0"], MemberError)
    assert notes[0].startswith("damaged at byte 0 (")


def test_a_tar_without_members_has_no_images(tmp_path):
    assert contents(tmp_path / "shard.tar", tar_of({})) == ({}, [])


def test_much_data_after_the_end_mark_is_told(tmp_path):
    data = tar_of({"a.jpg": b"1"})
    found, notes = contents(tmp_path / "shard.tar", data + bytes(2**20))
    assert found == {"/a.jpg": b"1"}
    assert notes == [f"{len(data) + 2**20 - 1024:,} bytes after the end mark at byte 1024 are not read"]


def test_a_compressed_tar_is_refused_with_advice(tmp_path):
    with pytest.raises(UserError, match=r"shard\.tar is a compressed tar, .*: decompress it, or pack .* as \.zip"):
        contents(tmp_path / "shard.tar", gzip.compress(tar_of({"a.jpg": b"1"})))


def test_a_member_that_changed_since_it_was_listed_is_refused(tmp_path):
    shard = tmp_path / "shard.tar"
    shard.write_bytes(tar_of({"a.jpg": b"1" * 600, "b.jpg": b"2" * 600}))
    before, _ = list_archive("shard.tar", str(shard), shard.stat().st_size)
    shard.write_bytes(tar_of({"a.jpg": b"3" * 1600, "b.jpg": b"4" * 600}))
    for image in before:
        with pytest.raises(MemberError, match="changed since it was listed"):
            read_member(str(shard), image.offset, image.size)


GOOD = tar_of({f"{i}{'n' * 120 * (i % 2)}.jpg": b"x" * (300 * i) for i in range(6)}, kind=tarfile.PAX_FORMAT)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_corrupted_bytes_give_images_or_their_errors(tmp_path, changes):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    found, notes = contents(tmp_path / "shard.tar", bytes(data))
    assert all("\n" not in note for note in notes)
    first = min(place for place, _ in changes)
    with tarfile.open(fileobj=io.BytesIO(GOOD)) as archive:
        for member in archive:
            if member.offset_data + member.size <= first:
                assert found[f"/{member.name}"] == data_of(archive, member)
