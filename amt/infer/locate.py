"""Where to look: the square that a crop is cut from, given, found, or followed from frame to frame.

This is the search by windows (``--locator window``). It puts overlapping windows of three sizes
through the model, about seventy crops. It follows the windows with the lowest entropy of the keypoint maps: each square is
drawn again around the projected joints until it comes to rest. The square with the lowest entropy is the answer. A search
cannot tell which of two hands is meant, and misses a hand that is much smaller than the smallest window. A given box is
always better, and cheaper.

The same maps decide whether there is a hand at all: without one they are spread over the crop. Its limit was measured with a
model of the demo's settings (1,200 steps) on 58 rendered pictures of people whom training never saw, and on the same pictures
with the hand painted over. In a given square, joints' maps cover 1.9 to 9.7 % of the crop with a hand (median 3.1 %) and 9.4
to 44 % without (median 20 %); 8 % takes 98 % of the hands and none of the empty squares. A search takes the least spread of
some eighty crops, so its limit is three quarters of that: 6 % takes 95 % of the hands and 14 % of the pictures without one.
Searches in uniform pictures, ramps and white noise end at 26 % and more, in blurred noise at 9 to 17 %. Whether the square
came to rest tells less: it does for 86 % of the searches with a hand, and for 67 % of those without one.
"""

from __future__ import annotations

import numpy as np

from amt.data.crops import centred_square

ROUNDS = 4  # looks at most
WINDOWS = (0.31, 0.5, 0.8)  # sides of the windows of a search, as shares of the image's shorter side
WINDOW_STEP = 0.5  # from one window to the next, at most, as a share of its side
SEARCHED = 0.75  # a search's limit of the spread, as a share of a single look's
FOLLOWED = 3  # windows that a search follows, beside the largest square in the middle


def windows(height: int, width: int) -> np.ndarray:
    """float64 [N, 3]: the squares (cx, cy, side; px) that a search begins with; the last one is the centred square."""
    squares = []
    for share in WINDOWS:
        side = share * min(height, width)
        rows, columns = (1 + int(np.ceil((length - side) / (WINDOW_STEP * side))) for length in (height, width))
        for y in np.linspace(side / 2, height - side / 2, rows):
            squares += [(x - 0.5, y - 0.5, side) for x in np.linspace(side / 2, width - side / 2, columns)]
    return np.array([*squares, centred_square(height, width)])


def spread(doubt: float, cells: int) -> float:
    """Share of the crop that a keypoint map covers: its perplexity, from its entropy (nats), over its number of cells."""
    return float(min(np.exp(doubt) / cells, 1.0))
