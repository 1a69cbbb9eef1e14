"""What exists: typed rows, Parquet in and out, labels, folds."""
