"""Augmentation of images together with their label maps; the options are in `config`."""
