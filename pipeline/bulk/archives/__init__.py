"""Tar and zip archives as input of bulk runs: each member is one image, which one range request reads."""
