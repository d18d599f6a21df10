"""The colors of all pictures, charts and pages, as #rrggbb, so a color has the same meaning everywhere."""

from __future__ import annotations

from typing import Final

PAPER: Final = "#ffffff"
INK: Final = "#232328"
FAINT: Final = "#6b6b75"  # labels and axes
LINE: Final = "#e4e4e8"  # grids, rules and missing images

QUERY: Final = "#2d5ac8"
RIGHT: Final = "#16964b"
WRONG: Final = "#d0302c"
LEFT_OUT: Final = "#b0b0b6"  # by the protocol
CHECKER: Final = (158, 170)  # grays of untouched texels: white and black clothes both stand out

#: Colors of curves, in this order. Green and red are far apart in it, for red-green color blindness.
SERIES: Final = (QUERY, "#e07b12", RIGHT, "#b03a9c", WRONG, "#0f8f9c", "#7a5230", FAINT)

#: CSS variables of the report's page. Text has a contrast of at least 4.5. Frames and curves need less.
PAGE_LIGHT: Final = {
    "color-scheme": "light",
    **{"--paper": "#f5f6f8", "--card": PAPER, "--ink": "#1b1e25", "--faint": "#5a616e", "--line": "#dce0e7"},
    **{"--field": "#8b93a1", "--right": "#0f7a45", "--wrong": "#c22f2a", "--out": "#6d7380", "--accent": "#2856c4"},
    **{"--on-color": PAPER, "--same": RIGHT, "--different": WRONG},
}
PAGE_DARK: Final = {
    "color-scheme": "dark",
    **{"--paper": "#121419", "--card": "#1b1e25", "--ink": "#e8eaf0", "--faint": "#a3abb9", "--line": "#2f343e"},
    **{"--field": "#6a7282", "--right": "#45d08a", "--wrong": "#ff7a70", "--out": "#8e95a3", "--accent": "#8db0ff"},
    **{"--on-color": "#10131a", "--same": "#45d08a", "--different": "#ff7a70"},
}
#: The page's variable for each color of a chart.
PAGE_VARIABLES: Final = {
    **{INK: "--ink", FAINT: "--faint", LINE: "--line", QUERY: "--accent", RIGHT: "--same", WRONG: "--different"}
}
