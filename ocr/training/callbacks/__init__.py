"""Lightning callbacks of a run.

summary         summary.json, and a log line per epoch
caches          the cache figures of the summary
verdict         what limits the run, in words
losses          losses of steps and epochs, read without waiting for the device
finite_losses   ends a run whose loss or weights are NaN or infinite
learning_rates  learning rates of the parameter groups
progress_bar    the progress bar in a terminal
progress_lines  the same as log lines, where there is no terminal
rank_progress   tells the other ranks which batch this one has begun
between_batches ends a prediction between two batches after a signal
pictures        pictures of the worst images
board_log       settings and first samples on TensorBoard and W&B
checkpoints     best.ckpt and last.ckpt; ends a run after a signal
last_epoch      validates the last epoch in any case, and writes its predictions
memory          memory compared with the plan, and errors explained when it runs out
early_stopping  ends a run that no longer improves
moving_average  exponential moving average of the weights
"""
