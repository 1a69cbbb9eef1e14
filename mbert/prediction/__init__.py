"""Combines the parts: ingest, the model applied to the crops, and the pages; and how the model is made.

`run.py` processes the videos, `video.py` one video, `face.py` one face in it; `rows.py` and `quality.py` define what is
written about them; `build.py` makes the model that ships with the package. `info.py`, `preview.py` and `forget.py`
process a whole workspace.
"""
