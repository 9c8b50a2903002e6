"""A dtype that the CPU only emulates is said."""

from pathlib import Path

import pytest

from pipeline import cpu

OLD = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t\t: spectre_v1\n"
NEW = OLD.replace("avx512_vnni", "avx512_vnni avx512_bf16 amx_bf16")


@pytest.mark.parametrize(
    ("info", "dtype", "warned"),
    [
        (OLD, "bfloat16", True),
        (OLD, "float16", True),
        (OLD, "float32", False),
        (NEW, "bfloat16", False),
        (NEW, "float16", True),
        ("Features\t: fp asimd\n", "bfloat16", False),  # no x86
        (None, "bfloat16", False),  # no Linux
    ],
)
def test_only_emulated_dtypes_get_a_line(
    info: str | None,
    dtype: str,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    if info is not None:
        cpu.CPUINFO.write_text(info)
    cpu.warn_of_emulation(dtype)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == warned
    assert all(f"no instructions for {dtype}" in line for line in lines)
