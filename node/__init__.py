"""The Quern daemon: rules, ports, adapters, services and faces."""
