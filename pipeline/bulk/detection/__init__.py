"""Bulk detection: the objects in images as boxes with classes and scores, and average precision."""
