"""From frames to tracks of aligned faces."""
