"""Pages, pictures and exchange formats, made only from rows and arrays."""
