"""Pages, pictures and exchange formats, from rows and arrays alone."""
