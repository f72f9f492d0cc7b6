"""What every room stands on: errors, registries, files, plans, codebooks, the parser of commands."""
