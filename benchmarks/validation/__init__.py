"""Validation epochs. `speed`: cost of one beside its bare forward pass. `cache_settings`: no cache setting changes the scores."""
