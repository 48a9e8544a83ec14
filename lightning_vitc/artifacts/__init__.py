"""Networks on disk: a directory with `arch.json`, weights and a model card."""
