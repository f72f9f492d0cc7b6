"""What a person runs, and the orchestration behind it."""
