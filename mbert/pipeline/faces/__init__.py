"""Frames as tracks of aligned faces."""
