"""Shards become batches of tensors."""
