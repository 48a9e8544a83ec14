"""The parts of `gpu.py`: what is checked, measured and studied on the day a GPU is there."""
