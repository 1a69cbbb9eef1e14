"""From shards to batches of tensors."""
