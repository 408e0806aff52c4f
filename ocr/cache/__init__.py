"""The tensor cache: finished inputs and targets of a deterministic split. It knows no loader; ocr/loaders/cached.py uses it.

    image, annotations, settings, code --> key (key.py)
                                            |
    images, target maps --> entry --> store: GPU, RAM --> files on disk
                            (entry.py)  (store.py)        (files.py)

Files in reading order:

entry       layout of one entry
key         SHA-256 of everything that can change an entry
budget      plans before the run how many entries are kept on the GPU, in RAM and on disk
store       holds the entries of one rank, in batch order
host_memory allocates the RAM of the entries
files       the disk tier: one file per entry, named by its key
"""
