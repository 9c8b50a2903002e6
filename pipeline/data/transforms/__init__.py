"""Augmentation of an image and its labels together; `config.py` has the options."""
