"""One small module per raw corpus: its inputs and their labels."""
