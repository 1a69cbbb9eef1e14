"""Facts about the data: typed rows, Parquet in and out, labels, folds."""
