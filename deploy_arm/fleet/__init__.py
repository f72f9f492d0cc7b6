"""What a person does with devices of their own: adds, checks and removes boards, and calibrates the model by what is measured."""
