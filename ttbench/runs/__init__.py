"""A request becomes a plan, a plan becomes cells, cells become records."""
