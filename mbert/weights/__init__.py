"""The model that comes with the package: its weights, what was measured about them, and its card."""

from pathlib import Path

BUILT_IN = Path(__file__).parent
