"""Where the compiled loops of the CRF are kept."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from tests.support.jobs import REPO

PROGRAM = """
import numpy as np
from pipeline.crf.hashing import insert_all
insert_all(np.empty(0, np.int64), 0, np.empty(0, np.int32))
print(insert_all.stats.cache_path)
"""


def cache_folder(installation: Path, temporary: Path) -> Path:
    """Compile a loop of an installation, as a user without a home, and return the folder where it is kept."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    environment |= {"PYTHONPATH": str(installation), "HOME": "/dev/null/home", "TMPDIR": str(temporary)}
    command = [sys.executable, "-P", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_loops_are_kept_with_temporary_files_where_neither_source_nor_home_can_be_written(tmp_path):
    shutil.copytree(REPO / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pipeline/crf/__pycache__").write_text("a file, in which nobody can write files")
    folder = tmp_path / f"segpipe-numba-{os.getuid()}"
    assert cache_folder(tmp_path, tmp_path).parent == folder
    assert list(folder.rglob("*.nbi"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    folder.chmod(0o777)  # others might have put something there
    assert cache_folder(tmp_path, tmp_path).parent != folder
