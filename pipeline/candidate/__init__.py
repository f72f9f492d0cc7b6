"""One candidate on its way: stages, folder, details, references, workspace."""
