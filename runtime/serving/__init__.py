"""The server: bundles behind HTTP and gRPC. Its modules need `pip install 'dlcv[serve]'`; nothing else imports them."""
