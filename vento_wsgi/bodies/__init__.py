"""What a response can send: sources, files, and the content codings around them."""
