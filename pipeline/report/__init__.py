"""The page a person reviews a study on: one HTML file that needs nothing else; `python -m pipeline.report`."""
