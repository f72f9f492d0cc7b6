"""ARM boards that are reached by ssh: what is known of them, how they are spoken to, what their kernels tell."""
