"""The cycle model beside published measurements of real chips."""
