"""report.html: one page that needs no other file, of what an evaluation found."""

from amt.evaluate.report.looks import Looks, look
from amt.evaluate.report.page import page

__all__ = ["Looks", "look", "page"]
