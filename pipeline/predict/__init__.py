"""Networks on a device, from decoded images to label maps or classifications."""
