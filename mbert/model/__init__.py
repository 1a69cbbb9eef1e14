"""Shards -> μ-BERT -> scores."""
