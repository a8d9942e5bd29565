"""What ``xla_dump_to`` leaves behind, whoever called XLA: which files there are, and what they say without the program.

The program itself is not in a dump. What an argument is for is then unknown, unless a file of roles says it. `names` is apart,
since the command line asks it before anything is read.
"""
