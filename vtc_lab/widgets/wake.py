"""Widgets that answer while a cell runs."""

from __future__ import annotations

from ipywidgets import Widget


def answer_beside_cells(widget: Widget) -> None:
    """Have a widget, and all that it holds, answer while a cell runs.

    JupyterLab sends what is done to a widget to a thread of the kernel beside that of the cells. ipykernel 7.4 passes
    it on to the thread that last changed the widget, and for a fresh one that is the thread of the cells: a button that
    is pressed while a cell runs would be heard after it. Without the attribute below the first thread does it.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = None
    for child in getattr(widget, "children", ()):
        answer_beside_cells(child)
