"""Images a second from shards on S3, by the latency of the storage: python -m benchmarks.shards.

storage     a storage on this machine that answers as S3 does, after a delay
one_reader  writes shards or reads an epoch of them, in a process of its own
"""
