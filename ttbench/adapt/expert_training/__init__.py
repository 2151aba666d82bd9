"""How experts are trained: recipes, objectives and the loop."""
