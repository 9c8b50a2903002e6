"""segpipe: semantic segmentation of large image collections on Ray, from papers to nightly production."""

__version__ = "0.1.0"
