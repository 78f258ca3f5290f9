"""Exit codes: what a job tells the launcher, and what the launcher tells the shell."""

DONE = 0  # finished or diverged; which of the two is in the record
FAILED = 1
MISTAKE = 2  # in what the user gave: trying again cannot help
HELD = 73  # another process works on this run
CONTINUE_ME = 75  # stopped by a signal, after a checkpoint was written; sysexits.h calls it a temporary failure
INTERRUPTED = 130  # what a shell reports after Ctrl-C
