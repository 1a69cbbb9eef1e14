"""Annotations: read, checked, counted, corrected, and who is whom."""
