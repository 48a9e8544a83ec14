"""Compressed models on disk: the directory, its formats, and how it is loaded."""
