"""The device side of a transformer block's ops; amt/kernels/block/triton.py launches these kernels."""
