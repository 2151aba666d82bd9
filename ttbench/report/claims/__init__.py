"""What papers and the press claim, as rules that rows decide."""
