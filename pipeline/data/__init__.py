"""Data sets: classes, annotations, images and label maps, proposals and augmentation."""
