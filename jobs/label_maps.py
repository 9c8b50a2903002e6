#!/usr/bin/env python3
"""The file of `segpipe label-maps` for `ray job submit`."""

from pipeline.__main__ import run_command

if __name__ == "__main__":
    run_command("label-maps")
