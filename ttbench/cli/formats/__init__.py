"""What was measured, for papers, pages, model cards and other tools."""
