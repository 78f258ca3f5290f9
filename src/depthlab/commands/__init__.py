"""The commands of `depthlab`, one module each. `main(arguments=sys.argv[1:])` returns the exit code."""
