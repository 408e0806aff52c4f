"""Training and evaluation with Lightning.

Files in reading order:

fit            one run, from its configuration to its files
run_lock       one run at a time in a folder
run_folder     the checkpoints in a run's folder
resume         what a checkpoint says, and whether it is the same run
interruption   signals, and what the ranks agree on
trainer        Lightning's trainer with the callbacks and loggers of a run
datamodule     loaders and memory plan
module         the training and validation steps
optimizer      optimizer and learning-rate schedule
network        how the network is called
content_forward  the forward pass without the black beside the images
initial_network  the weights that a run begins with, and the frozen part
learning_rate_search  looks for a learning rate in a short training
cuda_graphs    the forward pass of evaluation as a CUDA graph
rendered_forward  the network for images that were rendered outside a loader
evaluator      one evaluation pass of the network over a split
evaluation     from maps to polygons and matches, in threads beside the forward pass
result_lines   results as lines of predictions.jsonl, written as they come
host_copy      copies from the device that nothing waits for until they are needed
scores         from matches to the scores of a validation
checkpoint_files  checkpoints written beside the training
metrics_file   metrics.csv
tensorboard    TensorBoard's scalars and settings
boards         pictures and figures on TensorBoard and W&B
trial_step     measures the network's memory
callbacks/     what else a run does: summary, checkpoints, pictures, memory
ranks          how the ranks of a run meet and end together, and which one is first
meeting        starts the ranks that nothing else starts, and connects all of them
rank_watch     ends all ranks when one fails or dies
devices        processes and GPUs of a node, and what Lightning gets to know of them
children       the processes that this program has started
trainer_parts  the trainer's loaders and module, with their types; sums over ranks
host_sync      finds operations that wait for the device; for tests
"""
