"""Tables for papers, pages and programs: Markdown, LaTeX (booktabs), CSV, and a model card's metadata."""
