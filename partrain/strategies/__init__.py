"""The conventional ways of training a network on several devices, as PyTorch has them, to compare the main job with."""
