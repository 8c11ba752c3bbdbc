"""HTTP/1.1 as a client, without what a general client brings: for what is asked often, at addresses of one's own."""
