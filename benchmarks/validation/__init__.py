"""Validation epochs: scripts/benchmark_validation.py.

speed           cost of an epoch beside its bare forward pass
host            processor time of post-processing and metrics, and its share under the GIL
cache_settings  no cache setting changes the scores
"""
