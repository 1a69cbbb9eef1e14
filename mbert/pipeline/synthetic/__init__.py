"""Labelled clips with known motion, made from still photos."""
