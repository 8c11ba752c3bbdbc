"""Our Yamux (https://github.com/hashicorp/yamux/blob/master/spec.md): many streams over one connection, all bounded.

libp2p 0.8.1 has one that does not enforce the receive window (a peer pushed 400 MB into an unread stream), bounds
neither streams nor frames, resets a writer whose reader pauses for five seconds, leaves half a frame behind when a
writing task is cancelled, and answers every read with a frame of its own. This one speaks the same protocol. Goals, in
this order: memory bounded whatever the peer does; a broken rule ends the connection and is blamed on the peer; few
frames.
"""
