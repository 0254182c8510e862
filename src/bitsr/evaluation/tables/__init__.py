"""Tables of results: rows measured here beside rows that papers print, with the gap to full precision of each.

files --read--> rows --plausible--> rows with doubts --layout--> sections --grid, page, files--> text, HTML, CSV
"""
