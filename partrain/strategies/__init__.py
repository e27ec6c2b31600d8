"""What one would do instead of the main job, by PyTorch's own means, on the same network, data and initial weights."""
