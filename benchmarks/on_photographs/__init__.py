"""The parts of `real.py`: comparisons on photographs, from one network that was pretrained and fine-tuned."""
