"""One small module per raw corpus: which inputs it has and what their labels are."""
