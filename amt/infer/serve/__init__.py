"""``python -m amt.infer CHECKPOINT --serve``: a page on which pictures, clips and a webcam's frames are looked at.

The parts, in the order in which an upload meets them: ``server`` (the socket), ``app`` (routes), ``asked`` (the form's fields),
``uploads`` (what is taken, and how much of it), ``jobs`` (the one thread that runs the model), ``answers`` (what it does there),
``measures`` (numbers of a hand), ``results`` (what can be downloaded), ``memory`` (what is freed).
"""
