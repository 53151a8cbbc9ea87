"""Training: targets, augmentation, losses, the Lightning loop."""
