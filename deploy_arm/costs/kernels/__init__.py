"""What each kernel's cost consists of: one file a kernel, found by its name."""
