"""Swin Transformers: windowed attention with a bias by position, in stages that halve the grid."""
