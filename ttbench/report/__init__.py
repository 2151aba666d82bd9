"""Tables, comparisons and figures, made from rows only."""
