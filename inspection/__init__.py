"""What the debug pages of both servers are made of: an HTTP server, who may read them, how they
stay live, and the parts of the web pages that look the same on both."""
