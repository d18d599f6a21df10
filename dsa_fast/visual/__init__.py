"""Every picture and chart: atlases of part images, contact sheets, ranked lists, curves, activation maps, web reports.

Functions return a Pillow picture, and `layout.save_picture` writes one; `report.write_report` writes a web page.
Colors are in `palette`, and those of body parts in `dsa_fast.densepose.parts`. May import `evaluation` and everything
below it. Only `cli`, `tables`, the pictures of `training` and users import it.
"""
