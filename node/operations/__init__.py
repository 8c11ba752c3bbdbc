"""What the daemon does for its operator: the methods of the control socket, over the running parts."""
