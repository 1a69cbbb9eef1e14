"""Evaluation: protocols, baselines, scores."""
