"""Text detection with DBNet: data sets, targets, network, training, post-processing, metrics."""

import os

# Read by OpenMP when torch loads it. By default its threads spin where they wait for each other, and where DALI's threads or other
# processes share the cores they then wait for threads that cannot run: 3 instead of 15 images/s were seen on two shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
