"""Latency, memory and accuracy of runs, exported directories and timm models."""
