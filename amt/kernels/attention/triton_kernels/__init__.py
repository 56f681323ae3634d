"""The device side of ``attention``: one file a pass, ``tiles.py`` for what they share."""
