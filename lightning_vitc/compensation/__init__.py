"""Pruning without training: what goes is ranked on a few images, and folded into what stays in closed form."""
