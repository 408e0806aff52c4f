"""Turns the plan of an epoch into batches on the device.

                  +-- fresh.py   image loader + target maps ------------------+
    plan (epoch) -|                ^ Maker: makes the missing entries         +--> Batch
                  +-- cached.py  keys -> store -> a view, or made and kept ---+

In reading order:

    batch.py          the batch that a step gets
    loader.py         BatchLoader, which Lightning iterates: sized, restartable, resumable, timed; fresh or cached
    fresh.py          executes a plan through an image loader and makes the target maps
    engines.py        chooses the image loader: DALI on files, DALI on shards, or PyTorch workers
    shards.py         DALI on shards, whose images are fetched ahead
    torch_workers.py  PyTorch workers
    maker.py          the protocol that cached.py requires of the code that makes missing samples
    cached.py         batches of a deterministic split from the tensor cache (ocr/cache)
    verify.py         recomputes entries and compares them (cache_config.verify)
    config.py         the section `dataloader` of the configuration
"""
