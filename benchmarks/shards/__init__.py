"""Images a second from shards on S3, by the latency of the storage."""
