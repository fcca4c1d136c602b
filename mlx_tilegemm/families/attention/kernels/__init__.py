"""Kernels of the family, one module each, in the order in which ties between them are decided.

A kernel is a module that ends in its ``KERNEL``, and a template of the same name. To add one, write
both and name it in `KERNELS`.
"""

KERNELS = (
    "attention_decode",
    "attention_chain",
    "attention_backward_query",
    "attention_backward_key_value",
)
"""Names of the kernels' modules."""
