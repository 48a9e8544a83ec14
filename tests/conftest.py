"""One thread a process: the models are tiny, and threads that wait for each other cost more than they bring."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in subprocesses
