"""Training of segmentation networks."""
