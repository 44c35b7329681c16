"""How near texts are to a true one, and to each other."""
