"""Annotations: reading, checks, counts, corrections, and identities of people."""
