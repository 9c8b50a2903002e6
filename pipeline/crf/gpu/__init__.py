"""Fully connected CRF (dense CRF) in PyTorch, for GPUs; it computes the same as `pipeline.crf` on any device.

lattice      sorted keys of the lattice points, the order of the splat, the neighbours of the blur
kernel       a normalised kernel: splat, blur and slice
mean_field   the steps, on batches of images
inference    from score maps on the device to labels on the device, with pruning
refiner      batches that fit the memory, tiles
dense        the same from full-size probabilities or energies
"""
