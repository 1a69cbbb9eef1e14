"""How well it was learned: protocols, baselines, scores."""
