"""What lengths and angles are divided by, so that every term is about 1 at the start."""

LENGTH_UNIT = 0.1  # m
ANGLE_UNIT = 3.0  # rad: the mean difference of two matrices' entries is about a third of a small angle between them
