"""The kernels, one module each; every one ends in the `Kernel` that dispatch sees."""
