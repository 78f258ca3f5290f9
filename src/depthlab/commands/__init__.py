"""The commands of `depthlab`, one module each: `main(arguments)` returns the exit code. Without arguments it takes those of the process."""
