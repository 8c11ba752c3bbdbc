"""The quern command line, a thin client of the control socket."""
