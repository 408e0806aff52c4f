"""Lightning callbacks of a run, one file each.

summary (summary.json and a log line per epoch), caches (cache figures of the summary), verdict (what limits the run),
progress_bar, pictures, checkpoints (best.ckpt), last_epoch (always validates it), memory (measured against the plan, and explained
when it runs out), moving_average (EMA of the weights).
"""
