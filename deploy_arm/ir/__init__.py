"""The graph of operations and its reference arithmetic, integer and float."""
