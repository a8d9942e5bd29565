"""How time and memory after the compile grow with the program."""
