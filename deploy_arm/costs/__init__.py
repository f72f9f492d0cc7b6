"""What a layer costs with each kernel: fitted to profiles, used to choose."""
