"""From the file of an image to the tensor that a network reads."""
