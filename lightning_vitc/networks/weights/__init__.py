"""Weights of others: files, the names that training scripts give, and what of them fits a network.

A file is read (`files`), its names become timm's (`formats`, one function a format), and sizes the network's
(`fitting`); then every weight must have its place (`strict`). Nothing is loaded by half.
"""
