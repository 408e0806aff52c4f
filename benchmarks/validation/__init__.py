"""Validation epochs: scripts/benchmark_validation.py.

speed           cost of an epoch beside its bare forward pass
cache_settings  no cache setting changes the scores
"""
