"""The gates by which a network skips its branches: what they cost, what they compute, and the skipping."""
