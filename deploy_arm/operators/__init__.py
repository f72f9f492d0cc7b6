"""How each operator of a traced network becomes operations of the graph."""
