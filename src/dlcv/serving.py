"""Bundles in other people's servers: `asgi_app` for any ASGI server, `ray_app` for Ray Serve. Needs `dlcv[serve]`."""

from dlcv.runtime.serving.embedded import AppSettings, asgi_app, ray_app

__all__ = ["AppSettings", "asgi_app", "ray_app"]
