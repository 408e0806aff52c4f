"""Text detection with DBNet: data sets, targets, network, training, post-processing, metrics."""

import os

# OpenMP reads this when torch loads it. By default its threads spin while they wait for each other. Where DALI's threads or other
# processes share the cores, they spin for threads that cannot run: 3 instead of 15 images/s on two shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
