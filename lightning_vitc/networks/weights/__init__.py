"""Weights of others: files, the names that their authors give, and what of them fits a network.

A file is read (`files`), its format is recognized by its names, which become the network's (`formats`, each a list of
rules: `huggingface`, `originals`), and sizes the network's (`fitting`, `resampling`); then every weight must have its
place (`strict`). Nothing is loaded by half, and a file of another model says which (`siblings`).
"""
