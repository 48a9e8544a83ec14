"""The stages of a run, each trained or loaded, with their trainers; the checks before, the table after."""
