"""What is seen: plain HTML, CSS and ES modules that read the JSON API and nothing else. Served by the API."""

from dashboard.routes import router

__all__ = ["router"]
