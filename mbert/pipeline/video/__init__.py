"""From videos and frame folders to frames with times."""
