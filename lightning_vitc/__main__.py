"""`python -m lightning_vitc` is `vitc`."""

import sys

from lightning_vitc.errors.signals import answered

with answered():  # a signal while the rest is imported
    from lightning_vitc.cli import main

if __name__ == "__main__":
    sys.exit(main())
