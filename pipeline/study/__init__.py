"""All trials of one search and the decisions about them."""
