"""Makes the locator that ships, ``python -m amt.train.locator.bake``, out of rendered scenes. Development only.

``scenes.py`` renders. ``crops.py`` and ``loss.py`` are the second stage's; the first stage learns as a checkpoint's own does.
``fit.py`` trains both. ``__main__.py`` scores them and writes the asset with its card.
"""
