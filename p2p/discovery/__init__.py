"""How nodes find and reach each other: known peers, the DHT, mDNS, relays, and what NAT lets through."""
