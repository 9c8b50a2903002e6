"""Bulk segmentation: masks, and mIoU where there are label maps."""
