"""What the CPU of this machine computes well."""

import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}


def warn_of_emulation(dtype: str) -> None:
    """Print a line if the CPU has no instructions for a dtype, and PyTorch computes it by others, and slowly.

    Only x86 CPUs under Linux are known: others get no line.

    Args:
        dtype: "float32", "bfloat16" or "float16".
    """
    needed = INSTRUCTIONS.get(dtype)
    if needed is None:
        return
    try:
        flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        return
    if needed.isdisjoint(flags):
        print(
            f"this machine's CPU has no instructions for {dtype} and takes several times as long as for float32; "
            "--dtype float32 is faster here",
            file=sys.stderr,
        )
