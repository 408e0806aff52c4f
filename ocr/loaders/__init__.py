"""Turns the plan of an epoch into batches on the device.

                  +-- fresh.py   image loader + target maps ------------------+
    plan (epoch) -|                ^ makes the missing entries                +--> Batch
                  +-- cached.py  keys -> store -> a view, or made and kept ---+

Files in reading order:

config         the section `dataloader` of the configuration
batch          the batch that a step gets
loader         BatchLoader, which Lightning iterates: sized, restartable, resumable, timed; fresh or cached
fresh          executes a plan through an image loader and makes the target maps
read_guard     ends a run whose images can no longer be read
engines        chooses the image loader: DALI on files, DALI on shards, or PyTorch workers
shards         DALI on shards, whose images are fetched ahead
torch_workers  PyTorch workers
cached         batches of a deterministic split from the tensor cache (ocr/cache)
verify         recomputes entries and compares them (cache_config.verify)
"""
