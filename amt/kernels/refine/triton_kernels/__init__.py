"""The device side of ``refine`` in Triton; amt/kernels/refine/triton.py launches these kernels."""
