"""Procedurally generated images with exact labels, which are free of third-party rights."""
