"""Runs: their directory, stages, Trainer, checkpoints and results."""
