"""Videos and frame folders as frames with times."""
