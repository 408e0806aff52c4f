"""Training and evaluation with Lightning.

Files in reading order: fit (one run, from its configuration to its files), trainer (Lightning's trainer), datamodule (loaders
and memory plan), module (the training and validation steps), optimizer; network, cuda_graphs (how the network is called);
evaluator, evaluation, stages, scores (from maps to scores, beside the forward pass); trial_step (measures the network's memory);
callbacks/; trainer_parts (the trainer's loaders and module, with their types); host_sync (finds operations that wait for the
device).
"""
