#!/usr/bin/env python3
"""The file of `segpipe train --recipe deeplab_v3` for `ray job submit`: DeepLab v3 as in its paper."""

import sys

from pipeline.__main__ import run_command

if __name__ == "__main__":
    run_command("train", ["--recipe", "deeplab_v3", *sys.argv[1:]])
