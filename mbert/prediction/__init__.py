"""Where the rooms come together: ingest, then the model over the crops, then the pages; and how the model is made.

`run.py` goes over the videos, `video.py` over one video, `face.py` over one face of it; `rows.py` and `quality.py` say
what is written about them; `build.py` makes the model that comes with the package. `info.py`, `preview.py` and
`forget.py` go over a whole workspace.
"""
