"""Experiments on trained networks, and on training itself, which show whether a paper's claim holds on given data."""
