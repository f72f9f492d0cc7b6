"""How training images are varied, one file each; ``base`` says what such a function is."""
