"""What can be searched: layers of a model, plans, spaces, schedules."""
