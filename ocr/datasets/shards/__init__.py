"""A split as WebDataset tar shards, with an index that lets a plan read them in its own order.

    <folder>/index.json           what is where, and all annotations: a run starts without opening an image
    <folder>/train-000000.tar     samples 000000.jpg, 000000.json, 000001.jpg, ...: anyone's WebDataset readers take them
    <folder>/train-000000.idx     the same for DALI's fn.readers.webdataset (format v1.2)

Shards are usually read front to back and shuffled on the way, by luck. Here the plan of the epoch says which sample comes next,
and its bytes are read by their place: from a local folder, or by ranged requests from s3://, ahead of the batch they are for.
"""
