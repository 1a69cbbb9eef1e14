"""Raw corpora -> aligned frames -> pair shards."""
