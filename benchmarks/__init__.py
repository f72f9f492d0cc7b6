"""Tables of methods and tasks, one runner each."""
