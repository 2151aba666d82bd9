"""`ttbench report`: which rows and which samples a page is made from."""
