"""What every entry of a registry must keep to, whoever wrote it. One class of tests for each kind of thing; see ``samplers``."""
