"""Which frames make pairs."""
