"""A split in WebDataset tar shards, with an index that lets a plan read them in its own order.

    <folder>/index.columns        position of each image, and all annotations: a run starts without opening an image
    <folder>/train-000000.tar     samples 000000.jpg, 000000.json, 000001.jpg, ...: any WebDataset reader takes them
    <folder>/train-000000.idx     index of the tar file for DALI's fn.readers.webdataset (format v1.2)

Most readers go through shards front to back and shuffle in a buffer. Here the plan of the epoch decides which sample comes next.
Its bytes are read by their position, from a local folder or by ranged requests to s3://, ahead of the batch.

Files in reading order:

writer      writes the shards and the index of a split
index       index.columns
storage     the folder of the shards, local or at s3://
images      the manifest of a split in shards, and the source of its images
read_ahead  reads images in threads before they are needed
"""
