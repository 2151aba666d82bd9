"""How long planned cells take, from what was measured on this machine."""
